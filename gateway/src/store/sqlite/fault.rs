//! What SQLite's errors mean to whoever must act: the medium is full, the file is damaged, or something else failed.

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_DATA, SQLITE_IOERR_SHORT_READ};
use tidegate_engine::event::StoreFault;

/// Why an operation inside the store failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// SQLite said so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A row that one way through the tables leads to and another does not: they are damaged.
    #[error("a row is not where its number says")]
    Misplaced,
    /// We did.
    #[error("{0}")]
    Refused(String),
}

impl Fault {
    /// The file, not the request or the medium's space, is at fault.
    pub(super) fn is_corruption(&self) -> bool {
        // A file that ends too early, a block whose own checksum is wrong, a damaged file system.
        let medium = [SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_DATA, SQLITE_IOERR_CORRUPTFS];
        let extended = match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code,
            _ => 0,
        };
        matches!(self, Self::Misplaced)
            || self.is(ErrorCode::DatabaseCorrupt)
            || self.is(ErrorCode::NotADatabase)
            || medium.contains(&extended)
    }

    /// The medium, or the bound on the file, is full.
    pub(super) fn is_full(&self) -> bool {
        self.is(ErrorCode::DiskFull)
    }

    fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(code))
    }
}

impl From<Fault> for StoreFault {
    fn from(fault: Fault) -> Self {
        if fault.is_full() {
            return Self::Full;
        }
        let act = if fault.is_corruption() {
            "the database is damaged; the gateway starts anew by itself, moves the file to quarantine/ and salvages what is whole in it"
        } else if fault.is(ErrorCode::DatabaseBusy) || fault.is(ErrorCode::DatabaseLocked) {
            "another program holds the database; end it, or let it read only"
        } else if fault.is(ErrorCode::SystemIoFailure) {
            "the medium failed; look at the kernel's log"
        } else if fault.is(ErrorCode::ReadOnly)
            || fault.is(ErrorCode::CannotOpen)
            || fault.is(ErrorCode::PermissionDenied)
        {
            "the data directory cannot be written; check its owner and whether the file system became read-only"
        } else {
            return Self::Failed(fault.to_string());
        };
        Self::Failed(format!("{fault}: {act}"))
    }
}
