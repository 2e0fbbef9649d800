//! How often one address may begin what costs us work: so many at once, and one a second after that.

use crate::listen::admission::Place;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses remembered: beyond it a new one must wait until others are forgotten.
const PLACES: usize = 4_096;

/// Beginnings left for each address.
pub(super) struct Spared {
    most: u32,
    places: HashMap<Place, Left>,
}

struct Left {
    count: u32,
    since: Instant,
}

impl Spared {
    pub(super) fn new(most: u32) -> Self {
        Self { most, places: HashMap::new() }
    }

    /// Changes the bound; what is left above it is forgotten.
    pub(super) fn resize(&mut self, most: u32) {
        self.most = most;
    }

    /// Takes one. False when there is none.
    pub(super) fn take(&mut self, now: Instant, address: IpAddr) -> bool {
        let Some(place) = Place::of(address) else { return true };
        if self.places.len() >= PLACES && !self.places.contains_key(&place) {
            let most = self.most;
            self.places.retain(|_, left| {
                left.refill(now, most);
                left.count < most
            });
            if self.places.len() >= PLACES {
                return false;
            }
        }
        let left = self.places.entry(place).or_insert(Left { count: self.most, since: now });
        left.refill(now, self.most);
        let had = left.count > 0;
        left.count = left.count.saturating_sub(1);
        had
    }

    /// Gives one back: it came to something.
    pub(super) fn give_back(&mut self, address: IpAddr) {
        if let Some(left) = Place::of(address).and_then(|place| self.places.get_mut(&place)) {
            left.count = left.count.saturating_add(1).min(self.most);
        }
    }
}

impl Left {
    /// One for each whole second; what is left of it counts later.
    fn refill(&mut self, now: Instant, most: u32) {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        self.count = self.count.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(most);
        self.since += Duration::from_secs(seconds);
    }
}
