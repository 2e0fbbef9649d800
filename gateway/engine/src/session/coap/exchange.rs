//! The memory of exchanges: who sent which request, what became of it, what is due when (RFC 7252, 4.2 to 4.8).
//! It bounds itself and forgets the oldest first, but nothing that is still in progress. It sends nothing.

use super::oscore::ContextId;
use super::peer::{Address, Place};
use super::reply::Reply;
use crate::event::Endpoint;
use crate::time::{Duration, Instant};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidegate_wire::coap::{Code, Token};

/// How long a message id may come again: EXCHANGE_LIFETIME with the default parameters (RFC 7252, 4.8.2).
pub(super) const EXCHANGE_LIFETIME: Duration = Duration::from_secs(247);

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A CON whose message is not safe yet; nothing has been answered. Due when the empty ACK must go.
    Pending,
    /// The empty ACK has gone, the message is not safe yet.
    Acknowledged,
    /// Safe; the separate response waits for another one to the same peer (NSTART 1).
    Queued,
    /// The separate response has been sent and is not acknowledged. Due when it must go again.
    Responding {
        /// Its own message id.
        message_id: u16,
        /// How often it has been sent again.
        repeats: u8,
        /// How long the last wait is.
        wait: Duration,
    },
    /// Over; the answer was in the ACK, and is again when the request comes again.
    Answered,
    /// Over; the separate response has arrived.
    Delivered,
    /// Over; refused with this Max-Age in seconds, which holds for a repetition too: the device has been
    /// told to send anew, and a late copy of the old datagram must not be taken beside it.
    Refused(Code, u32),
    /// Over; nothing is answered to a repetition: a NON, or a CON whose message id the device has used anew since.
    Silent,
}

impl State {
    fn in_progress(self) -> bool {
        matches!(self, Self::Pending | Self::Acknowledged | Self::Queued | Self::Responding { .. })
    }
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) number: u64,
    pub(super) message_id: u16,
    fingerprint: u64,
    pub(super) token: Token,
    /// What is answered, if it is more than a plain 2.04.
    pub(super) reply: Option<Box<Reply>>,
    started: Instant,
    state: State,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    address: Address,
    /// In the order of their beginning.
    exchanges: VecDeque<Exchange>,
    /// Exchanges that are, and observations that keep the peer remembered.
    in_progress: usize,
    /// A notification has been sent that wants an acknowledgement.
    notifying: bool,
    /// Up to when its requests are paid for, at the rate that it may send.
    paid_until: Instant,
    /// When the newest exchange may be forgotten, and the peer with it.
    expires: Instant,
    next_message_id: u16,
}

impl Peer {
    /// Where an exchange stands. Their numbers ascend.
    fn position(&self, number: u64) -> Option<usize> {
        // Mostly it is the newest.
        let newest = self.exchanges.back()?;
        if newest.number == number {
            return Some(self.exchanges.len() - 1);
        }
        self.exchanges.binary_search_by_key(&number, |exchange| exchange.number).ok()
    }
}

/// A request about to be remembered.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) message_id: u16,
    /// A hash of the whole datagram: a rebooted device that uses a message id anew sends something else with it.
    pub(super) fingerprint: u64,
    pub(super) token: Token,
    pub(super) state: State,
    pub(super) due: Option<Instant>,
    pub(super) reply: Option<Box<Reply>>,
    /// The first message id of our own for this peer, should it be new.
    pub(super) first_message_id: u16,
}

/// An exchange: its peer's place in the table, and its number, which is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    slot: usize,
    number: u64,
}

fn weight(reply: &Option<Box<Reply>>) -> usize {
    reply.as_ref().map_or(0, |reply| reply.footprint())
}

/// Why a request cannot be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// This peer has too many requests in progress.
    Peer,
    /// All peers that are remembered have requests in progress.
    Table,
}

/// All exchanges.
#[derive(Debug)]
pub(super) struct Table {
    peers_max: usize,
    exchanges_max: usize,
    slots: Vec<Option<Peer>>,
    free: Vec<usize>,
    by_address: BTreeMap<Address, usize>,
    /// The peer that was asked for last: one request asks several times.
    last: Cell<usize>,
    /// How many of these are on streams.
    on_streams: usize,
    /// Peers with nothing in progress, by when they may be forgotten.
    idle: BTreeSet<(Instant, usize)>,
    /// What is due; each exchange at most once.
    due: BTreeSet<(Instant, Key)>,
    next_number: u64,
    /// What the answers that are kept take in memory.
    reply_bytes: usize,
}

