//! What an operator may want to know. Text of a peer's that stands in a notice is escaped and cut before.

use super::{LossReason, StoreFault};
use crate::id::{ConnId, DeviceId, LaneId, MessageId};
use crate::topic::Topic;
use std::net::SocketAddr;

/// Something that an operator may want to know. The shell logs it; what an attacker can cause is limited in rate there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A device is connected.
    Connected {
        /// Who.
        device: DeviceId,
        /// On which connection.
        conn: ConnId,
        /// In which protocol, for example "MQTT 5".
        protocol: &'static str,
    },
    /// A device's connection has ended.
    Disconnected {
        /// Who.
        device: DeviceId,
        /// On which connection.
        conn: ConnId,
        /// Why, in words.
        reason: String,
    },
    /// A client has proved, or needed not prove, who it is, and was accepted.
    SignedIn {
        /// Which device; the client identifier's without credentials.
        device: DeviceId,
        /// Its client identifier.
        client: DeviceId,
        /// From where.
        peer: SocketAddr,
        /// How it proved it.
        proof: Proof,
    },
    /// Who came could not prove to be who it says, or asked for what is somebody else's.
    SignInRefused {
        /// From where.
        peer: SocketAddr,
        /// As whom, in the peer's own words: the user name, else the client identifier; escaped and cut.
        name: String,
        /// Why; the peer is not told.
        reason: &'static str,
    },
    /// A connection was closed because the same client connected again.
    TakenOver {
        /// Its client identifier.
        client: DeviceId,
        /// Where the old connection came from.
        old: SocketAddr,
        /// Where the new one comes from.
        new: SocketAddr,
    },
    /// A device asked for what it may not do.
    Denied {
        /// Which device.
        device: DeviceId,
        /// What it wanted.
        action: Action,
        /// The topic or filter, escaped and cut.
        topic: String,
    },
    /// A peer was refused, or broke its protocol.
    Refused {
        /// From where.
        peer: SocketAddr,
        /// What was wrong and who must do what. Text from the peer in it is escaped.
        reason: String,
    },
    /// A message went to the dead letters.
    Buried {
        /// Which message.
        id: MessageId,
        /// On which route.
        lane: LaneId,
        /// Why.
        reason: String,
    },
    /// Life after life ended soon and badly: the first messages are handed over one by one.
    Careful {
        /// How many lives.
        lives: u32,
    },
    /// A dead letter stands in its lane again.
    Requeued {
        /// Which message.
        id: MessageId,
        /// On which route.
        lane: LaneId,
    },
    /// A record of a session (itself, a message for its client, its will) was unreadable or belongs to nothing, and was
    /// removed. Without its own record a client starts afresh.
    SessionLost {
        /// The record's key, which begins with the client id, escaped, as far as it could be read.
        client: String,
        /// What was wrong with the record.
        reason: &'static str,
    },
    /// A session was ended because whose it is may not be here any more: what waited in it, its will and its records are gone.
    SessionEnded {
        /// Its client identifier.
        client: DeviceId,
        /// Why.
        reason: &'static str,
    },
    /// A retained message was unreadable and was removed: its topic has none until somebody publishes again.
    RetainedLost {
        /// The topic, escaped, as far as it could be read.
        topic: String,
        /// What was wrong with the record.
        reason: &'static str,
    },
    /// There is no room for another retained message: it was passed on, and what its topic had before is forgotten.
    NotRetained {
        /// The topic.
        topic: Topic,
    },
    /// A subscriber's queue is full, or all queues together are: messages for it were dropped. Said at the first of a
    /// session, and then whenever their number has doubled.
    SubscriberOverrun {
        /// The subscriber.
        client: DeviceId,
        /// Messages of QoS 1 and 2 that were dropped for it so far.
        dropped: u64,
    },
    /// Messages were lost or discarded; the ledger has them.
    Lost {
        /// On which route, if that is known.
        lane: Option<LaneId>,
        /// Why.
        reason: LossReason,
        /// How many.
        messages: u64,
    },
    /// An upstream does not take a tombstone; it stays in the ledger and is tried again.
    TombstoneRefused {
        /// On which route, if that is known.
        lane: Option<LaneId>,
        /// In the upstream's words.
        reason: String,
    },
    /// Devices are told to hold, or may go on.
    Holding {
        /// Whether they are held.
        on: bool,
        /// Why.
        reason: &'static str,
    },
    /// The store failed, or works again (`None`).
    Store(Option<StoreFault>),
    /// QoS 0 or NON messages were dropped because of an overload, since the last notice of this kind.
    Dropped {
        /// How many.
        messages: u64,
    },
}

/// How a client proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It needed no proof.
    None,
    /// By a password or token.
    Password,
    /// By a client certificate.
    Certificate,
    /// By an OSCORE context.
    Oscore,
}

/// What needs a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To publish a message.
    Publish,
    /// To subscribe.
    Subscribe,
    /// To leave a will.
    Will,
}
