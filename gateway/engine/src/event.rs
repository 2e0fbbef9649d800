//! The whole conversation between the engine and the shell around it: what goes in, what comes out.
//! Inputs are facts that have happened. Outputs are orders, to be carried out in the order in which they come.
//!
//! Only two inputs mean "safe" and can cause an acknowledgement (P1): [`Input::Committed`] and
//! [`Input::Settled`] with [`Outcome::Confirmed`].

use crate::id::{BatchId, ConnId, DeviceId, GatewayId, LaneId, MessageId, Seq, Tag, UpstreamId};
use crate::limits::Limits;
use crate::message::Message;
use crate::time::Duration;
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

// ---------------------------------------------------------------------------------------------- set-up

/// What the engine is told once, and again at a reload.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This gateway.
    pub gateway: GatewayId,
    /// This life of the gateway: higher than, or at least different from, every earlier one's (P4).
    pub epoch: u64,
    /// A random number, for tokens and message ids that an attacker must not guess. From the shell, as the engine has none.
    pub seed: u64,
    /// Every bound.
    pub limits: Limits,
    /// Who may come without credentials.
    pub anonymous: Anonymous,
    /// The devices that are configured.
    pub devices: Vec<DeviceSetup>,
    /// The upstreams; [`UpstreamId`] is the index.
    pub upstreams: Vec<UpstreamSetup>,
    /// The routes, in the operator's order.
    pub routes: Vec<RouteSetup>,
}

/// Who may come without credentials (`access.anonymous`, P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nobody.
    Never,
    /// Peers on the loopback interface.
    Loopback,
    /// Everybody, because the operator wrote `insecure-everywhere`.
    Everywhere,
}

/// A configured device: how it proves who it is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSetup {
    /// Its id: its MQTT user name, its client identifier, and what its messages are named after.
    pub id: DeviceId,
    /// The topics that it may publish under.
    pub publish: Vec<Filter>,
    /// The topics that it may read.
    pub subscribe: Vec<Filter>,
    /// What its password is verified against.
    pub secret: Option<Arc<Secret>>,
    /// SHA-256 of its certificate (DER). With it no other certificate will do; without it a verified one that names the
    /// device does.
    pub certificate: Option<[u8; 32]>,
}

/// What a password is verified against. The engine hands it back to the shell, which knows how; it cannot read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// A hash in the PHC string format.
    pub hash: String,
    /// Verifying it is made to take long: one at a time, elsewhere, and guesses are counted for the device.
    pub slow: bool,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the hash: this may reach a log.
        f.debug_struct("Secret").field("slow", &self.slow).finish_non_exhaustive()
    }
}

/// A password as a client sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Bytes);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// An upstream as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSetup {
    /// Its name in the configuration.
    pub name: String,
    /// Messages handed over and not settled at the most.
    pub window: usize,
}

/// A route: which topics go where, and how they are kept safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSetup {
    /// What it has waiting; given by the store for the route's name.
    pub lane: LaneId,
    /// Its name, for logs and `explain`.
    pub name: String,
    /// The topics that it takes. `None` for a route that is no longer configured and only drains.
    pub filter: Option<Filter>,
    /// Where it leads.
    pub upstream: UpstreamId,
    /// The routing key: a template over `{device}` and `{topic}`; `None` is the topic with `/` as `.`.
    pub routing_key: Option<String>,
    /// Which way to safety.
    pub durability: Durability,
    /// Higher goes first among the routes of one upstream.
    pub priority: u8,
}

/// The two ways to safety (`durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Forward at once and acknowledge on the upstream's confirm; commit when that takes longer than `spill_after`,
    /// when the upstream is down, or when the route has a backlog on the disk.
    Relay {
        /// How long the upstream has before the message is committed.
        spill_after: Duration,
    },
    /// Commit, acknowledge, forward.
    Disk,
}

/// What the store holds at the start; the messages themselves are loaded later, page by page.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The lanes that have rows.
    pub lanes: Vec<LaneState>,
    /// The highest sequence number that any row has; the engine goes on above it.
    pub last: Seq,
    /// The keyed records, all of them. Bounded by the limits on what writes them.
    pub records: Vec<(RecordKey, Bytes)>,
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

