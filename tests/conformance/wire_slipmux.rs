//! Slipmux frames against known bytes, random frames in random pieces, and noise on the line.
//! Owns no serial port.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use tidegate_tests::property::property;
use tidegate_wire::slipmux::{Decoder, EncodeError, Frame, FrameError, encode, encoded_bytes_max};

/// A frame that owns its content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Diagnostic(Vec<u8>),
    Coap(Vec<u8>),
    Ip(Vec<u8>),
}

impl Owned {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Diagnostic(text) => Frame::Diagnostic(text),
            Self::Coap(message) => Frame::Coap(message),
            Self::Ip(packet) => Frame::Ip(packet),
        }
    }

    fn line(&self) -> Vec<u8> {
        let (Self::Diagnostic(content) | Self::Coap(content) | Self::Ip(content)) = self;
        let mut buffer = vec![0; encoded_bytes_max(content.len())];
        encode(self.frame(), &mut buffer).unwrap().to_vec()
    }
}

impl From<Frame<'_>> for Owned {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Diagnostic(text) => Self::Diagnostic(text.to_vec()),
            Frame::Coap(message) => Self::Coap(message.to_vec()),
            Frame::Ip(packet) => Self::Ip(packet.to_vec()),
        }
    }
}

fn read(buffer_bytes: usize, pieces: &[&[u8]]) -> Vec<Result<Owned, FrameError>> {
    let mut decoder = Decoder::new(vec![0; buffer_bytes]);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(frame) = decoder.feed(&mut rest) {
            frames.push(frame.map(Owned::from));
        }
        assert!(rest.is_empty());
    }
    frames
}

fn golden(owned: Owned, line: &[u8]) {
    assert_eq!(owned.line(), line);
    assert_eq!(read(64, &[line]), [Ok(owned)]);
}

#[test]
fn the_three_kinds_of_frame_have_these_bytes() {
    golden(Owned::Diagnostic(b"Hello World!".to_vec()), b"\xc0\x0aHello World!\xc0");
    golden(Owned::Ip(b"\x45\x00\xc0\xdb".to_vec()), b"\xc0\x45\x00\xdb\xdc\xdb\xdd\xc0");
    golden(Owned::Ip(b"\x60".to_vec()), b"\xc0\x60\xc0");
    // FCS-16 over the type byte alone stands at 0x374C (as in RIOT's slipmux driver); it is sent complemented,
    // low byte first (RFC 1662, C.2).
    golden(Owned::Coap(vec![]), b"\xc0\xa9\xb3\xc8\xc0");
    // Computed by long division, apart from this code: a ping with message id 1.
    golden(Owned::Coap(b"\x40\x00\x00\x01".to_vec()), PING);
}

/// See above.
const PING: &[u8] = b"\xc0\xa9\x40\x00\x00\x01\xe9\x73\xc0";

#[test]
fn a_frame_with_any_bit_turned_is_not_taken_for_a_message() {
    let sent = Owned::Coap(b"\x44\x02\x00\x01\x01\x02\x03\x04\xb1t\x01a\xff21.5".to_vec());
    let line = sent.line();
    for bit in 0..line.len() * 8 {
        let mut line = line.clone();
        line[bit / 8] ^= 1 << (bit % 8);
        for frame in read(64, &[&line]) {
            assert!(!matches!(frame, Ok(Owned::Coap(_))), "bit {bit}: {frame:?}");
        }
    }
}

#[test]
fn a_broken_frame_costs_only_itself() {
    let good = Owned::Diagnostic(b"on".to_vec());
    for (noise, error) in [
        (&b"\xc0\x0aabc\xdb\x01def\xc0"[..], FrameError::Escape),
        (b"\xc0\x0aabc\xdb\xc0", FrameError::Escape),
        (b"\xc0\xa9\x40\x00\x00\x01\x00\x00\xc0", FrameError::Checksum),
        (b"\xc0\xa9\xc0", FrameError::Checksum),
        (b"\xc0\x00\xff\xc0", FrameError::UnknownType(0)),
        (b"\xc0\x44\xc0", FrameError::UnknownType(0x44)),
        (b"\xc0\x0a0123456789abcdef\xc0", FrameError::TooLong),
        (b"\xff\xc0", FrameError::UnknownType(0xFF)),
    ] {
        assert_eq!(read(16, &[noise, &good.line()]), [Err(error), Ok(good.clone())], "{noise:02x?}");
    }
    assert_eq!(read(16, &[b"\xc0\xc0\xc0"]), [], "empty frames");
}

#[test]
fn the_buffer_bounds_a_frame_exactly() {
    // One byte of type, the content, two of check sequence.
    let message = Owned::Coap(vec![0xC0; 10]);
    assert_eq!(read(13, &[&message.line()]), [Ok(message.clone())]);
    assert_eq!(read(12, &[&message.line()]), [Err(FrameError::TooLong)]);
    assert_eq!(read(0, &[&message.line()]), [Err(FrameError::TooLong)]);
}

#[test]
fn the_encoder_keeps_to_its_buffer_and_refuses_what_is_no_packet() {
    let line = Owned::Coap(vec![0xDB; 5]).line();
    for room in 0..line.len() {
        assert_eq!(encode(Frame::Coap(&[0xDB; 5]), &mut vec![0; room]), Err(EncodeError::Full));
    }
    assert_eq!(encode(Frame::Ip(b""), &mut [0; 8]), Err(EncodeError::NotIp));
    assert_eq!(encode(Frame::Ip(b"\xa9"), &mut [0; 8]), Err(EncodeError::NotIp));
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![any::<u8>(), 0xC0_u8..=0xC1, 0xDB_u8..=0xDD], 0..40)
}

fn frames() -> impl Strategy<Value = Owned> {
    prop_oneof![
        contents().prop_map(Owned::Diagnostic),
        contents().prop_map(Owned::Coap),
        (prop_oneof![0x45_u8..=0x4F, 0x60_u8..=0x6F], contents())
            .prop_map(|(first, rest)| Owned::Ip([vec![first], rest].concat())),
    ]
}

proptest! {
    #![proptest_config(property(2_000))]

    #[test]
    fn frames_arrive_as_sent_whatever_the_pieces(frames in vec(frames(), 0..6), piece in 1_usize..20) {
        let line: Vec<u8> = frames.iter().flat_map(Owned::line).collect();
        let pieces: Vec<&[u8]> = line.chunks(piece).collect();
        let wanted: Vec<_> = frames.into_iter().map(Ok).collect();
        assert_eq!(read(64, &pieces), wanted);
    }

    #[test]
    fn a_frame_arrives_whatever_was_on_the_line_before(noise in vec(any::<u8>(), 0..60), frame in frames()) {
        let frames = read(64, &[&noise, &frame.line()]);
        assert_eq!(frames.last(), Some(&Ok(frame)));
    }
}
