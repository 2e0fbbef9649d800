//! What was acknowledged and what came, entry by entry, and what the two together say about the promises.

use super::{Plan, TOPICS_EACH};
use std::collections::BTreeMap;
use std::fmt;
use tidegate_wire::mqtt::Qos;

/// A value of a retained topic: the number of the message that set it. Every fifth message of a topic clears it.
pub(crate) const CLEARS_EVERY: usize = 5;

/// Whether the message of this number takes its topic's value away.
pub(crate) fn clears(number: usize) -> bool {
    number / TOPICS_EACH % CLEARS_EVERY == CLEARS_EVERY - 1
}

/// A retained topic: its keeper and its place among the keeper's.
pub(crate) type Kept = (usize, usize);

#[derive(Debug, Default)]
struct Audience {
    /// For each publisher and number: how often it was delivered.
    delivered: Vec<Vec<u8>>,
    /// For each publisher and QoS 1 or 2: the highest number delivered so far.
    highest: Vec<[Option<usize>; 2]>,
    subscribed: bool,
    missing: usize,
}

/// The entries while the campaign goes on.
#[derive(Debug)]
pub(crate) struct Entries {
    audiences: Vec<Audience>,
    /// The highest number acknowledged, and the highest begun, of each retained topic.
    retained: BTreeMap<Kept, (Option<usize>, Option<usize>)>,
    sessions_taken_up: usize,
    ledger: Ledger,
}

/// The sums of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Messages acknowledged to publishers, times the subscribers that had to get them.
    pub owed: usize,
    /// Of those, the ones that never came: forbidden.
    pub lost: usize,
    /// QoS 1 messages that came again, as they may.
    pub repeated: usize,
    /// QoS 2 messages that came again: forbidden.
    pub repeated_exactly_once: usize,
    /// First arrivals behind a later message of the same publisher and QoS: forbidden [MQTT-4.6.0-6].
    pub overtaken: usize,
    /// Payloads or topics that nobody sent: forbidden.
    pub altered: usize,
    /// CONNACKs that denied a session that the client relied on: forbidden.
    pub sessions_lost: usize,
    /// Retained values looked at.
    pub retained_seen: usize,
    /// Of those, older than the last acknowledged one, or gone, or there though cleared: forbidden.
    pub retained_wrong: usize,
    /// Some of what was forbidden, in words.
    pub examples: Vec<String>,
}

/// Enough to see what kind of thing went wrong.
const EXAMPLES_MOST: usize = 12;

