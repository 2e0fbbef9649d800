//! A damaged database as pages: the file with what is whole of its WAL laid over it (SQLite's file format, 1.3, 1.5 and 4).
//! It asks SQLite for nothing, which would refuse such a file, changes nothing, and does not know what the pages mean.

use crate::store::sqlite::PAGE_BYTES;
use crate::store::sqlite::files::{Files, ReadFile};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// A page of ours: the store makes no other size.
pub(super) const PAGE: usize = PAGE_BYTES as usize;
pub(super) type Page = [u8; PAGE];

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const FRAME: usize = FRAME_HEADER + PAGE;
/// The WAL's magic number; its lowest bit says in which byte order its checksums were made.
const MAGIC: u32 = 0x377F_0682;

/// Of a freelist's trunk page: leaves that it can name.
const TRUNK_LEAVES: usize = PAGE / 4 - 2;

/// The four bytes at `at`, as a big-endian number; 0 beyond the end.
pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_be_bytes(*four))
}

/// A running checksum (1.5, "Checksum Algorithm").
type Sum = (u32, u32);

fn sum(mut sum: Sum, bytes: &[u8], big_endian: bool) -> Sum {
    let word = if big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    for pair in bytes.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *pair;
        sum.0 = sum.0.wrapping_add(word([a, b, c, d])).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(word([e, f, g, h])).wrapping_add(sum.0);
    }
    sum
}

/// What becomes of a single commit behind damage. A commit that a power cut has torn, or of which the sync failed, leaves frames
/// that look the same, whole ones behind damaged ones; they prove nothing, and their rows may be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::sqlite) enum Last {
    /// It counts for nothing: for saying whether there is damage.
    Dropped,
    /// It is looked at like the others, and so is whatever else may be whole: for salvaging.
    Taken,
}

/// What stands in a WAL.
#[derive(Debug, Default)]
pub(in crate::store::sqlite) struct Wal {
    /// For each page where its newest whole and committed version stands.
    frames: HashMap<u32, u64>,
    /// The largest page number in a whole frame: what a damaged one says may be any number.
    largest: u32,
    /// A frame is damaged that was committed and synced: whole ones of later commits stand behind it.
    pub(in crate::store::sqlite) damaged: bool,
}

impl Wal {
    /// Looks at every frame by itself: each one's checksum goes on from the one that its predecessor says it has. `Last` says what
    /// becomes of a single commit behind the last damage.
    ///
    /// # Errors
    /// When the medium cannot be read.
    pub(in crate::store::sqlite) fn read(file: &dyn ReadFile, last: Last) -> io::Result<Self> {
        let mut header = [0; WAL_HEADER];
        let mut wal = Self::default();
        if file.read_at(0, &mut header)? < WAL_HEADER {
            return Ok(wal);
        }
        let mut frame = vec![0; FRAME];
        let header_sum = (number(&header, 24), number(&header, 28));
        let big_endian = number(&header, 0) & 1 == 1;
        let header_whole =
            number(&header, 0) & !1 == MAGIC && sum((0, 0), &header[..24], big_endian) == header_sum;
        let mut salts = [number(&header, 16), number(&header, 20)];
        if !header_whole && file.read_at((WAL_HEADER + FRAME) as u64, &mut frame)? >= FRAME_HEADER {
            // The frames have the same salts; what has damaged the header may have damaged the first of them, too.
            salts = [number(&frame, 8), number(&frame, 12)];
        }
        let mut before = header_sum;
        // Committed frames behind the last place where something was wrong, and those whose commit has not come yet.
        let (mut run, mut uncommitted) = (Vec::new(), Vec::new());
        let mut broken = !header_whole;
        for at in (WAL_HEADER as u64..).step_by(FRAME) {
            if file.read_at(at, &mut frame)? < FRAME {
                break;
            }
            let own = (number(&frame, 16), number(&frame, 20));
            let seed = std::mem::replace(&mut before, own);
            let fits = |big_endian| {
                sum(sum(seed, &frame[..8], big_endian), &frame[FRAME_HEADER..], big_endian) == own
            };
            // Without a header the byte order is whichever fits.
            let whole = if header_whole { fits(big_endian) } else { fits(true) || fits(false) };
            let ours = [number(&frame, 8), number(&frame, 12)] == salts;
            if ours && whole {
                wal.largest = wal.largest.max(number(&frame, 0));
            }
            if ours && last == Last::Taken {
                // Every row has a checksum of its own: of a frame in which one is damaged the others may be whole, and where the
                // end of a commit is damaged its beginning may be.
                wal.frames.insert(number(&frame, 0), at + FRAME_HEADER as u64);
                continue;
            }
            if !ours || !whole {
                broken = true;
                run.clear();
                uncommitted.clear();
                continue;
            }
            if !run.is_empty() {
                // A frame on top of a commit: that one was synced before this one was written.
                wal.damaged = true;
                wal.frames.extend(run.drain(..));
            }
            uncommitted.push((number(&frame, 0), at + FRAME_HEADER as u64));
            if number(&frame, 4) != 0 {
                if broken {
                    run.append(&mut uncommitted);
                } else {
                    wal.frames.extend(uncommitted.drain(..));
                }
            }
        }
        Ok(wal)
    }

