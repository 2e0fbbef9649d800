//! How messages of a route travel together (`batch`, `compress`). The engine says it with each message that it hands over and does not
//! read it: each message stays one by itself here, with a tag and an outcome of its own.

use crate::time::Duration;
use bytes::Bytes;
use std::fmt;

/// What a route asks of its upstream: several messages in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// `batch.max_messages`: so many fill a batch.
    pub max_messages: usize,
    /// `batch.max_bytes`: so long is a batch at the most, before it is compressed.
    pub max_bytes: usize,
    /// `batch.linger`: how long the first message of a batch waits for others at the most.
    pub linger: Duration,
    /// `batch.format`.
    pub format: Format,
    /// `compress` and `dictionary`.
    pub compression: Option<Compression>,
}

/// What a batch is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A JSON array with an object for each message.
    #[default]
    Json,
    /// A SenML pack in JSON (RFC 8428).
    Senml,
    /// Heads and payloads in turn, the length of each before it: payloads stay what they are, byte for byte.
    LengthPrefixed,
}

/// How a batch is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard (RFC 8878), with a dictionary that the consumer has as well, or without one.
    Zstd(Option<Dictionary>),
}

/// A dictionary of Zstandard (RFC 8878, 5).
#[derive(Clone, PartialEq, Eq)]
pub struct Dictionary {
    /// The number that it gives itself; never zero.
    pub id: u32,
    /// All of it.
    pub bytes: Bytes,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without its content, which is long and made of payloads.
        f.debug_struct("Dictionary").field("id", &self.id).finish_non_exhaustive()
    }
}
