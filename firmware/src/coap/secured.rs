//! A publisher whose messages are protected end to end (OSCORE, RFC 8613), as the client: nobody on the way reads or changes
//! them, and an answer that the gateway has not protected counts for nothing. It owns the context's state, and no memory for
//! messages beyond the publisher's and one buffer for the protected form.
//!
//! The caller's duty is one: sequence numbers must be stored before they are used, or a restart breaks the key.
//!
//! ```
//! use tidegate_node::coap::{Publication, Publisher, secured::Secured};
//! use tidegate_oscore::{Context, Parameters, Replay, Sequence, Session};
//!
//! let parameters = Parameters { master_secret: &[7; 16], sender_id: &[0x5A], recipient_id: &[1], ..Parameters::default() };
//! let stored = 0; // from flash: what was stored last; 0 for a new secret
//! let session = Session::new(Context::derive(&parameters).unwrap(), Sequence::resume(stored), Replay::fresh());
//! let mut publisher = Secured::new(Publisher::new([0; 128], 0x0123_4567_89AB_CDEF), session, [0; 256]);
//! if let Some(upto) = publisher.to_reserve(100) {
//!     // Write `upto` to flash, and when it is there:
//!     publisher.stored(upto);
//! }
//! publisher.publish(0, &Publication::confirmable(&["t", "sensors", "boiler-3", "temperature"], b"21.5")).unwrap();
//! assert!(publisher.poll_transmit(0).is_some_and(|datagram| !datagram.windows(4).any(|bytes| bytes == b"21.5")));
//! ```

use super::{Event, Publication, PublishError, Publisher};
use tidegate_oscore::{Exchange, Session};
use tidegate_wire::coap::{Code, Kind, Message, OptionNumber, Token};

/// The longest response that is opened, in bytes: an acknowledgement with some options.
const RESPONSE_BYTES: usize = 256;
/// The longest Echo value (RFC 9175, 2.2.1).
const ECHO_BYTES: usize = 40;

/// Numbers that a message takes at the most when nothing gets lost: its own, and one more to answer a challenge.
const NUMBERS_A_MESSAGE: u64 = 2;

/// What has been protected last.
#[derive(Debug)]
struct Sealed {
    /// The message id under which it goes; what goes again under it is not protected anew.
    message_id: u16,
    length: usize,
    exchange: Exchange,
}

/// A [`Publisher`] with a context. `B` is the publisher's buffer, `C` the one for the protected form: longer by
/// [`MAX_EXPANSION_BYTES`](tidegate_oscore::MAX_EXPANSION_BYTES) at the most, by some 20 bytes mostly.
#[derive(Debug)]
pub struct Secured<B, C> {
    publisher: Publisher<B>,
    session: Session,
    buffer: C,
    sealed: Option<Sealed>,
    /// What the gateway wants to be sent back, to know that a message is new.
    echo: Option<([u8; ECHO_BYTES], usize)>,
    /// An empty message to be sent.
    plain: [u8; 4],
    unprotected: Option<Code>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>, C: AsRef<[u8]> + AsMut<[u8]>> Secured<B, C> {
    /// Joins them.
    #[must_use]
    pub fn new(publisher: Publisher<B>, session: Session, buffer: C) -> Self {
        Self { publisher, session, buffer, sealed: None, echo: None, plain: [0; 4], unprotected: None }
    }

    /// The number to be stored next, if it is time: see [`Sequence`](tidegate_oscore::Sequence::to_reserve).
    #[must_use]
    pub fn to_reserve(&self, step: u64) -> Option<u64> {
        self.session.sequence().to_reserve(step)
    }

    /// This number is stored, and survives whatever happens.
    pub fn stored(&mut self, upto: u64) {
        self.session.sequence_mut().stored(upto);
    }

    /// The code of the last answer that came unprotected, once. Anybody can have sent it; 4.01 means, if it is true, that
    /// the gateway does not know the context.
    pub fn poll_unprotected(&mut self) -> Option<Code> {
        self.unprotected.take()
    }

    /// As [`Publisher::publish`].
    ///
    /// # Errors
    /// [`PublishError`]; nothing has changed then.
    pub fn publish(&mut self, now_us: u64, publication: &Publication<'_>) -> Result<Token, PublishError> {
        if self.session.sequence().left() < NUMBERS_A_MESSAGE {
            return Err(PublishError::NoNumber);
        }
        self.publisher.publish(now_us, publication)
    }

    /// As [`Publisher::is_ready`].
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.publisher.is_ready()
    }

    /// As [`Publisher::cancel`].
    pub fn cancel(&mut self) {
        self.publisher.cancel();
    }

    /// As [`Publisher::handle_datagram`].
    pub fn handle_datagram(&mut self, now_us: u64, datagram: &[u8]) {
        let message = match Message::parse(datagram) {
            Ok(message) if message.code().is_response() => message,
            _ => return self.publisher.handle_datagram(now_us, datagram),
        };
        if message.option(OptionNumber::OSCORE).is_none() {
            self.unprotected = Some(message.code());
            return;
        }
        let Some(sealed) = &self.sealed else { return };
        let mut opened = [0; RESPONSE_BYTES];
        let Ok(opened) = self.session.open_response(&sealed.exchange, None, &message, &mut opened) else {
            // The answer before, whose acknowledgement was lost: it cannot be opened any more, and has been.
            if message.kind() == Kind::Confirmable && message.token() == self.publisher.previous {
                self.publisher.reply(Kind::Acknowledgement, message.message_id());
            }
            return;
        };
        let challenge = Message::parse(opened)
            .ok()
            .filter(|response| response.code() == Code::UNAUTHORIZED)
            .and_then(|response| response.option(OptionNumber::ECHO));
        match challenge {
            Some(value) if value.len() <= ECHO_BYTES && self.echo() != Some(value) => {
                if message.kind() == Kind::Confirmable {
                    self.publisher.reply(Kind::Acknowledgement, message.message_id());
                }
                let mut echo = [0; ECHO_BYTES];
                for (place, byte) in echo.iter_mut().zip(value) {
                    *place = *byte;
                }
                self.echo = Some((echo, value.len()));
                self.publisher.send_again(now_us);
            }
            _ => {
                // Answered: what the gateway asked for has been given, or was not asked for.
                self.echo = None;
                self.publisher.handle_datagram(now_us, opened);
            }
        }
    }

    fn echo(&self) -> Option<&[u8]> {
        self.echo.as_ref().and_then(|(echo, length)| echo.get(..*length))
    }

    /// As [`Publisher::poll_transmit`]. Nothing comes when a message must be protected anew and no number is reserved; it is
    /// tried again when the publisher would send it again.
    pub fn poll_transmit(&mut self, now_us: u64) -> Option<&[u8]> {
        let datagram = self.publisher.poll_transmit(now_us)?;
        let message = Message::parse(datagram).ok()?;
        if !message.code().is_request() {
            self.plain = *datagram.first_chunk()?;
            return Some(&self.plain);
        }
        let message_id = message.message_id();
        if self.sealed.as_ref().is_none_or(|sealed| sealed.message_id != message_id) {
            self.sealed = None;
            let echo = self.echo.as_ref().and_then(|(echo, length)| echo.get(..*length));
            let (written, exchange) =
                self.session.protect_request_with(&message, echo, self.buffer.as_mut()).ok()?;
            self.sealed = Some(Sealed { message_id, length: written.len(), exchange });
        }
        self.buffer.as_ref().get(..self.sealed.as_ref()?.length)
    }

    /// As [`Publisher::poll_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.publisher.poll_timeout()
    }

    /// As [`Publisher::poll_event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.publisher.poll_event()
    }
}
