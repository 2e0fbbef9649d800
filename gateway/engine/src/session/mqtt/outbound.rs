//! What a session has for its client: messages that wait, and messages sent and not acknowledged, within bounds.
//! Pure state: says what is to be sent next, in order; writes no packets and knows no connection.

use super::rare::Blank;
use crate::message::{Message, Qos};
use crate::time::{Duration, Instant};
use crate::topic::Filter;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Messages sent and not acknowledged at the most, whatever the client's Receive Maximum: so few that
/// finding one among them is quick, enough for 100,000 messages/s at 2 ms of round trip.
pub(super) const IN_FLIGHT_MAX: usize = 256;

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
    /// When it was accepted: its expiry counts from then.
    pub(super) since: Instant,
}

impl Parcel {
    fn bytes(&self) -> usize {
        // What the queue itself takes of a shared message.
        64 + self.message.footprint()
    }

    fn expiry(&self) -> Option<u32> {
        self.message.properties.as_ref()?.expiry_seconds
    }

    /// Seconds that the message has left, if it ever expires [MQTT-3.3.2-6].
    pub(super) fn seconds_left(&self, now: Instant) -> Option<u32> {
        self.message.seconds_left(now.since(self.since))
    }

    /// Whether the message has waited for longer than its publisher wanted.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expiry().is_some_and(|seconds| now.since(self.since) > Duration::from_secs(seconds.into()))
    }
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    /// `None` once PUBREC has come: then PUBREL is what is sent again.
    parcel: Option<Parcel>,
    /// Sent on some connection: DUP the next time.
    sent: bool,
    /// Sent as PUBLISH on this connection: counts towards the client's Receive Maximum.
    counted: bool,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// A PUBLISH.
    Publish { packet_id: u16, dup: bool, parcel: &'a Parcel },
    /// A PUBREL once more.
    Release { packet_id: u16 },
}

/// What an acknowledgement from the client leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Done.
    Done,
    /// PUBREC: answer with PUBREL.
    Release,
    /// No such packet id.
    Unknown,
}

/// The sending half of a session.
#[derive(Debug)]
pub(super) struct Outbound {
    queue: VecDeque<Parcel>,
    /// In the order of sending.
    in_flight: VecDeque<InFlight>,
    /// Those before this index have been sent on the present connection.
    resent: usize,
    /// How many of them count towards the client's Receive Maximum.
    outstanding: usize,
    /// The client's Receive Maximum, or our own bound.
    window: usize,
    bytes: usize,
    last_id: u16,
    /// So many ids behind `last_id` are free for certain.
    free_ids: u16,
}

