//! CoAP over reliable transports (RFC 8323): the frame around a message on a stream, and the signalling messages. A frame carries
//! what a datagram does without type and message id: [`Frame::to_datagram`] and [`write()`] go over from one to the other.

use super::header::{Code, MAX_TOKEN_BYTES, Token};
use super::option::uint;

/// The code of a Capabilities and Settings Message (RFC 8323, 5.3).
pub const CSM: Code = Code::new(7, 1);
/// The code of a Ping (RFC 8323, 5.4).
pub const PING: Code = Code::new(7, 2);
/// The code of a Pong (RFC 8323, 5.4).
pub const PONG: Code = Code::new(7, 3);
/// The code of a Release (RFC 8323, 5.5).
pub const RELEASE: Code = Code::new(7, 4);
/// The code of an Abort (RFC 8323, 5.6).
pub const ABORT: Code = Code::new(7, 5);

/// A CSM's option that says how long a message may be (RFC 8323, 5.3.1).
pub const MAX_MESSAGE_SIZE: u16 = 2;
/// A CSM's option that says that Block1 and Block2 are understood (RFC 8323, 5.3.2).
pub const BLOCK_WISE_TRANSFER: u16 = 4;
/// A Ping's and Pong's option that asks for a Pong after all that was asked before (RFC 8323, 5.4.1).
pub const CUSTODY: u16 = 2;
/// How long a message may be until a CSM says otherwise, in bytes (RFC 8323, 5.3.1).
pub const MAX_MESSAGE_BYTES_DEFAULT: usize = 1_152;

/// The most bytes that can stand before the code: the first, and the extended length.
pub const HEAD_BYTES_MAX: usize = 5;

/// A message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its code; of class 7 for a signalling message.
    pub code: Code,
    /// Its token.
    pub token: Token,
    /// Options and payload, as a datagram has them.
    pub body: &'a [u8],
    /// The whole frame, in bytes.
    pub bytes: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not all has come yet.
    Incomplete,
    /// A token length of 9 to 15 (RFC 8323, 3.2).
    TokenLength,
    /// It is longer than the reader takes.
    TooLong,
}

impl<'a> Frame<'a> {
    /// Takes the frame at the beginning of `bytes`; one of more than `most` bytes is refused before it has come.
    ///
    /// # Errors
    /// [`FrameError`]: wait for more, or give up the connection.
    pub fn parse(bytes: &'a [u8], most: usize) -> Result<Self, FrameError> {
        let (&first, rest) = bytes.split_first().ok_or(FrameError::Incomplete)?;
        let token_length = usize::from(first & 0x0F);
        if token_length > MAX_TOKEN_BYTES {
            return Err(FrameError::TokenLength);
        }
        let (extension, base) = match first >> 4 {
            13 => (1, 13),
            14 => (2, 269),
            15 => (4, 65_805),
            _ => (0, usize::from(first >> 4)),
        };
        let (length, rest) = rest.split_at_checked(extension).ok_or(FrameError::Incomplete)?;
        let length = uint(length).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        let length = length.saturating_add(base);
        let whole = length.saturating_add(1 + extension + 1 + token_length);
        if whole > most {
            return Err(FrameError::TooLong);
        }
        let (&code, rest) = rest.split_first().ok_or(FrameError::Incomplete)?;
        let (token, rest) = rest.split_at_checked(token_length).ok_or(FrameError::Incomplete)?;
        let token = Token::new(token).ok_or(FrameError::TokenLength)?;
        let body = rest.get(..length).ok_or(FrameError::Incomplete)?;
        Ok(Self { code: Code(code), token, body, bytes: whole })
    }

    /// Writes the message as a NON with message id 0, so that it can be read as a datagram is. `None` when `buffer` is too small; it
    /// takes 12 bytes and the body.
    pub fn to_datagram<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let token = self.token.as_bytes();
        let head = [0x50 | u8::try_from(token.len()).ok()?, self.code.0, 0, 0];
        join(buffer, &[&head, token, self.body])
    }
}

/// Writes a message that stands in `datagram` as a frame; its type and message id are left out. `None` when `buffer` is too small:
/// it takes two bytes more than the datagram; or when `datagram` is none.
pub fn write<'b>(buffer: &'b mut [u8], datagram: &[u8]) -> Option<&'b [u8]> {
    let (&[first, code, _, _], rest) = datagram.split_first_chunk::<4>()?;
    let (token, body) = rest.split_at_checked(usize::from(first & 0x0F))?;
    let (nibble, extension, count) = match body.len() {
        length @ 0..=12 => (u8::try_from(length).ok()?, [0; 4], 0),
        length @ 13..=268 => (13, [u8::try_from(length - 13).ok()?, 0, 0, 0], 1),
        length @ 269..=65_804 => {
            let [high, low] = u16::try_from(length - 269).ok()?.to_be_bytes();
            (14, [high, low, 0, 0], 2)
        }
        length => (15, u32::try_from(length - 65_805).ok()?.to_be_bytes(), 4),
    };
    let head = [(nibble << 4) | (first & 0x0F)];
    join(buffer, &[&head, extension.get(..count)?, &[code], token, body])
}

fn join<'b>(buffer: &'b mut [u8], parts: &[&[u8]]) -> Option<&'b [u8]> {
    let mut length = 0;
    for part in parts {
        buffer.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    buffer.get(..length)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Frame, FrameError, write};
    use std::vec;

    #[test]
    fn a_message_goes_into_a_frame_and_out_again() {
        for length in [0, 1, 12, 13, 14, 268, 269, 300, 65_804, 65_805, 70_000] {
            for token in [0_u8, 1, 8] {
                let mut datagram = vec![0x50 | token, 0x45, 0, 0];
                datagram.extend(std::iter::repeat_n(7, token.into()));
                datagram.extend(std::iter::repeat_n(0xAA, length));
                let mut buffer = vec![0; datagram.len() + 2];
                let frame = write(&mut buffer, &datagram).unwrap().to_vec();
                for cut in [0, 1, 2, frame.len() - 1] {
                    if cut < frame.len() {
                        assert_eq!(Frame::parse(&frame[..cut], 100_000), Err(FrameError::Incomplete));
                    }
                }
                let parsed = Frame::parse(&frame, 100_000).unwrap();
                assert_eq!((parsed.bytes, parsed.body.len()), (frame.len(), length));
                let mut again = vec![0; 12 + length];
                assert_eq!(parsed.to_datagram(&mut again), Some(&datagram[..]));
                assert_eq!(Frame::parse(&frame, frame.len() - 1), Err(FrameError::TooLong));
            }
        }
        assert_eq!(Frame::parse(&[0x09], 100), Err(FrameError::TokenLength));
        assert_eq!(Frame::parse(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF], 100), Err(FrameError::TooLong));
    }
}
