//! The upstreams' side: whether each is there, what is under way in its window, which devices are held because a message
//! of theirs was refused, and when to try again. Does not know where messages are kept.

use crate::drain::Allowance;
use crate::event::{Attempts, UpstreamSetup};
use crate::id::{DeviceId, Seq, Tag, UpstreamId};
use crate::limits::Limits;
use crate::message::Message;
use crate::mutant::{Mutant, Planted};
use crate::stats::UpstreamStats;
use crate::time::{Duration, Instant, Now};
use std::collections::BTreeMap;

/// What part of a window is used for what is safe already, while devices wait for what is not: enough to go on, little
/// enough to leave the processor to the devices.
const SPARED_PART: usize = 8;

/// What part of a window is used for the backlog of a route whose live messages go first: so these find room in it.
const BACKLOG_PART: usize = 2;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// The lane that it came from (the core's index).
    pub(crate) lane: usize,
    pub(crate) seq: Seq,
    pub(crate) device: DeviceId,
    /// It was of the lane's live part.
    pub(crate) live: bool,
    sent_at: Instant,
}

/// A message that is handed over.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The lane that it comes from (the core's index).
    pub(crate) lane: usize,
    pub(crate) seq: Seq,
    pub(crate) device: DeviceId,
    /// It is of the lane's live part.
    pub(crate) live: bool,
}

/// What to do with a message that was refused for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Keep it; it will be tried again, and later messages of its device wait.
    TryAgain,
    /// It was refused too often: dead letter.
    GiveUp(Attempts),
}

#[derive(Debug)]
struct Upstream {
    window: usize,
    up: bool,
    blocked: bool,
    resetting: bool,
    flights: BTreeMap<Tag, Flight>,
    allowance: Allowance,
    stats: UpstreamStats,
}

/// A device whose messages wait on one part of a lane until the refused ones are through.
#[derive(Debug)]
struct Hold {
    /// The refused messages and what was tried with each.
    refused: BTreeMap<Seq, Attempts>,
    retry_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Delivery {
    upstreams: Vec<Upstream>,
    /// Per lane, part of it (live or not) and device. At most one entry a message in a window: bounded by the windows.
    holds: BTreeMap<(usize, bool, DeviceId), Hold>,
    last_tag: Tag,
    confirm_timeout: Duration,
    retry_after: Duration,
    attempts: u8,
    planted: Planted,
}

impl Delivery {
    pub(crate) fn new(setups: &[UpstreamSetup], limits: &Limits, planted: Planted) -> Self {
        let mut delivery = Self {
            upstreams: Vec::new(),
            holds: BTreeMap::new(),
            last_tag: Tag(0),
            confirm_timeout: Duration::ZERO,
            retry_after: Duration::ZERO,
            attempts: 1,
            planted,
        };
        delivery.configure(setups, limits);
        delivery
    }

