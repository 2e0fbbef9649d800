//! Option numbers, what they say about themselves, and how their values are written (RFC 7252, 3.2 and 5.4).
//! What an option means for a request is the session's business.

use core::fmt;

/// An option number, known or not. Its lowest bits say how to treat it when it is unknown (RFC 7252, 5.4.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionNumber(pub u16);

/// How an option is defined: a value outside of it makes the option one that is not recognised (RFC 7252, 5.4.3 and 5.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name in the registry.
    pub name: &'static str,
    /// The shortest value, in bytes.
    pub min_bytes: u16,
    /// The longest value, in bytes.
    pub max_bytes: u16,
    /// Whether it may stand more than once.
    pub repeatable: bool,
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $min:literal ..= $max:literal, $repeatable:literal;)*) => {
        impl OptionNumber {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// How the option is defined; `None` when its number is not one that this module knows.
            #[must_use]
            pub const fn definition(self) -> Option<Definition> {
                match self.0 {
                    $($number => Some(Definition {
                        name: $text, min_bytes: $min, max_bytes: $max, repeatable: $repeatable,
                    }),)*
                    _ => None,
                }
            }
        }
    };
}

options! {
    /// If-Match (RFC 7252, 5.10.8.1).
    IF_MATCH = 1, "If-Match", 0..=8, true;
    /// Uri-Host (RFC 7252, 5.10.1).
    URI_HOST = 3, "Uri-Host", 1..=255, false;
    /// ETag (RFC 7252, 5.10.6).
    ETAG = 4, "ETag", 1..=8, true;
    /// If-None-Match (RFC 7252, 5.10.8.2).
    IF_NONE_MATCH = 5, "If-None-Match", 0..=0, false;
    /// Observe (RFC 7641).
    OBSERVE = 6, "Observe", 0..=3, false;
    /// Uri-Port (RFC 7252, 5.10.1).
    URI_PORT = 7, "Uri-Port", 0..=2, false;
    /// Location-Path (RFC 7252, 5.10.7).
    LOCATION_PATH = 8, "Location-Path", 0..=255, true;
    /// OSCORE (RFC 8613).
    OSCORE = 9, "OSCORE", 0..=255, false;
    /// Uri-Path (RFC 7252, 5.10.1).
    URI_PATH = 11, "Uri-Path", 0..=255, true;
    /// Content-Format (RFC 7252, 5.10.3).
    CONTENT_FORMAT = 12, "Content-Format", 0..=2, false;
    /// Max-Age, in seconds (RFC 7252, 5.10.5).
    MAX_AGE = 14, "Max-Age", 0..=4, false;
    /// Uri-Query (RFC 7252, 5.10.1).
    URI_QUERY = 15, "Uri-Query", 0..=255, true;
    /// Hop-Limit (RFC 8768).
    HOP_LIMIT = 16, "Hop-Limit", 1..=1, false;
    /// Accept (RFC 7252, 5.10.4).
    ACCEPT = 17, "Accept", 0..=2, false;
    /// Q-Block1 (RFC 9177).
    Q_BLOCK1 = 19, "Q-Block1", 0..=3, false;
    /// Location-Query (RFC 7252, 5.10.7).
    LOCATION_QUERY = 20, "Location-Query", 0..=255, true;
    /// Block2 (RFC 7959).
    BLOCK2 = 23, "Block2", 0..=3, false;
    /// Block1 (RFC 7959).
    BLOCK1 = 27, "Block1", 0..=3, false;
    /// Size2 (RFC 7959, 4).
    SIZE2 = 28, "Size2", 0..=4, false;
    /// Proxy-Uri (RFC 7252, 5.10.2).
    PROXY_URI = 35, "Proxy-Uri", 1..=1034, false;
    /// Proxy-Scheme (RFC 7252, 5.10.2).
    PROXY_SCHEME = 39, "Proxy-Scheme", 1..=255, false;
    /// Size1 (RFC 7252, 5.10.9).
    SIZE1 = 60, "Size1", 0..=4, false;
    /// Echo (RFC 9175, 2).
    ECHO = 252, "Echo", 1..=40, false;
    /// No-Response (RFC 7967).
    NO_RESPONSE = 258, "No-Response", 0..=1, false;
    /// Request-Tag (RFC 9175, 3).
    REQUEST_TAG = 292, "Request-Tag", 0..=8, true;
}

impl OptionNumber {
    /// Whoever does not know it must refuse the message (odd numbers).
    #[must_use]
    pub const fn is_critical(self) -> bool {
        self.0 & 1 != 0
    }

    /// A proxy that does not know it must not forward the message.
    #[must_use]
    pub const fn is_unsafe(self) -> bool {
        self.0 & 2 != 0
    }

    /// It is safe to forward and not part of the cache key.
    #[must_use]
    pub const fn is_no_cache_key(self) -> bool {
        self.0 & 0x1E == 0x1C
    }
}

impl fmt::Debug for OptionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.definition() {
            Some(definition) => write!(f, "{}", definition.name),
            None => write!(f, "option {}", self.0),
        }
    }
}

/// Reads a `uint` value: big-endian, no bytes are zero, leading zeros are borne (RFC 7252, 3.2).
/// `None` when there are more than four bytes.
#[must_use]
pub fn uint(value: &[u8]) -> Option<u32> {
    if value.len() > 4 {
        return None;
    }
    Some(value.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}
