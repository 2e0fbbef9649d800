//! The data directory: that it is there, is ours and is used by one process only; and the epoch, which is kept in a
//! file of its own so that a lost database never makes an identity come twice. It knows nothing of the database's content.

use super::files::{Files, OpenFile, Opening};
use super::open::OpenError;
use super::salvage::{Last, Wal};
use std::ffi::OsString;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const LOCK: &str = "lock";
const EPOCH: &str = "epoch";
const EPOCH_NEW: &str = "epoch.new";
/// The database's file; SQLite adds `-wal` and `-shm`.
pub(super) const DATABASE: &str = "tidegate.db";
/// The file that holds space back for a full medium.
pub(super) const BALLAST: &str = "ballast";
/// SQLite's log of it.
pub(super) const WAL: &str = "tidegate.db-wal";
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
    files: Arc<dyn Files>,
    path: PathBuf,
    _lock: Box<dyn OpenFile>,
}

/// What the epoch file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// The epoch of the last life.
    pub(super) epoch: u64,
    /// The highest sequence number when it began.
    pub(super) last: u64,
    /// Lives in a row, up to this one, that were neither ended in order nor lasted for long, as far as is known of it.
    pub(super) bad_lives: u32,
    /// Databases that were lost to damage so far.
    pub(super) losses: u64,
}

