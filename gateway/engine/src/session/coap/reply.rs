//! What the gateway answers, and how it is written. It decides nothing but what an unverified peer may be sent.

use bytes::Bytes;
use tidegate_wire::coap::{Block, Code, Header, Kind, OptionNumber, Token, Writer};

/// The longest answer, in bytes: header, token, four short options and a text of this module or the list of links.
const REPLY_BYTES: usize = 256;

/// How many times the bytes of a request its answer may have. The source address of a datagram may be forged, and
/// then the answer hits somebody else (draft-irtf-t2trg-amplification-attacks; RFC 9175, 2.6).
const AMPLIFICATION_MAX: usize = 3;

/// A response without its type, id and token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: Option<Code>,
    /// The payload's content format; a diagnostic payload has none (RFC 7252, 5.5.2).
    pub(super) content_format: Option<u16>,
    /// Seconds after which a refused request may come again.
    pub(super) max_age: Option<u32>,
    pub(super) block2: Option<Block>,
    /// The largest payload that would be taken, in bytes (RFC 7252, 5.9.2.9).
    pub(super) size1: Option<u32>,
    pub(super) payload: Bytes,
}

impl Reply {
    /// The answer that says "safe".
    pub(super) fn changed() -> Self {
        Self { code: Some(Code::CHANGED), ..Self::default() }
    }

    /// A refusal with a text for whoever looks at the wire.
    pub(super) fn refusal(code: Code, text: &'static str) -> Self {
        Self { code: Some(code), payload: Bytes::from_static(text.as_bytes()), ..Self::default() }
    }

    /// "Come again in so many seconds."
    pub(super) fn unavailable(code: Code, max_age: u32) -> Self {
        Self { code: Some(code), max_age: Some(max_age), ..Self::default() }
    }

    pub(super) fn code(&self) -> Code {
        self.code.unwrap_or(Code::INTERNAL_SERVER_ERROR)
    }

    /// Writes the answer to a request of `request_bytes`; an explanation that would make it too long is left out.
    pub(super) fn write(
        &self,
        kind: Kind,
        message_id: u16,
        token: Token,
        request_bytes: usize,
    ) -> Option<Bytes> {
        let written = self.encode(kind, message_id, token, &self.payload)?;
        if written.len() > request_bytes.saturating_mul(AMPLIFICATION_MAX) && self.content_format.is_none() {
            return self.encode(kind, message_id, token, &[]);
        }
        Some(written)
    }

    fn encode(&self, kind: Kind, message_id: u16, token: Token, payload: &[u8]) -> Option<Bytes> {
        let mut buffer = [0; REPLY_BYTES];
        let mut writer = Writer::new(&mut buffer, Header { kind, code: self.code(), message_id }, token);
        if let Some(format) = self.content_format {
            writer = writer.uint(OptionNumber::CONTENT_FORMAT, format.into());
        }
        if let Some(seconds) = self.max_age {
            writer = writer.uint(OptionNumber::MAX_AGE, seconds);
        }
        if let Some(block) = self.block2 {
            writer = writer.uint(OptionNumber::BLOCK2, block.to_uint());
        }
        if let Some(bytes) = self.size1 {
            writer = writer.uint(OptionNumber::SIZE1, bytes);
        }
        writer.payload(payload).finish().ok().map(Bytes::copy_from_slice)
    }
}

/// An empty message: an acknowledgement without an answer, or a reset (RFC 7252, 4.1).
pub(super) fn empty(kind: Kind, message_id: u16) -> Option<Bytes> {
    let mut buffer = [0; 4];
    let header = Header { kind, code: Code::EMPTY, message_id };
    Writer::new(&mut buffer, header, Token::EMPTY).finish().ok().map(Bytes::copy_from_slice)
}
