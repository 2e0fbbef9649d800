//! The audit log: who signed in, who was refused, what was denied, which configuration came into force, as JSON lines in the data
//! folder. Bounded in size and in rate, so that nobody can fill the medium or wear it out by knocking; text from outside stands in
//! it as JSON strings without control characters only, so that nobody can write lines of their own.

use crate::clock::unix_ms;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tidegate_engine::event::{Action, Notice, Proof};
use tidegate_engine::id::DeviceId;

/// The file in the data folder; older ones have a number: `audit.1.jsonl` is the one before.
pub const FILE: &str = "audit.jsonl";

/// A file of this size is closed and a new one begun.
const FILE_BYTES: u64 = 1 << 20;
/// Closed files that stay. With the present one: 5 MiB, some 30,000 events.
const FILES_KEPT: usize = 4;
/// Lines that may wait for the medium.
const LINES_WAITING: usize = 512;
/// Lines of one kind that may come at once, and each second in the long run: a fleet that comes back is written down, a flood is
/// counted.
const BURST: f64 = 256.0;
const PER_SECOND: f64 = 1.0;

/// The kinds of events; each is limited in rate on its own.
#[derive(Clone, Copy, Debug)]
enum Kind {
    SignIn,
    Refusal,
    TakeOver,
    Denial,
    SessionEnd,
    Configuration,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::SignIn, "sign-in"),
    (Kind::Refusal, "sign-in refused"),
    (Kind::TakeOver, "taken over"),
    (Kind::Denial, "denied"),
    (Kind::SessionEnd, "session ended"),
    (Kind::Configuration, "configuration"),
];

/// Lets so many lines through, and counts the others.
#[derive(Debug)]
struct Bucket {
    room: f64,
    since: Instant,
    suppressed: u64,
}

/// Writes the log on a thread of its own: a slow medium holds nobody up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: SyncSender<String>,
    buckets: Arc<Mutex<[Bucket; KINDS.len()]>>,
}

/// What is kept of a reason in words that are not ours, in characters.
const REASON_CHARS: usize = 200;

impl Audit {
    /// Begins to write in `folder`.
    ///
    /// # Errors
    /// When the file cannot be opened or the system has no thread to give.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let log = Log::open(folder, FILE_BYTES)?;
        let (lines, waiting) = sync_channel(LINES_WAITING);
        std::thread::Builder::new().name("audit".into()).spawn(move || log.keep(&waiting))?;
        let bucket = || Bucket { room: BURST, since: Instant::now(), suppressed: 0 };
        Ok(Self { lines, buckets: Arc::new(Mutex::new(std::array::from_fn(|_| bucket()))) })
    }

    /// Writes down what is about access.
    pub fn note(&self, notice: &Notice) {
        match notice {
            // A client of this host that needs no credentials: nothing was decided.
            Notice::SignedIn { peer, proof: Proof::None, .. } if peer.ip().to_canonical().is_loopback() => {}
            Notice::SignedIn { device, client, peer, proof } => {
                let proof = match proof {
                    Proof::None => "none",
                    Proof::Password => "password",
                    Proof::Certificate => "certificate",
                    Proof::Oscore => "oscore",
                };
                let fields = json!({"device": device.as_str(), "client": client.as_str(), "peer": peer.to_string(), "by": proof});
                self.write(Kind::SignIn, fields);
            }
            Notice::SignInRefused { peer, name, reason } => {
                self.write(Kind::Refusal, json!({"name": name, "peer": peer.to_string(), "reason": reason}));
            }
            Notice::TakenOver { client, old, new } => {
                let fields =
                    json!({"client": client.as_str(), "old": old.to_string(), "new": new.to_string()});
                self.write(Kind::TakeOver, fields);
            }
            Notice::Denied { device, action, topic } => {
                let action = match action {
                    Action::Publish => "publish",
                    Action::Subscribe => "subscribe",
                    Action::Will => "will",
                };
                self.write(
                    Kind::Denial,
                    json!({"device": device.as_str(), "action": action, "topic": topic}),
                );
            }
            Notice::SessionEnded { client, reason } => {
                self.write(Kind::SessionEnd, json!({"client": client.as_str(), "reason": reason}));
            }
            _ => {}
        }
    }

    /// Writes down that a handshake let a device in, and by which means.
    pub fn joined(&self, peer: SocketAddr, device: &DeviceId, by: &str) {
        self.write(Kind::SignIn, json!({"device": device.as_str(), "peer": peer.to_string(), "by": by}));
    }

    /// Writes down that a handshake let nobody in: what a device showed was not accepted.
    pub fn handshake_refused(&self, peer: SocketAddr, reason: &str) {
        let reason: String = reason.chars().take(REASON_CHARS).flat_map(char::escape_debug).collect();
        self.write(Kind::Refusal, json!({"peer": peer.to_string(), "reason": reason}));
    }

    /// Writes down that a configuration came into force, or did not.
    pub fn configured(&self, what: &str) {
        self.write(Kind::Configuration, json!({"result": what}));
    }

    fn write(&self, kind: Kind, fields: Value) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(kind as usize) else { return };
        let now = Instant::now();
        bucket.room = (bucket.room + now.duration_since(bucket.since).as_secs_f64() * PER_SECOND).min(BURST);
        bucket.since = now;
        if bucket.room < 1.0 {
            bucket.suppressed += 1;
            return;
        }
        let mut line = Map::new();
        line.insert("time_ms".to_owned(), unix_ms().into());
        line.insert("event".to_owned(), KINDS[kind as usize].1.into());
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        if bucket.suppressed > 0 {
            line.insert("suppressed".to_owned(), bucket.suppressed.into());
        }
        if self.lines.try_send(Value::Object(line).to_string()).is_ok() {
            bucket.room -= 1.0;
            bucket.suppressed = 0;
        } else {
            bucket.suppressed += 1;
        }
    }
}

/// The files.
#[derive(Debug)]
struct Log {
    folder: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
}

impl Log {
    fn open(folder: &Path, most: u64) -> io::Result<Self> {
        let file = open(&folder.join(FILE))?;
        let bytes = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), file, bytes, most })
    }

    /// Writes what comes until nobody can send any more.
    fn keep(mut self, lines: &Receiver<String>) {
        let mut failing = false;
        while let Ok(line) = lines.recv() {
            let written = self.append(&line);
            if let Err(error) = &written
                && !failing
            {
                tracing::error!(%error, "the audit log cannot be written: events are missing in it until it can");
            }
            failing = written.is_err();
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes >= self.most {
            self.rotate()?;
        }
        // One call for the whole line: what stands in the file is whole lines, but for the last after a power cut.
        let mut line = line.as_bytes().to_vec();
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let older = |number: usize| self.folder.join(format!("audit.{number}.jsonl"));
        for number in (1..FILES_KEPT).rev() {
            match std::fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let present = self.folder.join(FILE);
        std::fs::rename(&present, older(1))?;
        self.file = open(&present)?;
        self.bytes = 0;
        Ok(())
    }
}

/// Opens a file that only the gateway's user may read.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::{FILE, FILES_KEPT, Log};

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest_lines() {
        let folder = tempfile();
        let mut log = Log::open(&folder, 1_000).unwrap();
        for number in 0..1_000 {
            log.append(&format!("{{\"number\":{number:04}}}")).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap()).collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(files.len(), FILES_KEPT + 1);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 1_020));
        let newest = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(newest.ends_with("{\"number\":0999}\n"));
        // Opened again, it goes on where it was.
        let before = newest.len() as u64;
        assert_eq!(Log::open(&folder, 1_000).unwrap().bytes, before);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    fn tempfile() -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("tidegate-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}
