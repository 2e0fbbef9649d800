//! How often somebody has been wrong, and how long they must wait for it. Bounded: nobody can make the gateway remember more
//! than [`Limits::guessers`] addresses. Knows neither devices nor passwords.

use crate::limits::Limits;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Twice as often never waits longer: the wait has reached every bound long before.
const DOUBLINGS_MAX: u32 = 20;

/// Failures of one origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    count: u32,
    last: Instant,
    until: Instant,
}

impl Failures {
    /// Whether the next attempt comes too early.
    pub(super) fn waits(&self, now: Instant) -> bool {
        now < self.until
    }

    /// One more.
    pub(super) fn count(&mut self, now: Instant, longest: Duration, limits: &Limits) {
        if now.since(self.last) > longest.saturating_mul(2) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
        if let Some(doublings) = self.count.checked_sub(limits.guesses) {
            let wait = limits.guess_wait.saturating_mul(1 << doublings.min(DOUBLINGS_MAX));
            self.until = now.after(wait.min(longest));
        }
    }
}

/// What counts as one address: for IPv6 a /64, which is what one customer or one host gets and can fill at will.
pub(super) fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

/// Failures by address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    failures: BTreeMap<IpAddr, Failures>,
    /// The same by age.
    ages: BTreeSet<(Instant, IpAddr)>,
}

impl Addresses {
    pub(super) fn waits(&self, now: Instant, address: IpAddr) -> bool {
        self.failures.get(&address).is_some_and(|failures| failures.waits(now))
    }

    pub(super) fn failed(&mut self, now: Instant, address: IpAddr, limits: &Limits) {
        let failures = self.failures.entry(address).or_default();
        // Whoever waits is not made to wait longer for trying: behind one address there may be others who do not know of it.
        if failures.waits(now) {
            return;
        }
        self.ages.remove(&(failures.last, address));
        failures.count(now, limits.guess_wait_max, limits);
        self.ages.insert((failures.last, address));
        while self.failures.len() > limits.guessers {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.failures.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Failures, place};
    use crate::limits::Limits;
    use crate::time::{Duration, Instant};
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_is_forgotten() {
        let limits = Limits::default();
        let longest = Duration::from_secs(10);
        let mut failures = Failures::default();
        let mut now = Instant::default().after(Duration::from_secs(3_600));
        let mut waits = Vec::new();
        for _ in 0..12 {
            failures.count(now, longest, &limits);
            let mut wait = 0;
            while failures.waits(now) {
                now = now.after(Duration::from_secs(1));
                wait += 1;
            }
            waits.push(wait);
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 10, 10, 10, 10]);
        now = now.after(Duration::from_secs(21));
        failures.count(now, longest, &limits);
        assert!(!failures.waits(now));
    }

    #[test]
    fn the_table_of_addresses_is_bounded_and_forgets_the_oldest() {
        let limits = Limits { guessers: 10, guesses: 1, ..Limits::default() };
        let mut addresses = Addresses::default();
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        for n in 0..1_000 {
            let now = Instant::default().after(Duration::from_millis(n));
            addresses.failed(now, address(n as u32), &limits);
            assert!(addresses.failures.len() <= 10 && addresses.ages.len() == addresses.failures.len());
        }
        let now = Instant::default().after(Duration::from_secs(1));
        assert!(addresses.waits(now, address(999)));
        assert!(!addresses.waits(now, address(0)));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let two: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        assert_eq!(place(one), place(two));
        assert_eq!(place("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