    /// Takes new settings; upstreams keep their index, and what is under way stays so.
    pub(crate) fn configure(&mut self, setups: &[UpstreamSetup], limits: &Limits) {
        self.confirm_timeout = limits.confirm_timeout;
        self.retry_after = limits.retry_after;
        self.attempts = limits.upstream_attempts.max(1);
        for (index, setup) in setups.iter().enumerate() {
            let window = setup.window.max(1);
            if let Some(upstream) = self.upstreams.get_mut(index) {
                upstream.window = window;
                upstream.allowance.configure(setup.drain);
                upstream.stats.name.clone_from(&setup.name);
            } else {
                let mut allowance = Allowance::default();
                allowance.configure(setup.drain);
                self.upstreams.push(Upstream {
                    window,
                    up: false,
                    blocked: false,
                    resetting: false,
                    flights: BTreeMap::new(),
                    allowance,
                    stats: UpstreamStats { name: setup.name.clone(), ..UpstreamStats::default() },
                });
            }
        }
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    fn get(&mut self, id: UpstreamId) -> Option<&mut Upstream> {
        self.upstreams.get_mut(usize::from(id.0))
    }

    /// The upstream is connected and has not asked for a pause.
    pub(crate) fn is_ready(&self, id: UpstreamId) -> bool {
        self.upstreams.get(usize::from(id.0)).is_some_and(|u| u.up && !u.blocked && !u.resetting)
    }

    /// Ready, and its window has room. `sparing`: only a small part of the window counts.
    pub(crate) fn has_room(&self, id: UpstreamId, sparing: bool) -> bool {
        let part = if sparing { SPARED_PART } else { 1 };
        let upstream = self.upstreams.get(usize::from(id.0));
        self.is_ready(id) && upstream.is_some_and(|u| u.flights.len() < u.window.div_ceil(part))
    }

    /// The same for the backlog of a route whose live messages go first.
    pub(crate) fn has_room_for_backlog(&self, id: UpstreamId) -> bool {
        let upstream = self.upstreams.get(usize::from(id.0));
        self.is_ready(id) && upstream.is_some_and(|u| u.flights.len() < u.window.div_ceil(BACKLOG_PART))
    }

    /// Whether the upstream's drain limit lets a message of the backlog go.
    pub(crate) fn may_drain(&self, now: Instant, id: UpstreamId) -> bool {
        let upstream = self.upstreams.get(usize::from(id.0));
        self.planted.is(Mutant::DrainUnlimited) || upstream.is_none_or(|u| u.allowance.is_open(now))
    }

    /// A message of the backlog goes.
    pub(crate) fn drained(&mut self, now: Instant, id: UpstreamId, bytes: usize) {
        if let Some(upstream) = self.get(id) {
            upstream.allowance.take(now, bytes);
            upstream.stats.drained += 1;
        }
    }

    /// A quarter of the window is free: a full window is filled again in batches, as each costs several wake-ups of threads
    /// on the way out and back.
    pub(crate) fn may_refill(&self, id: UpstreamId) -> bool {
        self.upstreams.get(usize::from(id.0)).is_some_and(|u| u.flights.len() <= u.window / 4 * 3)
    }

    pub(crate) fn up(&mut self, id: UpstreamId) {
        if let Some(upstream) = self.get(id) {
            upstream.up = true;
            upstream.blocked = false;
            upstream.resetting = false;
            upstream.stats.up = true;
            upstream.stats.blocked = false;
        }
    }

    /// The link is gone: returns everything that was under way, in order.
    pub(crate) fn down(&mut self, id: UpstreamId) -> Vec<(Tag, Flight)> {
        let Some(upstream) = self.get(id) else { return Vec::new() };
        if upstream.up {
            upstream.stats.lost += 1;
        }
        upstream.up = false;
        upstream.blocked = false;
        upstream.resetting = false;
        upstream.stats.up = false;
        upstream.stats.blocked = false;
        std::mem::take(&mut upstream.flights).into_iter().collect()
    }

    pub(crate) fn blocked(&mut self, now: Instant, id: UpstreamId, blocked: bool) {
        if let Some(upstream) = self.get(id) {
            if !blocked {
                // The pause does not count against the confirms that it held up.
                upstream.flights.values_mut().for_each(|flight| flight.sent_at = now);
            }
            upstream.blocked = blocked;
            upstream.stats.blocked = blocked;
        }
    }

    /// Notes that a message is handed over.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        id: UpstreamId,
        Sent { lane, seq, device, live }: Sent,
        resend: bool,
    ) -> Tag {
        self.last_tag = Tag(self.last_tag.0 + 1);
        let tag = self.last_tag;
        if let Some(upstream) = self.get(id) {
            upstream.flights.insert(tag, Flight { lane, seq, device, live, sent_at: now });
            upstream.stats.published += 1;
            upstream.stats.resent += u64::from(resend);
        }
        tag
    }

    /// Takes a message out of the window; `None` when nothing is known of it (any more).
    pub(crate) fn settled(&mut self, id: UpstreamId, tag: Tag) -> Option<Flight> {
        self.get(id)?.flights.remove(&tag)
    }

    pub(crate) fn stats_mut(&mut self, id: UpstreamId) -> Option<&mut UpstreamStats> {
        self.get(id).map(|upstream| &mut upstream.stats)
    }

