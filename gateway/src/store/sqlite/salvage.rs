//! What is whole in databases that went to quarantine comes back: records at the start, messages and dead letters step by step
//! beside the orders. Each step and how far it came are one transaction, so that no end of the process loses or doubles
//! anything. Messages keep their ids and stand in lanes of their own. It changes nothing in quarantine but its report.

mod cells;
mod image;
mod report;

pub(super) use image::{Last, Wal};
pub use report::{Progress, Quarantined};

use super::dir::DataDir;
use super::fault::Fault;
use super::quarantine::Generation;
use super::row::{self, Derived};
use super::{commit, lanes};
use cells::{Kind, Row};
use image::{Image, Pages};
use report::Counts;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidegate_engine::event::{LaneState, Loss, LossReason, RecordKey, RecordKind};
use tidegate_engine::id::LaneId;

/// Pages that one step looks at: a quarter of a megabyte, read within milliseconds by a slow card.
const PAGES_A_STEP: u32 = 64;
/// Of messages found, in bytes, with which a step ends early.
const BYTES_A_STEP: usize = 1 << 20;

/// For so long the start looks through a whole file for records when their own pages do not lead to all of them.
const RECORDS_WITHIN: Duration = Duration::from_millis(500);

/// By how much the reserved numbers of an OSCORE key are raised with each lost database: what was reserved last may be among
/// what is lost, and no number may be used twice (RFC 8613, B.1.1). More than a key uses in years; there are 2^40.
const OSCORE_JUMP: u64 = 1 << 32;
/// The record of how far the numbers of keys are used up of which nothing else is known; its name is no key's.
const OSCORE_FLOOR: &[u8] = b"after a loss";

/// Where in the new database stands how far a generation was salvaged, and what of it.
const AT: &str = "salvage";
const RECORDS: &str = "records";
const FOUND: &str = "found";
const KNOWN: &str = "known";
const DEAD: &str = "dead";

/// A page number beyond every page: the generation was looked through.
const DONE: i64 = i64::MAX;

/// What is left to be salvaged.
#[derive(Debug)]
pub(super) struct Salvager {
    /// The oldest first.
    waiting: Vec<Generation>,
    work: Option<Work>,
    /// The lane for what is salvaged, by route.
    lanes: BTreeMap<String, LaneId>,
    /// The configured routes in their order, for rows whose lane nobody knows any more.
    routes: Vec<String>,
    /// Until the medium has room again.
    rests_until: Option<Instant>,
    /// Messages kept in this life.
    kept: u64,
    progress: Progress,
}

/// How long a full medium is left alone, and one that fails.
const REST: Duration = Duration::from_secs(1);
const LONG_REST: Duration = Duration::from_secs(30);

/// The generation at hand.
#[derive(Debug)]
struct Work {
    generation: Generation,
    image: Image,
    free: Pages,
    /// Its lanes by number, as lanes for what is salvaged.
    lanes: BTreeMap<i64, LaneId>,
    /// The lanes for what is salvaged, for the configured routes in their order.
    fallback: Vec<LaneId>,
    /// Rows up to this number may have been salvaged from an earlier generation already.
    earlier: u64,
    unreadable: u64,
}

/// What a step came to.
pub(super) enum Step {
    /// There is more.
    More,
    /// A generation is looked through, and this is lost.
    Lost(Loss, RecordKey),
    /// Everything is done, and these lanes have something.
    Done(Vec<LaneState>),
}

fn remember(db: &Connection, what: &str, generation: &str, value: i64) -> Result<(), Fault> {
    let mut put = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1 || ' ' || ?2, ?3)")?;
    put.execute(params![what, generation, value])?;
    Ok(())
}

fn recall(db: &Connection, what: &str, generation: &str) -> Result<Option<i64>, Fault> {
    let mut get = db.prepare_cached("SELECT value FROM meta WHERE name = ?1 || ' ' || ?2")?;
    Ok(get.query_row(params![what, generation], |row| row.get(0)).optional()?)
}

