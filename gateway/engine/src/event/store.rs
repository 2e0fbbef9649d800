//! The conversation with the store: what it held at the start, which changes it is asked to make, and why it could not.

use crate::id::{BatchId, LaneId, LetterId, Seq};
use crate::message::Message;
use bytes::Bytes;
use std::sync::Arc;

/// What the store holds at the start; the messages themselves are loaded later, page by page.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The lanes that have rows.
    pub lanes: Vec<LaneState>,
    /// The highest sequence number that any row has; the engine goes on above it.
    pub last: Seq,
    /// The keyed records, all of them. Bounded by the limits on what writes them.
    pub records: Vec<(RecordKey, Bytes)>,
    /// Lives before this one, in a row, that were neither stopped nor lasted for long.
    pub bad_lives: u32,
}

/// How much waits in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// Which lane.
    pub lane: LaneId,
    /// The lane's last row: when this one has been loaded, the backlog is at its end.
    pub last: Seq,
    /// Messages waiting.
    pub rows: u64,
    /// Their footprints together, in bytes.
    pub bytes: u64,
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The medium or the store's own bound is full: inserts fail, deletes may succeed.
    Full,
    /// Anything else, in words for the operator.
    Failed(String),
}

/// Operations that take effect together or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its number.
    pub id: BatchId,
    /// What to do, in order.
    pub ops: Vec<Op>,
}

/// What was tried with a message that was not taken, in this life of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// How often it was handed over and refused. Lost links do not count.
    pub count: u32,
    /// The first refusal.
    pub first: Option<Failure>,
}

impl Attempts {
    /// These, and one more that failed.
    #[must_use]
    pub fn and(mut self, unix_ms: i64, text: &str) -> Self {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| Failure { unix_ms, text: text.to_owned() });
        self
    }
}

/// Something that failed, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// By the wall clock, in milliseconds since 1970.
    pub unix_ms: i64,
    /// What was said, in words for the operator.
    pub text: String,
}

/// A dead letter of which the store was asked.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number.
    pub id: LetterId,
    /// The name of its route.
    pub route: String,
    /// The route's lane; `None` when it is no longer configured.
    pub lane: Option<LaneId>,
    /// The message; `None` when it is damaged.
    pub message: Option<Arc<Message>>,
}

/// One change of the store.
#[derive(Clone, Debug)]
pub enum Op {
    /// Keep a message in a lane, under its sequence number.
    Insert {
        /// Which lane.
        lane: LaneId,
        /// The message.
        message: Arc<Message>,
    },
    /// Forget a message of a lane: its upstream has it. Forgetting what is not there is no fault.
    Forget {
        /// Which lane.
        lane: LaneId,
        /// Which message.
        seq: Seq,
    },
    /// Keep a message as a dead letter, and forget it in its lane if it is there.
    Bury {
        /// Which lane.
        lane: LaneId,
        /// The message.
        message: Arc<Message>,
        /// Why, in words for the operator.
        reason: String,
        /// What was tried with it.
        attempts: Attempts,
    },
    /// Take a dead letter back into a lane, whose message is then as given; nothing when the letter is gone.
    Requeue {
        /// Which letter.
        letter: LetterId,
        /// Into which lane.
        lane: LaneId,
        /// The message.
        message: Arc<Message>,
    },
    /// Remove a dead letter for good; removing what is not there is no fault.
    Purge {
        /// Which letter.
        letter: LetterId,
    },
    /// Keep a record under a key, replacing what was there.
    Put {
        /// Under which key.
        key: RecordKey,
        /// What.
        value: Bytes,
    },
    /// Remove a record; removing what is not there is no fault.
    Remove {
        /// Under which key.
        key: RecordKey,
    },
}

impl Op {
    /// Whether it takes messages from the medium, and needs no room there.
    pub(crate) fn takes_away(&self) -> bool {
        matches!(self, Self::Forget { .. } | Self::Purge { .. })
    }
}

/// The kinds of keyed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// A persistent MQTT session: its key is the client id, its value the session's own encoding.
    Session = 1,
    /// A QoS 2 packet id between PUBREC and PUBREL: its key is the client id, a zero byte and the packet id, big-endian.
    InboundQos2 = 2,
    /// A retained message: its key is the topic, its value the message.
    Retained = 3,
    /// A message for a persistent session's client that has not acknowledged it, or the release of a QoS 2 message of which
    /// PUBREC has come: its key is the client id, a zero byte and the message's number in the session, 8 bytes big-endian.
    Outgoing = 4,
    /// The will of a persistent session: its key is the client id.
    Will = 5,
    /// How far the sequence numbers of an OSCORE key are reserved (RFC 8613, B.1.1): its key is the key's name
    /// (`Context::fingerprint`), its value the first number that is not, 8 bytes big-endian. It stays when the device is
    /// taken out of the configuration, for the key may come back.
    OscoreSequence = 6,
    /// An entry of the ledger of losses: its key is the id that its tombstone has (epoch and sequence, 8 bytes each, big-endian).
    Loss = 7,
    /// What is being handed over while life after life ends badly; there is one at the most, with an empty key.
    Mark = 8,
    /// What damage cost, noted by the store for as long as the ledger does not have it: its key says where it was found, its value is the
    /// number of messages (8 bytes) and, where it is known, their lane (2 bytes), big-endian.
    Damage = 9,
    /// Live messages of a lane go ahead of its backlog, so that a crash may leave anything of it handed over: its key is the lane's
    /// number, 2 bytes big-endian. The value is empty.
    Overtaken = 10,
    /// How long the messages of a lane have waited: its key is the lane's number, 2 bytes big-endian.
    Ages = 11,
}

impl RecordKind {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Session,
        Self::InboundQos2,
        Self::Retained,
        Self::Outgoing,
        Self::Will,
        Self::OscoreSequence,
        Self::Loss,
        Self::Mark,
        Self::Damage,
        Self::Overtaken,
        Self::Ages,
    ];
}

/// A record's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// What it is.
    pub kind: RecordKind,
    /// Which one.
    pub key: Bytes,
}
