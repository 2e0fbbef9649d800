//! Frames from a client, taken apart where they lie: what is left is the byte stream that they carried. Holds no payload but
//! that of the one control frame that is coming in. Does no I/O.

use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest frame of MQTT's that is taken, in bytes: the largest packet there can be (MQTT 5.0, 2.1.4). It is never held in
/// memory.
const FRAME_BYTES: u64 = 268_435_455 + 5;

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub(super) const CONTROL_BYTES: u64 = 125;

/// The longest header of a frame from a client, in bytes (RFC 6455, 5.2).
const HEADER_BYTES: usize = 14;

/// Why a connection is closed (RFC 6455, 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Close {
    /// All is said.
    Normal = 1_000,
    /// The client broke the protocol.
    Protocol = 1_002,
    /// The client sent text, and MQTT and CoAP are binary [MQTT-6.0.0-1] (RFC 8323, 4.2).
    Unsupported = 1_003,
    /// The client announced a frame that no packet or message fills.
    TooBig = 1_009,
}

/// What a client's frames ask us to answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// The payload of the last ping: only that needs an answer (RFC 6455, 5.5.3).
    pub(super) pong: Option<Box<[u8]>>,
    /// The end: nothing that comes is heard any more.
    pub(super) close: Option<Close>,
}

/// Takes frames apart.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The longest frame, in bytes.
    longest: u64,
    /// Where messages ended in what was decoded last; `None` when nobody asks.
    ends: Option<Vec<usize>>,
    /// A header that has come in part.
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Payload of the present frame that is still to come.
    left: u64,
    mask: [u8; 4],
    kind: Kind,
    /// The present message has frames to come.
    unfinished: bool,
    /// The payload of a ping that has come in part.
    ping: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Data,
    Ping,
    Pong,
    Close,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            longest: FRAME_BYTES,
            ends: None,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            left: 0,
            mask: [0; 4],
            kind: Kind::default(),
            unfinished: false,
            ping: Vec::new(),
        }
    }
}

impl Decoder {
    /// One that says where messages end, which have at most so many bytes.
    pub(super) fn of_messages(longest: usize) -> Self {
        Self { longest: longest as u64, ends: Some(Vec::new()), ..Self::default() }
    }

    /// Where messages ended in what was decoded last.
    pub(super) fn take_ends(&mut self) -> Vec<usize> {
        self.ends.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes apart what came: the payload is moved to the front of `bytes`, and its length is the result.
    pub(super) fn decode(&mut self, bytes: &mut [u8], answers: &mut Answers) -> usize {
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() && answers.close.is_none() {
            if self.left == 0 {
                match self.begin(&bytes[at..]) {
                    Ok(used) => at += used,
                    Err(close) => {
                        answers.close = Some(close);
                        break;
                    }
                }
                if self.header_bytes > 0 {
                    break; // The rest of the header is still to come.
                }
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            let payload = &mut bytes[at..at + here];
            unmask(payload, &mut self.mask);
            match self.kind {
                Kind::Data => {
                    bytes.copy_within(at..at + here, kept);
                    kept += here;
                }
                Kind::Ping => self.ping.extend_from_slice(payload),
                // Its code and reason change nothing for us.
                Kind::Pong | Kind::Close => {}
            }
            at += here;
            self.left -= here as u64;
            if self.left == 0 {
                match self.kind {
                    Kind::Ping => answers.pong = Some(std::mem::take(&mut self.ping).into_boxed_slice()),
                    Kind::Close => answers.close = Some(Close::Normal),
                    Kind::Data if !self.unfinished => {
                        if let Some(ends) = &mut self.ends {
                            ends.push(kept);
                        }
                    }
                    Kind::Data | Kind::Pong => {}
                }
            }
        }
        kept
    }

    /// Takes a header from the front; gives how many of the bytes belonged to it.
    fn begin(&mut self, bytes: &[u8]) -> Result<usize, Close> {
        // The parser wants a header in one piece; it comes in two at times.
        let room = HEADER_BYTES - self.header_bytes;
        let taken = bytes.len().min(room);
        self.header[self.header_bytes..self.header_bytes + taken].copy_from_slice(&bytes[..taken]);
        let mut cursor = Cursor::new(&self.header[..self.header_bytes + taken]);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Close::Protocol)? else {
            self.header_bytes += taken;
            return Ok(taken);
        };
        let used = usize::try_from(cursor.position()).unwrap_or(0).saturating_sub(self.header_bytes);
        self.header_bytes = 0;
        let mask = header.mask.ok_or(Close::Protocol)?; // RFC 6455, 5.1
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Close::Protocol); // No extension was agreed on.
        }
        self.kind = match header.opcode {
            OpCode::Data(Data::Text) => return Err(Close::Unsupported),
            OpCode::Data(data) => {
                if (data == Data::Continue) != self.unfinished {
                    return Err(Close::Protocol);
                }
                if length > self.longest {
                    return Err(Close::TooBig);
                }
                self.unfinished = !header.is_final;
                Kind::Data
            }
            OpCode::Control(_) if length > CONTROL_BYTES || !header.is_final => return Err(Close::Protocol),
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Control(_) => Kind::Close,
        };
        self.mask = mask;
        self.left = length;
        Ok(used)
    }
}

