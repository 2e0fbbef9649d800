//! What `GET /status` answers and `tidegate status` prints: one snapshot of the whole gateway.
//! The names are an interface for scripts: add to them, do not rename them.

use crate::clock::unix_ms;
use crate::store::sqlite::Quarantined;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidegate_engine::event::LossReason;
use tidegate_engine::stats::{LaneStats, LossStats, ProtocolStats, Stats, UpstreamStats};

/// A snapshot. Counters count from the start of the process; sizes are in bytes, durations in the unit of their name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The gateway's id.
    pub gateway: String,
    /// The program's version.
    pub version: String,
    /// Which life of the gateway this is.
    pub epoch: u64,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Whether the wall clock was synchronised just now.
    pub clock_synchronised: bool,
    /// Whether devices' messages are taken and made safe.
    pub ready: bool,
    /// What an operator should know or do, in words; empty when all is well.
    pub problems: Vec<String>,
    /// Whether devices are told to hold.
    pub holding: bool,
    /// What came from devices, and how it was made safe.
    pub messages: Messages,
    /// The MQTT side.
    pub mqtt: Protocol,
    /// The CoAP side.
    pub coap: Protocol,
    /// Lines of text on serial lines.
    pub serial: Protocol,
    /// What was lost or discarded.
    pub losses: Losses,
    /// The routes, in the operator's order, then those that are no longer configured and only drain.
    pub routes: Vec<Route>,
    /// The upstreams.
    pub upstreams: Vec<Upstream>,
    /// The store.
    pub store: Store,
    /// The process.
    pub process: Process,
}

/// Messages from devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    /// Counter: accepted.
    pub accepted: u64,
    /// Counter: accepted, and no route takes them.
    pub unrouted: u64,
    /// Counter: acknowledged because they were committed.
    pub safe_on_disk: u64,
    /// Counter: acknowledged because every upstream confirmed, before any commit.
    pub safe_upstream: u64,
    /// Gauge: bytes accepted and not safe yet.
    pub unsafe_bytes: u64,
    /// Counter: times that devices were told to hold.
    pub holds: u64,
    /// Gauge: accepted a second, over the last ten seconds.
    pub accepted_per_second: f64,
    /// Gauge: confirmed by upstreams a second, over the last ten seconds.
    pub confirmed_per_second: f64,
}

/// What was lost or discarded, by the operator's word or by damage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// Counters: messages by reason: "damaged", "expired", "dropped-oldest", "dropped-newest", "thinned".
    pub messages: BTreeMap<String, u64>,
    /// Counter: tombstones that upstreams have confirmed.
    pub tombstones: u64,
    /// Gauge: entries of the ledger, each a tombstone that is to be sent.
    pub entries: u64,
    /// Gauge: lost messages that no upstream has been told of yet, those of earlier lives included.
    pub untold: u64,
}

/// One protocol's listeners and sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Protocol {
    /// Gauge: connections, or CoAP peers remembered.
    pub peers: u64,
    /// Gauge: sessions, connected or not.
    pub sessions: u64,
    /// Gauge: subscriptions.
    pub subscriptions: u64,
    /// Gauge: retained messages.
    pub retained: u64,
    /// Counter: messages that could not be retained for want of room.
    pub not_retained: u64,
    /// Counter: messages received, repetitions included.
    pub received: u64,
    /// Counter: repetitions among them.
    pub repeated: u64,
    /// Counter: acknowledgements sent.
    pub acknowledged: u64,
    /// Counter: messages sent to subscribers.
    pub delivered: u64,
    /// Counter: messages dropped because nothing was promised and a bound was reached.
    pub dropped: u64,
    /// Counter: peers refused or closed for breaking the protocol, a bound or an access rule.
    pub refused: u64,
    /// Counter: clients that could not prove who they are, or asked for a name that is another's or nobody's.
    pub sign_ins_refused: u64,
    /// Counter: messages and wills that their device may not publish.
    pub publishes_denied: u64,
    /// Counter: subscriptions that their device may not have.
    pub subscriptions_denied: u64,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Gauge: messages that wait.
    pub waiting: u64,
    /// Gauge: those of them that are on the disk.
    pub on_disk: u64,
    /// Gauge: their bytes.
    pub on_disk_bytes: u64,
    /// Gauge: messages that go ahead of the backlog, as `order` says.
    pub live: u64,
    /// Gauge: seconds since the oldest message was received that is known, by the clock of then and now; absent when none is.
    pub oldest_seconds: Option<u64>,
    /// Counter: messages taken.
    pub entered: u64,
    /// Counter: messages confirmed by the upstream.
    pub delivered: u64,
    /// Counter: messages that went to the dead letters.
    pub buried: u64,
    /// Counter: rows that were damaged and have been moved away.
    pub damaged: u64,
    /// Counter: messages discarded by the operator's word.
    pub discarded: u64,
}

