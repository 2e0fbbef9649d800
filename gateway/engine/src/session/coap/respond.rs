//! Answers: at once, in the ACK when a message is safe within a second, else in a message of their own that is repeated until it is
//! acknowledged (RFC 7252, 5.2); and the same again to repetitions of a request.

use super::content::BLOCK_BYTES_MAX;
use super::exchange::{Key, State};
use super::notify::command_content;
use super::peer::{Address, Origin};
use super::reply::{self, Reply};
use super::request::is_unwanted;
use super::{ACK_JITTER_MS, ACK_TIMEOUT, Awaited, Coap, MAX_RETRANSMIT, Receipt};
use crate::id::DeviceId;
use crate::message::Message as Value;
use crate::mutant::Mutant;
use crate::time::{Duration, Instant, Now};
use std::sync::Arc;
use tidegate_wire::coap::{Code, Kind, Message};

/// Answers to commands that are remembered: one that comes again is not reported again.
const ANSWERED_MAX: usize = 1_024;

/// What a device is told to wait while the gateway holds, in seconds: long enough for a commit or a
/// confirm, short enough for a device's small buffer. Spread, so that not all come back at once.
const HOLD_SECONDS_MIN: u32 = 5;
/// The spread above [`HOLD_SECONDS_MIN`], in seconds.
const HOLD_SECONDS_SPREAD: u32 = 5;

impl Coap {
    /// A request that is known has come again (RFC 7252, 4.5).
    pub(super) fn repeated(&mut self, key: Key) {
        let Some((address, exchange, state)) = self.exchanges.get(key) else { return };
        let (message_id, token) = (exchange.message_id, exchange.token);
        let bytes = match state {
            State::Pending | State::Silent => return,
            State::Acknowledged | State::Queued | State::Responding { .. } | State::Delivered => {
                reply::empty(Kind::Acknowledgement, message_id)
            }
            State::Answered => match &exchange.reply {
                Some(reply) => reply.write(Kind::Acknowledgement, message_id, token, usize::MAX),
                None => Reply::changed().write(Kind::Acknowledgement, message_id, token, usize::MAX),
            },
            State::Refused(code, seconds) => {
                let reply = Reply::unavailable(code, seconds);
                reply.write(Kind::Acknowledgement, message_id, token, usize::MAX)
            }
        };
        self.send(address, bytes);
    }

    /// The message behind the receipt is safe: its device may be told.
    pub fn safe(&mut self, now: Now, receipt: Receipt) {
        let key = match receipt.0 {
            Awaited::Exchange(key) => key,
            Awaited::Reserved(context) => return self.reserved(context),
        };
        if let Some(command) = self.answering.remove(&key) {
            if self.answered.len() >= ANSWERED_MAX {
                self.answered.pop_front();
            }
            self.answered.push_back(command);
        }
        if !self.listeners.safe(key) {
            self.finish(now.instant, key);
        }
    }

    /// Answers a request, in its ACK if that has not gone.
    fn finish(&mut self, now: Instant, key: Key) {
        let Some((address, exchange, state)) = self.exchanges.get(key) else { return };
        match state {
            // Without a message id in it the answer would be taken for that to the later request under its token.
            State::Pending
                if address.is_stream()
                    && self.exchanges.is_overtaken(key)
                    && !self.planted.is(Mutant::OvertakenAnswered) =>
            {
                self.exchanges.set(key, State::Answered, None);
                self.answered_at(address);
            }
            State::Pending => {
                let (message_id, token) = (exchange.message_id, exchange.token);
                let kind = Kind::Acknowledgement;
                let bytes = match &exchange.reply {
                    Some(reply) => reply.write(kind, message_id, token, usize::MAX),
                    None => Reply::changed().write(kind, message_id, token, usize::MAX),
                };
                self.exchanges.set(key, State::Answered, None);
                self.stats.acknowledged += 1;
                self.send(address, bytes);
                self.answered_at(address);
            }
            State::Acknowledged => {
                self.stats.acknowledged += 1;
                if self.exchanges.is_overtaken(key) {
                    self.exchanges.set(key, State::Answered, None);
                } else if self.exchanges.is_busy(address) && !self.stopping {
                    self.exchanges.set(key, State::Queued, None);
                } else {
                    self.respond(now, key);
                }
            }
            _ => {}
        }
    }

    /// Sends a separate response for the first time (RFC 7252, 5.2.2).
    pub(super) fn respond(&mut self, now: Instant, key: Key) {
        let Some((address, ..)) = self.exchanges.get(key) else { return };
        if self.exchanges.is_overtaken(key) {
            self.exchanges.set(key, State::Answered, None);
            return self.send_next(now, address);
        }
        let Some(message_id) = self.exchanges.own_message_id(address) else { return };
        let jitter = Duration::from_millis(self.prng.up_to(ACK_JITTER_MS).into());
        self.send_response(now, key, message_id, 0, ACK_TIMEOUT + jitter);
    }

    fn send_response(&mut self, now: Instant, key: Key, message_id: u16, repeats: u8, wait: Duration) {
        let Some((address, exchange, _)) = self.exchanges.get(key) else { return };
        let token = exchange.token;
        let bytes = match &exchange.reply {
            Some(reply) => reply.write(Kind::Confirmable, message_id, token, usize::MAX),
            None => Reply::changed().write(Kind::Confirmable, message_id, token, usize::MAX),
        };
        self.exchanges.set(key, State::Responding { message_id, repeats, wait }, Some(now.after(wait)));
        self.send(address, bytes);
    }

