//! One MQTT connection: what has come in and is not a whole packet yet, what waits to go out, and what holds only as
//! long as the connection does (topic aliases, limits of the peer). Owns no session and decides nothing.

use super::aliases::Aliases;
use super::outbox::Outbox;
use super::rare::{Blank, Rare};
use super::slab::SessionKey;
use super::timers::Armed;
use crate::event::Peer;
use crate::session::auth::Identity;
use crate::time::{Duration, Instant};
use crate::topic::Topic;
use bytes::Bytes;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use tidegate_wire::mqtt::{ReasonCode, Version};

/// Where a connection stands in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its CONNECT has not been accepted.
    Greeting(Greeting),
    /// Its CONNECT was accepted.
    Open(Link),
    /// Told to close; nothing of it counts any more.
    Closing,
}

/// How far a CONNECT has come.
#[derive(Debug)]
pub(super) enum Greeting {
    /// Nobody has looked at it. If there is a refusal, that will be its answer.
    New(Option<(ReasonCode, &'static str)>),
    /// Its password is being verified.
    Asked(Box<Asked>),
    /// It is known who comes.
    Known(Box<Identity>),
    /// It is refused, and told so at this time.
    Refused { due: Instant, most: usize },
}

/// What is remembered while a password is being verified.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) since: Instant,
    /// The user name, for the operator.
    pub(super) name: String,
    /// The largest packet that the client takes.
    pub(super) most: usize,
}

/// What the CONNECT settled.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: SessionKey,
    /// `None` is nobody in particular.
    pub(super) identity: Option<Box<Identity>>,
    /// One and a half times the keep-alive [MQTT-3.1.2-22]; `None` when it is off.
    pub(super) silence_ms: Option<NonZeroU32>,
    /// The client's Maximum Packet Size.
    pub(super) packet_bytes: u32,
    /// The client wants to be told why something is refused (Request Problem Information).
    pub(super) explains: bool,
    /// The client has published: it is the kind that is told to hold.
    pub(super) publisher: bool,
    /// Its CONNACK waits for the session's record of this number, since then.
    pub(super) unanswered: Option<Box<(u64, Instant)>>,
    /// Closed as soon as what it still waits for has been acknowledged.
    pub(super) leaving: bool,
}

impl Link {
    /// How long the client may say nothing.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.silence_ms.map(|ms| Duration::from_millis(ms.get().into()))
    }

    /// The largest packet that the client takes, in bytes.
    pub(super) fn packet_bytes(&self) -> usize {
        usize::try_from(self.packet_bytes).unwrap_or(usize::MAX)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    pub(super) version: Version,
    /// When bytes came last.
    pub(super) heard: Instant,
    /// Its timer.
    pub(super) armed: Armed,
    /// The beginning of a packet.
    pub(super) input: Rare<Vec<u8>>,
    /// Since when its CONNECT has been waited for; once that was accepted, the rest of the packet in `input`.
    pub(super) waits_since: Instant,
    /// What came in and must wait until something else has happened, in order.
    pub(super) waiting: Rare<VecDeque<Bytes>>,
    /// What the shell was told last: whether to read.
    pub(super) reading: bool,
    pub(super) outbox: Outbox,
    /// What of the outbox counts among the bytes that wait for all subscribers.
    pub(super) weighed: usize,
    /// It stands in the list of those that have something to send.
    pub(super) dirty: bool,
    /// The topics that the client has named.
    pub(super) named: Rare<Named>,
    /// Topic aliases that the client has been told, if it takes any.
    pub(super) told: Option<Box<Aliases>>,
}

/// Topics that a client has named, for the next time.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The topic of its last message: devices repeat themselves.
    pub(super) last: Option<Topic>,
    /// Topic aliases that it has set; alias 1 is at 0.
    pub(super) aliases: Vec<Option<Topic>>,
}

impl Blank for Named {
    const BLANK: &'static Self = &Self { last: None, aliases: Vec::new() };
}

impl Connection {
    pub(super) fn new(peer: Peer, now: Instant, refusal: Option<(ReasonCode, &'static str)>) -> Self {
        Self {
            peer,
            phase: Phase::Greeting(Greeting::New(refusal)),
            version: Version::V3_1_1,
            heard: now,
            armed: Armed::default(),
            input: Rare::new(),
            waits_since: now,
            waiting: Rare::new(),
            reading: true,
            outbox: Outbox::default(),
            weighed: 0,
            dirty: false,
            named: Rare::new(),
            told: None,
        }
    }

    pub(super) fn link(&self) -> Option<&Link> {
        match &self.phase {
            Phase::Open(link) => Some(link),
            _ => None,
        }
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Open(link) => Some(link),
            _ => None,
        }
    }

    /// The largest packet in which the client wants to be told why something is refused.
    pub(super) fn explains_within(&self) -> Option<usize> {
        self.link().filter(|link| link.explains).map(Link::packet_bytes)
    }

    /// Its CONNACK waits, and everything behind it.
    pub(super) fn is_unanswered(&self) -> bool {
        self.link().is_some_and(|link| link.unanswered.is_some())
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Nothing more is taken from it; its memory is given back before the shell has closed it.
    pub(super) fn release(&mut self) {
        self.phase = Phase::Closing;
        self.input = Rare::new();
        self.waiting = Rare::new();
        self.named = Rare::new();
        self.told = None;
    }
}
