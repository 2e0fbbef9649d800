//! What a gateway does after a power cut: the real store opens what the cut left, the real engine starts from it and hands over
//! what waits. Says what was found; whether that is enough is the ledger's to judge.

use super::files::OnMedium;
use super::ledger::{Broken, Found, is_whole};
use super::medium::{Image, Medium, Mount};
use super::vfs;
use crate::sim::payload::{self, Key};
use crate::sim::retained;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate::store::sqlite::{Opened, Sizes, SqliteStore, open_on};
use tidegate::store::{Page, Store};
use tidegate_engine::Engine;
use tidegate_engine::event::{Input, Outcome, Output, RecordKey, RecordKind, Recovered, Setup};
use tidegate_engine::id::{LaneId, MessageId, Seq, UpstreamId};
use tidegate_engine::mutant::{Mutant, Planted};
use tidegate_engine::time::{Instant, Now, Stamp};

/// More orders than an engine gives to hand over a small backlog.
const MOST_ORDERS: usize = 100_000;

/// How a gateway starts.
#[derive(Clone, Debug)]
pub(super) struct Start<'a> {
    pub(super) setup: &'a Setup,
    pub(super) sizes: Sizes,
    pub(super) store: Planted,
    pub(super) engine: Option<Mutant>,
}

/// What an open store says of damage, which a power cut must never do.
pub(super) fn sound(opened: &Opened) -> Result<(), Broken> {
    if let Some(to) = &opened.quarantined {
        return Err(format!("corrupt: the database went to {}", to.display()));
    }
    if opened.damaged_records > 0 {
        return Err(format!("corrupt: {} damaged records", opened.damaged_records));
    }
    Ok(())
}

/// A whole lane.
pub(super) fn lane(store: &mut SqliteStore, lane: LaneId) -> Result<Page, Broken> {
    let page = store.load(lane, Seq(0), usize::MAX, usize::MAX);
    let page = page.map_err(|fault| format!("corrupt: {lane:?} cannot be read: {fault:?}"))?;
    if page.damaged > 0 {
        return Err(format!("corrupt: {} damaged rows in {lane:?}", page.damaged));
    }
    Ok(page)
}

/// Starts a gateway from what a cut left. When it `inspects`, SQLite checks the whole file in the end, and the dead letters are
/// counted.
pub(super) fn start(image: Image, start: &Start<'_>, inspects: bool) -> Result<Found, Broken> {
    let mount = Mount::new(Medium::holding(image));
    let upstreams = &start.setup.upstreams;
    let routes = start.setup.routes.iter().map(|route| {
        let upstream = upstreams.get(usize::from(route.upstream.0)).map_or("", |u| &u.name);
        (&*route.name, upstream)
    });
    let routes: Vec<(&str, &str)> = routes.collect();
    let files = Arc::new(OnMedium(mount.clone()));
    let opened = open_on(files, start.store, &mount.dir(), &routes, start.sizes)
        .map_err(|error| format!("corrupt: the store does not open: {error}"))?;
    sound(&opened)?;
    let mut store = opened.store;
    let mut found = Found { epoch: opened.epoch, ..Found::default() };
    for id in &opened.lanes {
        for message in lane(&mut store, *id)?.messages {
            found.digest.add_message(*id, &message);
            found.rows.insert((*id, message.id));
            if !is_whole(&message) {
                found.wrong = Some(format!("{:?} does not say what its device sent", message.id));
            }
            if message.id.seq > opened.recovered.last {
                found.wrong = Some(format!("{:?} may be given again", message.id));
            }
        }
    }
    for (key, value) in &opened.recovered.records {
        found.digest.add_record(key, value);
        match key.kind {
            RecordKind::Retained => found.retained.extend(retained::read(key, value)),
            RecordKind::Outgoing => found.copies.extend(copy(key, value)),
            _ => {}
        }
    }
    let mut setup = start.setup.clone();
    setup.epoch = opened.epoch;
    for (route, lane) in setup.routes.iter_mut().zip(&opened.lanes) {
        route.lane = *lane;
    }
    found.drained = drain(&mut store, setup, opened.recovered, start.engine)?;
    if inspects {
        drop(store);
        found.dead = Some(inspect(&mount)?);
    } else {
        // Without the work that a clean end makes.
        mount.lock().off = true;
    }
    Ok(found)
}

