//! The ledger: what the world was told, between which operations of the medium, and what must therefore be found after a power
//! cut. It looks at what was found; how it was found is `recover`'s.

use crate::sim::payload::{self, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use tidegate_engine::encoding::put_message;
use tidegate_engine::event::RecordKey;
use tidegate_engine::id::{LaneId, MessageId};
use tidegate_engine::message::Message;

/// What the world was told at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// The engine has given a message an id.
    Named { id: MessageId, key: Key, qos: u8 },
    /// An acknowledgement has left the engine: the message is safe on the lanes of one of `needs`, under one of `ids`.
    Acknowledged { key: Key, needs: Vec<Vec<LaneId>>, ids: Vec<MessageId>, how: String },
    /// The consumer has it.
    Taken { lane: LaneId, id: MessageId },
    /// An acknowledgement promises that the topic's retained message is the one of this reception, or a later one.
    Retained { topic: String, reception: u64 },
    /// An acknowledgement promises a lasting subscriber its copy: a command is such a message.
    Owed { device: u16, key: Key },
    /// A subscriber's application has it.
    Got { device: u16, key: Key },
    /// A commit begins that leads to this state of the store.
    Committing(usize),
    /// The engine may rely on it.
    Committed(usize),
    /// A life begins with this state.
    Found(usize),
}

/// What a store holds, in one number: equal for equal contents, whatever the order in which they are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(u64);

fn hashed(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Digest {
    pub(crate) fn add_message(&mut self, lane: LaneId, message: &Message) {
        let mut bytes = bytes::BytesMut::new();
        put_message(&mut bytes, message);
        self.0 = self.0.wrapping_add(hashed((lane, &bytes[..])));
    }

    pub(crate) fn add_record(&mut self, key: &RecordKey, value: &[u8]) {
        self.0 = self.0.wrapping_add(hashed((key.kind as u8, &key.key[..], value)));
    }
}

/// A state of the store, as the model has it after a commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Messages and records.
    pub(crate) digest: Digest,
    /// The dead letters so far.
    pub(crate) dead: usize,
}

/// What a gateway finds after a cut.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) epoch: u64,
    pub(super) digest: Digest,
    /// The messages, by lane and id.
    pub(super) rows: BTreeSet<(LaneId, MessageId)>,
    /// Those whose payload is not what their device sent, in words.
    pub(super) wrong: Option<String>,
    /// What the engine handed over when its upstreams were there.
    pub(super) drained: BTreeSet<(LaneId, MessageId)>,
    /// Each topic's retained message.
    pub(super) retained: BTreeMap<String, Key>,
    /// What waits for which subscriber.
    pub(super) copies: BTreeSet<(u16, Key)>,
    /// The dead letters, where they were counted.
    pub(super) dead: Option<usize>,
}

/// What is known of a whole history, beside the ledger up to a moment.
#[derive(Debug, Default)]
pub(super) struct Hindsight {
    /// Every state that a commit leads to.
    pub(super) states: Vec<State>,
    /// The dead letters, in the order in which they were buried.
    pub(super) dead: Vec<(LaneId, MessageId)>,
    /// Messages whose device lost its state while they were under way.
    pub(super) excused: BTreeSet<Key>,
    /// Subscribers that lost theirs, or were told that messages are dropped for them.
    pub(super) forgetful: BTreeSet<u16>,
    /// For each topic its messages to be retained, each with its last reception.
    pub(super) receptions: BTreeMap<String, BTreeMap<Key, u64>>,
}

/// What does not hold, in words.
pub(super) type Broken = String;

/// The ledger up to a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    names: BTreeMap<MessageId, Key>,
    /// The ids of each message of QoS 2.
    exactly_once: BTreeMap<Key, BTreeSet<MessageId>>,
    epochs: BTreeSet<u64>,
    acknowledged: BTreeMap<Key, Acknowledged>,
    taken: BTreeSet<(LaneId, MessageId)>,
    /// The reception that a topic's retained message must have at the least.
    retained: BTreeMap<String, u64>,
    owed: BTreeSet<(u16, Key)>,
    got: BTreeSet<(u16, Key)>,
    /// The store is in one of these states.
    lowest: usize,
    highest: usize,
}

#[derive(Clone, Debug)]
struct Acknowledged {
    needs: Vec<Vec<LaneId>>,
    ids: Vec<MessageId>,
    how: String,
}

