//! Who speaks DTLS with us, sans I/O: associations by address, the handshakes beside them, and how many of each there may be.
//! A peer that comes back from its old address begins beside its old association, which stays until the new one stands:
//! a device that has lost its memory gets in at once, and nobody else can throw it out.

use super::association::{Association, Event, Identity, Make, Refusal};
use super::cookie::Cookies;
use super::hello::{self, Hello};
use super::spared::Spared;
use crate::logging::{Pass, Throttle};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::iter::Sum;
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Content types (RFC 5246, 6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// For so long after a handshake its last flight may come once more, in the clear; later nothing in the clear is believed.
const LAST_FLIGHT: Duration = Duration::from_secs(60);

/// A timer is armed so far ahead at the least: one that is due already must not turn [`Table::tick`] without end.
const TICK_AHEAD: Duration = Duration::from_millis(1);

/// The largest record (RFC 6347, 4.1; RFC 5246, 6.2.3: 2^14 + 2048 and the header).
const RECORD_BYTES: usize = 13 + (1 << 14) + 2_048;

/// A fatal alert in the clear: handshake_failure (RFC 5246, 7.2.2), whatever was wrong, so that it tells nothing. Its record
/// number is beyond those of any handshake.
const FAILURE: [u8; 15] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 2, 40];

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Associations; beyond it the one that was silent for longest makes room.
    pub(super) associations: usize,
    /// Handshakes under way.
    pub(super) handshakes: usize,
    /// Handshakes of one address that may fail or be under way in a row, before there is one a second.
    pub(super) handshakes_per_address: u32,
    /// Silent for so long, an association ends.
    pub(super) idle: Duration,
}

/// What is to be done for a peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Sends a datagram.
    Send { peer: SocketAddr, datagram: Vec<u8> },
    /// Reports what came over an association.
    Report { peer: SocketAddr, association: u32, identity: Identity, plain: Bytes },
}

/// What the table counts. Counters only grow; gauges say what is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DtlsStats {
    /// Gauge: associations.
    pub associations: u64,
    /// Counter: handshakes that ended in an association.
    pub established: u64,
    /// Counter: hellos that were answered with a cookie.
    pub cookies: u64,
    /// Counter: handshakes that were refused or came to nothing.
    pub refused: u64,
    /// Counter: hellos that were left unanswered because there were too many.
    pub crowded: u64,
    /// Counter: associations that ended because others needed their room.
    pub evicted: u64,
    /// Counter: datagrams that are no DTLS, or of no association.
    pub strays: u64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Sum for DtlsStats {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), |sum, one| Self {
            associations: sum.associations + one.associations,
            established: sum.established + one.established,
            cookies: sum.cookies + one.cookies,
            refused: sum.refused + one.refused,
            crowded: sum.crowded + one.crowded,
            evicted: sum.evicted + one.evicted,
            strays: sum.strays + one.strays,
        })
    }
}

/// All associations of one socket.
pub(super) struct Table {
    cookies: Cookies,
    maker: Box<dyn Make>,
    bounds: Bounds,
    peers: HashMap<SocketAddr, Peer>,
    /// Associations in the order of their last use.
    by_use: BTreeMap<u64, SocketAddr>,
    uses: u64,
    last_number: u32,
    due: BTreeSet<(Instant, SocketAddr)>,
    handshakes: usize,
    spared: Spared,
    stats: DtlsStats,
    buffer: Vec<u8>,
    log: Throttle,
}

#[derive(Default)]
struct Peer {
    live: Option<Live>,
    next: Option<Next>,
    due: Option<Instant>,
}

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
}

/// A handshake under way.
struct Next {
    association: Box<dyn Association>,
    random: [u8; 32],
}

/// One of a peer's two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Live,
    Next,
}

impl Table {
    pub(super) fn new(cookies: Cookies, maker: Box<dyn Make>, bounds: Bounds) -> Self {
        Self {
            cookies,
            maker,
            spared: Spared::new(bounds.handshakes_per_address),
            bounds,
            peers: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            last_number: 0,
            due: BTreeSet::new(),
            handshakes: 0,
            stats: DtlsStats::default(),
            buffer: vec![0; RECORD_BYTES],
            log: Throttle::new(),
        }
    }

    pub(super) fn stats(&self) -> DtlsStats {
        DtlsStats { associations: self.by_use.len() as u64, ..self.stats }
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.peers.is_empty() && self.due.is_empty() && self.by_use.is_empty() && self.handshakes == 0
    }

