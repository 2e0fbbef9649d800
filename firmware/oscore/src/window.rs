//! The replay window of a server's recipient context (RFC 8613, 7.4; RFC 6347, 4.1.2.6): which of the numbers up to the
//! highest have been seen. Checking and taking are one operation.

use crate::sequence::PartialIv;

/// How many numbers below the highest are told apart (RFC 8613, 3.2: the default).
const WINDOW: u64 = 32;

/// The numbers seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The next number above all that were seen.
    next: u64,
    /// Bit `i`: the number `next - 1 - i` was seen.
    seen: u32,
}

impl Window {
    /// Nothing was seen: for a context that has never been used.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, seen: 0 }
    }

    /// Everything up to a number counts as seen.
    #[must_use]
    pub fn above(number: PartialIv) -> Self {
        Self { next: number.get() + 1, seen: u32::MAX }
    }

    /// Whether a number is new.
    #[must_use]
    pub fn is_new(&self, number: PartialIv) -> bool {
        match self.next.checked_sub(number.get() + 1) {
            None => true,
            Some(age) if age < WINDOW => (self.seen >> age) & 1 == 0,
            Some(_) => false,
        }
    }

    /// Takes a number; false when it was seen before or is too old.
    pub fn take(&mut self, number: PartialIv) -> bool {
        if !self.is_new(number) {
            return false;
        }
        match (number.get() + 1).checked_sub(self.next) {
            Some(ahead) if ahead > 0 => {
                self.seen = if ahead < WINDOW { (self.seen << ahead) | 1 } else { 1 };
                self.next = number.get() + 1;
            }
            _ => self.seen |= 1 << (self.next - 1 - number.get()).min(WINDOW - 1),
        }
        true
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}
