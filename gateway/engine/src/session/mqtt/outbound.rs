//! What a session has for its client: messages that wait, and messages sent and not acknowledged, within bounds; and what
//! the store knows of them. Pure state: says what is to be sent next, in order; writes no packets and no records.
//!
//! A message in a session that outlives its connection is safe when its client has acknowledged it or its record is
//! durable. With QoS 2 the record comes first in both steps: a PUBLISH is sent only when its message and packet id are
//! durable, a PUBREL only when it is durable that PUBREC came. A restart would otherwise send under another packet id, or send
//! again what the client has handed on, and the client would have it twice.

use super::rare::Blank;
use crate::message::{Message, Qos};
use crate::mutant::{Mutant, Planted};
use crate::session::Claim;
use crate::time::{Duration, Instant, Now};
use crate::topic::Filter;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Messages sent and not acknowledged at the most, whatever the client's Receive Maximum: so few that
/// finding one among them is quick, enough for 100,000 messages/s at 2 ms of round trip.
pub(super) const IN_FLIGHT_MAX: usize = 256;

/// Messages of one session at the most, whatever the limits say: each has a packet id of its own.
pub(super) const MESSAGES_MAX: usize = 60_000;

/// Packet ids: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

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
    fn bytes(&self) -> usize {
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

/// What the store knows of a message, or of its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Nothing.
    No,
    /// Its record is ordered.
    Ordered,
    /// Its record is durable.
    Durable,
}

#[derive(Debug)]
struct Entry {
    /// Gives the order, the packet id, and the key of the record.
    number: u64,
    /// `None` once PUBREC has come: then PUBREL is what is sent.
    parcel: Option<Parcel>,
    since: Instant,
    /// What the store knows of the state that it is in: a message, or a release.
    kept: Kept,
    /// A record of it stands in the store, or will.
    recorded: bool,
    /// Sent on some connection: DUP the next time.
    sent: bool,
    /// Sent as PUBLISH on this connection: counts towards the client's Receive Maximum.
    counted: bool,
    /// Found in the store at the start.
    restored: bool,
    /// The publisher who waits until this copy is safe.
    claim: Option<Claim>,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// A PUBLISH.
    Publish {
        packet_id: u16,
        dup: bool,
        /// It is not to be given up because it has expired: the client may have part of its exchange.
        begun: bool,
        parcel: &'a Parcel,
    },
    /// A PUBREL.
    Release { packet_id: u16 },
}

/// What a PUBREC leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// PUBREL at once.
    Release,
    /// PUBREL when the record of this number says that PUBREC came.
    Record(u64),
    /// That is under way.
    Waiting,
    /// No such packet id.
    Unknown,
}

/// A message that is through: what is left to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Through {
    pub(super) number: u64,
    /// Its record is to be removed.
    pub(super) recorded: bool,
    /// Its publisher no longer waits for it.
    pub(super) claim: Option<Claim>,
}

/// A record is durable: what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Secured {
    /// The publisher no longer waits for it.
    pub(super) claim: Option<Claim>,
    /// PUBREL for this packet id is due on the present connection.
    pub(super) release: Option<u16>,
}

/// The sending half of a session.
#[derive(Debug)]
pub(super) struct Outbound {
    /// By their numbers, which is the order of acceptance. Those that were ever sent come first.
    entries: VecDeque<Entry>,
    /// Those before this index have been sent on the present connection.
    cursor: usize,
    /// How many of them count towards the client's Receive Maximum.
    outstanding: usize,
    /// The client's Receive Maximum, or our own bound.
    window: usize,
    bytes: usize,
    last_number: u64,
    /// No message without a record is older than this.
    unkept_since: Option<Instant>,
    /// What of this counts among the bytes and messages that wait for all subscribers.
    pub(super) weighed: (usize, usize),
    /// Messages that were dropped for want of room.
    pub(super) dropped: u64,
}

