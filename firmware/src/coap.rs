//! A CoAP publisher for devices (RFC 7252): one message at a time, sent again until it is answered. Sans-IO: the
//! caller owns socket, clock and buffer. It has no memory beyond that one message; what waits, waits with the caller.
//!
//! ```
//! use tidegate_node::coap::{Event, Publication, Publisher};
//!
//! let random_seed = 0x0123_4567_89AB_CDEF; // from the hardware
//! let mut publisher = Publisher::new([0; 128], random_seed);
//! let reading = Publication::confirmable(&["t", "sensors", "boiler-3", "temperature"], b"21.5");
//! let token = publisher.publish(0, &reading).unwrap();
//! while let Some(datagram) = publisher.poll_transmit(0) {
//!     assert!(!datagram.is_empty()); // to be sent to the gateway
//! }
//! // Then: `handle_datagram` for what the gateway sends, `poll_transmit` again at `poll_timeout`, until
//! // `poll_event` gives `Event::Acknowledged { token }`: the message is safe.
//! assert!(publisher.poll_timeout().is_some());
//! ```

pub mod secured;
#[cfg(test)]
mod tests;

use core::fmt;
use tidegate_wire::coap::{
    Code, Fault, Header, Kind, Message, OptionNumber, ParseError, Token, WriteError, Writer,
};

/// The first wait before a CON is sent again, times 1 to 1.5 (RFC 7252, 4.8: ACK_TIMEOUT), in microseconds.
const ACK_TIMEOUT_US: u64 = 2_000_000;
/// ACK_RANDOM_FACTOR 1.5 as the longest addition to ACK_TIMEOUT, in microseconds (RFC 7252, 4.8).
const ACK_JITTER_US: u64 = 1_000_000;
/// How often a CON is sent again (RFC 7252, 4.8: MAX_RETRANSMIT).
const MAX_RETRANSMIT: u8 = 4;
/// How long a separate response may take after the empty ACK, in microseconds: as long as the gateway goes on
/// sending one that gets lost (RFC 7252, 4.8.2: MAX_TRANSMIT_WAIT, 93 s).
const RESPONSE_TIMEOUT_US: u64 = 93_000_000;
/// Max-Age when a refusal does not have one, in seconds (RFC 7252, 5.10.5).
const MAX_AGE_DEFAULT_S: u32 = 60;
/// The longest Max-Age that is obeyed, in seconds: a gateway's mistake must not silence a device for years.
const MAX_AGE_LIMIT_S: u32 = 3_600;
/// Random bytes in a token: what makes a forged answer from off the path hopeless (RFC 7252, 5.3.1).
const TOKEN_BYTES: usize = 4;

/// POST or PUT; the gateway treats both the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// 0.02
    #[default]
    Post,
    /// 0.03
    Put,
}

/// What to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// True: a CON, sent again until it is answered. False: a NON, sent once, for which nothing is promised.
    pub confirmable: bool,
    /// POST or PUT.
    pub method: Method,
    /// The path's segments, each at most 255 bytes: `["t", "sensors", "boiler-3", "temperature"]`.
    pub path: &'a [&'a str],
    /// What the payload is; numbers in [`tidegate_wire::coap::content`].
    pub content_format: Option<u16>,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Publication<'a> {
    /// A CON POST without a content format.
    #[must_use]
    pub const fn confirmable(path: &'a [&'a str], payload: &'a [u8]) -> Self {
        Self { confirmable: true, method: Method::Post, path, content_format: None, payload }
    }

    /// A NON POST without a content format.
    #[must_use]
    pub const fn non_confirmable(path: &'a [&'a str], payload: &'a [u8]) -> Self {
        Self { confirmable: false, ..Self::confirmable(path, payload) }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway has answered with success: a CON's message is safe, a NON's was taken.
    Acknowledged {
        /// Which message.
        token: Token,
    },
    /// The gateway does not take this message, and sending it again would not help.
    Refused {
        /// Which message.
        token: Token,
        /// The answer's code; 0.00 for an RST.
        code: Code,
        /// The answer's Max-Age in seconds, if it had one.
        max_age: Option<u32>,
    },
    /// The gateway has not answered. The message may have arrived or not: publish it again.
    TimedOut {
        /// Which message.
        token: Token,
    },
}

/// Why a message cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// An earlier message is under way (NSTART is 1; RFC 7252, 4.7), or its event has not been polled.
    Busy,
    /// The buffer is too small for the message.
    TooLarge,
    /// A path segment is longer than 255 bytes (RFC 7252, 5.10).
    Path,
    /// No OSCORE sequence numbers are reserved: see [`secured`].
    NoNumber,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "an earlier message is under way",
            Self::TooLarge => "the message does not fit the publisher's buffer",
            Self::Path => "a path segment has at most 255 bytes",
            Self::NoNumber => "no OSCORE sequence numbers are reserved: store the next ones",
        })
    }
}