// ---------------------------------------------------------------------------------------------- inputs

/// How a stream connection came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other end; behind a load balancer that the operator trusts, the device and not the load balancer.
    pub address: SocketAddr,
    /// The certificate that the peer proved to own in mutual TLS; verified, and not revoked as far as is known.
    pub certificate: Option<Arc<Certificate>>,
}

impl Peer {
    /// A peer of which nothing is known but where it is.
    #[must_use]
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, certificate: None }
    }
}

/// Whom a verified client certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, or without one the first DNS name or URI of the subject's alternative names
    /// (RFC 5280, 4.1.2.6 and 4.2.1.6). Not empty, and free of control characters.
    pub name: String,
    /// SHA-256 of the whole certificate (DER), as `openssl x509 -fingerprint -sha256` shows it.
    pub fingerprint: [u8; 32],
}

/// Where a datagram came from and where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Which of the shell's sockets.
    pub socket: u16,
    /// The other end.
    pub peer: SocketAddr,
}

/// A fact that has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// An MQTT stream connection was accepted.
    Opened {
        /// Its number.
        conn: ConnId,
        /// Its other end.
        peer: Peer,
    },
    /// Bytes came in on a stream connection, in any cut.
    Received {
        /// On which connection.
        conn: ConnId,
        /// What came.
        bytes: Bytes,
    },
    /// Bytes of earlier [`Output::Send`]s have left the shell's buffer.
    Sent {
        /// On which connection.
        conn: ConnId,
        /// How many bytes.
        count: usize,
    },
    /// A stream connection is gone: the peer closed it, it failed, or [`Output::Close`] was carried out.
    Closed {
        /// Which connection.
        conn: ConnId,
    },
    /// A CoAP datagram came in.
    Datagram {
        /// From where.
        endpoint: Endpoint,
        /// What came.
        bytes: Bytes,
    },
    /// Every operation of the batch is on the medium, synced. Batches are answered in their order.
    Committed {
        /// Which batch.
        batch: BatchId,
    },
    /// No operation of the batch took effect.
    CommitFailed {
        /// Which batch.
        batch: BatchId,
        /// Why.
        fault: StoreFault,
    },
    /// The answer to [`Output::Load`]: what stands in the lane above `after`, ascending, as much as was asked for.
    /// It reflects every batch that was ordered before it.
    Loaded {
        /// Which lane.
        lane: LaneId,
        /// The messages. Rows whose checksum was wrong are left out and counted in `damaged`.
        messages: Vec<Message>,
        /// Rows left out because they were damaged; the store has moved them away.
        damaged: u64,
        /// The last sequence number that was looked at, damaged rows included; `None` when there was none above `after`.
        upto: Option<Seq>,
    },
    /// [`Output::Load`] could not be carried out now.
    LoadFailed {
        /// Which lane.
        lane: LaneId,
        /// Why.
        fault: StoreFault,
    },
    /// An upstream is connected and takes messages.
    UpstreamUp {
        /// Which upstream.
        upstream: UpstreamId,
    },
    /// An upstream's connection is gone. Whatever was handed over and is not settled may or may not have arrived;
    /// none of it will be settled any more.
    UpstreamDown {
        /// Which upstream.
        upstream: UpstreamId,
    },
    /// The upstream asks for a pause (`connection.blocked`), or takes it back. It stays connected.
    UpstreamBlocked {
        /// Which upstream.
        upstream: UpstreamId,
        /// True while nothing should be sent.
        blocked: bool,
    },
    /// What became of a message that was handed over.
    Settled {
        /// Which upstream.
        upstream: UpstreamId,
        /// Which handing over.
        tag: Tag,
        /// What became of it.
        outcome: Outcome,
    },
    /// The answer to [`Output::Verify`]: always exactly one, also when the connection is gone meanwhile.
    Verified {
        /// For which connection.
        conn: ConnId,
        /// Whether it is the right password.
        genuine: bool,
    },
    /// The configuration was read again. Lanes of routes that went away stay, with `filter: None`.
    Reload(Box<Setup>),
    /// Make everything safe and stop; [`Output::Stopped`] says when.
    Stop,
    /// Nothing but the passing of time: what is due now is done.
    Tick,
}

