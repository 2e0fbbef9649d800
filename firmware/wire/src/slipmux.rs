//! Slipmux: CoAP, diagnostics and IP packets over one serial line (draft-bormann-t2trg-slipmux-03, on SLIP, RFC 1055).
//! It frames and checks bytes. It does not know ports, speeds, or what a frame means.
//!
//! ```
//! use tidegate_wire::slipmux::{Decoder, Frame, encode};
//!
//! let mut line = [0; 32];
//! let sent = encode(Frame::Coap(&[0x40, 0x02, 0x00, 0x01]), &mut line).unwrap();
//! let mut decoder = Decoder::new([0; 64]);
//! let mut rest = sent;
//! while let Some(frame) = decoder.feed(&mut rest) {
//!     assert_eq!(frame, Ok(Frame::Coap(&[0x40, 0x02, 0x00, 0x01])));
//! }
//! ```

use core::fmt;

/// Ends a frame, and begins one so that noise before it is not taken for a part of it (RFC 1055).
const END: u8 = 0xC0;
/// Announces a byte that would otherwise be END or ESC (RFC 1055).
const ESC: u8 = 0xDB;
/// ESC ESC_END stands for END (RFC 1055).
const ESC_END: u8 = 0xDC;
/// ESC ESC_ESC stands for ESC (RFC 1055).
const ESC_ESC: u8 = 0xDD;

/// The first byte of a diagnostic frame: a line feed.
const DIAGNOSTIC: u8 = 0x0A;
/// The first byte of a frame with a CoAP message.
const COAP: u8 = 0xA9;
/// The bytes of the frame check sequence behind a CoAP message.
const FCS_BYTES: usize = 2;
/// What the sequence comes to over a frame that holds its own (RFC 1662, C.2).
const FCS_GOOD: u16 = 0xF0B8;

/// A frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Text for people, UTF-8 by intention; not checked.
    Diagnostic(&'a [u8]),
    /// A CoAP message, whose check sequence was right.
    Coap(&'a [u8]),
    /// An IPv4 or IPv6 packet, its first byte included.
    Ip(&'a [u8]),
}

/// Why a frame cannot be used. The line goes on with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The frame is longer than the decoder's buffer.
    TooLong,
    /// ESC was followed by something else than ESC_END or ESC_ESC: noise, or a sender that gave the frame up.
    Escape,
    /// The check sequence of a CoAP frame is wrong or missing.
    Checksum,
    /// The first byte belongs to none of the known types.
    UnknownType(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a frame is longer than the buffer for it"),
            Self::Escape => f.write_str("a frame has a broken escape sequence"),
            Self::Checksum => f.write_str("a CoAP frame has a wrong check sequence"),
            Self::UnknownType(first) => write!(f, "a frame begins with {first:#04x}, which is no known type"),
        }
    }
}

impl core::error::Error for FrameError {}

/// FCS-16 over `bytes`, going on from `fcs` (RFC 1662, C.2). Bit by bit: a serial line is slower than this.
fn fcs16(fcs: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(fcs, |fcs, byte| {
        (0..8)
            .fold(fcs ^ u16::from(*byte), |fcs, _| if fcs & 1 == 1 { (fcs >> 1) ^ 0x8408 } else { fcs >> 1 })
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Within,
    Escaped,
    /// The frame is lost: nothing of it matters but its end.
    Lost(FrameError),
}

/// Finds frames in a stream of bytes, whatever the pieces in which it comes. `B` is its buffer, which bounds a frame:
/// one byte of type, the content, and two bytes of check sequence behind a CoAP message.
#[derive(Debug)]
pub struct Decoder<B> {
    buffer: B,
    length: usize,
    state: State,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Decoder<B> {
    /// Makes a decoder that has seen nothing yet.
    pub const fn new(buffer: B) -> Self {
        Self { buffer, length: 0, state: State::Within }
    }

    /// Takes bytes off the front of `input` until a frame has ended, well or not; call again until `None`, which
    /// means that all of `input` has been taken. Empty frames are passed over (RFC 1055).
    pub fn feed<'a>(&'a mut self, input: &mut &[u8]) -> Option<Result<Frame<'a>, FrameError>> {
        let length = loop {
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            match (self.state, byte) {
                (state, END) => {
                    self.state = State::Within;
                    let length = core::mem::take(&mut self.length);
                    match state {
                        State::Within if length == 0 => {}
                        State::Within => break length,
                        State::Escaped => return Some(Err(FrameError::Escape)),
                        State::Lost(error) => return Some(Err(error)),
                    }
                }
                (State::Within, ESC) => self.state = State::Escaped,
                (State::Within, byte) => self.push(byte),
                (State::Escaped, ESC_END) => self.push(END),
                (State::Escaped, ESC_ESC) => self.push(ESC),
                (State::Escaped, _) => self.state = State::Lost(FrameError::Escape),
                (State::Lost(_), _) => {}
            }
        };
        Some(classify(self.buffer.as_ref().get(..length).unwrap_or_default()))
    }

    fn push(&mut self, byte: u8) {
        match self.buffer.as_mut().get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
                self.state = State::Within;
            }
            None => self.state = State::Lost(FrameError::TooLong),
        }
    }
}

