//! A medium that damages what it holds: stores with thousands of rows, closed or not, are hit at random; the store must take
//! messages again at once, give back what is whole, give back nothing that is not, and say exactly what is missing.

use super::extents::{Extent, Files, Place};
use super::files::OnMedium;
use super::medium::{Image, Inode, Medium, Mount, Node};
use super::vfs;
use bytes::Bytes;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate::store::sqlite::{Opened, Sizes, open_on};
use tidegate::store::{Salvage, Store};
use tidegate_engine::event::{Op, RecordKey, RecordKind};
use tidegate_engine::id::{DeviceId, LaneId, MessageId, Seq};
use tidegate_engine::message::{Message, Qos, Source};
use tidegate_engine::mutant::Planted;
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

const ROUTES: &[(&str, &str)] = &[("readings", "cloud"), ("alarms", "cloud"), ("images", "file")];

/// Within this a gateway takes messages again.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);

/// Restarts that damage met on the way may cost; each new store is a sound one.
const RESTARTS_MAX: usize = 4;

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Corruptions.
    pub cases: u64,
    /// Cases in which the database went to quarantine.
    pub quarantined: u64,
    /// Rows that waited.
    pub rows: u64,
    /// Rows of which no byte was hit.
    pub sound: u64,
    /// Of those: given back.
    pub sound_given: u64,
    /// Rows of which a byte was hit.
    pub hit: u64,
    /// Of those: given back whole, from an older copy or because what was hit did not matter.
    pub hit_given: u64,
    /// Rows that had been forgotten and came again.
    pub again: u64,
    /// Records of sessions and retained messages.
    pub records: u64,
    /// Of those: given back.
    pub records_given: u64,
    /// Messages that the store says are lost.
    pub said_lost: u64,
    /// Messages that are not given back.
    pub lost: u64,
    /// Cases in which the two differ.
    pub inexact: u64,
    /// The longest time until a message was taken again, in microseconds.
    pub longest_us: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.quarantined += other.quarantined;
        self.rows += other.rows;
        self.sound += other.sound;
        self.sound_given += other.sound_given;
        self.hit += other.hit;
        self.hit_given += other.hit_given;
        self.again += other.again;
        self.records += other.records;
        self.records_given += other.records_given;
        self.said_lost += other.said_lost;
        self.lost += other.lost;
        self.inexact += other.inexact;
        self.longest_us = self.longest_us.max(other.longest_us);
    }
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was counted.
    pub counts: Counts,
    /// By seed, what must never be.
    pub failures: Vec<(u64, String)>,
    /// By seed, what is worth a look.
    pub notes: Vec<(u64, String)>,
}

/// Corrupts one store.
///
/// # Errors
/// What must never be: something damaged was given, or nothing was taken in time.
pub fn case(seed: u64) -> Result<(Counts, Vec<String>), String> {
    vfs::register();
    Case::new(seed).run()
}

