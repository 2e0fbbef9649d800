//! Finds messages in the bytes of a serial line and frames those that go out.

use super::{Came, Framing};
use bytes::Bytes;
use tidegate_wire::slipmux::{self, Decoder, Frame};

/// The longest line of text, in bytes: boards print readings, not books.
const TEXT_BYTES: usize = 1_024;

/// The type of a slipmux frame and the check sequence of one with CoAP.
const FRAME_EXTRA_BYTES: usize = 3;

/// What stood in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A message.
    Came(Came),
    /// Words for people: a diagnostic.
    Words(String),
}

/// Takes bytes as they come and gives back what they hold.
pub(super) enum Deframer {
    Slipmux(Decoder<Vec<u8>>),
    Lines {
        text: Vec<u8>,
        /// What comes is not taken until the line ends.
        passing: Option<Passed>,
    },
}

/// Why the line that goes on is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It had perhaps begun before the port was open: half of a reading is another reading.
    Begun,
    /// It is too long already.
    TooLong,
}

impl Deframer {
    /// `longest`: of a CoAP message, in bytes.
    pub(super) fn new(framing: &Framing, longest: usize) -> Self {
        match framing {
            Framing::Slipmux => Self::Slipmux(Decoder::new(vec![0; longest + FRAME_EXTRA_BYTES])),
            Framing::Lines(_) => Self::Lines { text: Vec::new(), passing: Some(Passed::Begun) },
        }
    }

    /// The port was silent since it was opened: what comes next begins with a beginning.
    pub(super) fn was_silent(&mut self) {
        if let Self::Lines { passing, .. } = self {
            *passing = None;
        }
    }

    /// Takes bytes off the front of `input` until something is found; `None` means that all of it was taken.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Result<Found, String>> {
        match self {
            Self::Slipmux(decoder) => decoder.feed(input).map(|frame| match frame {
                Ok(Frame::Coap(message)) => Ok(Found::Came(Came::Coap(Bytes::copy_from_slice(message)))),
                Ok(Frame::Diagnostic(text)) => {
                    Ok(Found::Words(String::from_utf8_lossy(text).trim_end().to_owned()))
                }
                Ok(Frame::Ip(_)) => Err("an IP packet, which is not taken here".to_owned()),
                Err(error) => Err(error.to_string()),
            }),
            Self::Lines { text, passing } => loop {
                let (&byte, rest) = input.split_first()?;
                *input = rest;
                match byte {
                    b'\n' => {
                        match passing.take() {
                            Some(Passed::Begun) => continue,
                            Some(Passed::TooLong) => {
                                text.clear();
                                return Some(Err(format!("a line of more than {TEXT_BYTES} bytes")));
                            }
                            None => {}
                        }
                        let line = text.strip_suffix(b"\r").unwrap_or(text);
                        let line = Bytes::copy_from_slice(line);
                        text.clear();
                        if !line.is_empty() {
                            return Some(Ok(Found::Came(Came::Text(line))));
                        }
                    }
                    _ if passing.is_some() => {}
                    byte if text.len() < TEXT_BYTES => text.push(byte),
                    _ => *passing = Some(Passed::TooLong),
                }
            },
        }
    }
}

/// Writes a CoAP message into `framed`, in place of what was there.
pub(super) fn frame(message: &[u8], framed: &mut Vec<u8>) {
    framed.resize(slipmux::encoded_bytes_max(message.len()), 0);
    let length = slipmux::encode(Frame::Coap(message), framed).map_or(0, <[u8]>::len);
    framed.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::{Came, Deframer, Found, TEXT_BYTES, frame};
    use crate::listen::serial::Framing;
    use bytes::Bytes;
    use tidegate_engine::topic::Topic;

    fn all(deframer: &mut Deframer, bytes: &[u8]) -> Vec<Result<Found, String>> {
        let mut found = Vec::new();
        // In pieces, as a line delivers them.
        for mut piece in bytes.chunks(3) {
            found.extend(std::iter::from_fn(|| deframer.next(&mut piece)));
        }
        found
    }

    fn text(line: &str) -> Result<Found, String> {
        Ok(Found::Came(Came::Text(Bytes::copy_from_slice(line.as_bytes()))))
    }

    #[test]
    fn every_line_is_a_message_and_an_endless_one_is_none() {
        let mut deframer = Deframer::new(&Framing::Lines(Topic::new("t").unwrap()), 64);
        deframer.was_silent();
        assert_eq!(all(&mut deframer, b"21.5\r\n\n\r\nhalf"), [text("21.5")]);
        assert_eq!(all(&mut deframer, b" a line\n"), [text("half a line")]);
        let long = [vec![b'x'; TEXT_BYTES + 1], b"\nnext\n".to_vec()].concat();
        let found = all(&mut deframer, &long);
        assert!(found[0].is_err());
        assert_eq!(found[1..], [text("next")]);
    }

    #[test]
    fn a_line_that_had_begun_before_the_port_was_open_is_no_message() {
        let mut deframer = Deframer::new(&Framing::Lines(Topic::new("t").unwrap()), 64);
        assert_eq!(all(&mut deframer, b"1.5\r\n22.5\r\n"), [text("22.5")]);
        let mut deframer = Deframer::new(&Framing::Lines(Topic::new("t").unwrap()), 64);
        let endless = [vec![b'x'; 2 * TEXT_BYTES], b"\n22.5\n".to_vec()].concat();
        assert_eq!(all(&mut deframer, &endless), [text("22.5")], "however long it was");
    }

    #[test]
    fn a_message_survives_the_way_through_a_frame_and_garbage_between_frames_costs_only_itself() {
        let message = [0x40, 0x01, 0xC0, 0xDB, 0xDC, 0xDD];
        let mut framed = Vec::new();
        frame(&message, &mut framed);
        let mut line = b"booting...\n".to_vec();
        line.extend_from_slice(&framed);
        line.extend_from_slice(b"\xc0\x0atemperature sensor ready\r\n\xc0");
        line.extend_from_slice(&[0x45, 1, 2, 0xC0]);
        line.extend_from_slice(&framed);
        let mut deframer = Deframer::new(&Framing::Slipmux, 64);
        let came = || Ok(Found::Came(Came::Coap(Bytes::copy_from_slice(&message))));
        let found = all(&mut deframer, &line);
        assert!(found[0].is_err(), "{found:?}");
        assert_eq!(found[1], came());
        assert_eq!(found[2], Ok(Found::Words("temperature sensor ready".to_owned())));
        assert!(found[3].is_err());
        assert_eq!(found[4..], [came()]);
    }
}