/// The packet id of a message: the numbers go round in the ids.
fn packet_id(number: u64) -> u16 {
    // 1 to 65,535.
    u16::try_from(number.wrapping_sub(1) % PACKET_IDS + 1).unwrap_or(u16::MAX)
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
            entries: VecDeque::new(),
            cursor: 0,
            outstanding: 0,
            window: IN_FLIGHT_MAX,
            bytes: 0,
            last_number: 0,
            unkept_since: None,
            weighed: (0, 0),
            dropped: 0,
        }
    }

    /// A new connection: everything in flight is sent again, first [MQTT-4.4.0-1].
    pub(super) fn attach(&mut self, receive_maximum: u16) {
        self.window = usize::from(receive_maximum).min(IN_FLIGHT_MAX);
        self.cursor = 0;
        self.outstanding = 0;
        for entry in &mut self.entries {
            entry.counted = false;
        }
    }

    /// Messages waiting or in flight.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether one more would be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        self.cursor == self.entries.len() && self.outstanding < self.window
    }

    /// The memory that they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the client has left something unacknowledged for longer than `patience`.
    pub(super) fn is_behind(&self, now: Instant, patience: Duration) -> bool {
        self.entries.front().is_some_and(|entry| now.since(entry.since) > patience)
    }

    /// Appends a message; its bounds have been checked. Gives its number, under which `keep` has a record ordered. Its client's
    /// time to acknowledge it begins now, however old it is.
    pub(super) fn push(&mut self, parcel: Parcel, keep: bool, claim: Option<Claim>, now: Instant) -> u64 {
        let number = self.free_number();
        let since = now;
        if !keep {
            self.unkept_since.get_or_insert(since);
        }
        self.append(Entry {
            number,
            parcel: Some(parcel),
            since,
            kept: if keep { Kept::Ordered } else { Kept::No },
            recorded: keep,
            sent: false,
            counted: false,
            restored: false,
            claim,
        });
        number
    }

    /// Appends what the store remembers, in the order of the numbers: a message, or, as `None`, a release. What
    /// was sent is not in the store: whatever may have been counts as sent. (DUP says no more than that
    /// it may be, MQTT 5.0, 3.3.1.1.)
    pub(super) fn restore(&mut self, number: u64, parcel: Option<Parcel>, now: Instant) {
        self.last_number = self.last_number.max(number);
        let sent = self.entries.len() < IN_FLIGHT_MAX;
        self.append(Entry {
            number,
            parcel,
            since: now,
            kept: Kept::Durable,
            recorded: true,
            sent,
            counted: false,
            restored: true,
            claim: None,
        });
    }

    fn append(&mut self, entry: Entry) {
        self.bytes += entry.parcel.as_ref().map_or(0, Parcel::bytes);
        self.entries.push_back(entry);
    }

    /// What is to be sent next on the present connection, if the client takes more and the store has what it must. Call
    /// [`Outbound::sent`] or [`Outbound::discard`] for it.
    pub(super) fn next(&self, planted: Planted) -> Option<Next<'_>> {
        let entry = self.entries.get(self.cursor)?;
        let packet_id = packet_id(entry.number);
        match &entry.parcel {
            None if entry.kept == Kept::Ordered => None,
            None => Some(Next::Release { packet_id }),
            Some(_) if self.outstanding >= self.window => None,
            Some(parcel)
                if parcel.qos == Qos::ExactlyOnce
                    && entry.kept == Kept::Ordered
                    && !planted.is(Mutant::SentBeforeKept) =>
            {
                None
            }
            Some(parcel) => {
                // Whether it was sent in an earlier life is not known. With QoS 1 nothing depends on it but a resend of what
                // its publisher no longer wants delivered; with QoS 2 the client may hold its packet id.
                let begun = entry.sent && !(entry.restored && parcel.qos == Qos::AtLeastOnce);
                Some(Next::Publish { packet_id, dup: entry.sent, begun, parcel })
            }
        }
    }

    /// What [`Outbound::next`] gave has been sent.
    pub(super) fn sent(&mut self) {
        if let Some(entry) = self.entries.get_mut(self.cursor) {
            entry.sent = true;
            entry.counted = entry.parcel.is_some();
            self.outstanding += usize::from(entry.counted);
            self.cursor += 1;
        }
    }

    /// What [`Outbound::next`] gave will never be sent: it has expired, or is larger than the client takes.
    pub(super) fn discard(&mut self) -> Option<Through> {
        self.remove(self.cursor)
    }

    /// PUBACK, or a PUBREC that refuses.
    pub(super) fn finished(&mut self, packet_id: u16, qos: Qos) -> Option<Through> {
        let index =
            self.find(packet_id, |entry| entry.parcel.as_ref().is_some_and(|parcel| parcel.qos == qos))?;
        self.remove(index)
    }

    /// PUBREC: the client has the message.
    pub(super) fn received(&mut self, packet_id: u16, planted: Planted) -> Received {
        let exactly_once =
            |entry: &Entry| entry.parcel.as_ref().is_none_or(|parcel| parcel.qos == Qos::ExactlyOnce);
        let Some(entry) = self.find(packet_id, exactly_once).and_then(|index| self.entries.get_mut(index))
        else {
            return Received::Unknown;
        };
        if let Some(parcel) = entry.parcel.take() {
            self.bytes -= parcel.bytes();
            if entry.recorded && !planted.is(Mutant::ReleaseForgotten) {
                entry.kept = Kept::Ordered;
                return Received::Record(entry.number);
            }
        } else if entry.kept == Kept::Ordered {
            return Received::Waiting;
        }
        Received::Release
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, packet_id: u16) -> Option<Through> {
        let index = self.find(packet_id, |entry| entry.parcel.is_none() && entry.kept != Kept::Ordered)?;
        self.remove(index)
    }

    /// The record of this number is durable as it was ordered last.
    pub(super) fn secured(&mut self, number: u64) -> Secured {
        let Ok(index) = self.entries.binary_search_by_key(&number, |entry| entry.number) else {
            // Acknowledged meanwhile.
            return Secured::default();
        };
        let Some(entry) = self.entries.get_mut(index) else { return Secured::default() };
        entry.kept = Kept::Durable;
        let here = index < self.cursor && entry.parcel.is_none();
        Secured { claim: entry.claim.take(), release: here.then(|| packet_id(number)) }
    }

    /// When the first message without a record has gone unacknowledged for `patience`.
    pub(super) fn spill_due(&self, patience: Duration) -> Option<Instant> {
        self.unkept_since.map(|since| since.after(patience))
    }

    /// Has records ordered of all messages that have none, if the first of them has gone unacknowledged for `patience`.
    /// Gives their numbers.
    pub(super) fn spill(&mut self, now: Instant, patience: Duration) -> Vec<u64> {
        let mut numbers = Vec::new();
        let unkept = |entry: &Entry| entry.kept == Kept::No && entry.parcel.is_some();
        self.unkept_since = self.entries.iter().find(|entry| unkept(entry)).map(|entry| entry.since);
        if self.spill_due(patience).is_some_and(|due| due <= now) {
            self.unkept_since = None;
            for entry in self.entries.iter_mut().filter(|entry| unkept(entry)) {
                entry.kept = Kept::Ordered;
                entry.recorded = true;
                numbers.push(entry.number);
            }
        }
        numbers
    }

    /// The message of this number; `None` when there is none, or it is released.
    pub(super) fn parcel(&self, number: u64) -> Option<&Parcel> {
        let index = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        self.entries.get(index)?.parcel.as_ref()
    }

    /// Everything, as the session ends; with what came by a shared subscription and may go to another member of
    /// the group. Not what the client may have received with QoS 2 [MQTT-4.8.2-5].
    pub(super) fn drain(&mut self) -> Vec<(Through, Option<Parcel>)> {
        self.bytes = 0;
        self.cursor = 0;
        self.outstanding = 0;
        let entries = std::mem::take(&mut self.entries).into_iter();
        entries
            .map(|mut entry| {
                let parcel = entry.parcel.take().filter(|parcel| {
                    parcel.shared.is_some() && (!entry.sent || parcel.qos == Qos::AtLeastOnce)
                });
                (entry.through(), parcel)
            })
            .collect()
    }

    /// The clock on the wall can be believed now: counts the time that the gateway was off.
    pub(super) fn settle_clock(&mut self, now: Now) {
        for entry in self.entries.iter_mut().filter(|entry| entry.restored) {
            if let Some(parcel) = &mut entry.parcel {
                parcel.settle(now);
            }
        }
    }

    /// Only what was sent can be acknowledged.
    fn find(&self, id: u16, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        let mut sent = self.entries.iter().take_while(|entry| entry.sent);
        sent.position(|entry| packet_id(entry.number) == id && wanted(entry))
    }

    fn remove(&mut self, index: usize) -> Option<Through> {
        let entry = self.entries.remove(index)?;
        self.bytes -= entry.parcel.as_ref().map_or(0, Parcel::bytes);
        self.outstanding -= usize::from(entry.counted);
        if index < self.cursor {
            self.cursor -= 1;
        }
        Some(entry.through())
    }

    /// The next number whose packet id no other message has. Numbers ascend; ids are used again when they have gone round.
    fn free_number(&mut self) -> u64 {
        loop {
            self.last_number += 1;
            let number = self.last_number;
            let far = self.entries.front().is_some_and(|entry| number - entry.number >= PACKET_IDS);
            if !far || self.entries.iter().all(|entry| packet_id(entry.number) != packet_id(number)) {
                return number;
            }
        }
    }
}

