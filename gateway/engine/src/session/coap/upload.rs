//! Bodies that come block by block (Block1, RFC 7959, 2.3 and 2.5): strictly in order, within budgets, and never two mixed
//! (RFC 9175, 3). Keeps bytes and says what is owed for a block; knows no topics.

use super::peer::{Address, Origin};
use super::reply::Reply;
use super::request::Options;
use crate::limits::Limits;
use crate::mutant::{Mutant, Planted};
use crate::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_wire::coap::{Block, Code, Message, OptionNumber};

/// How long an unfinished body waits for its next block.
const UPLOAD_KEPT: Duration = Duration::from_secs(60);

/// Which body a block belongs to: the peer, the method, the path, the queries and the Request-Tags, as they were sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: Address,
    identity: Vec<u8>,
}

impl Key {
    fn of(address: Address, request: &Message<'_>) -> Self {
        let mut identity = vec![request.code().0];
        for option in request.options() {
            if matches!(
                option.number,
                OptionNumber::URI_PATH | OptionNumber::URI_QUERY | OptionNumber::REQUEST_TAG
            ) {
                identity.extend_from_slice(&option.number.0.to_be_bytes());
                // A value in a datagram is shorter than 64 KiB.
                identity
                    .extend_from_slice(&u16::try_from(option.value.len()).unwrap_or(u16::MAX).to_be_bytes());
                identity.extend_from_slice(option.value);
            }
        }
        Self { address, identity }
    }
}

#[derive(Debug)]
struct Upload {
    body: BytesMut,
    content_format: Option<u16>,
    exponent: u8,
    /// Of its first block, where datagrams have one.
    message_id: Option<u16>,
    expires: Instant,
}

/// What is owed for a block.
#[derive(Debug)]
pub(super) enum Step {
    /// An answer: go on, or a refusal.
    Reply(Reply),
    /// It was the last one. `Block` goes with the answer.
    Whole(Bytes, Option<Block>),
}

/// All unfinished bodies.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    kept: BTreeMap<Key, Upload>,
    expiring: BTreeSet<(Instant, Key)>,
    bytes: usize,
    planted: Planted,
}

impl Uploads {
    #[cfg(feature = "mutants")]
    pub(super) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Takes a block. `wait`: seconds to tell a peer for which there is no room.
    pub(super) fn take(
        &mut self,
        now: Instant,
        origin: &Origin,
        request: &Message<'_>,
        options: &Options,
        limits: &Limits,
        wait: u32,
    ) -> Step {
        let Some(block) = options.block1 else {
            return Step::Whole(Bytes::copy_from_slice(request.payload()), None);
        };
        let refuse = |code, text| Step::Reply(Reply { block1: Some(block), ..Reply::refusal(code, text) });
        let payload = request.payload();
        if payload.len() > block.bytes() || block.more && payload.len() != block.bytes() {
            return refuse(Code::BAD_REQUEST, "the payload is not of the size that Block1 says");
        }
        let key = Key::of(origin.address, request);
        let message_id = (!origin.is_stream()).then(|| request.message_id());
        // A late copy of the first block begins nothing anew (RFC 7252, 4.5).
        let begun = self.kept.get(&key).is_some_and(|upload| {
            block.more
                && message_id.is_some()
                && upload.message_id == message_id
                && upload.body.get(..payload.len()) == Some(payload)
        });
        if block.number == 0 && !begun {
            self.forget(&key);
            if !block.more {
                return Step::Whole(Bytes::copy_from_slice(payload), Some(block));
            }
            if let Err(reply) = self.begin(now, &key, (block, message_id), options, limits, wait) {
                return Step::Reply(Reply { block1: Some(block), ..reply });
            }
        }
        let Some(upload) = self.kept.get_mut(&key) else {
            return refuse(Code::REQUEST_ENTITY_INCOMPLETE, "begin with block 0");
        };
        let start = usize::try_from(block.offset()).unwrap_or(usize::MAX);
        let have = upload.body.len();
        // A copy of a block that was taken already, because its answer was lost.
        let doubled = self.planted.is(Mutant::BlockAppendedTwice);
        let repeated = block.more
            && !doubled
            && start.checked_add(payload.len()).and_then(|end| upload.body.get(start..end)) == Some(payload);
        if !repeated {
            let other = upload.content_format != options.content_format || block.exponent > upload.exponent;
            if start != have && !doubled || other {
                self.forget(&key);
                return refuse(Code::REQUEST_ENTITY_INCOMPLETE, "a block is missing: begin with block 0");
            }
            if have + payload.len() > limits.coap_body_bytes {
                self.forget(&key);
                return Step::Reply(Reply { block1: Some(block), ..too_large(limits) });
            }
            if self.bytes + payload.len() > limits.coap_block_bytes {
                self.forget(&key);
                let reply = Reply::unavailable(Code::SERVICE_UNAVAILABLE, wait);
                return Step::Reply(Reply { block1: Some(block), ..reply });
            }
            upload.body.extend_from_slice(payload);
            upload.exponent = block.exponent;
            self.bytes += payload.len();
        }
        if block.more {
            self.touch(now, &key);
            return Step::Reply(Reply { block1: Some(block), ..Reply::of(Code::CONTINUE) });
        }
        let body = self.forget(&key).map(|upload| upload.body.freeze()).unwrap_or_default();
        Step::Whole(body, Some(block))
    }

