//! The retained messages (MQTT 5.0, 3.3.1.3): the last one of each topic, within bounds, as they stand in the store or
//! soon will. Says which change the store needs and what a filter finds; knows no sessions and sends nothing.

use super::Mqtt;
use crate::encoding;
use crate::event::{Op, RecordKey, RecordKind};
use crate::limits::Limits;
use crate::message::Message;
use crate::session::{LastValue, LastValues};
use crate::time::{Duration, Instant, Now};
use crate::topic::{Filter, Topic};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// A retained message.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Arc<Message>,
    /// When it was accepted, or when this life of the gateway found it in the store: its expiry counts from then.
    pub(super) since: Instant,
    /// How long it had waited by then, in earlier lives of the gateway, as far as is known.
    pub(super) waited: Duration,
}

impl Entry {
    /// When it expires, if ever.
    fn due(&self) -> Option<Instant> {
        let seconds = self.message.properties.as_ref()?.expiry_seconds?;
        Some(self.since.after(Duration::from_secs(seconds.into()).saturating_sub(self.waited)))
    }
}

/// What became of a message that its publisher wants retained.
#[derive(Debug)]
pub(super) enum Kept {
    /// It is retained, or has cleared its topic: the store is to follow.
    Changed(Op),
    /// There is no room for it. What its topic had is not true any more: the store is to forget it.
    Full(Option<Op>),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<Topic, Entry>,
    /// Those that expire, and when.
    expiring: BTreeSet<(Instant, Topic)>,
    bytes: usize,
}

/// The key of a topic's record.
fn key(topic: &Topic) -> RecordKey {
    RecordKey { kind: RecordKind::Retained, key: Bytes::copy_from_slice(topic.as_str().as_bytes()) }
}