impl core::error::Error for PublishError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is under way.
    Idle,
    /// A CON waits for its ACK; it goes (again) at `due`, or is given up when it has gone often enough.
    Sending { due: u64, wait: u64, sent: u8 },
    /// The empty ACK has come; the response has until then.
    Responding { until: u64 },
    /// Refused for now: it goes again at that time, with a new message id.
    Waiting { until: u64 },
    /// A NON is to be sent.
    Once,
    /// The NON has gone. An answer is welcome, and the next message may go without it.
    Gone,
}

/// Publishes messages, one at a time. `B` is its buffer: `&'static mut [u8]` on a device, an array in a test. It must
/// have room for one whole CoAP message, and is all the memory that grows with the message.
#[derive(Debug)]
pub struct Publisher<B> {
    buffer: B,
    length: usize,
    state: State,
    token: Token,
    message_id: u16,
    next_message_id: u16,
    /// The message before: when the ACK to its separate response gets lost, that response comes again.
    previous: Token,
    /// An ACK or RST to be sent. When two fall due at once the first may be lost: its cause will come again.
    reply: Option<[u8; 4]>,
    sent_reply: [u8; 4],
    event: Option<Event>,
    random: u64,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Publisher<B> {
    /// Makes a publisher. `seed` must be random and new at every start of the device: message ids and tokens come
    /// from it, and a message id that is used again within four minutes makes a message look like a repetition.
    #[must_use]
    pub fn new(buffer: B, seed: u64) -> Self {
        let mut publisher = Self {
            buffer,
            length: 0,
            state: State::Idle,
            token: Token::EMPTY,
            message_id: 0,
            next_message_id: 0,
            previous: Token::EMPTY,
            reply: None,
            sent_reply: [0; 4],
            event: None,
            random: seed,
        };
        let [.., high, low] = publisher.random().to_be_bytes();
        publisher.next_message_id = u16::from_be_bytes([high, low]);
        publisher
    }

    /// Begins to publish a message; it leaves by [`poll_transmit`](Self::poll_transmit). The token names it in events.
    ///
    /// # Errors
    /// [`PublishError`]; nothing has changed then.
    pub fn publish(&mut self, now_us: u64, publication: &Publication<'_>) -> Result<Token, PublishError> {
        if !self.is_ready() {
            return Err(PublishError::Busy);
        }
        if publication.path.iter().any(|segment| segment.len() > 255) {
            return Err(PublishError::Path);
        }
        let random = self.random().to_be_bytes();
        let token =
            random.first_chunk::<TOKEN_BYTES>().and_then(|bytes| Token::new(bytes)).unwrap_or_default();
        let header = Header {
            kind: if publication.confirmable { Kind::Confirmable } else { Kind::NonConfirmable },
            code: if publication.method == Method::Put { Code::PUT } else { Code::POST },
            message_id: self.next_message_id,
        };
        let mut writer = Writer::new(self.buffer.as_mut(), header, token);
        for segment in publication.path {
            writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
        }
        if let Some(format) = publication.content_format {
            writer = writer.uint(OptionNumber::CONTENT_FORMAT, format.into());
        }
        self.length = match writer.payload(publication.payload).finish() {
            Ok(written) => written.len(),
            Err(WriteError::Full | WriteError::Order | WriteError::ValueTooLong) => {
                // The buffer no longer holds the message before: nothing of it must be sent.
                self.state = State::Idle;
                return Err(PublishError::TooLarge);
            }
        };
        self.previous = self.token;
        self.token = token;
        self.message_id = header.message_id;
        self.next_message_id = header.message_id.wrapping_add(1);
        self.state = if publication.confirmable { self.sending(now_us) } else { State::Once };
        Ok(token)
    }

    /// Whether [`publish`](Self::publish) would not say `Busy`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Idle | State::Gone) && self.event.is_none()
    }

    /// The message goes again now, with a new message id.
    fn send_again(&mut self, now_us: u64) {
        if matches!(self.state, State::Sending { .. } | State::Responding { .. }) {
            self.state = State::Waiting { until: now_us };
        }
    }

    /// Gives up the message that is under way, without an event.
    pub fn cancel(&mut self) {
        self.state = State::Idle;
    }

