//! Rates over the last seconds, from counters that only grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tidegate_engine::stats::Stats;

/// How often the counters are sampled.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Samples kept: rates are taken over ten seconds, so that a figure can be read before it changes.
const SAMPLES: usize = 11;

/// The last samples.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<Sample>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    accepted: u64,
    confirmed: u64,
}

impl Rates {
    pub(super) fn add(&mut self, at: Instant, stats: &Stats) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(Sample {
            at,
            accepted: stats.accepted,
            confirmed: stats.upstreams.iter().map(|u| u.confirmed).sum(),
        });
    }

    /// Messages accepted, and messages confirmed by upstreams, each a second.
    pub(super) fn per_second(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return (0.0, 0.0);
        };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        // Counts stay far below 2^53, where f64 is exact.
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (rate(first.accepted, last.accepted), rate(first.confirmed, last.confirmed))
    }
}

#[cfg(test)]
mod tests {
    use super::{EVERY, Rates};
    use std::time::Instant;
    use tidegate_engine::stats::Stats;

    #[test]
    fn a_rate_covers_the_last_ten_seconds() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(), (0.0, 0.0));
        let start = Instant::now();
        for second in 0..100 {
            let accepted = if second < 50 { 0 } else { u64::from(second) * 7 };
            rates.add(start + EVERY * second, &Stats { accepted, ..Stats::default() });
        }
        assert_eq!(rates.per_second(), (7.0, 0.0));
    }
}
