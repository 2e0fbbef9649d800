//! What a session knows of the messages that its client sends: which wait to be safe, in which order they are to be
//! acknowledged, which QoS 2 packet ids are not released. Pure state: no packets, no topics, no output.

use super::rare::Blank;
use crate::mutant::{Mutant, Planted};
use std::collections::{BTreeMap, VecDeque};

/// An acknowledgement that may leave now: PUBACK, or PUBREC for QoS 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) packet_id: u16,
    pub(super) exactly_once: bool,
    /// An MQTT 5.0 reason code: 0, or a refusal.
    pub(super) reason: u8,
}

/// Whether a PUBLISH is to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// A new message, under this serial number.
    New(u64),
    /// A repetition of what is known: nothing to pass on.
    Repeated,
}

/// What a PUBREL leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// The id is free: PUBCOMP at once.
    Now,
    /// The id stands in a record: remove it, and PUBCOMP when that is durable.
    Record,
    /// Being removed already: PUBCOMP follows.
    Waiting,
    /// No such id (0x92).
    Unknown,
    /// The message has not been answered with a PUBREC: the client breaks the protocol.
    TooEarly,
}

/// A message on its way to safety, in the order of reception on the present connection.
#[derive(Debug)]
struct Pending {
    ack: Ack,
    content: u64,
    safe: bool,
    /// Acknowledged out of its order; only a planted defect does that.
    answered: bool,
}

/// A message on its way to safety that came on an earlier connection.
#[derive(Debug)]
struct Earlier {
    serial: u64,
    packet_id: u16,
    exactly_once: bool,
    /// QoS 1: a hash of what it says.
    content: u64,
    /// It was sent again on this connection, under this serial number.
    again: Option<u64>,
}

/// A QoS 2 packet id between PUBLISH and PUBCOMP.
#[derive(Debug)]
struct Unreleased {
    stage: Stage,
    recorded: bool,
    /// The connection on which it counts towards Receive Maximum.
    counted: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The message is not safe yet.
    Pending,
    /// The message is safe; PUBREC has been sent or will be sent again.
    Safe,
    /// PUBREL came on this connection; the record is being removed.
    Releasing(u32),
}

/// The receiving half of a session.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    pending: VecDeque<Pending>,
    /// The serial number of the front of `pending`.
    first: u64,
    /// At most as many as were pending on the last few connections; see [`EARLIER_MAX`].
    earlier: Vec<Earlier>,
    unreleased: BTreeMap<u16, Unreleased>,
    /// Messages of this connection that count towards Receive Maximum.
    in_use: usize,
    /// Which connection of the session this is.
    connection: u32,
}

/// QoS 1 messages of earlier connections that are remembered while they wait to be safe. Forgetting one costs
/// nothing but a duplicate, if its client sends it again.
const EARLIER_MAX: usize = 256;

impl Blank for Inbound {
    const BLANK: &'static Self = &Self {
        pending: VecDeque::new(),
        first: 0,
        earlier: Vec::new(),
        unreleased: BTreeMap::new(),
        in_use: 0,
        connection: 0,
    };
}

impl Inbound {
    /// A new connection: what the client had in flight it will send again.
    pub(super) fn attach(&mut self) {
        let from = self.first;
        self.first += self.pending.len() as u64;
        for (serial, pending) in (from..).zip(self.pending.drain(..)) {
            // A repetition has no message of its own: what becomes safe is the one that it repeats.
            let repetition = self.earlier.iter().any(|earlier| earlier.again == Some(serial));
            if !pending.safe && !repetition {
                let Ack { packet_id, exactly_once, .. } = pending.ack;
                // The id may have been repeated before: only its latest message is known by it.
                let content = pending.content;
                self.earlier.push(Earlier { serial, packet_id, exactly_once, content, again: None });
            }
        }
        for earlier in &mut self.earlier {
            earlier.again = None;
        }
        let mut surplus = self.earlier.len().saturating_sub(EARLIER_MAX);
        self.earlier.retain(|earlier| {
            let forget = surplus > 0 && !earlier.exactly_once;
            surplus -= usize::from(forget);
            !forget
        });
        self.in_use = 0;
        self.connection = self.connection.wrapping_add(1);
    }

