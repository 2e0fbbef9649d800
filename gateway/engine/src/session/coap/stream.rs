//! CoAP on streams (RFC 8323): frames, capabilities, pings, release and abort. What comes in a frame goes the same way as a
//! datagram, as a request that neither comes twice nor needs repeating.

use super::Coap;
use super::oscore::ContextId;
use super::peer::{Address, Origin, Place};
use super::serve::NOT_ADMITTED;
use super::streams::{Awaits, Stream};
use crate::event::{Notice, Output, Proof, StreamPeer};
use crate::id::ConnId;
use crate::session::{LastValues, Request};
use crate::time::{Duration, Instant, Now};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::BTreeSet;
use tidegate_wire::coap::stream::{self, Frame, FrameError};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer, uint};

/// From a frame's beginning to its end, and from a ping to something that is heard.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a peer may read nothing of what waits for it.
const UNREAD_KEPT: Duration = Duration::from_secs(60);

/// Bytes that wait for a peer from which on nothing more is read from it, and observations wait: it asks faster than it reads.
pub(super) const UNREAD_BYTES: usize = 64 << 10;

/// Room for a signalling message, in bytes.
const SIGNAL_BYTES: usize = 128;

impl Coap {
    /// Whether a connection is one of CoAP.
    #[must_use]
    pub fn has(&self, conn: ConnId) -> bool {
        self.streams.all.contains_key(&conn)
    }

    /// A connection was accepted: the gateway's CSM goes first (RFC 8323, 5.3). When too many have not said who they are, the one
    /// that has taken longest is closed, of the address that has the most.
    pub fn opened(&mut self, now: Now, conn: ConnId, peer: StreamPeer) {
        let StreamPeer { address, device } = peer;
        let full = self.streams.all.len() >= self.limits.connections;
        let known = device.is_some() || self.access.admits_stranger(address);
        let stream = Stream {
            peer: address,
            device: device.clone(),
            known,
            received: BytesMut::new(),
            longest: stream::MAX_MESSAGE_BYTES_DEFAULT,
            greeted: false,
            unsent: 0,
            paused: false,
            closing: false,
            stirred: now.instant,
            awaits: Awaits::Greeting,
            due: None,
            contexts: BTreeSet::new(),
        };
        self.streams.all.insert(conn, stream);
        if full || self.stopping {
            return self.abort(conn, if full { "too many connections" } else { "the gateway stops" });
        }
        if let Some(device) = device {
            let (client, proof) = (device.clone(), Proof::Certificate);
            let notice = Notice::SignedIn { device, client, peer: address, proof };
            self.requests.push_back(Request::Output(Output::Notice(notice)));
        } else if !known && !self.oscore.is_used() {
            self.stats.sign_ins_refused += 1;
            let notice = Notice::SignInRefused { peer: address, name: String::new(), reason: NOT_ADMITTED };
            self.requests.push_back(Request::Output(Output::Notice(notice)));
            return self.abort(conn, "credentials are needed");
        }
        let crowded = self.streams.strangers.len() >= self.limits.connections_unauthenticated;
        if let Some(first) = self.streams.strangers.first().filter(|_| crowded) {
            self.abort(first, "too many connections have not said who they are, and this is the oldest of the address with the most");
        }
        self.streams.strangers.insert(conn, address.ip());
        self.streams.arm(conn, Awaits::Greeting, now.instant.after(self.limits.connect_timeout));
        // More would say that blocks of several kilobytes are understood (RFC 8323, 5.3.2 and 6).
        let longest = self.limits.coap_message_bytes.min(stream::MAX_MESSAGE_BYTES_DEFAULT);
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        self.signal(conn, stream::CSM, Token::EMPTY, |writer| {
            writer
                .uint(OptionNumber(stream::MAX_MESSAGE_SIZE), longest)
                .option(OptionNumber(stream::BLOCK_WISE_TRANSFER), &[])
        });
    }