impl Entry {
    fn through(self) -> Through {
        Through { number: self.number, recorded: self.recorded, claim: self.claim }
    }
}

#[cfg(test)]
mod tests {
    use super::{Next, Outbound, Parcel, Received};
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Properties, Qos, Source};
    use crate::mutant::Planted;
    use crate::session::Claim;
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

    fn push(outbound: &mut Outbound, qos: Qos) -> u64 {
        outbound.push(parcel(qos), false, None, Instant(0))
    }

    fn received(outbound: &mut Outbound, packet_id: u16) -> Received {
        outbound.received(packet_id, Planted::default())
    }

    fn send(outbound: &mut Outbound) -> Option<(u16, bool)> {
        let sent = match outbound.next(Planted::default())? {
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
            push(&mut outbound, Qos::AtLeastOnce);
        }
        assert_eq!(send(&mut outbound), Some((1, false)));
        assert_eq!(send(&mut outbound), Some((2, false)));
        assert_eq!(send(&mut outbound), None);
        assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
        assert!(outbound.finished(2, Qos::AtLeastOnce).is_none());
        assert_eq!(send(&mut outbound), Some((3, false)));
        assert!(outbound.finished(1, Qos::AtLeastOnce).is_some());
        assert!(outbound.finished(3, Qos::AtLeastOnce).is_some());
        assert_eq!((outbound.len(), outbound.bytes()), (0, 0));
    }

    #[test]
    fn a_new_connection_gets_everything_in_flight_again_in_order() {
        let mut outbound = Outbound::new();
        outbound.attach(10);
        push(&mut outbound, Qos::ExactlyOnce);
        push(&mut outbound, Qos::AtLeastOnce);
        send(&mut outbound);
        send(&mut outbound);
        assert_eq!(received(&mut outbound, 2), Received::Unknown, "PUBREC for QoS 1");
        assert_eq!(received(&mut outbound, 1), Received::Release);
        outbound.attach(1);
        push(&mut outbound, Qos::AtLeastOnce);
        assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 1 })));
        outbound.sent();
        assert!(matches!(
            outbound.next(Planted::default()),
            Some(Next::Publish { packet_id: 2, dup: true, .. })
        ));
        outbound.sent();
        assert!(outbound.next(Planted::default()).is_none(), "the window is smaller now");
        assert!(outbound.completed(2).is_none());
        assert!(outbound.completed(1).is_some());
        assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
        assert_eq!(send(&mut outbound), Some((3, false)));
    }

    #[test]
    fn packet_ids_in_flight_are_not_given_again() {
        let mut outbound = Outbound::new();
        outbound.attach(100);
        for _ in 0..3 {
            push(&mut outbound, Qos::AtLeastOnce);
            send(&mut outbound);
        }
        assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
        for round in 0..65_532_u32 {
            push(&mut outbound, Qos::AtLeastOnce);
            let (id, _) = send(&mut outbound).unwrap();
            assert_eq!(u32::from(id), round + 4);
            assert!(outbound.finished(id, Qos::AtLeastOnce).is_some());
        }
        push(&mut outbound, Qos::AtLeastOnce);
        assert_eq!(send(&mut outbound), Some((2, false)), "1 and 3 are taken");
        push(&mut outbound, Qos::AtLeastOnce);
        assert_eq!(send(&mut outbound), Some((4, false)));
    }

    #[test]
    fn expiry_counts_down_while_a_message_waits() {
        let parcel = parcel(Qos::AtLeastOnce);
        assert_eq!(parcel.seconds_left(Instant(0).after(Duration::from_millis(3_999))), Some(7));
        assert!(!parcel.has_expired(Instant(0).after(Duration::from_secs(10))));
        assert!(parcel.has_expired(Instant(0).after(Duration::from_secs(11))));
    }

    #[test]
    fn exactly_once_waits_for_its_record_before_each_step() {
        let mut outbound = Outbound::new();
        outbound.attach(10);
        let claim = Some(Claim(3));
        let number = outbound.push(parcel(Qos::ExactlyOnce), true, claim, Instant(0));
        assert_eq!(send(&mut outbound), None, "its packet id is not durable");
        assert_eq!(outbound.secured(number).claim, claim);
        assert_eq!(send(&mut outbound), Some((1, false)));
        assert_eq!(received(&mut outbound, 1), Received::Record(number));
        assert_eq!(received(&mut outbound, 1), Received::Waiting);
        assert!(outbound.completed(1).is_none(), "PUBREL has not been sent");
        assert_eq!(outbound.secured(number).release, Some(1));
        let through = outbound.completed(1).unwrap();
        assert!(through.recorded && through.claim.is_none());
    }

    #[test]
    fn a_release_that_becomes_durable_without_its_connection_waits_for_the_next() {
        let mut outbound = Outbound::new();
        outbound.attach(10);
        let number = outbound.push(parcel(Qos::ExactlyOnce), true, None, Instant(0));
        outbound.secured(number);
        send(&mut outbound);
        received(&mut outbound, 1);
        outbound.attach(10);
        assert_eq!(send(&mut outbound), None);
        assert_eq!(outbound.secured(number).release, None);
        assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 1 })));
    }

    #[test]
    fn what_is_restored_keeps_its_packet_id_and_may_have_been_sent() {
        let mut outbound = Outbound::new();
        outbound.restore(65_537, None, Instant(0));
        outbound.restore(65_539, Some(parcel(Qos::ExactlyOnce)), Instant(0));
        outbound.attach(10);
        assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 2 })));
        outbound.sent();
        assert_eq!(send(&mut outbound), Some((4, true)));
        assert_eq!(push(&mut outbound, Qos::AtLeastOnce), 65_540);
    }

    #[test]
    fn a_client_that_does_not_acknowledge_in_time_has_records_made_of_all_that_waits() {
        let mut outbound = Outbound::new();
        outbound.attach(1);
        let patience = Duration::from_millis(250);
        assert_eq!(outbound.spill_due(patience), None);
        let first = push(&mut outbound, Qos::AtLeastOnce);
        let second = push(&mut outbound, Qos::AtLeastOnce);
        let due = outbound.spill_due(patience).unwrap();
        assert_eq!(outbound.spill(Instant(due.0 - 1), patience), []);
        assert!(!outbound.is_behind(due, patience));
        assert_eq!(outbound.spill(due, patience), [first, second]);
        assert_eq!(outbound.spill_due(patience), None);
        assert!(outbound.is_behind(due.after(patience), patience));
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
