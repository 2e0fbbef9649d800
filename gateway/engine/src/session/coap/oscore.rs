//! OSCORE (RFC 8613) below the server: opens what devices have protected, protects what goes back to them, and has the
//! sequence numbers of its keys reserved in the store before they are used. It knows messages and no resources.
//!
//! A restart forgets which requests have been seen, so that the first one of each device in each life of the gateway is
//! answered with a challenge (RFC 8613, B.1.2). That costs a round trip and spares the flash a write a request.

use super::exchange::EXCHANGE_LIFETIME;
use super::peer::Place;
use crate::event::{Op, RecordKey, RecordKind, Setup};
use crate::id::DeviceId;
use crate::limits::Limits;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use tidegate_oscore::{
    Challenge, Context, Exchange, Header as OptionHeader, Id, MAX_EXPANSION_BYTES, Opened, PartialIv,
    ProtectError, Refusal, Replay, Sequence, Session,
};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// Numbers reserved with one write: the device that is sent a notification a second costs one in ten minutes or so, and a
/// restart skips this many of 2^40.
const RESERVE_STEP: u64 = 1_024;

/// The name of the record from which keys begin that have none of their own: no key's.
const FLOOR: &[u8] = &[];

/// When these are full, those whose requests cannot come again are forgotten, so often at the most: it looks at all.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A context, as long as the engine runs: never used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ContextId(u32);

impl ContextId {
    /// All that there can be.
    pub(super) const ALL: std::ops::RangeInclusive<Self> = Self(0)..=Self(u32::MAX);
}

/// What a protected request turned out to be.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Genuine and new.
    Request {
        context: ContextId,
        device: DeviceId,
        /// The request as the device wrote it.
        datagram: Bytes,
        /// It is the first from this place.
        signed_in: bool,
    },
    /// The very datagram has come before (RFC 7252, 4.5).
    Repeated {
        context: ContextId,
        /// What was answered, if it was.
        answer: Option<Bytes>,
        /// The request as it was opened, as a hash.
        fingerprint: u64,
    },
    /// Genuine, but perhaps not new: this is to be sent back, now or when the store has reserved a number for it.
    Challenged { context: ContextId, answer: Option<Bytes> },
    /// To be said unprotected (RFC 8613, 8.2).
    Refused(Refusal),
}

/// A request that was opened, and its answers.
#[derive(Debug)]
struct Known {
    place: Place,
    message_id: u16,
    token: Token,
    /// The datagram as it came, as a hash, and as it was opened.
    outer: u64,
    fingerprint: u64,
    exchange: Exchange,
    /// It reads: what it asks for may be asked for anew under the same token.
    reads: bool,
    observing: bool,
    /// The last answer, plain as a hash and protected: what is sent again is not protected anew.
    sent: Option<(u64, Bytes)>,
    at: Instant,
}

impl Known {
    fn kept_bytes(&self) -> usize {
        self.sent.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }
}

/// A challenge that has no number yet.
#[derive(Debug)]
struct Waiting {
    place: Place,
    header: Header,
    token: Token,
    exchange: Exchange,
}

#[derive(Debug)]
struct Secured {
    device: DeviceId,
    session: Session,
    known: VecDeque<Known>,
    places: VecDeque<Place>,
    /// Up to where a reservation is being stored.
    reserving: Option<u64>,
    waiting: Option<Waiting>,
    /// The last challenges, by the number of the request that each answers: the same again is answered with the same.
    challenges: VecDeque<(PartialIv, Bytes)>,
    /// Up to when its challenges are paid for.
    challenged_until: Instant,
}

/// All contexts.
#[derive(Debug)]
pub(super) struct Oscore {
    seed: u64,
    epoch: u64,
    contexts: BTreeMap<ContextId, Secured>,
    by_name: BTreeMap<Id, Vec<ContextId>>,
    places: BTreeSet<(Place, ContextId)>,
    /// Up to where the numbers of each key are reserved: all that were ever used here, one a secret.
    reserved: BTreeMap<[u8; 16], u64>,
    /// No key begins below this: the highest number of all keys whose reservations were forgotten.
    floor: u64,
    next: u32,
    kept_bytes: usize,
    /// When the last request came, and when it was looked last for what need not be kept.
    now: Instant,
    swept: Instant,
    bounds: Bounds,
}