    fn begin(
        &mut self,
        now: Instant,
        key: &Key,
        (block, message_id): (Block, Option<u16>),
        options: &Options,
        limits: &Limits,
        wait: u32,
    ) -> Result<(), Reply> {
        let claimed = options.size1.and_then(|size| usize::try_from(size).ok());
        if claimed.is_some_and(|claimed| claimed > limits.coap_body_bytes) {
            return Err(too_large(limits));
        }
        let from = Key { address: key.address, identity: Vec::new() };
        let own: Vec<Key> = self
            .kept
            .range(from..)
            .map(|(other, _)| other)
            .take_while(|other| other.address == key.address)
            .cloned()
            .collect();
        // One more of the same peer takes the place of the one that has waited longest.
        if own.len() >= limits.coap_transfers_per_peer {
            let waited = |key: &&Key| self.kept.get(*key).map(|upload| upload.expires);
            if let Some(oldest) = own.iter().min_by_key(waited) {
                self.forget(&oldest.clone());
            }
        }
        if self.kept.len() >= limits.coap_transfers {
            return Err(Reply::unavailable(Code::SERVICE_UNAVAILABLE, wait));
        }
        let expires = now.after(UPLOAD_KEPT);
        let upload = Upload {
            body: BytesMut::new(),
            content_format: options.content_format,
            exponent: block.exponent,
            message_id,
            expires,
        };
        self.kept.insert(key.clone(), upload);
        self.expiring.insert((expires, key.clone()));
        Ok(())
    }

    fn touch(&mut self, now: Instant, key: &Key) {
        if let Some(upload) = self.kept.get_mut(key) {
            self.expiring.remove(&(upload.expires, key.clone()));
            upload.expires = now.after(UPLOAD_KEPT);
            self.expiring.insert((upload.expires, key.clone()));
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Upload> {
        let upload = self.kept.remove(key)?;
        self.bytes -= upload.body.len();
        self.expiring.remove(&(upload.expires, key.clone()));
        Some(upload)
    }

    /// Forgets what a stream that is gone had begun.
    pub(super) fn leave(&mut self, address: Address) {
        let from = Key { address, identity: Vec::new() };
        let range = self.kept.range(from..).map(|(key, _)| key).take_while(|key| key.address == address);
        for key in range.cloned().collect::<Vec<_>>() {
            self.forget(&key);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, key)) = self.expiring.first().filter(|first| first.0 <= now).cloned() {
            self.forget(&key);
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.expiring.first().map(|(expires, _)| *expires)
    }

    /// Unfinished bodies, and their bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }
}

/// "Not more than this" (RFC 7252, 5.9.2.9).
pub(super) fn too_large(limits: &Limits) -> Reply {
    let most = u32::try_from(limits.coap_body_bytes).unwrap_or(u32::MAX);
    Reply { size1: Some(most), ..Reply::refusal(Code::REQUEST_ENTITY_TOO_LARGE, "the body is too large") }
}
