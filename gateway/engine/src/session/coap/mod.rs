//! The CoAP server (RFC 7252): requests in, answers and notifications out. A CON is answered with 2.04 when [`Coap::safe`] says so
//! and never earlier (P1); a NON promises nothing. It does not know where a message becomes safe, has no sockets, and asks nobody
//! for the time.
//!
//! `request` reads options, `serve` finds the resource and reads values, `publish` takes messages, `respond` answers when they are
//! safe, `notify` serves observers. Beside these: `exchange` remembers requests, `observe` observers, `upload` unfinished bodies,
//! `content` bodies given out in blocks, `listen` who waits for a command, `echo` who has proved where it is, `access` the rules; `stream` is for what comes over
//! TCP instead of in datagrams, with the table `streams`.

mod access;
mod content;
mod discovery;
mod echo;
mod exchange;
mod listen;
mod notify;
mod observe;
mod oscore;
mod peer;
mod prng;
mod protected;
mod publish;
mod reply;
mod request;
mod respond;
mod serve;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod upload;

use super::{LastValues, Request};
use crate::event::{Action, Endpoint, Notice, Output, RecordKey, Setup, Via};
use crate::id::DeviceId;
use crate::limits::Limits;
#[cfg(feature = "mutants")]
use crate::mutant::Mutant;
use crate::mutant::Planted;
use crate::resource::Resource;
use crate::stats::ProtocolStats;
use crate::time::{Duration, Instant, Now};
use crate::topic::Topic;
use access::Access;
use bytes::Bytes;
use content::Snapshots;
use discovery::Link;
use echo::Echo;
use exchange::{Key, Table};
use listen::Listeners;
use observe::Observers;
use oscore::{ContextId, Oscore};
use peer::{Address, Origin, Place};
use prng::Prng;
use reply::Reply;
use std::collections::{BTreeMap, VecDeque};
use streams::Streams;
use tidegate_wire::coap::{Code, Fault, Header, Kind, Message, OptionNumber, ParseError};
use upload::Uploads;

/// The wait before a CON goes again, times 1 to 1.5, doubled each time (RFC 7252, 4.8: ACK_TIMEOUT).
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// ACK_RANDOM_FACTOR 1.5 as the longest addition to ACK_TIMEOUT, in milliseconds (RFC 7252, 4.8).
const ACK_JITTER_MS: u32 = 1_000;

/// How often a CON goes again (RFC 7252, 4.8: MAX_RETRANSMIT).
const MAX_RETRANSMIT: u8 = 4;

/// Pings answered a second, from everybody together: an answer is as long as the ping.
const PINGS_PER_SECOND: u32 = 1_000;

/// Answers to multicast requests that wait for their moment; more are not given.
const DELAYED_MAX: usize = 64;

/// Whom to tell that something is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt(Awaited);

/// What becomes safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The message of an exchange.
    Exchange(Key),
    /// Sequence numbers of a context.
    Reserved(ContextId),
}

/// The CoAP side of the engine.
#[derive(Debug)]
pub struct Coap {
    limits: Limits,
    access: Access,
    planted: Planted,
    prng: Prng,
    resources: Vec<Resource>,
    links: Vec<Link>,
    exchanges: Table,
    observers: Observers,
    listeners: Listeners,
    uploads: Uploads,
    streams: Streams,
    snapshots: Snapshots,
    echo: Echo,
    oscore: Oscore,
    /// Exchanges whose message answers a command, with the command's id.
    answering: BTreeMap<Key, Box<str>>,
    /// Commands that have been answered, the last ones.
    answered: VecDeque<Box<str>>,
    /// Answers to multicast requests, by when they go and a number that keeps them apart.
    delayed: BTreeMap<(Instant, u64), (Address, Bytes)>,
    delayed_count: u64,
    pings_paid_until: Instant,
    requests: VecDeque<Request>,
    holding: bool,
    stopping: bool,
    stats: ProtocolStats,
}