/// How much of each there may be; what it means stands in [`Limits`].
#[derive(Clone, Copy, Debug)]
struct Bounds {
    exchanges: usize,
    observations: usize,
    challenges_per_second: u32,
    challenges: usize,
    places: usize,
    candidates: usize,
    kept_bytes: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self {
            exchanges: limits.oscore_exchanges_per_device,
            observations: limits.oscore_observations_per_device,
            challenges_per_second: limits.oscore_challenges_per_second,
            challenges: limits.oscore_challenges_per_device,
            places: limits.oscore_places_per_device,
            candidates: limits.oscore_contexts_per_id,
            kept_bytes: limits.oscore_reply_bytes,
        }
    }
}

impl Oscore {
    pub(super) fn new(setup: &Setup, records: &[(RecordKey, Bytes)]) -> Self {
        let mut reserved = BTreeMap::new();
        let mut floor = 0;
        for (key, value) in records.iter().filter(|(key, _)| key.kind == RecordKind::OscoreSequence) {
            // One that cannot be read must not let numbers be used again: the key is used up then.
            let upto = <[u8; 8]>::try_from(&value[..]).map_or(u64::MAX, u64::from_be_bytes);
            match <[u8; 16]>::try_from(&key.key[..]) {
                Ok(name) => drop(reserved.insert(name, upto)),
                Err(_) => floor = floor.max(upto),
            }
        }
        let mut oscore = Self {
            seed: setup.seed,
            epoch: setup.epoch,
            contexts: BTreeMap::new(),
            by_name: BTreeMap::new(),
            places: BTreeSet::new(),
            reserved,
            floor,
            next: 0,
            kept_bytes: 0,
            now: Instant::default(),
            swept: Instant::default(),
            bounds: Bounds::from(&setup.limits),
        };
        oscore.configure(setup);
        oscore
    }

    /// Takes over the devices of a configuration. A context whose keys stay keeps everything it knows.
    pub(super) fn configure(&mut self, setup: &Setup) {
        let devices = &setup.devices;
        self.bounds = Bounds::from(&setup.limits);
        let mut before: BTreeMap<_, _> = std::mem::take(&mut self.contexts)
            .into_iter()
            .map(|(id, secured)| {
                ((secured.session.context().fingerprint(), secured.device.clone()), (id, secured))
            })
            .collect();
        self.by_name.clear();
        for device in devices {
            let Some(context) = &device.oscore else { continue };
            let key = (context.fingerprint(), device.id.clone());
            let stays = before.get(&key).is_some_and(|(_, secured)| secured.session.context() == &**context);
            let same = if stays { before.remove(&key) } else { None };
            let (id, secured) = same.unwrap_or_else(|| {
                self.next += 1;
                (ContextId(self.next), self.begin(device.id.clone(), context))
            });
            self.by_name.entry(context.recipient_id()).or_default().push(id);
            self.contexts.insert(id, secured);
        }
        for (id, secured) in before.into_values() {
            self.kept_bytes -= secured.known.iter().map(Known::kept_bytes).sum::<usize>();
            for place in secured.places {
                self.places.remove(&(place, id));
            }
            // What is being stored for it counts: it may be on the medium already.
            if let Some(upto) = secured.reserving {
                self.reserved.insert(secured.session.context().fingerprint(), upto);
            }
        }
    }

    /// Forgets the reservations of keys that no device has any more, and gives the changes of the store, which belong into one
    /// commit in this order. What must not be forgotten is up to where such a key's numbers are used, should its device come back
    /// with it: a number that is used twice breaks the key (RFC 8613, 7.2.1). So all of them together leave one number behind,
    /// the highest, from which every key begins that is not known here. There are 2^40 numbers, and notifications become up to
    /// three bytes longer. The reservation of a key that has used half of them stays, or few would be left to the others.
    pub(super) fn forget_unused(&mut self) -> Vec<Op> {
        let used: BTreeSet<[u8; 16]> =
            self.contexts.values().map(|secured| secured.session.context().fingerprint()).collect();
        let gone: Vec<([u8; 16], u64)> = self
            .reserved
            .iter()
            .filter(|(name, upto)| !used.contains(*name) && **upto <= PartialIv::MAX.get() / 2)
            .map(|(name, upto)| (*name, *upto))
            .collect();
        let Some(highest) = gone.iter().map(|(_, upto)| *upto).max() else { return Vec::new() };
        let record =
            |name: &[u8]| RecordKey { kind: RecordKind::OscoreSequence, key: Bytes::copy_from_slice(name) };
        let mut ops = Vec::with_capacity(gone.len() + 1);
        if highest > self.floor {
            self.floor = highest;
            ops.push(Op::Put { key: record(FLOOR), value: Bytes::copy_from_slice(&highest.to_be_bytes()) });
        }
        for (name, _) in gone {
            self.reserved.remove(&name);
            ops.push(Op::Remove { key: record(&name) });
        }
        ops
    }

