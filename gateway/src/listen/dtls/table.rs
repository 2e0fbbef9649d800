//! The associations that stand, by address and in the order of their last use. Bounded: the one that was silent for longest makes
//! room. Knows nothing of handshakes.

use super::association::{Association, Event, Identity, Refusal};
use super::handshakes::Done;
use super::peers::{Bounds, DtlsStats, HANDSHAKE, Order, RECORD_BYTES, TICK_AHEAD};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// ContentType (RFC 5246, 6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;

/// For so long after a handshake its last flight may come once more, in the clear; later nothing in the clear is believed.
const LAST_FLIGHT: Duration = Duration::from_secs(60);

/// An association that stands.
struct Live {
    association: Box<dyn Association>,
    identity: Identity,
    /// Among all that there were; never 0 and not soon the same again.
    number: u32,
    random: [u8; 32],
    since: Instant,
    last: Instant,
    used: u64,
    due: Option<Instant>,
}

/// All associations of one socket.
pub(super) struct Table {
    bounds: Bounds,
    /// Each apart: a table has room for more than it holds.
    all: HashMap<SocketAddr, Box<Live>>,
    /// In the order of their last use.
    by_use: BTreeMap<u64, SocketAddr>,
    uses: u64,
    last_number: u32,
    due: BTreeSet<(Instant, SocketAddr)>,
    stats: DtlsStats,
    buffer: Vec<u8>,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            all: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            last_number: 0,
            due: BTreeSet::new(),
            stats: DtlsStats::default(),
            buffer: vec![0; RECORD_BYTES],
        }
    }

    pub(super) fn stats(&self) -> DtlsStats {
        DtlsStats { associations: self.all.len() as u64, ..self.stats }
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.all.is_empty() && self.due.is_empty() && self.by_use.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The random value that a peer's association began with.
    pub(super) fn random(&self, peer: SocketAddr) -> Option<[u8; 32]> {
        self.all.get(&peer).map(|live| live.random)
    }

    /// Who is there, over which association.
    pub(super) fn identities(&self) -> Vec<(SocketAddr, u32, Identity)> {
        self.all.iter().map(|(peer, live)| (*peer, live.number, live.identity.clone())).collect()
    }

    /// Takes over new bounds, and ends the associations of `gone`.
    pub(super) fn reload(
        &mut self,
        now: Instant,
        bounds: Bounds,
        gone: &[(SocketAddr, u32)],
        out: &mut Vec<Order>,
    ) {
        self.bounds = bounds;
        for (peer, number) in gone {
            if self.all.get(peer).is_some_and(|live| live.number == *number) {
                self.close(now, *peer, out);
            }
        }
        self.keep_to_bounds(now, out);
    }

    /// Takes a datagram, of whose first record the kind and the epoch are given.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        record: Option<(u8, u16)>,
        datagram: &[u8],
        out: &mut Vec<Order>,
    ) {
        let (Some((kind, epoch)), Some(live)) = (record, self.all.get_mut(&peer)) else {
            self.stats.strays += 1;
            return;
        };
        if epoch == 0 {
            // Anybody can write this: an alert is not believed, and what is wrong with it ends nothing.
            if matches!(kind, HANDSHAKE | CHANGE_CIPHER_SPEC) && now < live.since + LAST_FLIGHT {
                let _ = live.association.receive(now, datagram);
                self.drive(now, peer, Ok(()), out);
            }
            return;
        }
        let told = live.association.receive(now, datagram);
        self.drive(now, peer, told, out);
    }

    /// Sends to a peer over one of its associations. False when it has that one no longer.
    pub(super) fn send(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        association: u32,
        plain: &[u8],
        out: &mut Vec<Order>,
    ) -> bool {
        let live = self.all.get_mut(&peer).filter(|live| live.number == association);
        let Some(live) = live else { return false };
        let told = live.association.send(plain);
        self.drive(now, peer, told, out);
        true
    }

    /// Looks after the timers.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Order>) {
        while let Some((due, peer)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, peer));
            let Some(live) = self.all.get_mut(&peer) else { continue };
            live.due = None;
            if now >= live.last + self.bounds.idle {
                self.close(now, peer, out);
                continue;
            }
            let told = live.association.tick(now);
            self.drive(now, peer, told, out);
        }
    }

    /// Puts a handshake that is done in the place of what was there.
    pub(super) fn establish(&mut self, now: Instant, peer: SocketAddr, done: Done, out: &mut Vec<Order>) {
        self.end(peer);
        let Done { association, identity, random } = done;
        self.uses += 1;
        let used = self.uses;
        self.last_number = self.last_number.wrapping_add(1).max(1);
        let number = self.last_number;
        let live = Live { association, identity, number, random, since: now, last: now, used, due: None };
        self.all.insert(peer, Box::new(live));
        self.by_use.insert(used, peer);
        self.keep_to_bounds(now, out);
        self.drive(now, peer, Ok(()), out);
    }

    fn keep_to_bounds(&mut self, now: Instant, out: &mut Vec<Order>) {
        while self.by_use.len() > self.bounds.associations
            && let Some(longest_silent) = self.by_use.first_key_value().map(|(_, peer)| *peer)
        {
            self.stats.evicted += 1;
            self.close(now, longest_silent, out);
        }
    }

    /// Does what an association says after it was `told` something, until it waits.
    fn drive(&mut self, now: Instant, peer: SocketAddr, told: Result<(), Refusal>, out: &mut Vec<Order>) {
        let mut told = told;
        let wait = loop {
            let Some(live) = self.all.get_mut(&peer) else { return };
            let event = match mem::replace(&mut told, Ok(())) {
                Ok(()) => live.association.poll(&mut self.buffer),
                Err(refusal) => Err(refusal),
            };
            match event {
                Ok(Event::Datagram(datagram)) => out.push(Order::Send { peer, datagram: datagram.to_vec() }),
                Ok(Event::Plain(plain)) => {
                    let plain = Bytes::copy_from_slice(plain);
                    let (association, identity) = (live.number, live.identity.clone());
                    out.push(Order::Report { peer, association, identity, plain });
                    self.uses += 1;
                    self.by_use.remove(&mem::replace(&mut live.used, self.uses));
                    self.by_use.insert(self.uses, peer);
                    live.last = now;
                }
                // Who is there was settled when it was made.
                Ok(Event::Established(_) | Event::Nothing) => {}
                Ok(Event::Wait(until)) => break until,
                Ok(Event::Closed) => return self.end(peer),
                Err(refusal) => {
                    tracing::debug!(%peer, "a DTLS association ended: {refusal}");
                    return self.end(peer);
                }
            }
        };
        self.arm(now, peer, wait);
    }

    /// Ends an association with a goodbye.
    fn close(&mut self, now: Instant, peer: SocketAddr, out: &mut Vec<Order>) {
        let Some(live) = self.all.get_mut(&peer) else { return };
        live.association.close();
        self.drive(now, peer, Ok(()), out);
        self.end(peer);
    }

    fn end(&mut self, peer: SocketAddr) {
        let Some(live) = self.all.remove(&peer) else { return };
        self.by_use.remove(&live.used);
        if let Some(due) = live.due {
            self.due.remove(&(due, peer));
        }
    }

    /// Sees to it that a tick comes when the association wants one, and when it has been silent for too long.
    fn arm(&mut self, now: Instant, peer: SocketAddr, wait: Instant) {
        let Some(live) = self.all.get_mut(&peer) else { return };
        // A tick that finds nothing to do asks again: one that is armed stays, and never more than one is.
        let wanted = [Some(wait), Some(live.last + self.bounds.idle), live.due].into_iter().flatten().min();
        let wanted = wanted.map(|due| due.max(now + TICK_AHEAD));
        if wanted != live.due {
            if let Some(old) = mem::replace(&mut live.due, wanted) {
                self.due.remove(&(old, peer));
            }
            if let Some(due) = wanted {
                self.due.insert((due, peer));
            }
        }
    }
}
