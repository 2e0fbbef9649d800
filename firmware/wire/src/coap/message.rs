//! A CoAP message as a view of the datagram that it came in (RFC 7252, 3). Everything is checked once, at the
//! beginning; the view cannot fail afterwards. What an option means is not known here.

use super::PAYLOAD_MARKER;
use super::header::{Code, Header, Kind, Token};
use super::option::{OptionNumber, uint};
use core::fmt;

/// A well-formed message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: Header,
    token: Token,
    options: &'a [u8],
    payload: &'a [u8],
}

/// Why a datagram is not a message, and what is owed for it (RFC 7252, 3, 4.2 and 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer than four bytes: not even a header. To be ignored.
    TooShort,
    /// Not version 1. To be ignored in silence (RFC 7252, 3).
    Version(u8),
    /// A message format error: a CON is answered with RST, everything else is ignored. An empty ACK or RST with
    /// trailing bytes ends up here too and may still be matched by its id.
    Malformed(Header, Fault),
}

/// A message format error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A token length of 9 to 15.
    TokenLength,
    /// The datagram ends within the token or an option.
    Truncated,
    /// An option with the reserved delta or length 15.
    ReservedNibble,
    /// An option number above 65535.
    OptionNumber,
    /// A payload marker and no payload.
    EmptyPayload,
    /// An empty message (0.00) with a token or anything else behind the message id (RFC 7252, 4.1).
    EmptyTrailing,
    /// A code of the reserved classes 1, 3, 6 and 7 (class 7 is for CoAP over TCP only, RFC 8323).
    ReservedCode,
    /// A code that this type must not carry: a request in an ACK, anything but 0.00 in an RST (RFC 7252, 4.3, table 1).
    KindAndCode,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("a CoAP message has at least four bytes"),
            Self::Version(version) => write!(f, "CoAP version {version}: only version 1 is defined"),
            Self::Malformed(_, fault) => f.write_str(match fault {
                Fault::TokenLength => "a token has at most eight bytes",
                Fault::Truncated => "the message ends within its token or an option",
                Fault::ReservedNibble => "an option has the reserved delta or length 15",
                Fault::OptionNumber => "an option number is above 65535",
                Fault::EmptyPayload => "a payload marker without a payload",
                Fault::EmptyTrailing => "an empty message has nothing behind its message id",
                Fault::ReservedCode => "the code is of a reserved class",
                Fault::KindAndCode => "this message type does not carry this code",
            }),
        }
    }
}

impl core::error::Error for ParseError {}

