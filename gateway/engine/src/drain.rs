//! How fast the backlog of an upstream may leave: two allowances, of messages and of bytes, that time fills. Knows no messages and no
//! lanes.

use crate::event::Drain;
use crate::time::{Duration, Instant};
use std::num::NonZeroU32;

/// What is not used within so long is lost: what a link that was slow for a while may take at once.
const SAVED_FOR: Duration = Duration::from_secs(1);

/// The allowance of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    drain: Drain,
    /// Everything up to these moments is used up: of messages and of bytes.
    used: [Instant; 2],
}

impl Allowance {
    pub(crate) fn configure(&mut self, drain: Drain) {
        if drain != self.drain {
            *self = Self { drain, ..Self::default() };
        }
    }

    /// Whether a message of the backlog may go.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.used.iter().all(|used| *used <= now)
    }

    /// When it may, if that is not now.
    pub(crate) fn opens_at(&self, now: Instant) -> Option<Instant> {
        self.used.iter().copied().filter(|used| *used > now).max()
    }

    /// A message of the backlog has gone. The last of what is there lets a message go that is larger; the next ones wait for it.
    pub(crate) fn take(&mut self, now: Instant, bytes: usize) {
        let Drain { messages_per_second, bytes_per_second } = self.drain;
        let saved_since = Instant(now.0.saturating_sub(micros(SAVED_FOR)));
        for (used, (rate, amount)) in
            self.used.iter_mut().zip([(messages_per_second, 1), (bytes_per_second, bytes)])
        {
            *used = rate.map_or(Instant(0), |rate| (*used).max(saved_since).after(time_for(amount, rate)));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn time_for(amount: usize, rate: NonZeroU32) -> Duration {
    let amount = u64::try_from(amount).unwrap_or(u64::MAX);
    Duration::from_micros(amount.saturating_mul(1_000_000).div_ceil(u64::from(rate.get())))
}

#[cfg(test)]
mod tests {
    use super::Allowance;
    use crate::event::Drain;
    use crate::time::{Duration, Instant};
    use std::num::NonZeroU32;

    fn sent(drain: Drain, bytes: usize, time: Duration) -> u32 {
        let mut allowance = Allowance::default();
        allowance.configure(drain);
        let (mut now, mut sent) = (Instant(50_000_000), 0);
        let end = now.after(time);
        while now <= end {
            if allowance.is_open(now) {
                allowance.take(now, bytes);
                sent += 1;
            }
            now = match allowance.opens_at(now) {
                Some(at) => at,
                None if sent < 100_000 => now,
                None => return sent,
            };
        }
        sent
    }

    #[test]
    fn a_limit_lets_a_second_s_worth_go_at_once_and_then_so_much_a_second() {
        let of = |messages, bytes| Drain {
            messages_per_second: NonZeroU32::new(messages),
            bytes_per_second: NonZeroU32::new(bytes),
        };
        let ten = Duration::from_secs(10);
        assert!((108..=111).contains(&sent(of(10, 0), 300, ten)));
        assert!((108..=111).contains(&sent(of(0, 3_000), 300, ten)));
        assert!((108..=111).contains(&sent(of(10, 1_000_000), 300, ten)));
        assert_eq!(sent(of(0, 0), 300, ten), 100_000);
    }

    #[test]
    fn a_message_larger_than_a_second_s_worth_goes_and_the_next_wait_for_it() {
        let drain = Drain { bytes_per_second: NonZeroU32::new(100), ..Drain::default() };
        assert_eq!(sent(drain, 1_000, Duration::from_secs(35)), 4);
    }
}