impl Blank for Outbound {
    const BLANK: &'static Self = &Self::new();
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbound {
    pub(super) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            resent: 0,
            outstanding: 0,
            window: IN_FLIGHT_MAX,
            bytes: 0,
            last_id: 0,
            free_ids: 0,
        }
    }

    /// A new connection: everything in flight is sent again, first [MQTT-4.4.0-1].
    pub(super) fn attach(&mut self, receive_maximum: u16) {
        self.window = usize::from(receive_maximum).min(IN_FLIGHT_MAX);
        self.resent = 0;
        self.outstanding = 0;
        for entry in &mut self.in_flight {
            entry.counted = false;
        }
    }

    /// Messages waiting or in flight.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether one more would be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_empty() && self.outstanding < self.window
    }

    /// The session has ended: what came by a shared subscription and may go to another member of the group. Not what the
    /// client may have received with QoS 2 [MQTT-4.8.2-5].
    pub(super) fn take_shared(&mut self) -> Vec<Parcel> {
        let sent = std::mem::take(&mut self.in_flight).into_iter();
        let again = sent.filter_map(|entry| {
            let sent = entry.sent;
            entry.parcel.filter(|parcel| !sent || parcel.qos == Qos::AtLeastOnce)
        });
        again.chain(std::mem::take(&mut self.queue)).filter(|parcel| parcel.shared.is_some()).collect()
    }

    /// The memory that they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a message; its bounds have been checked.
    pub(super) fn push(&mut self, parcel: Parcel) {
        self.bytes += parcel.bytes();
        self.queue.push_back(parcel);
    }

    /// What is to be sent next on the present connection, if the client takes more. Call [`Outbound::sent`] or
    /// [`Outbound::discard`] for it.
    pub(super) fn next(&mut self) -> Option<Next<'_>> {
        if self.resent == self.in_flight.len() {
            if self.outstanding >= self.window {
                return None;
            }
            let parcel = self.queue.pop_front()?;
            let packet_id = self.free_id();
            self.in_flight.push_back(InFlight {
                packet_id,
                parcel: Some(parcel),
                sent: false,
                counted: false,
            });
        }
        let entry = self.in_flight.get(self.resent)?;
        match &entry.parcel {
            Some(_) if self.outstanding >= self.window => None,
            Some(parcel) => Some(Next::Publish { packet_id: entry.packet_id, dup: entry.sent, parcel }),
            None => Some(Next::Release { packet_id: entry.packet_id }),
        }
    }

    /// What [`Outbound::next`] gave has been sent.
    pub(super) fn sent(&mut self) {
        if let Some(entry) = self.in_flight.get_mut(self.resent) {
            entry.sent = true;
            entry.counted = entry.parcel.is_some();
            self.outstanding += usize::from(entry.counted);
            self.resent += 1;
        }
    }

    /// What [`Outbound::next`] gave will never be sent: it has expired, or is larger than the client takes.
    pub(super) fn discard(&mut self) {
        self.remove(self.resent);
    }

    /// PUBACK, or a PUBREC that refuses.
    pub(super) fn finished(&mut self, packet_id: u16, qos: Qos) -> Acked {
        let found =
            self.find(packet_id, |entry| entry.parcel.as_ref().is_some_and(|parcel| parcel.qos == qos));
        match found {
            Some(index) => {
                self.remove(index);
                Acked::Done
            }
            None => Acked::Unknown,
        }
    }

    /// PUBREC: the client has the message.
    pub(super) fn received(&mut self, packet_id: u16) -> Acked {
        let exactly_once = |entry: &InFlight| {
            entry.sent && entry.parcel.as_ref().is_none_or(|parcel| parcel.qos == Qos::ExactlyOnce)
        };
        let Some(index) = self.find(packet_id, exactly_once) else { return Acked::Unknown };
        if let Some(parcel) = self.in_flight.get_mut(index).and_then(|entry| entry.parcel.take()) {
            self.bytes -= parcel.bytes();
        }
        Acked::Release
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, packet_id: u16) -> Acked {
        match self.find(packet_id, |entry| entry.parcel.is_none()) {
            Some(index) => {
                self.remove(index);
                Acked::Done
            }
            None => Acked::Unknown,
        }
    }

    fn find(&self, packet_id: u16, wanted: impl Fn(&InFlight) -> bool) -> Option<usize> {
        self.in_flight.iter().position(|entry| entry.packet_id == packet_id && wanted(entry))
    }

    fn remove(&mut self, index: usize) {
        if let Some(entry) = self.in_flight.remove(index) {
            self.bytes -= entry.parcel.as_ref().map_or(0, Parcel::bytes);
            self.outstanding -= usize::from(entry.counted);
            if index < self.resent {
                self.resent -= 1;
            }
        }
    }

    /// The next packet id that no message in flight has. Ids are given in a circle; how many are free ahead is
    /// counted seldom, as ids only become free meanwhile.
    fn free_id(&mut self) -> u16 {
        while self.free_ids == 0 {
            let from = self.last_id;
            // Behind 65,535 comes 1: the circle has 65,535 places.
            let ahead = |entry: &InFlight| match entry.packet_id.checked_sub(from) {
                Some(distance) if distance > 0 => distance - 1,
                _ => u16::MAX - from + entry.packet_id - 1,
            };
            self.free_ids = self.in_flight.iter().map(ahead).min().unwrap_or(u16::MAX);
            if self.free_ids == 0 {
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            }
        }
        self.free_ids -= 1;
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }
}

