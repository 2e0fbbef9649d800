//! The CoAP server over datagrams (RFC 7252): `POST` and `PUT` on `/t/{topic…}` or `/ps/{topic…}` publish.
//! A CON is answered with 2.04 when [`Coap::safe`] says so and never earlier (P1); a NON promises nothing.
//! It does not know where a message becomes safe, has no sockets, and asks nobody for the time.
//!
//! `ask` reads a request, `exchange` remembers what was answered, `reply` writes answers. Wider duties
//! (Observe, blocks, commands) are further kinds of `Ask` and further states of an exchange.

mod ask;
mod discovery;
mod exchange;
mod prng;
mod reply;
#[cfg(test)]
mod tests;

use super::{Incoming, Request};
use crate::event::{Anonymous, Endpoint, Notice, Output, Setup};
use crate::id::DeviceId;
use crate::limits::Limits;
use crate::message::{Qos, Source};
use crate::mutant::{Mutant, Planted};
use crate::stats::ProtocolStats;
use crate::time::{Duration, Instant, Now};
use crate::topic::Topic;
use ask::{Ask, Publish};
use bytes::Bytes;
use exchange::{Full, Key, New, State, Table};
use prng::Prng;
use reply::Reply;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use tidegate_wire::coap::{Code, Fault, Header, Kind, Message, OptionNumber, ParseError};

/// How long safety may take before the request is acknowledged without an answer: half of the two seconds
/// after which a device sends again (RFC 7252, 4.8: ACK_TIMEOUT).
const PIGGYBACK_WITHIN: Duration = Duration::from_secs(1);

/// The wait before a separate response goes again, times 1 to 1.5, doubled each time (RFC 7252, 4.8: ACK_TIMEOUT).
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// ACK_RANDOM_FACTOR 1.5 as the longest addition to ACK_TIMEOUT, in milliseconds (RFC 7252, 4.8).
const ACK_JITTER_MS: u32 = 1_000;

/// How often a separate response goes again (RFC 7252, 4.8: MAX_RETRANSMIT).
const MAX_RETRANSMIT: u8 = 4;

/// What a device is told to wait while the gateway holds, in seconds: long enough for a commit or a
/// confirm, short enough for a device's small buffer. Spread, so that not all come back at once.
const HOLD_SECONDS_MIN: u32 = 5;
/// The spread above [`HOLD_SECONDS_MIN`], in seconds.
const HOLD_SECONDS_SPREAD: u32 = 5;

/// Whom to tell that a message is safe: an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt(Key);

/// The CoAP side of the engine.
#[derive(Debug)]
pub struct Coap {
    limits: Limits,
    anonymous: Anonymous,
    planted: Planted,
    prng: Prng,
    exchanges: Table,
    requests: VecDeque<Request>,
    holding: bool,
    stopping: bool,
    stats: ProtocolStats,
}

