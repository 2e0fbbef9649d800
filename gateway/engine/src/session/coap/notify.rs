//! Observations served: who is put on the list, what is sent when, what ends it (RFC 7641, 4). One notification that wants an
//! acknowledgement is under way to a peer at a time; of a topic the newest value follows it, of commands each.

use super::content::{self, Content, EXPONENT_MAX};
use super::observe::{Flight, New, Number, Target, commanded};
use super::peer::Address;
use super::reply::{Location, Reply};
use super::{ACK_JITTER_MS, ACK_TIMEOUT, Coap, MAX_RETRANSMIT};
use crate::message::{Message, Qos};
use crate::mutant::Mutant;
use crate::time::{Duration, Instant, Now};
use std::sync::Arc;
use tidegate_wire::coap::{Block, Code, Kind, Token};

/// Notifications between two that want an acknowledgement: an observer that is gone is found out soon.
const UNCONFIRMED_MAX: u8 = 16;
/// And the longest time; once a day is demanded (RFC 7641, 4.5).
const CONFIRM_WITHIN: Duration = Duration::from_secs(3_600);
/// Between notifications that want none, while no round trip has been measured (RFC 7641, 4.5.1).
const UNCONFIRMED_EVERY: Duration = Duration::from_secs(3);

impl Coap {
    /// Puts an observer on the list, in the place of the one with its token. Nothing when there is no room: the request is then a
    /// plain one (RFC 7641, 4.1).
    pub(super) fn observe(&mut self, now: Instant, new: New) -> Option<u32> {
        if let Some(number) = self.observers.find(new.address, new.token) {
            // It is the same one: what waits for it, and what it has not acknowledged, stays (RFC 7641, 4.1: "update").
            if self.observers.renew(now, number, &new) {
                return Some(self.observers.next_sequence(now));
            }
            self.end_observation(now, number);
        }
        self.make_room(now, &new);
        if self.observers.len() >= self.limits.coap_observers
            || self.observers.at(new.address).len() >= self.limits.coap_observers_per_peer
            || self.exchanges.pin(now, new.address, self.prng.message_id()).is_err()
        {
            return None;
        }
        self.observers.insert(now, new);
        Some(self.observers.next_sequence(now))
    }

    /// Ends an observation that is probably nobody's any more where there is no room for another. Nothing but a notification would
    /// find that out: observers of what never changes would stay for ever.
    fn make_room(&mut self, now: Instant, new: &New) {
        let peer_is_full = self.observers.at(new.address).len() >= self.limits.coap_observers_per_peer;
        if !peer_is_full && self.observers.len() < self.limits.coap_observers {
            return;
        }
        if let Some(number) = self.observers.abandoned(now, new, peer_is_full.then_some(new.address)) {
            self.dismiss(now, number, Code::SERVICE_UNAVAILABLE);
        }
    }

    /// Takes an observer off the list.
    pub(super) fn unobserve(&mut self, now: Instant, address: Address, token: Token) {
        if let Some(number) = self.observers.find(address, token) {
            self.end_observation(now, number);
        }
    }

    pub(super) fn end_observation(&mut self, now: Instant, number: Number) {
        let Some(observer) = self.observers.remove(number) else { return };
        self.exchanges.unpin(observer.asked.address);
        if matches!(observer.asked.target, Target::Commands(_)) {
            // Nobody else is told of them.
            let lost = observer.waiting.len() + usize::from(observer.flight.is_some());
            self.stats.dropped += u64::try_from(lost).unwrap_or(u64::MAX);
        }
        if observer.flight.is_some() {
            self.exchanges.set_notifying(observer.asked.address, false);
            self.send_next(now, observer.asked.address);
        }
    }

