//! A CoAP device on a stream (RFC 8323), as a small client would be: some requests at a time, told apart by few tokens, which it uses
//! again as soon as it has an answer or has given one up. What is not answered when a connection ends it sends on the next one.

use super::device::{Act, Application, Reading};
use super::plan::{MS, SECOND};
use bytes::Bytes;
use fastrand::Rng;
use std::collections::VecDeque;
use tidegate_wire::coap::stream::{self, Frame};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// The longest frame that comes: an answer, or a signal with its reason.
const FRAME_BYTES: usize = 1_152;
/// The longest pause before it dials again.
const LONGEST_PAUSE: u64 = 2 * SECOND;

/// The device's side.
#[derive(Debug)]
pub(crate) struct StreamDevice {
    link: Link,
    /// Its tokens are the numbers below this one: so many requests wait for an answer at the most.
    tokens: u8,
    asked: VecDeque<Asked>,
    next_token: u8,
    received: Vec<u8>,
    /// Nothing more is asked on this connection: one of the two has said that it goes.
    leaving: bool,
    /// No earlier than this it asks again.
    not_before: u64,
    pause: u64,
}

#[derive(Debug)]
struct Asked {
    token: u8,
    reading: Reading,
    /// When it gives the answer up.
    until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It dials at that time.
    Down {
        dial_at: u64,
    },
    Dialling,
    /// It has yet to say its CSM.
    Opened,
    Open,
}

impl StreamDevice {
    pub(crate) fn new(tokens: u8) -> Self {
        Self {
            link: Link::Down { dial_at: 0 },
            tokens,
            asked: VecDeque::new(),
            next_token: 0,
            received: Vec::new(),
            leaving: false,
            not_before: 0,
            pause: 5 * MS,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    pub(crate) fn timeout(&self, waits: bool) -> Option<u64> {
        match self.link {
            Link::Down { dial_at } => Some(dial_at),
            Link::Dialling => None,
            Link::Opened | Link::Open => {
                let given_up = self.asked.iter().map(|asked| asked.until).min();
                let again = (waits && !self.leaving && self.has_token()).then_some(self.not_before);
                [given_up, again].into_iter().flatten().min()
            }
        }
    }

    pub(crate) fn opened(&mut self) {
        self.link = Link::Opened;
    }

    /// Its connection is gone, or did not come about.
    pub(crate) fn closed(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        self.link = Link::Down { dial_at: now + rng.u64(..=self.pause) };
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        (self.received, self.leaving) = (Vec::new(), false);
        while let Some(asked) = self.asked.pop_back() {
            application.waiting.push_front(asked.reading);
        }
    }

    /// Without amnesia it only slept; with it, what was made and not acknowledged is lost.
    pub(crate) fn reboot(&mut self, now: u64, rng: &mut Rng, amnesia: bool, application: &mut Application) {
        if amnesia {
            self.asked.clear();
        }
        self.closed(now, rng, application);
    }

    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        if let Link::Down { dial_at } = self.link
            && dial_at <= now
        {
            self.link = Link::Dialling;
            application.acts.push_back(Act::Dial);
        }
        if self.link == Link::Opened {
            self.link = Link::Open;
            signal(stream::CSM, Token::EMPTY, application);
        }
        if self.link != Link::Open {
            return;
        }
        while let Some(at) = self.asked.iter().position(|asked| asked.until <= now) {
            // It may have arrived or not: the application sends it again.
            application.waiting.extend(self.asked.remove(at).map(|asked| asked.reading));
        }
        while !self.leaving
            && self.not_before <= now
            && self.has_token()
            && let Some(reading) = application.waiting.pop_front()
        {
            self.ask(now, rng, reading, application);
        }
        if !self.leaving && !self.asked.is_empty() && rng.u8(..50) == 0 {
            self.leaving = true;
            signal(stream::RELEASE, Token::EMPTY, application);
        }
    }

    fn has_token(&self) -> bool {
        self.asked.len() < usize::from(self.tokens)
    }

    fn ask(&mut self, now: u64, rng: &mut Rng, reading: Reading, application: &mut Application) {
        while self.asked.iter().any(|asked| asked.token == self.next_token) {
            self.next_token = (self.next_token + 1) % self.tokens;
        }
        let token = self.next_token;
        self.next_token = (self.next_token + 1) % self.tokens;
        let header = Header { kind: Kind::NonConfirmable, code: Code::POST, message_id: 0 };
        let mut buffer = [0; FRAME_BYTES];
        let mut writer = Writer::new(&mut buffer, header, token_of(&[token]));
        writer = writer.option(OptionNumber::URI_PATH, b"t");
        for level in reading.topic.levels() {
            writer = writer.option(OptionNumber::URI_PATH, level.as_bytes());
        }
        match writer.payload(&reading.payload).finish() {
            Ok(datagram) => write(datagram, application),
            Err(_) => return application.acts.push_back(Act::Complain("its own message does not fit")),
        }
        let patience = if rng.bool() { 200 * MS } else { 5 * SECOND };
        self.asked.push_back(Asked { token, reading, until: now + rng.u64(100 * MS..patience) });
    }

    /// Bytes came.
    pub(crate) fn bytes(&mut self, now: u64, bytes: &[u8], application: &mut Application) {
        self.received.extend_from_slice(bytes);
        let mut received = std::mem::take(&mut self.received);
        while let Ok(frame) = Frame::parse(&received, FRAME_BYTES) {
            let (code, token, length) = (frame.code, frame.token, frame.bytes);
            let mut buffer = [0; FRAME_BYTES + 12];
            let message = frame.to_datagram(&mut buffer).and_then(|bytes| Message::parse(bytes).ok());
            let max_age = message.and_then(|message| message.option_uint(OptionNumber::MAX_AGE));
            received.drain(..length);
            match code {
                stream::PING => signal(stream::PONG, token, application),
                stream::RELEASE => self.leaving = true,
                // The first one that it has asked under this token and not given up.
                _ if code.class() != 7 => {
                    let its = |asked: &Asked| token.as_bytes() == [asked.token];
                    let Some(at) = self.asked.iter().position(its) else { continue };
                    let Some(asked) = self.asked.remove(at) else { continue };
                    if code == Code::CHANGED {
                        self.pause = 5 * MS;
                    } else {
                        self.not_before = now + u64::from(max_age.unwrap_or(1)) * SECOND;
                        application.waiting.push_front(asked.reading);
                    }
                }
                _ => {}
            }
        }
        self.received = received;
    }
}

fn token_of(bytes: &[u8]) -> Token {
    Token::new(bytes).unwrap_or(Token::EMPTY)
}

fn signal(code: Code, token: Token, application: &mut Application) {
    let mut buffer = [0; 16];
    let header = Header { kind: Kind::NonConfirmable, code, message_id: 0 };
    if let Ok(datagram) = Writer::new(&mut buffer, header, token).finish() {
        write(datagram, application);
    }
}

fn write(datagram: &[u8], application: &mut Application) {
    let mut buffer = vec![0; datagram.len() + 2];
    let frame = stream::write(&mut buffer, datagram).map(Bytes::copy_from_slice);
    application.acts.extend(frame.map(Act::Write));
}
