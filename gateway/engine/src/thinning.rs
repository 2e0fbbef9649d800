//! Which messages stay when a lane is thinned: of each device and topic every n-th, or one in so long, from the oldest on; and when
//! the end has been reached and there is still no room, again from the oldest on. It looks at what is in memory, which is the
//! oldest part of a lane, so that the oldest is thinned most often.

use crate::event::Keep;
use crate::id::{DeviceId, Seq};
use crate::message::Message;
use crate::topic::Topic;
use std::collections::BTreeMap;

/// Devices' topics of which the last message that stays is remembered. Beyond it is begun anew, and of each topic one more stays.
const KEPT_MOST: usize = 8_192;

/// The last message of a device and topic that stays.
#[derive(Debug)]
struct Kept {
    received_ms: i64,
    /// How many were discarded after it.
    discarded: u32,
}

/// How far a lane has been thinned.
#[derive(Debug, Default)]
pub(crate) struct Thinning {
    /// In this pass, up to here.
    upto: Seq,
    /// In earlier passes, up to here.
    thinned_upto: Seq,
    /// In this pass; [`KEPT_MOST`] at the most.
    kept: BTreeMap<(DeviceId, Topic), Kept>,
}

impl Thinning {
    /// What has not been looked at in this pass begins after this.
    pub(crate) fn upto(&self) -> Seq {
        self.upto
    }

    /// Whether the next message, in order, stays.
    pub(crate) fn keeps(&mut self, message: &Message, keep: Keep) -> bool {
        self.upto = message.id.seq;
        let received_ms = message.received.unix_ms;
        let key = (message.device.clone(), message.topic.clone());
        let Some(kept) = self.kept.get_mut(&key) else {
            if self.kept.len() >= KEPT_MOST {
                self.kept.clear();
            }
            self.kept.insert(key, Kept { received_ms, discarded: 0 });
            return true;
        };
        let keeps = match keep {
            Keep::Every(n) => kept.discarded + 1 >= n,
            // Of one in so long every other one: one in twice as long.
            Keep::OneIn(_) if message.id.seq <= self.thinned_upto => kept.discarded > 0,
            Keep::OneIn(period) => {
                let period = period.as_millis();
                // Before it: the clock was set back, and nobody can tell how long that was.
                let since = i128::from(received_ms) - i128::from(kept.received_ms);
                since < 0 || since.unsigned_abs() >= period
            }
        };
        if keeps {
            *kept = Kept { received_ms, discarded: 0 };
        } else {
            kept.discarded += 1;
        }
        keeps
    }

    /// The end was reached: from the oldest on again.
    pub(crate) fn begin_again(&mut self) {
        self.thinned_upto = self.thinned_upto.max(self.upto);
        self.upto = Seq(0);
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Thinning;
    use crate::event::Keep;
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Qos, Source};
    use crate::time::{Duration, Stamp};
    use crate::topic::Topic;
    use bytes::Bytes;

    fn message(topic: &str, seq: u64) -> Message {
        Message {
            id: MessageId { epoch: 1, seq: Seq(seq) },
            device: DeviceId::new("boiler-3").unwrap(),
            topic: Topic::new(topic).unwrap(),
            payload: Bytes::new(),
            received: Stamp { unix_ms: 1_000 * i64::try_from(seq).unwrap(), synchronised: true },
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        }
    }

    fn pass(thinning: &mut Thinning, messages: &mut Vec<Message>, keep: Keep) -> Vec<u64> {
        messages.retain(|message| thinning.keeps(message, keep));
        thinning.begin_again();
        messages.iter().map(|message| message.id.seq.0).collect()
    }

    #[test]
    fn every_third_of_each_topic_stays_and_of_these_every_third() {
        let mut messages: Vec<_> =
            (0..20).map(|seq| message(if seq % 2 == 0 { "a" } else { "b" }, seq)).collect();
        let mut thinning = Thinning::default();
        assert_eq!(pass(&mut thinning, &mut messages, Keep::Every(3)), [0, 1, 6, 7, 12, 13, 18, 19]);
        assert_eq!(pass(&mut thinning, &mut messages, Keep::Every(3)), [0, 1, 18, 19]);
    }

    #[test]
    fn one_in_each_period_stays_and_then_one_in_two() {
        let mut messages: Vec<_> = (0..20).map(|seq| message("a", seq)).collect();
        let mut thinning = Thinning::default();
        let keep = Keep::OneIn(Duration::from_secs(4));
        assert_eq!(pass(&mut thinning, &mut messages, keep), [0, 4, 8, 12, 16]);
        assert_eq!(pass(&mut thinning, &mut messages, keep), [0, 8, 16]);
    }
}