    /// Takes a datagram. The caller has made sure that it came from the gateway's address.
    pub fn handle_datagram(&mut self, now_us: u64, datagram: &[u8]) {
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            // Some servers send a token in an empty ACK; it still says which message it is for.
            Err(ParseError::Malformed(header, Fault::EmptyTrailing)) if header.kind != Kind::Confirmable => {
                return self.handle_empty(now_us, header);
            }
            Err(ParseError::Malformed(Header { kind: Kind::Confirmable, message_id, .. }, _)) => {
                return self.reply(Kind::Reset, message_id);
            }
            Err(_) => return,
        };
        let header = message.header();
        // Nothing that a publisher is told hangs on a critical option, so that any of them is one that it does not
        // understand (RFC 7252, 5.4.1).
        let understood =
            header.code.is_response() && !message.options().any(|option| option.number.is_critical());
        let answers = understood && self.awaits(message.token());
        match header.kind {
            Kind::Acknowledgement | Kind::Reset if header.code == Code::EMPTY => {
                self.handle_empty(now_us, header)
            }
            Kind::Acknowledgement if answers && header.message_id == self.message_id => {
                self.handle_response(now_us, &message);
            }
            Kind::NonConfirmable if answers => self.handle_response(now_us, &message),
            Kind::Confirmable if answers => {
                self.reply(Kind::Acknowledgement, header.message_id);
                self.handle_response(now_us, &message);
            }
            Kind::Confirmable if understood && self.is_late(message.token()) => {
                self.reply(Kind::Acknowledgement, header.message_id);
            }
            // A ping, a request, or a response to nothing: rejected (RFC 7252, 4.2).
            Kind::Confirmable => self.reply(Kind::Reset, header.message_id),
            _ => {}
        }
    }

    /// An empty ACK or RST.
    fn handle_empty(&mut self, now_us: u64, header: Header) {
        if header.message_id != self.message_id {
            return;
        }
        match (header.kind, self.state) {
            (Kind::Acknowledgement, State::Sending { .. }) => {
                self.state = State::Responding { until: now_us.saturating_add(RESPONSE_TIMEOUT_US) };
            }
            (Kind::Reset, State::Sending { .. } | State::Responding { .. } | State::Gone) => {
                self.finish(Event::Refused { token: self.token, code: Code::EMPTY, max_age: None });
            }
            _ => {}
        }
    }

    fn handle_response(&mut self, now_us: u64, response: &Message<'_>) {
        let token = self.token;
        let max_age = response.option_uint(OptionNumber::MAX_AGE);
        match response.code() {
            code if code.class() == 2 => self.finish(Event::Acknowledged { token }),
            Code::SERVICE_UNAVAILABLE | Code::TOO_MANY_REQUESTS if self.state != State::Gone => {
                let seconds = max_age.unwrap_or(MAX_AGE_DEFAULT_S).min(MAX_AGE_LIMIT_S);
                // Jitter, so that all devices that were told the same do not come back in the same moment.
                let wait = u64::from(seconds) * 1_000_000 + self.random() % ACK_JITTER_US;
                self.state = State::Waiting { until: now_us.saturating_add(wait) };
            }
            code => self.finish(Event::Refused { token, code, max_age }),
        }
    }

    /// What is to be sent now, if anything; call until `None`, after everything else and when
    /// [`poll_timeout`](Self::poll_timeout) has come.
    pub fn poll_transmit(&mut self, now_us: u64) -> Option<&[u8]> {
        if let Some(reply) = self.reply.take() {
            self.sent_reply = reply;
            return Some(&self.sent_reply);
        }
        match self.state {
            State::Waiting { until } if until <= now_us => {
                // Another message for the gateway: under the old id it would get the old answer (RFC 7252, 4.5).
                self.message_id = self.next_message_id;
                self.next_message_id = self.message_id.wrapping_add(1);
                if let Some(place) = self.buffer.as_mut().get_mut(2..4) {
                    place.copy_from_slice(&self.message_id.to_be_bytes());
                }
                self.state = self.sending(now_us);
            }
            State::Responding { until } if until <= now_us => {
                self.finish(Event::TimedOut { token: self.token });
            }
            _ => {}
        }
        match self.state {
            State::Sending { due, sent, .. } if due <= now_us && sent > MAX_RETRANSMIT => {
                self.finish(Event::TimedOut { token: self.token });
                return None;
            }
            State::Sending { due, wait, sent } if due <= now_us => {
                let next_wait = if sent == 0 { wait } else { wait.saturating_mul(2) };
                self.state =
                    State::Sending { due: now_us.saturating_add(next_wait), wait: next_wait, sent: sent + 1 };
            }
            State::Once => self.state = State::Gone,
            _ => return None,
        }
        self.buffer.as_ref().get(..self.length)
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to do, in microseconds of the caller's clock. It may
    /// lie in the past: then at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.reply.is_some() {
            return Some(0);
        }
        match self.state {
            State::Sending { due, .. } => Some(due),
            State::Responding { until } | State::Waiting { until } => Some(until),
            State::Once => Some(0),
            State::Idle | State::Gone => None,
        }
    }

    /// What became of the last message.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    fn sending(&mut self, now_us: u64) -> State {
        State::Sending { due: now_us, wait: ACK_TIMEOUT_US + self.random() % ACK_JITTER_US, sent: 0 }
    }

    /// Whether an answer with this token is one that is waited for.
    fn awaits(&self, token: Token) -> bool {
        token == self.token
            && matches!(self.state, State::Sending { .. } | State::Responding { .. } | State::Gone)
    }

    /// Whether it is a message whose answer has been heard already.
    fn is_late(&self, token: Token) -> bool {
        token != Token::EMPTY && (token == self.token || token == self.previous)
    }

    fn finish(&mut self, event: Event) {
        self.state = State::Idle;
        self.event = Some(event);
    }

    fn reply(&mut self, kind: Kind, message_id: u16) {
        let mut bytes = [0; 4];
        let header = Header { kind, code: Code::EMPTY, message_id };
        if Writer::new(&mut bytes, header, Token::EMPTY).finish().is_ok() {
            self.reply = Some(bytes);
        }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
