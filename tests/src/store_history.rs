//! An endless history of commits that two processes can work out alike: one carries it out and is killed, the other one knows
//! what must stand there.

use crate::store_contract::message_with;
use std::collections::BTreeSet;
use tidegate_engine::event::Op;
use tidegate_engine::id::{LaneId, Seq};

/// The history up to some commit.
#[derive(Clone, Debug, Default)]
pub struct History {
    commits: u64,
    next: u64,
    /// What waits after the last commit given.
    pub waiting: BTreeSet<u64>,
}

impl History {
    /// The next commit: some messages more, some fewer, as in a gateway whose uplink comes and goes.
    pub fn commit(&mut self, lane: LaneId) -> Vec<Op> {
        self.commits += 1;
        let mut random = fastrand::Rng::with_seed(self.commits);
        let mut ops = Vec::new();
        for _ in 0..random.usize(1..50) {
            self.next += 1;
            let message = message_with(self.next, &"x".repeat(random.usize(0..600)));
            ops.push(Op::Insert { lane, message });
            self.waiting.insert(self.next);
        }
        let gone: Vec<u64> =
            self.waiting.iter().copied().take(random.usize(0..50)).filter(|_| random.u8(..) > 9).collect();
        for seq in gone {
            self.waiting.remove(&seq);
            ops.push(Op::Forget { lane, seq: Seq(seq) });
        }
        ops
    }
}
