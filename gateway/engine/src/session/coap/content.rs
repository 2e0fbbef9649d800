//! Representations and how they are given out: whole, or block by block (Block2, RFC 7959) from a snapshot, so that a value
//! that changes meanwhile is never mixed with the one before. Knows no topics and no rights.

use super::peer::{Address, Origin};
use super::reply::{Etag, Location, Reply};
use super::request::Options;
use crate::limits::Limits;
use crate::message::Message as Value;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use tidegate_wire::coap::{Block, Code, Kind, Message, OptionNumber, content};

/// How long a snapshot waits for the request of its next block: EXCHANGE_LIFETIME would keep what nobody asks for any more.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(60);

/// Blocks of 1,024 bytes are the largest there are (RFC 7959, 2.2).
pub(super) const EXPONENT_MAX: u8 = 6;
pub(super) const BLOCK_BYTES_MAX: usize = 16 << EXPONENT_MAX;

/// A resource's state, as it is given out.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) payload: Bytes,
    pub(super) format: Option<u16>,
    pub(super) etag: Option<Etag>,
    pub(super) max_age: Option<u32>,
    pub(super) location: Option<Box<Location>>,
}

impl Content {
    /// A message as it came.
    pub(super) fn of(message: &Value, seconds_left: Option<u32>) -> Self {
        let properties = message.properties.as_deref();
        let format = properties.and_then(|properties| {
            properties.content_format.or_else(|| content::format(properties.content_type.as_deref()?))
        });
        Self {
            payload: message.payload.clone(),
            format,
            etag: Some(etag(message)),
            max_age: seconds_left,
            location: None,
        }
    }

    /// Whether a peer that takes only this format (RFC 7252, 5.10.4) can be given it. What has no format is bytes, or text.
    pub(super) fn suits(&self, accept: Option<u16>) -> bool {
        let bytes = matches!(accept, Some(content::OCTET_STREAM | content::TEXT));
        accept.is_none() || self.format == accept || self.format.is_none() && bytes
    }
}

/// The tag of a message: its identity is never used again, and stays the same over a restart.
pub(super) fn etag(message: &Value) -> Etag {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(message.id.epoch);
    hasher.write_u64(message.id.seq.0);
    hasher.finish().to_be_bytes()
}

/// Which resource a request is for: its path and queries, which with the peer make a transfer one (RFC 7959, 2.4).
pub(super) fn resource_key(request: &Message<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for option in request.options() {
        if matches!(option.number, OptionNumber::URI_PATH | OptionNumber::URI_QUERY | OptionNumber::ACCEPT) {
            hasher.write_u16(option.number.0);
            hasher.write_usize(option.value.len());
            hasher.write(option.value);
        }
    }
    hasher.finish()
}

/// Answers a GET with a representation: 2.05, 2.03 for one that the peer has, or a refusal. The whole of it is offered in
/// blocks when it is longer than one, or when the peer asked for that, or when its place is not proved.
///
/// With `observed` an Observe option is to have room beside it.
pub(super) fn answer(
    origin: &Origin,
    request: &Message<'_>,
    options: &Options,
    content: &Content,
    observed: bool,
) -> Reply {
    if !content.suits(options.accept) {
        return Reply::refusal(Code::NOT_ACCEPTABLE, "it has another content format");
    }
    let etag = content.etag;
    if etag.is_some_and(|etag| request.options_of(OptionNumber::ETAG).any(|known| known == etag)) {
        return Reply { etag, max_age: content.max_age, ..Reply::of(Code::VALID) };
    }
    let reply = match block(content, options.block2, EXPONENT_MAX) {
        Ok(reply) => reply,
        Err(refusal) => return refusal,
    };
    let reply = fit(reply, origin, request, content, options.block2, observed);
    Reply { observe: None, ..reply }
}

