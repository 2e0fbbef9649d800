//! Dead letters in the database: looking at some of them or for them, and removing one. How one is buried is `commit`'s.

use super::fault::Fault;
use super::row::{self, COLUMNS_BY_SEQ, COLUMNS_LEN};
use rusqlite::{Connection, OptionalExtension};
use std::sync::Arc;
use tidegate_engine::event::Letter;
use tidegate_engine::id::{LaneId, LetterId};

/// Reads those of `letters` that are there, at most `bytes` of footprint beyond the first; `lane_of` is the lane of a configured route.
pub(super) fn letters(
    db: &Connection,
    letters: &[LetterId],
    bytes: usize,
    lane_of: impl Fn(&str) -> Option<LaneId>,
) -> Result<Vec<Letter>, Fault> {
    let mut select =
        db.prepare_cached(&format!("SELECT {COLUMNS_BY_SEQ}, route FROM dead_letter WHERE id = ?1"))?;
    let mut found: Vec<Letter> = Vec::new();
    let mut left = bytes;
    for &id in letters {
        let letter = select.query_row([number(id)], |row| {
            let route: String = row.get(COLUMNS_LEN)?;
            Ok(Letter { id, lane: lane_of(&route), route, message: row::read(row)?.map(Arc::new) })
        });
        let Some(letter) = letter.optional()? else { continue };
        let footprint = letter.message.as_ref().map_or(0, |message| message.footprint());
        if footprint > left && !found.is_empty() {
            break;
        }
        left = left.saturating_sub(footprint);
        found.push(letter);
    }
    Ok(found)
}

/// Which of `letters` are there.
pub(super) fn there(db: &Connection, letters: &[LetterId]) -> Result<Vec<LetterId>, Fault> {
    let mut select = db.prepare_cached("SELECT 1 FROM dead_letter WHERE id = ?1")?;
    let mut there = Vec::new();
    for &id in letters {
        if select.exists([number(id)])? {
            there.push(id);
        }
    }
    Ok(there)
}

/// Removes a dead letter; false when it is not there.
pub(super) fn remove(db: &Connection, letter: LetterId) -> Result<bool, Fault> {
    let mut delete = db.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?;
    Ok(delete.execute([number(letter)])? > 0)
}

fn number(letter: LetterId) -> i64 {
    // SQLite gives none beyond.
    i64::try_from(letter.0).unwrap_or(i64::MAX)
}