    /// Bytes came in.
    pub fn received(&mut self, now: Now, conn: ConnId, bytes: &Bytes, values: &dyn LastValues) {
        let Some(stream) = self.streams.all.get_mut(&conn).filter(|stream| stream.is_heard()) else { return };
        stream.stirred = now.instant;
        let mut buffer = core::mem::take(&mut stream.received);
        buffer.extend_from_slice(bytes);
        let mut took = false;
        while !buffer.is_empty() {
            // One byte more than a message may have, as of a datagram: it is answered.
            let most = self.limits.coap_message_bytes + stream::HEAD_BYTES_MAX;
            let frame = match Frame::parse(&buffer, most) {
                Ok(frame) => frame,
                Err(FrameError::Incomplete) => break,
                Err(FrameError::TokenLength) => return self.abort(conn, "a token has at most eight bytes"),
                Err(FrameError::TooLong) => {
                    return self.abort(conn, "the message is longer than the CSM allows");
                }
            };
            let (code, length) = (frame.code, frame.bytes);
            let mut datagram = vec![0; 12 + frame.body.len()];
            let written = frame.to_datagram(&mut datagram).map_or(0, <[u8]>::len);
            datagram.truncate(written);
            buffer.advance(length);
            took = true;
            let Some(stream) = self.streams.all.get_mut(&conn) else { return };
            let first = !core::mem::replace(&mut stream.greeted, true);
            if first && code != stream::CSM {
                return self.abort(conn, "a CSM comes first");
            }
            if code.class() == 7 {
                self.signalled(now.instant, conn, Bytes::from(datagram));
            } else if code != Code::EMPTY {
                self.message(now, conn, &Bytes::from(datagram), values);
            }
            if !self.streams.all.get(&conn).is_some_and(Stream::is_heard) {
                return;
            }
        }
        self.streams.settle(now.instant, conn, self.limits.coap_stream_idle);
        let Some(stream) = self.streams.all.get_mut(&conn) else { return };
        let partial = !buffer.is_empty();
        if partial {
            stream.received = buffer; // Otherwise its memory goes: a silent connection owns none.
        }
        match stream.awaits {
            Awaits::Greeting | Awaits::Room(_) | Awaits::Answers => {}
            Awaits::Frame if partial && !took => {}
            Awaits::Anything if !partial => {}
            _ => self.await_next(now.instant, conn),
        }
    }

    /// Waits for the rest of a frame, or for the next one.
    fn await_next(&mut self, now: Instant, conn: ConnId) {
        let Some(stream) = self.streams.all.get(&conn) else { return };
        let (awaits, wait) = if stream.received.is_empty() {
            (Awaits::Anything, self.limits.coap_stream_idle)
        } else {
            (Awaits::Frame, PATIENCE)
        };
        self.streams.arm(conn, awaits, now.after(wait));
    }

    /// Bytes have left. A peer that had not read is read again, and its observations go on.
    pub fn sent(&mut self, now: Now, conn: ConnId, count: usize) {
        let Some(stream) = self.streams.all.get_mut(&conn) else { return };
        let count = count.min(stream.unsent);
        stream.unsent -= count;
        self.streams.unsent -= count;
        if !stream.paused {
            return;
        }
        stream.stirred = now.instant;
        if stream.unsent > UNREAD_BYTES / 2 || stream.closing {
            return;
        }
        stream.paused = false;
        let contexts: Vec<ContextId> = stream.contexts.iter().copied().collect();
        self.requests.push_back(Request::Output(Output::Reading { conn, on: true }));
        if matches!(stream.awaits, Awaits::Room(_)) {
            self.await_next(now.instant, conn);
        }
        self.send_next(now.instant, Address::Stream(conn));
        for context in contexts {
            self.send_next(now.instant, Address::Protected(Place::Stream(conn), context));
        }
    }

    /// A connection is gone, and what it had begun with it: observations, bodies, answers (RFC 8323, 5.5 and 5.6).
    pub fn closed(&mut self, now: Now, conn: ConnId) {
        self.streams.disarm(conn);
        self.streams.strangers.remove(conn);
        let Some(stream) = self.streams.all.remove(&conn) else { return };
        self.streams.unsent -= stream.unsent;
        self.leave(now.instant, Address::Stream(conn));
        let place = Place::Stream(conn);
        for context in stream.contexts {
            self.leave(now.instant, Address::Protected(place, context));
            self.oscore.leave(context, place);
        }
    }

    fn leave(&mut self, now: Instant, address: Address) {
        self.drop_observations(now, address);
        self.uploads.leave(address);
        self.exchanges.leave(address);
    }

    /// Somebody has proved with a context to be there.
    pub(super) fn proved_on(&mut self, now: Instant, conn: ConnId, context: ContextId) {
        let Some(stream) = self.streams.all.get_mut(&conn) else { return };
        stream.known = true;
        stream.contexts.insert(context);
        self.streams.settle(now, conn, self.limits.coap_stream_idle);
    }

    /// The certificate of a connection is not accepted any more.
    pub fn revoked(&mut self, conn: ConnId) {
        if self.streams.all.get(&conn).is_some_and(|stream| !stream.closing) {
            self.abort(conn, "your certificate is not accepted any more");
        }
    }

    /// After a change of the configuration: who is there by a context that is gone, or from an address that may not come without
    /// credentials any more, goes. Who has not said yet who it is goes on saying it.
    pub(super) fn review_streams(&mut self, now: Instant) {
        let (mut unwelcome, mut gone) = (Vec::new(), Vec::new());
        for (conn, stream) in &mut self.streams.all {
            let removed = stream.contexts.extract_if(.., |context| !self.oscore.has(*context));
            gone.extend(removed.map(|context| Address::Protected(Place::Stream(*conn), context)));
            let proved = stream.device.is_some() || !stream.contexts.is_empty();
            stream.known = proved || self.access.admits_stranger(stream.peer);
            if !stream.known && !stream.closing && !self.streams.strangers.contains(*conn) {
                unwelcome.push(*conn);
            }
        }
        for address in gone {
            self.leave(now, address);
        }
        for conn in unwelcome {
            self.abort(conn, "credentials are needed");
        }
    }

