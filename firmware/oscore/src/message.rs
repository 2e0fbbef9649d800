//! A CoAP message into its protected form and back (RFC 8613, 4 to 6): which options go inside, which stay outside, and
//! the bytes of both. What numbers a message gets and whether it may be taken is `session`'s business.

use crate::context::{Binding, Context, TAG_BYTES};
use crate::option::{Header, MAX_VALUE_BYTES};
use crate::refusal::Refusal;
use crate::sequence::SequenceError;
use core::fmt;
use tidegate_wire::coap::{self, Code, MAX_TOKEN_BYTES, Message, OptionNumber, WriteError, Writer};

/// How much longer than the plain message its protected form can be, in bytes: the option with all its fields, code,
/// marker, tag, Observe once more, an Echo of 40 bytes, and a longer distance between options on both sides.
pub const MAX_EXPANSION_BYTES: usize = MAX_VALUE_BYTES + 3 + 2 + TAG_BYTES + 4 + 12 + 43;

/// Why a message cannot be protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectError {
    /// The buffer is too small, or the message too long for the algorithm (64 KiB).
    TooLarge,
    /// The message has an OSCORE option already (RFC 8613, 4.1.3.7).
    Nested,
    /// Proxy-Uri: it would have to be taken apart (RFC 8613, 4.1.3.3); give Proxy-Scheme and the Uri options instead.
    ProxyUri,
    /// A request where a response belongs, or the other way round.
    Role,
    /// There is no number for it.
    Sequence(SequenceError),
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the message does not fit"),
            Self::Nested => f.write_str("the message has an OSCORE option already"),
            Self::ProxyUri => {
                f.write_str("Proxy-Uri cannot be protected: use Proxy-Scheme and the Uri options")
            }
            Self::Role => {
                f.write_str("a request cannot be protected as a response, nor a response as a request")
            }
            Self::Sequence(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ProtectError {}

impl From<SequenceError> for ProtectError {
    fn from(error: SequenceError) -> Self {
        Self::Sequence(error)
    }
}

impl From<WriteError> for ProtectError {
    fn from(_: WriteError) -> Self {
        // A parsed message's options are in order, and no longer than they can be.
        Self::TooLarge
    }
}

/// Whether an option stays outside (RFC 8613, 4.1, figure 5: class U only). Unknown ones go inside.
fn is_outer(number: OptionNumber) -> bool {
    matches!(number, OptionNumber::URI_HOST | OptionNumber::URI_PORT | OptionNumber::PROXY_SCHEME)
}

/// Writes the protected form of a message, with an Echo option inside if there is one to send back, and gives its length.
pub(crate) fn protect(
    context: &Context,
    binding: &Binding,
    option: &Header<'_>,
    message: &Message<'_>,
    echo: Option<&[u8]>,
    buffer: &mut [u8],
) -> Result<usize, ProtectError> {
    if message.option(OptionNumber::OSCORE).is_some() {
        return Err(ProtectError::Nested);
    }
    if message.option(OptionNumber::PROXY_URI).is_some() {
        return Err(ProtectError::ProxyUri);
    }
    let is_request = message.code().is_request();
    // Outside, POST and 2.04 stand for everything (RFC 8613, 4.2) but Observe, which POST does not have (4.1.3.5).
    let observes = message.option(OptionNumber::OBSERVE).is_some();
    let code = match (is_request, observes) {
        (true, false) => Code::POST,
        (true, true) => Code::FETCH,
        (false, false) => Code::CHANGED,
        (false, true) => Code::CONTENT,
    };
    let mut value = [0; MAX_VALUE_BYTES];
    let value_length = option.write(&mut value).ok_or(ProtectError::TooLarge)?;
    let value = value.get(..value_length).unwrap_or_default();

    let mut outer = Writer::new(buffer, coap::Header { code, ..message.header() }, message.token());
    let mut written = false;
    for option in message.options() {
        if !written && option.number > OptionNumber::OSCORE {
            outer = outer.option(OptionNumber::OSCORE, value);
            written = true;
        }
        if is_outer(option.number) || option.number == OptionNumber::OBSERVE {
            outer = outer.option(option.number, option.value);
        }
    }
    if !written {
        outer = outer.option(OptionNumber::OSCORE, value);
    }
    let outer = outer.finish()?.len();

    let (marker, inside) =
        buffer.get_mut(outer..).and_then(<[u8]>::split_first_mut).ok_or(ProtectError::TooLarge)?;
    *marker = coap::PAYLOAD_MARKER;
    let mut inner = Writer::plaintext(inside, message.code());
    let mut echo = echo;
    for option in message.options().filter(|option| !is_outer(option.number)) {
        if option.number >= OptionNumber::ECHO
            && let Some(value) = echo.take()
        {
            inner = inner.option(OptionNumber::ECHO, value);
        }
        // A notification says so with an empty option; its order is its number's (RFC 8613, 4.1.3.5.2).
        let empty = option.number == OptionNumber::OBSERVE && !is_request;
        inner = inner.option(option.number, if empty { &[] } else { option.value });
    }
    if let Some(value) = echo {
        inner = inner.option(OptionNumber::ECHO, value);
    }
    let length = inner.payload(message.payload()).finish()?.len();

    let (text, rest) = inside.split_at_mut_checked(length).ok_or(ProtectError::TooLarge)?;
    let place = rest.first_chunk_mut::<TAG_BYTES>().ok_or(ProtectError::TooLarge)?;
    *place = context.seal(binding, text).ok_or(ProtectError::TooLarge)?;
    Ok(outer + 1 + length + TAG_BYTES)
}

/// Writes the message that was protected, with the type, id and token of the protected one, and gives its length.
/// Options outside are left out; Uri-Host, Uri-Port and Proxy-Scheme are to be had from `message`.
pub(crate) fn unprotect(
    context: &Context,
    binding: &Binding,
    message: &Message<'_>,
    buffer: &mut [u8],
) -> Result<usize, Refusal> {
    let (sealed, tag) = message.payload().split_last_chunk::<TAG_BYTES>().ok_or(Refusal::Malformed)?;
    if sealed.is_empty() {
        return Err(Refusal::Malformed);
    }
    let token = message.token();
    // The plaintext is a message without header and token. It is decrypted where it belongs behind them, so that its
    // code comes to lie in the last byte before: that one goes into the header, and then the header is written over it.
    let begin = 3 + token.as_bytes().len().min(MAX_TOKEN_BYTES);
    let end = begin + sealed.len();
    let text = buffer.get_mut(begin..end).ok_or(Refusal::TooLarge)?;
    text.copy_from_slice(sealed);
    context.open(binding, text, *tag).ok_or(Refusal::Decryption)?;
    let code = text.first().map_or(Code::EMPTY, |code| Code(*code));
    if code.is_request() != message.code().is_request() || code == Code::EMPTY {
        return Err(Refusal::Inner);
    }
    let front = buffer.get_mut(..=begin).ok_or(Refusal::TooLarge)?;
    Writer::new(front, coap::Header { code, ..message.header() }, token)
        .finish()
        .map_err(|_| Refusal::TooLarge)?;
    match Message::parse(buffer.get(..end).unwrap_or_default()) {
        Ok(inner) if inner.option(OptionNumber::OSCORE).is_none() => Ok(end),
        _ => Err(Refusal::Inner),
    }
}
