//! Space held back on the medium: on a full disk even a DELETE needs room for its log, so a little room is kept aside and
//! let go when the medium is full. It decides nothing about what may be written.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The file that takes the space.
#[derive(Debug)]
pub(super) struct Ballast {
    file: File,
    bytes: u64,
}

impl Ballast {
    /// Opens the file; the space in it stays as it was.
    pub(super) fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, bytes })
    }

    /// Takes the space, and says whether it could.
    pub(super) fn take(&mut self) -> bool {
        let taken = match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, self.bytes)) {
            Ok(()) => true,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill().is_ok(),
            Err(_) => false,
        };
        if !taken {
            self.release();
        }
        taken
    }

    /// Gives the space back to the file system.
    pub(super) fn release(&mut self) {
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!(%error, "cannot let go of the space held back for a full disk");
        }
    }

    /// For file systems that cannot reserve: written, as a hole would reserve nothing.
    fn fill(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() >= self.bytes {
            return Ok(());
        }
        let block = [0x5A; 4096];
        (0..self.bytes.div_ceil(4096)).try_for_each(|n| self.file.write_all_at(&block, n * 4096))
    }
}