fn number(db: &Connection, what: &str, generation: &str) -> Result<u64, Fault> {
    Ok(recall(db, what, generation)?.unwrap_or(0).max(0).cast_unsigned())
}

/// A medium that cannot be read is damaged there.
fn open(dir: &DataDir, generation: &Generation) -> Result<Image, Fault> {
    Image::open(dir.files(), &generation.database(), &generation.wal())
        .map_err(|error| Fault::Refused(format!("cannot read {}: {error}", generation.path().display())))
}

/// At the start, before anybody looks at the records: puts back those of the generations of which they are not put back yet,
/// and says whether there were any. `losses` counts the databases lost, these included.
pub(super) fn records(db: &mut Connection, dir: &DataDir, losses: u64) -> Result<bool, Fault> {
    let mut any = false;
    for generation in dir.unsalvaged() {
        if recall(db, RECORDS, &generation.name)?.is_some() {
            continue;
        }
        let found = match open(dir, &generation) {
            Ok(image) => find_records(db, &image)?,
            Err(fault) => {
                tracing::error!(%fault, "sessions and retained messages cannot be salvaged: they begin anew");
                Vec::new()
            }
        };
        any = true;
        let tx = db.transaction()?;
        let mut count = 0;
        let mut floor = losses.saturating_mul(OSCORE_JUMP);
        for (kind, key, mut value) in found {
            if kind == RecordKind::OscoreSequence as i64 {
                let upto = value.first_chunk().map_or(u64::MAX, |upto| u64::from_be_bytes(*upto));
                let upto = upto.saturating_add(OSCORE_JUMP);
                if key == OSCORE_FLOOR {
                    floor = floor.max(upto);
                }
                value = upto.to_be_bytes().to_vec().into();
            }
            count += put_record(&tx, "INSERT OR IGNORE", kind, &key, &value)?;
        }
        let floor = floor.to_be_bytes();
        put_record(&tx, "INSERT OR REPLACE", RecordKind::OscoreSequence as i64, OSCORE_FLOOR, &floor)?;
        remember(&tx, RECORDS, &generation.name, i64::try_from(count).unwrap_or(i64::MAX))?;
        tx.commit()?;
    }
    Ok(any)
}

fn put_record(db: &Connection, how: &str, kind: i64, key: &[u8], value: &[u8]) -> Result<usize, Fault> {
    let checksum = row::record_checksum(kind, key, value);
    let mut put = db.prepare_cached(&format!("{how} INTO record VALUES (?1, ?2, ?3, ?4)"))?;
    Ok(put.execute(params![kind, key, value, checksum])?)
}

type Record = (i64, bytes::Bytes, bytes::Bytes);

/// Goes down the tree of the records; where that has damage, looks through the rest of the file as well, as far as time allows.
fn find_records(db: &Connection, image: &Image) -> Result<Vec<Record>, Fault> {
    // The same statements made both databases: the tables stand in the same places.
    let root: u32 =
        db.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'record'", [], |row| row.get(0))?;
    let mut found = Vec::new();
    let mut seen = Pages::default();
    let mut sound = true;
    let mut below = vec![root];
    let take = |page, found: &mut Vec<Record>| match cells::rows(image, page, Kind::Records) {
        Ok(rows) => {
            let records = rows.rows.into_iter().filter_map(|row| match row {
                Row::Record { kind, key, value } => Some((kind, key, value)),
                _ => None,
            });
            found.extend(records);
            rows.sound
        }
        Err(_) => false,
    };
    while let Some(page) = below.pop() {
        if page < 2 || page > image.pages || !seen.insert(page) {
            sound = false;
            continue;
        }
        sound &= take(page, &mut found);
        match image.page(page) {
            Ok(bytes) => below.extend(cells::below(&bytes, page)),
            Err(_) => sound = false,
        }
    }
    if !sound {
        let free = image.free().unwrap_or_default();
        let until = Instant::now() + RECORDS_WITHIN;
        for page in 2..=image.pages {
            if !seen.contains(page) && !free.contains(page) {
                take(page, &mut found);
            }
            if page % PAGES_A_STEP == 0 && Instant::now() > until {
                tracing::warn!("not all pages could be looked through for sessions' records in time");
                break;
            }
        }
    }
    Ok(found)
}

