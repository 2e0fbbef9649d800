//! A message for one client: what goes with it beside the message itself, and how long it has waited. Knows no queue.

use crate::message::{Message, Qos};
use crate::time::{Duration, Instant, Now};
use crate::topic::Filter;
use std::num::NonZeroU32;
use std::sync::Arc;

/// A message for a client.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) message: Arc<Message>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    /// The identifiers of the subscriptions that it matched.
    pub(super) subscriptions: Vec<NonZeroU32>,
    /// The shared subscription by which it came, if it came by one.
    pub(super) shared: Option<Filter>,
    /// When it was accepted, or when this life of the gateway found it in the store: its expiry counts from then.
    pub(super) since: Instant,
    /// How long it had waited by then, as far as is known.
    pub(super) waited: Duration,
}

impl Parcel {
    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // What the queue itself takes of a shared message.
        128 + self.message.footprint()
    }

    fn expiry(&self) -> Option<u32> {
        self.message.properties.as_ref()?.expiry_seconds
    }

    /// How long it has waited in all.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.waited.saturating_add(now.since(self.since))
    }

    /// Seconds that the message has left, if it ever expires [MQTT-3.3.2-6].
    pub(super) fn seconds_left(&self, now: Instant) -> Option<u32> {
        self.message.seconds_left(self.age(now))
    }

    /// When it expires, if it ever does.
    pub(super) fn expires(&self) -> Option<Instant> {
        let left = Duration::from_secs(self.expiry()?.into()).saturating_sub(self.waited);
        // It is expired when it has waited for longer than that.
        Some(self.since.after(left).after(Duration::from_micros(1)))
    }

    /// Whether the message has waited for longer than its publisher wanted.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expiry().is_some_and(|seconds| self.age(now) > Duration::from_secs(seconds.into()))
    }

    /// Counts the time that the gateway was off, if the clock on the wall knows it: a message of an earlier life has waited
    /// at least since it was received.
    pub(super) fn settle(&mut self, now: Now) {
        let received = self.message.received;
        if received.synchronised && now.wall.synchronised {
            let ms = now.wall.unix_ms.saturating_sub(received.unix_ms);
            let known = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            self.waited = self.waited.max(known.saturating_sub(now.instant.since(self.since)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Parcel;
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Properties, Qos, Source};
    use crate::time::{Duration, Instant, Now, Stamp};
    use crate::topic::Topic;
    use std::sync::Arc;

    fn parcel(qos: Qos) -> Parcel {
        let message = Message {
            id: MessageId { epoch: 1, seq: Seq(1) },
            device: DeviceId::new("d").unwrap(),
            topic: Topic::new("t").unwrap(),
            payload: bytes::Bytes::from_static(b"x"),
            received: Stamp::default(),
            qos,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: Some(Box::new(Properties { expiry_seconds: Some(10), ..Properties::default() })),
        };
        Parcel {
            message: Arc::new(message),
            qos,
            retain: false,
            subscriptions: Vec::new(),
            shared: None,
            since: Instant(0),
            waited: Duration::ZERO,
        }
    }

    #[test]
    fn expiry_counts_down_while_a_message_waits() {
        let parcel = parcel(Qos::AtLeastOnce);
        assert_eq!(parcel.seconds_left(Instant(0).after(Duration::from_millis(3_999))), Some(7));
        assert!(!parcel.has_expired(Instant(0).after(Duration::from_secs(10))));
        assert!(parcel.has_expired(Instant(0).after(Duration::from_secs(11))));
        let expires = parcel.expires().unwrap();
        assert!(parcel.has_expired(expires) && !parcel.has_expired(Instant(expires.0 - 1)));
    }

    #[test]
    fn expiry_counts_the_time_that_the_gateway_was_off_when_the_clock_knows_it() {
        let mut parcel = parcel(Qos::AtLeastOnce);
        parcel.waited = Duration::from_secs(1);
        let at = |unix_ms, synchronised| Now {
            instant: Instant(0).after(Duration::from_secs(2)),
            wall: Stamp { unix_ms, synchronised },
        };
        parcel.settle(at(9_000, true));
        assert_eq!(parcel.age(at(0, false).instant), Duration::from_secs(3), "it was not known when it came");
        let message = Arc::make_mut(&mut parcel.message);
        message.received = Stamp { unix_ms: 1_000, synchronised: true };
        parcel.settle(at(9_000, false));
        assert_eq!(parcel.seconds_left(at(0, false).instant), Some(7), "it is not known now");
        parcel.settle(at(9_000, true));
        assert_eq!(parcel.seconds_left(at(0, false).instant), Some(2));
        parcel.settle(at(500, true));
        assert_eq!(parcel.seconds_left(at(0, false).instant), Some(2), "time does not run backwards");
    }
}