#[cfg(test)]
mod tests {
    use super::{Acked, Next, Outbound, Parcel};
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Properties, Qos, Source};
    use crate::time::{Duration, Instant, Stamp};
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
        }
    }

    fn send(outbound: &mut Outbound) -> Option<(u16, bool)> {
        let sent = match outbound.next()? {
            Next::Publish { packet_id, dup, .. } => (packet_id, dup),
            Next::Release { packet_id } => (packet_id, true),
        };
        outbound.sent();
        Some(sent)
    }

    #[test]
    fn the_window_of_the_client_holds() {
        let mut outbound = Outbound::new();
        outbound.attach(2);
        for _ in 0..3 {
            outbound.push(parcel(Qos::AtLeastOnce));
        }
        assert_eq!(send(&mut outbound), Some((1, false)));
        assert_eq!(send(&mut outbound), Some((2, false)));
        assert_eq!(send(&mut outbound), None);
        assert_eq!(outbound.finished(2, Qos::AtLeastOnce), Acked::Done);
        assert_eq!(outbound.finished(2, Qos::AtLeastOnce), Acked::Unknown);
        assert_eq!(send(&mut outbound), Some((3, false)));
        assert_eq!(outbound.finished(1, Qos::AtLeastOnce), Acked::Done);
        assert_eq!(outbound.finished(3, Qos::AtLeastOnce), Acked::Done);
        assert_eq!((outbound.len(), outbound.bytes()), (0, 0));
    }

    #[test]
    fn a_new_connection_gets_everything_in_flight_again_in_order() {
        let mut outbound = Outbound::new();
        outbound.attach(10);
        outbound.push(parcel(Qos::ExactlyOnce));
        outbound.push(parcel(Qos::AtLeastOnce));
        send(&mut outbound);
        send(&mut outbound);
        assert_eq!(outbound.received(2), Acked::Unknown, "PUBREC for QoS 1");
        assert_eq!(outbound.received(1), Acked::Release);
        outbound.attach(1);
        outbound.push(parcel(Qos::AtLeastOnce));
        assert!(matches!(outbound.next(), Some(Next::Release { packet_id: 1 })));
        outbound.sent();
        assert!(matches!(outbound.next(), Some(Next::Publish { packet_id: 2, dup: true, .. })));
        outbound.sent();
        assert!(outbound.next().is_none(), "the window is smaller now");
        assert_eq!(outbound.completed(2), Acked::Unknown);
        assert_eq!(outbound.completed(1), Acked::Done);
        assert_eq!(outbound.finished(2, Qos::AtLeastOnce), Acked::Done);
        assert_eq!(send(&mut outbound), Some((3, false)));
    }

    #[test]
    fn packet_ids_in_flight_are_not_given_again() {
        let mut outbound = Outbound::new();
        outbound.attach(100);
        for _ in 0..3 {
            outbound.push(parcel(Qos::AtLeastOnce));
            send(&mut outbound);
        }
        assert_eq!(outbound.finished(2, Qos::AtLeastOnce), Acked::Done);
        for round in 0..65_532_u32 {
            outbound.push(parcel(Qos::AtLeastOnce));
            let (id, _) = send(&mut outbound).unwrap();
            assert_eq!(u32::from(id), round + 4);
            assert_eq!(outbound.finished(id, Qos::AtLeastOnce), Acked::Done);
        }
        outbound.push(parcel(Qos::AtLeastOnce));
        assert_eq!(send(&mut outbound), Some((2, false)), "1 and 3 are taken");
        outbound.push(parcel(Qos::AtLeastOnce));
        assert_eq!(send(&mut outbound), Some((4, false)));
    }

    #[test]
    fn expiry_counts_down_while_a_message_waits() {
        let parcel = parcel(Qos::AtLeastOnce);
        assert_eq!(parcel.seconds_left(Instant(0).after(Duration::from_millis(3_999))), Some(7));
        assert!(!parcel.has_expired(Instant(0).after(Duration::from_secs(10))));
        assert!(parcel.has_expired(Instant(0).after(Duration::from_secs(11))));
    }
}