/// The routes for which there must be lanes, as pairs of their names and their upstreams': those that are configured and those
/// whose messages may be found.
pub(super) fn routes(dir: &DataDir, configured: &[(&str, &str)]) -> Vec<(String, String)> {
    let waiting = dir.unsalvaged();
    if waiting.is_empty() {
        return Vec::new();
    }
    let mut routes: BTreeMap<String, String> = BTreeMap::new();
    for generation in &waiting {
        for (route, upstream) in generation.lanes(dir.files()).into_values() {
            routes.insert(lanes::route_of(&route).0.to_owned(), upstream);
        }
    }
    routes.extend(configured.iter().map(|(route, upstream)| ((*route).to_owned(), (*upstream).to_owned())));
    routes.into_iter().collect()
}

impl Salvager {
    /// What there is to be done, if anything.
    pub(super) fn new(
        dir: &DataDir,
        lanes: BTreeMap<String, LaneId>,
        routes: &[(&str, &str)],
        progress: Progress,
    ) -> Option<Self> {
        let waiting = dir.unsalvaged();
        progress.begin(waiting.len());
        let routes = routes.iter().map(|(route, _)| (*route).to_owned()).collect();
        (!waiting.is_empty()).then_some(Self {
            waiting,
            work: None,
            lanes,
            routes,
            rests_until: None,
            kept: 0,
            progress,
        })
    }

    /// The lanes of a new configuration.
    pub(super) fn configure(&mut self, lanes: BTreeMap<String, LaneId>, routes: &[(&str, &str)]) {
        self.lanes = lanes;
        self.routes = routes.iter().map(|(route, _)| (*route).to_owned()).collect();
        // It is taken up again where it is, with the new lanes.
        self.work = None;
    }

    /// Messages kept in this life.
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// Whether the medium is to be left alone for now.
    pub(super) fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// The medium is full, or fails.
    pub(super) fn rest(&mut self, full: bool) {
        self.rests_until = Some(Instant::now() + if full { REST } else { LONG_REST });
    }

    /// The lanes for what is salvaged.
    pub(super) fn states(&self, db: &Connection) -> Result<Vec<LaneState>, Fault> {
        let mut states = Vec::new();
        for lane in self.lanes.values() {
            states.extend(lanes::state(db, *lane)?);
        }
        Ok(states)
    }

    /// Looks at some pages and keeps what is whole in them.
    pub(super) fn step(&mut self, db: &mut Connection, dir: &DataDir) -> Result<Step, Fault> {
        let Some(work) = &mut self.work else { return self.next(db, dir) };
        let name = work.generation.name.clone();
        let first = u32::try_from(recall(db, AT, &name)?.unwrap_or(2)).unwrap_or(u32::MAX);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut page = first;
        while page <= work.image.pages && page - first < PAGES_A_STEP && bytes < BYTES_A_STEP {
            if !work.free.contains(page) {
                match cells::rows(&work.image, page, Kind::Messages) {
                    Ok(found) => {
                        bytes += found.bytes;
                        rows.extend(found.rows);
                    }
                    Err(_) => work.unreadable += 1,
                }
            }
            page += 1;
        }
        let done = page > work.image.pages;
        let tx = db.transaction()?;
        let kept = work.keep(&tx, &rows)?;
        for (what, more) in [(FOUND, kept.found), (KNOWN, kept.known), (DEAD, kept.dead)] {
            let before = number(&tx, what, &name)?;
            remember(&tx, what, &name, before.saturating_add(more).cast_signed())?;
        }
        remember(&tx, AT, &name, if done { DONE } else { page.into() })?;
        let mut lost = None;
        if done {
            let counts = work.counts(&tx, dir)?;
            if let Some(messages) = counts.lost().filter(|lost| *lost > 0) {
                lost = Some((damage(None, messages), note(&tx, name.clone(), messages, None)?));
            }
        }
        tx.commit()?;
        self.kept += kept.found;
        self.progress.salvaged(kept.found);
        if done {
            self.finish(db, dir)?;
        }
        Ok(lost.map_or(Step::More, |(loss, note)| Step::Lost(loss, note)))
    }

