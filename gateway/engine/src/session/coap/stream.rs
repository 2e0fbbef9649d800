//! CoAP on streams (RFC 8323): frames, capabilities, pings, release and abort. What comes in a frame goes the same way as a
//! datagram, as a request that neither comes twice nor needs repeating.

use super::Coap;
use super::peer::{Address, Origin};
use crate::event::{Output, StreamPeer};
use crate::id::{ConnId, DeviceId};
use crate::session::{LastValues, Request};
use crate::time::{Duration, Instant, Now};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tidegate_wire::coap::stream::{self, Frame, FrameError};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer, uint};

/// How long a peer may take to its CSM, and from a frame's beginning to its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for a signalling message, in bytes.
const SIGNAL_BYTES: usize = 96;

/// One connection.
#[derive(Debug)]
struct Stream {
    peer: SocketAddr,
    device: Option<DeviceId>,
    bound: bool,
    /// What has come of a frame that is not whole.
    received: BytesMut,
    /// The longest message that the peer takes, in bytes (RFC 8323, 5.3.1).
    longest: usize,
    /// Its CSM has come, which must be first (RFC 8323, 5.3).
    greeted: bool,
    /// Bytes ordered to be sent that have not left.
    unsent: usize,
    closing: bool,
    /// When it is given up unless something whole comes.
    due: Option<Instant>,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: BTreeMap<ConnId, Stream>,
    due: BTreeSet<(Instant, ConnId)>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    fn arm(&mut self, conn: ConnId, due: Option<Instant>) {
        let Some(stream) = self.all.get_mut(&conn) else { return };
        if let Some(before) = core::mem::replace(&mut stream.due, due) {
            self.due.remove(&(before, conn));
        }
        if let Some(due) = due {
            self.due.insert((due, conn));
        }
    }
}

impl Coap {
    /// Whether a connection is one of CoAP.
    #[must_use]
    pub fn has(&self, conn: ConnId) -> bool {
        self.streams.all.contains_key(&conn)
    }

    /// A connection was accepted: the gateway's CSM goes first (RFC 8323, 5.3).
    pub fn opened(&mut self, now: Now, conn: ConnId, peer: StreamPeer) {
        let full = self.streams.all.len() >= self.limits.coap_peers || self.stopping;
        let stream = Stream {
            peer: peer.address,
            bound: peer.device.is_some(),
            device: peer.device,
            received: BytesMut::new(),
            longest: stream::MAX_MESSAGE_BYTES_DEFAULT,
            greeted: false,
            unsent: 0,
            closing: false,
            due: None,
        };
        self.streams.all.insert(conn, stream);
        if full {
            return self.abort(conn, "too many connections");
        }
        self.streams.arm(conn, Some(now.instant.after(PATIENCE)));
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
        let Some(stream) = self.streams.all.get_mut(&conn).filter(|stream| !stream.closing) else { return };
        stream.received.extend_from_slice(bytes);
        let mut took = false;
        loop {
            let Some(stream) = self.streams.all.get_mut(&conn).filter(|stream| !stream.closing) else {
                return;
            };
            // One byte more than a message may have, as of a datagram: it is answered.
            let frame =
                match Frame::parse(&stream.received, self.limits.coap_message_bytes + stream::HEAD_BYTES_MAX)
                {
                    Ok(frame) => frame,
                    Err(FrameError::Incomplete) => break,
                    Err(FrameError::TokenLength) => {
                        return self.abort(conn, "a token has at most eight bytes");
                    }
                    Err(FrameError::TooLong) => {
                        return self.abort(conn, "the message is longer than the CSM allows");
                    }
                };
            let (code, length) = (frame.code, frame.bytes);
            let mut buffer = vec![0; 12 + frame.body.len()];
            let written = frame.to_datagram(&mut buffer).map_or(0, <[u8]>::len);
            buffer.truncate(written);
            stream.received.advance(length);
            let first = !core::mem::replace(&mut stream.greeted, true);
            took = true;
            if first && code != stream::CSM {
                return self.abort(conn, "a CSM comes first");
            }
            if code.class() == 7 {
                self.signalled(conn, Bytes::from(buffer));
            } else if code != Code::EMPTY {
                self.message(now, conn, &Bytes::from(buffer), values);
            }
        }
        let Some(stream) = self.streams.all.get(&conn) else { return };
        let waits = !stream.greeted || !stream.received.is_empty();
        if took || stream.due.is_none() {
            let due = waits.then(|| now.instant.after(PATIENCE));
            self.streams.arm(conn, due);
        }
    }

    /// Bytes have left.
    pub fn sent(&mut self, conn: ConnId, count: usize) {
        if let Some(stream) = self.streams.all.get_mut(&conn) {
            stream.unsent = stream.unsent.saturating_sub(count);
        }
    }

    /// A connection is gone, and what it had begun with it: observations, bodies, answers (RFC 8323, 5.5 and 5.6).
    pub fn closed(&mut self, now: Now, conn: ConnId) {
        self.streams.arm(conn, None);
        self.streams.all.remove(&conn);
        let address = Address::Stream(conn);
        self.drop_observations(now.instant, address);
        self.uploads.leave(address);
        self.exchanges.leave(address);
    }

    /// Connections that took too long.
    pub(super) fn stream_due(&mut self, now: Instant) {
        while let Some((_, conn)) = self.streams.due.first().copied().filter(|first| first.0 <= now) {
            self.streams.arm(conn, None);
            self.abort(conn, "it took too long");
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
            bound: stream.bound,
            multicast: false,
            bytes: datagram.len(),
            // A handshake went to and fro.
            verified: true,
            longest: stream.longest,
        };
        self.request(now, &origin, &message, datagram, values);
    }

    /// A signalling message. Its options are its own, elective ones that are unknown are passed over (RFC 8323, 5.2).
    fn signalled(&mut self, conn: ConnId, datagram: Bytes) {
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
        self.streams.arm(conn, None);
        let Some(stream) = self.streams.all.get_mut(&conn) else { return };
        if !core::mem::replace(&mut stream.closing, true) {
            stream.received = BytesMut::new();
            self.requests.push_back(Request::Output(Output::Close { conn }));
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

    /// Sends a message on a connection. One that does not read what it asked for is given up.
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
        let bytes = Bytes::from(buffer);
        self.requests.push_back(Request::Output(Output::Send { conn, bytes }));
    }
}