    /// Does what is due for exchanges.
    pub(super) fn respond_due(&mut self, now: Instant) {
        while let Some(key) = self.exchanges.due(now) {
            let Some((address, exchange, state)) = self.exchanges.get(key) else { break };
            match state {
                State::Responding { message_id, repeats, wait }
                    if repeats < MAX_RETRANSMIT && !self.exchanges.is_overtaken(key) =>
                {
                    self.send_response(now, key, message_id, repeats + 1, wait * 2);
                }
                State::Responding { .. } => {
                    // The device is gone or deaf, or has gone on. Should its request come again, the answer rides on the ACK.
                    self.exchanges.set(key, State::Answered, None);
                    self.send_next(now, address);
                }
                State::Pending => {
                    let bytes = reply::empty(Kind::Acknowledgement, exchange.message_id);
                    self.exchanges.set(key, State::Acknowledged, None);
                    self.send(address, bytes);
                }
                other => self.exchanges.set(key, other, None),
            }
        }
    }

    /// A command has come for a device that observes none: it rides on the answer to what the device has sent, if that waits.
    pub(super) fn command(&mut self, now: Instant, device: &DeviceId, message: &Arc<Value>) {
        // Whose request is over, as its stream or because its message id came anew, listens no more.
        let key = loop {
            let Some((key, proved)) = self.listeners.newest(device) else { return };
            let waits = matches!(self.exchanges.get(key), Some((.., State::Pending | State::Acknowledged)));
            if waits
                && !self.exchanges.is_overtaken(key)
                && self.access.may_receive(device, proved, &message.topic)
            {
                break key;
            }
            self.stop_listening(now, key);
        };
        let content = command_content(message, device.as_str());
        let Some((address, exchange, _)) = self.exchanges.get(key) else { return };
        let block1 = exchange.reply.as_ref().and_then(|reply| reply.block1);
        let reply = Reply {
            location: content.location,
            content_format: content.format,
            payload: content.payload,
            block1,
            ..Reply::changed()
        };
        let room = self.exchanges.reply_bytes() + reply.footprint() <= self.limits.coap_reply_bytes;
        // A stranger may listen in a forged name: what is sent there is not to be long.
        let fits = reply.payload.len() <= BLOCK_BYTES_MAX
            && (self.is_trusted(now, address) || reply.payload.len() <= 64);
        if !room || !fits {
            self.stats.dropped += 1;
            return;
        }
        self.exchanges.set_reply(key, Some(Box::new(reply)));
        self.stats.delivered += 1;
        self.stop_listening(now, key);
    }

    /// Whether answers of any length may go to an address.
    fn is_trusted(&self, now: Instant, address: Address) -> bool {
        match address {
            Address::Stream(_) | Address::Protected(..) => true,
            // A handshake went to and fro, or a line has one other end only.
            Address::Datagram(endpoint) => {
                endpoint.association != 0
                    || endpoint.peer.ip().to_canonical().is_loopback()
                    || endpoint.peer.port() == 0
                    || self.echo.knows(now, address)
            }
        }
    }

    /// Ends a wait for a command: if the message is safe its device is told, otherwise when it is.
    pub(super) fn stop_listening(&mut self, now: Instant, key: Key) {
        if self.listeners.remove(key) == Some(true) {
            self.finish(now, key);
        }
    }

    /// Answers a request that needs no memory: in the ACK to a CON, in a NON to a NON.
    pub(super) fn answer(&mut self, now: Instant, origin: &Origin, request: &Message<'_>, reply: &Reply) {
        let (kind, message_id) = match request.kind() {
            // On a stream neither means anything, and No-Response is for those who would save a datagram.
            _ if origin.is_stream() => (Kind::NonConfirmable, 0),
            Kind::Confirmable => (Kind::Acknowledgement, request.message_id()),
            _ if is_unwanted(request, reply.code()) => return,
            // Counted where the peer is remembered, so that none comes twice within its lifetime (RFC 7252, 4.4).
            _ => {
                let counted = self.exchanges.own_message_id(origin.address);
                (Kind::NonConfirmable, counted.unwrap_or_else(|| self.prng.message_id()))
            }
        };
        let bytes = reply.write(kind, message_id, request.token(), origin.room());
        if origin.multicast {
            return self.delay(now, origin.address, bytes);
        }
        self.send(origin.address, bytes);
    }

    pub(super) fn refuse(&mut self, now: Instant, origin: &Origin, request: &Message<'_>, reply: &Reply) {
        self.stats.refused += 1;
        // Nobody is told what was wrong with a question that went to all (RFC 7252, 8.2).
        if !origin.multicast {
            self.answer(now, origin, request, reply);
        }
    }

    /// Refuses for the moment.
    pub(super) fn put_off(&mut self, now: Instant, origin: &Origin, request: &Message<'_>, code: Code) {
        let reply = Reply::unavailable(code, self.hold_seconds());
        self.refuse(now, origin, request, &reply);
    }

    pub(super) fn hold_seconds(&mut self) -> u32 {
        HOLD_SECONDS_MIN + self.prng.up_to(HOLD_SECONDS_SPREAD)
    }
}
