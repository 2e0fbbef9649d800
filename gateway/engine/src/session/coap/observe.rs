//! Who observes what (RFC 7641): observations, found by topic, by peer and token, and by when something is due. Bounded.
//! Keeps what a slow observer has not got yet; sends nothing.

use super::peer::Address;
use crate::id::DeviceId;
use crate::message::Message;
use crate::time::{Duration, Instant, Now};
use crate::topic::{Filter, Topic};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidegate_wire::coap::Token;

/// Commands that wait for one observer; the ones beyond are counted as dropped.
const COMMANDS_WAITING: usize = 32;

/// An observer of which nothing has been heard for so long may be gone: what it is told wants an acknowledgement once an hour.
const UNHEARD: Duration = Duration::from_secs(3_600);

/// Observations that are looked at to find one that may be gone: work that does not grow with their number.
const LOOKED_AT: usize = 64;

/// What an observation is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A topic: the newest value counts.
    Topic(Topic),
    /// The commands for a device: each counts.
    Commands(DeviceId),
}

impl Target {
    /// The filter of a device's commands.
    pub(super) fn commands(device: &DeviceId) -> Option<Filter> {
        Filter::new(&format!("commands/{device}/#")).ok()
    }
}

/// A notification that wants an acknowledgement and has none yet.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) message: Arc<Message>,
    pub(super) sequence: u32,
    pub(super) message_id: u16,
    pub(super) repeats: u8,
    /// How long the last wait is.
    pub(super) wait: Duration,
    pub(super) sent: Instant,
}

/// An observation.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) asked: New,
    /// What it has not got yet: of a topic the newest, of commands all, in order.
    pub(super) waiting: VecDeque<Arc<Message>>,
    pub(super) flight: Option<Flight>,
    /// When the last acknowledgement came.
    pub(super) confirmed: Option<Instant>,
    /// When it was asked for, or an acknowledgement came.
    heard: Instant,
    /// When its last notification that wants an acknowledgement went for the first time.
    pub(super) flown: Option<Instant>,
    /// From a notification to its acknowledgement, lately.
    pub(super) round_trip: Option<Duration>,
    /// Notifications since then that wanted none, and the message id of the last of them: it may be rejected, too.
    pub(super) unconfirmed: u8,
    pub(super) unconfirmed_id: Option<u16>,
    /// No earlier than this the next one that wants none (RFC 7641, 4.5.1).
    pub(super) not_before: Instant,
    due: Option<Instant>,
}

impl Observer {
    /// Has a message wait. False when one was dropped for it.
    pub(super) fn push(&mut self, message: &Arc<Message>) -> bool {
        match self.asked.target {
            Target::Topic(_) => self.waiting.clear(),
            Target::Commands(_) if self.waiting.len() >= COMMANDS_WAITING => return false,
            Target::Commands(_) => {}
        }
        self.waiting.push_back(Arc::clone(message));
        true
    }
}

/// What was asked for with an observation.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) address: Address,
    pub(super) token: Token,
    pub(super) target: Target,
    /// As whom it was made, and whether that was proved.
    pub(super) device: DeviceId,
    pub(super) proved: bool,
    /// The only content format that it takes.
    pub(super) accept: Option<u16>,
    /// The size of blocks that it asked for.
    pub(super) exponent: u8,
    /// Which resource it is, for the blocks that are fetched behind a notification.
    pub(super) resource: u64,
    /// The longest notification until its place is proved, in bytes.
    pub(super) room: usize,
    /// It asked for notifications that want an acknowledgement, or that want none.
    pub(super) confirmable: Option<bool>,
}

/// An observation's number, never used again.
pub(super) type Number = u64;

/// All observations.
#[derive(Debug, Default)]
pub(super) struct Observers {
    all: BTreeMap<Number, Observer>,
    by_token: BTreeMap<(Address, Token), Number>,
    by_target: BTreeSet<(Target, Number)>,
    /// By whether it was proved who they are, and when they were heard of.
    by_heard: BTreeSet<(bool, Instant, Number)>,
    due: BTreeSet<(Instant, Number)>,
    next: Number,
    sequence: u32,
    /// The wall clock when the engine's own began, in milliseconds since 1970: see [`next_sequence`](Self::next_sequence).
    origin_ms: u64,
}

