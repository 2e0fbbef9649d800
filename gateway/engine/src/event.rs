//! The whole conversation between the engine and the shell around it: what goes in, what comes out.
//! Inputs are facts that have happened. Outputs are orders, to be carried out in the order in which they come.
//!
//! Only two inputs mean "safe" and can cause an acknowledgement (P1): [`Input::Committed`] and
//! [`Input::Settled`] with [`Outcome::Confirmed`].

mod loss;
mod notice;
mod packing;
mod policy;
mod setup;
mod store;

pub use loss::{Loss, LossReason};
pub use notice::{Action, Notice, Proof};
pub use packing::{Compression, Dictionary, Format, Packing};
pub use policy::{Keep, Order, Policy, WhenFull};
pub use setup::{
    Anonymous, DeviceSetup, Drain, Durability, Password, RouteSetup, Secret, Senml, Setup, UpstreamSetup,
};
pub use store::{
    Attempts, Batch, Failure, LaneState, Letter, Op, RecordKey, RecordKind, Recovered, StoreFault,
};

use crate::id::{BatchId, ConnId, DeviceId, LaneId, LetterId, Seq, Tag, UpstreamId};
use crate::message::Message;
use crate::topic::Topic;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Which of the shell's sockets.
    pub socket: u16,
    /// The other end.
    pub peer: SocketAddr,
    /// Which of the associations that the shell has had with it (DTLS), so that what was meant for one never reaches the next one,
    /// who may be somebody else; 0 where there are none.
    pub association: u32,
}

/// How a CoAP datagram came to the shell, and what that says about its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Over UDP in the clear: whoever sent it can have written any address as its source.
    #[default]
    Open,
    /// As [`Open`](Self::Open), to a multicast group (RFC 7252, 8).
    Multicast,
    /// Over a line or an association that only this peer can send on: DTLS, a serial port. The answer goes back the same way.
    Bound {
        /// Who it is, if that was proved or the operator says so; it goes before anything that a path says.
        device: Option<DeviceId>,
    },
}

/// How a CoAP stream came in (RFC 8323).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPeer {
    /// The other end.
    pub address: SocketAddr,
    /// Who it is, if that was proved in its handshake.
    pub device: Option<DeviceId>,
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
    /// A CoAP stream connection was accepted: over TCP, TLS, or anything else that keeps bytes in order. What follows is told with
    /// [`Received`](Self::Received), [`Sent`](Self::Sent) and [`Closed`](Self::Closed), and ordered with [`Output::Send`] and
    /// [`Output::Close`], as of an MQTT connection.
    CoapOpened {
        /// Its number, from the same row as those of MQTT connections.
        conn: ConnId,
        /// Its other end.
        peer: StreamPeer,
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
    /// What proved at the beginning of a stream connection who is there does so no longer: its certificate was revoked, or is of
    /// nobody's authority or device any more.
    Revoked {
        /// Which connection.
        conn: ConnId,
    },
    /// A CoAP datagram came in.
    Datagram {
        /// From where.
        endpoint: Endpoint,
        /// How.
        via: Via,
        /// What came.
        bytes: Bytes,
    },
    /// A line of text came in from a board that only prints (`[[serial]]`).
    Line {
        /// Who is at the other end.
        device: DeviceId,
        /// Under which name it is published.
        topic: Topic,
        /// What came, without the line's end.
        text: Bytes,
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
        /// The record in which the store has noted them until the ledger has them, as in [`Lost`](Self::Lost).
        note: Option<RecordKey>,
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
    /// Messages that the store held are lost: damage. It is written into the ledger, told upstream by a tombstone and counted.
    Lost {
        /// What was lost.
        loss: Loss,
        /// The store's own note of it: a record that is removed in the commit that makes the ledger's entry durable. With it a crash makes the
        /// store report the loss again exactly if the ledger does not have it.
        note: Option<RecordKey>,
    },
    /// An operator wants dead letters sent again. Those for which there is no room at the moment
    /// ([`Limits::requeued_bytes`](crate::limits::Limits::requeued_bytes)) stay where they are; whoever asked looks.
    Requeue {
        /// Each with the lane of its route and its message.
        letters: Vec<(LetterId, LaneId, Arc<Message>)>,
    },
    /// An operator wants dead letters removed for good.
    Purge {
        /// Which.
        letters: Vec<Letter>,
    },
    /// What was salvaged of a damaged store stands in these lanes, complete. Their routes have been configured since the start
    /// ([`RouteSetup::salvaged`]).
    Salvaged {
        /// What is in them.
        lanes: Vec<LaneState>,
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
    /// engine; there are twice [`Limits::verifications`] of those at the most.
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
    /// From which lane: within one the messages of a device leave in their order (P3).
    pub lane: LaneId,
    /// The message.
    pub message: Arc<Message>,
    /// Its routing key, filled in.
    pub routing_key: String,
    /// What its route asks for; carried out before an upstream sees it, and settled with [`Outcome::Refused`] when it cannot be.
    pub senml: Senml,
    /// With which others it may travel in one message upstream; `None`: it goes alone. It is settled by itself all the same.
    pub packing: Option<Arc<Packing>>,
    /// An earlier handing over was left unresolved, or may have been before a restart: the consumer may have it already.
    pub resend: bool,
    /// It was salvaged from a damaged store: it comes late, and some that were accepted before it may be lost.
    pub salvaged: bool,
    /// It is live, on a route that has live messages go ahead of the backlog ([`Order`]).
    pub live: bool,
}
