//! Dead letters in the database: looking at some of them, and removing one. How one is buried is `commit`'s.

use super::fault::Fault;
use super::row::{self, COLUMNS_BY_SEQ, COLUMNS_LEN};
use rusqlite::{Connection, OptionalExtension};
use std::sync::Arc;
use tidegate_engine::event::Letter;
use tidegate_engine::id::{LaneId, LetterId};

/// Reads those of `letters` that are there; `lane_of` is the lane of a configured route.
pub(super) fn letters(
    db: &Connection,
    letters: &[LetterId],
    lane_of: impl Fn(&str) -> Option<LaneId>,
) -> Result<Vec<Letter>, Fault> {
    let mut select =
        db.prepare_cached(&format!("SELECT {COLUMNS_BY_SEQ}, route FROM dead_letter WHERE id = ?1"))?;
    let mut found = Vec::new();
    for &id in letters {
        let letter = select.query_row([number(id)], |row| {
            let route: String = row.get(COLUMNS_LEN)?;
            Ok(Letter { id, lane: lane_of(&route), route, message: row::read(row)?.map(Arc::new) })
        });
        found.extend(letter.optional()?);
    }
    Ok(found)
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
