//! Where each row stands on a medium that is sound, byte for byte: read from the files by SQLite's format, and by nothing that the
//! gateway uses for it. Says of a damaged medium which rows were hit.

use super::content::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const PAGE: usize = 4_096;
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Database,
    Wal,
}

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) place: Place,
    pub(super) bytes: Range<u64>,
}

impl Extent {
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.place == other.place && self.bytes.start < other.bytes.end && other.bytes.start < self.bytes.end
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    for n in 0..9 {
        let byte = bytes[*at];
        *at += 1;
        if n == 8 {
            return value << 8 | u64::from(byte);
        }
        value = value << 7 | u64::from(byte & 0x7F);
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// The two files of a sound database.
pub(super) struct Files<'a> {
    database: &'a Content,
    wal: Option<&'a Content>,
    /// Where the newest committed version of a page stands in the WAL.
    frames: BTreeMap<u32, u64>,
    pages: u32,
}

impl<'a> Files<'a> {
    pub(super) fn new(database: &'a Content, wal: Option<&'a Content>) -> Self {
        let mut frames = BTreeMap::new();
        if let Some(wal) = wal {
            let mut header = [0; WAL_HEADER];
            wal.read(0, &mut header);
            let mut uncommitted = Vec::new();
            let mut at = WAL_HEADER as u64;
            while at + ((FRAME_HEADER + PAGE) as u64) <= wal.len() {
                let mut frame = [0; FRAME_HEADER];
                wal.read(at, &mut frame);
                if frame[8..16] != header[16..24] {
                    break;
                }
                uncommitted.push((number(&frame, 0), at));
                if number(&frame, 4) != 0 {
                    frames.extend(uncommitted.drain(..));
                }
                at += (FRAME_HEADER + PAGE) as u64;
            }
        }
        let pages = (database.len() / PAGE as u64) as u32;
        let pages = pages.max(frames.keys().max().copied().unwrap_or(0));
        Self { database, wal, frames, pages }
    }

    fn page(&self, page: u32) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        match (self.frames.get(&page), self.wal) {
            (Some(at), Some(wal)) => wal.read(at + FRAME_HEADER as u64, &mut bytes),
            _ => self.database.read(u64::from(page - 1) * PAGE as u64, &mut bytes),
        };
        bytes
    }

    /// Bytes of a page; in the WAL its frame's header belongs to them.
    fn extents(&self, page: u32, bytes: Range<usize>, to: &mut Vec<Extent>) {
        match self.frames.get(&page) {
            Some(at) => {
                let place = Place::Wal;
                to.push(Extent { place, bytes: *at..at + FRAME_HEADER as u64 });
                let start = at + FRAME_HEADER as u64;
                to.push(Extent { place, bytes: start + bytes.start as u64..start + bytes.end as u64 });
            }
            None => {
                let start = u64::from(page - 1) * PAGE as u64;
                let bytes = start + bytes.start as u64..start + bytes.end as u64;
                to.push(Extent { place: Place::Database, bytes });
            }
        }
    }

    fn free(&self) -> BTreeSet<u32> {
        let mut free = BTreeSet::new();
        let mut trunk = number(&self.page(1), 32);
        while trunk != 0 && free.insert(trunk) {
            let page = self.page(trunk);
            free.extend((0..number(&page, 4) as usize).map(|n| number(&page, 8 + 4 * n)));
            trunk = number(&page, 0);
        }
        free
    }

    /// The rows of tables by their numbers, those of `keys` only.
    pub(super) fn rows(&self, keys: &BTreeSet<i64>) -> BTreeMap<i64, Vec<Extent>> {
        let free = self.free();
        let mut rows = BTreeMap::new();
        for page in (2..=self.pages).filter(|page| !free.contains(page)) {
            let bytes = self.page(page);
            if bytes[0] != 0x0D {
                continue;
            }
            let count = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            for pointer in (0..count).map(|n| 8 + 2 * n) {
                let start = usize::from(u16::from_be_bytes([bytes[pointer], bytes[pointer + 1]]));
                let mut at = start;
                let length = varint(&bytes, &mut at) as usize;
                let key = varint(&bytes, &mut at).cast_signed();
                if keys.contains(&key) {
                    rows.insert(key, self.row(page, &bytes, start, at, length));
                }
            }
        }
        rows
    }

    fn row(&self, page: u32, bytes: &[u8; PAGE], start: usize, at: usize, length: usize) -> Vec<Extent> {
        let mut extents = Vec::new();
        let least = (PAGE - 12) * 32 / 255 - 23;
        let fitting = least + length.saturating_sub(least) % (PAGE - 4);
        let local = if length <= PAGE - 35 {
            length
        } else if fitting <= PAGE - 35 {
            fitting
        } else {
            least
        };
        let goes_on = usize::from(local < length) * 4;
        self.extents(page, start..at + local + goes_on, &mut extents);
        let mut left = length - local;
        let mut next = if left > 0 { number(bytes, at + local) } else { 0 };
        while left > 0 {
            let count = left.min(PAGE - 4);
            self.extents(next, 0..4 + count, &mut extents);
            next = number(&self.page(next), 0);
            left -= count;
        }
        extents
    }
}