    /// Takes up the next generation, or is done.
    fn next(&mut self, db: &mut Connection, dir: &DataDir) -> Result<Step, Fault> {
        let Some(generation) = self.waiting.first().cloned() else {
            return Ok(Step::Done(self.states(db)?));
        };
        let image = open(dir, &generation)?;
        let free = image.free().unwrap_or_default();
        let known = generation.lanes(dir.files());
        let lane = |route: &str| self.lanes.get(lanes::route_of(route).0).copied();
        let lanes = known.iter().filter_map(|(id, (route, _))| Some((*id, lane(route)?))).collect();
        let fallback = self.routes.iter().filter_map(|route| lane(route)).collect();
        let earlier = dir.reached_before(&generation);
        let done = recall(db, AT, &generation.name)? == Some(DONE);
        tracing::info!(
            quarantined = %generation.path().display(),
            pages = image.pages,
            "salvaging what is whole in a damaged database"
        );
        self.work = Some(Work { generation, image, free, lanes, fallback, earlier, unreadable: 0 });
        if done {
            // The last life ended before it wrote the report.
            self.finish(db, dir)?;
        }
        Ok(Step::More)
    }

    /// Everything in the generation has been looked at: says what became of it.
    fn finish(&mut self, db: &Connection, dir: &DataDir) -> Result<(), Fault> {
        let Some(work) = &self.work else { return Ok(()) };
        let generation = &work.generation;
        let counts = work.counts(db, dir)?;
        let text = counts.text(generation.path());
        generation.finish(dir.files(), &text).map_err(|error| {
            Fault::Refused(format!("cannot write the report in {}: {error}", generation.path().display()))
        })?;
        for line in text.lines() {
            tracing::error!("{line}");
        }
        // What is written there is needed no more.
        for what in [AT, RECORDS, FOUND, KNOWN, DEAD] {
            let name = format!("{what} {}", generation.name);
            db.execute("DELETE FROM meta WHERE name = ?1", [name])?;
        }
        self.progress.finish(generation.path(), &counts);
        self.work = None;
        self.waiting.remove(0);
        Ok(())
    }
}

#[derive(Default)]
struct Kept {
    found: u64,
    known: u64,
    dead: u64,
}

/// Messages that stood on damage.
fn damage(lane: Option<LaneId>, messages: u64) -> Loss {
    Loss { lane, device: None, topic: None, count: messages, received: None, reason: LossReason::Damaged }
}

/// Notes, in a transaction with what it is about, what damage cost: until the ledger has it, each start tells it again.
pub(super) fn note(
    tx: &Connection,
    found: String,
    messages: u64,
    lane: Option<LaneId>,
) -> Result<RecordKey, Fault> {
    let key = bytes::Bytes::from(found.into_bytes());
    let mut value = messages.to_be_bytes().to_vec();
    value.extend(lane.map(|lane| lane.0.to_be_bytes()).into_iter().flatten());
    put_record(tx, "INSERT OR REPLACE", RecordKind::Damage as i64, &key, &value)?;
    Ok(RecordKey { kind: RecordKind::Damage, key })
}