/// The subscriber and the message of a copy that waits for it; `None` when it has been released. The message's payload ends the
/// record.
fn copy(key: &RecordKey, value: &[u8]) -> Option<(u16, Key)> {
    let client = key.key.split(|byte| *byte == 0).next()?;
    let device = std::str::from_utf8(client).ok()?.strip_prefix('d')?.parse().ok()?;
    let message = (0..value.len()).find_map(|at| payload::read(&value[at..]))?;
    Some((device, message))
}

/// Lets the engine hand over what waits, to upstreams that confirm at once. Returns what they got.
fn drain(
    store: &mut SqliteStore,
    setup: Setup,
    recovered: Recovered,
    mutant: Option<Mutant>,
) -> Result<BTreeSet<(LaneId, MessageId)>, Broken> {
    let mut now = Now { instant: Instant(0), wall: Stamp { unix_ms: 0, synchronised: false } };
    let upstreams = setup.upstreams.len();
    // What waits is looked for, all of it: a careful life would give up what two lives ended with.
    let recovered = Recovered { bad_lives: 0, ..recovered };
    let mut engine = Engine::new(setup, recovered, now);
    if let Some(mutant) = mutant {
        engine.plant(mutant);
    }
    for upstream in (0..).take(upstreams) {
        engine.handle(now, Input::UpstreamUp { upstream: UpstreamId(upstream) });
    }
    let mut handed = BTreeSet::new();
    for _ in 0..MOST_ORDERS {
        let Some(output) = engine.poll_output() else { return Ok(handed) };
        now.instant.0 += 1;
        let input = match output {
            Output::Load { lane, after, messages, bytes } => {
                let page = store.load(lane, after, messages, bytes);
                let page = page.map_err(|fault| format!("corrupt: {lane:?} cannot be read: {fault:?}"))?;
                Input::Loaded {
                    lane,
                    messages: page.messages,
                    damaged: page.damaged,
                    note: page.note,
                    upto: page.upto,
                }
            }
            Output::Commit(batch) => {
                let done = store.commit(&batch.ops);
                done.map_err(|fault| format!("corrupt: a commit fails after the cut: {fault:?}"))?;
                Input::Committed { batch: batch.id }
            }
            Output::Publish(publication) => {
                let lane = publication.routing_key.strip_prefix('r').and_then(|rest| rest.split_once('.'));
                let lane = lane.and_then(|(lane, _)| lane.parse().ok()).unwrap_or(u16::MAX);
                handed.insert((LaneId(lane), publication.message.id));
                let (upstream, tag) = (publication.upstream, publication.tag);
                Input::Settled { upstream, tag, outcome: Outcome::Confirmed }
            }
            _ => continue,
        };
        engine.handle(now, input);
    }
    Err("corrupt: the engine gives orders without end".into())
}

/// What SQLite says of the file, and how many dead letters there are.
fn inspect(mount: &Mount) -> Result<usize, Broken> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let path = mount.dir().join("tidegate.db");
    let text = |error: rusqlite::Error| format!("corrupt: {error}");
    let db = Connection::open_with_flags_and_vfs(path, flags, vfs::NAME).map_err(text)?;
    let answer: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(text)?;
    if answer != "ok" {
        return Err(format!("corrupt: SQLite says {answer}"));
    }
    let dead: i64 = db.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get(0)).map_err(text)?;
    Ok(usize::try_from(dead).unwrap_or(0))
}
