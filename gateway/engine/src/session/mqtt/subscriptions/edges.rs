//! From a level of the tree to the next: one hash table for all levels, so that a step costs the same however many
//! there are beside it. Keyed: who chooses the names cannot choose where they go. Knows nothing of what stands in the tree.

use std::hash::{DefaultHasher, Hasher};

/// Places at the least: a power of two.
const SMALLEST: usize = 16;

/// Half of what finds a level, and the node that it may be: eight of them share a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    hash: u32,
    /// 0 is nobody's child: the place is free.
    child: u32,
}

/// All steps. Found by a hash; whether the child is the right one, the caller knows.
#[derive(Debug)]
pub(super) struct Edges {
    places: Vec<Place>,
    used: usize,
    key: DefaultHasher,
}

impl Edges {
    /// A table whose order follows from a secret.
    pub(super) fn new(secret: u64) -> Self {
        let mut key = DefaultHasher::new();
        key.write_u64(secret);
        Self { places: vec![Place::default(); SMALLEST], used: 0, key }
    }

    pub(super) fn hash(&self, parent: u32, level: &str) -> u32 {
        let mut hasher = self.key.clone();
        hasher.write_u32(parent);
        hasher.write(level.as_bytes());
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// The child with this hash that is the right one.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            // A place is always free: the table is at most half full.
            let place = self.places.get(at)?;
            if place.child == 0 {
                return None;
            }
            if place.hash == hash && is_it(place.child) {
                return Some(place.child);
            }
            at = self.next(at);
        }
    }

    /// Adds a child, which is not there yet and is not 0.
    pub(super) fn insert(&mut self, hash: u32, child: u32) {
        if 2 * (self.used + 1) > self.places.len() {
            self.resize(2 * self.places.len());
        }
        self.place(Place { hash, child });
        self.used += 1;
    }

    /// Removes a child.
    pub(super) fn remove(&mut self, hash: u32, child: u32) {
        let mut free = self.home(hash);
        while self.places[free].child != child {
            if self.places[free].child == 0 {
                return;
            }
            free = self.next(free);
        }
        // What stands behind it moves up, unless it would move before its home.
        let mut at = self.next(free);
        while self.places[at].child != 0 {
            let mask = self.places.len() - 1;
            let from_home = at.wrapping_sub(self.home(self.places[at].hash)) & mask;
            if from_home >= (at.wrapping_sub(free) & mask) {
                self.places[free] = self.places[at];
                free = at;
            }
            at = self.next(at);
        }
        self.places[free] = Place::default();
        self.used -= 1;
        if self.places.len() > SMALLEST && 8 * self.used < self.places.len() {
            self.resize(self.places.len() / 2);
        }
    }

    fn resize(&mut self, places: usize) {
        let old = std::mem::replace(&mut self.places, vec![Place::default(); places]);
        for place in old.into_iter().filter(|place| place.child != 0) {
            self.place(place);
        }
    }

    fn place(&mut self, place: Place) {
        let mut at = self.home(place.hash);
        while self.places[at].child != 0 {
            at = self.next(at);
        }
        self.places[at] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::{Edges, SMALLEST};

    #[test]
    fn every_child_is_found_until_it_is_removed() {
        let mut edges = Edges::new(7);
        // Few different hashes, so that they stand in each other's way.
        let hash = |child: u32| child % 37;
        for child in 1..=1_000 {
            edges.insert(hash(child), child);
        }
        for child in (1..=1_000).step_by(3) {
            edges.remove(hash(child), child);
            edges.remove(hash(child), child);
        }
        for child in 1..=1_000 {
            let found = edges.find(hash(child), |it| it == child);
            assert_eq!(found, (child % 3 != 1).then_some(child));
        }
        for child in 1..=1_000 {
            edges.remove(hash(child), child);
        }
        assert_eq!((edges.used, edges.places.len()), (0, SMALLEST));
    }

    #[test]
    fn the_order_follows_from_the_secret() {
        let hashes = |secret| (0..8).map(|parent| Edges::new(secret).hash(parent, "a")).collect::<Vec<_>>();
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }
}
