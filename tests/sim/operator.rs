//! The operator: now and then has dead letters sent again, at any moment, of any age, until nothing goes wrong any more. By numbers
//! of its own, under a salt that leaves the kept seeds what they are.

use super::faults::draw_mean;
use super::plan::{MS, SECOND};
use super::world::{Event, World};
use fastrand::Rng;
use std::sync::Arc;
use tidegate_engine::event::Input;

/// With this none of the kept seeds has an operator.
const SALT: u64 = 27;

/// Who sends dead letters again.
#[derive(Debug)]
pub(crate) struct Operator {
    rng: Rng,
    /// Between two visits, on average; zero for never.
    mean: u64,
}

impl Operator {
    /// One seed in three has one.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ SALT);
        let mean = if rng.u8(..3) == 0 { rng.u64(100 * MS..3 * SECOND) } else { 0 };
        Self { rng, mean }
    }
}

impl World {
    pub(crate) fn schedule_operator(&mut self) {
        let mean = self.operator.mean;
        if let Some(after) = draw_mean(&mut self.operator.rng, mean) {
            self.clock.after(after, Event::Operator);
        }
    }

    /// Some of the dead letters are to be sent again.
    pub(crate) fn operate(&mut self) {
        if self.healed {
            return;
        }
        let rng = &mut self.operator.rng;
        let chosen = self.disk.dead().iter().filter(|_| rng.bool());
        let letters: Vec<_> =
            chosen.map(|letter| (letter.id, letter.lane, Arc::clone(&letter.message))).collect();
        if !letters.is_empty() {
            self.report(Input::Requeue { letters });
        }
        self.schedule_operator();
    }
}
