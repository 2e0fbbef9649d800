//! Handshakes under way, from the cookie that came back to the association that stands or the reason why there is none. They are
//! what costs us work, so that they are bounded in all and for each address. Knows nothing of associations that stand.

use super::association::{Association, Event, Identity, Make, Refusal};
use super::cookie::Cookies;
use super::hello::Hello;
use super::peers::{Bounds, DtlsStats, Order, RECORD_BYTES, TICK_AHEAD};
use super::spared::Spared;
use crate::listen::admission::Place;
use crate::logging::{Pass, Throttle};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

/// A fatal alert in the clear: handshake_failure (RFC 5246, 7.2.2), whatever was wrong, so that it tells nothing. Its record
/// number is beyond those of any handshake.
const FAILURE: [u8; 15] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 2, 40];

/// An association that stands now, and has perhaps more to say.
pub(super) struct Done {
    pub(super) association: Box<dyn Association>,
    pub(super) identity: Identity,
    /// Of the hello that it began with.
    pub(super) random: [u8; 32],
}

struct Handshake {
    association: Box<dyn Association>,
    random: [u8; 32],
    began: Instant,
    due: Option<Instant>,
    /// Which configuration it began under.
    began_under: u64,
}

/// All handshakes of one socket.
pub(super) struct Handshakes {
    cookies: Cookies,
    maker: Box<dyn Make>,
    bounds: Bounds,
    under_way: HashMap<SocketAddr, Handshake>,
    due: BTreeSet<(Instant, SocketAddr)>,
    spared: Spared,
    configuration: u64,
    stats: DtlsStats,
    buffer: Vec<u8>,
    log: Throttle,
}

impl Handshakes {
    pub(super) fn new(cookies: Cookies, maker: Box<dyn Make>, bounds: Bounds) -> Self {
        Self {
            cookies,
            maker,
            spared: Spared::new(bounds.handshakes_per_address),
            bounds,
            under_way: HashMap::new(),
            due: BTreeSet::new(),
            configuration: 0,
            stats: DtlsStats::default(),
            buffer: vec![0; RECORD_BYTES],
            log: Throttle::new(),
        }
    }

    pub(super) fn stats(&self) -> DtlsStats {
        self.stats
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.under_way.is_empty() && self.due.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn has(&self, peer: SocketAddr) -> bool {
        self.under_way.contains_key(&peer)
    }

    /// Whether who proved this could prove it again.
    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.maker.still_knows(identity)
    }

    /// Takes over a new configuration. Handshakes that have begun are held against it when they are done.
    pub(super) fn reload(&mut self, maker: Box<dyn Make>, bounds: Bounds) {
        self.maker = maker;
        self.bounds = bounds;
        self.spared.resize(bounds.handshakes_per_address);
        self.configuration += 1;
    }

    /// Takes a ClientHello. `known`: the random value of the association that stands with this peer.
    pub(super) fn hello(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        datagram: &[u8],
        known: Option<[u8; 32]>,
        out: &mut Vec<Order>,
    ) -> Option<Done> {
        let Some(hello) = Hello::parse(datagram) else {
            self.stats.strays += 1;
            return None;
        };
        if !self.cookies.verify(now, peer, &hello) {
            self.stats.cookies += 1;
            let cookie = self.cookies.of(now, peer, &hello);
            out.push(Order::Send { peer, datagram: hello.verify_request(&cookie) });
            return None;
        }
        // The same hello once more: our answer to it was lost, or it comes late.
        if self.under_way.get(&peer).is_some_and(|under_way| under_way.random == hello.random) {
            return self.datagram(now, peer, datagram, out);
        }
        if known == Some(hello.random) {
            return None;
        }
        let full = self.under_way.len() >= self.bounds.handshakes && !self.has(peer);
        let gives_way = if full { self.of_a_crowd(peer) } else { None };
        if full && gives_way.is_none() || !self.spared.take(now, peer.ip()) {
            self.stats.crowded += 1;
            return None;
        }
        if let Some(crowded) = gives_way {
            self.stats.crowded += 1;
            self.end(crowded);
        }
        match self.maker.make(now, &hello) {
            Ok(association) => {
                self.end(peer);
                let (random, began_under) = (hello.random, self.configuration);
                let handshake = Handshake { association, random, began: now, due: None, began_under };
                self.under_way.insert(peer, handshake);
                self.drive(now, peer, Ok(()), out)
            }
            Err(refusal) => {
                self.refuse(peer, &refusal, out);
                None
            }
        }
    }