impl Table {
    pub(super) fn new(peers_max: usize, exchanges_max: usize) -> Self {
        let mut table = Self {
            peers_max,
            exchanges_max,
            slots: Vec::new(),
            free: Vec::new(),
            by_address: BTreeMap::new(),
            last: Cell::new(0),
            on_streams: 0,
            idle: BTreeSet::new(),
            due: BTreeSet::new(),
            next_number: 0,
            reply_bytes: 0,
        };
        table.resize(peers_max, exchanges_max);
        table
    }

    /// Changes the bounds; what is too much is forgotten as new exchanges come.
    pub(super) fn resize(&mut self, peers_max: usize, exchanges_max: usize) {
        self.peers_max = peers_max.max(1);
        self.exchanges_max = exchanges_max.max(1);
    }

    /// How many peers by datagrams are remembered; those on streams are counted there.
    pub(super) fn peers(&self) -> usize {
        self.by_address.len().saturating_sub(self.on_streams)
    }

    /// The peers with contexts that are remembered at an endpoint: something may be under way to each.
    pub(super) fn protected_at(&self, endpoint: Endpoint) -> Vec<Address> {
        let (first, last) = (*ContextId::ALL.start(), *ContextId::ALL.end());
        let place = Place::Datagram(endpoint);
        let all = Address::Protected(place, first)..=Address::Protected(place, last);
        self.by_address.range(all).map(|(address, _)| *address).collect()
    }

    /// The place of a peer that is remembered.
    fn slot(&self, address: Address) -> Option<usize> {
        let last = self.last.get();
        if self.peer(last).is_some_and(|peer| peer.address == address) {
            return Some(last);
        }
        let slot = *self.by_address.get(&address)?;
        self.last.set(slot);
        Some(slot)
    }

    fn peer(&self, slot: usize) -> Option<&Peer> {
        self.slots.get(slot)?.as_ref()
    }

    fn peer_mut(&mut self, slot: usize) -> Option<&mut Peer> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn get(&self, key: Key) -> Option<(Address, &Exchange, State)> {
        let peer = self.peer(key.slot)?;
        let exchange = peer.exchanges.get(peer.position(key.number)?)?;
        // Its address is asked for next.
        self.last.set(key.slot);
        Some((peer.address, exchange, exchange.state))
    }

    /// The exchange that this datagram is a repetition of.
    pub(super) fn find(
        &self,
        now: Instant,
        address: Address,
        message_id: u16,
        fingerprint: u64,
    ) -> Option<Key> {
        let slot = self.slot(address)?;
        let exchange = self.peer(slot)?.exchanges.iter().find(|exchange| {
            exchange.message_id == message_id
                && exchange.fingerprint == fingerprint
                && (exchange.state.in_progress() || now.since(exchange.started) < EXCHANGE_LIFETIME)
        })?;
        Some(Key { slot, number: exchange.number })
    }

    /// The exchange whose separate response has this message id.
    pub(super) fn responding(&self, address: Address, id: u16) -> Option<Key> {
        let slot = self.slot(address)?;
        let exchange = self.peer(slot)?.exchanges.iter().find(
            |exchange| matches!(exchange.state, State::Responding { message_id, .. } if message_id == id),
        )?;
        Some(Key { slot, number: exchange.number })
    }

    /// Remembers a request, and forgets older ones where the bounds demand it.
    pub(super) fn open(&mut self, now: Instant, address: Address, new: New) -> Result<Key, Full> {
        let slot = match self.slot(address) {
            Some(slot) => slot,
            None => self.admit(now, address, new.first_message_id)?,
        };
        let exchanges_max = self.exchanges_max;
        let number = self.next_number;
        let key = Key { slot, number };
        let peer = self.slots.get_mut(slot).and_then(Option::as_mut).ok_or(Full::Table)?;
        while peer.exchanges.len() >= exchanges_max {
            let oldest = peer.exchanges.iter().position(|exchange| !exchange.state.in_progress());
            let gone = peer.exchanges.remove(oldest.ok_or(Full::Peer)?);
            self.reply_bytes -= gone.map_or(0, |gone| weight(&gone.reply));
        }
        self.next_number += 1;
        self.reply_bytes += weight(&new.reply);
        // A device that uses a message id anew has rebooted: an answer to the old request with that id would be taken
        // for the answer to the new one. On a stream there are none.
        let numbered = !address.is_stream() && peer.in_progress > 0;
        let overtaken: Vec<Key> = peer
            .exchanges
            .iter()
            .filter(|old| {
                numbered
                    && old.message_id == new.message_id
                    && matches!(old.state, State::Pending | State::Acknowledged)
            })
            .map(|old| Key { slot, number: old.number })
            .collect();
        peer.exchanges.push_back(Exchange {
            number,
            message_id: new.message_id,
            fingerprint: new.fingerprint,
            token: new.token,
            reply: new.reply,
            started: now,
            // `set` below counts it in.
            state: State::Silent,
            due: None,
        });
        let expired = core::mem::replace(&mut peer.expires, now.after(EXCHANGE_LIFETIME));
        if peer.in_progress == 0 {
            let expires = peer.expires;
            self.idle.remove(&(expired, slot));
            // One in progress will not be idle; `set` finds it counted out already.
            if !new.state.in_progress() {
                self.idle.insert((expires, slot));
            }
        }
        for old in overtaken {
            self.set(old, State::Silent, None);
        }
        self.set(key, new.state, new.due);
        Ok(key)
    }

