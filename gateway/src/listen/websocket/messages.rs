//! CoAP's messages in WebSocket (RFC 8323, 4): each fills one message of WebSocket, which says how long it is, so that its own
//! length is left out. Turns them into frames of a stream and back, so that all else is as over TCP. Does no I/O.

use super::frame::Close;
use tidegate_wire::coap::stream::{self, Frame};

/// Messages from a client on their way to frames.
#[derive(Debug)]
pub(super) struct Assembly {
    /// The longest message, in bytes.
    longest: usize,
    /// What has come of one that is not whole.
    message: Vec<u8>,
    /// Frames that have not been fetched.
    frames: Vec<u8>,
}

impl Assembly {
    /// For messages of at most so many bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, message: Vec::new(), frames: Vec::new() }
    }

    /// Takes what frames of WebSocket carried. `ends` says where messages end in it.
    pub(super) fn take(&mut self, carried: &[u8], ends: &[usize]) -> Result<(), Close> {
        let mut begin = 0;
        for end in ends {
            self.extend(carried.get(begin..*end).unwrap_or_default())?;
            begin = *end;
            let message = std::mem::take(&mut self.message);
            self.frames.extend_from_slice(&frame(&message).ok_or(Close::Protocol)?);
        }
        self.extend(carried.get(begin..).unwrap_or_default())
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), Close> {
        if self.message.len() + bytes.len() > self.longest {
            return Err(Close::TooBig);
        }
        self.message.extend_from_slice(bytes);
        Ok(())
    }

    /// The next bytes of the stream, at most so many.
    pub(super) fn fetch(&mut self, most: usize) -> Vec<u8> {
        if most >= self.frames.len() {
            return std::mem::take(&mut self.frames); // A silent connection owns no memory.
        }
        self.frames.drain(..most).collect()
    }
}

/// A message as it goes on a stream. `None` when it is none.
fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let (&[first, code], rest) = message.split_first_chunk::<2>()?;
    // "The Length (Len) field MUST be set to zero" (RFC 8323, 4.2); what follows would be read in another way otherwise.
    if first > 0x0F {
        return None;
    }
    let datagram = [&[0x50 | first, code, 0, 0], rest].concat();
    let mut buffer = vec![0; datagram.len() + 2];
    let length = stream::write(&mut buffer, &datagram)?.len();
    buffer.truncate(length);
    Some(buffer)
}

/// How the frame that `bytes` begin with goes in WebSocket: how many of its bytes are left out, what stands in their place, and how
/// many follow. `None` when no whole frame is there.
pub(super) fn unframed(bytes: &[u8]) -> Option<(usize, u8, u64)> {
    let frame = Frame::parse(bytes, usize::MAX).ok()?;
    let token = frame.token.as_bytes().len();
    let rest = 1 + token + frame.body.len();
    Some((frame.bytes - rest, u8::try_from(token).ok()?, rest as u64))
}

#[cfg(test)]
mod tests {
    use super::{Assembly, Close, unframed};

    /// GET with a token of one byte and this much behind it.
    fn message(body: usize) -> Vec<u8> {
        [&[0x01, 0x01, 0x7A][..], &vec![0xFF; body]].concat()
    }

    #[test]
    fn messages_become_frames_and_frames_messages_in_whatever_pieces_they_come() {
        for body in [0, 12, 13, 268, 269, 1_200] {
            let message = message(body);
            for cut in [0, 1, message.len()] {
                let mut assembly = Assembly::new(2_000);
                assembly.take(&message[..cut], &[]).unwrap();
                assert!(assembly.fetch(9_000).is_empty());
                let rest = [&message[cut..], &message, b"\x00"].concat();
                let first = message.len() - cut;
                assembly.take(&rest, &[first, first + message.len()]).unwrap();
                let mut frames = Vec::new();
                while let bytes @ [_, ..] = &assembly.fetch(7)[..] {
                    frames.extend_from_slice(bytes);
                }
                let one = frames.len() / 2;
                assert_eq!(frames[..one], frames[one..]);
                let (skipped, head, rest) = unframed(&frames).unwrap();
                assert_eq!([&[head][..], &frames[skipped..skipped + rest as usize]].concat(), message);
                assert_eq!(skipped + rest as usize, one);
            }
        }
    }

    #[test]
    fn what_is_no_message_or_too_long_is_not_taken() {
        for (bytes, end, close) in [
            (&[0x00][..], 1, Close::Protocol),
            (&[], 0, Close::Protocol),
            (&[0x09, 0x01], 2, Close::Protocol),
            (&[0x11, 0x01, 0x7A, 0xFF], 4, Close::Protocol),
            (&[0x01, 0x01], 2, Close::Protocol),
            (&[0; 65], 65, Close::TooBig),
        ] {
            assert_eq!(Assembly::new(64).take(bytes, &[end]), Err(close), "{bytes:?}");
        }
        let mut assembly = Assembly::new(64);
        assembly.take(&[0; 64], &[]).unwrap();
        assert_eq!(assembly.take(&[0], &[]), Err(Close::TooBig));
    }
}