impl<'a> Message<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`ParseError`], which says what is owed for the datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let Some((&[first, code, high, low], rest)) = datagram.split_first_chunk::<4>() else {
            return Err(ParseError::TooShort);
        };
        if first >> 6 != 1 {
            return Err(ParseError::Version(first >> 6));
        }
        let header = Header {
            kind: Kind::from_bits(first),
            code: Code(code),
            message_id: u16::from_be_bytes([high, low]),
        };
        Self::parse_rest(header, usize::from(first & 0x0F), rest)
            .map_err(|fault| ParseError::Malformed(header, fault))
    }

    fn parse_rest(header: Header, token_length: usize, rest: &'a [u8]) -> Result<Self, Fault> {
        if header.code == Code::EMPTY {
            return match (header.kind, token_length, rest) {
                (Kind::NonConfirmable, ..) => Err(Fault::KindAndCode),
                (_, 0, []) => Ok(Self { header, token: Token::EMPTY, options: &[], payload: &[] }),
                _ => Err(Fault::EmptyTrailing),
            };
        }
        if !header.code.is_request() && !header.code.is_response() {
            return Err(Fault::ReservedCode);
        }
        match header.kind {
            Kind::Reset => return Err(Fault::KindAndCode),
            Kind::Acknowledgement if header.code.is_request() => return Err(Fault::KindAndCode),
            _ => {}
        }
        if token_length > super::MAX_TOKEN_BYTES {
            return Err(Fault::TokenLength);
        }
        let (token, rest) = rest.split_at_checked(token_length).ok_or(Fault::Truncated)?;
        let token = Token::new(token).ok_or(Fault::TokenLength)?;
        let mut options = Options { rest, number: 0 };
        while options.step()?.is_some() {}
        let (options, payload) =
            rest.split_at_checked(rest.len() - options.rest.len()).ok_or(Fault::Truncated)?;
        let payload = match payload.split_first() {
            None => payload,
            Some((_, [])) => return Err(Fault::EmptyPayload),
            Some((_, payload)) => payload,
        };
        Ok(Self { header, token, options, payload })
    }

    /// Type, code and message id.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.header.code
    }

    /// The message id.
    #[must_use]
    pub fn message_id(&self) -> u16 {
        self.header.message_id
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The options in the order of their numbers, those of one number in the order of the message.
    #[must_use]
    pub fn options(&self) -> Options<'a> {
        Options { rest: self.options, number: 0 }
    }

    /// The values of one option.
    pub fn options_of(&self, number: OptionNumber) -> impl Iterator<Item = &'a [u8]> {
        self.options().filter(move |option| option.number == number).map(|option| option.value)
    }

    /// The first value of one option.
    #[must_use]
    pub fn option(&self, number: OptionNumber) -> Option<&'a [u8]> {
        self.options_of(number).next()
    }

    /// The first value of one option as a number; `None` when it is absent, or longer than it may be.
    #[must_use]
    pub fn option_uint(&self, number: OptionNumber) -> Option<u32> {
        let value = self.option(number)?;
        let fits =
            number.definition().is_none_or(|definition| value.len() <= usize::from(definition.max_bytes));
        if fits { uint(value) } else { None }
    }

    /// The payload; empty when there is none.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// An option of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    /// Its number.
    pub number: OptionNumber,
    /// Its value.
    pub value: &'a [u8],
}

impl Opt<'_> {
    /// Whether the value's length is one that the option's definition allows; false for an unknown option.
    /// An option that is not well-formed is treated as an unknown one (RFC 7252, 5.4.3).
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.number.definition().is_some_and(|definition| {
            (usize::from(definition.min_bytes)..=usize::from(definition.max_bytes))
                .contains(&self.value.len())
        })
    }

    /// The value as a number; `None` when it has more than four bytes.
    #[must_use]
    pub fn uint(&self) -> Option<u32> {
        uint(self.value)
    }
}

/// The options of a message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
    number: u16,
}

impl<'a> Options<'a> {
    /// The next option; `Ok(None)` at the payload marker or the end, with `rest` standing there.
    fn step(&mut self) -> Result<Option<Opt<'a>>, Fault> {
        let (&first, mut rest) = match self.rest.split_first() {
            None | Some((&PAYLOAD_MARKER, _)) => return Ok(None),
            Some(split) => split,
        };
        let delta = extended(first >> 4, &mut rest)?;
        let length = extended(first & 0x0F, &mut rest)?;
        let number = u16::try_from(u32::from(self.number) + delta).map_err(|_| Fault::OptionNumber)?;
        let length = usize::try_from(length).map_err(|_| Fault::Truncated)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(Fault::Truncated)?;
        *self = Self { rest, number };
        Ok(Some(Opt { number: OptionNumber(number), value }))
    }
}

/// A delta or length with its extension bytes (RFC 7252, 3.1).
fn extended(nibble: u8, rest: &mut &[u8]) -> Result<u32, Fault> {
    match nibble {
        13 => {
            let (&byte, after) = rest.split_first().ok_or(Fault::Truncated)?;
            *rest = after;
            Ok(u32::from(byte) + 13)
        }
        14 => {
            let (bytes, after) = rest.split_first_chunk::<2>().ok_or(Fault::Truncated)?;
            *rest = after;
            Ok(u32::from(u16::from_be_bytes(*bytes)) + 269)
        }
        15 => Err(Fault::ReservedNibble),
        small => Ok(u32::from(small)),
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Opt<'a>;

    fn next(&mut self) -> Option<Opt<'a>> {
        // The message was checked when it was parsed: no fault can be met here any more.
        self.step().ok().flatten()
    }
}