    fn admit(&mut self, now: Instant, address: Address, next_message_id: u16) -> Result<usize, Full> {
        while self.by_address.len() >= self.peers_max {
            let (_, oldest) = *self.idle.first().ok_or(Full::Table)?;
            self.forget(oldest);
        }
        let expires = now.after(EXCHANGE_LIFETIME);
        let peer = Peer {
            address,
            // Most devices say something every few minutes, and are remembered for four.
            exchanges: VecDeque::with_capacity(1),
            in_progress: 0,
            notifying: false,
            paid_until: now,
            expires,
            next_message_id,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(peer);
        }
        self.by_address.insert(address, slot);
        self.on_streams += usize::from(address.is_stream());
        self.idle.insert((expires, slot));
        Ok(slot)
    }

    /// Only for peers with nothing in progress, so that nothing of theirs is due.
    fn forget(&mut self, slot: usize) {
        if let Some(peer) = self.slots.get_mut(slot).and_then(Option::take) {
            self.by_address.remove(&peer.address);
            self.on_streams -= usize::from(peer.address.is_stream());
            self.reply_bytes -= peer.exchanges.iter().map(|exchange| weight(&exchange.reply)).sum::<usize>();
            self.idle.remove(&(peer.expires, slot));
            self.free.push(slot);
        }
    }

