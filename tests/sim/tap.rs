//! Reads along on the links, beside the engine and the node: which message a packet carries, which one an
//! acknowledgement names. Knows as much of MQTT and CoAP as that takes, and shares no code with either side.

use super::payload::{self, Key};

/// What the oracle needs to know of an MQTT packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect {
        clean: bool,
    },
    Connack {
        session_present: bool,
        code: u8,
    },
    Publish {
        pid: u16,
        qos: u8,
        dup: bool,
        retain: bool,
        topic: String,
        key: Option<Key>,
    },
    Puback {
        pid: u16,
        code: u8,
    },
    Pubrec {
        pid: u16,
        code: u8,
    },
    Pubrel {
        pid: u16,
    },
    Pubcomp {
        pid: u16,
        code: u8,
    },
    Suback,
    Disconnect {
        code: u8,
    },
    Other {
        kind: u8,
    },
    /// Not MQTT: a length of more than four bytes, or a body shorter than its fields.
    Broken,
}

/// One direction of an MQTT connection.
#[derive(Debug, Default)]
pub(crate) struct MqttTap {
    five: bool,
    buffer: Vec<u8>,
    start: usize,
}

impl MqttTap {
    pub(crate) fn new(five: bool) -> Self {
        Self { five, buffer: Vec::new(), start: 0 }
    }

    /// Takes bytes in any cut.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        let rest = self.buffer.get(self.start..)?;
        let (&first, after) = rest.split_first()?;
        let mut length = 0usize;
        let mut head = 1;
        for (index, byte) in after.iter().enumerate() {
            if index == 4 {
                self.start = self.buffer.len();
                return Some(Packet::Broken);
            }
            length |= usize::from(byte & 0x7f) << (7 * index);
            head += 1;
            if byte & 0x80 == 0 {
                let body = rest.get(head..head + length)?;
                let packet = read(first, body, self.five).unwrap_or(Packet::Broken);
                self.start += head + length;
                return Some(packet);
            }
        }
        None
    }
}

fn two(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

fn read(first: u8, body: &[u8], five: bool) -> Option<Packet> {
    let code = || body.get(2).copied().filter(|_| five).unwrap_or(0);
    Some(match first >> 4 {
        1 => Packet::Connect { clean: body.get(7)? & 2 != 0 },
        2 => Packet::Connack { session_present: body.first()? & 1 != 0, code: *body.get(1)? },
        3 => {
            let length = usize::from(two(body)?);
            let topic = String::from_utf8_lossy(body.get(2..2 + length)?).into_owned();
            let mut rest = body.get(2 + length..)?;
            let qos = first >> 1 & 3;
            let mut pid = 0;
            if qos > 0 {
                pid = two(rest)?;
                rest = rest.get(2..)?;
            }
            if five {
                let (length, head) = variable(rest)?;
                rest = rest.get(head + length..)?;
            }
            Packet::Publish {
                pid,
                qos,
                dup: first & 8 != 0,
                retain: first & 1 != 0,
                topic,
                key: payload::read(rest),
            }
        }
        4 => Packet::Puback { pid: two(body)?, code: code() },
        5 => Packet::Pubrec { pid: two(body)?, code: code() },
        6 => Packet::Pubrel { pid: two(body)? },
        7 => Packet::Pubcomp { pid: two(body)?, code: code() },
        9 => Packet::Suback,
        14 => Packet::Disconnect { code: body.first().copied().unwrap_or(0) },
        kind => Packet::Other { kind },
    })
}

/// A variable byte integer and the bytes that it takes (MQTT 5.0, 1.5.5).
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// What the oracle needs to know of a CoAP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coap {
    /// 0 CON, 1 NON, 2 ACK, 3 RST.
    pub(crate) kind: u8,
    /// Class and detail, as in the second byte: 0x44 is 2.04.
    pub(crate) code: u8,
    pub(crate) mid: u16,
    pub(crate) token: Vec<u8>,
    /// The Uri-Path, its segments joined by `/`.
    pub(crate) path: String,
    pub(crate) key: Option<Key>,
    /// Of a block: whether others follow.
    pub(crate) more: Option<bool>,
    /// The number of a notification, or of the answer that begins an observation.
    pub(crate) observe: Option<u32>,
    /// The OSCORE option's value.
    pub(crate) oscore: Option<Vec<u8>>,
    /// The payload: with OSCORE the ciphertext.
    pub(crate) payload: Vec<u8>,
}

impl Coap {
    /// The sender's number in an OSCORE option (RFC 8613, 6.1).
    pub(crate) fn number(&self) -> Option<u64> {
        let (flags, rest) = self.oscore.as_ref()?.split_first()?;
        let number = rest.get(..usize::from(flags & 7)).filter(|number| !number.is_empty())?;
        Some(number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }
}

/// One direction of a CoAP stream.
#[derive(Debug, Default)]
pub(crate) struct FrameTap(Vec<u8>);

impl FrameTap {
    /// Takes bytes in any cut.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole message (RFC 8323, 3.2), as a NON without an id.
    pub(crate) fn next(&mut self) -> Option<Coap> {
        let (&first, rest) = self.0.split_first()?;
        let (length, rest) = extended(first >> 4, rest)?;
        let (&code, rest) = rest.split_first()?;
        let (head, end) = (self.0.len() - rest.len(), length + usize::from(first & 15));
        let datagram = [&[0x50 | first & 15, code, 0, 0], rest.get(..end)?].concat();
        self.0.drain(..head + end);
        coap(&datagram)
    }
}

/// Reads a CoAP message (RFC 7252, 3); `None` when it is none.
pub(crate) fn coap(bytes: &[u8]) -> Option<Coap> {
    let first = *bytes.first()?;
    let token_end = 4 + usize::from(first & 15);
    let token = bytes.get(4..token_end)?.to_vec();
    let mut rest = bytes.get(token_end..)?;
    let mut number = 0;
    let mut path = String::new();
    let (mut key, mut more, mut observe, mut oscore) = (None, None, None, None);
    let mut payload = Vec::new();
    while let Some((&head, after)) = rest.split_first() {
        rest = after;
        if head == 0xff {
            // Only the first block of a long one may come: it says what follows.
            key = payload::read(rest).or_else(|| more.and_then(|_| payload::read_head(rest)));
            payload = rest.to_vec();
            break;
        }
        let (delta, length);
        (delta, rest) = extended(head >> 4, rest)?;
        (length, rest) = extended(head & 15, rest)?;
        number += delta;
        let (value, after) = rest.split_at_checked(length)?;
        rest = after;
        if number == 27 {
            more = Some(value.last().is_some_and(|bits| bits & 8 != 0));
        }
        match number {
            6 => observe = Some(value.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))),
            9 => oscore = Some(value.to_vec()),
            23 => more = Some(value.last().is_some_and(|bits| bits & 8 != 0)),
            _ => {}
        }
        if number == 11 {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&String::from_utf8_lossy(value));
        }
    }
    let (code, mid) = (*bytes.get(1)?, two(bytes.get(2..)?)?);
    Some(Coap { kind: first >> 4 & 3, code, mid, token, path, key, more, observe, oscore, payload })
}

/// An option's delta or length with its extension (RFC 7252, 3.1).
fn extended(nibble: u8, rest: &[u8]) -> Option<(usize, &[u8])> {
    match nibble {
        13 => Some((usize::from(*rest.first()?) + 13, rest.get(1..)?)),
        14 => Some((usize::from(two(rest)?) + 269, rest.get(2..)?)),
        15 => None,
        small => Some((small.into(), rest)),
    }
}
