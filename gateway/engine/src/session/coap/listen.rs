//! Devices that listen for a command for a while with what they send (Hono's `hono-ttd`): the answer to their request waits
//! until one comes, or until that time is over. Knows which exchanges wait; sends nothing.

use super::exchange::Key;
use crate::id::DeviceId;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
struct Listener {
    device: DeviceId,
    /// Who it is was proved.
    proved: bool,
    until: Instant,
    /// Its message is safe: only the time or a command is waited for.
    safe: bool,
}

/// Everybody who listens.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: BTreeMap<Key, Listener>,
    /// In the order in which they came.
    by_device: BTreeMap<DeviceId, VecDeque<Key>>,
    due: BTreeSet<(Instant, Key)>,
}

impl Listeners {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, key: Key, device: DeviceId, proved: bool, until: Instant) {
        self.by_device.entry(device.clone()).or_default().push_back(key);
        self.due.insert((until, key));
        self.all.insert(key, Listener { device, proved, until, safe: false });
    }

    /// The message behind an exchange is safe. True when its answer waits for a command.
    pub(super) fn safe(&mut self, key: Key) -> bool {
        let listener = self.all.get_mut(&key);
        listener.map(|listener| listener.safe = true).is_some()
    }

    /// The device's newest listener, and whether it was proved that it is one: a device that asks anew has given up what it
    /// asked before.
    pub(super) fn newest(&self, device: &DeviceId) -> Option<(Key, bool)> {
        let key = *self.by_device.get(device)?.back()?;
        Some((key, self.all.get(&key)?.proved))
    }

    /// Takes a listener out; says whether its message is safe.
    pub(super) fn remove(&mut self, key: Key) -> Option<bool> {
        let listener = self.all.remove(&key)?;
        self.due.remove(&(listener.until, key));
        if let Some(keys) = self.by_device.get_mut(&listener.device) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_device.remove(&listener.device);
            }
        }
        Some(listener.safe)
    }

    /// The next one whose time is over.
    pub(super) fn due(&self, now: Instant) -> Option<Key> {
        self.due.first().filter(|(due, _)| *due <= now).map(|(_, key)| *key)
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }
}
