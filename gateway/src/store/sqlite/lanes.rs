//! Lanes: a number for each route, kept for as long as the route is configured or has messages waiting, and how much waits in each.

use super::fault::Fault;
use super::row;
use crate::store::{Lanes, Orphan};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_engine::event::LaneState;
use tidegate_engine::id::{LaneId, Seq};

/// Lanes at the most, those of routes that are gone included. Each costs the engine a queue.
pub(super) const LANES_MAX: usize = 1_000;

/// What to do with the lanes of routes that are gone and have nothing waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unused {
    /// At the start nobody else knows them.
    Remove,
    /// While the gateway runs, the engine may still put messages there that it has in memory.
    Keep,
}

/// What follows a route's name in that of the lane of what is salvaged for it. No configured name has a control character.
const SALVAGED: &str = "\u{1F}salvaged";

/// The route of a lane, and whether the lane is for what is salvaged.
pub(super) fn route_of(name: &str) -> (&str, bool) {
    name.strip_suffix(SALVAGED).map_or((name, false), |route| (route, true))
}

/// The lanes as they stand.
pub(super) struct State {
    /// One for each given route; fewer when there would be more than [`LANES_MAX`].
    pub(super) lanes: Lanes,
    /// Those that have rows.
    pub(super) states: Vec<LaneState>,
    /// The highest sequence number that any row ever had, as far as is known.
    pub(super) last: Seq,
    /// The route of every lane.
    pub(super) names: BTreeMap<LaneId, String>,
    /// Messages waiting, in all lanes.
    pub(super) rows: u64,
    /// Each lane's number, name and upstream.
    pub(super) all: Vec<(i64, String, String)>,
    /// The lane of what is salvaged for each route.
    pub(super) salvaged: BTreeMap<String, LaneId>,
}

struct Found {
    id: LaneId,
    route: String,
    upstream: String,
    rows: i64,
    bytes: i64,
    last: i64,
    last_row: Option<i64>,
}

