//! How long to wait between two attempts to make a link: decorrelated jitter, so that the gateways of a fleet do not
//! come back to a restarted broker in step. Knows nothing of what is attempted.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The shortest wait: a broker that restarts at once is found again soon, and a loop without any wait cannot arise.
const FIRST: Duration = Duration::from_millis(100);

/// The waits of one run of failures.
#[derive(Debug)]
pub(super) struct Backoff {
    longest: Duration,
    last: Duration,
}

impl Backoff {
    /// Waits of at most `longest`.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest: longest.max(FIRST), last: FIRST }
    }

    /// The next wait: at random between the shortest and three times the last one, never above the longest.
    pub(super) fn next(&mut self) -> Duration {
        let above = self.last.saturating_mul(3).min(self.longest).saturating_sub(FIRST);
        self.last = FIRST + above.mul_f64(random_share());
        self.last
    }

    /// The link held: the next failure begins with short waits again.
    pub(super) fn reset(&mut self) {
        self.last = FIRST;
    }
}

/// At random from 0 to 1. Jitter needs no more than what the standard library seeds its hash tables with.
fn random_share() -> f64 {
    f64::from((RandomState::new().build_hasher().finish() >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_at_random_and_stay_within_the_longest() {
        let longest = Duration::from_secs(30);
        let mut backoff = Backoff::new(longest);
        let waits: Vec<Duration> = (0..1_000).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|w| (FIRST..=longest).contains(w)));
        assert!(waits.iter().any(|w| *w > longest / 2), "never grew");
        assert!(waits[0] <= FIRST * 3);
        backoff.reset();
        assert!(backoff.next() <= FIRST * 3);
    }

    #[test]
    fn a_longest_wait_below_the_first_still_waits() {
        assert_eq!(Backoff::new(Duration::ZERO).next(), FIRST);
    }
}