impl Coap {
    /// Makes a server. Of earlier lives it knows the numbers that OSCORE keys have used, from the store's records.
    #[must_use]
    pub fn new(setup: &Setup, planted: Planted, records: &[(RecordKey, Bytes)], now: Now) -> Self {
        let mut coap = Self {
            limits: setup.limits.clone(),
            access: Access::new(setup),
            planted,
            // What peers see of it must not tell what the secrets are made of.
            prng: Prng::apart(setup.seed),
            links: discovery::links(&setup.resources),
            resources: setup.resources.clone(),
            exchanges: Table::new(setup.limits.coap_peers, setup.limits.coap_exchanges_per_peer),
            observers: Observers::new(now),
            listeners: Listeners::default(),
            uploads: Uploads::default(),
            streams: Streams::default(),
            snapshots: Snapshots::default(),
            echo: Echo::new(setup.seed, setup.limits.coap_peers),
            oscore: Oscore::new(setup, records),
            answering: BTreeMap::new(),
            answered: VecDeque::new(),
            delayed: BTreeMap::new(),
            delayed_count: 0,
            pings_paid_until: Instant::default(),
            requests: VecDeque::new(),
            holding: false,
            stopping: false,
            stats: ProtocolStats::default(),
        };
        coap.forget_unused_keys();
        coap
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
        self.uploads.plant(planted);
        if planted.is(Mutant::NotificationsRestart) {
            self.observers.forget_origin();
        }
    }

    /// The configuration was read again.
    pub fn reload(&mut self, now: Now, setup: &Setup) {
        self.limits = setup.limits.clone();
        self.access = Access::new(setup);
        self.links = discovery::links(&setup.resources);
        self.resources.clone_from(&setup.resources);
        self.oscore.configure(setup);
        self.forget_unused_keys();
        self.review_streams(now.instant);
        self.exchanges.resize(setup.limits.coap_peers, setup.limits.coap_exchanges_per_peer);
        self.echo.resize(setup.limits.coap_peers);
    }

    /// While on, no message is taken: a CON is answered with 5.03 and a Max-Age, a NON is dropped (P7).
    pub fn hold(&mut self, on: bool) {
        self.holding = on;
    }

    /// Takes no more messages, and says at once what is due to be said. Answers to messages that become safe
    /// after this still go.
    pub fn stop(&mut self, now: Now) {
        self.stopping = true;
        while let Some(key) = self.listeners.due(Instant(u64::MAX)) {
            self.stop_listening(now.instant, key);
        }
        // There may be no time left to wait for each acknowledgement in turn.
        for key in self.exchanges.queued() {
            self.respond(now.instant, key);
        }
        self.release();
    }