impl Ledger {
    pub(super) fn note(&mut self, mark: &Mark) {
        match mark {
            Mark::Named { id, key, qos } => {
                self.names.insert(*id, *key);
                self.epochs.insert(id.epoch);
                if *qos == 2 {
                    self.exactly_once.entry(*key).or_default().insert(*id);
                }
            }
            Mark::Acknowledged { key, needs, ids, how } => {
                // The first is enough: what holds for it holds for good.
                self.acknowledged.entry(*key).or_insert_with(|| Acknowledged {
                    needs: needs.clone(),
                    ids: ids.clone(),
                    how: how.clone(),
                });
            }
            Mark::Taken { lane, id } => {
                self.taken.insert((*lane, *id));
            }
            Mark::Retained { topic, reception } => {
                let least = self.retained.entry(topic.clone()).or_default();
                *least = (*least).max(*reception);
            }
            Mark::Owed { device, key } => {
                self.owed.insert((*device, *key));
            }
            Mark::Got { device, key } => {
                self.got.insert((*device, *key));
            }
            Mark::Committing(state) => self.highest = *state,
            Mark::Committed(state) | Mark::Found(state) => {
                self.lowest = *state;
                self.highest = *state;
            }
        }
    }

    /// Messages whose acknowledgement has left the engine.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Checks what a gateway found after a cut at this moment.
    pub(super) fn check(&self, found: &Found, known: &Hindsight) -> Result<(), Broken> {
        if let Some(wrong) = &found.wrong {
            return Err(format!("corrupt: {wrong}"));
        }
        if self.epochs.contains(&found.epoch) {
            return Err(format!("ids: epoch {} begins again", found.epoch));
        }
        // As after the last commit that the engine may rely on, or as after the one that was under way.
        let may_be = [self.lowest, self.highest];
        let state = may_be.iter().filter_map(|state| known.states.get(*state));
        let state = state.into_iter().find(|state| state.digest == found.digest);
        let buried = state.or(known.states.get(self.lowest)).map_or(0, |state| state.dead);
        let buried = &known.dead[..buried.min(known.dead.len())];
        self.check_messages(found, buried)?;
        self.check_once(found, buried, known)?;
        self.check_copies(found, known)?;
        if state.is_none() {
            return Err(format!(
                "lost: the store is neither as after commit {}, the last one that was reported, nor as after commit {}, \
                 the last one that had begun",
                self.lowest, self.highest
            ));
        }
        match found.dead {
            Some(dead) if dead < buried.len() => {
                Err(format!("lost: {dead} dead letters, {} were there", buried.len()))
            }
            _ => Ok(()),
        }
    }

    /// Every acknowledged message is in the store, with the consumer, or a dead letter; and what is in the store belongs there,
    /// and is handed over.
    fn check_messages(&self, found: &Found, buried: &[(LaneId, MessageId)]) -> Result<(), Broken> {
        for (key, acknowledged) in &self.acknowledged {
            let safe = |lane: &LaneId| {
                acknowledged.ids.iter().any(|id| {
                    let at = (*lane, *id);
                    found.rows.contains(&at) || self.taken.contains(&at) || buried.contains(&at)
                })
            };
            if !acknowledged.needs.iter().any(|lanes| lanes.iter().all(safe)) {
                return Err(format!("lost: {key} was acknowledged with {}", acknowledged.how));
            }
        }
        for at in &found.rows {
            if !self.names.contains_key(&at.1) {
                return Err(format!("corrupt: {:?} stands in {:?}, and nobody put it there", at.1, at.0));
            }
        }
        match found.rows.difference(&found.drained).next() {
            Some(at) => Err(format!("lost: {at:?} is stored, and the engine does not hand it over")),
            None => Ok(()),
        }
    }

    /// No message of QoS 2 is there under two ids.
    fn check_once(
        &self,
        found: &Found,
        buried: &[(LaneId, MessageId)],
        known: &Hindsight,
    ) -> Result<(), Broken> {
        for (key, ids) in &self.exactly_once {
            if ids.len() < 2 || known.excused.contains(key) {
                continue;
            }
            let there = |id: &&MessageId| {
                let mut places = found.rows.iter().chain(&self.taken).chain(buried);
                places.any(|(_, other)| other == *id)
            };
            if ids.iter().filter(there).count() > 1 {
                return Err(format!("twice: {key} of QoS 2 is there as {ids:?}"));
            }
        }
        Ok(())
    }

    /// What else an acknowledgement promised: the retained message and the subscribers' copies.
    fn check_copies(&self, found: &Found, known: &Hindsight) -> Result<(), Broken> {
        for (topic, least) in &self.retained {
            let last = found.retained.get(topic).and_then(|key| known.receptions.get(topic)?.get(key));
            if last.is_none_or(|last| last < least) {
                return Err(format!("lost: the retained message of {topic}"));
            }
        }
        let owed = self.owed.iter().filter(|(device, _)| !known.forgetful.contains(device));
        match owed.into_iter().find(|owed| !self.got.contains(owed) && !found.copies.contains(owed)) {
            Some((device, key)) => Err(format!("lost: the copy of {key} for the subscriber d{device}")),
            None => Ok(()),
        }
    }
}

/// Whether a message says what its device sent.
pub(super) fn is_whole(message: &Message) -> bool {
    let Some(key) = payload::read(&message.payload) else { return false };
    message.device.as_str() == format!("d{}", key.device)
}
