//! A part of a lane in memory: messages in their order, and from where on there may be one to hand over. Knows no disk, no other part
//! and no policy.

use super::{Entry, Place, State};
use crate::id::Seq;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Part {
    /// Ascending; entries that are gone stay until they are at the front or too many.
    entries: VecDeque<Entry>,
    gone: usize,
    bytes: usize,
    /// Entries before this index have nothing to hand over.
    cursor: usize,
}

impl Part {
    /// Messages in it.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.gone
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one more message stays within both bounds; the first one always does.
    pub(super) fn has_room(&self, footprint: usize, messages: usize, bytes: usize) -> bool {
        self.is_empty() || (self.len() < messages && self.bytes + footprint <= bytes)
    }

    /// At most half of the bounds is there.
    pub(super) fn is_low(&self, messages: usize, bytes: usize) -> bool {
        self.len() * 2 <= messages && self.bytes * 2 <= bytes
    }

    /// The messages, in their order.
    pub(super) fn there(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.state != State::Gone)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.footprint();
        self.entries.push_back(entry);
    }

    /// Puts a message that had left in its place among the others.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.bytes += entry.message.footprint();
        match self.entries.binary_search_by_key(&entry.seq, |entry| entry.seq) {
            // What is left of it from before, which counts for nothing any more.
            Ok(index) => {
                self.entries.remove(index);
                self.gone = self.gone.saturating_sub(1);
                self.entries.insert(index, entry);
            }
            Err(index) => self.entries.insert(index, entry),
        }
        self.rewind();
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        // Confirms come mostly in order: look at the front first.
        if self.entries.front().is_some_and(|entry| entry.seq == seq) {
            return Some(0);
        }
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()
    }

    pub(super) fn get(&mut self, seq: Seq) -> Option<&mut Entry> {
        let index = self.index(seq)?;
        self.entries.get_mut(index).filter(|entry| entry.state != State::Gone)
    }

    /// Where the next message stands that may be handed over; none behind one that `stops`.
    pub(super) fn next(
        &mut self,
        stops: impl Fn(&Entry) -> bool,
        may_send: impl Fn(&Entry) -> bool,
    ) -> Option<usize> {
        while let Some(entry) = self.entries.get(self.cursor) {
            if entry.state == State::Waiting {
                if stops(entry) {
                    return None;
                }
                if may_send(entry) {
                    return Some(self.cursor);
                }
            }
            self.cursor += 1;
        }
        None
    }

    /// Whether the search for the next message has ended at one that is on the medium.
    pub(super) fn waits_on_disk(&self) -> bool {
        let found = self.entries.get(self.cursor);
        found.is_some_and(|entry| entry.state == State::Waiting && entry.place == Place::Disk)
    }

    pub(super) fn at(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index)
    }

    /// Begin again at the front when looking for the next message.
    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Takes a message out; whether it was there.
    pub(super) fn remove(&mut self, seq: Seq) -> bool {
        let Some(index) = self.index(seq) else { return false };
        let Some(entry) = self.entries.get_mut(index) else { return false };
        if entry.state == State::Gone {
            return false;
        }
        entry.state = State::Gone;
        self.gone += 1;
        self.bytes -= entry.message.footprint();
        while self.entries.front().is_some_and(|entry| entry.state == State::Gone) {
            self.entries.pop_front();
            self.gone -= 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
        if self.gone * 2 > self.entries.len() && self.gone > 64 {
            self.entries.retain(|entry| entry.state != State::Gone);
            self.gone = 0;
            self.cursor = 0;
        }
        true
    }
}