    /// What it asks of the rest of the engine; call until `None`.
    pub fn poll(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// When [`tick`](Self::tick) is due if nothing else happens.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        [
            self.exchanges.timeout(),
            self.observers.timeout(),
            self.listeners.timeout(),
            self.uploads.timeout(),
            self.snapshots.timeout(),
            self.streams.timeout(),
            self.echo.timeout(),
            self.delayed.first_key_value().map(|((due, _), _)| *due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> ProtocolStats {
        ProtocolStats {
            peers: u64::try_from(self.exchanges.peers() + self.streams.len()).unwrap_or(u64::MAX),
            subscriptions: u64::try_from(self.observers.len()).unwrap_or(u64::MAX),
            ..self.stats.clone()
        }
    }

    /// Takes a datagram.
    pub fn datagram(
        &mut self,
        now: Now,
        endpoint: Endpoint,
        via: Via,
        datagram: Bytes,
        values: &dyn LastValues,
    ) {
        let mut origin = Origin::datagram(endpoint, via, datagram.len());
        if !origin.is_answerable() {
            self.stats.refused += 1;
            return;
        }
        let message = match Message::parse(&datagram) {
            Ok(message) => message,
            Err(error) => return self.malformed(now, &origin, error),
        };
        let Header { kind, code, message_id } = message.header();
        match kind {
            Kind::Acknowledgement => self.heard_back(now, endpoint, message_id, true),
            Kind::Reset => self.heard_back(now, endpoint, message_id, false),
            // Only a NON may ask everybody (RFC 7252, 8.1).
            Kind::Confirmable if origin.multicast => self.stats.refused += 1,
            // An empty CON is a ping (RFC 7252, 4.3); a response that nobody asked for is rejected (5.3.2).
            Kind::Confirmable if !code.is_request() => self.reset(now.instant, &origin, message_id),
            Kind::NonConfirmable if !code.is_request() => self.stats.refused += 1,
            Kind::Confirmable | Kind::NonConfirmable if self.is_protected(&origin, &message) => {
                self.protected_request(now, Place::Datagram(endpoint), origin, &message, &datagram, values);
            }
            Kind::Confirmable | Kind::NonConfirmable => {
                self.look_at_place(now.instant, &mut origin, &message);
                self.request(now, &origin, &message, &datagram, values);
            }
        }
    }

    /// Whether the peer is where it says, by what it has proved before or proves now (RFC 9175, 2.3).
    fn look_at_place(&mut self, now: Instant, origin: &mut Origin, message: &Message<'_>) {
        if !origin.verified {
            origin.verified = match message.option(OptionNumber::ECHO) {
                Some(value) => self.echo.prove(now, origin.address, value),
                None => false,
            } || self.echo.knows(now, origin.address);
        }
    }

    /// What is owed for bytes that are no message (RFC 7252, 4.2 and 4.3).
    fn malformed(&mut self, now: Now, origin: &Origin, error: ParseError) {
        match error {
            // Some devices send their token in an empty ACK; it still says which message it is for.
            ParseError::Malformed(
                Header { kind: kind @ (Kind::Acknowledgement | Kind::Reset), message_id, .. },
                Fault::EmptyTrailing,
            ) => {
                if let Address::Datagram(endpoint) = origin.address {
                    self.heard_back(now, endpoint, message_id, kind == Kind::Acknowledgement);
                }
            }
            ParseError::Malformed(Header { kind: Kind::Confirmable, message_id, .. }, _) => {
                self.stats.refused += 1;
                if !origin.multicast {
                    self.reset(now.instant, origin, message_id);
                }
            }
            _ => self.stats.refused += 1,
        }
    }

    /// An ACK or RST: whatever it answers need not go again (RFC 7252, 4.2).
    fn acknowledged(&mut self, now: Now, address: Address, message_id: u16, accepted: bool) {
        if let Some(key) = self.exchanges.responding(address, message_id) {
            self.exchanges.set(key, exchange::State::Delivered, None);
            self.send_next(now.instant, address);
        } else {
            self.notified(now.instant, address, message_id, accepted);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        while let Some(key) = self.listeners.due(now.instant) {
            self.stop_listening(now.instant, key);
        }
        self.respond_due(now.instant);
        self.notify_due(now.instant);
        self.stream_due(now.instant);
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now.instant) {
            let (address, bytes) = entry.remove();
            self.send(address, Some(bytes));
        }
        self.exchanges.expire(now.instant);
        self.uploads.expire(now.instant);
        self.snapshots.expire(now.instant);
        self.echo.expire(now.instant);
    }

    /// Rejects a message. Pings are answered at a bounded rate, for they need not be paid for.
    fn reset(&mut self, now: Instant, origin: &Origin, message_id: u16) {
        let every = Duration::from_secs(1) / PINGS_PER_SECOND;
        let paid_until = self.pings_paid_until.max(now).after(every);
        if paid_until > now.after(Duration::from_secs(1)) {
            self.stats.dropped += 1;
            return;
        }
        self.pings_paid_until = paid_until;
        self.send(origin.address, reply::empty(Kind::Reset, message_id));
    }

    fn send(&mut self, address: Address, bytes: Option<Bytes>) {
        let Some(bytes) = bytes else { return };
        match address {
            Address::Datagram(endpoint) => {
                self.requests.push_back(Request::Output(Output::SendTo { endpoint, bytes }));
            }
            Address::Protected(place, context) => self.send_protected(place, context, &bytes),
            Address::Stream(conn) => self.send_frame(conn, &bytes),
        }
    }

    /// Somebody came without the credentials that are needed there, perhaps in the name of a device that has some.
    fn unproved(&mut self, origin: &Origin, name: Option<&DeviceId>, reason: &'static str) -> Reply {
        self.stats.sign_ins_refused += 1;
        let name = name.map_or_else(String::new, |name| name.as_str().to_owned());
        let notice = Notice::SignInRefused { peer: origin.peer, name, reason };
        self.requests.push_back(Request::Output(Output::Notice(notice)));
        Reply::refusal(Code::UNAUTHORIZED, "credentials are needed")
    }

    /// A device wanted what it may not have.
    fn denied(&mut self, device: &DeviceId, action: Action, topic: &Topic) -> Reply {
        let count = match action {
            Action::Subscribe => &mut self.stats.subscriptions_denied,
            Action::Publish | Action::Will => &mut self.stats.publishes_denied,
        };
        *count += 1;
        // A topic has no control characters, and a bound.
        let notice = Notice::Denied { device: device.clone(), action, topic: topic.as_str().to_owned() };
        self.requests.push_back(Request::Output(Output::Notice(notice)));
        Reply::refusal(
            Code::FORBIDDEN,
            match action {
                Action::Subscribe => "this device may not read here",
                Action::Publish | Action::Will => "this device may not publish here",
            },
        )
    }
}