impl Retained {
    /// Takes up a record of an earlier life; `false` when it has expired meanwhile. How long the gateway was off is known
    /// only if both clocks were right; otherwise the expiry counts from now (P5).
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(super) fn restore(&mut self, now: Now, key: &[u8], value: &[u8]) -> Result<bool, &'static str> {
        let mut rest = value;
        let message = encoding::take_message(&mut rest)?;
        if !rest.is_empty() {
            return Err("its record is too long");
        }
        if message.topic.as_str().as_bytes() != key {
            return Err("its message belongs to another topic");
        }
        let elapsed_ms = if now.wall.synchronised && message.received.synchronised {
            now.wall.unix_ms.saturating_sub(message.received.unix_ms)
        } else {
            0
        };
        let waited = Duration::from_secs(u64::try_from(elapsed_ms).unwrap_or(0) / 1_000);
        // The message stays as it came: a copy of it that waits for a client counts its time from its reception, too.
        let entry = Entry { message: Arc::new(message), since: now.instant, waited };
        if entry.due().is_some_and(|due| due <= now.instant) {
            return Ok(false);
        }
        self.insert(entry);
        Ok(true)
    }

    /// Retains a message, or clears its topic when it is empty [MQTT-3.3.1-5, MQTT-3.3.1-6].
    pub(super) fn keep(&mut self, now: Instant, message: &Arc<Message>, limits: &Limits) -> Kept {
        let before = self.remove(&message.topic);
        let entry = Entry { message: Arc::clone(message), since: now, waited: Duration::ZERO };
        if message.payload.is_empty() || entry.due().is_some_and(|due| due <= now) {
            // Even without one: an earlier removal may not be durable yet, and removing nothing writes nothing.
            return Kept::Changed(Op::Remove { key: key(&message.topic) });
        }
        let full = self.messages.len() >= limits.retained_messages
            || self.bytes.saturating_add(message.footprint()) > limits.retained_bytes;
        if full {
            return Kept::Full(before.map(|_| Op::Remove { key: key(&message.topic) }));
        }
        let mut value = BytesMut::new();
        encoding::put_message(&mut value, message);
        self.insert(entry);
        Kept::Changed(Op::Put { key: key(&message.topic), value: value.freeze() })
    }

    /// Clears the topics whose message is `unwanted`.
    pub(super) fn clear(&mut self, unwanted: impl Fn(&Message) -> bool) -> Vec<Op> {
        let found: Vec<Topic> = self
            .messages
            .iter()
            .filter(|(_, entry)| unwanted(&entry.message))
            .map(|(topic, _)| topic.clone())
            .collect();
        let clear = |topic: &Topic| {
            self.remove(topic);
            Op::Remove { key: key(topic) }
        };
        found.iter().map(clear).collect()
    }

    /// Puts one in the place of what its topic had.
    pub(super) fn put(&mut self, entry: Entry) {
        self.remove(&entry.message.topic);
        self.insert(entry);
    }

    /// A topic's.
    pub(super) fn get(&self, topic: &Topic) -> Option<&Entry> {
        self.messages.get(topic)
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.message.footprint();
        let topic = entry.message.topic.clone();
        if let Some(due) = entry.due() {
            self.expiring.insert((due, topic.clone()));
        }
        self.messages.insert(topic, entry);
    }

    fn remove(&mut self, topic: &Topic) -> Option<Entry> {
        let entry = self.messages.remove(topic)?;
        self.bytes -= entry.message.footprint();
        if let Some(due) = entry.due() {
            self.expiring.remove(&(due, topic.clone()));
        }
        Some(entry)
    }

    /// Takes out one that has expired; the store is to forget it.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Op> {
        let (due, topic) = self.expiring.first()?.clone();
        if due > now {
            return None;
        }
        self.remove(&topic);
        Some(Op::Remove { key: key(&topic) })
    }

    /// When [`Retained::expired`] gives something next.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.expiring.first().map(|(due, _)| *due)
    }

    /// The first one behind `after` that the filter names, in the order of topics. Looks at no more than the topics that
    /// begin as the filter does before its first wildcard.
    pub(super) fn next(&self, filter: &Filter, after: Option<&Topic>) -> Option<&Entry> {
        let text = filter.as_str();
        let Some(wildcard) = text.find(['+', '#']) else {
            return self.messages.get(text).filter(|_| after.is_none());
        };
        // `a/#` names `a`, too.
        let (start, _) = text.split_at(wildcard);
        let start = if text[wildcard..].starts_with('#') { start.trim_end_matches('/') } else { start };
        let from = after.map_or(Bound::Included(start), |after| Bound::Excluded(after.as_str()));
        self.messages
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(start))
            .find(|(topic, _)| filter.matches(topic))
            .map(|(_, entry)| entry)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The memory that they take, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Entry {
    fn value(&self, now: Instant) -> LastValue {
        let seconds_left = self.message.seconds_left(self.waited + now.since(self.since));
        LastValue { message: Arc::clone(&self.message), seconds_left }
    }
}

impl LastValues for Mqtt {
    fn last(&self, now: Instant, topic: &Topic) -> Option<LastValue> {
        self.shared.retained.get(topic).map(|entry| entry.value(now))
    }

    fn first(&self, now: Instant, filter: &Filter) -> Option<LastValue> {
        self.shared.retained.next(filter, None).map(|entry| entry.value(now))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Retained};
    use crate::event::Op;
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::limits::Limits;
    use crate::message::{Message, Properties, Qos, Source};
    use crate::time::{Duration, Instant, Now, Stamp};
    use crate::topic::{Filter, Topic};
    use std::sync::Arc;

    fn message(topic: &str, payload: &'static str, expiry_seconds: Option<u32>) -> Arc<Message> {
        Arc::new(Message {
            id: MessageId { epoch: 1, seq: Seq(1) },
            device: DeviceId::new("d").unwrap(),
            topic: Topic::new(topic).unwrap(),
            payload: payload.into(),
            received: Stamp { unix_ms: 1_000, synchronised: true },
            qos: Qos::AtLeastOnce,
            retain: true,
            duplicate: false,
            source: Source::Mqtt,
            properties: Some(Box::new(Properties { expiry_seconds, ..Properties::default() })),
        })
    }

