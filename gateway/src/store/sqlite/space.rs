//! Room: how large the file and the WAL may grow, when the WAL is written back, and what is done on a full medium so that
//! what waits can still leave. It knows no messages.

use super::Sizes;
use super::ballast::Ballast;
use super::fault::Fault;
use super::files::Files;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a full medium is asked whether it has room again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The room that the store has.
#[derive(Debug)]
pub(super) struct Space {
    ballast: Ballast,
    /// The most pages of the file while the medium has room.
    file_pages: i64,
    /// Pages in the WAL from which on it is written back between two commits.
    wal_pages: i32,
    /// As `wal_pages`, higher while a reader keeps the WAL from being written back whole.
    write_back_at: i32,
    /// While the medium is full: when it was last asked for room.
    full_asked: Option<Instant>,
}

impl Space {
    pub(super) fn new(
        db: &Connection,
        sizes: Sizes,
        files: &dyn Files,
        ballast: &Path,
    ) -> Result<Self, Fault> {
        let open = |error: io::Error| Fault::Refused(format!("cannot open {}: {error}", ballast.display()));
        let wal_pages = i32::try_from(sizes.wal_bytes / super::PAGE_BYTES).unwrap_or(i32::MAX);
        let mut space = Self {
            ballast: Ballast::open(files, ballast, sizes.ballast_bytes).map_err(open)?,
            file_pages: sizes.file_pages(),
            wal_pages,
            write_back_at: wal_pages,
            full_asked: None,
        };
        if !space.ballast.take() {
            space.medium_is_full(db)?;
        }
        Ok(space)
    }

    /// Whether the medium, not the bound on the file, stops what needs `bytes` more: the file is not at its bound yet.
    pub(super) fn blames_medium(&self, db: &Connection, bytes: u64) -> Result<bool, Fault> {
        // A commit splits pages and half fills them: twice its bytes, and some for the tables beside.
        let needed = i64::try_from(bytes / super::PAGE_BYTES * 2 + 64).unwrap_or(i64::MAX);
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        Ok(self.full_asked.is_some() || pages.saturating_add(needed) < self.file_pages)
    }

    /// The medium is full: what was held back is let go for the log of what is deleted, and the file grows no more, so that
    /// only what becomes free in it is used again.
    pub(super) fn medium_is_full(&mut self, db: &Connection) -> Result<(), Fault> {
        if self.full_asked.is_none() {
            self.full_asked = Some(Instant::now());
            tracing::warn!(
                "the medium is full: nothing new is stored until something has left or space is freed"
            );
            self.ballast.release();
        }
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        bound(db, pages)?;
        self.write_back(db)?;
        Ok(())
    }

    /// Asks a full medium, once in a while, whether it has room again.
    pub(super) fn look_for_room(&mut self, db: &Connection) -> Result<(), Fault> {
        let Some(asked) = self.full_asked else { return Ok(()) };
        if asked.elapsed() < ASK_AGAIN {
            return Ok(());
        }
        if self.ballast.take() {
            tracing::info!("the medium has room again");
            self.full_asked = None;
            return bound(db, self.file_pages);
        }
        self.full_asked = Some(Instant::now());
        Ok(())
    }

    /// Writes the WAL back when it is long, or, while nobody waits, when it is worth it. Returns whether it will be worth it.
    pub(super) fn upkeep(&mut self, db: &Connection, idle: bool) -> Result<bool, Fault> {
        let worth_it = self.wal_pages / 4;
        let (log, done) = db.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::NOOP)?;
        let waiting = log - done;
        if waiting < worth_it {
            return Ok(false);
        }
        if !idle && waiting < self.write_back_at {
            return Ok(true);
        }
        let left = self.write_back(db)?;
        // A program that reads for long holds the WAL; asking at every commit would only cost.
        self.write_back_at = self.wal_pages.saturating_add(left);
        if left > self.wal_pages.saturating_mul(4) {
            tracing::warn!(
                pages = left,
                "a program that reads the database keeps its WAL from being written back"
            );
        }
        Ok(false)
    }

    /// Writes the WAL back into the file; returns how many pages a reader still holds.
    fn write_back(&self, db: &Connection) -> Result<i32, Fault> {
        let (log, done) = db.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE)?;
        Ok(log - done)
    }
}

fn bound(db: &Connection, pages: i64) -> Result<(), Fault> {
    db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    Ok(())
}