impl Ledger {
    /// Whether nothing forbidden happened.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost
            + self.repeated_exactly_once
            + self.overtaken
            + self.altered
            + self.sessions_lost
            + self.retained_wrong
            == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MOST {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "owed to subscribers {}, lost {}, repeated at QoS 1 {}, at QoS 2 {}, overtaken {}, altered {}, sessions lost {}, \
             retained values looked at {}, wrong {}",
            self.owed,
            self.lost,
            self.repeated,
            self.repeated_exactly_once,
            self.overtaken,
            self.altered,
            self.sessions_lost,
            self.retained_seen,
            self.retained_wrong
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

impl Entries {
    pub(crate) fn new(plan: &Plan) -> Self {
        let audience = || Audience {
            delivered: vec![vec![0; plan.messages_each]; plan.publishers],
            highest: vec![[None; 2]; plan.publishers],
            subscribed: false,
            missing: plan.publishers * plan.messages_each,
        };
        let kept = (0..plan.keepers)
            .flat_map(|keeper| (0..TOPICS_EACH).map(move |place| ((keeper, place), (None, None))));
        Self {
            audiences: (0..plan.subscribers).map(|_| audience()).collect(),
            retained: kept.collect(),
            sessions_taken_up: 0,
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn subscribed(&self) -> usize {
        self.audiences.iter().filter(|audience| audience.subscribed).count()
    }

    pub(crate) fn enter_subscribed(&mut self, subscriber: usize) {
        self.audiences[subscriber].subscribed = true;
    }

    /// Sessions of subscribers that were taken up again.
    pub(crate) fn sessions_taken_up(&self) -> usize {
        self.sessions_taken_up
    }

    pub(crate) fn enter_session(&mut self, who: &str, present: bool) {
        self.sessions_taken_up += 1;
        if !present {
            self.ledger.sessions_lost += 1;
            self.ledger.example(|| format!("the session of {who} is gone"));
        }
    }

    /// What has not come to somebody yet.
    pub(crate) fn missing(&self) -> usize {
        self.audiences.iter().map(|audience| audience.missing).sum()
    }

    /// Enters what a subscriber takes as delivered to it.
    pub(crate) fn enter_delivery(&mut self, subscriber: usize, publisher: usize, number: usize, qos: Qos) {
        let audience = &mut self.audiences[subscriber];
        let count = audience.delivered.get_mut(publisher).and_then(|of| of.get_mut(number));
        let Some(count) = count else {
            self.enter_altered(&format!("publisher {publisher}, number {number}"));
            return;
        };
        *count = count.saturating_add(1);
        if *count > 1 {
            if qos == Qos::ExactlyOnce {
                self.ledger.repeated_exactly_once += 1;
                let times = *count;
                self.ledger.example(|| {
                    format!("QoS 2: {number} of publisher {publisher} came to subscriber {subscriber} {times} times")
                });
            } else {
                self.ledger.repeated += 1;
            }
            return;
        }
        audience.missing -= 1;
        let highest = &mut audience.highest[publisher][number % 2];
        if highest.is_some_and(|highest| highest > number) {
            self.ledger.overtaken += 1;
            let before = *highest;
            self.ledger.example(|| {
                format!("{number} of publisher {publisher} came to subscriber {subscriber} behind {before:?}")
            });
        } else {
            *highest = Some(number);
        }
    }

    pub(crate) fn enter_altered(&mut self, what: &str) {
        self.ledger.altered += 1;
        self.ledger.example(|| format!("nobody sent {what}"));
    }

    pub(crate) fn enter_forgotten(&mut self, publisher: usize, number: usize) {
        self.ledger.sessions_lost += 1;
        self.ledger
            .example(|| format!("PUBREC of {number} to publisher {publisher}, and then the session is gone"));
    }

    pub(crate) fn enter_retained_begun(&mut self, kept: Kept, number: usize) {
        if let Some((_, begun)) = self.retained.get_mut(&kept) {
            *begun = (*begun).max(Some(number));
        }
    }

    pub(crate) fn enter_retained_acknowledged(&mut self, kept: Kept, number: usize) {
        if let Some((acknowledged, _)) = self.retained.get_mut(&kept) {
            *acknowledged = (*acknowledged).max(Some(number));
        }
    }

    pub(crate) fn retained_acknowledged(&self) -> BTreeMap<Kept, Option<usize>> {
        self.retained.iter().map(|(kept, (acknowledged, _))| (*kept, *acknowledged)).collect()
    }

    /// Whether this may be a topic's value (`None`: it has none), when that was the last acknowledged number before.
    pub(crate) fn may_be(&self, kept: Kept, acknowledged: Option<usize>, found: Option<usize>) -> bool {
        let begun = self.retained.get(&kept).and_then(|(_, begun)| *begun);
        match found {
            Some(number) => acknowledged <= Some(number) && Some(number) <= begun && !clears(number),
            None if acknowledged.is_none() => true,
            None => {
                let from = acknowledged.unwrap_or(0);
                (from..=begun.unwrap_or(0)).step_by(TOPICS_EACH).any(clears)
            }
        }
    }

    pub(crate) fn enter_retained(
        &mut self,
        acknowledged: &BTreeMap<Kept, Option<usize>>,
        found: &BTreeMap<Kept, usize>,
    ) {
        for (kept, last) in acknowledged {
            self.ledger.retained_seen += 1;
            let value = found.get(kept).copied();
            if !self.may_be(*kept, *last, value) {
                self.ledger.retained_wrong += 1;
                let begun = self.retained.get(kept).and_then(|(_, begun)| *begun);
                self.ledger.example(|| {
                    format!(
                        "retained {kept:?} is {value:?}; acknowledged up to {last:?}, begun up to {begun:?}"
                    )
                });
            }
        }
    }

    /// Closes the ledger: everything was acknowledged, so what is missing is lost.
    pub(crate) fn close(&mut self) -> Ledger {
        let mut ledger = self.ledger.clone();
        for (subscriber, audience) in self.audiences.iter().enumerate() {
            ledger.owed += audience.delivered.iter().map(Vec::len).sum::<usize>();
            ledger.lost += audience.missing;
            for (publisher, of) in audience.delivered.iter().enumerate() {
                for (number, _) in of.iter().enumerate().filter(|(_, count)| **count == 0) {
                    ledger.example(|| {
                        format!("{number} of publisher {publisher} never came to subscriber {subscriber}")
                    });
                }
            }
        }
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Entries {
        let mut entries =
            Entries::new(&Plan { publishers: 1, messages_each: 4, keepers: 1, subscribers: 1, kills: 0 });
        entries.enter_subscribed(0);
        entries
    }

    fn deliver(entries: &mut Entries, numbers: &[usize]) {
        for number in numbers {
            entries.enter_delivery(0, 0, *number, super::super::qos(*number));
        }
    }

    #[test]
    fn everything_once_is_sound_and_so_is_a_repetition_at_qos_1() {
        let mut entries = entries();
        deliver(&mut entries, &[0, 1, 0, 3, 2]);
        let ledger = entries.close();
        assert!(ledger.is_sound(), "{ledger}");
        assert_eq!(ledger.repeated, 1);
    }

    #[test]
    fn what_is_forbidden_is_seen() {
        let sound = |change: fn(&mut Entries)| {
            let mut entries = entries();
            change(&mut entries);
            entries.close().is_sound()
        };
        assert!(!sound(|e| deliver(e, &[0, 1, 2])), "lost");
        assert!(!sound(|e| deliver(e, &[0, 1, 2, 3, 1])), "twice at QoS 2");
        assert!(!sound(|e| deliver(e, &[2, 1, 0, 3])), "overtaken");
        assert!(!sound(|e| deliver(e, &[0, 1, 2, 3, 4])), "from nobody");
        assert!(
            !sound(|e| {
                deliver(e, &[0, 1, 2, 3]);
                e.enter_session("a", false);
            }),
            "a session lost"
        );
    }

    #[test]
    fn a_retained_value_is_the_last_acknowledged_one_or_a_later_one() {
        let mut entries = entries();
        let kept = (0, 0);
        let topic = TOPICS_EACH;
        for number in 0..=4 {
            entries.enter_retained_begun(kept, number * topic);
        }
        let may_be = |acknowledged: Option<usize>, found: Option<usize>| {
            let number = |n: usize| n * topic;
            entries.may_be(kept, acknowledged.map(number), found.map(number))
        };
        assert!(
            may_be(None, None)
                && may_be(None, Some(0))
                && may_be(Some(1), Some(1))
                && may_be(Some(1), Some(3))
        );
        assert!(!may_be(Some(2), Some(1)), "an older one");
        assert!(!may_be(Some(2), Some(5)), "one that was not sent");
        assert!(may_be(Some(2), None), "the fifth, which clears, was begun");
        assert!(!may_be(Some(4), Some(4)), "a message without payload is no value");
        assert!(may_be(Some(4), None), "cleared");
    }
}
