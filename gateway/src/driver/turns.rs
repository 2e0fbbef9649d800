//! Whose turn it is to be read: sockets that say little go before those that say much, as flows do in FQ-CoDel (RFC 8290 section
//! 4.2), so that no device waits behind a flood. It knows no socket and decides nothing else.

use std::collections::VecDeque;
use tidegate_engine::id::ConnId;

/// More than this at a time, in bytes, is much: a dozen packets of telemetry.
const MUCH_BYTES: usize = 2 << 10;

/// So many turns of those that say little, and one of the others has its own: a crowd of small ones starves nobody either.
const TURNS: u32 = 16;

/// The sockets to be read.
#[derive(Debug, Default)]
pub(super) struct Turns {
    sparse: VecDeque<ConnId>,
    greedy: VecDeque<ConnId>,
    /// Turns that the greedy have let pass.
    passed: u32,
}

impl Turns {
    /// Whether a socket that said so much at its last turn waits with the greedy the next time.
    pub(super) fn is_much(bytes: usize) -> bool {
        bytes > MUCH_BYTES
    }

    /// Notes that a socket is to be read.
    pub(super) fn list(&mut self, conn: ConnId, greedy: bool) {
        if greedy { self.greedy.push_back(conn) } else { self.sparse.push_back(conn) }
    }

    /// Takes the next.
    pub(super) fn next(&mut self) -> Option<ConnId> {
        let greedy_due = self.passed >= TURNS && !self.greedy.is_empty();
        if greedy_due || self.sparse.is_empty() {
            self.passed = 0;
            return self.greedy.pop_front();
        }
        self.passed += 1;
        self.sparse.pop_front()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.sparse.len() + self.greedy.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{TURNS, Turns};
    use tidegate_engine::id::ConnId;

    #[test]
    fn whoever_says_little_goes_first_and_nobody_starves() {
        let mut turns = Turns::default();
        for greedy in 1..=3 {
            turns.list(ConnId(greedy), true);
        }
        turns.list(ConnId(10), false);
        assert_eq!(turns.next(), Some(ConnId(10)), "it came last and says little");
        let mut served = Vec::new();
        for _ in 0..2 * TURNS {
            turns.list(ConnId(10), false);
            served.extend(turns.next());
        }
        assert!(served.contains(&ConnId(1)), "a crowd of small ones starves nobody");
        let left = std::iter::from_fn(|| turns.next()).last();
        assert_eq!((left, turns.len()), (Some(ConnId(3)), 0), "the greedy in their order");
    }
}
