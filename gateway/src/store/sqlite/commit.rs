//! One group commit: the operations of a batch as statements of one transaction, deletes gathered into ranges, and the counters
//! of the lanes that it touched.

use super::dead;
use super::fault::Fault;
use super::row::{self, Derived};
use rusqlite::{CachedStatement, Connection, Error, ErrorCode, OptionalExtension, params};
use std::collections::BTreeMap;
use tidegate_engine::event::{Attempts, Op, RecordKey};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tidegate_engine::message::Message;

/// Forgotten rows this far apart still go with one look at the range between them.
const GATHER_WITHIN: i64 = 64;

const INSERT: &str =
    "INSERT INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
const BURY: &str = "INSERT INTO dead_letter VALUES \
                    (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

/// What a batch comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Messages that wait more than before.
    pub(super) rows: i64,
    /// The highest sequence number of those that it brought.
    pub(super) last: u64,
}

/// Carries out `ops` inside the transaction that is open on `db`. `names` are the routes of the lanes.
pub(super) fn apply(db: &Connection, names: &BTreeMap<LaneId, String>, ops: &[Op]) -> Result<Tally, Fault> {
    let mut changes = Changes { db, names, inserts: None, lanes: Vec::new(), forgotten: Vec::new() };
    for op in ops {
        match op {
            Op::Insert { lane, message } => changes.insert(*lane, message)?,
            Op::Forget { lane, seq } => changes.forget(*lane, *seq)?,
            Op::Bury { lane, message, reason, attempts } => changes.bury(*lane, message, reason, attempts)?,
            Op::Requeue { letter, lane, message } => changes.requeue(*letter, *lane, message)?,
            Op::Purge { letter } => _ = dead::remove(db, *letter)?,
            Op::Put { key, value } => changes.put(key, value)?,
            Op::Remove { key } => changes.remove(key)?,
        }
    }
    changes.finish()
}

/// What a batch does to one lane.
struct LaneChange {
    lane: LaneId,
    rows: i64,
    bytes: i64,
    last: i64,
    /// The lowest and the highest of the keys that are waiting to be forgotten.
    forgets: Option<(i64, i64)>,
}

struct Changes<'a> {
    db: &'a Connection,
    names: &'a BTreeMap<LaneId, String>,
    /// Held for the whole batch: looking it up for each row costs as much as binding it.
    inserts: Option<CachedStatement<'a>>,
    /// The lanes touched: few, so they are searched from the end.
    lanes: Vec<LaneChange>,
    /// Keys to be forgotten, in the order in which they came.
    forgotten: Vec<i64>,
}

