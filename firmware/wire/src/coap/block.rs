//! The value of Block1 and Block2 (RFC 7959, 2.2): number, more, size. Reassembly is the session's business.

use super::option::uint;

/// One block of a larger body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Which block; 20 bits.
    pub number: u32,
    /// More blocks follow.
    pub more: bool,
    /// The size's exponent, 0 to 6: a block has `16 << exponent` bytes.
    pub exponent: u8,
}

impl Block {
    /// The highest block number.
    pub const MAX_NUMBER: u32 = (1 << 20) - 1;

    /// Reads an option's value. `None` when it is longer than three bytes or has the reserved size exponent 7,
    /// which must be answered with 4.00 (RFC 7959, 2.2).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() > 3 {
            return None;
        }
        let bits = uint(value)?;
        let exponent = bits.to_be_bytes()[3] & 0b111;
        (exponent != 7).then_some(Self { number: bits >> 4, more: bits & 0b1000 != 0, exponent })
    }

    /// The number that the option carries; write it with [`Writer::uint`](super::Writer::uint).
    /// A number or exponent beyond its bits is cut off.
    #[must_use]
    pub fn to_uint(self) -> u32 {
        ((self.number & Self::MAX_NUMBER) << 4)
            | (u32::from(self.more) << 3)
            | u32::from(self.exponent & 0b111)
    }

    /// The size of a whole block in bytes: 16 to 1024.
    #[must_use]
    pub fn bytes(self) -> usize {
        16 << self.exponent.min(6)
    }

    /// Where this block begins in the body, in bytes.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.number) << (4 + self.exponent.min(6))
    }
}