impl Coap {
    /// Makes a server without any memory of earlier lives.
    #[must_use]
    pub fn new(setup: &Setup, planted: Planted) -> Self {
        Self {
            limits: setup.limits.clone(),
            anonymous: setup.anonymous,
            planted,
            prng: Prng::new(setup.seed),
            exchanges: Table::new(setup.limits.coap_peers, setup.limits.coap_exchanges_per_peer),
            requests: VecDeque::new(),
            holding: false,
            stopping: false,
            stats: ProtocolStats::default(),
        }
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The configuration was read again.
    pub fn reload(&mut self, setup: &Setup) {
        self.limits = setup.limits.clone();
        self.anonymous = setup.anonymous;
        self.exchanges.resize(setup.limits.coap_peers, setup.limits.coap_exchanges_per_peer);
    }

    /// While on, no message is taken: a CON is answered with 5.03 and a Max-Age, a NON is dropped (P7).
    pub fn hold(&mut self, on: bool) {
        self.holding = on;
    }

    /// Takes no more messages, and says at once what is due to be said. Answers to messages that become safe
    /// after this still go.
    pub fn stop(&mut self, now: Now) {
        self.stopping = true;
        // There may be no time left to wait for each acknowledgement in turn.
        for key in self.exchanges.queued() {
            self.respond(now.instant, key);
        }
    }

    /// What it asks of the rest of the engine; call until `None`.
    pub fn poll(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// When [`tick`](Self::tick) is due if nothing else happens.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        self.exchanges.timeout()
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> ProtocolStats {
        ProtocolStats {
            peers: u64::try_from(self.exchanges.peers()).unwrap_or(u64::MAX),
            ..self.stats.clone()
        }
    }

    /// Takes a datagram.
    pub fn datagram(&mut self, now: Now, endpoint: Endpoint, datagram: Bytes) {
        if !is_answerable(endpoint) {
            self.stats.refused += 1;
            return;
        }
        let message = match Message::parse(&datagram) {
            Ok(message) => message,
            Err(error) => return self.malformed(now, endpoint, error),
        };
        let Header { kind, code, message_id } = message.header();
        match kind {
            // An ACK may carry a response; we ask nothing of devices yet, so that its id is all that matters.
            Kind::Acknowledgement | Kind::Reset => self.acknowledged(now, endpoint, message_id),
            // An empty CON is a ping (RFC 7252, 4.3); a response that nobody asked for is rejected (5.3.2).
            Kind::Confirmable if !code.is_request() => self.reset(endpoint, message_id),
            Kind::NonConfirmable if !code.is_request() => self.stats.refused += 1,
            Kind::Confirmable | Kind::NonConfirmable => self.request(now, endpoint, &message, &datagram),
        }
    }

    /// What is owed for bytes that are no message (RFC 7252, 4.2 and 4.3).
    fn malformed(&mut self, now: Now, endpoint: Endpoint, error: ParseError) {
        match error {
            // Some devices send their token in an empty ACK; it still says which message it is for.
            ParseError::Malformed(
                Header { kind: Kind::Acknowledgement | Kind::Reset, message_id, .. },
                Fault::EmptyTrailing,
            ) => self.acknowledged(now, endpoint, message_id),
            ParseError::Malformed(Header { kind: Kind::Confirmable, message_id, .. }, _) => {
                self.stats.refused += 1;
                self.reset(endpoint, message_id);
            }
            _ => self.stats.refused += 1,
        }
    }

    fn request(&mut self, now: Now, endpoint: Endpoint, message: &Message<'_>, datagram: &Bytes) {
        if !self.may_come(endpoint) {
            self.notice(endpoint, "CoAP without credentials: access.anonymous does not allow this address");
            let text = "credentials are needed";
            return self.refuse(endpoint, message, datagram, &Reply::refusal(Code::UNAUTHORIZED, text));
        }
        match ask::read(message, datagram.len(), &self.limits) {
            Ok(Ask::Publish(publish)) => self.publish(now, endpoint, message, datagram, publish),
            Ok(Ask::Discover(block)) => {
                let reply = discovery::answer(message, block);
                self.answer(endpoint, message, datagram, &reply);
            }
            Err(reply) => {
                if reply.code() == Code::FORBIDDEN {
                    self.notice(endpoint, "CoAP publish to a topic that begins with '$'");
                }
                // A NON with a critical option that is not understood is rejected, not answered (RFC 7252, 5.4.1).
                if reply.code() == Code::BAD_OPTION && message.kind() == Kind::NonConfirmable {
                    self.stats.refused += 1;
                } else {
                    self.refuse(endpoint, message, datagram, &reply);
                }
            }
        }
    }

    fn publish(
        &mut self,
        now: Now,
        endpoint: Endpoint,
        message: &Message<'_>,
        datagram: &Bytes,
        publish: Publish,
    ) {
        self.stats.received += 1;
        let confirmable = message.kind() == Kind::Confirmable;
        let fingerprint = fingerprint(datagram);
        if !self.planted.is(Mutant::CoapNoDedupe)
            && let Some(key) = self.exchanges.find(now.instant, endpoint, message.message_id(), fingerprint)
        {
            self.stats.repeated += 1;
            return self.repeated(key);
        }
        let refused = self.holding || self.stopping;
        if refused && !confirmable {
            self.stats.dropped += 1;
            return;
        }
        let (state, due) = match (confirmable, refused) {
            (false, _) => (State::Silent, None),
            (true, true) => (State::Unavailable(self.hold_seconds()), None),
            (true, false) => (State::Pending, Some(now.instant.after(PIGGYBACK_WITHIN))),
        };
        let new = New {
            message_id: message.message_id(),
            fingerprint,
            token: message.token(),
            state,
            due,
            first_message_id: self.prng.message_id(),
        };
        let key = match self.exchanges.open(now.instant, endpoint, new) {
            Ok(key) => key,
            Err(_) if !confirmable => {
                self.stats.dropped += 1;
                return;
            }
            Err(full) => {
                let code = match full {
                    Full::Peer => Code::TOO_MANY_REQUESTS,
                    Full::Table => Code::SERVICE_UNAVAILABLE,
                };
                let reply = Reply::unavailable(code, self.hold_seconds());
                return self.refuse(endpoint, message, datagram, &reply);
            }
        };
        if let State::Unavailable(seconds) = state {
            let reply = Reply::unavailable(Code::SERVICE_UNAVAILABLE, seconds);
            return self.refuse(endpoint, message, datagram, &reply);
        }
        self.requests.push_back(Request::Publish {
            incoming: Incoming {
                client: None,
                device: device(&publish.topic, endpoint),
                topic: publish.topic,
                payload: datagram.slice_ref(message.payload()),
                qos: if confirmable { Qos::AtLeastOnce } else { Qos::AtMostOnce },
                retain: publish.retain,
                duplicate: false,
                source: Source::Coap,
                properties: publish.properties,
                record: None,
            },
            receipt: confirmable.then_some(super::Receipt::Coap(Receipt(key))),
        });
        if !confirmable {
            self.stats.acknowledged += 1;
            self.answer(endpoint, message, datagram, &Reply::changed());
        }
    }

    /// A request that is known has come again (RFC 7252, 4.5).
    fn repeated(&mut self, key: Key) {
        let Some((endpoint, exchange, state)) = self.exchanges.get(key) else { return };
        let (message_id, token) = (exchange.message_id, exchange.token);
        let reply = match state {
            State::Pending | State::Silent => return,
            State::Acknowledged | State::Queued | State::Responding { .. } | State::Delivered => {
                return self.send(endpoint, reply::empty(Kind::Acknowledgement, message_id));
            }
            State::Changed => Reply::changed(),
            State::Unavailable(seconds) => Reply::unavailable(Code::SERVICE_UNAVAILABLE, seconds),
        };
        self.send(endpoint, reply.write(Kind::Acknowledgement, message_id, token, usize::MAX));
    }

    /// The message behind the receipt is safe: its device may be told.
    pub fn safe(&mut self, now: Now, receipt: Receipt) {
        let Receipt(key) = receipt;
        let Some((endpoint, exchange, state)) = self.exchanges.get(key) else { return };
        match state {
            State::Pending => {
                let reply = Reply::changed();
                let bytes =
                    reply.write(Kind::Acknowledgement, exchange.message_id, exchange.token, usize::MAX);
                self.exchanges.set(key, State::Changed, None);
                self.stats.acknowledged += 1;
                self.send(endpoint, bytes);
            }
            State::Acknowledged => {
                self.stats.acknowledged += 1;
                if self.exchanges.peer_is_busy(key) && !self.stopping {
                    self.exchanges.set(key, State::Queued, None);
                } else {
                    self.respond(now.instant, key);
                }
            }
            _ => {}
        }
    }

    /// Sends a separate response for the first time (RFC 7252, 5.2.2).
    fn respond(&mut self, now: Instant, key: Key) {
        let Some(message_id) = self.exchanges.own_message_id(key) else { return };
        let jitter = Duration::from_millis(self.prng.up_to(ACK_JITTER_MS).into());
        self.send_response(now, key, message_id, 0, ACK_TIMEOUT + jitter);
    }

    fn send_response(&mut self, now: Instant, key: Key, message_id: u16, repeats: u8, wait: Duration) {
        let Some((endpoint, exchange, _)) = self.exchanges.get(key) else { return };
        let bytes = Reply::changed().write(Kind::Confirmable, message_id, exchange.token, usize::MAX);
        self.exchanges.set(key, State::Responding { message_id, repeats, wait }, Some(now.after(wait)));
        self.send(endpoint, bytes);
    }

    /// An ACK or RST: whatever it answers need not go again (RFC 7252, 4.2).
    fn acknowledged(&mut self, now: Now, endpoint: Endpoint, message_id: u16) {
        if let Some(key) = self.exchanges.responding(endpoint, message_id) {
            self.exchanges.set(key, State::Delivered, None);
            self.respond_next(now.instant, key);
        }
    }

    fn respond_next(&mut self, now: Instant, after: Key) {
        if let Some(next) = self.exchanges.queued_beside(after) {
            self.respond(now, next);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        while let Some(key) = self.exchanges.due(now.instant) {
            let Some((endpoint, exchange, state)) = self.exchanges.get(key) else { break };
            match state {
                State::Responding { message_id, repeats, wait } if repeats < MAX_RETRANSMIT => {
                    self.send_response(now.instant, key, message_id, repeats + 1, wait * 2);
                }
                State::Responding { .. } => {
                    // The device is gone or deaf. Should its request come again, the answer rides on the ACK.
                    self.exchanges.set(key, State::Changed, None);
                    self.respond_next(now.instant, key);
                }
                State::Pending => {
                    let bytes = reply::empty(Kind::Acknowledgement, exchange.message_id);
                    self.exchanges.set(key, State::Acknowledged, None);
                    self.send(endpoint, bytes);
                }
                other => self.exchanges.set(key, other, None),
            }
        }
        self.exchanges.expire(now.instant);
    }

    /// Answers a request that needs no memory: in the ACK to a CON, in a NON to a NON.
    fn answer(&mut self, endpoint: Endpoint, request: &Message<'_>, datagram: &Bytes, reply: &Reply) {
        let (kind, message_id) = match request.kind() {
            Kind::Confirmable => (Kind::Acknowledgement, request.message_id()),
            _ if is_unwanted(request, reply.code()) => return,
            _ => (Kind::NonConfirmable, self.prng.message_id()),
        };
        self.send(endpoint, reply.write(kind, message_id, request.token(), datagram.len()));
    }

    fn refuse(&mut self, endpoint: Endpoint, request: &Message<'_>, datagram: &Bytes, reply: &Reply) {
        self.stats.refused += 1;
        self.answer(endpoint, request, datagram, reply);
    }

    fn reset(&mut self, endpoint: Endpoint, message_id: u16) {
        self.send(endpoint, reply::empty(Kind::Reset, message_id));
    }

    fn send(&mut self, endpoint: Endpoint, bytes: Option<Bytes>) {
        if let Some(bytes) = bytes {
            self.requests.push_back(Request::Output(Output::SendTo { endpoint, bytes }));
        }
    }

    fn notice(&mut self, endpoint: Endpoint, reason: &str) {
        let notice = Notice::Refused { peer: endpoint.peer, reason: reason.to_owned() };
        self.requests.push_back(Request::Output(Output::Notice(notice)));
    }

    fn may_come(&self, endpoint: Endpoint) -> bool {
        match self.anonymous {
            Anonymous::Never => false,
            Anonymous::Loopback => endpoint.peer.ip().to_canonical().is_loopback(),
            Anonymous::Everywhere => true,
        }
    }

    fn hold_seconds(&mut self) -> u32 {
        HOLD_SECONDS_MIN + self.prng.up_to(HOLD_SECONDS_SPREAD)
    }
}

/// Whether the device does not want a response of this class (RFC 7967). Only for a NON: the 2.04 to a CON is the
/// promise that was asked for.
fn is_unwanted(request: &Message<'_>, code: Code) -> bool {
    let Some(unwanted) = request.option_uint(OptionNumber::NO_RESPONSE) else { return false };
    code.class().checked_sub(1).is_some_and(|bit| unwanted & (1 << bit) != 0)
}

/// Whether an answer could arrive and would not multiply.
fn is_answerable(endpoint: Endpoint) -> bool {
    let ip = endpoint.peer.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    endpoint.peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// A repetition is equal byte for byte; what differs is another message, whatever its message id says.
fn fingerprint(datagram: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(datagram);
    hasher.finish()
}

/// Who sent it, without credentials to tell: the device that the topic names, or else the address.
fn device(topic: &Topic, endpoint: Endpoint) -> DeviceId {
    let mut levels = topic.levels();
    let named = match (levels.next(), levels.next(), levels.next()) {
        (Some("sensors"), Some(name), _) => DeviceId::new(name).ok(),
        _ => None,
    };
    named.unwrap_or_else(|| DeviceId::from(endpoint.peer.ip()))
}
