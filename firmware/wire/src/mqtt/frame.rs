//! Where a packet ends, from its first two to five bytes.
//! Looks at nothing behind the remaining length, so that a size limit can be enforced before the body arrives.

use super::error::Error;
use super::kind::Kind;

/// The longest fixed header in bytes: the first byte and four of remaining length.
pub const MAX_HEADER_BYTES: usize = 5;

/// The largest remaining length that the encoding can express, in bytes (MQTT 5.0, 2.1.4).
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// A packet's fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: type and flags.
    pub first: u8,
    /// The packet's type.
    pub kind: Kind,
    /// Bytes of the fixed header, 2 to 5.
    pub header_bytes: usize,
    /// Bytes behind the fixed header.
    pub remaining_bytes: usize,
}

impl Frame {
    /// Bytes of the whole packet. This is what Maximum Packet Size counts (MQTT 5.0, 3.1.2.11.4).
    #[inline]
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        self.header_bytes + self.remaining_bytes
    }
}

/// Reads the fixed header at the front of `bytes`, which may hold less or more than one packet.
/// `Ok(None)` means that more bytes are needed to know.
///
/// # Errors
/// What no legal packet of any version begins with: a wrong type, wrong flags, a wrong remaining length.
#[inline]
pub fn frame(bytes: &[u8]) -> Result<Option<Frame>, Error> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let kind = Kind::from_first_byte(first).ok_or(Error::PacketType)?;
    check_flags(kind, first, true)?;
    // Nearly every packet of a device has a remaining length of one byte.
    if let Some(&byte) = rest.first()
        && byte < 0x80
    {
        return Ok(Some(Frame { first, kind, header_bytes: 2, remaining_bytes: usize::from(byte) }));
    }
    match variable_integer(rest)? {
        Some((value, size)) => {
            Ok(Some(Frame { first, kind, header_bytes: 1 + size, remaining_bytes: value as usize }))
        }
        None => Ok(None),
    }
}

/// The flags of the first byte. `lenient` stands for MQTT 3.1, whose PUBREL, SUBSCRIBE and UNSUBSCRIBE have a DUP flag.
#[inline]
pub(super) fn check_flags(kind: Kind, first: u8, lenient: bool) -> Result<(), Error> {
    let fixed = kind.first_byte();
    match kind {
        Kind::Publish => match (first & 0x06, first & 0x08) {
            (0x06, _) => Err(Error::Qos),
            (0x00, 0x08) => Err(Error::Flags),
            _ => Ok(()),
        },
        _ if first == fixed => Ok(()),
        Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe if lenient && first == fixed | 0x08 => Ok(()),
        _ => Err(Error::Flags),
    }
}

/// A variable byte integer at the front of `bytes` and how many bytes it took; `None` when more are needed
/// (MQTT 5.0, 1.5.5).
#[inline]
pub(super) fn variable_integer(bytes: &[u8]) -> Result<Option<(u32, usize)>, Error> {
    let mut value = 0_u32;
    let mut size = 0;
    for &byte in bytes.iter().take(4) {
        value |= u32::from(byte & 0x7F) << (7 * size);
        size += 1;
        if byte < 0x80 {
            // A last byte of zero adds nothing: the encoding is not the shortest [MQTT-1.5.5-1].
            let minimal = byte != 0 || size == 1;
            return if minimal { Ok(Some((value, size))) } else { Err(Error::VariableInteger) };
        }
    }
    if size == 4 { Err(Error::VariableInteger) } else { Ok(None) }
}
