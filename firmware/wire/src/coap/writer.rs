//! Writes a CoAP message into the caller's buffer (RFC 7252, 3). It checks order and space, not meaning.

use super::PAYLOAD_MARKER;
use super::header::{Code, Header, Token};
use super::option::OptionNumber;
use core::fmt;

/// Why a message could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The buffer is too small.
    Full,
    /// An option has a lower number than the one before it: options are written in the order of their numbers.
    Order,
    /// An option's value is longer than the encoding can say (65804 bytes).
    ValueTooLong,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the buffer is too small for the message",
            Self::Order => "options must be written in ascending order",
            Self::ValueTooLong => "an option's value is too long",
        })
    }
}

impl core::error::Error for WriteError {}

/// A message being written. The first error stays and is told by [`finish`](Self::finish).
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    length: usize,
    number: u16,
    error: Option<WriteError>,
}

impl<'b> Writer<'b> {
    /// Begins a message in `buffer`.
    #[must_use]
    pub fn new(buffer: &'b mut [u8], header: Header, token: Token) -> Self {
        let mut writer = Self { buffer, length: 0, number: 0, error: None };
        let token = token.as_bytes();
        // At most eight, so it fits the low nibble.
        let token_length = u8::try_from(token.len()).unwrap_or(0);
        let [high, low] = header.message_id.to_be_bytes();
        writer.put(&[(1 << 6) | ((header.kind as u8) << 4) | token_length, header.code.0, high, low]);
        writer.put(token);
        writer
    }

    /// Begins what OSCORE encrypts: a message without header and token (RFC 8613, 5.3).
    #[must_use]
    pub fn plaintext(buffer: &'b mut [u8], code: Code) -> Self {
        let mut writer = Self { buffer, length: 0, number: 0, error: None };
        writer.put(&[code.0]);
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.buffer.get_mut(self.length..end) {
            Some(space) if self.error.is_none() => {
                space.copy_from_slice(bytes);
                self.length = end;
            }
            _ => self.fail(WriteError::Full),
        }
    }

    fn fail(&mut self, error: WriteError) {
        self.error.get_or_insert(error);
    }

    /// Adds an option. Options are added in the order of their numbers.
    #[must_use]
    pub fn option(mut self, number: OptionNumber, value: &[u8]) -> Self {
        let Some(delta) = number.0.checked_sub(self.number) else {
            self.fail(WriteError::Order);
            return self;
        };
        let Some((length, length_bytes, length_count)) = u32::try_from(value.len()).ok().and_then(extend)
        else {
            self.fail(WriteError::ValueTooLong);
            return self;
        };
        // A delta of 16 bits always fits.
        let Some((delta, delta_bytes, delta_count)) = extend(u32::from(delta)) else { return self };
        self.put(&[(delta << 4) | length]);
        self.put(delta_bytes.get(..delta_count).unwrap_or_default());
        self.put(length_bytes.get(..length_count).unwrap_or_default());
        self.put(value);
        self.number = number.0;
        self
    }

    /// Adds an option whose value is a number, in as few bytes as it takes (RFC 7252, 3.2).
    #[must_use]
    pub fn uint(self, number: OptionNumber, value: u32) -> Self {
        let bytes = value.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        self.option(number, bytes.get(zeros..).unwrap_or_default())
    }

    /// Adds the payload, and the marker before it; nothing when it is empty. Call it last.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        if !payload.is_empty() {
            self.put(&[PAYLOAD_MARKER]);
            self.put(payload);
            // Nothing can follow: an option behind the payload would be read as a part of it.
            self.number = u16::MAX;
        }
        self
    }

    /// The written message.
    ///
    /// # Errors
    /// [`WriteError`]: the first thing that went wrong.
    pub fn finish(self) -> Result<&'b [u8], WriteError> {
        match self.error {
            Some(error) => Err(error),
            None => self.buffer.get(..self.length).ok_or(WriteError::Full),
        }
    }
}

/// The nibble of a delta or length, its extension bytes, and how many of them count (RFC 7252, 3.1).
fn extend(value: u32) -> Option<(u8, [u8; 2], usize)> {
    match value {
        0..=12 => Some((u8::try_from(value).ok()?, [0; 2], 0)),
        13..=268 => Some((13, [u8::try_from(value - 13).ok()?, 0], 1)),
        _ => Some((14, u16::try_from(value - 269).ok()?.to_be_bytes(), 2)),
    }
}
