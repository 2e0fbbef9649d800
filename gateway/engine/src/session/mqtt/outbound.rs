//! What a session has for its client: messages that wait, and messages sent and not acknowledged, within bounds; and what
//! the store knows of them. Pure state: says what is to be sent next, in order; writes no packets and no records.
//!
//! A message in a session that outlives its connection is safe when its client has acknowledged it or its record is
//! durable. With QoS 2 the record comes first in both steps: a PUBLISH is sent only when its message and packet id are
//! durable, a PUBREL only when it is durable that PUBREC came. A restart would otherwise send under another packet id, or send
//! again what the client has handed on, and the client would have it twice.
//!
//! A client that has a QoS 2 message holds its packet id until PUBREL comes, and takes a new message under that id for the old
//! one. So a QoS 2 message that may have been sent is never simply dropped: one that must not be sent again (it has expired, a
//! right was taken away, it is too large for the client now) ends with PUBREL, which every client answers with PUBCOMP
//! [MQTT-4.3.3-11], and only that frees the id.

use super::parcel::Parcel;
use super::rare::Blank;
use crate::message::Qos;
use crate::mutant::{Mutant, Planted};
use crate::session::Claim;
use crate::time::{Duration, Instant, Now};
use std::collections::VecDeque;

/// Messages sent and not acknowledged at the most, whatever the client's Receive Maximum: so few that
/// finding one among them is quick, enough for 100,000 messages/s at 2 ms of round trip.
pub(super) const IN_FLIGHT_MAX: usize = 256;

/// Messages of one session at the most, whatever the limits say: each has a packet id of its own.
pub(super) const MESSAGES_MAX: usize = 60_000;

/// Packet ids: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

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

/// Whether a message was ever sent as PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    No,
    /// In an earlier life, if at all: that is not in the store.
    Perhaps,
    Yes,
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
    /// Sent on some connection, or perhaps: DUP the next time.
    sent: Sent,
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
        /// It is not to be given up because it has expired: its delivery has begun [MQTT-3.3.2-5].
        begun: bool,
        parcel: &'a Parcel,
    },
    /// A PUBREL.
    Release { packet_id: u16 },
}

/// What becomes of a message that will not be sent, or not again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discarded {
    /// It is through.
    Through(Option<Through>),
    /// PUBREL is what is sent next.
    Release,
    /// PUBREL when the record of this number says that the message is not sent any more.
    Record(u64),
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
    /// No message that could be given up expires before.
    expires: Option<Instant>,
    /// Messages of QoS 2 that were found in the store.
    found: usize,
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
            expires: None,
            found: 0,
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
            sent: Sent::No,
            counted: false,
            restored: false,
            claim,
        });
        number
    }

    /// Appends what the store remembers, in the order of the numbers: a message, or, as `None`, a release. What
    /// was sent is not in the store: whatever may have been counts as sent, perhaps. (DUP says no more than that
    /// it may be, MQTT 5.0, 3.3.1.1.) Before a message of QoS 2 that was sent there are fewer of QoS 2 than may be in flight
    /// whose PUBREC is not durable; of QoS 1 there may be any number that were acknowledged just before the end.
    pub(super) fn restore(&mut self, number: u64, parcel: Option<Parcel>, now: Instant) {
        self.last_number = self.last_number.max(number);
        let sent = if self.found < IN_FLIGHT_MAX { Sent::Perhaps } else { Sent::No };
        self.found += usize::from(parcel.as_ref().is_some_and(|parcel| parcel.qos == Qos::ExactlyOnce));
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
        let expires = entry.parcel.as_ref().and_then(Parcel::expires);
        self.expires = self.expires.into_iter().chain(expires).min();
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
                let begun = entry.sent == Sent::Yes;
                Some(Next::Publish { packet_id, dup: entry.sent != Sent::No, begun, parcel })
            }
        }
    }

    /// What [`Outbound::next`] gave has been sent.
    pub(super) fn sent(&mut self) {
        if let Some(entry) = self.entries.get_mut(self.cursor) {
            entry.sent = Sent::Yes;
            entry.counted = entry.parcel.is_some();
            self.outstanding += usize::from(entry.counted);
            self.cursor += 1;
        }
    }

    /// What [`Outbound::next`] gave will not be sent, or not again: it has expired, is larger than the client takes, or not for
    /// the client any more.
    pub(super) fn discard(&mut self) -> Discarded {
        match self.entries.get_mut(self.cursor) {
            Some(entry) if entry.may_be_held() => {
                self.bytes -= entry.parcel.take().as_ref().map_or(0, Parcel::bytes);
                if !entry.recorded {
                    return Discarded::Release;
                }
                entry.kept = Kept::Ordered;
                // As if it had been sent: no more are under way than the client takes, and what comes behind it can go.
                entry.counted = true;
                let number = entry.number;
                self.outstanding += 1;
                self.cursor += 1;
                Discarded::Record(number)
            }
            _ => Discarded::Through(self.remove(self.cursor)),
        }
    }

    /// Forgets what has expired and was not sent; gives what is left to do about each.
    pub(super) fn forget_expired(&mut self, now: Instant) -> Vec<Through> {
        let mut forgotten = Vec::new();
        if self.expires.is_none_or(|expires| expires > now) {
            return forgotten;
        }
        self.expires = None;
        // What stands before the cursor was sent on this connection: it stays, and the cursor is right.
        for entry in std::mem::take(&mut self.entries) {
            let waits = entry.parcel.as_ref().filter(|_| entry.sent != Sent::Yes && !entry.may_be_held());
            if waits.is_some_and(|parcel| parcel.has_expired(now)) {
                self.bytes -= entry.parcel.as_ref().map_or(0, Parcel::bytes);
                forgotten.push(entry.through());
            } else {
                self.expires = self.expires.into_iter().chain(waits.and_then(Parcel::expires)).min();
                self.entries.push_back(entry);
            }
        }
        forgotten
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
                    parcel.shared.is_some() && (entry.sent == Sent::No || parcel.qos == Qos::AtLeastOnce)
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
                self.expires = self.expires.into_iter().chain(parcel.expires()).min();
            }
        }
    }

    /// Only what was sent can be acknowledged.
    fn find(&self, id: u16, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        let mut sent = self.entries.iter().take_while(|entry| entry.sent != Sent::No);
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
    /// Whether the client may have the message, and hold its packet id.
    fn may_be_held(&self) -> bool {
        self.sent != Sent::No && self.parcel.as_ref().is_some_and(|parcel| parcel.qos == Qos::ExactlyOnce)
    }

    fn through(self) -> Through {
        Through { number: self.number, recorded: self.recorded, claim: self.claim }
    }
}

#[cfg(test)]
mod tests;