    /// The handshake that gives way to a newcomer when there are too many: the oldest of the address that has the most, if the
    /// newcomer's would still have fewer. A few addresses do not keep all others out for as long as a handshake may take.
    fn of_a_crowd(&self, newcomer: SocketAddr) -> Option<SocketAddr> {
        let mut crowds: HashMap<Option<Place>, usize> = HashMap::new();
        for peer in self.under_way.keys() {
            *crowds.entry(Place::of(peer.ip())).or_default() += 1;
        }
        let own = crowds.get(&Place::of(newcomer.ip())).copied().unwrap_or_default();
        let most = crowds.values().copied().max().filter(|most| *most > own + 1)?;
        let crowded =
            self.under_way.iter().filter(|(peer, _)| crowds.get(&Place::of(peer.ip())) == Some(&most));
        crowded.min_by_key(|(_, handshake)| handshake.began).map(|(peer, _)| *peer)
    }

    /// Takes a datagram of one that is under way.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        datagram: &[u8],
        out: &mut Vec<Order>,
    ) -> Option<Done> {
        let told = self.under_way.get_mut(&peer)?.association.receive(now, datagram);
        self.drive(now, peer, told, out)
    }

    /// Looks after the timers.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Order>) -> Vec<(SocketAddr, Done)> {
        let mut all = Vec::new();
        while let Some((due, peer)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, peer));
            let Some(under_way) = self.under_way.get_mut(&peer) else { continue };
            under_way.due = None;
            let told = under_way.association.tick(now);
            all.extend(self.drive(now, peer, told, out).map(|done| (peer, done)));
        }
        all
    }

    /// Does what a handshake says after it was `told` something, until it waits or is done.
    fn drive(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        told: Result<(), Refusal>,
        out: &mut Vec<Order>,
    ) -> Option<Done> {
        let mut told = told;
        loop {
            let association = &mut self.under_way.get_mut(&peer)?.association;
            let event = match std::mem::replace(&mut told, Ok(())) {
                Ok(()) => association.poll(&mut self.buffer),
                Err(refusal) => Err(refusal),
            };
            match event {
                Ok(Event::Datagram(datagram)) => out.push(Order::Send { peer, datagram: datagram.to_vec() }),
                // Nobody has said yet whose it is.
                Ok(Event::Plain(_) | Event::Nothing) => {}
                Ok(Event::Wait(until)) => {
                    self.arm(now, peer, until);
                    return None;
                }
                Ok(Event::Closed) => {
                    self.end(peer);
                    return None;
                }
                Ok(Event::Established(identity)) => return self.establish(peer, identity, out),
                Err(refusal) => {
                    self.end(peer);
                    self.refuse(peer, &refusal, out);
                    return None;
                }
            }
        }
    }

    fn establish(&mut self, peer: SocketAddr, identity: Identity, out: &mut Vec<Order>) -> Option<Done> {
        let Handshake { association, random, began_under, .. } = self.end(peer)?;
        if began_under != self.configuration && !self.knows(&identity) {
            let gone = "its key or certificate was taken out of the configuration during the handshake";
            self.refuse(peer, &Refusal(gone.to_owned()), out);
            return None;
        }
        self.stats.established += 1;
        self.spared.give_back(peer.ip());
        tracing::debug!(%peer, ?identity, "DTLS association");
        out.push(Order::Note { peer, outcome: Ok(identity.clone()) });
        Some(Done { association, identity, random })
    }

    fn end(&mut self, peer: SocketAddr) -> Option<Handshake> {
        let ended = self.under_way.remove(&peer)?;
        if let Some(due) = ended.due {
            self.due.remove(&(due, peer));
        }
        Some(ended)
    }

    fn refuse(&mut self, peer: SocketAddr, refusal: &Refusal, out: &mut Vec<Order>) {
        self.stats.refused += 1;
        out.push(Order::Send { peer, datagram: FAILURE.to_vec() });
        out.push(Order::Note { peer, outcome: Err(refusal.clone()) });
        if let Some(Pass { suppressed }) = self.log.allow(Instant::now()) {
            tracing::warn!(%peer, suppressed, "a DTLS handshake was refused: {refusal}");
        }
    }

    fn arm(&mut self, now: Instant, peer: SocketAddr, wait: Instant) {
        let Some(under_way) = self.under_way.get_mut(&peer) else { return };
        let wanted = wait.max(now + TICK_AHEAD);
        if let Some(before) = under_way.due.replace(wanted) {
            self.due.remove(&(before, peer));
        }
        self.due.insert((wanted, peer));
    }
}
