//! The engine's own small source of numbers that differ between peers and runs: message ids, jitter.
//! Seeded by the shell, so that the same inputs give the same outputs. Not for keys.

use std::hash::{DefaultHasher, Hasher};

/// SplitMix64. Peers see at most 16 bits of each output, which does not give its state away by any cheap means.
#[derive(Clone, Debug)]
pub(super) struct Prng(u64);

impl Prng {
    /// From a seed that it does not give away, whatever is seen of its numbers.
    pub(super) fn apart(seed: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(b"message ids and jitter");
        hasher.write_u64(seed);
        Self(hasher.finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A message id.
    pub(super) fn message_id(&mut self) -> u16 {
        let [high, low, ..] = self.next().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// A number from 0 to `most`.
    pub(super) fn up_to(&mut self, most: u32) -> u32 {
        // The bias of the remainder is below 2^-32: no matter for jitter.
        u32::try_from(self.next() % (u64::from(most) + 1)).unwrap_or(most)
    }
}
