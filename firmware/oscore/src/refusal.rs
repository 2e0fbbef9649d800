//! Why a protected message is not taken, and the words that its sender gets for a request (RFC 8613, 7.4 and 8.2).

use core::fmt;
use tidegate_wire::coap::Code;

/// Why a protected message is not taken. The answer to such a request is not protected: the other end could not check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The option or the ciphertext is malformed.
    Malformed,
    /// No context has this id.
    UnknownContext,
    /// It has been here before, or is so old that nobody can tell.
    Replay,
    /// It was not made with this key, not for this exchange, or has been changed on the way.
    Decryption,
    /// It was made by the other end, but what it says is no message, or one that cannot stand here.
    Inner,
    /// It does not fit the buffer.
    TooLarge,
}

impl Refusal {
    /// The code of the answer to a request.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Malformed => Code::BAD_OPTION,
            Self::UnknownContext | Self::Replay => Code::UNAUTHORIZED,
            Self::Decryption | Self::Inner => Code::BAD_REQUEST,
            Self::TooLarge => Code::REQUEST_ENTITY_TOO_LARGE,
        }
    }

    /// The diagnostic payload of the answer: the standard's own words where it has some. The answer's Max-Age is 0.
    #[must_use]
    pub fn diagnostic(self) -> &'static str {
        match self {
            Self::Malformed => "Failed to decode COSE",
            Self::UnknownContext => "Security context not found",
            Self::Replay => "Replay detected",
            Self::Decryption => "Decryption failed",
            Self::Inner => "Malformed plaintext",
            Self::TooLarge => "Too large",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.diagnostic())
    }
}

impl core::error::Error for Refusal {}
