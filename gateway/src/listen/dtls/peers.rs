//! Who speaks DTLS with us, sans I/O: associations that stand, and the handshakes beside them. A peer that comes back from its old
//! address begins beside its old association, which stays until the new one stands: a device that has lost its memory gets in at
//! once, and nobody else can throw it out. What is sent waits for no handshake: each side has a lock of its own.

use super::association::{Identity, Make, Refusal};
use super::cookie::Cookies;
use super::handshakes::Handshakes;
use super::hello;
use super::table::Table;
use bytes::Bytes;
use std::fmt;
use std::iter::Sum;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// ContentType (RFC 5246, 6.2.1).
pub(super) const HANDSHAKE: u8 = 22;

/// A timer is armed so far ahead at the least: one that is due already must not turn [`Peers::tick`] without end.
pub(super) const TICK_AHEAD: Duration = Duration::from_millis(1);

/// The largest record (RFC 6347, 4.1; RFC 5246, 6.2.3: 2^14 + 2048 and the header).
pub(super) const RECORD_BYTES: usize = 13 + (1 << 14) + 2_048;

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
    /// Writes down what became of a handshake.
    Note { peer: SocketAddr, outcome: Result<Identity, Refusal> },
}

/// What is counted. Counters only grow; gauges say what is now.
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

/// All peers of one socket. Where both locks are held, that of the handshakes was taken first.
pub(super) struct Peers {
    /// Held while keys are computed, by who receives.
    handshakes: Mutex<Handshakes>,
    /// Held for moments only.
    table: Mutex<Table>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    pub(super) fn new(cookies: Cookies, maker: Box<dyn Make>, bounds: Bounds) -> Self {
        Self {
            handshakes: Mutex::new(Handshakes::new(cookies, maker, bounds)),
            table: Mutex::new(Table::new(bounds)),
        }
    }

    pub(super) fn stats(&self) -> DtlsStats {
        let handshakes = lock(&self.handshakes).stats();
        [handshakes, lock(&self.table).stats()].into_iter().sum()
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        lock(&self.handshakes).holds_nothing() && lock(&self.table).holds_nothing()
    }

    /// When [`tick`](Self::tick) is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let handshakes = lock(&self.handshakes).due();
        [handshakes, lock(&self.table).due()].into_iter().flatten().min()
    }

    /// Takes over a new configuration. Associations whose key or certificate it no longer has are ended, and handshakes that are
    /// under way come to nothing if they would be such.
    pub(super) fn reload(&self, now: Instant, maker: Box<dyn Make>, bounds: Bounds, out: &mut Vec<Order>) {
        let mut handshakes = lock(&self.handshakes);
        handshakes.reload(maker, bounds);
        let identities = lock(&self.table).identities();
        // This may take a while: it verifies certificates. Nobody comes in meanwhile, and nobody who sends waits.
        let strangers = identities.into_iter().filter(|(.., identity)| !handshakes.knows(identity));
        let gone: Vec<_> = strangers.map(|(peer, number, _)| (peer, number)).collect();
        lock(&self.table).reload(now, bounds, &gone, out);
    }

    /// Takes a datagram.
    pub(super) fn datagram(&self, now: Instant, peer: SocketAddr, datagram: &[u8], out: &mut Vec<Order>) {
        let record = hello::first_record(datagram);
        let is_hello = hello::is_client_hello(datagram);
        // What belongs to a handshake belongs to the new one, if there is one; what is encrypted data cannot.
        let may_shake = record.is_some_and(|(kind, epoch)| epoch == 0 || kind == HANDSHAKE);
        if may_shake {
            let mut handshakes = lock(&self.handshakes);
            let done = if is_hello {
                // The hello of the association that stands, which comes late.
                let known = lock(&self.table).random(peer);
                handshakes.hello(now, peer, datagram, known, out)
            } else if handshakes.has(peer) {
                handshakes.datagram(now, peer, datagram, out)
            } else {
                drop(handshakes);
                return lock(&self.table).datagram(now, peer, record, datagram, out);
            };
            if let Some(done) = done {
                lock(&self.table).establish(now, peer, done, out);
            }
            return;
        }
        lock(&self.table).datagram(now, peer, record, datagram, out);
    }

    /// Sends to a peer over one of its associations, if it has that one still. `Some(true)` when it was, and the next tick is due
    /// earlier than before.
    pub(super) fn send(
        &self,
        now: Instant,
        peer: SocketAddr,
        association: u32,
        plain: &[u8],
        out: &mut Vec<Order>,
    ) -> Option<bool> {
        let mut table = lock(&self.table);
        let before = table.due();
        let sent = table.send(now, peer, association, plain, out);
        let earlier = table.due().is_some_and(|due| before.is_none_or(|before| due < before));
        sent.then_some(earlier)
    }

    /// Looks after the timers.
    pub(super) fn tick(&self, now: Instant, out: &mut Vec<Order>) {
        let mut handshakes = lock(&self.handshakes);
        for (peer, done) in handshakes.tick(now, out) {
            lock(&self.table).establish(now, peer, done, out);
        }
        drop(handshakes);
        lock(&self.table).tick(now, out);
    }
}
