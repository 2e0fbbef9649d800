//! A broker, as the upstream contract sees it: takes messages in the order in which they were handed over, and says
//! late, in groups, out of order, twice or never what became of each. What it took is the oracle's to write down.

use super::plan::{MS, SECOND};
use fastrand::Rng;
use std::collections::VecDeque;
use std::ops::Range;
use tidegate_engine::event::{Outcome, Publication};
use tidegate_engine::message::Source;

/// How a broker behaves for a while.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    /// From handing over to arrival.
    pub(crate) latency: Range<u64>,
    /// From arrival to settlement.
    pub(crate) answer: Range<u64>,
    /// Settlements come at multiples of this.
    pub(crate) group: u64,
    /// In per mille: refused for now.
    pub(crate) nacks: u16,
    /// In per mille: not routable.
    pub(crate) returns: u16,
    /// In per mille: taken, but never settled.
    pub(crate) swallows: u16,
    /// In per mille: neither taken nor settled, nor anything after it on that connection.
    pub(crate) ignores: u16,
    /// In per mille: settled twice.
    pub(crate) doubles: u16,
}

impl Mood {
    /// As it should be.
    pub(crate) fn healthy() -> Self {
        Self {
            latency: 100..2 * MS,
            answer: 200..8 * MS,
            group: 1,
            nacks: 0,
            returns: 0,
            swallows: 0,
            ignores: 0,
            doubles: 0,
        }
    }
}

/// What happens to a broker when its mood changes.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// It goes on in another mood.
    Mood(Mood),
    /// It asks for a pause of so long.
    Blocked(u64),
    /// It drops the connection and is away for so long; what was on its way has arrived before, or not.
    Away { pause: u64, took: bool },
}

/// Draws what comes next.
pub(crate) fn turn(rng: &mut Rng) -> Turn {
    let mut mood = Mood::healthy();
    match rng.u8(..12) {
        0 | 1 => {
            mood.latency = MS..80 * MS;
            mood.answer = MS..rng.u64(10 * MS..2 * SECOND);
        }
        2 => mood.group = rng.u64(20 * MS..700 * MS),
        3 => mood.nacks = rng.u16(20..700),
        4 => mood.returns = rng.u16(20..1_000),
        5 => mood.swallows = rng.u16(10..400),
        6 => mood.ignores = rng.u16(10..400),
        7 => {
            mood.nacks = rng.u16(..200);
            mood.returns = rng.u16(..100);
            mood.swallows = rng.u16(..60);
            mood.doubles = rng.u16(..300);
            mood.answer = MS..rng.u64(10 * MS..SECOND);
        }
        8 => return Turn::Blocked(rng.u64(10 * MS..3 * SECOND)),
        9 => return Turn::Away { pause: rng.u64(10 * MS..300 * MS), took: rng.bool() },
        10 => return Turn::Away { pause: rng.u64(SECOND..8 * SECOND), took: rng.bool() },
        _ => {}
    }
    Turn::Mood(mood)
}

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) publication: Publication,
    /// The engine's step at which it was handed over.
    pub(crate) step: u64,
}

/// A number that follows from a payload, so that what is wrong with a message stays wrong with it.
pub(crate) fn mixed(payload: &[u8]) -> u64 {
    payload.iter().take(8).fold(0xcbf2_9ce4_8422_2325_u64, |mixed, byte| {
        (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What the broker does with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The consumer gets it.
    pub(crate) takes: bool,
    /// What it says, if anything.
    pub(crate) outcome: Option<Outcome>,
}

/// One broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) mood: Mood,
    /// The connection's number; an odd one is up. Everything that was scheduled for another number is void.
    pub(crate) connection: u64,
    /// The engine has been told of this connection: what it hands over now is meant for it.
    pub(crate) known: u64,
    pub(crate) blocked: bool,
    /// It has ignored a message. From there on it ignores all until the link breaks: a broker that drops one and takes
    /// the next breaks the order of the link, which nobody could mend.
    stuck: bool,
    /// Until when it does not come back.
    pub(crate) away_until: u64,
    /// On its way, or waiting while blocked; in order.
    pub(crate) queue: VecDeque<Handed>,
    /// When the last of the queue arrives.
    last_arrival: u64,
    /// Messages that this broker never takes, in per mille.
    poison: u16,
}

impl Broker {
    pub(crate) fn new(poison: u16) -> Self {
        Self {
            mood: Mood::healthy(),
            connection: 0,
            known: 0,
            blocked: false,
            stuck: false,
            away_until: 0,
            queue: VecDeque::new(),
            last_arrival: 0,
            poison,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.connection % 2 == 1
    }

    /// Takes a message over from the gateway, and says when it arrives. `None` when the link is down: it is lost.
    pub(crate) fn hand(&mut self, now: u64, rng: &mut Rng, handed: Handed) -> Option<u64> {
        if !self.is_up() || self.known != self.connection {
            return None;
        }
        self.queue.push_back(handed);
        self.last_arrival = self.last_arrival.max(now + rng.u64(self.mood.latency.clone()));
        Some(self.last_arrival)
    }

    /// Takes the first messages that are on their way: they arrive just before the link breaks.
    pub(crate) fn last_arrivals(&mut self, count: usize) -> Vec<Handed> {
        self.queue.drain(..count.min(self.queue.len())).collect()
    }

    /// The link breaks. What is on its way is gone.
    pub(crate) fn drop_link(&mut self) {
        self.connection += self.connection % 2;
        self.blocked = false;
        self.stuck = false;
        self.last_arrival = 0;
        self.queue.clear();
    }

    /// Everything that was wrong with it ends.
    pub(crate) fn heal(&mut self) {
        self.mood = Mood::healthy();
        self.away_until = 0;
    }

    /// What becomes of a message that has arrived. Whether one is poison follows from its payload, so that it
    /// stays so for ever.
    pub(crate) fn judge(&mut self, rng: &mut Rng, handed: &Handed) -> Verdict {
        let say = |takes, outcome| Verdict { takes, outcome: Some(outcome) };
        if self.stuck {
            return Verdict { takes: false, outcome: None };
        }
        // What tells of losses is never poison: it would be told for ever.
        if self.poison > 0 && handed.publication.message.source != Source::Gateway {
            let mixed = mixed(&handed.publication.message.payload);
            if mixed >> 20 & 1023 < self.poison.into() {
                return match mixed & 1 {
                    0 => say(false, Outcome::Returned("no queue is bound to it".into())),
                    _ => say(false, Outcome::Refused("precondition failed".into())),
                };
            }
        }
        let draw = rng.u16(..1_000);
        let mut bound = 0;
        let mut falls = |chance: u16| {
            bound += chance;
            draw < bound
        };
        if falls(self.mood.nacks) {
            say(false, Outcome::Nacked)
        } else if falls(self.mood.returns) {
            say(false, Outcome::Returned("no route".into()))
        } else if falls(self.mood.swallows) {
            Verdict { takes: true, outcome: None }
        } else if falls(self.mood.ignores) {
            self.stuck = true;
            Verdict { takes: false, outcome: None }
        } else {
            say(true, Outcome::Confirmed)
        }
    }

    /// When the settlement of a message that arrives now is said.
    pub(crate) fn answers_at(&self, now: u64, rng: &mut Rng) -> u64 {
        (now + rng.u64(self.mood.answer.clone())).next_multiple_of(self.mood.group)
    }
}