    /// Connections whose time has come.
    pub(super) fn stream_due(&mut self, now: Instant) {
        while let Some((_, conn)) = self.streams.due.first().copied().filter(|first| first.0 <= now) {
            self.streams.disarm(conn);
            let Some(stream) = self.streams.all.get(&conn) else { continue };
            let idle = self.limits.coap_stream_idle;
            match stream.awaits {
                Awaits::Greeting if stream.greeted => self.abort(conn, "credentials are needed"),
                Awaits::Greeting => self.abort(conn, "the CSM took too long"),
                Awaits::Frame => self.abort(conn, "a message took too long"),
                Awaits::Pong => self.abort(conn, "a ping was not answered"),
                Awaits::Answers => self.close(conn),
                Awaits::Anything if now.since(stream.stirred) < idle => {
                    let due = stream.stirred.after(idle);
                    self.streams.arm(conn, Awaits::Anything, due);
                }
                Awaits::Anything => {
                    self.signal(conn, stream::PING, Token::EMPTY, |writer| writer);
                    self.streams.arm(conn, Awaits::Pong, now.after(PATIENCE));
                }
                Awaits::Room(since) => {
                    let since = since.map_or(now, |since| since.max(stream.stirred));
                    if now.since(since) < UNREAD_KEPT {
                        let due = since.after(UNREAD_KEPT);
                        self.streams.arm(conn, Awaits::Room(Some(since)), due);
                    } else {
                        // More words would not be read either.
                        self.stats.refused += 1;
                        self.close(conn);
                    }
                }
            }
        }
    }

    /// A request, or a response that nobody asked for, which is ignored.
    fn message(&mut self, now: Now, conn: ConnId, datagram: &Bytes, values: &dyn LastValues) {
        let Ok(message) = Message::parse(datagram) else {
            return self.abort(conn, "a message is malformed");
        };
        if !message.code().is_request() {
            self.stats.refused += 1;
            return;
        }
        let Some(stream) = self.streams.all.get(&conn) else { return };
        let origin = Origin {
            address: Address::Stream(conn),
            peer: stream.peer,
            device: stream.device.clone(),
            bound: stream.device.is_some(),
            multicast: false,
            bytes: datagram.len(),
            // A handshake went to and fro.
            verified: true,
            longest: stream.longest,
        };
        if self.is_protected(&origin, &message) {
            return self.protected_request(now, Place::Stream(conn), origin, &message, datagram, values);
        }
        self.request(now, &origin, &message, datagram, values);
    }

    /// A signalling message. Its options are its own, elective ones that are unknown are passed over (RFC 8323, 5.2).
    fn signalled(&mut self, now: Instant, conn: ConnId, datagram: Bytes) {
        // The reader of datagrams does not know their class: under another code the rest is the same.
        let mut bytes = Vec::from(datagram);
        let Some(code) = bytes.get_mut(1) else { return };
        let signal = Code(core::mem::replace(code, Code::GET.0));
        let Ok(message) = Message::parse(&bytes) else {
            return self.abort(conn, "a message is malformed");
        };
        let known = |number: u16| match signal {
            stream::CSM => number == stream::MAX_MESSAGE_SIZE || number == stream::BLOCK_WISE_TRANSFER,
            stream::PING | stream::PONG => number == stream::CUSTODY,
            _ => false,
        };
        let strange = message.options().find(|option| option.number.is_critical() && !known(option.number.0));
        if let Some(option) = strange.filter(|_| matches!(signal, stream::CSM | stream::PING)) {
            return self.abort_for(conn, "a critical option is unknown", Some(option.number.0));
        }
        match signal {
            stream::CSM => {
                let size = message.option(OptionNumber(stream::MAX_MESSAGE_SIZE)).and_then(uint);
                if let (Some(size), Some(stream)) = (size, self.streams.all.get_mut(&conn)) {
                    stream.longest = usize::try_from(size).unwrap_or(usize::MAX);
                }
            }
            stream::PING => {
                // All that was asked before has been worked on, as far as it can be: custody is what 2.04 says.
                let token = message.token();
                let custody = message.option(OptionNumber(stream::CUSTODY)).is_some();
                self.signal(conn, stream::PONG, token, |writer| {
                    if custody { writer.option(OptionNumber(stream::CUSTODY), &[]) } else { writer }
                });
            }
            // What was asked before is answered before the end (RFC 8323, 5.5).
            stream::RELEASE if self.owes_answers(conn) => {
                self.streams.strangers.remove(conn);
                self.streams.arm(conn, Awaits::Answers, now.after(PATIENCE));
            }
            stream::RELEASE | stream::ABORT => self.close(conn),
            _ => {}
        }
    }