    fn begin(&self, device: DeviceId, context: &Arc<Context>) -> Secured {
        let fingerprint = context.fingerprint();
        let first = self.reserved.get(&fingerprint).copied().unwrap_or(self.floor);
        let session = Session::new(
            (**context).clone(),
            Sequence::resume(first),
            Replay::Lost(self.challenge(&fingerprint)),
        );
        Secured {
            device,
            session,
            known: VecDeque::new(),
            places: VecDeque::new(),
            reserving: None,
            waiting: None,
            challenges: VecDeque::new(),
            challenged_until: Instant::default(),
        }
    }

    /// Another one in each life, and for each context that is taken into use in it: what one that was taken away had accepted
    /// must not be new again when it comes back. It is a secret between the two ends: nobody else sees it.
    fn challenge(&self, fingerprint: &[u8]) -> Challenge {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u64(self.epoch);
        hasher.write_u32(self.next);
        hasher.write(fingerprint);
        hasher.finish().to_be_bytes()
    }

    /// Whether any device has a context; otherwise the option is one that nobody here knows.
    pub(super) fn is_used(&self) -> bool {
        !self.contexts.is_empty()
    }

    /// Opens a request (RFC 8613, 8.2). `fingerprint` hashes one.
    pub(super) fn open(
        &mut self,
        now: Instant,
        place: Place,
        request: &Message<'_>,
        datagram: &[u8],
        fingerprint: impl Fn(&[u8]) -> u64,
    ) -> Incoming {
        let Some(option) =
            request.option(OptionNumber::OSCORE).and_then(|value| OptionHeader::parse(value).ok())
        else {
            return Incoming::Refused(Refusal::Malformed);
        };
        let (Some(kid), Some(_)) = (option.kid, option.partial_iv) else {
            return Incoming::Refused(Refusal::Malformed);
        };
        self.now = now;
        let outer = fingerprint(datagram);
        let mut refusal = Refusal::UnknownContext;
        let candidates = Id::new(kid).and_then(|kid| self.by_name.get(&kid)).cloned().unwrap_or_default();
        for id in candidates.into_iter().take(self.bounds.candidates) {
            let Some(secured) = self.contexts.get_mut(&id) else { continue };
            if let Some(known) = secured.repeated(now, place, request.message_id(), outer) {
                let answer = known.sent.as_ref().map(|(_, bytes)| bytes.clone());
                let fingerprint = known.fingerprint;
                return Incoming::Repeated { context: id, answer, fingerprint };
            }
            let mut buffer = vec![0; datagram.len()];
            match secured.session.open_request(request, &mut buffer) {
                Ok(Opened::Request { datagram, exchange }) => {
                    let datagram = Bytes::copy_from_slice(datagram);
                    let code = Message::parse(&datagram).map_or(Code::EMPTY, |inner| inner.code());
                    let known = Known {
                        place,
                        message_id: request.message_id(),
                        token: request.token(),
                        outer,
                        fingerprint: fingerprint(&datagram),
                        exchange,
                        reads: matches!(code, Code::GET | Code::FETCH),
                        observing: false,
                        sent: None,
                        at: now,
                    };
                    secured.challenges = VecDeque::new();
                    let device = secured.device.clone();
                    self.kept_bytes -= secured.remember(known, self.bounds);
                    let signed_in = self.heard(id, place);
                    return Incoming::Request { context: id, device, datagram, signed_in };
                }
                Ok(Opened::Challenge { exchange }) => {
                    let answer = secured.ask(now, place, request, exchange, self.bounds);
                    return Incoming::Challenged { context: id, answer };
                }
                // With another context of the same id it may be right, and new: they count on their own.
                Err(told @ (Refusal::Decryption | Refusal::Replay)) => refusal = told,
                Err(Refusal::UnknownContext) => {}
                Err(other) => return Incoming::Refused(other),
            }
        }
        Incoming::Refused(refusal)
    }

    /// Whether a device has this context.
    pub(super) fn has(&self, id: ContextId) -> bool {
        self.contexts.contains_key(&id)
    }