    /// A message was refused for now. Its later attempts come first; its device's other messages on that lane wait.
    pub(crate) fn refused(&mut self, now: Now, flight: &Flight, text: &str) -> Refusal {
        let hold = self
            .holds
            .entry((flight.lane, flight.live, flight.device.clone()))
            .or_insert_with(|| Hold { refused: BTreeMap::new(), retry_at: now.instant });
        let attempts = hold.refused.entry(flight.seq).or_default();
        *attempts = std::mem::take(attempts).and(now.wall.unix_ms, text);
        if attempts.count >= u32::from(self.attempts) {
            return Refusal::GiveUp(attempts.clone());
        }
        let doublings = (attempts.count - 1).min(8);
        hold.retry_at = now.instant.after(self.retry_after * (1 << doublings));
        Refusal::TryAgain
    }

    /// A message was refused for good: what was tried with it, this time included.
    pub(crate) fn refused_for_good(&self, now: Now, flight: &Flight, text: &str) -> Attempts {
        let hold = self.holds.get(&(flight.lane, flight.live, flight.device.clone()));
        let before = hold.and_then(|hold| hold.refused.get(&flight.seq)).cloned().unwrap_or_default();
        before.and(now.wall.unix_ms, text)
    }

    /// A message is through (confirmed or buried). True when that lets messages go on that were held.
    pub(crate) fn through(&mut self, now: Instant, lane: usize, device: &DeviceId, seq: Seq) -> bool {
        if self.holds.is_empty() {
            return false;
        }
        for live in [false, true] {
            let key = (lane, live, device.clone());
            let Some(hold) = self.holds.get_mut(&key) else { continue };
            if hold.refused.remove(&seq).is_some() {
                hold.retry_at = now;
                if hold.refused.is_empty() {
                    self.holds.remove(&key);
                }
                return true;
            }
        }
        false
    }

    /// Whether a message of one part of a lane may be handed over now, as far as refused messages of its device there allow.
    pub(crate) fn may_send(&self, now: Instant, lane: usize, live: bool, message: &Message) -> bool {
        if self.holds.is_empty() {
            return true;
        }
        let seq = message.id.seq;
        let Some(hold) = self.holds.get(&(lane, live, message.device.clone())) else { return true };
        let first = hold.refused.keys().next().copied();
        if self.planted.is(Mutant::RetryOutOfOrder) && !hold.refused.contains_key(&seq) {
            return true;
        }
        // An earlier one whose handing over a link fault left unresolved goes before the refused one.
        first.is_some_and(|first| seq < first || (seq == first && hold.retry_at <= now))
    }

    /// The lanes in which a refused message is due again.
    pub(crate) fn retries_due(&self, now: Instant) -> Vec<usize> {
        self.holds.iter().filter(|(_, hold)| hold.retry_at <= now).map(|((lane, ..), _)| *lane).collect()
    }

    /// The upstreams that left a message unsettled for too long; each is named once until it is up again.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<UpstreamId> {
        let mut overdue = Vec::new();
        for (index, upstream) in self.upstreams.iter_mut().enumerate() {
            let late = upstream
                .flights
                .first_key_value()
                .is_some_and(|(_, flight)| flight.sent_at.after(self.confirm_timeout) <= now);
            // While it asks for a pause it owes no confirms either; the link's heartbeat tells whether it lives.
            if late && upstream.up && !upstream.blocked && !upstream.resetting {
                upstream.resetting = true;
                overdue.push(UpstreamId(u16::try_from(index).unwrap_or(u16::MAX)));
            }
        }
        overdue
    }

    /// When time alone will matter, after `now`: a retry, a confirm that is overdue, or a drain limit that lets something go again.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        let retry = self.holds.values().map(|hold| hold.retry_at).filter(|&at| at > now).min();
        let overdue = self
            .upstreams
            .iter()
            .filter(|u| u.up && !u.blocked && !u.resetting)
            .filter_map(|u| u.flights.first_key_value())
            .map(|(_, flight)| flight.sent_at.after(self.confirm_timeout))
            .min();
        let ready = self.upstreams.iter().filter(|u| u.up && !u.blocked && !u.resetting);
        let opens = ready.filter_map(|u| u.allowance.opens_at(now)).min();
        [retry, overdue, opens].into_iter().flatten().min()
    }

    pub(crate) fn stats(&self) -> Vec<UpstreamStats> {
        self.upstreams
            .iter()
            .map(|upstream| UpstreamStats {
                in_flight: upstream.flights.len() as u64,
                ..upstream.stats.clone()
            })
            .collect()
    }
}
