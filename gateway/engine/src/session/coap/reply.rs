//! What the gateway answers, and how it is written. It decides nothing but to leave out an explanation that is too long
//! for a peer whose address is not proved.

use bytes::Bytes;
use tidegate_wire::coap::{Block, Code, Header, Kind, OptionNumber, Token, Writer};

/// Room for header, token and every option of [`Reply`] but those of [`Location`], in bytes.
const HEAD_BYTES: usize = 96;

/// An entity tag (RFC 7252, 5.10.6).
pub(super) type Etag = [u8; 8];

/// Where the answer to a command goes, and what the command is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) path: Vec<String>,
    pub(super) query: String,
}

/// A response without its type, id and token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: Option<Code>,
    pub(super) etag: Option<Etag>,
    /// The notification's place in the order, 24 bits (RFC 7641, 3.4).
    pub(super) observe: Option<u32>,
    pub(super) location: Option<Box<Location>>,
    /// The payload's content format; a diagnostic payload has none (RFC 7252, 5.5.2).
    pub(super) content_format: Option<u16>,
    /// Seconds for which it holds; of a refusal: after which the request may come again.
    pub(super) max_age: Option<u32>,
    pub(super) block2: Option<Block>,
    pub(super) block1: Option<Block>,
    /// The whole representation's bytes, with its first block (RFC 7959, 4).
    pub(super) size2: Option<u32>,
    /// The largest payload that would be taken, in bytes (RFC 7252, 5.9.2.9).
    pub(super) size1: Option<u32>,
    /// To be sent back with the next request (RFC 9175, 2).
    pub(super) echo: Option<[u8; 12]>,
    /// The payload says something to a person only, and may be left out.
    pub(super) diagnostic: bool,
    pub(super) payload: Bytes,
}

impl Reply {
    /// An answer without a payload.
    pub(super) fn of(code: Code) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// The answer that says "safe".
    pub(super) fn changed() -> Self {
        Self::of(Code::CHANGED)
    }

    /// A refusal with a text for whoever looks at the wire.
    pub(super) fn refusal(code: Code, text: &'static str) -> Self {
        Self { diagnostic: true, payload: Bytes::from_static(text.as_bytes()), ..Self::of(code) }
    }

    /// "Come again in so many seconds."
    pub(super) fn unavailable(code: Code, max_age: u32) -> Self {
        Self { max_age: Some(max_age), ..Self::of(code) }
    }

    pub(super) fn code(&self) -> Code {
        self.code.unwrap_or(Code::INTERNAL_SERVER_ERROR)
    }

    /// The memory that it takes beside itself, in bytes.
    pub(super) fn footprint(&self) -> usize {
        let location = self.location.as_ref().map_or(0, |location| {
            64 + location.query.len() + location.path.iter().map(|segment| 24 + segment.len()).sum::<usize>()
        });
        size_of::<Self>() + self.payload.len() + location
    }

    /// Writes the answer; an explanation that would make it longer than `room` bytes is left out.
    pub(super) fn write(&self, kind: Kind, message_id: u16, token: Token, room: usize) -> Option<Bytes> {
        let written = self.encode(kind, message_id, token, &self.payload)?;
        if written.len() > room && self.diagnostic {
            return self.encode(kind, message_id, token, &[]);
        }
        Some(written)
    }

    fn encode(&self, kind: Kind, message_id: u16, token: Token, payload: &[u8]) -> Option<Bytes> {
        let location = self.location.as_ref().map_or(0, |location| {
            3 + location.query.len() + location.path.iter().map(|segment| 3 + segment.len()).sum::<usize>()
        });
        let mut buffer = vec![0; HEAD_BYTES + location + payload.len()];
        let mut writer = Writer::new(&mut buffer, Header { kind, code: self.code(), message_id }, token);
        if let Some(etag) = &self.etag {
            writer = writer.option(OptionNumber::ETAG, etag);
        }
        if let Some(number) = self.observe {
            writer = writer.uint(OptionNumber::OBSERVE, number);
        }
        for segment in self.location.iter().flat_map(|location| &location.path) {
            writer = writer.option(OptionNumber::LOCATION_PATH, segment.as_bytes());
        }
        for (number, value) in [
            (OptionNumber::CONTENT_FORMAT, self.content_format.map(u32::from)),
            (OptionNumber::MAX_AGE, self.max_age),
        ] {
            if let Some(value) = value {
                writer = writer.uint(number, value);
            }
        }
        if let Some(location) = &self.location {
            writer = writer.option(OptionNumber::LOCATION_QUERY, location.query.as_bytes());
        }
        for (number, value) in [
            (OptionNumber::BLOCK2, self.block2.map(Block::to_uint)),
            (OptionNumber::BLOCK1, self.block1.map(Block::to_uint)),
            (OptionNumber::SIZE2, self.size2),
            (OptionNumber::SIZE1, self.size1),
        ] {
            if let Some(value) = value {
                writer = writer.uint(number, value);
            }
        }
        if let Some(echo) = &self.echo {
            writer = writer.option(OptionNumber::ECHO, echo);
        }
        let length = writer.payload(payload).finish().ok()?.len();
        buffer.truncate(length);
        Some(Bytes::from(buffer))
    }
}

/// An empty message: an acknowledgement without an answer, or a reset (RFC 7252, 4.1).
pub(super) fn empty(kind: Kind, message_id: u16) -> Option<Bytes> {
    let mut buffer = [0; 4];
    let header = Header { kind, code: Code::EMPTY, message_id };
    Writer::new(&mut buffer, header, Token::EMPTY).finish().ok().map(Bytes::copy_from_slice)
}
