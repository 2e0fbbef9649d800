//! Whether a peer is where it says: the Echo option (RFC 9175, 2). Nothing is remembered of a peer before it has answered
//! with what was sent to its address; then that, for a while, within a bound.

use super::peer::Address;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How long a value that was sent may come back.
const FRESH: Duration = Duration::from_secs(60);
/// How long a peer that has proved its place is believed.
const BELIEVED: Duration = Duration::from_secs(600);

/// Proofs of place.
#[derive(Debug)]
pub(super) struct Echo {
    /// Nobody but the gateway can make a value.
    secret: u64,
    most: usize,
    proved: BTreeMap<Address, Instant>,
    oldest: BTreeSet<(Instant, Address)>,
}

impl Echo {
    pub(super) fn new(seed: u64, most: usize) -> Self {
        Self { secret: seed, most, proved: BTreeMap::new(), oldest: BTreeSet::new() }
    }

    /// Changes the bound; what is too much is forgotten as others prove their place.
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
    }

    fn value_at(&self, address: Address, seconds: u32) -> [u8; 12] {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        address.hash(&mut hasher);
        hasher.write_u32(seconds);
        hasher.write_u64(self.secret.rotate_left(32));
        let mut value = [0; 12];
        let (time, proof) = value.split_at_mut(4);
        time.copy_from_slice(&seconds.to_be_bytes());
        proof.copy_from_slice(&hasher.finish().to_be_bytes());
        value
    }

    fn seconds(now: Instant) -> u32 {
        u32::try_from(now.0 / 1_000_000).unwrap_or(u32::MAX)
    }

    /// A value to send to this address.
    pub(super) fn value(&self, now: Instant, address: Address) -> [u8; 12] {
        self.value_at(address, Self::seconds(now))
    }

    /// Takes a value that came from there: true when it was sent there lately.
    pub(super) fn prove(&mut self, now: Instant, address: Address, value: &[u8]) -> bool {
        let Some((time, _)) = value.split_first_chunk::<4>() else { return false };
        let seconds = u32::from_be_bytes(*time);
        let age = Self::seconds(now).checked_sub(seconds);
        if value != self.value_at(address, seconds) || age.is_none_or(|age| u64::from(age) > FRESH.as_secs())
        {
            return false;
        }
        self.forget(address);
        while self.proved.len() >= self.most
            && let Some((_, oldest)) = self.oldest.first().copied()
        {
            self.forget(oldest);
        }
        let until = now.after(BELIEVED);
        self.proved.insert(address, until);
        self.oldest.insert((until, address));
        true
    }

    /// Whether a peer has proved its place.
    pub(super) fn knows(&self, now: Instant, address: Address) -> bool {
        self.proved.get(&address).is_some_and(|until| now < *until)
    }

    fn forget(&mut self, address: Address) {
        if let Some(until) = self.proved.remove(&address) {
            self.oldest.remove(&(until, address));
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, address)) = self.oldest.first().copied().filter(|first| first.0 <= now) {
            self.forget(address);
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.oldest.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::Echo;
    use crate::event::Endpoint;
    use crate::session::coap::peer::Address;
    use crate::time::{Duration, Instant};

    fn address(text: &str) -> Address {
        Address::Datagram(Endpoint { socket: 0, peer: text.parse().unwrap(), association: 0 })
    }

    #[test]
    fn a_value_proves_its_own_address_while_it_is_fresh() {
        let mut echo = Echo::new(7, 2);
        let (a, b) = (address("192.0.2.1:1"), address("192.0.2.1:2"));
        let start = Instant(5_000_000);
        let value = echo.value(start, a);
        assert!(!echo.prove(start, b, &value), "another port");
        assert!(!echo.prove(start, a, &value[..11]));
        assert!(!echo.prove(start.after(Duration::from_secs(61)), a, &value), "stale");
        assert!(!Echo::new(8, 2).prove(start, a, &value), "another gateway's");
        assert!(!echo.knows(start, a));
        assert!(echo.prove(start.after(Duration::from_secs(2)), a, &value));
        assert!(echo.knows(start.after(Duration::from_secs(600)), a));
        assert!(!echo.knows(start.after(Duration::from_secs(602)), a));
        echo.expire(start.after(Duration::from_secs(602)));
        assert_eq!(echo.timeout(), None);
    }

    #[test]
    fn no_more_peers_are_believed_than_the_bound_allows() {
        let mut echo = Echo::new(7, 2);
        for port in 1..=3 {
            let peer = address(&format!("192.0.2.1:{port}"));
            let now = Instant(port * 1_000_000);
            let value = echo.value(now, peer);
            assert!(echo.prove(now, peer, &value));
        }
        let now = Instant(3_000_000);
        assert!(!echo.knows(now, address("192.0.2.1:1")));
        assert!(echo.knows(now, address("192.0.2.1:2")) && echo.knows(now, address("192.0.2.1:3")));
    }
}
