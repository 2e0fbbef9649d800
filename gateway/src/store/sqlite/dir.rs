//! The data directory: that it is there, is ours and is used by one process only; and the epoch, which is kept in a
//! file of its own so that a lost database never makes an identity come twice. It knows nothing of the database's content.

use super::open::OpenError;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const LOCK: &str = "lock";
const EPOCH: &str = "epoch";
const EPOCH_NEW: &str = "epoch.new";
/// The database's file; SQLite adds `-wal` and `-shm`.
pub(super) const DATABASE: &str = "tidegate.db";
/// The file that holds space back for a full medium.
pub(super) const BALLAST: &str = "ballast";
const QUARANTINE: &str = "quarantine";
const DAMAGED: &str = "damaged";

/// How the lock file begins: this, and nothing else, makes a directory ours.
const MARK: &str = "tidegate";

/// How long a lock is waited for: a process that has been killed, or a child that is just being started and has not
/// closed what it inherited, holds it for a moment longer.
const LOCK_WITHIN: Duration = Duration::from_millis(500);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A directory that this process has for itself, as long as this lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// What the epoch file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// The epoch of the last life.
    pub(super) epoch: u64,
    /// The highest sequence number when it began.
    pub(super) last: u64,
}

impl DataDir {
    /// Creates the directory if it is missing, makes sure that it is ours, and locks it.
    pub(super) fn claim(path: &Path) -> Result<Self, OpenError> {
        let io = |what: &'static str, at: &Path| {
            let path = at.to_path_buf();
            move |source: io::Error| OpenError::Directory { what, path, source }
        };
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                return Err(OpenError::NotADirectory { path: path.to_path_buf() });
            }
            Ok(_) => refuse_foreign(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(io("create", path))?
            }
            Err(error) => return Err(io("look at", path)(error)),
        }

        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io("write in", path))?;
        let until = Instant::now() + LOCK_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_AGAIN_AFTER),
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::Busy { path: path.to_path_buf(), pid: holder(&mut lock) });
                }
                Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
            }
        }
        // What the last life held back for a full medium is what this start may need; it is taken again at the end of it.
        if let Ok(ballast) = OpenOptions::new().write(true).open(path.join(BALLAST)) {
            ballast.set_len(0).map_err(io("write in", path))?;
        }
        lock.set_len(0).map_err(io("write", &lock_path))?;
        lock.write_all(format!("{MARK}\n{}\n", std::process::id()).as_bytes())
            .and_then(|()| lock.sync_all())
            .and_then(|()| sync_dir(path))
            .map_err(io("write", &lock_path))?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the database's file, empty, if it is missing: the directory's entry is then synced before SQLite counts on it.
    pub(super) fn create_database(&self) -> Result<PathBuf, OpenError> {
        let path = self.path.join(DATABASE);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|_| sync_dir(&self.path))
            .map_err(|source| OpenError::Directory { what: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// What the epoch file says; `None` when it is missing or cannot be read as one.
    pub(super) fn life(&self) -> Result<Option<Life>, OpenError> {
        let path = self.path.join(EPOCH);
        let mut text = Vec::new();
        match File::open(&path).and_then(|f| f.take(64).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Directory { what: "read", path, source }),
        }
        let life = std::str::from_utf8(&text).ok().and_then(|text| {
            let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
            Some(Life { epoch: numbers.next()?.ok()?, last: numbers.next()?.ok()? })
        });
        if life.is_none() {
            tracing::warn!(path = %path.display(), "the epoch file is damaged; a new one is written");
        }
        Ok(life)
    }

    /// Writes the epoch file so that after a power cut either the old or the new content stands.
    pub(super) fn begin_life(&self, life: Life) -> Result<(), OpenError> {
        let (new, path) = (self.path.join(EPOCH_NEW), self.path.join(EPOCH));
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(format!("{} {}\n", life.epoch, life.last).as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| sync_dir(&self.path))
            .map_err(|source| OpenError::Directory { what: "write", path, source })
    }

    /// Remembers, for the next start, that the database was found damaged while it was in use.
    pub(super) fn mark_damaged(&self) -> io::Result<()> {
        File::create(self.path.join(DAMAGED))?.sync_all()?;
        sync_dir(&self.path)
    }

    /// Whether the last life found the database damaged.
    pub(super) fn is_marked_damaged(&self) -> bool {
        self.path.join(DAMAGED).exists()
    }

    /// Moves the database, its WAL and its index aside, and says where to.
    pub(super) fn quarantine(&self, epoch: u64) -> Result<PathBuf, OpenError> {
        let parent = self.path.join(QUARANTINE);
        let mut path = parent.join(epoch.to_string());
        // A life that ended between the move and its epoch left a folder of this number behind.
        let mut again = 1;
        while path.exists() {
            again += 1;
            path = parent.join(format!("{epoch}-{again}"));
        }
        create(&path)
            .and_then(|()| {
                for suffix in ["", "-wal", "-shm"] {
                    let name = format!("{DATABASE}{suffix}");
                    match fs::rename(self.path.join(&name), path.join(&name)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                sync_dir(&path)?;
                if self.is_marked_damaged() {
                    fs::remove_file(self.path.join(DAMAGED))?;
                }
                sync_dir(&self.path)
            })
            .map_err(|source| OpenError::Directory {
                what: "move the damaged database to",
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }
}

/// A number that nobody can foresee, of 31 bits: it leaves room for 2^32 starts in 63 bits and stays readable.
pub(super) fn random_epoch() -> Result<u64, OpenError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 4];
    File::open(path).and_then(|mut f| f.read_exact(&mut bytes)).map_err(|source| OpenError::Directory {
        what: "read",
        path: path.to_path_buf(),
        source,
    })?;
    Ok(u64::from(u32::from_le_bytes(bytes) >> 1).max(1))
}

/// Makes the entries of a directory durable.
fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Creates a directory and those above it, for nobody else to read, and syncs the entries that it made.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|a| !a.as_os_str().is_empty() && !a.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.iter().try_for_each(|made| sync_dir(made.parent().unwrap_or(Path::new("."))))
}

/// A directory with content that we did not put there is not ours to use: it may be somebody's home.
fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Directory { what: "read", path: path.to_path_buf(), source };
    let mut first: Option<OsString> = None;
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        // A file system's own folder, in a directory that is a mount point.
        if name != "lost+found" {
            first = Some(first.map_or(name.clone(), |f| f.min(name)));
        }
    }
    let Some(found) = first else { return Ok(()) };
    let mut head = Vec::new();
    let ours =
        match File::open(path.join(LOCK)).and_then(|f| f.take(MARK.len() as u64).read_to_end(&mut head)) {
            // Empty: the process that created it was killed before it wrote.
            Ok(_) => head.is_empty() || head == MARK.as_bytes(),
            // Somebody took the lock file for a left-over; what else is there still tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.join(DATABASE).exists() && path.join(EPOCH).exists()
            }
            Err(source) => return Err(OpenError::Directory { what: "read", path: path.join(LOCK), source }),
        };
    if ours { Ok(()) } else { Err(OpenError::Foreign { path: path.to_path_buf(), found }) }
}

fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(64).read_to_string(&mut text).ok()?;
    text.lines().nth(1)?.parse().ok()
}
