//! One end of a context with what changes beside the keys: sequence numbers, replay window, who answers what. Both roles
//! use the same numbers (RFC 8613, 3.1). State by values: what must outlive a restart is the [`Sequence`]'s reservation.

use crate::context::{Binding, Context, End};
use crate::message::{ProtectError, protect, unprotect};
use crate::option::Header;
use crate::refusal::Refusal;
use crate::sequence::{PartialIv, Sequence};
use crate::window::Window;
use tidegate_wire::coap::{self, Code, Message, OptionNumber, Token, Writer};

/// What a server asks a client to send back, to know that a request is new (RFC 9175, 2): a random number, made anew in
/// each life. No more is needed, for nobody but the other end can send it back.
pub type Challenge = [u8; 8];

/// Room for a challenge: header, token and one option.
const CHALLENGE_BYTES: usize = 4 + 8 + 3 + 8;

/// What is known of the requests that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of them: which numbers were seen.
    Known(Window),
    /// Nothing, after a restart: no request is taken until one brings this back (RFC 8613, B.1.2).
    Lost(Challenge),
}

impl Replay {
    /// For a context that has never been used.
    #[must_use]
    pub const fn fresh() -> Self {
        Self::Known(Window::new())
    }
}

/// A request and its responses: what binds them together. Whoever answers, or waits for the answer, keeps it with the
/// token (RFC 8613, 8).
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    request: PartialIv,
    from: End,
    /// The request's nonce has not been used for a response. Not by chance neither `Clone` nor `Copy`.
    nonce_free: bool,
}

impl Exchange {
    /// The request's number.
    #[must_use]
    pub fn request(&self) -> PartialIv {
        self.request
    }

    fn own_nonce(&self, number: PartialIv) -> Binding {
        Binding { request_from: self.from, request: self.request, nonce_from: End::Sender, nonce: number }
    }
}

/// What a client knows of a resource that it observes: its notification number (RFC 8613, 7.4.1). A restart ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    latest: Option<PartialIv>,
    answered: bool,
}

/// What became of a protected request.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'b> {
    /// It is genuine and new.
    Request {
        /// The request as the other end wrote it.
        datagram: &'b [u8],
        /// To answer it with.
        exchange: Exchange,
    },
    /// It is genuine, but whether it is new cannot be told: answer with [`Session::challenge`], and do not do what it says.
    Challenge {
        /// To answer it with.
        exchange: Exchange,
    },
}

/// One end of a security context.
#[derive(Debug)]
pub struct Session {
    context: Context,
    sequence: Sequence,
    replay: Replay,
}

impl Session {
    /// An end with its numbers and what it knows of those of the other.
    #[must_use]
    pub fn new(context: Context, sequence: Sequence, replay: Replay) -> Self {
        Self { context, sequence, replay }
    }

    /// Keys and ids.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// This end's numbers.
    #[must_use]
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// This end's numbers, to say what has been stored.
    pub fn sequence_mut(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// What is known of the requests that came before.
    #[must_use]
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Protects a request (RFC 8613, 8.1). A message that is sent again is sent as it is, not protected again.
    ///
    /// # Errors
    /// [`ProtectError`]: without a number for it nothing can be sent.
    pub fn protect_request<'b>(
        &mut self,
        request: &Message<'_>,
        buffer: &'b mut [u8],
    ) -> Result<(&'b [u8], Exchange), ProtectError> {
        self.protect_request_with(request, None, buffer)
    }

