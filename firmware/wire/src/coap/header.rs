//! The fixed part of a CoAP message: type, code, message id, token (RFC 7252, 3).
//! It must not know about options or payloads.

use core::fmt;

/// The longest token (RFC 7252, 3: lengths 9 to 15 are reserved).
pub const MAX_TOKEN_BYTES: usize = 8;

/// The message type (RFC 7252, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// CON: wants an acknowledgement.
    Confirmable = 0,
    /// NON: wants none.
    NonConfirmable = 1,
    /// ACK: acknowledges a CON, and may carry the response to it.
    Acknowledgement = 2,
    /// RST: the message with this id was received and made no sense.
    Reset = 3,
}

impl Kind {
    pub(super) const fn from_bits(first: u8) -> Self {
        match (first >> 4) & 0b11 {
            0 => Self::Confirmable,
            1 => Self::NonConfirmable,
            2 => Self::Acknowledgement,
            _ => Self::Reset,
        }
    }
}

/// The code: class (3 bits) and detail (5 bits), written `c.dd` (RFC 7252, 3 and 12.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u8);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $class:literal . $detail:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self::new($class, $detail);)*
        }
    };
}

codes! {
    /// 0.00: no request and no response; an empty CON is a ping.
    EMPTY = 0 . 0;
    /// 0.01
    GET = 0 . 1;
    /// 0.02
    POST = 0 . 2;
    /// 0.03
    PUT = 0 . 3;
    /// 0.04
    DELETE = 0 . 4;
    /// 0.05 (RFC 8132)
    FETCH = 0 . 5;
    /// 0.06 (RFC 8132)
    PATCH = 0 . 6;
    /// 0.07 (RFC 8132)
    IPATCH = 0 . 7;
    /// 2.01
    CREATED = 2 . 1;
    /// 2.02
    DELETED = 2 . 2;
    /// 2.03
    VALID = 2 . 3;
    /// 2.04: what was sent is safe.
    CHANGED = 2 . 4;
    /// 2.05
    CONTENT = 2 . 5;
    /// 2.31 (RFC 7959)
    CONTINUE = 2 . 31;
    /// 4.00
    BAD_REQUEST = 4 . 0;
    /// 4.01
    UNAUTHORIZED = 4 . 1;
    /// 4.02: a critical option that is unknown or badly formed.
    BAD_OPTION = 4 . 2;
    /// 4.03
    FORBIDDEN = 4 . 3;
    /// 4.04
    NOT_FOUND = 4 . 4;
    /// 4.05
    METHOD_NOT_ALLOWED = 4 . 5;
    /// 4.06
    NOT_ACCEPTABLE = 4 . 6;
    /// 4.08 (RFC 7959)
    REQUEST_ENTITY_INCOMPLETE = 4 . 8;
    /// 4.12
    PRECONDITION_FAILED = 4 . 12;
    /// 4.13
    REQUEST_ENTITY_TOO_LARGE = 4 . 13;
    /// 4.15
    UNSUPPORTED_CONTENT_FORMAT = 4 . 15;
    /// 4.29 (RFC 8516)
    TOO_MANY_REQUESTS = 4 . 29;
    /// 5.00
    INTERNAL_SERVER_ERROR = 5 . 0;
    /// 5.01
    NOT_IMPLEMENTED = 5 . 1;
    /// 5.03: with Max-Age, when to come again.
    SERVICE_UNAVAILABLE = 5 . 3;
    /// 5.05
    PROXYING_NOT_SUPPORTED = 5 . 5;
    /// 5.08 (RFC 8768)
    HOP_LIMIT_REACHED = 5 . 8;
}

impl Code {
    /// The code `class.detail`; what does not fit into 3 and 5 bits is cut off.
    #[must_use]
    pub const fn new(class: u8, detail: u8) -> Self {
        Self((class << 5) | (detail & 0x1F))
    }

    /// The part before the dot: 0 requests, 2 success, 4 the client's error, 5 the server's.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// The part behind the dot.
    #[must_use]
    pub const fn detail(self) -> u8 {
        self.0 & 0x1F
    }

    /// A method, known or not.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// A response, known or not.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.detail())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands in the first four bytes, without the token's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// CON, NON, ACK or RST.
    pub kind: Kind,
    /// The method or response code.
    pub code: Code,
    /// What ACK and RST are matched by, and repetitions recognised.
    pub message_id: u16,
}

/// What responses are matched to requests by (RFC 7252, 5.3.1). At most eight bytes; unused ones are zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    bytes: [u8; MAX_TOKEN_BYTES],
    length: u8,
}

impl Token {
    /// No token.
    pub const EMPTY: Self = Self { bytes: [0; MAX_TOKEN_BYTES], length: 0 };

    /// A token; `None` when `bytes` are more than eight.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut token = Self::EMPTY;
        token.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        token.length = u8::try_from(bytes.len()).ok()?;
        Some(token)
    }

    /// The token's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
