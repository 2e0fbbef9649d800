//! The crash-loop breaker. When life after life ends soon and badly, the first messages of the next one are handed over one by one,
//! each with a mark on the medium before it goes: who finds the mark knows what the last life died of. What two lives died of is
//! given up. Otherwise nothing is written and nobody waits. It hands nothing over itself.

use crate::event::{Op, Recovered};
use crate::event::{RecordKey, RecordKind};
use crate::id::{LaneId, MessageId, Seq, Tag, UpstreamId};
use crate::message::Message;
use crate::mutant::{Mutant, Planted};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Lives in a row that ended soon and badly, before the next one is careful. One may be a power cut.
const BAD_LIVES: u32 = 2;

/// Lives that ended with the mark on one message, before it is given up.
const DEATHS: u8 = 2;

/// A message about to be handed over, while its mark is being made.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) upstream: UpstreamId,
    /// The core's index of the lane.
    pub(crate) lane: usize,
    pub(crate) message: Arc<Message>,
    pub(crate) resend: bool,
    pub(crate) live: bool,
}

/// What is to be done before a message is handed over.
#[derive(Debug)]
pub(crate) enum Before {
    /// Nothing.
    Go,
    /// Make this durable.
    Mark(Op),
    /// So many lives died of it: it is not handed over again.
    GiveUp(u8),
}

#[derive(Debug)]
enum State {
    Free,
    Marking(Held),
    Marked(Held),
    Out(UpstreamId, Tag),
}

#[derive(Debug)]
pub(crate) struct Caution {
    /// Messages that are still handed over one by one.
    left: usize,
    /// What the last life had marked, and how many lives have ended so.
    suspect: Option<(LaneId, MessageId, u8)>,
    state: State,
    planted: Planted,
}

impl Caution {
    /// After so many messages a life that has been careful goes on as usual.
    pub(crate) fn new(recovered: &Recovered, messages: usize) -> Self {
        let careful = recovered.bad_lives >= BAD_LIVES;
        let record = recovered.records.iter().find(|(key, _)| *key == key_of_mark());
        let suspect = record.filter(|_| careful).and_then(|(_, value)| decode(value));
        Self {
            left: if careful { messages } else { 0 },
            suspect: suspect.map(|(lane, id, deaths)| (lane, id, deaths.saturating_add(1))),
            state: State::Free,
            planted: Planted::default(),
        }
    }

    /// A mark that a life has left which was not careful to its end, and that nobody needs.
    pub(crate) fn leftover(&self, recovered: &Recovered) -> Option<Op> {
        let there = recovered.records.iter().any(|(key, _)| *key == key_of_mark());
        (there && !self.is_careful()).then(unmark)
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Whatever comes must be on the medium before it is handed over, or nobody could mark it.
    pub(crate) fn is_careful(&self) -> bool {
        self.left > 0
    }

    /// Nothing may be handed over until the last message is through.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.state, State::Free)
    }

    /// What is to be done before this message is handed over.
    pub(crate) fn before(&mut self, lane: LaneId, id: MessageId) -> Before {
        if self.left == 0 {
            return Before::Go;
        }
        let deaths = match self.suspect {
            Some((of, suspect, deaths)) if (of, suspect) == (lane, id) => deaths,
            _ => 0,
        };
        if deaths >= DEATHS && !self.planted.is(Mutant::DeathsUncounted) {
            // Whoever has it sent again wants to see.
            self.suspect = None;
            return Before::GiveUp(deaths);
        }
        Before::Mark(Op::Put { key: key_of_mark(), value: encode(lane, id, deaths) })
    }

    /// The message waits for its mark.
    pub(crate) fn hold(&mut self, held: Held) {
        self.state = State::Marking(held);
    }

    /// The mark on this message is durable.
    pub(crate) fn marked(&mut self, id: MessageId) {
        self.state = match std::mem::replace(&mut self.state, State::Free) {
            State::Marking(held) if held.message.id == id => State::Marked(held),
            state => state,
        };
    }

    /// The message whose mark is durable: it goes now, or waits its turn again.
    pub(crate) fn next(&mut self) -> Option<Held> {
        self.take(|state| matches!(state, State::Marked(_)))
    }

    /// Something that goes before has come into the lane: what of it waits for its mark, and must now wait its turn.
    pub(crate) fn overtaken(&mut self, lane: usize) -> Option<Held> {
        self.take(|state| matches!(state, State::Marking(held) | State::Marked(held) if held.lane == lane))
    }

    fn take(&mut self, which: impl Fn(&State) -> bool) -> Option<Held> {
        if !which(&self.state) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Free) {
            State::Marking(held) | State::Marked(held) => Some(held),
            State::Free | State::Out(..) => None,
        }
    }

    /// The message is handed over.
    pub(crate) fn out(&mut self, upstream: UpstreamId, tag: Tag) {
        self.state = State::Out(upstream, tag);
        self.left = self.left.saturating_sub(1);
    }

    /// What was handed over is settled, or lost with its link. After the last one the mark goes, and when the message `stays` here:
    /// whatever this life dies of later is not its doing.
    pub(crate) fn through(&mut self, tag: Tag, stays: bool) -> Option<Op> {
        if !matches!(self.state, State::Out(_, out) if out == tag) {
            return None;
        }
        self.state = State::Free;
        (stays || self.left == 0).then(unmark)
    }

    /// An upstream takes nothing for now, and may say nothing of what is under way to it: others do not wait for that.
    pub(crate) fn blocked(&mut self, upstream: UpstreamId) {
        if matches!(self.state, State::Out(of, _) if of == upstream) {
            self.state = State::Free;
        }
    }

    /// The store can make no mark: what waits on it must leave all the same. Gives the message that waited.
    pub(crate) fn give_up(&mut self) -> Option<Held> {
        let held = self.take(|state| matches!(state, State::Marking(_)));
        if held.is_some() {
            self.left = 0;
        }
        held
    }
}

/// The mark goes.
pub(crate) fn unmark() -> Op {
    Op::Remove { key: key_of_mark() }
}

fn key_of_mark() -> RecordKey {
    RecordKey { kind: RecordKind::Mark, key: Bytes::new() }
}

fn encode(lane: LaneId, id: MessageId, deaths: u8) -> Bytes {
    let mut out = BytesMut::with_capacity(19);
    out.put_u16(lane.0);
    out.put_u64(id.epoch);
    out.put_u64(id.seq.0);
    out.put_u8(deaths);
    out.freeze()
}

fn decode(mut value: &[u8]) -> Option<(LaneId, MessageId, u8)> {
    let lane = LaneId(value.try_get_u16().ok()?);
    let id = MessageId { epoch: value.try_get_u64().ok()?, seq: Seq(value.try_get_u64().ok()?) };
    Some((lane, id, value.try_get_u8().ok()?))
}