    /// A stream is gone, and what this context had asked for on it.
    pub(super) fn leave(&mut self, id: ContextId, place: Place) {
        self.places.remove(&(place, id));
        let Some(secured) = self.contexts.get_mut(&id) else { return };
        secured.places.retain(|other| *other != place);
        secured.waiting.take_if(|waiting| waiting.place == place);
        let mut freed = 0;
        secured.known.retain(|known| {
            freed += if known.place == place { known.kept_bytes() } else { 0 };
            known.place != place
        });
        self.kept_bytes -= freed;
    }

    /// Notes where a context is heard from; true when it was not there before.
    fn heard(&mut self, id: ContextId, place: Place) -> bool {
        let Some(secured) = self.contexts.get_mut(&id) else { return false };
        if !self.places.insert((place, id)) {
            return false;
        }
        secured.places.push_back(place);
        if secured.places.len() > self.bounds.places
            && let Some(oldest) = secured.places.pop_front()
        {
            self.places.remove(&(oldest, id));
        }
        true
    }

    /// Protects a message to a device (RFC 8613, 8.3). `None`: it must not go, for what it answers is forgotten, or no number
    /// is reserved for it. Empty messages have nothing to protect.
    pub(super) fn protect(&mut self, id: ContextId, place: Place, plain: &Bytes) -> Option<Bytes> {
        let message = Message::parse(plain).ok()?;
        if message.code() == Code::EMPTY {
            return Some(plain.clone());
        }
        if self.kept_bytes + plain.len() + MAX_EXPANSION_BYTES > self.bounds.kept_bytes {
            self.sweep();
        }
        let secured = self.contexts.get_mut(&id)?;
        let known = answered_by(&mut secured.known, place, &message)?;
        let fingerprint = hash(plain);
        if let Some((_, bytes)) = known.sent.as_ref().filter(|(sent, _)| *sent == fingerprint) {
            return Some(bytes.clone());
        }
        known.observing = message.option(OptionNumber::OBSERVE).is_some();
        let mut buffer = vec![0; plain.len() + MAX_EXPANSION_BYTES];
        let length = secured.session.protect_response(&mut known.exchange, &message, &mut buffer).ok()?.len();
        buffer.truncate(length);
        let bytes = Bytes::from(buffer);
        self.kept_bytes -= known.kept_bytes();
        let keep = self.kept_bytes + bytes.len() <= self.bounds.kept_bytes;
        known.sent = keep.then(|| (fingerprint, bytes.clone()));
        self.kept_bytes += known.kept_bytes();
        Some(bytes)
    }

    /// Forgets answered requests that cannot come again.
    fn sweep(&mut self) {
        if self.now.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = self.now;
        for secured in self.contexts.values_mut() {
            secured.known.retain(|known| {
                let over = self.now.since(known.at) >= EXCHANGE_LIFETIME;
                let stays = known.observing || known.sent.is_none() || !over;
                self.kept_bytes -= if stays { 0 } else { known.kept_bytes() };
                stays
            });
        }
    }

    /// The reservation that is to be stored for a context now, if any; to be called after each use of it.
    pub(super) fn reserve(&mut self, id: ContextId) -> Option<Op> {
        let secured = self.contexts.get_mut(&id)?;
        if secured.reserving.is_some() {
            return None;
        }
        let upto = secured.session.sequence().to_reserve(RESERVE_STEP)?;
        secured.reserving = Some(upto);
        let key = Bytes::copy_from_slice(&secured.session.context().fingerprint());
        let value = Bytes::copy_from_slice(&upto.to_be_bytes());
        Some(Op::Put { key: RecordKey { kind: RecordKind::OscoreSequence, key }, value })
    }

    /// The reservation is stored: its numbers may be used. Gives the challenge that has waited for one.
    pub(super) fn reserved(&mut self, id: ContextId) -> Option<(Place, Bytes)> {
        let secured = self.contexts.get_mut(&id)?;
        let upto = secured.reserving.take()?;
        self.reserved.insert(secured.session.context().fingerprint(), upto);
        secured.session.sequence_mut().stored(upto);
        let Waiting { place, header, token, exchange } = secured.waiting.take()?;
        Some((place, secured.challenge(place, header, token, exchange, self.bounds)?))
    }
}

impl Secured {
    /// The request of which this datagram is a copy. On a stream there are none: what comes twice is replayed.
    fn repeated(&self, now: Instant, place: Place, message_id: u16, outer: u64) -> Option<&Known> {
        let Place::Datagram(_) = place else { return None };
        self.known.iter().find(|known| {
            (known.place, known.message_id, known.outer) == (place, message_id, outer)
                && (known.observing || now.since(known.at) < EXCHANGE_LIFETIME)
        })
    }

