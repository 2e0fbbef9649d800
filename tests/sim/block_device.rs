//! A CoAP device that sends each message in blocks (RFC 7959), one after the other, as a small client would: each block is repeated
//! until it is answered, and a transfer that comes to nothing begins anew under another Request-Tag.

use super::device::{Act, Application, Reading};
use super::plan::SECOND;
use bytes::Bytes;
use fastrand::Rng;
use tidegate_wire::coap::{Block, Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// As in the node's code (RFC 7252, 4.8).
const MAX_RETRANSMIT: u8 = 4;
/// The longest wait for a separate response.
const RESPONSE_WITHIN: u64 = 93 * SECOND;

/// The token's first byte in a transfer: what follows is the message's number, by which the taps know the last block.
pub(crate) const TOKEN_MARK: u8 = 0xB1;

/// The device's side.
#[derive(Debug)]
pub(crate) struct BlockDevice {
    exponent: u8,
    message_id: u16,
    tag: u32,
    current: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    reading: Reading,
    number: u32,
    message_id: u16,
    repeats: u8,
    wait: u64,
    due: u64,
    /// The empty ACK has come: the answer comes by itself.
    acknowledged: bool,
    /// It begins anew when it is due.
    paused: bool,
}

impl BlockDevice {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self { exponent: rng.u8(..3), message_id: rng.u16(..), tag: rng.u32(..), current: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        self.current.as_ref().map(|transfer| transfer.due)
    }

    /// What it has not got through; a reboot begins with it.
    pub(crate) fn take(&mut self) -> Option<Reading> {
        self.current.take().map(|transfer| transfer.reading)
    }

    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        if self.current.is_none() {
            let Some(reading) = application.waiting.pop_front() else { return };
            self.current = Some(Transfer {
                reading,
                number: 0,
                message_id: 0,
                repeats: 0,
                wait: 0,
                due: now,
                acknowledged: false,
                paused: true,
            });
        }
        let Some(transfer) = self.current.as_mut().filter(|transfer| transfer.due <= now) else { return };
        if transfer.paused || transfer.acknowledged || transfer.repeats >= MAX_RETRANSMIT {
            self.begin(now, rng, application);
        } else {
            transfer.repeats += 1;
            transfer.wait *= 2;
            transfer.due = now + transfer.wait;
            self.send(application);
        }
    }

    /// Begins the body anew.
    fn begin(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        self.tag = self.tag.wrapping_add(1);
        self.go_to(now, rng, 0, application);
    }

    fn go_to(&mut self, now: u64, rng: &mut Rng, number: u32, application: &mut Application) {
        let Some(transfer) = &mut self.current else { return };
        self.message_id = self.message_id.wrapping_add(1);
        transfer.number = number;
        transfer.message_id = self.message_id;
        transfer.repeats = 0;
        transfer.wait = rng.u64(2 * SECOND..3 * SECOND);
        transfer.due = now + transfer.wait;
        (transfer.acknowledged, transfer.paused) = (false, false);
        self.send(application);
    }

    fn send(&self, application: &mut Application) {
        let Some(transfer) = &self.current else { return };
        let payload = &transfer.reading.payload;
        let size = 16 << self.exponent;
        let start = transfer.number as usize * size;
        let end = payload.len().min(start + size);
        let block = Block { number: transfer.number, more: end < payload.len(), exponent: self.exponent };
        let header = Header { kind: Kind::Confirmable, code: Code::POST, message_id: transfer.message_id };
        let mut buffer = [0; 512];
        let mut writer = Writer::new(&mut buffer, header, token(transfer.reading.number));
        writer = writer.option(OptionNumber::URI_PATH, b"t");
        for level in transfer.reading.topic.levels() {
            writer = writer.option(OptionNumber::URI_PATH, level.as_bytes());
        }
        let written = writer
            .uint(OptionNumber::BLOCK1, block.to_uint())
            .option(OptionNumber::REQUEST_TAG, &self.tag.to_be_bytes())
            .payload(payload.get(start..end).unwrap_or_default())
            .finish();
        if let Ok(datagram) = written {
            application.acts.push_back(Act::Datagram(Bytes::copy_from_slice(datagram)));
        }
    }

    pub(crate) fn datagram(&mut self, now: u64, rng: &mut Rng, bytes: &[u8], application: &mut Application) {
        let Ok(message) = Message::parse(bytes) else { return };
        if message.kind() == Kind::Confirmable {
            let [high, low] = message.message_id().to_be_bytes();
            application.acts.push_back(Act::Datagram(Bytes::copy_from_slice(&[0x60, 0, high, low])));
        }
        let Some(transfer) = &mut self.current else { return };
        if message.kind() == Kind::Acknowledgement && message.message_id() != transfer.message_id {
            return;
        }
        if message.code() == Code::EMPTY {
            transfer.acknowledged = true;
            transfer.due = now + RESPONSE_WITHIN;
            return;
        }
        if message.token() != token(transfer.reading.number) {
            return;
        }
        let number = message.option(OptionNumber::BLOCK1).and_then(Block::parse).map(|block| block.number);
        match message.code() {
            Code::CONTINUE if number == Some(transfer.number) => {
                let next = transfer.number + 1;
                self.go_to(now, rng, next, application);
            }
            Code::CONTINUE => {}
            Code::CHANGED => self.current = None,
            Code::REQUEST_ENTITY_INCOMPLETE => self.begin(now, rng, application),
            _ => {
                let seconds = message.option_uint(OptionNumber::MAX_AGE).unwrap_or(5);
                transfer.paused = true;
                transfer.due = now + u64::from(seconds) * SECOND;
            }
        }
    }
}

/// The token of a message's transfer.
fn token(number: u32) -> Token {
    let [a, b, c, d] = number.to_be_bytes();
    Token::new(&[TOKEN_MARK, a, b, c, d]).unwrap_or_default()
}
