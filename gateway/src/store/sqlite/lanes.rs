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

/// Gives each route, by its name, the lane that it has, or a new one. A lane follows its route to another upstream.
pub(super) fn assign(db: &mut Connection, routes: &[(&str, &str)], unused: Unused) -> Result<State, Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut last: i64 = tx
        .query_row("SELECT value FROM meta WHERE name = 'last'", [], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let mut kept = Vec::new();
    let mut names = BTreeMap::new();
    for mut lane in read(&tx)? {
        last = last.max(lane.last);
        let configured = routes.iter().find(|(route, _)| *route == lane.route);
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
            Some(_) => {}
            None if lane.last_row.is_none() && unused == Unused::Remove => {
                tx.execute("DELETE FROM lane WHERE id = ?1", [lane.id.0])?;
                continue;
            }
            None => {}
        }
        names.insert(lane.id, lane.route.clone());
        kept.push(lane);
    }

    let mut by_name: BTreeMap<String, LaneId> =
        kept.iter().map(|lane| (lane.route.clone(), lane.id)).collect();
    let mut taken: BTreeSet<u16> = kept.iter().map(|lane| lane.id.0).collect();
    let mut ids = Vec::with_capacity(routes.len());
    for (route, upstream) in routes {
        let id = match by_name.get(*route) {
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
                by_name.insert((*route).to_owned(), LaneId(free));
                names.insert(LaneId(free), (*route).to_owned());
                LaneId(free)
            }
        };
        ids.push(id);
    }
    // Whatever lanes were removed: their sequence numbers are not given again.
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('last', ?1)", [last])?;
    tx.commit()?;

    let states = kept
        .iter()
        .filter_map(|lane| {
            Some(LaneState {
                lane: lane.id,
                last: row::seq_of(lane.last_row?),
                rows: u64::try_from(lane.rows).unwrap_or(0),
                bytes: u64::try_from(lane.bytes).unwrap_or(0),
            })
        })
        .collect();
    let orphans = kept
        .into_iter()
        .filter(|lane| lane.last_row.is_some() && routes.iter().all(|(route, _)| *route != lane.route))
        .map(|lane| Orphan { lane: lane.id, route: lane.route, upstream: lane.upstream })
        .collect();
    Ok(State { lanes: Lanes { ids, orphans }, states, last: Seq(last.cast_unsigned()), names })
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
