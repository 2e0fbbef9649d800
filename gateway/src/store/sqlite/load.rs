//! Reading a lane page by page, and moving aside what is damaged.

use super::commit::count;
use super::fault::Fault;
use super::row::{self, COLUMNS};
use super::salvage;
use crate::store::Page;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tidegate_engine::event::RecordKey;
use tidegate_engine::id::{LaneId, Seq};

/// Reads one page; gives it with the keys of the damaged rows that it met.
pub(super) fn page(
    db: &Connection,
    lane: LaneId,
    after: Seq,
    messages: usize,
    bytes: usize,
) -> Result<(Page, Vec<i64>), Fault> {
    let (Some(low), Some(high)) = (row::key(lane, after.min(Seq::MAX)), row::key(lane, Seq::MAX)) else {
        return Err(Fault::Refused(format!("there is no lane {}", lane.0)));
    };
    let mut page = Page::default();
    let mut damaged = Vec::new();
    let mut left = bytes;
    let sql = format!("SELECT {COLUMNS} FROM message WHERE key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3");
    let mut select = db.prepare_cached(&sql)?;
    let limit = i64::try_from(messages.max(1)).unwrap_or(i64::MAX);
    let mut rows = select.query(params![low, high, limit])?;
    while let Some(found) = rows.next()? {
        let key: i64 = found.get(0)?;
        match row::read(found)? {
            Some(message) => {
                let footprint = message.footprint();
                if footprint > left && !page.messages.is_empty() {
                    break;
                }
                left = left.saturating_sub(footprint);
                page.messages.push(message);
            }
            None => damaged.push(key),
        }
        page.upto = Some(row::seq_of(key));
    }
    page.damaged = damaged.len() as u64;
    Ok((page, damaged))
}

/// At the end of a lane: rows that its counter has and that are not there. Damage to a page can hide them without SQLite's
/// noticing. The counter is put right, and what is missing is noted.
pub(super) fn missing(db: &mut Connection, lane: LaneId) -> Result<(u64, Option<RecordKey>), Fault> {
    let none = Ok((0, None));
    let (Some(low), Some(high)) = (row::key(lane, Seq(0)), row::key(lane, Seq::MAX)) else { return none };
    let counted: Option<i64> = db
        .prepare_cached("SELECT rows FROM lane WHERE id = ?1")?
        .query_row([lane.0], |row| row.get(0))
        .optional()?;
    let counted = counted.unwrap_or(0);
    if counted <= 0 {
        return none;
    }
    // What is left of a lane at its end is what the engine has in memory: little.
    let there: i64 = db
        .prepare_cached("SELECT count(*) FROM message WHERE key BETWEEN ?1 AND ?2")?
        .query_row([low, high], |row| row.get(0))?;
    let missing = (counted - there).max(0).cast_unsigned();
    if missing == 0 {
        return none;
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    count(&tx, lane, there - counted, 0, 0)?;
    let note = salvage::note(&tx, format!("missing {} {}", lane.0, super::now_ms()), missing, Some(lane))?;
    tx.commit()?;
    Ok((missing, Some(note)))
}

/// Moves damaged rows, as they are, out of the way of what is read, and notes how many.
pub(super) fn move_away(db: &mut Connection, lane: LaneId, keys: &[i64]) -> Result<RecordKey, Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let note = {
        let keep = format!(
            "INSERT INTO damaged_message (found_ms, {COLUMNS}) SELECT ?2, {COLUMNS} FROM message WHERE key = ?1"
        );
        let mut keep = tx.prepare_cached(&keep)?;
        let mut bytes = tx.prepare_cached("SELECT bytes FROM message WHERE key = ?1")?;
        let mut delete = tx.prepare_cached("DELETE FROM message WHERE key = ?1")?;
        let mut bytes_gone = 0;
        for key in keys {
            let found = bytes.query_row([key], |row| Ok(row.get::<_, i64>(0).unwrap_or(0))).optional()?;
            bytes_gone += found.ok_or(Fault::Misplaced)?.clamp(0, 1 << 32);
            keep.execute(params![key, super::now_ms()])?;
            delete.execute([key])?;
        }
        let rows = i64::try_from(keys.len()).unwrap_or(i64::MAX);
        count(&tx, lane, -rows, -bytes_gone, 0)?;
        let first = keys.first().copied().unwrap_or_default();
        salvage::note(&tx, format!("row {first}"), rows.max(0).cast_unsigned(), Some(lane))?
    };
    tx.commit()?;
    Ok(note)
}
