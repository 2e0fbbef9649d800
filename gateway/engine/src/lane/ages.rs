//! How long the messages of a lane have waited, in elapsed time: what passes in a life is counted by its monotonic clock and written down
//! now and then; the next life goes on counting from there. So a message is never taken for older than it is, whatever the wall clock
//! does; how long the gateway was off, and what was not written down, count for nothing. It expires nothing itself.

use crate::id::Seq;
use crate::time::{Duration, Instant};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Messages that came within this part of their time are told apart no further: the first of them waits so much longer.
const PARTS: u32 = 32;
/// More groups than a time has parts: they come about when the time is made shorter.
const GROUPS_MOST: usize = 64;

/// Messages that came one after the other.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The last of them.
    last: Seq,
    /// All of them had come by then, in microseconds of the lane's count.
    by: u64,
}

#[derive(Debug)]
pub(super) struct Ages {
    expires_after: Duration,
    /// What earlier lives counted, in microseconds.
    counted: u64,
    /// When this life began to count.
    since: Instant,
    /// In the order of acceptance.
    groups: VecDeque<Group>,
    expired: Seq,
    /// When it was written down last.
    written: Instant,
}

impl Ages {
    /// `last`: the last message that is there already; `record`: what an earlier life has written down of it.
    pub(super) fn new(expires_after: Duration, now: Instant, last: Seq, record: Option<&[u8]>) -> Self {
        let (counted, mut groups) = record.and_then(decode).unwrap_or_default();
        // What was above it never reached the medium, and its numbers are given again.
        groups.iter_mut().for_each(|group| group.last = group.last.min(last));
        let mut ages = Self { expires_after, counted, since: now, groups, expired: Seq(0), written: now };
        if ages.groups.back().is_none_or(|group| group.last < last) {
            // All that is known of the rest is that it is there.
            ages.groups.push_back(Group { last, by: counted });
        }
        ages
    }

    pub(super) fn set_time(&mut self, expires_after: Duration) {
        self.expires_after = expires_after;
    }

    fn count(&self, now: Instant) -> u64 {
        self.counted.saturating_add(micros(now.since(self.since)))
    }

    /// A message has come.
    pub(super) fn came(&mut self, now: Instant, seq: Seq) {
        let count = self.count(now);
        match self.groups.back_mut() {
            Some(group) if count <= group.by => group.last = seq,
            _ => self
                .groups
                .push_back(Group { last: seq, by: count.saturating_add(micros(self.expires_after / PARTS)) }),
        }
        if self.groups.len() > GROUPS_MOST {
            // The second one's time holds for both.
            self.groups.pop_front();
        }
    }

    /// Time has passed.
    pub(super) fn age(&mut self, now: Instant) {
        let count = self.count(now);
        let time = micros(self.expires_after);
        while let Some(group) = self.groups.pop_front_if(|group| group.by.saturating_add(time) <= count) {
            self.expired = self.expired.max(group.last);
        }
    }

    /// Everything up to this one has waited too long.
    pub(super) fn expired(&self) -> Seq {
        self.expired
    }

    /// When the next messages expire.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let due = self.groups.front()?.by.saturating_add(micros(self.expires_after));
        Some(self.since.after(Duration::from_micros(due.saturating_sub(self.counted))))
    }

    /// When it is to be written down again.
    pub(super) fn write_at(&self, every: Duration) -> Instant {
        self.written.after(every)
    }

    /// It is not written down this time.
    pub(super) fn pass(&mut self, now: Instant) {
        self.written = now;
    }

    /// What is to be written down.
    pub(super) fn record(&mut self, now: Instant) -> Bytes {
        self.written = now;
        let mut out = BytesMut::with_capacity(8 + 16 * self.groups.len());
        out.put_u64(self.count(now));
        for group in &self.groups {
            out.put_u64(group.last.0);
            out.put_u64(group.by);
        }
        out.freeze()
    }
}

fn decode(mut record: &[u8]) -> Option<(u64, VecDeque<Group>)> {
    let counted = record.try_get_u64().ok()?;
    let mut groups = VecDeque::new();
    while record.has_remaining() && groups.len() < GROUPS_MOST {
        let last = Seq(record.try_get_u64().ok()?);
        groups.push_back(Group { last, by: record.try_get_u64().ok()? });
    }
    Some((counted, groups))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Ages;
    use crate::id::Seq;
    use crate::time::{Duration, Instant};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    fn expired(ages: &mut Ages, now: Instant) -> Seq {
        ages.age(now);
        ages.expired()
    }

    #[test]
    fn a_message_expires_when_its_time_is_over_and_soon_after() {
        let mut ages = Ages::new(HOUR, at(0), Seq(0), None);
        for seq in 1..=3_600 {
            ages.came(at(seq), Seq(seq));
        }
        assert_eq!(expired(&mut ages, at(3_599)), Seq(0));
        for now in [3_700, 4_000, 5_000, 7_000] {
            let Seq(expired) = expired(&mut ages, at(now));
            assert!(expired <= now - 3_600 && expired + 230 > now - 3_600, "{expired} at {now}");
        }
        assert!(ages.timeout().is_some_and(|next| next > at(7_000) && next < at(7_300)));
        assert_eq!(expired(&mut ages, at(9_000)), Seq(3_600));
        assert_eq!(ages.timeout(), None);
    }

    #[test]
    fn the_next_life_counts_on_from_what_was_written_down() {
        let mut ages = Ages::new(HOUR, at(0), Seq(0), None);
        ages.came(at(10), Seq(7));
        let record = ages.record(at(3_000));
        ages.came(at(3_500), Seq(8));
        let mut next = Ages::new(HOUR, at(90_000), Seq(8), Some(&record));
        assert_eq!(expired(&mut next, at(90_600)), Seq(0));
        assert_eq!(
            expired(&mut next, at(90_740)),
            Seq(7),
            "3,000 s in the first life and some in the second"
        );
        assert_eq!(expired(&mut next, at(93_599)), Seq(7));
        assert_eq!(expired(&mut next, at(93_600)), Seq(8), "of which only the second life knows");
    }

    #[test]
    fn numbers_that_a_crash_took_back_do_not_expire_who_gets_them_again() {
        let mut ages = Ages::new(HOUR, at(0), Seq(0), None);
        ages.came(at(10), Seq(7));
        ages.came(at(3_000), Seq(9));
        let record = ages.record(at(3_500));
        let mut next = Ages::new(HOUR, at(90_000), Seq(7), Some(&record));
        next.came(at(90_500), Seq(8));
        assert_eq!(expired(&mut next, at(93_300)), Seq(7));
    }

    #[test]
    fn what_is_there_already_when_a_time_is_set_counts_from_then_on() {
        let mut ages = Ages::new(HOUR, at(500), Seq(99), Some(b"unreadable"));
        assert_eq!(expired(&mut ages, at(4_000)), Seq(0));
        assert_eq!(expired(&mut ages, at(4_100)), Seq(99));
    }

    #[test]
    fn so_many_groups_stay_and_no_message_expires_early_for_it() {
        let mut ages = Ages::new(HOUR, at(0), Seq(0), None);
        for seq in 1..=200 {
            ages.set_time(Duration::from_secs(32));
            ages.came(at(10 * seq), Seq(seq));
        }
        ages.set_time(HOUR);
        assert!(ages.record(at(2_000)).len() <= 8 + 64 * 16);
        let Seq(expired) = expired(&mut ages, at(3_600 + 1_000));
        assert!(expired <= 100, "{expired}");
    }
}
