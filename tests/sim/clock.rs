//! The virtual clock: one queue of events, in microseconds, first by time and then by the order of scheduling.
//! Nothing here reads a real clock.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Time and what is to come.
#[derive(Debug)]
pub(crate) struct Clock<E> {
    now: u64,
    scheduled: u64,
    queue: BinaryHeap<Entry<E>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: u64,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives the greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> Clock<E> {
    pub(crate) fn new() -> Self {
        Self { now: 0, scheduled: 0, queue: BinaryHeap::new() }
    }

    /// Microseconds since the beginning of the seed.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Schedules an event `after` microseconds from now.
    pub(crate) fn after(&mut self, after: u64, event: E) {
        self.at(self.now + after, event);
    }

    /// Schedules an event at a time, or now when that has passed.
    pub(crate) fn at(&mut self, at: u64, event: E) {
        self.scheduled += 1;
        self.queue.push(Entry { at: at.max(self.now), order: self.scheduled, event });
    }

    /// The next event; time moves to it.
    pub(crate) fn next(&mut self) -> Option<E> {
        let entry = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
