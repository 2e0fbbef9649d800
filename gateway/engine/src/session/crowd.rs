//! Connections that have not said who they are, and which of them goes when there are too many. Closes none itself.

use super::guessing::place;
use crate::id::ConnId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// They, by where they come from.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    all: BTreeMap<ConnId, IpAddr>,
    /// In the order of their coming.
    of: BTreeMap<IpAddr, BTreeSet<ConnId>>,
    /// Each address with how many it has, and the oldest of them.
    crowds: BTreeSet<(usize, Reverse<ConnId>, IpAddr)>,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn contains(&self, conn: ConnId) -> bool {
        self.all.contains_key(&conn)
    }

    pub(super) fn insert(&mut self, conn: ConnId, address: IpAddr) {
        let place = place(address);
        self.all.insert(conn, place);
        self.change(place, |own| own.insert(conn));
    }

    /// True when it was there.
    pub(super) fn remove(&mut self, conn: ConnId) -> bool {
        let Some(place) = self.all.remove(&conn) else { return false };
        self.change(place, |own| own.remove(&conn))
    }

    /// Who goes first: the oldest of the address that has the most. A crowd from few addresses throws out its own, and not who comes
    /// from another and is slow.
    pub(super) fn first(&self) -> Option<ConnId> {
        self.crowds.last().map(|(_, Reverse(oldest), _)| *oldest)
    }

    fn change(&mut self, place: IpAddr, change: impl FnOnce(&mut BTreeSet<ConnId>) -> bool) -> bool {
        let own = self.of.entry(place).or_default();
        if let Some(oldest) = own.first() {
            self.crowds.remove(&(own.len(), Reverse(*oldest), place));
        }
        let changed = change(own);
        match own.first() {
            Some(oldest) => drop(self.crowds.insert((own.len(), Reverse(*oldest), place))),
            None => drop(self.of.remove(&place)),
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::Crowd;
    use crate::id::ConnId;
    use std::net::IpAddr;

    #[test]
    fn the_oldest_of_the_largest_crowd_goes_first() {
        let at = |text: &str| -> IpAddr { text.parse().unwrap() };
        let mut crowd = Crowd::default();
        assert_eq!(crowd.first(), None);
        crowd.insert(ConnId(1), at("192.0.2.1"));
        crowd.insert(ConnId(2), at("192.0.2.2"));
        assert_eq!(crowd.first(), Some(ConnId(1)), "of equal ones the oldest");
        // Addresses of one network count as one.
        crowd.insert(ConnId(3), at("2001:db8::1"));
        crowd.insert(ConnId(4), at("2001:db8::ffff:2"));
        assert_eq!((crowd.first(), crowd.len()), (Some(ConnId(3)), 4));
        assert!(crowd.remove(ConnId(3)) && !crowd.remove(ConnId(3)));
        assert_eq!(crowd.first(), Some(ConnId(1)));
        assert!(crowd.remove(ConnId(1)) && crowd.remove(ConnId(2)) && crowd.remove(ConnId(4)));
        assert_eq!((crowd.first(), crowd.of.len(), crowd.crowds.len()), (None, 0, 0));
    }
}