    /// Hands a message to those who observe its topic, or listen for commands.
    pub fn deliver(&mut self, now: Now, message: &Arc<Message>) {
        if self.observers.is_empty() && self.listeners.is_empty() {
            return;
        }
        let numbers = self.observers.of(&message.topic);
        let commands = numbers.iter().any(|number| {
            self.observers
                .get(*number)
                .is_some_and(|observer| matches!(observer.asked.target, Target::Commands(_)))
        });
        for number in numbers {
            self.notify(now.instant, number, message);
        }
        if !commands && let Some(device) = commanded(&message.topic) {
            self.command(now.instant, &device, message);
        }
    }

    fn notify(&mut self, now: Instant, number: Number, message: &Arc<Message>) {
        let Some(observer) = self.observers.get_mut(number) else { return };
        // It may have come before a rule was changed.
        let welcome = match observer.asked.address {
            Address::Datagram(endpoint) => {
                observer.asked.proved || self.access.admits_stranger(endpoint.peer)
            }
            Address::Stream(conn) => {
                let peer = self.streams.peer(conn);
                observer.asked.proved || peer.is_some_and(|peer| self.access.admits_stranger(peer))
            }
            Address::Protected(..) => true,
        };
        if !welcome || !self.access.may_receive(&observer.asked.device, observer.asked.proved, &message.topic)
        {
            return self.dismiss(now, number, Code::FORBIDDEN);
        }
        // What its topic had is cleared: a GET would find nothing (RFC 7641, 3.2).
        let cleared = message.retain && message.payload.is_empty();
        if cleared && matches!(observer.asked.target, Target::Topic(_)) {
            return self.dismiss(now, number, Code::NOT_FOUND);
        }
        // It asked for one content format alone, and this has another (RFC 7641, 4.2).
        if !Content::of(message, None).suits(observer.asked.accept) {
            return self.dismiss(now, number, Code::NOT_ACCEPTABLE);
        }
        if self.planted.is(Mutant::NewestWithheld) && !observer.waiting.is_empty() {
            return;
        }
        self.stats.dropped += u64::from(!observer.push(message));
        if observer.flight.is_none() {
            self.pump(now, number);
        }
    }

    /// Sends what waits for an observer, if its turn has come.
    fn pump(&mut self, now: Instant, number: Number) {
        loop {
            let Some(observer) = self.observers.get_mut(number) else { return };
            let Some(message) = observer.waiting.front().cloned().filter(|_| observer.flight.is_none())
            else {
                return;
            };
            let address = observer.asked.address;
            // A peer that uses the token anew would take this for its answer.
            if self.exchanges.is_asked(address, observer.asked.token) {
                return self.observers.arm(number, Some(now.after(ACK_TIMEOUT)));
            }
            if self.streams.is_full(address) {
                return; // It goes on when the peer has read.
            }
            let mut message_id = 0;
            // A stream's transport repeats, orders and slows down.
            if !address.is_stream() {
                if observer.wants_confirmation(now, &message) {
                    if self.exchanges.is_busy(address) {
                        return;
                    }
                    observer.waiting.pop_front();
                    let jitter = Duration::from_millis(self.prng.up_to(ACK_JITTER_MS).into());
                    return self.fly(now, number, message, 0, ACK_TIMEOUT + jitter);
                }
                if observer.not_before > now {
                    let due = Some(observer.not_before);
                    return self.observers.arm(number, due);
                }
                observer.unconfirmed = observer.unconfirmed.saturating_add(1);
                observer.not_before = now.after(observer.round_trip.unwrap_or(UNCONFIRMED_EVERY));
                let Some(own) = self.exchanges.own_message_id(address) else { return };
                message_id = own;
                observer.unconfirmed_id = Some(own);
            }
            observer.waiting.pop_front();
            let sequence = self.observers.next_sequence(now);
            self.send_notification(now, number, &message, sequence, Kind::NonConfirmable, message_id);
        }
    }

