//! The judge of what CoAP observers get (RFC 7641, 1.3: eventual consistency):
//!
//! - An observer's application never sees an older value after a newer one, as the gateway received them, as long as the gateway
//!   lives; after a restart it begins with what is retained.
//! - Of what was acknowledged after the gateway had put it on the list it gets the last, or a later value, in the end.
//! - The numbers of notifications under one token go on over restarts, or it would take them for old ones (3.4).
//! - Where values are retained, the answer that puts it on the list has the last acknowledged one, or a later one.

use super::oracle::{Held, Violation};
use super::payload::Key;
use std::collections::BTreeMap;

/// Numbers may be ahead of the clock by as many as were given in a millisecond: a new life may begin so much lower.
const BEHIND_MOST: u32 = 50;

/// The messages of a topic as the engine received them.
#[derive(Debug, Default)]
struct History {
    receptions: u64,
    /// First and last reception.
    messages: BTreeMap<Key, (u64, u64)>,
    newest: Option<Key>,
}

#[derive(Debug)]
struct Observer {
    topic: String,
    /// Each notification of its is confirmed; otherwise those of QoS 0 are not, and may get lost.
    confirmed: bool,
    /// It makes observations anew under its old token, and no clock is set back.
    goes_on: bool,
    /// Its token, and the last number under it with the life of the gateway that gave it.
    numbered: Option<(Vec<u8>, u64, u32)>,
    /// The life of the gateway that has it on its list, and the receptions until then.
    listed: Option<(u64, u64)>,
    /// The answer that did it: a repetition does not do it again.
    answer: Option<(u16, u16, u32)>,
    /// What its application saw last, and in which life.
    shown: Option<(u64, Key)>,
}

/// All of them, by device.
#[derive(Debug, Default)]
pub(crate) struct Observing {
    observers: BTreeMap<u16, Observer>,
    topics: BTreeMap<String, History>,
    /// Values that applications saw.
    pub(crate) count: u64,
    /// Observations made anew in another life of the gateway.
    pub(crate) anew: u64,
}

impl Observing {
    /// A device that will observe.
    pub(crate) fn add(&mut self, device: u16, topic: String, confirmed: bool, goes_on: bool) {
        self.topics.entry(topic.clone()).or_default();
        let (numbered, listed, answer, shown) = (None, None, None, None);
        let observer = Observer { topic, confirmed, goes_on, numbered, listed, answer, shown };
        self.observers.insert(device, observer);
    }

    /// A device has lost its memory.
    pub(crate) fn rebooted(&mut self, device: u16) {
        if let Some(observer) = self.observers.get_mut(&device) {
            (observer.listed, observer.answer, observer.shown) = (None, None, None);
        }
    }

    /// The engine receives a message.
    pub(crate) fn received(&mut self, key: Key, topic: &str) {
        let Some(history) = self.topics.get_mut(topic) else { return };
        history.receptions += 1;
        let now = history.receptions;
        history.messages.entry(key).or_insert((now, now)).1 = now;
        history.newest = Some(key);
    }

    /// A notification leaves the engine, or an answer that is as good.
    pub(crate) fn numbers(&mut self, device: u16, life: u64, token: &[u8], number: u32) -> Held {
        let Some(observer) = self.observers.get_mut(&device).filter(|observer| observer.goes_on) else {
            return Ok(());
        };
        let before = observer.numbered.replace((token.to_vec(), life, number));
        let Some((_, then, last)) = before.filter(|(under, then, _)| under == token && *then != life) else {
            return Ok(());
        };
        let behind = last.wrapping_sub(number) & 0xFF_FFFF;
        if (BEHIND_MOST..1 << 23).contains(&behind) {
            return Err(Violation(format!(
                "P3: d{device} would take number {number} for older than {last}, which life {then} gave"
            )));
        }
        Ok(())
    }

    /// The engine puts a device on the list, in this life of it. Gives the topic, unless it has said so before.
    pub(crate) fn listed(&mut self, device: u16, life: u64, answer: (u16, u16, u32)) -> Option<&str> {
        let observer = self.observers.get_mut(&device)?;
        if observer.answer == Some(answer) {
            return None;
        }
        observer.answer = Some(answer);
        let receptions = self.topics.get(&observer.topic)?.receptions;
        self.anew += u64::from(observer.listed.is_some_and(|(before, _)| before != life));
        observer.listed = Some((life, receptions));
        Some(&observer.topic)
    }

    /// An application sees a value; `answers` when it came with the answer that put the device on the list.
    pub(crate) fn shown(&mut self, device: u16, life: u64, key: Option<Key>, answers: bool) -> Held {
        let Some(observer) = self.observers.get_mut(&device) else { return Ok(()) };
        // Nothing is retained: what it saw before stands.
        let Some(key) = key else { return Ok(()) };
        self.count += 1;
        let before = observer.shown.filter(|(then, _)| !answers || *then == life).map(|(_, key)| key);
        // What comes without being asked for may have been under way since an earlier life.
        let life = observer.shown.filter(|_| !answers).map_or(life, |(then, _)| then);
        observer.shown = Some((life, key));
        let Some(history) = self.topics.get(&observer.topic) else { return Ok(()) };
        let Some((_, last)) = history.messages.get(&key) else {
            return Err(Violation(format!(
                "d{device} is told {key}, which never came in under {}",
                observer.topic
            )));
        };
        match before.and_then(|before| Some((before, history.messages.get(&before)?.0))) {
            Some((before, first)) if *last < first => {
                Err(Violation(format!("P3: the observer d{device} is told {key} after {before}")))
            }
            _ => Ok(()),
        }
    }

    /// What an observer has not got yet that it must get, in this life of the gateway. `safe` says whether a message was
    /// acknowledged with a quality that is.
    pub(crate) fn owed(&self, life: u64, safe: impl Fn(Key) -> bool) -> Option<String> {
        self.observers.iter().find_map(|(device, observer)| {
            let (_, since) = observer.listed.filter(|(listed, _)| *listed == life)?;
            let history = self.topics.get(&observer.topic)?;
            if !observer.confirmed && !history.newest.is_some_and(&safe) {
                return None;
            }
            let after = history.messages.iter().filter(|(_, (first, _))| *first > since);
            let (key, (first, _)) =
                after.filter(|(key, _)| safe(**key)).max_by_key(|(_, (first, _))| *first)?;
            let shown =
                observer.shown.and_then(|(_, key)| history.messages.get(&key)).map_or(0, |(_, last)| *last);
            (shown < *first).then(|| format!("d{device} has not been told {key}, which it observes"))
        })
    }
}