/// Gives each route, by its name, the lane that it has, or a new one. A lane follows its route to another upstream. While
/// something is to be salvaged, each route in `salvages`, as a pair of its name and its upstream's, has a lane for that, too;
/// what is in it is nobody's yet.
pub(super) fn assign(
    db: &mut Connection,
    routes: &[(&str, &str)],
    unused: Unused,
    salvages: &[(String, String)],
) -> Result<State, Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut last: i64 = tx
        .query_row("SELECT value FROM meta WHERE name = 'last'", [], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let mut kept = Vec::new();
    let mut names = BTreeMap::new();
    for mut lane in read(&tx)? {
        last = last.max(lane.last);
        let (route, is_salvaged) = route_of(&lane.route);
        let configured = routes.iter().find(|(name, _)| *name == route);
        let awaited = is_salvaged && salvages.iter().any(|(name, _)| name == route);
        if lane.last_row.is_none() && (lane.rows, lane.bytes) != (0, 0) {
            // Counters that damage has thrown off heal when the lane is empty.
            tx.execute("UPDATE lane SET rows = 0, bytes = 0 WHERE id = ?1", [lane.id.0])?;
            (lane.rows, lane.bytes) = (0, 0);
        }
        match configured {
            Some((_, upstream)) if *upstream != lane.upstream => {
                tx.execute("UPDATE lane SET upstream = ?2 WHERE id = ?1", params![lane.id.0, upstream])?;
                lane.upstream = (*upstream).to_owned();
            }
            _ if awaited => {}
            Some(_) if !is_salvaged => {}
            _ if lane.last_row.is_none() && unused == Unused::Remove => {
                tx.execute("DELETE FROM lane WHERE id = ?1", [lane.id.0])?;
                continue;
            }
            _ => {}
        }
        names.insert(lane.id, route_of(&lane.route).0.to_owned());
        kept.push(lane);
    }

    let mut by_name: BTreeMap<String, LaneId> =
        kept.iter().map(|lane| (lane.route.clone(), lane.id)).collect();
    let mut taken: BTreeSet<u16> = kept.iter().map(|lane| lane.id.0).collect();
    let mut ids = Vec::with_capacity(routes.len());
    let mut salvaged = BTreeMap::new();
    let own = routes.iter().map(|(route, upstream)| ((*route).to_owned(), *upstream));
    let others = salvages.iter().map(|(route, upstream)| (format!("{route}{SALVAGED}"), upstream.as_str()));
    for (number, (route, upstream)) in own.chain(others).enumerate() {
        let id = match by_name.get(&route) {
            Some(id) => *id,
            None => {
                let free =
                    (1..=row::LANE_MAX).find(|id| !taken.contains(id)).filter(|_| taken.len() < LANES_MAX);
                let Some(free) = free else { break };
                tx.execute(
                    "INSERT INTO lane (id, route, upstream) VALUES (?1, ?2, ?3)",
                    params![free, route, upstream],
                )?;
                taken.insert(free);
                by_name.insert(route.clone(), LaneId(free));
                names.insert(LaneId(free), route_of(&route).0.to_owned());
                let upstream = upstream.to_owned();
                let (route, last_row) = (route.clone(), None);
                kept.push(Found { id: LaneId(free), route, upstream, rows: 0, bytes: 0, last: 0, last_row });
                LaneId(free)
            }
        };
        if number < routes.len() {
            ids.push(id);
        } else {
            salvaged.insert(route_of(&route).0.to_owned(), id);
        }
    }
    // Whatever lanes were removed: their sequence numbers are not given again.
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('last', ?1)", [last])?;
    tx.commit()?;

    let states = kept
        .iter()
        // What is being salvaged into is told of when it is complete, in its order.
        .filter(|lane| !salvaged.values().any(|id| *id == lane.id))
        .filter_map(|lane| {
            Some(LaneState {
                lane: lane.id,
                last: row::seq_of(lane.last_row?),
                rows: u64::try_from(lane.rows).unwrap_or(0),
                bytes: u64::try_from(lane.bytes).unwrap_or(0),
            })
        })
        .collect();
    let rows = kept.iter().map(|lane| u64::try_from(lane.rows).unwrap_or(0)).sum();
    let all = kept.iter().map(|lane| (lane.id.0.into(), lane.route.clone(), lane.upstream.clone())).collect();
    let orphans = kept
        .into_iter()
        .filter(|lane| {
            let awaited = salvaged.values().any(|id| *id == lane.id);
            (lane.last_row.is_some() || awaited) && routes.iter().all(|(route, _)| *route != lane.route)
        })
        .map(|lane| {
            let (route, salvaged) = route_of(&lane.route);
            Orphan { lane: lane.id, route: route.to_owned(), upstream: lane.upstream, salvaged }
        })
        .collect();
    Ok(State {
        lanes: Lanes { ids, orphans },
        states,
        last: Seq(last.cast_unsigned()),
        names,
        rows,
        all,
        salvaged,
    })
}

/// What waits in a lane; `None` for nothing.
pub(super) fn state(db: &Connection, lane: LaneId) -> Result<Option<LaneState>, Fault> {
    let found = read(db)?.into_iter().find(|found| found.id == lane);
    Ok(found.and_then(|found| {
        Some(LaneState {
            lane,
            last: row::seq_of(found.last_row?),
            rows: u64::try_from(found.rows).unwrap_or(0),
            bytes: u64::try_from(found.bytes).unwrap_or(0),
        })
    }))
}

/// Reads all lanes, and where each one's rows end: one step down the tree for each, however many rows there are.
fn read(db: &Connection) -> Result<Vec<Found>, Fault> {
    let mut select = db.prepare(
        "SELECT id, route, upstream, rows, bytes, last,
                (SELECT max(key) FROM message WHERE key BETWEEN lane.id << 48 AND (lane.id << 48) + 0xFFFFFFFFFFFF)
         FROM lane ORDER BY id",
    )?;
    let found = select.query_map([], |row| {
        Ok(Found {
            id: LaneId(row.get(0)?),
            route: row.get(1)?,
            upstream: row.get(2)?,
            rows: row.get(3)?,
            bytes: row.get(4)?,
            last: row.get(5)?,
            last_row: row.get(6)?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