    /// Says what was wrong and closes the connection (RFC 8323, 5.6).
    fn abort(&mut self, conn: ConnId, text: &'static str) {
        self.abort_for(conn, text, None);
    }

    fn abort_for(&mut self, conn: ConnId, text: &'static str, option: Option<u16>) {
        self.stats.refused += 1;
        self.signal(conn, stream::ABORT, Token::EMPTY, |writer| {
            // Bad-CSM-Option (RFC 8323, 5.6).
            let writer = match option {
                Some(number) => writer.uint(OptionNumber(2), number.into()),
                None => writer,
            };
            writer.payload(text.as_bytes())
        });
        self.close(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.streams.disarm(conn);
        self.streams.strangers.remove(conn);
        let Some(stream) = self.streams.all.get_mut(&conn) else { return };
        if !core::mem::replace(&mut stream.closing, true) {
            stream.received = BytesMut::new();
            // What waits for it goes with it, within the moment that the shell gives it, and drives out nobody else.
            self.streams.unsent -= core::mem::take(&mut stream.unsent);
            self.requests.push_back(Request::Output(Output::Close { conn }));
        }
    }

    /// Whether something that was asked on a connection waits for its answer.
    fn owes_answers(&self, conn: ConnId) -> bool {
        let contexts = self.streams.all.get(&conn).into_iter().flat_map(|stream| &stream.contexts);
        let place = Place::Stream(conn);
        let protected = contexts.map(|context| Address::Protected(place, *context));
        [Address::Stream(conn)].into_iter().chain(protected).any(|address| self.exchanges.is_pending(address))
    }

    /// A request was answered: it may have been the last that a peer waited for that has said that it goes.
    pub(super) fn answered_at(&mut self, address: Address) {
        if let Address::Stream(conn) | Address::Protected(Place::Stream(conn), _) = address
            && self.streams.all.get(&conn).is_some_and(|stream| stream.awaits == Awaits::Answers)
            && !self.owes_answers(conn)
        {
            self.close(conn);
        }
    }

    /// All connections are told that the gateway goes (RFC 8323, 5.5).
    pub(super) fn release(&mut self) {
        let all: Vec<ConnId> = self.streams.all.keys().copied().collect();
        for conn in all {
            self.signal(conn, stream::RELEASE, Token::EMPTY, |writer| writer);
        }
    }

    fn signal(
        &mut self,
        conn: ConnId,
        code: Code,
        token: Token,
        fill: impl FnOnce(Writer<'_>) -> Writer<'_>,
    ) {
        let mut buffer = [0; SIGNAL_BYTES];
        let header = Header { kind: Kind::NonConfirmable, code, message_id: 0 };
        let Ok(datagram) = fill(Writer::new(&mut buffer, header, token)).finish() else { return };
        let datagram = Bytes::copy_from_slice(datagram);
        self.send_frame(conn, &datagram);
    }

    /// Sends a message on a connection. From one that does not read what it asked for nothing more is read; beyond the bounds it is
    /// given up.
    pub(super) fn send_frame(&mut self, conn: ConnId, datagram: &[u8]) {
        let Some(stream) = self.streams.all.get_mut(&conn).filter(|stream| !stream.closing) else { return };
        let mut buffer = vec![0; datagram.len() + 2];
        let Some(length) = stream::write(&mut buffer, datagram).map(<[u8]>::len) else { return };
        buffer.truncate(length);
        if stream.unsent + length > self.limits.outgoing_bytes {
            self.stats.refused += 1;
            return self.close(conn);
        }
        stream.unsent += length;
        self.streams.unsent += length;
        let bytes = Bytes::from(buffer);
        self.requests.push_back(Request::Output(Output::Send { conn, bytes }));
        if stream.unsent > UNREAD_BYTES && !core::mem::replace(&mut stream.paused, true) {
            self.requests.push_back(Request::Output(Output::Reading { conn, on: false }));
            if stream.awaits != Awaits::Answers && !self.streams.strangers.contains(conn) {
                // Due at once: then the clock is asked.
                self.streams.arm(conn, Awaits::Room(None), Instant::default());
            }
        }
        if self.streams.unsent > self.limits.outgoing_bytes_in_all {
            let waiting = self.streams.all.iter().filter(|(_, stream)| !stream.closing);
            if let Some((conn, _)) = waiting.max_by_key(|(_, stream)| stream.unsent) {
                let conn = *conn;
                self.stats.refused += 1;
                self.close(conn);
            }
        }
    }
}
