//! The file itself: appends that are on the medium when they return, rotation, and putting right at opening what a power
//! cut or a full disk left behind. Knows lines only as bytes that end in a line break.

use super::line::BEGINNING;
use crate::config;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The longest line that can occur: a payload of 256 KiB in base64 and as much again of properties, escaped.
const LINE_BYTES: usize = 2 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The file system's word, with what was tried.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("the file exists and does not hold Tidegate's lines; choose another `path`")]
    Foreign,
    /// Somebody has moved, replaced or removed the file: what is written to it now may be nowhere.
    #[error("the file was moved or removed")]
    Gone,
}

fn tried(what: &'static str) -> impl FnOnce(io::Error) -> Fault {
    move |source| Fault::Io { what, source }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    max_size: u64,
    keep: usize,
    file: File,
    /// How much is on the medium; nothing beyond it was confirmed.
    length: u64,
}

impl Journal {
    /// Opens or creates the file and its directory. What an interrupted write of at most `group` bytes left at its end
    /// is cut off: it was never confirmed.
    pub(super) fn open(config: &config::File, group: usize) -> Result<Self, Fault> {
        let directory = directory_of(&config.path);
        fs::create_dir_all(directory).map_err(tried("creating its directory"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&config.path)
            .map_err(tried("opening it"))?;
        let size = file.metadata().map_err(tried("opening it"))?.len();
        let mut start = vec![0; BEGINNING.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        file.read_exact(&mut start).map_err(tried("reading it"))?;
        // A file of zeros is what a power cut makes of a first write: length on the medium, content not.
        let zeros = start.iter().all(|byte| *byte == 0);
        if !BEGINNING.starts_with(&start) && !zeros {
            return Err(Fault::Foreign);
        }
        let length = if size == 0 { 0 } else { sound_length(&mut file, size, group)? };
        if length < size {
            warn!(
                "{}: cutting off {} bytes that were not written completely",
                config.path.display(),
                size - length
            );
            file.set_len(length).map_err(tried("cutting off an incomplete line"))?;
        }
        // The file and its name are on the medium before anything counts as written to it.
        file.sync_all().map_err(tried("syncing it"))?;
        sync_directory(directory)?;
        Ok(Self { path: config.path.clone(), max_size: config.max_size, keep: config.keep, file, length })
    }

    /// Appends whole lines; after `Ok` they are on the medium. After an error the file must be opened again: what the
    /// kernel holds of it can no longer be trusted.
    pub(super) fn append(&mut self, mut lines: &[u8]) -> Result<(), Fault> {
        self.check_place()?;
        while !lines.is_empty() {
            let room = usize::try_from(self.max_size.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let fits = if lines.len() <= room {
                lines.len()
            } else {
                lines.get(..room).and_then(|l| l.iter().rposition(|b| *b == b'\n')).map_or(0, |at| at + 1)
            };
            if fits == 0 && self.length > 0 {
                self.rotate()?;
                continue;
            }
            // In an empty file a line goes in whatever its size.
            let first = lines.iter().position(|b| *b == b'\n').map_or(lines.len(), |at| at + 1);
            let (now, later) = lines.split_at(fits.max(first));
            self.write(now)?;
            lines = later;
        }
        Ok(())
    }

    /// Whether the open file is the one that stands under the path. A file that log rotation has moved is begun
    /// anew, and nothing is confirmed that went into a removed one.
    fn check_place(&self) -> Result<(), Fault> {
        let ours = self.file.metadata().map_err(tried("looking at it"))?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            _ => Err(Fault::Gone),
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Fault> {
        let written = self.file.write_all(lines).map_err(tried("writing to it"));
        let synced = written.and_then(|()| self.file.sync_data().map_err(tried("syncing it")));
        if synced.is_err() {
            // So that nobody reads half a line meanwhile; opening again does the same if this fails.
            let _ = self.file.set_len(self.length);
        }
        synced?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Renames the file to `NAME.1`, `NAME.1` to `NAME.2` and so on, removes what is beyond `keep`, and begins a new one.
    fn rotate(&mut self) -> Result<(), Fault> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let absent_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        self.file.sync_all().map_err(tried("syncing it"))?;
        if self.keep == 0 {
            absent_is_fine(fs::remove_file(&self.path)).map_err(tried("removing the full file"))?;
        }
        for number in (1..self.keep).rev() {
            absent_is_fine(fs::rename(numbered(number), numbered(number + 1)))
                .map_err(tried("rotating it"))?;
        }
        if self.keep > 0 {
            absent_is_fine(fs::rename(&self.path, numbered(1))).map_err(tried("rotating it"))?;
        }
        self.file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .open(&self.path)
            .map_err(tried("creating a new file"))?;
        self.length = 0;
        sync_directory(directory_of(&self.path))
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(directory: &Path) -> Result<(), Fault> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(tried("syncing its directory"))
}

/// How much of the file is whole lines of ours. Only the end can be in doubt, because each group is synced before the
/// next one is written: the last group, and the line that it began after. The first bad line there ends the sound part: what follows it is
/// of the same group and was not confirmed either.
fn sound_length(file: &mut File, size: u64, group: usize) -> Result<u64, Fault> {
    // A group may grow by one line beyond its bound.
    let doubtful = group.saturating_add(2 * LINE_BYTES) as u64;
    let start = size.saturating_sub(doubtful);
    file.seek(SeekFrom::Start(start)).map_err(tried("reading it"))?;
    let mut end = Vec::new();
    file.take(doubtful).read_to_end(&mut end).map_err(tried("reading it"))?;
    let mut sound = if start == 0 {
        0
    } else {
        end.iter().position(|byte| *byte == b'\n').map(|at| at + 1).ok_or(Fault::Foreign)?
    };
    while let Some(rest) = end.get(sound..).filter(|rest| !rest.is_empty()) {
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else { break };
        let (line, _) = rest.split_at(length);
        if !line.starts_with(BEGINNING) || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
            break;
        }
        sound += length + 1;
    }
    Ok(start + sound as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"{\"id\":\"a\"}\n";
    const B: &[u8] = b"{\"id\":\"b\"}\n";

    fn settings(directory: &Path, max_size: u64, keep: usize) -> config::File {
        config::File { path: directory.join("deep/er/out.jsonl"), max_size, keep }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tidegate-journal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn every_cut_of_the_last_write_leaves_whole_lines_and_nothing_confirmed_is_lost() {
        let directory = directory("cuts");
        let settings = settings(&directory, 1 << 20, 1);
        Journal::open(&settings, 1 << 20).unwrap().append(A).unwrap();
        for cut in 0..=B.len() {
            for tail in [&B[..cut], &[B, &B[..cut]].concat(), &[&vec![0; cut], B].concat()] {
                fs::write(&settings.path, [A, tail].concat()).unwrap();
                Journal::open(&settings, 1 << 20).unwrap();
                let left = fs::read(&settings.path).unwrap();
                assert!(left.starts_with(A) && left.ends_with(b"\n"), "{cut}");
                for line in left.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    serde_json::from_slice::<serde_json::Value>(line).unwrap();
                }
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let directory = directory("foreign");
        let settings = settings(&directory, 1 << 20, 1);
        fs::create_dir_all(settings.path.parent().unwrap()).unwrap();
        for content in [&b"root:x:0:0"[..], b"{\"name\":1}\n", b"\n"] {
            fs::write(&settings.path, content).unwrap();
            assert!(matches!(Journal::open(&settings, 1 << 20), Err(Fault::Foreign)));
            assert_eq!(fs::read(&settings.path).unwrap(), content);
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_full_medium_and_a_removed_file_are_faults() {
        let directory = directory("faults");
        let settings = settings(&directory, 1 << 20, 1);
        let mut journal = Journal::open(&settings, 1 << 20).unwrap();
        fs::remove_file(&settings.path).unwrap();
        assert!(matches!(journal.append(A), Err(Fault::Gone)));
        let mut journal = Journal::open(&settings, 1 << 20).unwrap();
        journal.append(A).unwrap();
        journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(matches!(journal.write(B), Err(Fault::Io { .. })));
        assert_eq!(fs::read(&settings.path).unwrap(), A);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn rotation_keeps_lines_whole_and_only_so_many_files() {
        let directory = directory("rotation");
        let settings = settings(&directory, 2 * A.len() as u64 + 3, 2);
        let mut journal = Journal::open(&settings, 1 << 20).unwrap();
        journal.append(&A.repeat(5)).unwrap();
        journal.append(&B.repeat(2)).unwrap();
        let read = |suffix: &str| {
            let mut name = settings.path.clone().into_os_string();
            name.push(suffix);
            fs::read(PathBuf::from(name)).ok()
        };
        assert_eq!(read(""), Some(B.to_vec()));
        assert_eq!(read(".1"), Some([A, B].concat()));
        assert_eq!(read(".2"), Some(A.repeat(2)));
        assert_eq!(read(".3"), None);
        // A line that is longer than the whole file may be.
        let long = [b"{\"id\":\"", "c".repeat(100).as_bytes(), b"\"}\n"].concat();
        journal.append(&long).unwrap();
        assert_eq!(read(""), Some(long));
        fs::remove_dir_all(directory).unwrap();
    }
}