impl Observers {
    /// Nobody yet.
    pub(super) fn new(now: Now) -> Self {
        let origin_ms = now.wall.unix_ms.cast_unsigned().wrapping_sub(now.instant.0 / 1_000);
        let sequence = (now.wall.unix_ms.wrapping_sub(1) & 0xFF_FFFF).try_into().unwrap_or(0);
        Self { origin_ms, sequence, ..Self::default() }
    }

    /// As if every life of the gateway began at the same time.
    #[cfg(feature = "mutants")]
    pub(super) fn forget_origin(&mut self) {
        (self.origin_ms, self.sequence) = (0, 0);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Observations of one peer.
    pub(super) fn at(&self, address: Address) -> Vec<Number> {
        let from = (address, Token::EMPTY);
        let range = self.by_token.range(from..).take_while(|((other, _), _)| *other == address);
        range.map(|(_, number)| *number).collect()
    }

    pub(super) fn find(&self, address: Address, token: Token) -> Option<Number> {
        self.by_token.get(&(address, token)).copied()
    }

    /// The observation whose last notification that wants no acknowledgement has this message id.
    pub(super) fn told(&self, address: Address, message_id: u16) -> Option<Number> {
        let of = |number: &Number| self.all.get(number).and_then(|observer| observer.unconfirmed_id);
        self.at(address).into_iter().find(|number| of(number) == Some(message_id))
    }

    /// The observation whose notification has this message id.
    pub(super) fn flying(&self, address: Address, message_id: u16) -> Option<Number> {
        self.at(address).into_iter().find(|number| {
            self.all
                .get(number)
                .and_then(|observer| observer.flight.as_ref())
                .is_some_and(|flight| flight.message_id == message_id)
        })
    }

    /// Observations that a message is for.
    pub(super) fn of(&self, topic: &Topic) -> Vec<Number> {
        let mut found = Vec::new();
        let mut gather = |target: Target| {
            let range = (target.clone(), 0)..=(target, Number::MAX);
            found.extend(self.by_target.range(range).map(|(_, number)| *number));
        };
        gather(Target::Topic(topic.clone()));
        if let Some(device) = commanded(topic) {
            gather(Target::Commands(device));
        }
        found
    }

    /// Makes an observation. The one before with the same token has been removed.
    pub(super) fn insert(&mut self, now: Instant, new: New) -> Number {
        let number = self.next;
        self.next += 1;
        self.by_token.insert((new.address, new.token), number);
        self.by_target.insert((new.target.clone(), number));
        self.by_heard.insert((new.proved, now, number));
        self.all.insert(
            number,
            Observer {
                asked: new,
                waiting: VecDeque::new(),
                flight: None,
                confirmed: None,
                heard: now,
                flown: None,
                round_trip: None,
                unconfirmed: 0,
                unconfirmed_id: None,
                not_before: now,
                due: None,
            },
        );
        number
    }

    /// Takes over what a peer asks for once more. False when it is another observation under the same token.
    pub(super) fn renew(&mut self, now: Instant, number: Number, new: &New) -> bool {
        let Some(observer) = self.all.get_mut(&number) else { return false };
        if (&observer.asked.target, &observer.asked.device, observer.asked.proved)
            != (&new.target, &new.device, new.proved)
        {
            return false;
        }
        let room = observer.asked.room.max(new.room);
        observer.asked = New { room, ..new.clone() };
        self.hear(now, number);
        true
    }

    /// Notes that an observer was heard of.
    pub(super) fn hear(&mut self, now: Instant, number: Number) {
        if let Some(observer) = self.all.get_mut(&number) {
            self.by_heard.remove(&(observer.asked.proved, observer.heard, number));
            observer.heard = now;
            self.by_heard.insert((observer.asked.proved, now, number));
        }
    }

    /// The observation that is most likely nobody's any more: the same device's of the same, for that has come back with another
    /// address or token; else one that was not heard of for long, of those who have proved nothing first. Of one peer, or of all.
    pub(super) fn abandoned(&self, now: Instant, new: &New, of: Option<Address>) -> Option<Number> {
        let its = |number: &Number| {
            of.is_none_or(|of| self.all.get(number).is_some_and(|one| one.asked.address == of))
        };
        let same = (new.target.clone(), 0)..=(new.target.clone(), Number::MAX);
        let same = self.by_target.range(same).map(|(_, number)| *number).take(LOOKED_AT);
        let own = same.filter(its).filter(|number| {
            self.all
                .get(number)
                .is_some_and(|one| (&one.asked.device, one.asked.proved) == (&new.device, new.proved))
        });
        let oldest_own = own.min_by_key(|number| self.all.get(number).map(|one| one.heard));
        let oldest = |proved: bool| {
            let all = self.by_heard.range((proved, Instant(0), 0)..=(proved, Instant(u64::MAX), Number::MAX));
            let mut gone = all.take_while(|(_, heard, _)| now.since(*heard) >= UNHEARD).take(LOOKED_AT);
            gone.find(|(.., number)| its(number)).map(|(.., number)| *number)
        };
        oldest_own.or_else(|| oldest(false)).or_else(|| oldest(true).filter(|_| new.proved))
    }

    pub(super) fn get(&self, number: Number) -> Option<&Observer> {
        self.all.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: Number) -> Option<&mut Observer> {
        self.all.get_mut(&number)
    }

    pub(super) fn remove(&mut self, number: Number) -> Option<Observer> {
        let observer = self.all.remove(&number)?;
        self.by_token.remove(&(observer.asked.address, observer.asked.token));
        self.by_target.remove(&(observer.asked.target.clone(), number));
        self.by_heard.remove(&(observer.asked.proved, observer.heard, number));
        if let Some(due) = observer.due {
            self.due.remove(&(due, number));
        }
        Some(observer)
    }

    /// Sets when something is to be done for an observation.
    pub(super) fn arm(&mut self, number: Number, due: Option<Instant>) {
        let Some(observer) = self.all.get_mut(&number) else { return };
        if let Some(before) = core::mem::replace(&mut observer.due, due) {
            self.due.remove(&(before, number));
        }
        if let Some(due) = due {
            self.due.insert((due, number));
        }
    }

    /// The next observation for which the time has come.
    pub(super) fn due(&self, now: Instant) -> Option<Number> {
        self.due.first().filter(|(due, _)| *due <= now).map(|(_, number)| *number)
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next notification's number (RFC 7641, 3.4 and 4.4): it grows with the clock, in milliseconds, so that it stands above
    /// those of an earlier observation, and never stands still. It begins where the wall clock stands: a device that makes its
    /// observation anew after a restart, under the same token, would take a smaller number for an old one for 128 s.
    pub(super) fn next_sequence(&mut self, now: Instant) -> u32 {
        const BITS: u64 = 0xFF_FFFF;
        let by_clock = u32::try_from(self.origin_ms.wrapping_add(now.0 / 1_000) & BITS).unwrap_or(0);
        let ahead = by_clock.wrapping_sub(self.sequence) & 0xFF_FFFF;
        // Half of the circle lies ahead.
        let next = if ahead == 0 || ahead >= 1 << 23 { self.sequence.wrapping_add(1) } else { by_clock };
        self.sequence = next & 0xFF_FFFF;
        self.sequence
    }
}

/// The device that a topic has a command for.
pub(super) fn commanded(topic: &Topic) -> Option<DeviceId> {
    let mut levels = topic.levels();
    match (levels.next(), levels.next()) {
        (Some("commands"), Some(device)) => DeviceId::new(device).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Observers;
    use crate::time::{Instant, Now, Stamp};

    #[test]
    fn a_later_life_begins_above_an_earlier_one() {
        let at =
            |unix_ms, micros| Now { instant: Instant(micros), wall: Stamp { unix_ms, synchronised: false } };
        let mut before = Observers::new(at(1_790_000_000_000, 0));
        let last = before.next_sequence(Instant(3_600_000_000));
        // An hour later the process begins again, and its clock at zero.
        let first = Observers::new(at(1_790_003_600_900, 0)).next_sequence(Instant(0));
        assert_eq!(first.wrapping_sub(last) & 0xFF_FFFF, 900);
        // A board that does not know the year counts from there.
        assert_eq!(Observers::new(at(-1, 0)).next_sequence(Instant(2_000)), 1);
    }

    #[test]
    fn sequence_numbers_ascend_whatever_the_clock_does() {
        let mut observers = Observers::default();
        let ascends = |before: u32, after: u32| {
            let ahead = after.wrapping_sub(before) & 0xFF_FFFF;
            ahead > 0 && ahead < 1 << 23
        };
        let mut before = observers.next_sequence(Instant(5_000_000));
        for micros in [5_000_000, 5_000_000, 5_000_500, 5_002_000, 1 << 33, (1 << 34) - 1, 1 << 34, 1 << 34] {
            let after = observers.next_sequence(Instant(micros));
            assert!(ascends(before, after), "{before} {after} at {micros}");
            before = after;
        }
    }
}