/// What an upstream said to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has taken responsibility: as safe as this upstream makes anything.
    Confirmed,
    /// It could not route the message to any queue (AMQP `basic.return`).
    Returned(String),
    /// It refused the message for now (AMQP `basic.nack`).
    Nacked,
    /// It refuses this message for good (too large, precondition failed); the text goes to the dead letter.
    Refused(String),
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The medium or the store's own bound is full: inserts fail, deletes may succeed.
    Full,
    /// Anything else, in words for the operator.
    Failed(String),
}

// --------------------------------------------------------------------------------------------- outputs

/// An order to the shell.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send bytes on a stream connection. The shell reports them with [`Input::Sent`] as they leave.
    Send {
        /// On which connection.
        conn: ConnId,
        /// What to send.
        bytes: Bytes,
    },
    /// Close a stream connection once everything ordered before has been sent, or after a second at most.
    /// The shell answers with [`Input::Closed`].
    Close {
        /// Which connection.
        conn: ConnId,
    },
    /// Stop or go on reading from a stream connection. Reading is on at first.
    Reading {
        /// Which connection.
        conn: ConnId,
        /// Whether to read.
        on: bool,
    },
    /// Send a datagram. Losing it is allowed.
    SendTo {
        /// Where to.
        endpoint: Endpoint,
        /// What to send.
        bytes: Bytes,
    },
    /// Carry out all operations in one transaction, sync, and answer [`Input::Committed`]; or none, and answer
    /// [`Input::CommitFailed`]. Orders to the store are carried out in their order.
    Commit(Batch),
    /// Read messages of a lane above `after`, ascending: at most `messages` and, beyond the first, at most `bytes` of footprint.
    Load {
        /// Which lane.
        lane: LaneId,
        /// Above which sequence number.
        after: Seq,
        /// How many at the most.
        messages: usize,
        /// How many bytes of footprint at the most.
        bytes: usize,
    },
    /// Hand a message over to an upstream. The shell answers with [`Input::Settled`], or [`Input::UpstreamDown`].
    Publish(Publication),
    /// Drop an upstream's connection and make a new one; it left messages unsettled for too long.
    /// The shell answers with [`Input::UpstreamDown`].
    Reset {
        /// Which upstream.
        upstream: UpstreamId,
    },
    /// Verify a password and answer [`Input::Verified`]. A slow one at a time, and never on the thread that drives the
    /// engine; there are [`Limits::verifications`] of those at the most.
    Verify {
        /// For which connection.
        conn: ConnId,
        /// What it must fit.
        secret: Arc<Secret>,
        /// What came.
        password: Password,
    },
    /// Something that an operator may want to know.
    Notice(Notice),
    /// After [`Input::Stop`]: everything is safe.
    Stopped,
}

/// A message on its way to an upstream.
#[derive(Clone, Debug)]
pub struct Publication {
    /// To which upstream.
    pub upstream: UpstreamId,
    /// This handing over.
    pub tag: Tag,
    /// The message.
    pub message: Arc<Message>,
    /// Its routing key, filled in.
    pub routing_key: String,
    /// An earlier handing over was left unresolved, or may have been before a restart: the consumer may have it already.
    pub resend: bool,
}

/// Operations that take effect together or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its number.
    pub id: BatchId,
    /// What to do, in order.
    pub ops: Vec<Op>,
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
}

impl RecordKind {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Session, Self::InboundQos2, Self::Retained, Self::Outgoing, Self::Will];
}

/// A record's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// What it is.
    pub kind: RecordKind,
    /// Which one.
    pub key: Bytes,
}

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
    /// A record of a session (itself, a message for its client, its will) was unreadable or belongs to nothing, and was
    /// removed. Without its own record a client starts afresh.
    SessionLost {
        /// The record's key, which begins with the client id, escaped, as far as it could be read.
        client: String,
        /// What was wrong with the record.
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
    /// Stored rows were damaged and have been moved away: their messages are lost.
    Damaged {
        /// On which route.
        lane: LaneId,
        /// How many.
        rows: u64,
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