    /// A QoS 1 PUBLISH. With DUP, one that came on an earlier connection and is still on its way to safety is the
    /// same message: it is acknowledged when that one is safe. `content` is a hash of what it says: a client that has
    /// forgotten its past may use the packet id for another message, and even mark it when it sends that one again.
    pub(super) fn begin_at_least_once(&mut self, packet_id: u16, dup: bool, content: u64) -> Begun {
        self.in_use += 1;
        let ack = Ack { packet_id, exactly_once: false, reason: 0 };
        self.pending.push_back(Pending { ack, content, safe: false, answered: false });
        let serial = self.last_serial();
        let known = self.earlier.iter_mut().rev().find(|earlier| {
            let same = earlier.packet_id == packet_id && earlier.content == content;
            dup && same && !earlier.exactly_once && earlier.again.is_none()
        });
        match known {
            Some(earlier) => {
                earlier.again = Some(serial);
                Begun::Repeated
            }
            None => Begun::New(serial),
        }
    }

    /// A QoS 2 PUBLISH: an id that is not released is the same message [MQTT-4.3.3-10]. `recorded`: the id will stand in a record.
    pub(super) fn begin_exactly_once(&mut self, packet_id: u16, recorded: bool) -> Begun {
        let connection = self.connection;
        let ack = Ack { packet_id, exactly_once: true, reason: 0 };
        match self.unreleased.get_mut(&packet_id) {
            Some(known) if !matches!(known.stage, Stage::Releasing(_)) => {
                let here_before = known.counted == connection;
                known.counted = connection;
                self.in_use += usize::from(!here_before);
                if known.stage == Stage::Safe {
                    self.push(ack, true);
                } else if !here_before {
                    let serial = self.push(ack, false);
                    if let Some(earlier) =
                        self.earlier.iter_mut().rev().find(|e| e.exactly_once && e.packet_id == packet_id)
                    {
                        earlier.again = Some(serial);
                    }
                }
                Begun::Repeated
            }
            // An id whose release has been asked for is free: this is the next message.
            known => {
                self.in_use += usize::from(known.is_none_or(|known| known.counted != connection));
                let unreleased = Unreleased { stage: Stage::Pending, recorded, counted: connection };
                self.unreleased.insert(packet_id, unreleased);
                Begun::New(self.push(ack, false))
            }
        }
    }

    /// A PUBLISH that is refused: its acknowledgement takes its place in the order.
    pub(super) fn refuse(&mut self, ack: Ack) {
        self.in_use += 1;
        self.push(ack, true);
    }

    /// A QoS 2 packet id that the store remembered.
    pub(super) fn restore(&mut self, packet_id: u16) {
        let counted = self.connection.wrapping_sub(1);
        self.unreleased.insert(packet_id, Unreleased { stage: Stage::Safe, recorded: true, counted });
    }

    /// The message with this serial number is safe.
    pub(super) fn safe(&mut self, serial: u64, planted: Planted) {
        let here = serial.checked_sub(self.first).and_then(|index| {
            let pending = self.pending.get_mut(usize::try_from(index).ok()?)?;
            pending.safe = true;
            Some(pending.ack)
        });
        let exactly_once = if let Some(ack) = here {
            ack.exactly_once.then_some(ack.packet_id)
        } else if let Some(index) = self.earlier.iter().position(|earlier| earlier.serial == serial) {
            // Their order says which message a packet id meant last.
            let earlier = self.earlier.remove(index);
            let again = earlier.again.and_then(|again| again.checked_sub(self.first));
            if let Some(pending) = again
                .and_then(|index| usize::try_from(index).ok())
                .and_then(|index| self.pending.get_mut(index))
            {
                pending.safe = true;
            }
            earlier.exactly_once.then_some(earlier.packet_id)
        } else {
            None
        };
        if let Some(packet_id) = exactly_once {
            if planted.is(Mutant::Qos2Forgotten) {
                self.unreleased.remove(&packet_id);
            } else if let Some(unreleased) = self.unreleased.get_mut(&packet_id)
                && unreleased.stage == Stage::Pending
            {
                unreleased.stage = Stage::Safe;
            }
        }
    }