/// One block of a representation, or the whole when that is short and was not asked for in blocks.
pub(super) fn block(content: &Content, asked: Option<Block>, exponent_most: u8) -> Result<Reply, Reply> {
    let whole = content.payload.len();
    let mut reply = Reply {
        etag: content.etag,
        location: content.location.clone(),
        content_format: content.format,
        max_age: content.max_age,
        payload: content.payload.clone(),
        ..Reply::of(Code::CONTENT)
    };
    let most = 16 << exponent_most.min(EXPONENT_MAX);
    let Some(asked) = asked.or_else(|| {
        (whole > most.min(BLOCK_BYTES_MAX)).then_some(Block {
            number: 0,
            more: false,
            exponent: exponent_most,
        })
    }) else {
        return Ok(reply);
    };
    let start = usize::try_from(asked.offset()).unwrap_or(usize::MAX);
    if start > 0 && start >= whole {
        return Err(Reply::refusal(Code::BAD_REQUEST, "no such block"));
    }
    // A smaller block than was asked for begins at the same byte.
    let exponent = asked.exponent.min(exponent_most);
    let number = asked.number << (asked.exponent - exponent);
    let end = whole.min(start.saturating_add(16 << exponent));
    if number > Block::MAX_NUMBER {
        return Err(Reply::refusal(Code::BAD_REQUEST, "no such block"));
    }
    reply.block2 = Some(Block { number, more: end < whole, exponent });
    if start == 0 && end < whole {
        reply.size2 = u32::try_from(whole).ok();
    }
    reply.payload = content.payload.slice(start..end);
    Ok(reply)
}

/// Cuts an answer down to what the peer takes, or may be sent when its place is not proved: to smaller blocks, at last to none.
fn fit(
    reply: Reply,
    origin: &Origin,
    request: &Message<'_>,
    content: &Content,
    asked: Option<Block>,
    observed: bool,
) -> Reply {
    if origin.room() == usize::MAX {
        return reply;
    }
    // The widest sequence number there is.
    let observe = observed.then_some(0xFF_FFFF);
    let fits = |reply: &Reply| {
        let reply = Reply { observe, ..reply.clone() };
        let written = reply.write(Kind::Acknowledgement, 0, request.token(), usize::MAX);
        written.is_some_and(|bytes| bytes.len() <= origin.room())
    };
    if fits(&reply) {
        return reply;
    }
    (0..=EXPONENT_MAX)
        .rev()
        .filter_map(|exponent| block(content, asked, exponent).ok())
        .map(|reply| Reply { size2: None, ..reply })
        .find(fits)
        .unwrap_or_else(|| {
            if origin.verified {
                return Reply::refusal(Code::BAD_REQUEST, "no answer fits your Max-Message-Size");
            }
            // `Coap` adds the Echo option.
            Reply::of(Code::UNAUTHORIZED)
        })
}

/// What is being given out block by block.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    kept: BTreeMap<(Address, u64), Snapshot>,
    expiring: BTreeSet<(Instant, Address, u64)>,
    bytes: usize,
}

#[derive(Debug)]
struct Snapshot {
    content: Content,
    expires: Instant,
}

impl Snapshots {
    /// What a transfer under way gives out.
    pub(super) fn get(&mut self, now: Instant, address: Address, resource: u64) -> Option<Content> {
        let snapshot = self.kept.get_mut(&(address, resource))?;
        self.expiring.remove(&(snapshot.expires, address, resource));
        snapshot.expires = now.after(SNAPSHOT_KEPT);
        self.expiring.insert((snapshot.expires, address, resource));
        Some(snapshot.content.clone())
    }

    /// Keeps what a transfer begins with; the ones that have waited longest make room. Without room the next block comes from
    /// what the resource is then, and its tag says so.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        address: Address,
        resource: u64,
        content: &Content,
        limits: &Limits,
    ) {
        self.forget(address, resource);
        let weight = content.payload.len();
        if weight > limits.coap_block_bytes {
            return;
        }
        while self.kept.len() >= limits.coap_transfers || self.bytes + weight > limits.coap_block_bytes {
            let Some((_, address, resource)) = self.expiring.first().copied() else { break };
            self.forget(address, resource);
        }
        let expires = now.after(SNAPSHOT_KEPT);
        self.bytes += weight;
        self.kept.insert((address, resource), Snapshot { content: content.clone(), expires });
        self.expiring.insert((expires, address, resource));
    }

    /// Forgets a transfer that has come to its end.
    pub(super) fn forget(&mut self, address: Address, resource: u64) {
        if let Some(snapshot) = self.kept.remove(&(address, resource)) {
            self.bytes -= snapshot.content.payload.len();
            self.expiring.remove(&(snapshot.expires, address, resource));
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, address, resource)) = self.expiring.first().copied().filter(|first| first.0 <= now)
        {
            self.forget(address, resource);
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.expiring.first().map(|(expires, ..)| *expires)
    }
}