/// One upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Gauge: connected.
    pub up: bool,
    /// Gauge: it asked for a pause.
    pub blocked: bool,
    /// Gauge: messages handed over and not settled.
    pub in_flight: u64,
    /// Counter: messages handed over, repetitions included.
    pub published: u64,
    /// Counter: repetitions among them.
    pub resent: u64,
    /// Counter: messages of a backlog among them.
    pub drained: u64,
    /// Counter: confirmed.
    pub confirmed: u64,
    /// Counter: returned as unroutable.
    pub returned: u64,
    /// Counter: nacked.
    pub nacked: u64,
    /// Counter: refused for good.
    pub refused: u64,
    /// Counter: times the link was lost.
    pub lost: u64,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// The data directory.
    pub data_dir: String,
    /// Gauge: bytes of the spool's files.
    pub bytes: u64,
    /// Gauge: bytes free for us on its file system.
    pub free_bytes: u64,
    /// Counter: commits done.
    pub commits: u64,
    /// Counter: commits that failed.
    pub commit_failures: u64,
    /// Counter: rows committed.
    pub committed_rows: u64,
    /// Gauge: damaged databases of which what is whole is not salvaged yet.
    pub quarantined: u64,
    /// Counter: messages salvaged from damaged databases.
    pub salvaged: u64,
    /// Counter: messages lost with damaged databases, as far as that is known.
    pub lost: u64,
    /// Counter: damaged databases of which nobody can say how many messages they lost.
    pub losses_unknown: u64,
}

impl Store {
    /// Fills in what damage cost.
    pub(crate) fn fill(&mut self, quarantined: &Quarantined) {
        self.quarantined = quarantined.waiting;
        self.salvaged = quarantined.salvaged;
        self.lost = quarantined.lost;
        self.losses_unknown = quarantined.unknown;
    }
}

/// The process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Gauge: resident memory, in bytes.
    pub resident_bytes: u64,
    /// Counter: CPU time used, in seconds.
    pub cpu_seconds: f64,
    /// Gauge: open file descriptors.
    pub open_files: u64,
    /// Gauge: file descriptors that it may open.
    pub max_open_files: u64,
    /// Gauge: threads.
    pub threads: u64,
}

impl Status {
    /// Fills in what the engine counts.
    pub(crate) fn fill(&mut self, stats: &Stats) {
        self.holding = stats.holding;
        self.messages.accepted = stats.accepted;
        self.messages.unrouted = stats.unrouted;
        self.messages.safe_on_disk = stats.safe_on_disk;
        self.messages.safe_upstream = stats.safe_upstream;
        self.messages.unsafe_bytes = stats.unsafe_bytes;
        self.messages.holds = stats.holds;
        self.store.commits = stats.commits;
        self.store.commit_failures = stats.commit_failures;
        self.store.committed_rows = stats.committed_rows;
        self.losses = (&stats.losses).into();
        self.mqtt = (&stats.mqtt).into();
        self.coap = (&stats.coap).into();
        self.serial = (&stats.serial).into();
        self.routes = stats.lanes.iter().map(Into::into).collect();
        self.upstreams = stats.upstreams.iter().map(Into::into).collect();
    }
}

impl From<&LossStats> for Losses {
    fn from(s: &LossStats) -> Self {
        let reasons = LossReason::ALL.iter().map(|reason| reason.name().to_owned());
        Self {
            messages: reasons.zip(s.messages).collect(),
            tombstones: s.tombstones,
            entries: s.entries,
            untold: s.untold,
        }
    }
}

impl From<&ProtocolStats> for Protocol {
    fn from(s: &ProtocolStats) -> Self {
        Self {
            peers: s.peers,
            sessions: s.sessions,
            subscriptions: s.subscriptions,
            retained: s.retained,
            not_retained: s.not_retained,
            received: s.received,
            repeated: s.repeated,
            acknowledged: s.acknowledged,
            delivered: s.delivered,
            dropped: s.dropped,
            refused: s.refused,
            sign_ins_refused: s.sign_ins_refused,
            publishes_denied: s.publishes_denied,
            subscriptions_denied: s.subscriptions_denied,
        }
    }
}

impl From<&LaneStats> for Route {
    fn from(s: &LaneStats) -> Self {
        Self {
            name: s.name.clone(),
            waiting: s.waiting,
            on_disk: s.on_disk,
            on_disk_bytes: s.on_disk_bytes,
            live: s.live,
            oldest_seconds: s.oldest_ms.map(|ms| unix_ms().saturating_sub(ms).max(0).cast_unsigned() / 1_000),
            entered: s.entered,
            delivered: s.delivered,
            buried: s.buried,
            damaged: s.damaged,
            discarded: s.discarded,
        }
    }
}

impl From<&UpstreamStats> for Upstream {
    fn from(s: &UpstreamStats) -> Self {
        Self {
            name: s.name.clone(),
            up: s.up,
            blocked: s.blocked,
            in_flight: s.in_flight,
            published: s.published,
            resent: s.resent,
            drained: s.drained,
            confirmed: s.confirmed,
            returned: s.returned,
            nacked: s.nacked,
            refused: s.refused,
            lost: s.lost,
        }
    }
}
