//! The sender's sequence numbers: each is used once in the life of a key, restarts and power cuts included (RFC 8613, 7.2.1
//! and B.1.1). Numbers are reserved ahead; storing the reservation is the caller's.

use core::fmt;

/// A message's number as it stands in the option: below 2^40 (RFC 8613, 5 and 7.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartialIv(u64);

impl PartialIv {
    /// The highest.
    pub const MAX: Self = Self((1 << 40) - 1);

    /// A number; `None` above [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads 1 to 5 bytes; `None` for another length, or a zero in front, which nobody may send (RFC 8613, 5).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] | [0, _, ..] => None,
            bytes if bytes.len() > 5 => None,
            bytes => Some(Self(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))),
        }
    }

    /// All five bytes.
    pub(crate) fn to_be_bytes(self) -> [u8; 5] {
        let [_, _, _, bytes @ ..] = self.0.to_be_bytes();
        bytes
    }

    /// In as few bytes as it takes, zero in one; and how many they are.
    pub(crate) fn encoded(self) -> ([u8; 5], usize) {
        let bytes = self.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(4);
        let mut out = [0; 5];
        for (place, byte) in out.iter_mut().zip(bytes.iter().skip(zeros)) {
            *place = *byte;
        }
        (out, 5 - zeros)
    }
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceError {
    /// The reservation is used up: store the next one first.
    NotReserved,
    /// The key's numbers are used up: it needs a new secret.
    Exhausted,
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReserved => "the next sequence numbers are not reserved yet",
            Self::Exhausted => "all sequence numbers of this key are used up: it needs a new secret",
        })
    }
}

impl core::error::Error for SequenceError {}

/// The numbers of one sender: those below `next` may have been used, those below `reserved` may be.
///
/// A device that keeps them in flash:
/// ```
/// use tidegate_oscore::Sequence;
///
/// let stored = 300; // from flash; 0 for a new secret
/// let mut sequence = Sequence::resume(stored);
/// // Before it sends, and again whenever this is Some: store the number, wait until it is safe, then say so.
/// if let Some(upto) = sequence.to_reserve(100) {
///     assert_eq!(upto, 400);
///     sequence.stored(upto);
/// }
/// assert_eq!(sequence.to_reserve(100), None);
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Sequence {
    next: u64,
    reserved: u64,
}

impl Sequence {
    /// Goes on where an earlier life reserved to: whether it used all of it is unknown, so all of it counts as used.
    #[must_use]
    pub const fn resume(stored: u64) -> Self {
        Self { next: stored, reserved: stored }
    }

    /// Numbers from `next` up to, but without, `reserved`, which is stored already.
    #[must_use]
    pub const fn reserved(next: u64, reserved: u64) -> Self {
        Self { next, reserved }
    }

    /// The number to be stored next, in steps of `step`: when less than half of a step is left. The numbers below it may
    /// be used as soon as it is safe, which [`stored`](Self::stored) says; asking is not doing.
    #[must_use]
    pub fn to_reserve(&self, step: u64) -> Option<u64> {
        let left = self.reserved.saturating_sub(self.next);
        let upto = self.next.saturating_add(step.max(1)).min(PartialIv::MAX.0 + 1);
        (left <= step / 2 && upto > self.reserved).then_some(upto)
    }

    /// This number is stored and synced: what is below it may be used, and no later life will.
    pub fn stored(&mut self, upto: u64) {
        self.reserved = self.reserved.max(upto);
    }

    /// How many numbers can be taken now.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.reserved.min(PartialIv::MAX.0 + 1).saturating_sub(self.next)
    }

    /// Takes the next number.
    ///
    /// # Errors
    /// [`SequenceError`]: none is reserved, or none is left at all.
    pub fn take(&mut self) -> Result<PartialIv, SequenceError> {
        let number = PartialIv::new(self.next).ok_or(SequenceError::Exhausted)?;
        if self.next >= self.reserved {
            return Err(SequenceError::NotReserved);
        }
        self.next += 1;
        Ok(number)
    }
}
