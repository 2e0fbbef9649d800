//! One MQTT session: what outlives a connection (MQTT 5.0, 4.1). Its halves have their own files.
//! Owns no connection; is found by its client id.

use super::inbound::Inbound;
use super::outbound::{IN_FLIGHT_MAX, Outbound};
use super::rare::{Blank, Rare};
use super::subscriptions::Granted;
use super::timers::Armed;
use crate::id::{ConnId, DeviceId};
use crate::session::Incoming;
use crate::session::acl::Acl;
use crate::session::auth::{Holder, Owner};
use crate::time::{Duration, Instant};
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A will that stands ready (MQTT 5.0, 3.1.2.5).
#[derive(Debug)]
pub(super) struct Will {
    pub(super) incoming: Incoming,
    pub(super) delay: Duration,
    /// When it goes out, once the connection has ended.
    pub(super) due: Option<Instant>,
}

/// Retained messages on their way to a new subscription: sent as the client takes them, not all at once.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) filter: Filter,
    pub(super) granted: Granted,
    /// The topic of the one sent last.
    pub(super) after: Option<Topic>,
}

/// SUBACKs and UNSUBACKs that wait for their record at the most; further packets then wait, too.
pub(super) const HELD_MAX: usize = 16;

/// An answer that leaves when the session's record is durable.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) serial: u64,
    pub(super) packet: Bytes,
    pub(super) since: Instant,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: DeviceId,
    /// Whose it is: the configured device, else the client itself.
    pub(super) device: DeviceId,
    /// What a device may do; `None` is everything.
    pub(super) acl: Option<Arc<Acl>>,
    pub(super) owner: Owner,
    pub(super) presence: Presence,
    /// How long it outlives its connection; zero: not at all, and no record is kept of it.
    pub(super) expiry: Duration,
    /// Its timer.
    pub(super) armed: Armed,
    pub(super) will: Option<Box<Will>>,
    /// A record of the will was ordered, durable or not yet.
    pub(super) will_recorded: bool,
    pub(super) subscriptions: Rare<BTreeMap<Filter, Granted>>,
    /// At most one a subscription.
    pub(super) replays: Rare<VecDeque<Replay>>,
    pub(super) inbound: Rare<Inbound>,
    pub(super) outbound: Rare<Outbound>,
    /// A record of it was ordered, durable or not yet. Sessions without anything to remember have none: flash is spared (P6).
    pub(super) recorded: bool,
    pub(super) answers: Rare<Answers>,
}

/// Whether a session has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// This one.
    Connected(ConnId),
    /// None, and its end is not settled.
    Away,
    /// None, and without one it ends then.
    Until(Instant),
}

/// The answers of a session that wait for its record.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The changes of its record that were ordered with an answer waiting, and those that are durable.
    pub(super) ordered: u64,
    pub(super) durable: u64,
    /// Answers to the present connection, ascending.
    pub(super) held: VecDeque<Held>,
}

impl Blank for Answers {
    const BLANK: &'static Self = &Self { ordered: 0, durable: 0, held: VecDeque::new() };
}

impl Session {
    pub(super) fn new(client: DeviceId, expiry: Duration) -> Self {
        Self {
            device: client.clone(),
            client,
            acl: None,
            owner: Owner::Nobody,
            presence: Presence::Away,
            expiry,
            armed: Armed::default(),
            will: None,
            will_recorded: false,
            subscriptions: Rare::new(),
            replays: Rare::new(),
            inbound: Rare::new(),
            outbound: Rare::new(),
            recorded: false,
            answers: Rare::new(),
        }
    }

    pub(super) fn connection(&self) -> Option<ConnId> {
        match self.presence {
            Presence::Connected(id) => Some(id),
            Presence::Away | Presence::Until(_) => None,
        }
    }

    /// When it ends, while it has no connection.
    pub(super) fn ends(&self) -> Option<Instant> {
        match self.presence {
            Presence::Until(ends) => Some(ends),
            Presence::Away | Presence::Connected(_) => None,
        }
    }

    /// Its connection is gone, and whom to answer with it.
    pub(super) fn drop_answers(&mut self) {
        if let Some(answers) = self.answers.touched() {
            answers.held = VecDeque::new();
        }
    }

    /// A new connection: what was under way on the last one begins anew.
    pub(super) fn attach(&mut self, receive_maximum: u16) {
        if let Some(inbound) = self.inbound.touched() {
            inbound.attach();
        }
        // What nobody has touched is as a new connection leaves it, with the largest window.
        if self.outbound.touched().is_some() || usize::from(receive_maximum) < IN_FLIGHT_MAX {
            self.outbound.attach(receive_maximum);
        }
    }

    /// Begins to send what is retained to a subscription, from the first.
    pub(super) fn replay(&mut self, filter: &Filter, granted: Granted) {
        self.replays.retain(|replay| replay.filter != *filter);
        self.replays.push_back(Replay { filter: filter.clone(), granted, after: None });
    }

    /// Gives it to somebody, with the rights that come with that. Says whether its record must say something else now.
    pub(super) fn belongs_to(&mut self, holder: Holder) -> bool {
        let (device, acl) = holder.device.unzip();
        self.device = device.unwrap_or_else(|| self.client.clone());
        self.acl = acl;
        std::mem::replace(&mut self.owner, holder.owner) != holder.owner
    }

    /// Whether its device may publish under this topic.
    pub(super) fn may_publish(&self, topic: &Topic) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_publish(topic))
    }

    /// Whether a message of this topic may reach its client: to be asked whenever one is on its way there, for rights change.
    pub(super) fn may_receive(&self, topic: &Topic) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_receive(topic))
    }

    /// Whether a subscription to this filter could ever deliver something.
    pub(super) fn may_subscribe(&self, filter: &Filter) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_subscribe(filter))
    }

    /// Whether it outlives its connection.
    pub(super) fn is_persistent(&self) -> bool {
        self.expiry > Duration::ZERO
    }

    /// The expiry as it stands in the record, in seconds.
    pub(super) fn expiry_seconds(&self) -> u32 {
        u32::try_from(self.expiry.as_secs()).unwrap_or(u32::MAX)
    }

    /// Whether everything asked on the present connection has been answered.
    pub(super) fn is_idle(&self) -> bool {
        self.inbound.pending() == 0 && self.answers.held.is_empty()
    }

    /// When time alone does something to it; `patience` is how long its client may take to acknowledge a message.
    pub(super) fn due(&self, patience: Duration) -> Option<Instant> {
        let will = self.will.as_ref().and_then(|will| will.due);
        let spill = if self.is_persistent() { self.outbound.spill_due(patience) } else { None };
        [self.ends(), will, spill].into_iter().flatten().min()
    }
}
