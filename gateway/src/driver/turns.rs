//! Whose turn it is to be read: sockets that say little go before those that say much or have ended, as flows do in FQ-CoDel
//! (RFC 8290 section 4.2), so that no device waits behind a flood. It knows no socket and decides nothing else.

use std::collections::VecDeque;
use tidegate_engine::id::ConnId;

/// More than this at a time, in bytes, is much: a dozen packets of telemetry.
const MUCH_BYTES: usize = 2 << 10;

/// So many turns of those that say little, and one of the others has its own: a crowd of small ones starves nobody either.
const TURNS: u32 = 16;

/// The sockets to be read.
#[derive(Debug, Default)]
pub(super) struct Turns {
    first: VecDeque<ConnId>,
    later: VecDeque<ConnId>,
    /// Turns that those of `later` have let pass.
    passed: u32,
}

impl Turns {
    /// Whether a socket that said so much at its last turn can wait the next time.
    pub(super) fn is_much(bytes: usize) -> bool {
        bytes > MUCH_BYTES
    }

    /// Notes that a socket is to be read; one that can wait lets others go first.
    pub(super) fn list(&mut self, conn: ConnId, can_wait: bool) {
        if can_wait { self.later.push_back(conn) } else { self.first.push_back(conn) }
    }

    /// Takes the next; with `sparing` none of those that can wait.
    pub(super) fn next(&mut self, sparing: bool) -> Option<ConnId> {
        if sparing {
            return self.first.pop_front();
        }
        let later_due = self.passed >= TURNS && !self.later.is_empty();
        if later_due || self.first.is_empty() {
            self.passed = 0;
            return self.later.pop_front();
        }
        self.passed += 1;
        self.first.pop_front()
    }

    /// How many wait; with `sparing` without those that can.
    pub(super) fn len(&self, sparing: bool) -> usize {
        self.first.len() + if sparing { 0 } else { self.later.len() }
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
        assert_eq!(turns.next(false), Some(ConnId(10)), "it came last and says little");
        let mut served = Vec::new();
        for _ in 0..2 * TURNS {
            turns.list(ConnId(10), false);
            served.extend(turns.next(false));
        }
        assert!(served.contains(&ConnId(1)), "a crowd of small ones starves nobody");
        turns.list(ConnId(10), false);
        let spared: Vec<_> = std::iter::from_fn(|| turns.next(true)).collect();
        assert!(spared.iter().all(|conn| *conn == ConnId(10)) && turns.len(false) > 0, "the greedy wait");
        let left = std::iter::from_fn(|| turns.next(false)).last();
        assert_eq!((left, turns.len(false)), (Some(ConnId(3)), 0), "the greedy in their order");
    }
}