    /// Remembers a request, and forgets one whose token it takes over and the oldest beyond the bound, of those that are answered
    /// if there are any. Gives the bytes that are no longer kept.
    fn remember(&mut self, new: Known, bounds: Bounds) -> usize {
        let mut freed = 0;
        self.known.retain(|known| {
            let stays = (known.place, known.token) != (new.place, new.token)
                || known.observing && !new.reads
                || !known.observing && known.message_id != new.message_id;
            freed += if stays { 0 } else { known.kept_bytes() };
            stays
        });
        for (observing, most) in [(false, bounds.exchanges), (true, bounds.observations)] {
            if self.known.iter().filter(|known| known.observing == observing).count() >= most
                && let Some(oldest) = self.oldest(observing)
                && let Some(known) = self.known.remove(oldest)
            {
                freed += known.kept_bytes();
            }
        }
        self.known.push_back(new);
        freed
    }

    fn oldest(&self, observing: bool) -> Option<usize> {
        let such = |known: &Known| known.observing == observing;
        let over = self.known.iter().position(|known| such(known) && known.sent.is_some());
        over.or_else(|| self.known.iter().position(such))
    }

    /// Asks for proof that a request is new.
    fn ask(
        &mut self,
        now: Instant,
        place: Place,
        request: &Message<'_>,
        exchange: Exchange,
        bounds: Bounds,
    ) -> Option<Bytes> {
        let kind = match request.kind() {
            Kind::Confirmable => Kind::Acknowledgement,
            _ => Kind::NonConfirmable,
        };
        // A NON's answer needs an id of its own; any will do, as nothing answers to it.
        let header = Header { kind, ..request.header() };
        let known = self.challenges.iter().find(|(number, _)| *number == exchange.request());
        if let Some((_, answer)) = known {
            return addressed(answer, header, request.token());
        }
        let every = Duration::from_secs(1) / bounds.challenges_per_second.max(1);
        let paid_until = self.challenged_until.max(now).after(every);
        if paid_until > now.after(Duration::from_secs(1)) {
            return None;
        }
        self.challenged_until = paid_until;
        self.challenge(place, header, request.token(), exchange, bounds)
    }

    fn challenge(
        &mut self,
        place: Place,
        header: Header,
        token: Token,
        mut exchange: Exchange,
        bounds: Bounds,
    ) -> Option<Bytes> {
        let mut buffer = [0; CHALLENGE_BYTES];
        match self.session.challenge(&mut exchange, header, token, &mut buffer) {
            Ok(bytes) => {
                let bytes = Bytes::copy_from_slice(bytes);
                if self.challenges.len() >= bounds.challenges {
                    self.challenges.pop_front();
                }
                self.challenges.push_back((exchange.request(), bytes.clone()));
                Some(bytes)
            }
            Err(ProtectError::Sequence(_)) => {
                // The last one waits; who sent an earlier one sends it again.
                self.waiting = Some(Waiting { place, header, token, exchange });
                None
            }
            Err(_) => None,
        }
    }
}

/// Room for a challenge, in bytes.
const CHALLENGE_BYTES: usize = 32 + MAX_EXPANSION_BYTES;

/// An answer for a copy of its request: what is protected stays the same, what stands outside is the copy's.
fn addressed(answer: &[u8], header: Header, token: Token) -> Option<Bytes> {
    let answer = Message::parse(answer).ok()?;
    let mut buffer = [0; CHALLENGE_BYTES];
    let mut writer = Writer::new(&mut buffer, Header { code: answer.code(), ..header }, token);
    for option in answer.options() {
        writer = writer.option(option.number, option.value);
    }
    writer.payload(answer.payload()).finish().ok().map(Bytes::copy_from_slice)
}

/// The request that a message answers: it is bound to that one, and must be to no other. What rides on an ACK answers the one
/// with its message id, a notification one that observes, and anything else the newest with its token.
fn answered_by<'a>(
    all: &'a mut VecDeque<Known>,
    place: Place,
    message: &Message<'_>,
) -> Option<&'a mut Known> {
    let rides = message.kind() == Kind::Acknowledgement;
    let notifies = message.option(OptionNumber::OBSERVE).is_some();
    let rank = |known: &Known| {
        let its = (known.place, known.token) == (place, message.token())
            && (!rides || known.message_id == message.message_id());
        its.then_some(known.observing == notifies)
    };
    let ranked = all.iter().enumerate().filter_map(|(at, known)| Some((rank(known)?, at)));
    let (_, at) = ranked.max()?;
    all.get_mut(at)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