    /// As [`protect_request`](Self::protect_request), with the Echo value that the server has asked for inside
    /// (RFC 9175, 2.3), if there is one. The request itself must have none then.
    ///
    /// # Errors
    /// [`ProtectError`]
    pub fn protect_request_with<'b>(
        &mut self,
        request: &Message<'_>,
        echo: Option<&[u8]>,
        buffer: &'b mut [u8],
    ) -> Result<(&'b [u8], Exchange), ProtectError> {
        if !request.code().is_request() {
            return Err(ProtectError::Role);
        }
        let number = self.sequence.take()?;
        let exchange = Exchange { request: number, from: End::Sender, nonce_free: false };
        let kid = self.context.sender_id();
        let option = Header {
            partial_iv: Some(number),
            kid_context: self.context.id_context(),
            kid: Some(kid.as_bytes()),
        };
        let length = protect(&self.context, &exchange.own_nonce(number), &option, request, echo, buffer)?;
        Ok((buffer.get(..length).unwrap_or_default(), exchange))
    }

    /// Verifies and decrypts a request (RFC 8613, 8.2). The number is taken only when everything else is right.
    ///
    /// # Errors
    /// [`Refusal`]: what the other end may be told, unprotected.
    pub fn open_request<'b>(
        &mut self,
        request: &Message<'_>,
        buffer: &'b mut [u8],
    ) -> Result<Opened<'b>, Refusal> {
        if !request.code().is_request() {
            return Err(Refusal::Malformed);
        }
        let option = header(request)?;
        let (Some(number), Some(kid)) = (option.partial_iv, option.kid) else {
            return Err(Refusal::Malformed);
        };
        let other_context =
            option.kid_context.is_some_and(|kid_context| self.context.id_context() != Some(kid_context));
        if kid != self.context.recipient_id().as_bytes() || other_context {
            return Err(Refusal::UnknownContext);
        }
        if let Replay::Known(window) = &self.replay
            && !window.is_new(number)
        {
            return Err(Refusal::Replay);
        }
        let binding = Binding {
            request_from: End::Recipient,
            request: number,
            nonce_from: End::Recipient,
            nonce: number,
        };
        let opened = unprotect(&self.context, &binding, request, buffer);
        let exchange = Exchange { request: number, from: End::Recipient, nonce_free: true };
        match (&mut self.replay, &opened) {
            // What was decrypted has been here, also when it makes no sense.
            (Replay::Known(window), Ok(_) | Err(Refusal::Inner)) => {
                window.take(number);
            }
            (Replay::Known(_), Err(_)) => {}
            (Replay::Lost(challenge), Ok(length)) => {
                let datagram = buffer.get(..*length).unwrap_or_default();
                let echo = Message::parse(datagram).ok().and_then(|inner| inner.option(OptionNumber::ECHO));
                if echo != Some(&challenge[..]) {
                    // A response under this number's nonce may have been sent in an earlier life.
                    return Ok(Opened::Challenge { exchange: Exchange { nonce_free: false, ..exchange } });
                }
                self.replay = Replay::Known(Window::above(number));
            }
            (Replay::Lost(_), Err(_)) => {}
        }
        let datagram = buffer.get(..opened?).unwrap_or_default();
        Ok(Opened::Request { datagram, exchange })
    }

    /// Writes the answer that asks for proof that the request is new: 4.01 with Echo (RFC 9175, 2.3; RFC 8613, B.1.2).
    /// `header.code` is ignored.
    ///
    /// # Errors
    /// [`ProtectError`]: it needs a number of this end's, for the request's nonce may have been used before the restart.
    pub fn challenge<'b>(
        &mut self,
        exchange: &mut Exchange,
        header: coap::Header,
        token: Token,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], ProtectError> {
        let Replay::Lost(challenge) = self.replay else { return Err(ProtectError::Role) };
        let mut plain = [0; CHALLENGE_BYTES];
        let header = coap::Header { code: Code::UNAUTHORIZED, ..header };
        let plain = Writer::new(&mut plain, header, token).option(OptionNumber::ECHO, &challenge).finish()?;
        let plain = Message::parse(plain).map_err(|_| ProtectError::Role)?;
        self.protect_response(exchange, &plain, buffer)
    }

    /// Protects a response (RFC 8613, 8.3): the first one under the request's nonce, every notification and whatever
    /// else follows under a number of its own. A response that is sent again is sent as it is.
    ///
    /// # Errors
    /// [`ProtectError`]
    pub fn protect_response<'b>(
        &mut self,
        exchange: &mut Exchange,
        response: &Message<'_>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], ProtectError> {
        if !response.code().is_response() || exchange.from != End::Recipient {
            return Err(ProtectError::Role);
        }
        let notifies = response.option(OptionNumber::OBSERVE).is_some();
        // What follows a notification is one too, without Observe: it ends the observation.
        let under_request = core::mem::replace(&mut exchange.nonce_free, false) && !notifies;
        let (binding, option) = if under_request {
            let nonce = exchange.request;
            let binding = Binding { nonce_from: End::Recipient, ..exchange.own_nonce(nonce) };
            (binding, Header::default())
        } else {
            let number = self.sequence.take()?;
            (exchange.own_nonce(number), Header { partial_iv: Some(number), ..Header::default() })
        };
        let length = protect(&self.context, &binding, &option, response, None, buffer)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// Verifies and decrypts a response to a request of this end's (RFC 8613, 8.4). With `observation` it may be one of
    /// many; each counts once, and none that is older than the latest.
    ///
    /// # Errors
    /// [`Refusal`]: the response is to be ignored; an observation goes on.
    pub fn open_response<'b>(
        &self,
        exchange: &Exchange,
        observation: Option<&mut Observation>,
        response: &Message<'_>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Refusal> {
        if !response.code().is_response() || exchange.from != End::Sender {
            return Err(Refusal::Malformed);
        }
        let option = header(response)?;
        let other = option.kid.is_some_and(|kid| kid != self.context.recipient_id().as_bytes());
        if option.kid_context.is_some() || other {
            return Err(Refusal::Malformed);
        }
        match (&observation, option.partial_iv) {
            (Some(observation), Some(number)) if observation.latest >= Some(number) => {
                return Err(Refusal::Replay);
            }
            // Only the first response may go without a number (RFC 8613, 4.1.3.5.2).
            (Some(observation), None) if observation.answered => return Err(Refusal::Replay),
            _ => {}
        }
        let request = exchange.request;
        let binding = match option.partial_iv {
            Some(number) => {
                Binding { request_from: End::Sender, request, nonce_from: End::Recipient, nonce: number }
            }
            None => exchange.own_nonce(request),
        };
        let length = unprotect(&self.context, &binding, response, buffer)?;
        let datagram = buffer.get(..length).unwrap_or_default();
        match observation {
            Some(observation) => {
                observation.answered = true;
                observation.latest = observation.latest.max(option.partial_iv);
            }
            None => {
                let notifies =
                    Message::parse(datagram).is_ok_and(|inner| inner.option(OptionNumber::OBSERVE).is_some());
                if notifies {
                    return Err(Refusal::Inner);
                }
            }
        }
        Ok(datagram)
    }
}

/// The one OSCORE option of a message.
fn header<'a>(message: &Message<'a>) -> Result<Header<'a>, Refusal> {
    let mut values = message.options_of(OptionNumber::OSCORE);
    match (values.next(), values.next()) {
        (Some(value), None) => Header::parse(value).map_err(|_| Refusal::Malformed),
        _ => Err(Refusal::Malformed),
    }
}
