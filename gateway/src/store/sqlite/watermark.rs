//! How far the database had come, beside it: written behind each commit and not synced, so it is never ahead of what was
//! committed, and after a power cut perhaps behind. A database that is behind it has lost commits. It decides nothing.

use super::files::{Files, OpenFile, Opening};
use super::lanes;
use std::io;
use std::path::Path;

/// Two numbers and their checksum: within one sector, so that no power cut tears it.
const BYTES: usize = 20;

/// How far a database has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The highest sequence number that any row had.
    pub(super) last: u64,
    /// Messages waiting, in all lanes.
    pub(super) rows: u64,
}

impl Reached {
    /// Where a database stands.
    pub(super) fn of(state: &lanes::State) -> Self {
        Self { last: state.last.0, rows: state.rows }
    }

    /// Reads what was written; `None` when it is missing or damaged.
    pub(super) fn read(files: &dyn Files, path: &Path) -> io::Result<Option<Self>> {
        match files.read(path, BYTES as u64) {
            Ok(bytes) => Ok(Self::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (last, rest) = bytes.split_first_chunk()?;
        let (rows, rest) = rest.split_first_chunk()?;
        let this = Self { last: u64::from_le_bytes(*last), rows: u64::from_le_bytes(*rows) };
        (this.encode().get(16..) == Some(rest)).then_some(this)
    }

    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.last.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.rows.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// The file that it stands in.
#[derive(Debug)]
pub(super) struct Watermark {
    file: Box<dyn OpenFile>,
    reached: Reached,
}

impl Watermark {
    /// Opens the file and writes where the database stands, of which every commit has been synced.
    pub(super) fn open(files: &dyn Files, path: &Path, reached: Reached) -> io::Result<Self> {
        let file = files.open(path, Opening::Kept)?;
        let this = Self { file, reached };
        this.write();
        Ok(this)
    }

    /// A commit is done: so many rows more or less, up to this sequence number.
    pub(super) fn committed(&mut self, rows: i64, last: u64) {
        self.reached.last = self.reached.last.max(last);
        self.reached.rows = self.reached.rows.saturating_add_signed(rows);
        self.write();
    }

    fn write(&self) {
        // Without it damage is noticed less often; nothing else rests on it.
        if let Err(error) = self.file.rewrite(&self.reached.encode()) {
            tracing::debug!(%error, "cannot write down how far the database has come");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reached;

    #[test]
    fn what_is_damaged_is_not_read() {
        let reached = Reached { last: 77, rows: 3 };
        let bytes = reached.encode();
        assert_eq!(Reached::decode(&bytes), Some(reached));
        assert_eq!(Reached::decode(&bytes[..19]), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 4;
            assert_eq!(Reached::decode(&damaged), None);
        }
    }
}
