//! What waits to be sent on one connection: everything of one round is gathered into one write; large payloads are
//! shared, not copied. Counts what the shell has not sent yet. Owns no memory when nothing waits. Knows no packets.

use bytes::{Bytes, BytesMut};

/// Payloads from this size on are shared between their receivers: below it a copy costs less than a write of its own.
pub(super) const SHARED_FROM_BYTES: usize = 4 << 10;

/// A connection's outgoing bytes.
#[derive(Debug, Default)]
pub(super) struct Outbox(Option<Box<Gathered>>);

#[derive(Debug, Default)]
struct Gathered {
    /// Finished pieces, in order, before `tail`.
    pieces: Vec<Bytes>,
    tail: BytesMut,
    /// Bytes in `pieces`.
    finished: usize,
    /// Bytes given to the shell that have not left it.
    unsent: usize,
    /// Packets written and not counted yet.
    packets: u32,
}

impl Outbox {
    fn gathered(&mut self) -> &mut Gathered {
        self.0.get_or_insert_default()
    }

    /// Where the next packet is written.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.gathered().tail
    }

    /// Appends bytes that are shared with others.
    pub(super) fn share(&mut self, bytes: Bytes) {
        let gathered = self.gathered();
        if bytes.len() < SHARED_FROM_BYTES {
            gathered.tail.extend_from_slice(&bytes);
            return;
        }
        gathered.finish();
        gathered.finished += bytes.len();
        gathered.pieces.push(bytes);
    }

    /// Bytes that the peer has not taken.
    pub(super) fn backlog(&self) -> usize {
        self.0.as_ref().map_or(0, |gathered| gathered.finished + gathered.tail.len() + gathered.unsent)
    }

    /// Notes that a packet was written.
    pub(super) fn count_packet(&mut self) {
        let gathered = self.gathered();
        gathered.packets = gathered.packets.saturating_add(1);
    }

    /// Packets written since the last time.
    pub(super) fn take_packets(&mut self) -> u32 {
        self.0.as_mut().map_or(0, |gathered| std::mem::take(&mut gathered.packets))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|gathered| gathered.pieces.is_empty() && gathered.tail.is_empty())
    }

    /// Everything gathered, in order, to be sent now.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        let (pieces, tail) = self.0.as_mut().map_or_else(Default::default, |gathered| gathered.take());
        pieces.into_iter().chain(tail)
    }

    /// Forgets everything; nothing of it has been given to the shell.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// The shell has sent so many bytes.
    pub(super) fn sent(&mut self, count: usize) {
        if let Some(gathered) = &mut self.0 {
            gathered.unsent = gathered.unsent.saturating_sub(count);
        }
        if self.backlog() == 0 {
            self.0 = None;
        }
    }
}

impl Gathered {
    fn finish(&mut self) {
        if !self.tail.is_empty() {
            self.finished += self.tail.len();
            self.pieces.push(self.tail.split().freeze());
        }
    }

    fn take(&mut self) -> (Vec<Bytes>, Option<Bytes>) {
        let tail = std::mem::take(&mut self.tail);
        self.unsent += self.finished + tail.len();
        self.finished = 0;
        (std::mem::take(&mut self.pieces), (!tail.is_empty()).then(|| tail.freeze()))
    }
}