    /// Sends a notification that wants an acknowledgement, as a new message.
    fn fly(&mut self, now: Instant, number: Number, message: Arc<Message>, repeats: u8, wait: Duration) {
        let sequence = self.observers.next_sequence(now);
        let Some(observer) = self.observers.get_mut(number) else { return };
        let address = observer.asked.address;
        let Some(message_id) = self.exchanges.own_message_id(address) else { return };
        let flight = Flight { message: Arc::clone(&message), sequence, message_id, repeats, wait, sent: now };
        observer.flight = Some(flight);
        observer.flown = Some(now);
        self.exchanges.set_notifying(address, true);
        self.observers.arm(number, Some(now.after(wait)));
        self.send_notification(now, number, &message, sequence, Kind::Confirmable, message_id);
    }

    fn send_notification(
        &mut self,
        now: Instant,
        number: Number,
        message: &Arc<Message>,
        sequence: u32,
        kind: Kind,
        message_id: u16,
    ) {
        let Some(observer) = self.observers.get(number) else { return };
        let (address, token, resource) =
            (observer.asked.address, observer.asked.token, observer.asked.resource);
        let content = match &observer.asked.target {
            Target::Topic(_) => Content::of(message, message.seconds_left(Duration::ZERO)),
            Target::Commands(device) => command_content(message, device.as_str()),
        };
        // Until its place is proved it gets small blocks only, and fetches the rest.
        let exponents = (0..=observer.asked.exponent.min(EXPONENT_MAX)).rev();
        let asked = (observer.asked.exponent < EXPONENT_MAX
            && content.payload.len() > 16 << observer.asked.exponent)
            .then_some(Block { number: 0, more: false, exponent: observer.asked.exponent });
        let mut written = None;
        for exponent in exponents {
            let Ok(reply) = content::block(&content, asked, exponent) else { break };
            let reply = Reply { observe: Some(sequence), ..reply };
            let Some(bytes) = reply.write(kind, message_id, token, usize::MAX) else { break };
            let fits = bytes.len() <= observer.asked.room;
            let cut = reply.block2.is_some_and(|block| block.more);
            if fits || exponent == 0 {
                written = Some((bytes, cut, fits));
                break;
            }
        }
        match written {
            Some((bytes, cut, true)) => {
                if cut {
                    self.snapshots.keep(now, address, resource, &content, &self.limits);
                }
                self.stats.delivered += 1;
                self.send(address, Some(bytes));
            }
            // Not even that may be sent there: it is told that there is something, and fetches it.
            _ => {
                let bare = Reply { observe: Some(sequence), ..Reply::of(Code::CONTENT) };
                self.send(address, bare.write(kind, message_id, token, usize::MAX));
            }
        }
    }

    /// An acknowledgement or RST of a notification. False when there is none with this message id.
    pub(super) fn notified(
        &mut self,
        now: Instant,
        address: Address,
        message_id: u16,
        accepted: bool,
    ) -> bool {
        let found = self.observers.flying(address, message_id);
        let rejected = || self.observers.told(address, message_id).filter(|_| !accepted);
        let Some(number) = found.or_else(rejected) else { return false };
        if !accepted {
            self.end_observation(now, number);
            return true;
        }
        let Some(observer) = self.observers.get_mut(number) else { return true };
        if let Some(flight) = observer.flight.take() {
            // Of one that went twice it is not known which was acknowledged.
            if flight.repeats == 0 {
                observer.round_trip = Some(now.since(flight.sent));
            }
            observer.confirmed = Some(now);
            observer.unconfirmed = 0;
            observer.not_before = now;
            observer.asked.room = usize::MAX;
        }
        self.observers.hear(now, number);
        self.observers.arm(number, None);
        self.exchanges.set_notifying(address, false);
        self.send_next(now, address);
        true
    }