/// Corrupts `cases` stores from the seed `from` on.
#[must_use]
pub fn run(from: u64, cases: u64, threads: usize) -> Outcome {
    let next = AtomicU64::new(from);
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + cases {
                        break;
                    }
                    let done = case(seed);
                    let Ok(mut total) = total.lock() else { break };
                    match done {
                        Ok((counts, notes)) => {
                            total.counts += counts;
                            total.notes.extend(notes.into_iter().map(|note| (seed, note)));
                        }
                        Err(broken) => total.failures.push((seed, broken)),
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.failures.sort();
    total.notes.sort();
    total
}

/// What the model has of a message.
type Waiting = BTreeMap<i64, Arc<Message>>;

struct Case {
    rng: Rng,
    mount: Mount,
    waiting: Waiting,
    gone: BTreeSet<MessageId>,
    records: BTreeMap<RecordKey, Bytes>,
    next: u64,
}

fn sizes() -> Sizes {
    Sizes { file_bytes: 512 << 20, wal_bytes: 2 << 20, ballast_bytes: 4_096 }
}

impl Case {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            mount: Mount::new(Medium::holding(Image::default())),
            waiting: Waiting::new(),
            gone: BTreeSet::new(),
            records: BTreeMap::new(),
            next: 0,
        }
    }

    fn open(&self) -> Result<Opened, String> {
        let files = Arc::new(OnMedium(self.mount.clone()));
        open_on(files, Planted::default(), &self.mount.dir(), ROUTES, sizes())
            .map_err(|error| format!("the store does not open: {error}"))
    }

    fn message(&mut self, epoch: u64, lane: usize) -> Arc<Message> {
        self.next += 1;
        let device = self.rng.u8(..20);
        let bytes = match lane {
            2 => self.rng.usize(1_000..40_000),
            _ => self.rng.usize(..220),
        };
        let name = DeviceId::new(&format!("device-{device}"));
        let topic = Topic::new(&format!("sensors/device-{device}/{lane}"));
        let (Ok(device), Ok(topic)) = (name, topic) else { unreachable!("both are well formed") };
        Arc::new(Message {
            id: MessageId { epoch, seq: Seq(self.next) },
            device,
            topic,
            payload: std::iter::repeat_with(|| self.rng.u8(..)).take(bytes).collect(),
            received: Stamp { unix_ms: 1_700_000_000_000 + self.next.cast_signed(), synchronised: true },
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        })
    }

    /// Fills a store, with what comes and goes.
    fn fill(&mut self, opened: &mut Opened) -> Result<(), String> {
        self.next = opened.recovered.last.0;
        let large = self.rng.u8(2..20);
        let leaves = self.rng.u8(..40);
        for _ in 0..self.rng.usize(15..50) {
            let mut ops = Vec::new();
            for _ in 0..self.rng.usize(1..200) {
                let route = if self.rng.u8(..100) < large { 2 } else { self.rng.usize(..2) };
                let (lane, message) = (opened.lanes[route], self.message(opened.epoch, route));
                self.waiting.insert(key(lane, message.id.seq), Arc::clone(&message));
                ops.push(Op::Insert { lane, message });
            }
            for _ in 0..self.rng.u8(..8) {
                let kind = *self
                    .rng
                    .choice(&[RecordKind::Retained, RecordKind::Session])
                    .unwrap_or(&RecordKind::Will);
                let name = format!("client-{}", self.rng.u8(..200));
                let key = RecordKey { kind, key: name.into() };
                let bytes = if self.rng.u8(..20) == 0 { 3_000 } else { 60 };
                let value: Bytes = std::iter::repeat_with(|| self.rng.u8(..)).take(bytes).collect();
                self.records.insert(key.clone(), value.clone());
                ops.push(Op::Put { key, value });
            }
            if self.rng.u8(..100) < leaves {
                let count = self.rng.usize(..=self.waiting.len() / 4);
                let first: Vec<i64> = self.waiting.keys().take(count).copied().collect();
                for key in first {
                    let Some(message) = self.waiting.remove(&key) else { continue };
                    self.gone.insert(message.id);
                    let lane = LaneId(u16::try_from(key >> 48).unwrap_or(0));
                    ops.push(Op::Forget { lane, seq: message.id.seq });
                }
            }
            opened.store.commit(&ops).map_err(|fault| format!("a commit on a sound medium: {fault:?}"))?;
            opened.store.upkeep(self.rng.u8(..10) == 0);
        }
        Ok(())
    }

    fn inode(&self, name: &str) -> Option<Inode> {
        match self.mount.lock().node(&Path::new("/data").join(name)) {
            Some(Node::File(inode)) => Some(inode),
            _ => None,
        }
    }

    /// Where every row stands.
    fn extents(&self) -> Result<BTreeMap<i64, Vec<Extent>>, String> {
        let (database, wal) = (self.inode("tidegate.db"), self.inode("tidegate.db-wal"));
        let medium = self.mount.lock();
        let database = database.and_then(|inode| medium.content(inode)).ok_or("there is no database")?;
        let files = Files::new(database, wal.and_then(|inode| medium.content(inode)));
        let rows = files.rows(&self.waiting.keys().copied().collect());
        if rows.len() == self.waiting.len() {
            Ok(rows)
        } else {
            Err(format!("the proof finds {} rows of {}", rows.len(), self.waiting.len()))
        }
    }

    /// Damages the medium, and says what was hit.
    fn damage(&mut self) -> Result<(Vec<Extent>, String), String> {
        let mut hit = Vec::new();
        let mut said = String::new();
        for _ in 0..self.rng.usize(1..4) {
            let wal = self.inode("tidegate.db-wal").filter(|_| self.rng.u8(..3) == 0);
            let (place, inode) = match wal {
                Some(inode) => (Place::Wal, inode),
                None => (Place::Database, self.inode("tidegate.db").ok_or("there is no database")?),
            };
            let mut medium = self.mount.lock();
            let length = medium.content(inode).map_or(0, super::content::Content::len);
            if length == 0 {
                continue;
            }
            let page = self.rng.u64(..length.div_ceil(4_096)) * 4_096;
            let whole = page..(page + 4_096).min(length);
            let (what, bytes) = match self.rng.u8(..100) {
                0..55 => {
                    let at = self.rng.u64(..length);
                    let mut byte = [0];
                    medium.content(inode).map(|content| content.read(at, &mut byte));
                    byte[0] ^= 1 << self.rng.u8(..8);
                    medium.write(inode, at, &byte, false).map_err(|e| e.to_string())?;
                    ("a bit", at..at + 1)
                }
                55..70 => {
                    let zeros = vec![0; (whole.end - whole.start) as usize];
                    medium.write(inode, page, &zeros, false).map_err(|e| e.to_string())?;
                    ("a page of zeros", whole)
                }
                70..85 => {
                    let garbage: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..))
                        .take((whole.end - whole.start) as usize)
                        .collect();
                    medium.write(inode, page, &garbage, false).map_err(|e| e.to_string())?;
                    ("a page of garbage", whole)
                }
                85..92 => {
                    let keeps = self.rng.u64(length / 2..length);
                    medium.set_len(inode, keeps).map_err(|e| e.to_string())?;
                    ("the end", keeps..length)
                }
                92..95 => {
                    medium.write(inode, 0, &[0xEE; 100], false).map_err(|e| e.to_string())?;
                    ("the header", 0..100.min(length))
                }
                95..98 if place == Place::Wal => {
                    medium.set_len(inode, 0).map_err(|e| e.to_string())?;
                    ("everything", 0..length)
                }
                98.. if place == Place::Database => {
                    let garbage: Vec<u8> =
                        std::iter::repeat_with(|| self.rng.u8(..)).take(length as usize).collect();
                    medium.write(inode, 0, &garbage, false).map_err(|e| e.to_string())?;
                    ("everything", 0..length)
                }
                _ => continue,
            };
            said.push_str(&format!("{what} of the {place:?} of {length} at {}; ", bytes.start));
            hit.push(Extent { place, bytes });
        }
        Ok((hit, said))
    }

    fn run(mut self) -> Result<(Counts, Vec<String>), String> {
        let mut opened = self.open()?;
        self.fill(&mut opened)?;
        let runs_on = self.rng.u8(..3) == 0;
        let mut left = None;
        if runs_on {
            left = Some(opened);
        } else if self.rng.bool() {
            drop(opened);
        } else {
            self.mount.lock().off = true;
            drop(opened);
            let mut medium = self.mount.lock();
            medium.off = false;
            medium.locked_by_nobody();
        }
        let extents = self.extents()?;
        let (hit, said) = self.damage()?;
        let is_hit = |key: &i64| {
            extents.get(key).is_some_and(|own| own.iter().any(|own| hit.iter().any(|hit| own.meets(hit))))
        };
        let hit_rows: BTreeSet<i64> = self.waiting.keys().filter(|key| is_hit(key)).copied().collect();

        let mut given: BTreeMap<MessageId, Arc<Message>> = BTreeMap::new();
        let mut counts = Counts { cases: 1, rows: self.waiting.len() as u64, ..Counts::default() };
        let mut records = BTreeMap::new();
        let mut damaged = 0;
        let mut restarts = 0;
        loop {
            let began = Instant::now();
            let mut opened = match left.take() {
                Some(opened) => opened,
                None => {
                    let mut opened = self.open()?;
                    let epoch = opened.epoch;
                    let seq = opened.recovered.last.0.max(self.next);
                    self.next = seq;
                    let message = self.message(epoch, 0);
                    let op = Op::Insert { lane: opened.lanes[0], message: Arc::clone(&message) };
                    if let Err(fault) = opened.store.commit(&[op]) {
                        restarts += 1;
                        if restarts > RESTARTS_MAX {
                            return Err(format!("nothing is taken: {fault:?} ({said})"));
                        }
                        drop(opened);
                        continue;
                    }
                    self.gone.insert(message.id);
                    let took = began.elapsed();
                    if took > AGAIN_WITHIN {
                        return Err(format!("taken again only after {took:?} ({said})"));
                    }
                    counts.longest_us = counts.longest_us.max(took.as_micros() as u64);
                    opened
                }
            };
            counts.quarantined += u64::from(opened.quarantined.is_some());
            if records.is_empty() || opened.quarantined.is_some() {
                records = opened.recovered.records.iter().cloned().collect();
            }
            for _ in 0..1_000_000 {
                match opened.store.salvage() {
                    Salvage::More | Salvage::Lost(_) => {}
                    Salvage::Nothing | Salvage::Done(_) => break,
                    Salvage::Later => return Err(format!("salvaging does not go on ({said})")),
                }
            }
            let lanes: Vec<LaneId> =
                opened.lanes.iter().copied().chain(opened.orphans.iter().map(|o| o.lane)).collect();
            let read =
                lanes.iter().try_for_each(|lane| self.drain(&mut opened, *lane, &mut given, &mut damaged));
            let progress = opened.progress.now();
            counts.said_lost += progress.lost;
            match read {
                Ok(()) => break,
                Err(fault) if restarts < RESTARTS_MAX && fault.starts_with("fault") => {
                    restarts += 1;
                    // As a restart of the process does: nobody closes a damaged database.
                    self.mount.lock().off = true;
                    drop(opened);
                    let mut medium = self.mount.lock();
                    medium.off = false;
                    medium.locked_by_nobody();
                }
                Err(broken) => return Err(format!("{broken} ({said})")),
            }
        }
        counts.said_lost += damaged;
        for (key, value) in &self.records {
            counts.records += 1;
            match records.get(key) {
                Some(found) if found == value => counts.records_given += 1,
                _ => {}
            }
        }
        let mut notes = Vec::new();
        for (key, message) in &self.waiting {
            let is_given = given.contains_key(&message.id);
            match (hit_rows.contains(key), is_given) {
                (false, given) => {
                    counts.sound += 1;
                    counts.sound_given += u64::from(given);
                }
                (true, given) => {
                    counts.hit += 1;
                    counts.hit_given += u64::from(given);
                }
            }
            counts.lost += u64::from(!is_given);
        }
        let known: BTreeSet<MessageId> = self.waiting.values().map(|message| message.id).collect();
        counts.again = given.keys().filter(|id| !known.contains(id)).count() as u64;
        if counts.sound_given < counts.sound {
            notes.push(format!(
                "{} of {} sound rows are missing: {said}",
                counts.sound - counts.sound_given,
                counts.sound
            ));
        }
        if counts.said_lost != counts.lost {
            counts.inexact = 1;
            notes.push(format!("{} are lost, and {} are said to be: {said}", counts.lost, counts.said_lost));
        }
        Ok((counts, notes))
    }

    /// Reads a lane as the engine does, to its end.
    fn drain(
        &self,
        opened: &mut Opened,
        lane: LaneId,
        given: &mut BTreeMap<MessageId, Arc<Message>>,
        damaged: &mut u64,
    ) -> Result<(), String> {
        let by_id: BTreeMap<MessageId, &Arc<Message>> = self.waiting.values().map(|m| (m.id, m)).collect();
        let mut after = Seq(0);
        loop {
            let page =
                opened.store.load(lane, after, 500, 4 << 20).map_err(|fault| format!("fault: {fault:?}"))?;
            *damaged += page.damaged;
            let mut forgets = Vec::new();
            for message in page.messages {
                let id = message.id;
                forgets.push(Op::Forget { lane, seq: id.seq });
                match by_id.get(&id) {
                    Some(sent) if ***sent != message => return Err(format!("{id:?} is not as it was sent")),
                    Some(_) => {}
                    None if self.gone.contains(&id) => {}
                    None => return Err(format!("{id:?} was never sent")),
                }
                given.insert(id, Arc::new(message));
            }
            opened.store.commit(&forgets).map_err(|fault| format!("fault: {fault:?}"))?;
            match page.upto {
                Some(upto) => after = upto,
                None => return Ok(()),
            }
        }
    }
}

fn key(lane: LaneId, seq: Seq) -> i64 {
    i64::from(lane.0) << 48 | seq.0.cast_signed()
}