impl DataDir {
    /// Creates the directory if it is missing, makes sure that it is ours, and locks it.
    pub(super) fn claim(files: Arc<dyn Files>, path: &Path) -> Result<Self, OpenError> {
        let io = |what: &'static str, at: &Path| {
            let path = at.to_path_buf();
            move |source: io::Error| OpenError::Directory { what, path, source }
        };
        match files.is_dir(path) {
            Ok(false) => return Err(OpenError::NotADirectory { path: path.to_path_buf() }),
            Ok(true) => refuse_foreign(&*files, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&*files, path).map_err(io("create", path))?
            }
            Err(error) => return Err(io("look at", path)(error)),
        }

        let lock_path = path.join(LOCK);
        let mut lock = files.open(&lock_path, Opening::Kept).map_err(io("write in", path))?;
        let until = Instant::now() + LOCK_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_AGAIN_AFTER),
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::Busy {
                        path: path.to_path_buf(),
                        pid: holder(&*files, &lock_path),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
            }
        }
        // What the last life held back for a full medium is what this start may need; it is taken again at the end of it.
        if let Ok(ballast) = files.open(&path.join(BALLAST), Opening::Existing) {
            ballast.set_len(0).map_err(io("write in", path))?;
        }
        lock.set_len(0).map_err(io("write", &lock_path))?;
        lock.write_all(format!("{MARK}\n{}\n", std::process::id()).as_bytes())
            .and_then(|()| lock.sync())
            .and_then(|()| files.sync_dir(path))
            .map_err(io("write", &lock_path))?;
        Ok(Self { files, path: path.to_path_buf(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Creates the database's file, empty, if it is missing: the directory's entry is then synced before SQLite counts on it.
    pub(super) fn create_database(&self) -> Result<PathBuf, OpenError> {
        let path = self.path.join(DATABASE);
        self.files
            .open(&path, Opening::Kept)
            .and_then(|_| self.files.sync_dir(&self.path))
            .map_err(|source| OpenError::Directory { what: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// What the epoch file says; `None` when it is missing or cannot be read as one.
    pub(super) fn life(&self) -> Result<Option<Life>, OpenError> {
        let path = self.path.join(EPOCH);
        let text = match self.files.read(&path, 64) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Directory { what: "read", path, source }),
        };
        let life = std::str::from_utf8(&text).ok().and_then(|text| {
            let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
            let (epoch, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            // The first versions did not count.
            let mut count = || numbers.next().and_then(Result::ok).unwrap_or(0);
            let bad_lives = u32::try_from(count()).unwrap_or(u32::MAX);
            Some(Life { epoch, last, bad_lives, losses: count() })
        });
        if life.is_none() {
            tracing::warn!(path = %path.display(), "the epoch file is damaged; a new one is written");
        }
        Ok(life)
    }

    /// Writes the epoch file so that after a power cut either the old or the new content stands.
    pub(super) fn begin_life(&self, life: Life) -> Result<(), OpenError> {
        let (new, path) = (self.path.join(EPOCH_NEW), self.path.join(EPOCH));
        self.files
            .open(&new, Opening::Emptied)
            .and_then(|mut file| {
                let Life { epoch, last, bad_lives, losses } = life;
                file.write_all(format!("{epoch} {last} {bad_lives} {losses}\n").as_bytes())?;
                file.sync()
            })
            .and_then(|()| self.files.rename(&new, &path))
            .and_then(|()| self.files.sync_dir(&self.path))
            .map_err(|source| OpenError::Directory { what: "write", path, source })
    }

    /// Remembers, for the next start, that the database was found damaged while it was in use.
    pub(super) fn mark_damaged(&self) -> io::Result<()> {
        self.files.open(&self.path.join(DAMAGED), Opening::Emptied)?.sync()?;
        self.files.sync_dir(&self.path)
    }

    /// Whether the last life found the database damaged.
    pub(super) fn is_marked_damaged(&self) -> bool {
        exists(self.files(), &self.path.join(DAMAGED))
    }

    /// The damaged database is out of the way.
    pub(super) fn unmark_damaged(&self) -> io::Result<()> {
        self.files.remove(&self.path.join(DAMAGED))?;
        self.files.sync_dir(&self.path)
    }

    /// Whether the WAL cannot be what the last life left: damaged where it was synced, or without the database that it belongs
    /// to. SQLite passes over both in silence, and with it over what was committed.
    pub(super) fn wal_is_damaged(&self) -> io::Result<bool> {
        let file = match self.files.examine(&self.path.join(WAL)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let wal = Wal::read(&*file, Last::Dropped)?;
        let database = self.files.examine(&self.path.join(DATABASE))?.len()?;
        Ok(wal.damaged || (database == 0 && !wal.is_empty()))
    }
}

/// A number that nobody can foresee, of 31 bits: it leaves room for 2^32 starts in 63 bits and stays readable.
pub(super) fn random_epoch(files: &dyn Files) -> Result<u64, OpenError> {
    let bytes = files.random().map_err(|source| OpenError::Directory {
        what: "read",
        path: "/dev/urandom".into(),
        source,
    })?;
    Ok(u64::from(u32::from_le_bytes(bytes) >> 1).max(1))
}

pub(super) fn exists(files: &dyn Files, path: &Path) -> bool {
    files.is_dir(path).is_ok()
}

/// Creates a directory and those above it, for nobody else to read, and syncs the entries that it made.
pub(super) fn create(files: &dyn Files, path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|a| !a.as_os_str().is_empty() && !exists(files, a));
    let mut missing: Vec<&Path> = missing.collect();
    missing.reverse();
    for new in &missing {
        match files.create_dir(new) {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    missing.iter().try_for_each(|made| files.sync_dir(made.parent().unwrap_or(Path::new("."))))
}

/// A directory with content that we did not put there is not ours to use: it may be somebody's home.
fn refuse_foreign(files: &dyn Files, path: &Path) -> Result<(), OpenError> {
    let entries = files.entries(path);
    let entries =
        entries.map_err(|source| OpenError::Directory { what: "read", path: path.to_path_buf(), source })?;
    // `lost+found` is a file system's own folder, in a directory that is a mount point.
    let found: Option<OsString> = entries.into_iter().filter(|name| name != "lost+found").min();
    let Some(found) = found else { return Ok(()) };
    let ours = match files.read(&path.join(LOCK), MARK.len() as u64) {
        // Empty: the process that created it was killed before it wrote. Zeros: the power was cut when the file had its size
        // and not yet its bytes.
        Ok(head) => head.iter().all(|byte| *byte == 0) || head == MARK.as_bytes(),
        // Somebody took the lock file for a left-over; what else is there still tells.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            exists(files, &path.join(DATABASE)) && exists(files, &path.join(EPOCH))
        }
        Err(source) => return Err(OpenError::Directory { what: "read", path: path.join(LOCK), source }),
    };
    if ours { Ok(()) } else { Err(OpenError::Foreign { path: path.to_path_buf(), found }) }
}

fn holder(files: &dyn Files, lock: &Path) -> Option<u32> {
    let text = files.read(lock, 64).ok()?;
    std::str::from_utf8(&text).ok()?.lines().nth(1)?.parse().ok()
}