    /// When [`tick`](Self::tick) is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes over a new configuration. Associations whose key or certificate it no longer has are ended.
    pub(super) fn reload(
        &mut self,
        now: Instant,
        maker: Box<dyn Make>,
        bounds: Bounds,
        out: &mut Vec<Order>,
    ) {
        self.maker = maker;
        self.bounds = bounds;
        let gone: Vec<SocketAddr> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.live.as_ref().is_some_and(|live| !self.maker.still_knows(&live.identity))
            })
            .map(|(address, _)| *address)
            .collect();
        for peer in gone {
            self.close(now, peer, out);
        }
    }

    /// Takes a datagram.
    pub(super) fn datagram(&mut self, now: Instant, peer: SocketAddr, datagram: &[u8], out: &mut Vec<Order>) {
        if hello::is_client_hello(datagram) {
            return self.hello(now, peer, datagram, out);
        }
        let (Some((kind, epoch)), Some(known)) = (hello::first_record(datagram), self.peers.get_mut(&peer))
        else {
            self.stats.strays += 1;
            return;
        };
        // What belongs to a handshake belongs to the new one, if there is one; what is encrypted data cannot.
        if let Some(next) = &mut known.next
            && (epoch == 0 || kind == HANDSHAKE)
        {
            let told = next.association.receive(now, datagram);
            return self.drive(now, peer, Which::Next, told, out);
        }
        let Some(live) = &mut known.live else { return };
        if epoch == 0 {
            // Anybody can write this: an alert is not believed, and what is wrong with it ends nothing.
            if matches!(kind, HANDSHAKE | CHANGE_CIPHER_SPEC) && now < live.since + LAST_FLIGHT {
                let _ = live.association.receive(now, datagram);
                self.drive(now, peer, Which::Live, Ok(()), out);
            }
            return;
        }
        let told = live.association.receive(now, datagram);
        self.drive(now, peer, Which::Live, told, out);
    }

    /// Sends to a peer over one of its associations, if it has that one still.
    pub(super) fn send(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        association: u32,
        plain: &[u8],
        out: &mut Vec<Order>,
    ) -> bool {
        let live = self.peers.get_mut(&peer).and_then(|known| known.live.as_mut());
        let Some(live) = live.filter(|live| live.number == association) else { return false };
        let told = live.association.send(plain);
        self.drive(now, peer, Which::Live, told, out);
        true
    }

    /// Looks after the timers.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Order>) {
        while let Some((due, peer)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, peer));
            let Some(known) = self.peers.get_mut(&peer) else { continue };
            known.due = None;
            if let Some(next) = &mut known.next {
                let told = next.association.tick(now);
                self.drive(now, peer, Which::Next, told, out);
            }
            let Some(live) = self.peers.get_mut(&peer).and_then(|known| known.live.as_mut()) else {
                continue;
            };
            if now >= live.last + self.bounds.idle {
                self.close(now, peer, out);
                continue;
            }
            let told = live.association.tick(now);
            self.drive(now, peer, Which::Live, told, out);
        }
    }

    fn hello(&mut self, now: Instant, peer: SocketAddr, datagram: &[u8], out: &mut Vec<Order>) {
        let Some(hello) = Hello::parse(datagram) else {
            self.stats.strays += 1;
            return;
        };
        if !self.cookies.verify(now, peer, &hello) {
            self.stats.cookies += 1;
            let cookie = self.cookies.of(now, peer, &hello);
            out.push(Order::Send { peer, datagram: hello.verify_request(&cookie) });
            return;
        }
        let known = self.peers.get_mut(&peer);
        if let Some(known) = known {
            // The same hello once more: our answer to it was lost, or it comes late.
            if let Some(next) = known.next.as_mut().filter(|next| next.random == hello.random) {
                let told = next.association.receive(now, datagram);
                return self.drive(now, peer, Which::Next, told, out);
            }
            if known.live.as_ref().is_some_and(|live| live.random == hello.random) {
                return;
            }
        }
        let replaces = self.peers.get(&peer).is_some_and(|known| known.next.is_some());
        if (self.handshakes >= self.bounds.handshakes && !replaces) || !self.spared.take(now, peer.ip()) {
            self.stats.crowded += 1;
            return;
        }
        match self.maker.make(now, &hello) {
            Ok(association) => {
                let known = self.peers.entry(peer).or_default();
                if known.next.replace(Next { association, random: hello.random }).is_none() {
                    self.handshakes += 1;
                }
                self.drive(now, peer, Which::Next, Ok(()), out);
            }
            Err(refusal) => self.refuse(peer, &refusal, out),
        }
    }

    /// Does what an association says after it was `told` something, until it waits.
    fn drive(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        which: Which,
        told: Result<(), Refusal>,
        out: &mut Vec<Order>,
    ) {
        let mut which = which;
        let mut told = told;
        let wait = loop {
            let Some(known) = self.peers.get_mut(&peer) else { return };
            let association = match which {
                Which::Live => known.live.as_mut().map(|live| &mut live.association),
                Which::Next => known.next.as_mut().map(|next| &mut next.association),
            };
            let Some(association) = association else { return };
            let event = match told {
                Ok(()) => association.poll(&mut self.buffer),
                Err(refusal) => Err(refusal),
            };
            told = Ok(());
            match event {
                Ok(Event::Datagram(datagram)) => out.push(Order::Send { peer, datagram: datagram.to_vec() }),
                Ok(Event::Plain(plain)) => {
                    if let Some(live) = &mut known.live {
                        let plain = Bytes::copy_from_slice(plain);
                        let (association, identity) = (live.number, live.identity.clone());
                        out.push(Order::Report { peer, association, identity, plain });
                        self.used(now, peer);
                    }
                }
                Ok(Event::Established(identity)) => {
                    self.establish(now, peer, identity, out);
                    which = Which::Live;
                }
                Ok(Event::Nothing) => {}
                Ok(Event::Wait(until)) => break until,
                Ok(Event::Closed) => return self.end(peer, which),
                Err(refusal) => {
                    self.end(peer, which);
                    if which == Which::Next {
                        self.refuse(peer, &refusal, out);
                    } else {
                        tracing::debug!(%peer, "a DTLS association ended: {refusal}");
                    }
                    return;
                }
            }
        };
        self.arm(now, peer, wait);
    }

    /// Puts a handshake that is done in the place of what was there.
    fn establish(&mut self, now: Instant, peer: SocketAddr, identity: Identity, out: &mut Vec<Order>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(Next { association, random }) = known.next.take() else { return };
        self.handshakes -= 1;
        self.stats.established += 1;
        self.spared.give_back(peer.ip());
        tracing::debug!(%peer, ?identity, "DTLS association");
        if let Some(old) = &known.live {
            self.by_use.remove(&old.used);
        }
        self.uses += 1;
        let used = self.uses;
        self.last_number = self.last_number.wrapping_add(1).max(1);
        let number = self.last_number;
        known.live = Some(Live { association, identity, number, random, since: now, last: now, used });
        self.by_use.insert(used, peer);
        while self.by_use.len() > self.bounds.associations
            && let Some(longest_silent) = self.by_use.first_key_value().map(|(_, peer)| *peer)
        {
            self.stats.evicted += 1;
            self.close(now, longest_silent, out);
        }
    }

    fn used(&mut self, now: Instant, peer: SocketAddr) {
        let Some(live) = self.peers.get_mut(&peer).and_then(|known| known.live.as_mut()) else { return };
        self.uses += 1;
        self.by_use.remove(&mem::replace(&mut live.used, self.uses));
        live.last = now;
        self.by_use.insert(self.uses, peer);
    }

    /// Ends an association with a goodbye.
    fn close(&mut self, now: Instant, peer: SocketAddr, out: &mut Vec<Order>) {
        let Some(live) = self.peers.get_mut(&peer).and_then(|known| known.live.as_mut()) else { return };
        live.association.close();
        self.drive(now, peer, Which::Live, Ok(()), out);
        self.end(peer, Which::Live);
    }

    fn end(&mut self, peer: SocketAddr, which: Which) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        match which {
            Which::Live => {
                if let Some(live) = known.live.take() {
                    self.by_use.remove(&live.used);
                }
            }
            Which::Next => self.handshakes -= usize::from(known.next.take().is_some()),
        }
        if known.live.is_none() && known.next.is_none() {
            if let Some(due) = known.due {
                self.due.remove(&(due, peer));
            }
            self.peers.remove(&peer);
        }
    }

    fn refuse(&mut self, peer: SocketAddr, refusal: &Refusal, out: &mut Vec<Order>) {
        self.stats.refused += 1;
        out.push(Order::Send { peer, datagram: FAILURE.to_vec() });
        if let Some(Pass { suppressed }) = self.log.allow(Instant::now()) {
            tracing::warn!(%peer, suppressed, "a DTLS handshake was refused: {refusal}");
        }
    }

    /// Sees to it that a tick comes when the association wants one, and when it has been silent for too long.
    fn arm(&mut self, now: Instant, peer: SocketAddr, wait: Instant) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let idle = known.live.as_ref().map(|live| live.last + self.bounds.idle);
        let wanted = [Some(wait), idle, known.due].into_iter().flatten().min();
        // A tick that finds nothing to do asks again: never more than one is armed for a peer.
        let wanted = wanted.map(|due| due.max(now + TICK_AHEAD));
        if wanted != known.due {
            if let Some(old) = known.due {
                self.due.remove(&(old, peer));
            }
            if let Some(due) = wanted {
                self.due.insert((due, peer));
            }
            known.due = wanted;
        }
    }
}
