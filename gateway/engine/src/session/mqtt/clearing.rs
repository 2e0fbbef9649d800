//! Sessions that have ended and may still stand in the store, and the connections whose CONNECT waits until the one of their
//! client is gone from it. Knows no sessions and sends nothing.

use crate::id::{ConnId, DeviceId};
use std::collections::{BTreeMap, BTreeSet};

/// The removals under way, and who waits for them. A fleet that comes back at once waits for as many as it has devices: nobody is
/// looked at when somebody else's is done.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// Removals ordered so far.
    ordered: u64,
    /// The last removal for each client.
    clients: BTreeMap<DeviceId, Removal>,
    /// The same by their numbers.
    numbers: BTreeMap<u64, DeviceId>,
    /// The client of each connection that waits, or has waited and has not been looked at since.
    waiting: BTreeMap<ConnId, DeviceId>,
}

#[derive(Debug, Default)]
struct Removal {
    number: u64,
    waiting: BTreeSet<ConnId>,
}

impl Clearing {
    /// What is recorded of a client's session is being removed; gives the number of the removal.
    pub(super) fn begin(&mut self, client: DeviceId) -> u64 {
        self.ordered += 1;
        let removal = self.clients.entry(client.clone()).or_default();
        self.numbers.remove(&removal.number);
        removal.number = self.ordered;
        self.numbers.insert(self.ordered, client);
        self.ordered
    }

    /// Whether a client's last session may still stand in the store; then the connection waits until it does not.
    pub(super) fn delays(&mut self, id: ConnId, client: &DeviceId) -> bool {
        let Some(removal) = self.clients.get_mut(client) else { return false };
        removal.waiting.insert(id);
        self.waiting.insert(id, client.clone());
        true
    }

    /// A connection waits no more; says whether it did, or had.
    pub(super) fn forget(&mut self, id: ConnId) -> bool {
        let Some(client) = self.waiting.remove(&id) else { return false };
        if let Some(removal) = self.clients.get_mut(&client) {
            removal.waiting.remove(&id);
        }
        true
    }

    /// The removals up to this number are durable; gives the connections that may go on.
    pub(super) fn done(&mut self, number: u64) -> Vec<ConnId> {
        let mut free = Vec::new();
        while let Some(first) = self.numbers.first_entry().filter(|first| *first.key() <= number) {
            if let Some(removal) = self.clients.remove(&first.remove()) {
                free.extend(removal.waiting);
            }
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::Clearing;
    use crate::id::{ConnId, DeviceId};

    fn client(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    #[test]
    fn a_connection_waits_for_the_last_removal_of_its_own_client() {
        let mut clearing = Clearing::default();
        assert!(!clearing.delays(ConnId(1), &client("a")));
        let first = clearing.begin(client("a"));
        let other = clearing.begin(client("b"));
        assert!(clearing.delays(ConnId(1), &client("a")) && clearing.delays(ConnId(2), &client("b")));
        let last = clearing.begin(client("a"));
        assert!(clearing.delays(ConnId(3), &client("a")));
        assert_eq!(clearing.done(first), []);
        assert_eq!(clearing.done(other), [ConnId(2)]);
        assert!(clearing.forget(ConnId(1)) && !clearing.forget(ConnId(1)), "it has gone");
        assert_eq!(clearing.done(last), [ConnId(3)]);
        assert!(clearing.forget(ConnId(3)), "it has waited");
        assert!(!clearing.delays(ConnId(3), &client("a")));
    }
}
