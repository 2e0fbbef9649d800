//! The files that the store keeps beside those of SQLite, as operations: [`System`] carries them out in the file system. They
//! are a seam so that a proof can put the store, and SQLite with it, on a medium whose power can be cut. It decides nothing.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// What the store asks of the place where its files are. What is written counts as durable after [`OpenFile::sync`], and what is
/// created, renamed or removed after [`sync_dir`](Self::sync_dir).
///
/// # Errors
/// Each operation as the file system's own.
#[allow(missing_docs)] // the names are those of the operations
pub trait Files: Debug + Send + Sync {
    /// The SQLite VFS by which the database in the same place is reached; `None` for SQLite's own.
    fn vfs(&self) -> Option<&'static str>;
    /// Whether there is a directory; an error when there is nothing at all.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
    /// The names in a directory.
    fn entries(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Creates one directory, for nobody else to read.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for writing, and creates it, for nobody else to read, if it is missing and `how` allows it.
    fn open(&self, path: &Path, how: Opening) -> io::Result<Box<dyn OpenFile>>;
    /// Reads the first `most` bytes of a file.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
    /// Opens a file for reading anywhere in it.
    fn examine(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that nobody can foresee.
    fn random(&self) -> io::Result<[u8; 4]>;
}

/// How a file is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It must be there.
    Existing,
    /// Created if it is missing; what it holds stays.
    Kept,
    /// Created if it is missing; what it held goes.
    Emptied,
}

/// A file that is open for writing, from its beginning.
///
/// # Errors
/// Each operation as the file system's own.
#[allow(missing_docs)] // the names are those of the operations
pub trait OpenFile: Debug + Send {
    /// Locks the file for as long as it is open.
    fn try_lock(&self) -> Result<(), TryLockError>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes over the beginning of the file.
    fn rewrite(&self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    /// Takes so much space on the medium.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
}

/// A file that is open for reading.
///
/// # Errors
/// Each operation as the file system's own.
#[allow(missing_docs, clippy::len_without_is_empty)] // the names are those of the operations
pub trait ReadFile: Debug + Send {
    fn len(&self) -> io::Result<u64>;
    /// Reads as much as there is from `at` on, and says how much that was.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Files for System {
    fn vfs(&self) -> Option<&'static str> {
        None
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::metadata(path)?.is_dir())
    }

    fn entries(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path, how: Opening) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(how != Opening::Existing)
            .truncate(how == Opening::Emptied)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut content)?;
        Ok(content)
    }

    fn examine(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn random(&self) -> io::Result<[u8; 4]> {
        let mut bytes = [0; 4];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl OpenFile for File {
    fn try_lock(&self) -> Result<(), TryLockError> {
        Self::try_lock(self)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Self::set_len(self, bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn rewrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, 0)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match retry_on_intr(|| fallocate(self, FallocateFlags::empty(), 0, bytes)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(self, bytes),
            done => Ok(done?),
        }
    }
}

impl ReadFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// For file systems that cannot reserve: written, as a hole would reserve nothing.
fn fill(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() >= bytes {
        return Ok(());
    }
    let block = [0x5A; 4096];
    (0..bytes.div_ceil(4096)).try_for_each(|n| file.write_all_at(&block, n * 4096))
}
