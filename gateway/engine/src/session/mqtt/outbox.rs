//! What waits to be sent on one connection: everything of one round is gathered into one write; large payloads are
//! shared, not copied. Counts what the shell has not sent yet. Knows no packets.

use bytes::{Bytes, BytesMut};

/// Payloads from this size on are shared between their receivers: below it a copy costs less than a write of its own.
pub(super) const SHARED_FROM_BYTES: usize = 4 << 10;

/// A connection's outgoing bytes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Finished pieces, in order, before `tail`.
    pieces: Vec<Bytes>,
    tail: BytesMut,
    /// Bytes in `pieces`.
    finished: usize,
    /// Bytes given to the shell that have not left it.
    unsent: usize,
}

impl Outbox {
    /// Where the next packet is written.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends bytes that are shared with others.
    pub(super) fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_FROM_BYTES {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        self.finish();
        self.finished += bytes.len();
        self.pieces.push(bytes);
    }

    /// Bytes that the peer has not taken.
    pub(super) fn backlog(&self) -> usize {
        self.finished + self.tail.len() + self.unsent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Everything gathered, in order, to be sent now.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Bytes> {
        self.finish();
        self.unsent += self.finished;
        self.finished = 0;
        std::mem::take(&mut self.pieces).into_iter()
    }

    /// The shell has sent so many bytes.
    pub(super) fn sent(&mut self, count: usize) {
        self.unsent = self.unsent.saturating_sub(count);
    }

    fn finish(&mut self) {
        if !self.tail.is_empty() {
            self.finished += self.tail.len();
            self.pieces.push(self.tail.split().freeze());
        }
    }
}
