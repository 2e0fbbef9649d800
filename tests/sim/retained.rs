//! What the judge knows of retained messages: which came in for each topic and in what order, and which one the medium
//! has. The record of a topic may be any of those that came in when the last acknowledged one did, or later.

use super::oracle::{Held, Violation};
use super::payload::{self, Key};
use bytes::Bytes;
use std::collections::BTreeMap;
use tidegate_engine::encoding;
use tidegate_engine::event::{RecordKey, RecordKind};
use tidegate_engine::topic::Topic;

/// A topic.
#[derive(Debug, Default)]
struct History {
    /// Messages that came in so far, repetitions included.
    receptions: u64,
    /// For each message its first and its last reception.
    messages: BTreeMap<Key, (u64, u64)>,
    /// The latest first reception of one that was acknowledged.
    acknowledged: u64,
    /// What the medium has, as far as the engine was told.
    durable: Option<Key>,
}

impl History {
    /// Whether the medium has what came in with that reception, or later.
    fn holds(&self, reception: u64) -> bool {
        let last = self.durable.and_then(|key| self.messages.get(&key)).map_or(0, |(_, last)| *last);
        last >= reception
    }
}

/// All topics.
#[derive(Debug, Default)]
pub(super) struct Retained(BTreeMap<String, History>);

/// The topic and the message of a record; `None` when it is another record.
pub(crate) fn read(key: &RecordKey, value: &[u8]) -> Option<(String, Key)> {
    if key.kind != RecordKind::Retained {
        return None;
    }
    let message = encoding::take_message(&mut &*value).ok()?;
    Some((message.topic.as_str().to_owned(), payload::read(&message.payload)?))
}

/// Retained messages among these records.
pub(super) fn count(records: &[(RecordKey, Bytes)]) -> u64 {
    records.iter().filter(|(key, _)| key.kind == RecordKind::Retained).count() as u64
}

impl Retained {
    /// The engine gets one.
    pub(super) fn received(&mut self, key: Key, topic: &str) {
        let history = self.0.entry(topic.to_owned()).or_default();
        history.receptions += 1;
        let now = history.receptions;
        history.messages.entry(key).or_insert((now, now)).1 = now;
    }

    /// An acknowledgement of a message, retained or not, leaves the engine.
    pub(super) fn acknowledged(&mut self, key: Key, topic: &Topic, how: &str) -> Held {
        let Some(history) = self.0.get_mut(topic.as_str()) else { return Ok(()) };
        let Some((first, _)) = history.messages.get(&key).copied() else { return Ok(()) };
        history.acknowledged = history.acknowledged.max(first);
        if history.holds(first) {
            return Ok(());
        }
        let durable = history.durable;
        Err(Violation(format!(
            "P1: {how} for {key}, whose retained copy is not safe; {topic} has {durable:?}"
        )))
    }

    /// The reception that a message to be retained had first; `None` for another.
    pub(super) fn reception(&self, key: Key, topic: &str) -> Option<u64> {
        Some(self.0.get(topic)?.messages.get(&key)?.0)
    }

    /// For each topic its messages, each with its last reception.
    pub(super) fn receptions(&self) -> BTreeMap<String, BTreeMap<Key, u64>> {
        let last =
            |history: &History| history.messages.iter().map(|(key, (_, last))| (*key, *last)).collect();
        self.0.iter().map(|(topic, history)| (topic.clone(), last(history))).collect()
    }

    /// The engine gives this out as a topic's value.
    pub(super) fn given(&self, topic: &str, key: Option<Key>) -> Held {
        let Some(history) = self.0.get(topic) else { return Ok(()) };
        let last = key.and_then(|key| history.messages.get(&key)).map_or(0, |(_, last)| *last);
        if last >= history.acknowledged {
            return Ok(());
        }
        Err(Violation(format!("P2: {topic} reads as {key:?}, and a later retained message was acknowledged")))
    }

    /// A record is on the medium, as the engine is told.
    pub(super) fn durable(&mut self, key: &RecordKey, value: &[u8]) {
        if let Some((topic, message)) = read(key, value) {
            self.0.entry(topic).or_default().durable = Some(message);
        }
    }

    /// The gateway starts with these records.
    pub(super) fn found(&mut self, records: &[(RecordKey, Bytes)]) -> Held {
        for history in self.0.values_mut() {
            history.durable = None;
        }
        records.iter().for_each(|(key, value)| self.durable(key, value));
        let lost = |history: &&History| history.acknowledged > 0 && !history.holds(history.acknowledged);
        match self.0.iter().find(|(_, history)| lost(history)) {
            None => Ok(()),
            Some((topic, history)) => Err(Violation(format!(
                "P2: the retained message of {topic} was acknowledged and is lost; found {:?}",
                history.durable
            ))),
        }
    }
}