/// Losses that were noted and that the ledger does not have yet.
pub(super) fn noted(records: &[(RecordKey, bytes::Bytes)]) -> Vec<(Loss, RecordKey)> {
    let notes = records.iter().filter(|(key, _)| key.kind == RecordKind::Damage);
    let loss = |value: &[u8]| {
        let (messages, lane) = value.split_first_chunk().map_or((1, None), |(messages, rest)| {
            (u64::from_be_bytes(*messages), rest.first_chunk().map(|lane| LaneId(u16::from_be_bytes(*lane))))
        });
        damage(lane, messages)
    };
    notes.map(|(key, value)| (loss(value), key.clone())).collect()
}

impl Work {
    /// What was found in it so far.
    fn counts(&self, db: &Connection, dir: &DataDir) -> Result<Counts, Fault> {
        let name = &self.generation.name;
        Ok(Counts {
            expected: self.generation.reached(dir.files()).map(|reached| reached.rows),
            messages: number(db, FOUND, name)? + number(db, KNOWN, name)?,
            dead_letters: number(db, DEAD, name)?,
            records: number(db, RECORDS, name)?,
            unreadable_pages: self.unreadable,
        })
    }

    fn keep(&self, tx: &Connection, rows: &[Row]) -> Result<Kept, Fault> {
        let mut kept = Kept::default();
        let mut changes: BTreeMap<LaneId, (i64, i64)> = BTreeMap::new();
        let insert = format!("INSERT OR IGNORE INTO message VALUES ({})", places(14));
        let bury = format!("INSERT OR IGNORE INTO dead_letter VALUES ({})", places(21));
        for row in rows {
            match row {
                Row::Message { lane, message } => {
                    let Some(lane) = self.lane(*lane) else {
                        return Err(Fault::Refused("there is no lane for what is salvaged".into()));
                    };
                    let Some(key) = row::key(lane, message.id.seq) else { continue };
                    let derived = Derived::of(key, message);
                    let mut insert = tx.prepare_cached(&insert)?;
                    derived.bind(&mut insert, 1, key, message)?;
                    if insert.raw_execute()? > 0 {
                        kept.found += 1;
                        let (rows, bytes) = changes.entry(lane).or_default();
                        *rows += 1;
                        *bytes += derived.bytes;
                    } else if message.id.seq.0 <= self.earlier {
                        kept.known += 1;
                    }
                }
                Row::Dead { id, buried_ms, route, reason, message, tried } => {
                    let mut bury = tx.prepare_cached(&bury)?;
                    let seq = message.id.seq.0.cast_signed();
                    bury.raw_bind_parameter(1, id)?;
                    bury.raw_bind_parameter(2, buried_ms)?;
                    bury.raw_bind_parameter(3, route)?;
                    bury.raw_bind_parameter(4, reason)?;
                    Derived::of(seq, message).bind(&mut bury, 5, seq, message)?;
                    bury.raw_bind_parameter(19, tried.attempts)?;
                    bury.raw_bind_parameter(20, tried.first_ms)?;
                    bury.raw_bind_parameter(21, tried.first_reason.as_deref())?;
                    kept.dead += bury.raw_execute()? as u64;
                }
                Row::Record { .. } => {}
            }
        }
        for (lane, (rows, bytes)) in changes {
            commit::count(tx, lane, rows, bytes, 0)?;
        }
        Ok(kept)
    }

    /// Where the rows of a lane go. When nobody knows any more whose it was: to the route that would have it had the routes
    /// never changed, and else to the first one; better there than nowhere.
    fn lane(&self, lane: i64) -> Option<LaneId> {
        let known = self.lanes.get(&lane).copied();
        known.or_else(|| {
            let number = usize::try_from(lane).ok()?.checked_sub(1)?;
            self.fallback.get(number).or(self.fallback.first()).copied()
        })
    }
}

fn places(columns: usize) -> String {
    (1..=columns).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}