impl Changes<'_> {
    fn lane(&mut self, lane: LaneId) -> &mut LaneChange {
        let index = self.lanes.iter().rposition(|change| change.lane == lane).unwrap_or_else(|| {
            self.lanes.push(LaneChange { lane, rows: 0, bytes: 0, last: 0, forgets: None });
            self.lanes.len() - 1
        });
        &mut self.lanes[index]
    }

    fn insert(&mut self, lane: LaneId, message: &Message) -> Result<(), Fault> {
        let key = key(lane, message.id.seq)?;
        // Forgotten earlier in this batch: that must happen first.
        if self.lane(lane).forgets.is_some_and(|(low, high)| (low..=high).contains(&key)) {
            self.flush()?;
        }
        let derived = Derived::of(key, message);
        let statement = match &mut self.inserts {
            Some(statement) => statement,
            none => none.insert(self.db.prepare_cached(INSERT)?),
        };
        derived.bind(statement, 1, key, message)?;
        match statement.raw_execute() {
            Ok(_) => {}
            Err(Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
                return self.is_there(key, message);
            }
            Err(error) => return Err(error.into()),
        }
        let change = self.lane(lane);
        change.rows += 1;
        change.bytes += derived.bytes;
        change.last = change.last.max(row::seq_of(key).0.cast_signed());
        Ok(())
    }

    /// A message of this key is there: the same one is no fault, another one must never be overwritten.
    fn is_there(&self, key: i64, message: &Message) -> Result<(), Fault> {
        let mut select = self.db.prepare_cached("SELECT epoch FROM message WHERE key = ?1")?;
        let epoch: Option<i64> = select.query_row([key], |row| row.get(0)).optional()?;
        if epoch == Some(message.id.epoch.cast_signed()) {
            return Ok(());
        }
        Err(Fault::Refused(format!("the sequence number {} is taken by another message", message.id.seq.0)))
    }

    fn forget(&mut self, lane: LaneId, seq: Seq) -> Result<(), Fault> {
        let key = key(lane, seq)?;
        let forgets = &mut self.lane(lane).forgets;
        let (low, high) = forgets.unwrap_or((key, key));
        *forgets = Some((low.min(key), high.max(key)));
        self.forgotten.push(key);
        Ok(())
    }

    fn bury(
        &mut self,
        lane: LaneId,
        message: &Message,
        reason: &str,
        attempts: &Attempts,
    ) -> Result<(), Fault> {
        let Some(route) = self.names.get(&lane) else { return Err(unknown(lane)) };
        let seq = message.id.seq.0.cast_signed();
        let derived = Derived::of(seq, message);
        let mut statement = self.db.prepare_cached(BURY)?;
        statement.raw_bind_parameter(1, super::now_ms())?;
        statement.raw_bind_parameter(2, route)?;
        statement.raw_bind_parameter(3, reason)?;
        derived.bind(&mut statement, 4, seq, message)?;
        statement.raw_bind_parameter(18, attempts.count)?;
        statement.raw_bind_parameter(19, attempts.first.as_ref().map(|first| first.unix_ms))?;
        statement.raw_bind_parameter(20, attempts.first.as_ref().map(|first| first.text.as_str()))?;
        statement.raw_execute()?;
        let change = self.lane(lane);
        change.last = change.last.max(seq);
        self.forget(lane, message.id.seq)
    }

    fn requeue(&mut self, letter: LetterId, lane: LaneId, message: &Message) -> Result<(), Fault> {
        if dead::remove(self.db, letter)? {
            // Counted in its lane as one that comes.
            self.insert(lane, message)?;
        }
        Ok(())
    }

    fn put(&mut self, record: &RecordKey, value: &[u8]) -> Result<(), Fault> {
        let kind = record.kind as i64;
        let checksum = row::record_checksum(kind, &record.key, value);
        let mut statement =
            self.db.prepare_cached("INSERT OR REPLACE INTO record VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![kind, &record.key[..], value, checksum])?;
        Ok(())
    }

    fn remove(&mut self, record: &RecordKey) -> Result<(), Fault> {
        let mut statement = self.db.prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?;
        statement.execute(params![record.kind as i64, &record.key[..]])?;
        Ok(())
    }

    /// Deletes what is to be forgotten: neighbours are looked at together, and rows without a row between them that stays go in
    /// one range delete.
    fn flush(&mut self) -> Result<(), Fault> {
        let mut keys = std::mem::take(&mut self.forgotten);
        self.lanes.iter_mut().for_each(|change| change.forgets = None);
        // Nearly always in order already, which costs one pass.
        keys.sort_unstable();
        keys.dedup();
        let near = |a: &i64, b: &i64| b - a <= GATHER_WITHIN && row::lane_of(*a) == row::lane_of(*b);
        for group in keys.chunk_by(near) {
            self.delete(group)?;
        }
        Ok(())
    }

    /// Deletes the rows of `keys`, which are in order, not empty, and of one lane.
    fn delete(&mut self, keys: &[i64]) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(()) };
        let (mut rows_gone, mut bytes_gone) = (0_i64, 0_i64);
        // Ranges without a row that stays.
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        {
            let mut select =
                self.db.prepare_cached("SELECT key, bytes FROM message WHERE key BETWEEN ?1 AND ?2")?;
            let mut found = select.query([first, last])?;
            let mut wanted = keys.iter().peekable();
            let mut open = false;
            while let Some(row) = found.next()? {
                let key: i64 = row.get(0)?;
                while wanted.next_if(|k| **k < key).is_some() {}
                if wanted.next_if(|k| **k == key).is_none() {
                    open = false;
                    continue;
                }
                rows_gone += 1;
                // A damaged number of bytes is taken for none; the counter heals when the lane is empty.
                bytes_gone += row.get::<_, i64>(1).unwrap_or(0).clamp(0, 1 << 32);
                match ranges.last_mut().filter(|_| open) {
                    Some(range) => range.1 = key,
                    None => ranges.push((key, key)),
                }
                open = true;
            }
        }
        let mut delete = self.db.prepare_cached("DELETE FROM message WHERE key BETWEEN ?1 AND ?2")?;
        for (low, high) in ranges {
            delete.execute([low, high])?;
        }
        let lane = LaneId(u16::try_from(row::lane_of(*first)).unwrap_or(u16::MAX));
        let change = self.lane(lane);
        change.rows -= rows_gone;
        change.bytes -= bytes_gone;
        Ok(())
    }

    /// Deletes what is left to be forgotten and writes the counters.
    fn finish(mut self) -> Result<Tally, Fault> {
        self.flush()?;
        let mut tally = Tally::default();
        for change in &self.lanes {
            if (change.rows, change.bytes, change.last) == (0, 0, 0) {
                continue;
            }
            count(self.db, change.lane, change.rows, change.bytes, change.last)?;
            tally.rows += change.rows;
            tally.last = tally.last.max(change.last.cast_unsigned());
        }
        Ok(tally)
    }
}

/// Changes the counters of a lane. They never go below nothing, and an empty lane has no bytes.
pub(super) fn count(db: &Connection, lane: LaneId, rows: i64, bytes: i64, last: i64) -> Result<(), Fault> {
    let mut update = db.prepare_cached(
        "UPDATE lane SET rows = max(rows + ?2, 0), last = max(last, ?4),
                         bytes = CASE WHEN rows + ?2 <= 0 THEN 0 ELSE max(bytes + ?3, 0) END
         WHERE id = ?1",
    )?;
    match update.execute(params![lane.0, rows, bytes, last])? {
        1 => Ok(()),
        _ => Err(unknown(lane)),
    }
}

fn unknown(lane: LaneId) -> Fault {
    Fault::Refused(format!("there is no lane {}", lane.0))
}

fn key(lane: LaneId, seq: Seq) -> Result<i64, Fault> {
    row::key(lane, seq).ok_or_else(|| {
        Fault::Refused(format!("lane {} or sequence number {} is beyond what a key holds", lane.0, seq.0))
    })
}
