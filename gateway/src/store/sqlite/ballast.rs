//! Space held back on the medium: on a full disk even a DELETE needs room for its log, so a little room is kept aside and
//! let go when the medium is full. It decides nothing about what may be written.

use super::files::{Files, OpenFile, Opening};
use std::io;
use std::path::Path;

/// The file that takes the space.
#[derive(Debug)]
pub(super) struct Ballast {
    file: Box<dyn OpenFile>,
    bytes: u64,
}

impl Ballast {
    /// Opens the file; the space in it stays as it was.
    pub(super) fn open(files: &dyn Files, path: &Path, bytes: u64) -> io::Result<Self> {
        Ok(Self { file: files.open(path, Opening::Kept)?, bytes })
    }

    /// Takes the space, and says whether it could.
    pub(super) fn take(&mut self) -> bool {
        let taken = self.file.reserve(self.bytes).is_ok();
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
}