    /// Takes out the acknowledgements that may leave, in the order of reception [MQTT-4.6.0-2].
    pub(super) fn acknowledge(&mut self, planted: Planted, mut ack: impl FnMut(Ack)) {
        if planted.is(Mutant::AcksReordered) {
            for pending in self.pending.iter_mut().filter(|pending| pending.safe && !pending.answered) {
                pending.answered = true;
                ack(pending.ack);
            }
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.safe) {
            self.first += 1;
            // A QoS 2 message counts until PUBCOMP, unless it is refused (MQTT 5.0, 4.9).
            if !pending.ack.exactly_once || pending.ack.reason >= 0x80 {
                self.in_use = self.in_use.saturating_sub(1);
            }
            if !pending.answered {
                ack(pending.ack);
            }
        }
    }

    /// A PUBREL.
    pub(super) fn release(&mut self, packet_id: u16, planted: Planted) -> Release {
        let connection = self.connection;
        let Some(known) = self.unreleased.get_mut(&packet_id) else { return Release::Unknown };
        match known.stage {
            Stage::Pending => Release::TooEarly,
            Stage::Releasing(_) => {
                known.stage = Stage::Releasing(connection);
                Release::Waiting
            }
            Stage::Safe if planted.is(Mutant::Qos2NeverReleased) => {
                if known.counted == connection {
                    known.counted = connection.wrapping_sub(1);
                    self.in_use = self.in_use.saturating_sub(1);
                }
                Release::Now
            }
            Stage::Safe if known.recorded => {
                known.stage = Stage::Releasing(connection);
                Release::Record
            }
            Stage::Safe => {
                self.forget(packet_id);
                Release::Now
            }
        }
    }

    /// The record of the id is gone; says whether PUBCOMP is due on the present connection.
    pub(super) fn released(&mut self, packet_id: u16) -> bool {
        match self.unreleased.get(&packet_id).map(|known| known.stage) {
            Some(Stage::Releasing(connection)) => {
                self.forget(packet_id);
                connection == self.connection
            }
            _ => false,
        }
    }

    /// Packet ids that stand in records, or soon will.
    pub(super) fn recorded(&self) -> impl Iterator<Item = u16> {
        self.unreleased.iter().filter(|(_, known)| known.recorded).map(|(packet_id, _)| *packet_id)
    }

    /// Messages that count towards Receive Maximum.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Messages of this connection that are not acknowledged because they, or one before, are not safe.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// QoS 2 packet ids that are not released.
    pub(super) fn unreleased(&self) -> usize {
        self.unreleased.len()
    }

    /// Whether a QoS 2 PUBLISH with this id would be a repetition.
    pub(super) fn knows(&self, packet_id: u16) -> bool {
        self.unreleased.contains_key(&packet_id)
    }

    /// Whether a QoS 2 PUBLISH with this id has been counted on this connection already.
    pub(super) fn counts(&self, packet_id: u16) -> bool {
        self.unreleased.get(&packet_id).is_some_and(|known| known.counted == self.connection)
    }

    fn forget(&mut self, packet_id: u16) {
        if self.unreleased.remove(&packet_id).is_some_and(|known| known.counted == self.connection) {
            self.in_use = self.in_use.saturating_sub(1);
        }
    }

    fn push(&mut self, ack: Ack, safe: bool) -> u64 {
        self.pending.push_back(Pending { ack, content: 0, safe, answered: false });
        self.last_serial()
    }

    /// The serial number of the newest of `pending`, which is not empty.
    fn last_serial(&self) -> u64 {
        self.first + self.pending.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Ack, Begun, Inbound, Release};
    use crate::mutant::Planted;

    fn acks(inbound: &mut Inbound) -> Vec<u16> {
        let mut ids = Vec::new();
        inbound.acknowledge(Planted::default(), |ack| ids.push(ack.packet_id));
        ids
    }

    fn safe(inbound: &mut Inbound, serial: u64) -> Vec<u16> {
        inbound.safe(serial, Planted::default());
        acks(inbound)
    }