fn classify(frame: &[u8]) -> Result<Frame<'_>, FrameError> {
    match frame.split_first() {
        Some((&DIAGNOSTIC, text)) => Ok(Frame::Diagnostic(text)),
        Some((&COAP, rest)) => match rest.split_last_chunk::<FCS_BYTES>() {
            Some((message, _)) if fcs16(0xFFFF, frame) == FCS_GOOD => Ok(Frame::Coap(message)),
            _ => Err(FrameError::Checksum),
        },
        Some((first, _)) if is_ip(*first) => Ok(Frame::Ip(frame)),
        Some((first, _)) => Err(FrameError::UnknownType(*first)),
        // Not reached: an empty frame is passed over before.
        None => Ok(Frame::Diagnostic(frame)),
    }
}

/// The version, and for IPv4 a header of at least five words.
const fn is_ip(first: u8) -> bool {
    matches!(first, 0x45..=0x4F | 0x60..=0x6F)
}

/// Why a frame could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer is too small; [`encoded_bytes_max`] always suffices.
    Full,
    /// The packet is empty or does not begin as an IPv4 or IPv6 packet does.
    NotIp,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the buffer is too small for the frame",
            Self::NotIp => "the packet is neither IPv4 nor IPv6",
        })
    }
}

impl core::error::Error for EncodeError {}

/// A buffer of so many bytes is enough for a frame with `content` bytes, even if each must be escaped.
#[must_use]
pub const fn encoded_bytes_max(content: usize) -> usize {
    content.saturating_add(1 + FCS_BYTES).saturating_mul(2).saturating_add(2)
}

/// Writes a frame with END before and behind it.
///
/// # Errors
/// [`EncodeError`] when the buffer is too small, or an IP packet is none.
pub fn encode<'b>(frame: Frame<'_>, buffer: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
    let mut line = Line { buffer, length: 0 };
    line.raw(END)?;
    match frame {
        Frame::Diagnostic(text) => {
            line.raw(DIAGNOSTIC)?;
            line.escaped(text)?;
        }
        Frame::Coap(message) => {
            line.raw(COAP)?;
            line.escaped(message)?;
            let fcs = !fcs16(fcs16(0xFFFF, &[COAP]), message);
            line.escaped(&fcs.to_le_bytes())?;
        }
        Frame::Ip(packet) => {
            if !packet.first().is_some_and(|first| is_ip(*first)) {
                return Err(EncodeError::NotIp);
            }
            line.escaped(packet)?;
        }
    }
    line.raw(END)?;
    let Line { buffer, length } = line;
    buffer.get(..length).ok_or(EncodeError::Full)
}

struct Line<'b> {
    buffer: &'b mut [u8],
    length: usize,
}

impl Line<'_> {
    fn raw(&mut self, byte: u8) -> Result<(), EncodeError> {
        *self.buffer.get_mut(self.length).ok_or(EncodeError::Full)? = byte;
        self.length += 1;
        Ok(())
    }

    fn escaped(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        for byte in bytes {
            match *byte {
                END => {
                    self.raw(ESC)?;
                    self.raw(ESC_END)?;
                }
                ESC => {
                    self.raw(ESC)?;
                    self.raw(ESC_ESC)?;
                }
                plain => self.raw(plain)?,
            }
        }
        Ok(())
    }
}