    /// No commit stands in it.
    pub(in crate::store::sqlite) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// A damaged database.
#[derive(Debug)]
pub(super) struct Image {
    db: Option<Box<dyn ReadFile>>,
    log: Option<(Box<dyn ReadFile>, Wal)>,
    /// Pages that the file has, or the WAL beyond it.
    pub(super) pages: u32,
}

impl Image {
    /// # Errors
    /// When the medium cannot be read. What is missing is empty.
    pub(super) fn open(files: &dyn Files, db: &Path, wal: &Path) -> io::Result<Self> {
        let there = |path| match files.examine(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let (db, log) = (there(db)?, there(wal)?);
        let bytes = db.as_ref().map_or(Ok(0), |file| file.len())?;
        let log = log.map(|file| Wal::read(&*file, Last::Taken).map(|wal| (file, wal))).transpose()?;
        let beyond = log.as_ref().map_or(0, |(_, wal)| wal.largest);
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        Ok(Self { db, log, pages: pages.max(beyond) })
    }

    /// A page, numbered from 1. What is not there is zeros.
    ///
    /// # Errors
    /// When the medium cannot be read.
    pub(super) fn page(&self, page: u32) -> io::Result<Page> {
        let mut bytes = [0; PAGE];
        if let Some((file, wal)) = &self.log
            && let Some(at) = wal.frames.get(&page)
        {
            file.read_at(*at, &mut bytes)?;
        } else if let (Some(db), Some(before)) = (&self.db, page.checked_sub(1)) {
            db.read_at(u64::from(before) * PAGE_BYTES, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// The pages that hold nothing, as far as the list of them is whole (1.5, "The Freelist").
    ///
    /// # Errors
    /// When the medium cannot be read.
    pub(super) fn free(&self) -> io::Result<Pages> {
        let mut free = Pages::default();
        let mut trunk = number(&self.page(1)?, 32);
        while trunk > 1 && trunk <= self.pages && free.insert(trunk) {
            let page = self.page(trunk)?;
            let leaves = number(&page, 4) as usize;
            if leaves > TRUNK_LEAVES {
                break; // This is no trunk: damage led here.
            }
            for leaf in (0..leaves).map(|n| number(&page, 8 + 4 * n)) {
                if leaf > 1 && leaf <= self.pages {
                    free.insert(leaf);
                }
            }
            trunk = number(&page, 0);
        }
        Ok(free)
    }
}

/// A set of pages: a bit each, 32 KiB for a file of 1 GiB.
#[derive(Debug, Default)]
pub(super) struct Pages(Vec<u64>);

impl Pages {
    /// Adds a page; false when it was there.
    pub(super) fn insert(&mut self, page: u32) -> bool {
        let (word, bit) = (page as usize / 64, 1 << (page % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    pub(super) fn contains(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word & 1 << (page % 64) != 0)
    }
}