    fn begin(inbound: &mut Inbound, packet_id: u16) -> u64 {
        match inbound.begin_at_least_once(packet_id, false, 0) {
            Begun::New(serial) => serial,
            Begun::Repeated => panic!("new"),
        }
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_reception() {
        let mut inbound = Inbound::default();
        let (a, b, c) = (begin(&mut inbound, 1), begin(&mut inbound, 2), begin(&mut inbound, 3));
        assert_eq!(safe(&mut inbound, c), []);
        assert_eq!(safe(&mut inbound, a), [1]);
        inbound.refuse(Ack { packet_id: 4, exactly_once: false, reason: 0x90 });
        assert_eq!(acks(&mut inbound), []);
        assert_eq!(safe(&mut inbound, b), [2, 3, 4]);
        assert_eq!((inbound.in_use(), inbound.pending()), (0, 0));
        assert_eq!(safe(&mut inbound, b), [], "a receipt counts once");
    }

    #[test]
    fn a_repetition_on_a_new_connection_attaches_to_the_message_on_its_way() {
        let mut inbound = Inbound::default();
        let first = begin(&mut inbound, 9);
        inbound.attach();
        let other = begin(&mut inbound, 8);
        assert_eq!(inbound.begin_at_least_once(9, true, 0), Begun::Repeated);
        assert_eq!(safe(&mut inbound, first), [], "8 came before");
        assert_eq!(safe(&mut inbound, other), [8, 9]);
        assert!(matches!(inbound.begin_at_least_once(9, true, 0), Begun::New(_)), "it is safe and forgotten");
    }

    #[test]
    fn a_repetition_attaches_to_the_latest_message_of_its_packet_id() {
        let mut inbound = Inbound::default();
        let (_, other) = (begin(&mut inbound, 9), begin(&mut inbound, 1));
        inbound.attach();
        let second = begin(&mut inbound, 9);
        inbound.attach();
        let third = begin(&mut inbound, 9);
        inbound.attach();
        safe(&mut inbound, other);
        assert_eq!(inbound.begin_at_least_once(9, true, 0), Begun::Repeated);
        assert_eq!(safe(&mut inbound, second), []);
        assert_eq!(safe(&mut inbound, third), [9]);
    }

    #[test]
    fn a_repetition_that_is_cut_off_is_recognised_again() {
        let mut inbound = Inbound::default();
        let first = begin(&mut inbound, 9);
        for _ in 0..3 {
            inbound.attach();
            assert_eq!(inbound.begin_at_least_once(9, true, 0), Begun::Repeated);
        }
        assert_eq!(safe(&mut inbound, first), [9]);
    }

    #[test]
    fn an_id_sent_again_without_dup_is_a_new_message() {
        let mut inbound = Inbound::default();
        begin(&mut inbound, 9);
        inbound.attach();
        assert!(matches!(inbound.begin_at_least_once(9, false, 0), Begun::New(_)));
    }

    #[test]
    fn an_exactly_once_id_is_known_from_publish_to_release() {
        let mut inbound = Inbound::default();
        let Begun::New(serial) = inbound.begin_exactly_once(5, true) else { panic!("new") };
        assert_eq!(inbound.begin_exactly_once(5, true), Begun::Repeated);
        assert_eq!(inbound.release(5, Planted::default()), Release::TooEarly);
        inbound.attach();
        assert_eq!(inbound.begin_exactly_once(5, true), Begun::Repeated);
        assert_eq!(safe(&mut inbound, serial), [5], "one PUBREC, on the new connection");
        assert_eq!(inbound.begin_exactly_once(5, true), Begun::Repeated);
        assert_eq!(acks(&mut inbound), [5], "known and safe: PUBREC again");
        assert_eq!(inbound.in_use(), 1);
        assert_eq!(inbound.release(5, Planted::default()), Release::Record);
        assert_eq!(inbound.release(5, Planted::default()), Release::Waiting);
        assert_eq!(inbound.in_use(), 1);
        assert!(inbound.released(5));
        assert_eq!(inbound.in_use(), 0);
        assert_eq!(inbound.release(5, Planted::default()), Release::Unknown);
    }

    #[test]
    fn an_id_used_again_before_its_record_is_gone_is_a_new_message() {
        let mut inbound = Inbound::default();
        let Begun::New(first) = inbound.begin_exactly_once(5, true) else { panic!("new") };
        safe(&mut inbound, first);
        assert_eq!(inbound.release(5, Planted::default()), Release::Record);
        let Begun::New(second) = inbound.begin_exactly_once(5, true) else { panic!("new") };
        assert!(!inbound.released(5), "the id has a new message");
        assert_eq!(safe(&mut inbound, second), [5]);
        assert_eq!(inbound.in_use(), 1);
    }
}