/// Takes the mask off, and turns it so that it fits what comes next.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    for chunk in payload.chunks_mut(mask.len()) {
        chunk.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
    }
    let turn = payload.len() % mask.len();
    mask.rotate_left(turn);
}

#[cfg(test)]
mod tests {
    use super::{Answers, Close, Decoder};

    /// A frame from a client.
    fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length @ 126..65_536 => bytes.extend([&[0xfe][..], &(length as u16).to_be_bytes()].concat()),
            length => bytes.extend([&[0xff][..], &(length as u64).to_be_bytes()].concat()),
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Everything that the frames carry, when they come in pieces of this size.
    fn decoded(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>, Option<Close>) {
        let (mut decoder, mut data, mut pongs) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            let (mut piece, mut answers) = (piece.to_vec(), Answers::default());
            let kept = decoder.decode(&mut piece, &mut answers);
            data.extend_from_slice(&piece[..kept]);
            pongs.extend(answers.pong.map(Vec::from));
            if answers.close.is_some() {
                return (data, pongs, answers.close);
            }
        }
        (data, pongs, None)
    }

    #[test]
    fn the_stream_is_the_same_in_whatever_pieces_it_comes() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let bytes = [
            frame(0x02, [1, 2, 3, 4], b"ab"),
            frame(0x89, [9, 8, 7, 6], b"ping"),
            frame(0x00, [5, 6, 7, 8], b""),
            frame(0x8a, [1, 1, 1, 1], b"unasked"),
            frame(0x80, [0xff, 0, 0xff, 0], b"cde"),
            frame(0x82, [7; 4], &long[..300]),
            frame(0x82, [1, 2, 3, 4], &long),
            frame(0x88, [1, 2, 3, 4], &[3, 0xe8]),
            frame(0x82, [1, 2, 3, 4], b"after the end"),
        ]
        .concat();
        let expected = [b"abcde", &long[..300], &long].concat();
        for piece in [1, 2, 3, 5, 7, 13, 14, 15, 1_000, bytes.len()] {
            let (data, pongs, close) = decoded(&bytes, piece);
            assert!(data == expected, "{piece}");
            assert_eq!((pongs, close), (vec![b"ping".to_vec()], Some(Close::Normal)), "{piece}");
        }
    }

    #[test]
    fn only_the_last_of_several_pings_needs_an_answer() {
        let bytes = [frame(0x89, [0; 4], b"one"), frame(0x89, [0; 4], b"two")].concat();
        assert_eq!(decoded(&bytes, bytes.len()).1, [b"two"]);
    }

    #[test]
    fn a_breach_ends_the_stream_behind_what_came_before_it() {
        let text = [frame(0x82, [1; 4], b"good"), frame(0x81, [1; 4], b"bad")].concat();
        assert_eq!(decoded(&text, text.len()), (b"good".to_vec(), vec![], Some(Close::Unsupported)));
        let huge = [0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 5, 0, 0, 0, 0];
        assert_eq!(decoded(&huge, 14).2, Some(Close::TooBig));
    }

    #[test]
    fn no_bytes_make_it_stumble() {
        let mut seed = 0x1234_5678_9abc_def0_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..48)
                .map(|_| {
                    // xorshift: chance enough, and the same in each run.
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let byte = (seed >> 32) as u8;
                    // Half of them what stands at the beginning of frames.
                    if seed & 1 == 0 { byte } else { [0x82, 0x02, 0x80, 0x89, 0x88][usize::from(byte) % 5] }
                })
                .collect();
            let whole = decoded(&bytes, bytes.len());
            let single = decoded(&bytes, 1);
            assert_eq!((whole.0, whole.2), (single.0, single.2), "{bytes:02x?}");
        }
    }
}
