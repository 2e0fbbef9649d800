//! How often somebody does something in a minute. Bounded: nobody can make the gateway remember more than it was told to.
//! Knows neither connections nor packets, and decides nothing beyond yes or no.

use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// All rates are so many in this time: in one burst, or spread over it.
const WINDOW: Duration = Duration::from_secs(60);

/// How often each of many does it (the generic cell rate algorithm): one instant for each, at which all is forgotten.
#[derive(Debug)]
pub(super) struct Rates<K> {
    until: BTreeMap<K, Instant>,
    /// The same by time.
    order: BTreeSet<(Instant, K)>,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self { until: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Clone + Ord> Rates<K> {
    /// Counts once more, unless it would be more than `most` in a minute. Remembers `remembered` at the most; beyond it those
    /// that would be forgotten first.
    pub(super) fn take(&mut self, now: Instant, who: &K, most: u32, remembered: usize) -> bool {
        let before = self.until.get(who).copied();
        let next = before.unwrap_or(now).max(now).after(share(most));
        if next.since(now) > WINDOW {
            return false;
        }
        self.set(who, before, next);
        while let Some((until, oldest)) = self.order.first().cloned() {
            if until > now && self.order.len() <= remembered {
                break;
            }
            self.order.pop_first();
            self.until.remove(&oldest);
        }
        true
    }

    /// What was counted last did not happen.
    pub(super) fn give_back(&mut self, who: &K, most: u32) {
        if let Some(before) = self.until.get(who).copied() {
            let share = u64::try_from(share(most).as_micros()).unwrap_or(u64::MAX);
            self.set(who, Some(before), Instant(before.0.saturating_sub(share)));
        }
    }

    fn set(&mut self, who: &K, before: Option<Instant>, until: Instant) {
        if let Some(before) = before {
            self.order.remove(&(before, who.clone()));
        }
        self.until.insert(who.clone(), until);
        self.order.insert((until, who.clone()));
    }
}

/// The time that one of so many in a minute takes.
fn share(most: u32) -> Duration {
    WINDOW.checked_div(most).unwrap_or(WINDOW.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::{Rates, WINDOW};
    use crate::time::{Duration, Instant};

    #[test]
    fn a_burst_is_let_through_and_then_a_share_of_a_minute_at_a_time() {
        let mut rates = Rates::default();
        let mut now = Instant::default().after(Duration::from_secs(1_000));
        let burst = (0..100).filter(|_| rates.take(now, &"a", 12, 10)).count();
        assert_eq!(burst, 12);
        assert!(rates.take(now, &"b", 12, 10), "another one is not concerned");
        now = now.after(Duration::from_secs(5));
        assert!(rates.take(now, &"a", 12, 10) && !rates.take(now, &"a", 12, 10));
        let minutes = 600;
        let later = (0..minutes * 60)
            .filter(|second| rates.take(now.after(Duration::from_secs(*second)), &"a", 12, 10));
        assert!(later.count() <= 12 * 601);
        now = now.after(WINDOW * 601);
        assert_eq!((0..100).filter(|_| rates.take(now, &"a", 12, 10)).count(), 12);
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let mut rates = Rates::default();
        let now = Instant::default();
        for _ in 0..1_000 {
            assert!(rates.take(now, &"a", 3, 10));
            rates.give_back(&"a", 3);
        }
        assert_eq!((0..100).filter(|_| rates.take(now, &"a", 3, 10)).count(), 3);
        rates.give_back(&"nobody", 3);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_first_who_would_be_forgotten_first() {
        let mut rates = Rates::default();
        let now = Instant::default().after(WINDOW);
        while rates.take(now, &u32::MAX, 5, 10) {}
        for who in 0..1_000 {
            assert!(rates.take(now, &who, 5, 10));
            assert!(rates.until.len() <= 10 && rates.order.len() == rates.until.len());
        }
        assert!(!rates.take(now, &u32::MAX, 5, 10), "who is at the bound is remembered");
        assert!(rates.take(now.after(WINDOW), &0, 5, 10));
        assert_eq!(rates.until.len(), 1);
    }

    #[test]
    fn no_bound_is_no_bound_and_zero_is_nobody() {
        let mut rates = Rates::default();
        assert!((0..10_000).all(|_| rates.take(Instant::default(), &"a", u32::MAX, 1)));
        assert!(!rates.take(Instant::default(), &"b", 0, 1));
    }
}
