//! What the engine counts, for `status` and the metrics. Counters only grow; gauges say what is now.

use crate::event::LossReason;

/// A snapshot of everything counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The MQTT side.
    pub mqtt: ProtocolStats,
    /// The CoAP side.
    pub coap: ProtocolStats,
    /// Lines of text on serial lines. (CoAP there counts as CoAP.)
    pub serial: ProtocolStats,
    /// Counter: messages accepted from devices.
    pub accepted: u64,
    /// Counter: messages that no route takes.
    pub unrouted: u64,
    /// Counter: messages acknowledged because they were committed.
    pub safe_on_disk: u64,
    /// Counter: messages acknowledged because every upstream confirmed, before any commit.
    pub safe_upstream: u64,
    /// Counter: commits done.
    pub commits: u64,
    /// Counter: commits that failed.
    pub commit_failures: u64,
    /// Counter: rows committed.
    pub committed_rows: u64,
    /// Gauge: bytes of messages accepted and not safe yet.
    pub unsafe_bytes: u64,
    /// Gauge: devices are told to hold.
    pub holding: bool,
    /// Counter: times that they were told.
    pub holds: u64,
    /// What was lost or discarded.
    pub losses: LossStats,
    /// Each lane, in the order of the routes.
    pub lanes: Vec<LaneStats>,
    /// Each upstream, in the order of the configuration.
    pub upstreams: Vec<UpstreamStats>,
}

/// What the ledger of losses counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossStats {
    /// Counters: messages lost or discarded in this life of the gateway, for each of [`LossReason::ALL`].
    pub messages: [u64; LossReason::ALL.len()],
    /// Counter: tombstones that upstreams have confirmed.
    pub tombstones: u64,
    /// Gauge: entries of the ledger, each a tombstone that is to be sent.
    pub entries: u64,
    /// Gauge: lost messages that no upstream has been told of yet.
    pub untold: u64,
}

impl LossStats {
    pub(crate) fn count(&mut self, reason: LossReason, messages: u64) {
        for (known, count) in LossReason::ALL.iter().zip(&mut self.messages) {
            *count = count.saturating_add(if *known == reason { messages } else { 0 });
        }
    }
}

/// What one protocol's listeners and sessions count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProtocolStats {
    /// Gauge: stream connections, or CoAP peers remembered.
    pub peers: u64,
    /// Gauge: sessions, connected or not (MQTT only).
    pub sessions: u64,
    /// Gauge: subscriptions (MQTT only).
    pub subscriptions: u64,
    /// Gauge: retained messages (MQTT only).
    pub retained: u64,
    /// Counter: messages that could not be retained for want of room (MQTT only).
    pub not_retained: u64,
    /// Counter: PUBLISH packets or POST and PUT requests received, repetitions included.
    pub received: u64,
    /// Counter: repetitions among them.
    pub repeated: u64,
    /// Counter: acknowledgements sent (PUBACK, PUBREC, 2.04).
    pub acknowledged: u64,
    /// Counter: messages sent to subscribers.
    pub delivered: u64,
    /// Gauge: messages of QoS 1 and 2 that subscribers have not acknowledged (MQTT only).
    pub queued: u64,
    /// Gauge: bytes that wait for all subscribers together, in queues and buffers (MQTT only).
    pub queued_bytes: u64,
    /// Counter: messages not kept for a subscriber, or not taken from a device, because a bound was reached and nothing was promised.
    pub dropped: u64,
    /// Counter: peers refused or closed for breaking the protocol, a bound or an access rule.
    pub refused: u64,
    /// Counters: what clients were refused or sent away for, by the name of MQTT 5.0's reason code; older versions count under the
    /// code for which they have no word (MQTT only).
    pub refusals: Vec<(&'static str, u64)>,
    /// Counter: clients that could not prove who they are, or asked for a name that is not theirs or nobody's.
    pub sign_ins_refused: u64,
    /// Counter: messages and wills that their device may not publish.
    pub publishes_denied: u64,
    /// Counter: subscriptions, observations and reads that their device may not have.
    pub subscriptions_denied: u64,
}

/// What one lane counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// The route's name.
    pub name: String,
    /// Gauge: messages in the lane, in memory or on the disk.
    pub waiting: u64,
    /// Gauge: messages of it that are on the disk.
    pub on_disk: u64,
    /// Gauge: their bytes.
    pub on_disk_bytes: u64,
    /// Gauge: messages in the lane that go ahead of its backlog, as its route's order says.
    pub live: u64,
    /// Gauge: when the oldest message of the lane was received that is in memory, in milliseconds since 1970 as the clock was then. While
    /// the upstream is away what an earlier life has left is on the disk only, and nobody looks.
    pub oldest_ms: Option<i64>,
    /// Counter: messages put in.
    pub entered: u64,
    /// Counter: messages confirmed by the upstream.
    pub delivered: u64,
    /// Counter: messages that went to the dead letters.
    pub buried: u64,
    /// Counter: damaged rows.
    pub damaged: u64,
    /// Counter: messages discarded by the operator's word (expiry, `when_full`).
    pub discarded: u64,
}

/// What one upstream counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamStats {
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
    /// Counter: messages of a backlog among those handed over, which the drain limit counts.
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
