//! The judge of tombstones: a tombstone keeps its id and its words through every repetition, the second time it arrives it is marked,
//! and all of them together tell of what is lost, no more and no less.

use super::oracle::{Held, Violation};
use super::payload::Key;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_engine::event::{LossReason, Publication, RecordKey, RecordKind};
use tidegate_engine::id::MessageId;
use tidegate_engine::ledger;

/// What tombstones have told.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Rows that the medium has damaged.
    pub(crate) damaged: u64,
    /// Messages that have left the disk unconfirmed.
    pub(crate) discarded: u64,
    /// Messages that were acknowledged and are nowhere, as their route drops what comes.
    dropped: BTreeSet<Key>,
    /// What the ledger's records say of messages dropped as they came, those included that have been told of.
    dropped_durable: BTreeMap<RecordKey, u64>,
    /// By id what each says, and whether it has arrived.
    said: BTreeMap<MessageId, (Bytes, bool)>,
}

impl Losses {
    /// The engine hands one over.
    pub(crate) fn published(&mut self, publication: &Publication, epoch: u64) -> Held {
        let message = &publication.message;
        let id = message.id;
        let known = self.said.entry(id).or_insert_with(|| (message.payload.clone(), false));
        if known.0 != message.payload {
            return Err(Violation(format!(
                "P4: the tombstone {id:?} said {:?} and says {:?}",
                known.0, message.payload
            )));
        }
        if id.epoch > epoch {
            return Err(Violation(format!("P4: the tombstone {id:?} in epoch {epoch}")));
        }
        Ok(())
    }

    /// The consumer gets one.
    pub(crate) fn taken(&mut self, publication: &Publication) -> Held {
        let id = publication.message.id;
        let Some((_, arrived)) = self.said.get_mut(&id) else {
            return Err(Violation(format!("the tombstone {id:?} came from nowhere")));
        };
        if std::mem::replace(arrived, true) && !publication.resend {
            return Err(Violation(format!("P4: the tombstone {id:?} arrives again without the resend mark")));
        }
        Ok(())
    }

    /// How many have arrived.
    pub(crate) fn told(&self) -> u64 {
        self.said.values().filter(|(_, arrived)| *arrived).count() as u64
    }

    /// How many messages they tell of, with this reason.
    fn messages(&self, reason: &str) -> u64 {
        let with_reason = format!("\"reason\":\"{reason}\"");
        let count = |text: &str| {
            let (_, rest) = text.split_once("\"count\":")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let texts = self
            .said
            .values()
            .filter_map(|(said, arrived)| std::str::from_utf8(said).ok().filter(|_| *arrived));
        texts.filter(|text| text.contains(&with_reason)).filter_map(count).sum()
    }

    /// A record is durable.
    pub(crate) fn durable(&mut self, key: &RecordKey, value: &[u8]) {
        if key.kind == RecordKind::Loss
            && let Some((_, loss)) = ledger::read(key, value)
            && loss.reason == LossReason::DroppedNewest
        {
            self.dropped_durable.insert(key.clone(), loss.count);
        }
    }

    /// A record is gone: it was told of, or it was merged into another.
    pub(crate) fn removed(&mut self, key: &RecordKey) {
        if !self
            .said
            .keys()
            .any(|id| key.key[..] == [id.epoch.to_be_bytes(), id.seq.0.to_be_bytes()].concat())
        {
            self.dropped_durable.remove(key);
        }
    }

    /// The gateway starts with these records.
    pub(crate) fn found(&mut self, records: &[(RecordKey, Bytes)]) {
        let found: BTreeSet<&RecordKey> = records.iter().map(|(key, _)| key).collect();
        let gone: Vec<_> = self.dropped_durable.keys().filter(|key| !found.contains(key)).cloned().collect();
        gone.iter().for_each(|key| self.removed(key));
        records.iter().for_each(|(key, value)| self.durable(key, value));
    }

    /// A message is acknowledged that is nowhere: the ledger must have it.
    pub(crate) fn dropped(&mut self, key: Key) -> Held {
        self.dropped.insert(key);
        let durable: u64 = self.dropped_durable.values().sum();
        if durable < self.dropped.len() as u64 {
            let dropped = self.dropped.len();
            return Err(Violation(format!(
                "P1: {key} is acknowledged and nowhere, {dropped} messages are, and the ledger has {durable}"
            )));
        }
        Ok(())
    }

    /// Whether a message was discarded as it came.
    pub(crate) fn was_dropped(&self, key: Key) -> bool {
        self.dropped.contains(&key)
    }

    /// The end, when everything is quiet.
    pub(crate) fn finish(&self) -> Held {
        let told = self.messages("damaged");
        // What was damaged may have left before anybody read it; a crash before the ledger's commit takes the report with it.
        if told > self.damaged {
            return Err(Violation(format!(
                "P2: tombstones tell of {told} damaged rows, and {} were",
                self.damaged
            )));
        }
        let told: u64 =
            ["dropped-oldest", "thinned", "expired"].map(|reason| self.messages(reason)).iter().sum();
        if told != self.discarded {
            let discarded = self.discarded;
            return Err(Violation(format!(
                "P2: {discarded} messages were discarded, and tombstones tell of {told}"
            )));
        }
        let told = self.messages("dropped-newest");
        if told < self.dropped.len() as u64 {
            let dropped = self.dropped.len();
            return Err(Violation(format!(
                "P2: {dropped} messages were dropped as they came, and tombstones tell of {told}"
            )));
        }
        Ok(())
    }
}
