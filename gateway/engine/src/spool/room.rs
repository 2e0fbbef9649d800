//! Room: when the spool, or a route's part of it, is full, and what is discarded then by the operator's word, or because it has expired. Only messages that
//! are on the medium and not under way are discarded among what waits; what comes is discarded before it is anywhere.

use super::{Spool, Way};
use crate::event::{Durability, Keep, LossReason, WhenFull};
use crate::lane::Lane;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::time::Stamp;
use std::sync::Arc;

/// Messages that are discarded at once at the most: their removal is one commit.
const DISCARDS_AT_ONCE: usize = 512;

/// A message that is discarded.
#[derive(Debug)]
pub(crate) struct Discard {
    /// The core's index of its lane.
    pub(crate) lane: usize,
    pub(crate) message: Arc<Message>,
    pub(crate) reason: LossReason,
}

impl Spool {
    /// Whether a message that comes now is to be discarded.
    pub(crate) fn discards_newest(&self, index: usize, way: Way) -> bool {
        let Some(lane) = self.lanes.get(index) else { return false };
        let relayed = way == Way::Relay && lane.tail.is_none() && lane.durability != Durability::Disk;
        lane.policy.when_full == WhenFull::DropNewest && !relayed && (self.is_full() || lane.is_full())
    }

    /// A message that came was discarded.
    pub(crate) fn discarded_newest(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.stats.entered += 1;
            lane.stats.discarded += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.disk_bytes() >= self.bytes_max
    }

    /// From how many bytes on the disk devices are told to hold: a little more than the spool's bound where something can be
    /// discarded instead of that, as making room takes a while.
    pub(crate) fn hold_at(&self) -> u64 {
        let refuses = self.lanes.iter().any(|lane| lane.policy.when_full == WhenFull::Refuse);
        let makes_room = |lane: &Lane| lane.policy.when_full.makes_room() && lane.stats.on_disk > 0;
        if refuses && !self.lanes.iter().any(makes_room) {
            self.bytes_max
        } else {
            self.bytes_max.saturating_add(self.bytes_max / 8)
        }
    }

    /// What was discarded is gone from the medium.
    pub(crate) fn discarded(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.discarding = false);
    }

    /// What is discarded now: what has expired, and so that there is room what the routes allow, those of low priority first. It then
    /// counts as gone.
    pub(crate) fn make_room(&mut self, now: Stamp) -> Vec<Discard> {
        let refuse_too = self.planted.is(Mutant::RefuseDiscards);
        let mut discards = Vec::new();
        let planted = self.planted;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let expired = match () {
                () if planted.is(Mutant::ExpiredGoes) => Vec::new(),
                () if planted.is(Mutant::ExpiresByTheClock) => lane.expired_by_the_clock(now),
                () => lane.expired(),
            };
            for message in expired {
                if discards.len() < DISCARDS_AT_ONCE {
                    lane.discard_one(message, LossReason::Expired, index, &mut discards);
                }
            }
        }
        let full = self.is_full();
        let allows = |lane: &Lane| lane.policy.when_full.makes_room() || refuse_too && full;
        let mut lanes: Vec<usize> =
            (0..self.lanes.len()).filter(|&index| self.lanes.get(index).is_some_and(allows)).collect();
        lanes.sort_by_key(|&index| self.lanes.get(index).map(|lane| lane.priority));
        let memory = self.memory();
        for index in lanes {
            // Some more than needed, so that it is not done for each message.
            let above = |bytes: u64, most: u64| bytes.saturating_sub(most - most / 16);
            let of_spool = if full { above(self.disk_bytes(), self.bytes_max) } else { 0 };
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            let of_lane = if lane.is_full() {
                above(lane.stats.on_disk_bytes, lane.policy.max_bytes.unwrap_or(u64::MAX))
            } else {
                0
            };
            let needed = of_spool.max(of_lane);
            if needed == 0 {
                // Nearly always, and asked in every turn: nothing of the lane is looked at.
                lane.wants_room = false;
                continue;
            }
            let freed = lane.discard(needed, memory, index, &mut discards);
            lane.wants_room = freed < needed && lane.tail.is_some();
        }
        discards
    }
}

impl Lane {
    fn is_full(&self) -> bool {
        self.policy.max_bytes.is_some_and(|most| self.stats.on_disk_bytes >= most)
    }

    /// Discards messages until so many bytes are free, as far as there are any in memory; returns how many bytes it were.
    fn discard(
        &mut self,
        needed: u64,
        memory: (usize, usize),
        index: usize,
        discards: &mut Vec<Discard>,
    ) -> u64 {
        let mut freed = 0;
        if let WhenFull::Thin(keep) = self.policy.when_full {
            freed = self.thin(needed, keep, index, discards);
            // There is more to be thinned here, or where this came from with room for it in memory.
            let at_end = freed < needed && discards.len() < DISCARDS_AT_ONCE;
            if !at_end || (self.tail.is_some() && self.is_low(memory)) {
                return freed;
            }
            self.thinning.begin_again();
            freed += self.thin(needed - freed, keep, index, discards);
        }
        while freed < needed && discards.len() < DISCARDS_AT_ONCE {
            let Some(message) = self.on_medium().next() else { break };
            freed += self.discard_one(message, LossReason::DroppedOldest, index, discards);
        }
        freed
    }

    fn thin(&mut self, needed: u64, keep: Keep, index: usize, discards: &mut Vec<Discard>) -> u64 {
        let upto = self.thinning.upto();
        let ahead: Vec<_> = self.on_medium().filter(|message| message.id.seq > upto).collect();
        let mut freed = 0;
        for message in ahead {
            if freed >= needed || discards.len() >= DISCARDS_AT_ONCE {
                break;
            }
            if !self.thinning.keeps(&message, keep) {
                freed += self.discard_one(message, LossReason::Thinned, index, discards);
            }
        }
        freed
    }

    fn discard_one(
        &mut self,
        message: Arc<Message>,
        reason: LossReason,
        lane: usize,
        discards: &mut Vec<Discard>,
    ) -> u64 {
        let footprint = message.footprint();
        self.left_disk(footprint);
        self.remove(message.id.seq);
        self.stats.waiting = self.stats.waiting.saturating_sub(1);
        self.stats.discarded += 1;
        self.discarding = true;
        discards.push(Discard { lane, message, reason });
        footprint as u64
    }
}