    /// Moves an exchange on.
    pub(super) fn set(&mut self, key: Key, state: State, due: Option<Instant>) {
        let Some(peer) = self.slots.get_mut(key.slot).and_then(Option::as_mut) else { return };
        let Some(exchange) = peer.position(key.number).and_then(|place| peer.exchanges.get_mut(place)) else {
            return;
        };
        if let Some(due) = core::mem::replace(&mut exchange.due, due) {
            self.due.remove(&(due, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
        let before = core::mem::replace(&mut exchange.state, state).in_progress();
        self.count(key.slot, before, state.in_progress());
    }

    /// Something of a peer's was in progress `before`, and is `after`.
    fn count(&mut self, slot: usize, before: bool, after: bool) {
        let Some(peer) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        match (before, after) {
            (false, true) => {
                if peer.in_progress == 0 {
                    self.idle.remove(&(peer.expires, slot));
                }
                peer.in_progress += 1;
            }
            (true, false) => {
                peer.in_progress = peer.in_progress.saturating_sub(1);
                if peer.in_progress == 0 {
                    self.idle.insert((peer.expires, slot));
                }
            }
            _ => {}
        }
    }

    /// Whether a later request of the same peer has the same token: a response of its own to the earlier one would be taken for
    /// the answer to the later one. In an ACK it is told apart by its message id (RFC 7252, 5.3.2).
    pub(super) fn is_overtaken(&self, key: Key) -> bool {
        let Some(peer) = self.peer(key.slot) else { return false };
        let own = peer.position(key.number).and_then(|place| peer.exchanges.get(place));
        own.is_some_and(|own| {
            peer.exchanges.iter().rev().any(|other| other.number > own.number && other.token == own.token)
        })
    }

    /// Whether a request with this token waits for its answer.
    pub(super) fn is_asked(&self, address: Address, token: Token) -> bool {
        self.slot(address).and_then(|slot| self.peer(slot)).is_some_and(|peer| {
            peer.in_progress > 0
                && peer
                    .exchanges
                    .iter()
                    .any(|exchange| exchange.token == token && exchange.state.in_progress())
        })
    }

    /// Whether a CON to this peer is not acknowledged yet, a separate response or a notification (NSTART 1; RFC 7252, 4.7;
    /// RFC 7641, 4.5.1).
    pub(super) fn is_busy(&self, address: Address) -> bool {
        self.slot(address).and_then(|slot| self.peer(slot)).is_some_and(|peer| {
            let responding = |exchange: &Exchange| matches!(exchange.state, State::Responding { .. });
            peer.notifying || peer.exchanges.iter().any(responding)
        })
    }

    /// Whether a request of this peer waits for what it asked to be safe.
    pub(super) fn is_pending(&self, address: Address) -> bool {
        let peer = self.slot(address).and_then(|slot| self.peer(slot));
        peer.is_some_and(|peer| peer.exchanges.iter().any(|exchange| exchange.state == State::Pending))
    }

    /// The oldest exchange of a peer whose separate response waits for its turn.
    pub(super) fn queued_at(&self, address: Address) -> Option<Key> {
        let slot = self.slot(address)?;
        let peer = self.peer(slot)?;
        let exchange = peer.exchanges.iter().find(|exchange| exchange.state == State::Queued)?;
        Some(Key { slot, number: exchange.number })
    }

    /// A notification that wants an acknowledgement is under way to a peer, or no longer.
    pub(super) fn set_notifying(&mut self, address: Address, notifying: bool) {
        let slot = self.slot(address);
        if let Some(peer) = slot.and_then(|slot| self.peer_mut(slot)) {
            peer.notifying = notifying;
        }
    }

    /// Remembers a peer for as long as it observes something; each call wants one [`unpin`](Self::unpin).
    pub(super) fn pin(&mut self, now: Instant, address: Address, first_message_id: u16) -> Result<(), Full> {
        let slot = match self.slot(address) {
            Some(slot) => slot,
            None => self.admit(now, address, first_message_id)?,
        };
        self.count(slot, false, true);
        Ok(())
    }

    /// An observation has ended.
    pub(super) fn unpin(&mut self, address: Address) {
        if let Some(slot) = self.slot(address) {
            self.count(slot, true, false);
        }
    }

    /// Takes a request on a peer's account: false when it sends faster than `every`, after a burst of so many.
    pub(super) fn pays(&mut self, now: Instant, address: Address, every: Duration, burst: u32) -> bool {
        let slot = self.slot(address);
        // One that is not known yet has sent nothing.
        let Some(peer) = slot.and_then(|slot| self.peer_mut(slot)) else { return true };
        let paid_until = peer.paid_until.max(now).after(every);
        let pays = paid_until <= now.after(every.saturating_mul(burst.max(1)));
        if pays {
            peer.paid_until = paid_until;
        }
        pays
    }

    /// Forgets a peer that cannot come back: a stream that is closed. What it waits for is answered to nobody.
    pub(super) fn leave(&mut self, address: Address) {
        let Some(slot) = self.slot(address) else { return };
        let keys: Vec<Key> = self
            .peer(slot)
            .into_iter()
            .flat_map(|peer| peer.exchanges.iter().map(|exchange| Key { slot, number: exchange.number }))
            .collect();
        for key in keys {
            self.set(key, State::Silent, None);
        }
        self.forget(slot);
    }

    /// Keeps an answer for repetitions of its request.
    pub(super) fn set_reply(&mut self, key: Key, reply: Option<Box<Reply>>) {
        let Some(peer) = self.peer_mut(key.slot) else { return };
        if let Some(exchange) = peer.position(key.number).and_then(|place| peer.exchanges.get_mut(place)) {
            let before = weight(&exchange.reply);
            let after = weight(&reply);
            exchange.reply = reply;
            self.reply_bytes = self.reply_bytes - before + after;
        }
    }

    /// The memory that kept answers take, in bytes.
    pub(super) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// All exchanges whose separate response waits for its turn.
    pub(super) fn queued(&self) -> Vec<Key> {
        let peers = self.slots.iter().enumerate().filter_map(|(slot, peer)| Some((slot, peer.as_ref()?)));
        peers
            .flat_map(|(slot, peer)| {
                let queued = peer.exchanges.iter().filter(|exchange| exchange.state == State::Queued);
                queued.map(move |exchange| Key { slot, number: exchange.number })
            })
            .collect()
    }

    /// The next message id of our own for a peer that is remembered.
    pub(super) fn own_message_id(&mut self, address: Address) -> Option<u16> {
        let slot = self.slot(address)?;
        let peer = self.peer_mut(slot)?;
        let id = peer.next_message_id;
        peer.next_message_id = id.wrapping_add(1);
        Some(id)
    }

    /// The next exchange for which the time has come.
    pub(super) fn due(&self, now: Instant) -> Option<Key> {
        self.due.first().filter(|(due, _)| *due <= now).map(|(_, key)| *key)
    }

    /// Forgets peers that nothing can come from again.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((expires, slot)) = self.idle.first().copied() {
            if expires > now {
                break;
            }
            self.forget(slot);
        }
    }

    /// When time alone will matter.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        let expires = self.idle.first().map(|(expires, _)| *expires);
        due.into_iter().chain(expires).min()
    }
}