    /// What is due for observers: notifications again, or later ones.
    pub(super) fn notify_due(&mut self, now: Instant) {
        while let Some(number) = self.observers.due(now) {
            self.observers.arm(number, None);
            let Some(observer) = self.observers.get_mut(number) else { continue };
            if observer.flight.is_some()
                && self.exchanges.is_asked(observer.asked.address, observer.asked.token)
            {
                self.observers.arm(number, Some(now.after(ACK_TIMEOUT)));
                continue;
            }
            let Some(mut flight) = observer.flight.take() else {
                self.pump(now, number);
                continue;
            };
            if flight.repeats >= MAX_RETRANSMIT {
                // Gone or deaf (RFC 7641, 4.5).
                observer.flight = Some(flight);
                self.end_observation(now, number);
                continue;
            }
            let (repeats, wait) = (flight.repeats + 1, flight.wait * 2);
            let newer = match observer.asked.target {
                Target::Topic(_) => observer.waiting.pop_front(),
                Target::Commands(_) => None,
            };
            if let Some(newer) = newer {
                if self.planted.is(Mutant::OvertakenSentLast) {
                    observer.waiting.push_front(flight.message);
                }
                // It takes the place of the old one, and its place in the waits (RFC 7641, 4.5.2).
                self.fly(now, number, newer, repeats, wait);
                continue;
            }
            (flight.repeats, flight.wait) = (repeats, wait);
            let (message, sequence, id) = (Arc::clone(&flight.message), flight.sequence, flight.message_id);
            observer.flight = Some(flight);
            self.observers.arm(number, Some(now.after(wait)));
            self.send_notification(now, number, &message, sequence, Kind::Confirmable, id);
        }
    }

    /// Sends the next CON to a peer that has room for one: a separate response first, it is waited for.
    pub(super) fn send_next(&mut self, now: Instant, address: Address) {
        if let Some(next) = self.exchanges.queued_at(address) {
            return self.respond(now, next);
        }
        let mut waiting = self.observers.at(address);
        // Whose last turn is longest ago comes first: one that always has something takes nobody's turn.
        waiting.sort_by_key(|number| self.observers.get(*number).and_then(|observer| observer.flown));
        for number in waiting {
            self.pump(now, number);
            if self.exchanges.is_busy(address) {
                break;
            }
        }
    }

    /// Tells an observer that there is nothing more for it, and why.
    fn dismiss(&mut self, now: Instant, number: Number, code: Code) {
        let Some(observer) = self.observers.get(number) else { return };
        let (address, token) = (observer.asked.address, observer.asked.token);
        if let Some(message_id) = self.exchanges.own_message_id(address) {
            self.send(address, Reply::of(code).write(Kind::NonConfirmable, message_id, token, usize::MAX));
        }
        self.end_observation(now, number);
    }

    /// The observations of a stream that is gone.
    pub(super) fn drop_observations(&mut self, now: Instant, address: Address) {
        for number in self.observers.at(address) {
            self.end_observation(now, number);
        }
    }
}

impl super::observe::Observer {
    fn wants_confirmation(&self, now: Instant, message: &Message) -> bool {
        let lately = self.confirmed.is_some_and(|last| now.since(last) < CONFIRM_WITHIN);
        let wanted = self.asked.confirmable.unwrap_or(message.qos > Qos::AtMostOnce);
        wanted
            || !lately
            || self.unconfirmed >= UNCONFIRMED_MAX
            || matches!(self.asked.target, Target::Commands(_))
    }
}

/// A command as Hono's devices know it: its name, and where its answer goes.
pub(super) fn command_content(message: &Message, device: &str) -> Content {
    let name = message
        .topic
        .as_str()
        .strip_prefix("commands/")
        .and_then(|rest| rest.strip_prefix(device))
        .map(|rest| rest.trim_start_matches('/'));
    let id = format!("{:x}-{:x}", message.id.epoch, message.id.seq.0);
    let location = Location {
        path: vec!["command_response".to_owned(), id],
        query: format!("hono-command={}", name.unwrap_or_default()),
    };
    Content {
        location: Some(Box::new(location)),
        ..Content::of(message, message.seconds_left(Duration::ZERO))
    }
}