    fn found(retained: &Retained, filter: &str) -> Vec<String> {
        let filter = Filter::new(filter).unwrap();
        let mut after = None;
        let mut topics = Vec::new();
        while let Some(entry) = retained.next(&filter, after.as_ref()) {
            topics.push(entry.message.topic.to_string());
            after = Some(entry.message.topic.clone());
        }
        topics
    }

    #[test]
    fn a_filter_finds_what_it_names_in_order() {
        let mut retained = Retained::default();
        let topics = ["a", "a/b", "a/b/c", "a/d", "ab", "ab/c", "b", "/x", "$x/y", "a/"];
        for topic in topics {
            retained.keep(Instant(0), &message(topic, "x", None), &Limits::default());
        }
        for filter in [
            "#", "+", "a", "a/#", "a/+", "a/+/c", "+/b", "a/b/#", "/+", "/#", "$x/#", "$x/+", "none",
            "none/#",
        ] {
            let named = Filter::new(filter).unwrap();
            let mut expected: Vec<_> =
                topics.iter().filter(|topic| named.matches(&Topic::new(topic).unwrap())).collect();
            expected.sort();
            assert_eq!(found(&retained, filter).iter().collect::<Vec<_>>(), expected, "{filter}");
        }
    }

    #[test]
    fn one_message_a_topic_within_the_bounds() {
        let limits = Limits { retained_messages: 2, ..Limits::default() };
        let mut retained = Retained::default();
        let keep = |retained: &mut Retained, topic, payload| {
            retained.keep(Instant(0), &message(topic, payload, None), &limits)
        };
        assert!(matches!(keep(&mut retained, "a", "1"), Kept::Changed(Op::Put { .. })));
        assert!(matches!(keep(&mut retained, "b", "1"), Kept::Changed(Op::Put { .. })));
        assert!(matches!(keep(&mut retained, "c", "1"), Kept::Full(None)));
        assert!(matches!(keep(&mut retained, "b", "2"), Kept::Changed(Op::Put { .. })), "a replacement fits");
        assert!(matches!(keep(&mut retained, "a", ""), Kept::Changed(Op::Remove { .. })));
        assert!(matches!(keep(&mut retained, "a", ""), Kept::Changed(Op::Remove { .. })));
        assert!(matches!(keep(&mut retained, "c", "1"), Kept::Changed(Op::Put { .. })));
        assert_eq!((retained.len(), found(&retained, "#")), (2, vec!["b".to_owned(), "c".to_owned()]));

        let tight = Limits { retained_bytes: retained.bytes() + 50, ..Limits::default() };
        let larger =
            message("b", "much more than there was before, too much for what there is room for", None);
        assert!(matches!(retained.keep(Instant(0), &larger, &tight), Kept::Full(Some(Op::Remove { .. }))));
        assert_eq!(found(&retained, "#"), ["c"], "what it had is not true any more");
    }

    #[test]
    fn expiry_counts_down_over_a_restart_when_the_clock_is_right() {
        let mut retained = Retained::default();
        let kept = retained.keep(Instant(0), &message("t", "x", Some(60)), &Limits::default());
        let Kept::Changed(Op::Put { key, value }) = kept else { panic!("kept") };
        assert_eq!(retained.timeout(), Some(Instant(0).after(Duration::from_secs(60))));
        let at = |unix_ms, synchronised| Now { instant: Instant(5), wall: Stamp { unix_ms, synchronised } };
        for (now, left) in [(at(21_500, true), 40), (at(21_500, false), 60), (at(0, true), 60)] {
            let mut again = Retained::default();
            assert_eq!(again.restore(now, &key.key, &value), Ok(true));
            assert_eq!(again.timeout(), Some(Instant(5).after(Duration::from_secs(left))));
        }
        assert_eq!(Retained::default().restore(at(61_000, true), &key.key, &value), Ok(false));
        assert!(Retained::default().restore(at(0, true), b"other", &value).is_err());
        assert!(retained.expired(Instant(0).after(Duration::from_secs(59))).is_none());
        assert!(retained.expired(Instant(0).after(Duration::from_secs(60))).is_some());
        assert_eq!((retained.len(), retained.bytes(), retained.timeout()), (0, 0, None));
    }
}
