//! The judge of what local subscribers get whose sessions outlast connections and lives of the gateway:
//!
//! - **P1, P2** A message of QoS 1 or 2 that the engine received after it had granted the subscription, and whose
//!   acknowledgement it let out, reaches the subscriber in the end; unless the gateway said that it drops messages for it.
//! - A message that its publisher sent with QoS 2 reaches a subscriber of QoS 2 once.
//! - **P3** Messages of one publisher, topic and quality reach it for the first time in the order in which they were sent.
//!
//! A subscriber that loses its memory is judged no more.

use super::oracle::{Held, Violation};
use super::payload::Key;
use std::collections::{BTreeMap, BTreeSet};

macro_rules! broken {
    ($($text:tt)*) => { return Err(Violation(format!($($text)*))) };
}

/// A device that subscribes.
#[derive(Debug)]
struct Subscriber {
    qos: u8,
    /// The gateway has said that it has the subscription.
    granted: bool,
    /// Its state is lost, or the gateway has said that it drops messages for it.
    excused: bool,
    /// What it must get if it is acknowledged.
    owed: BTreeSet<Key>,
    /// How often it got what.
    got: BTreeMap<Key, u32>,
    /// By publisher, topic and quality the number of the last first arrival.
    order: BTreeMap<(u16, String, u8), u32>,
}

/// All of them, by device.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(BTreeMap<u16, Subscriber>);

impl Subscribers {
    /// A device that will subscribe to everything in a session that lasts.
    pub(crate) fn add(&mut self, device: u16, qos: u8) {
        let subscriber = Subscriber {
            qos,
            granted: false,
            excused: false,
            owed: BTreeSet::new(),
            got: BTreeMap::new(),
            order: BTreeMap::new(),
        };
        self.0.insert(device, subscriber);
    }

    /// The gateway tells a device that it has its subscription.
    pub(crate) fn granted(&mut self, device: u16) {
        if let Some(subscriber) = self.0.get_mut(&device) {
            subscriber.granted = true;
        }
    }

    /// Nothing is promised to this device any more.
    pub(crate) fn excuse(&mut self, device: u16) {
        if let Some(subscriber) = self.0.get_mut(&device) {
            subscriber.excused = true;
        }
    }

    /// The devices that are owed this message, and have not got it.
    pub(crate) fn owed(&self, key: Key) -> impl Iterator<Item = u16> {
        let owed = self.0.iter().filter(move |(_, s)| !s.excused && s.owed.contains(&key));
        owed.filter(move |(_, s)| !s.got.contains_key(&key)).map(|(device, _)| *device)
    }

    /// The devices to which nothing is promised any more.
    pub(crate) fn forgetful(&self) -> BTreeSet<u16> {
        self.0.iter().filter(|(_, subscriber)| subscriber.excused).map(|(device, _)| *device).collect()
    }

    /// The engine receives a message for the first time.
    pub(crate) fn received(&mut self, key: Key, qos: u8) {
        for subscriber in self.0.values_mut().filter(|s| s.granted && s.qos.min(qos) > 0) {
            subscriber.owed.insert(key);
        }
    }

    /// A device's application gets a message; `ordered` when its publisher's messages come in order.
    pub(crate) fn got(&mut self, device: u16, key: Key, topic: &str, qos: u8, ordered: bool) -> Held {
        let Some(subscriber) = self.0.get_mut(&device).filter(|subscriber| !subscriber.excused) else {
            return Ok(());
        };
        let times = subscriber.got.entry(key).or_default();
        *times += 1;
        // What was received before the subscription may be sent again, and be new to it, after what came later.
        if *times > 1 || !ordered || !subscriber.owed.contains(&key) {
            return Ok(());
        }
        let place = (key.device, topic.to_owned(), qos);
        if let Some(last) = subscriber.order.insert(place, key.number).filter(|last| *last > key.number) {
            broken!("P3: d{device} gets {key} for the first time after number {last} of {topic}");
        }
        Ok(())
    }

    /// The end, when everything is quiet: what became of a message; `once` when its publisher can promise that it comes once.
    pub(crate) fn finish(&self, key: Key, qos: u8, acked: bool, once: bool) -> Held {
        for (device, subscriber) in self.0.iter().filter(|(_, subscriber)| !subscriber.excused) {
            let times = subscriber.got.get(&key).copied().unwrap_or(0);
            if acked && times == 0 && subscriber.owed.contains(&key) {
                broken!("P2: {key} was acknowledged, and the subscriber d{device} never gets it");
            }
            if once && subscriber.qos.min(qos) == 2 && times > 1 {
                broken!("P4: {key} of QoS 2 comes {times} times to the subscriber d{device}");
            }
        }
        Ok(())
    }

    /// Messages that reached a subscriber under judgement.
    pub(crate) fn count(&self) -> u64 {
        self.0.values().map(|subscriber| subscriber.got.len() as u64).sum()
    }
}
