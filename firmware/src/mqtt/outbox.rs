//! The packets that wait to be sent or acknowledged, as encoded bytes in one arena, in their order.
//! Knows slots, bytes and order; nothing of connections or time.

use tidegate_wire::mqtt::{EncodeError, Kind, Qos};

/// One packet: a PUBLISH or a SUBSCRIBE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The caller's name for it.
    pub(super) token: u32,
    /// Packet identifier; 0 with QoS 0.
    pub(super) id: u16,
    /// Wholly handed to the transport of this connection.
    pub(super) sent: bool,
    /// Wholly handed to the transport of an earlier connection: the server may have it.
    pub(super) repeated: bool,
    bytes: usize,
}

const VACANT: Entry = Entry { token: 0, id: 0, sent: false, repeated: false, bytes: 0 };

/// At most `SLOTS` packets of together at most `BYTES`.
#[derive(Debug)]
pub(super) struct Outbox<const SLOTS: usize, const BYTES: usize> {
    entries: [Entry; SLOTS],
    count: usize,
    arena: [u8; BYTES],
    used: usize,
}

impl<const SLOTS: usize, const BYTES: usize> Outbox<SLOTS, BYTES> {
    pub(super) const fn new() -> Self {
        Self { entries: [VACANT; SLOTS], count: 0, arena: [0; BYTES], used: 0 }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.entries.get(..self.count).unwrap_or(&[])
    }

    fn entries_mut(&mut self) -> &mut [Entry] {
        self.entries.get_mut(..self.count).unwrap_or(&mut [])
    }

    /// Appends what `encode` writes.
    ///
    /// # Errors
    /// What `encode` says; `BufferTooSmall` also when all slots are taken.
    pub(super) fn push(
        &mut self,
        token: u32,
        id: u16,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), EncodeError> {
        let full = EncodeError::BufferTooSmall { needed: 0 };
        let slot = self.entries.get_mut(self.count).ok_or(full)?;
        let bytes = encode(self.arena.get_mut(self.used..).ok_or(full)?)?;
        *slot = Entry { token, id, bytes, ..VACANT };
        self.count += 1;
        self.used += bytes;
        Ok(())
    }

    /// The bytes of entry `index` as they were encoded.
    pub(super) fn image(&self, index: usize) -> &[u8] {
        let start = self.start(index);
        let bytes = self.entries().get(index).map_or(0, |entry| entry.bytes);
        self.arena.get(start..start + bytes).unwrap_or(&[])
    }

    /// The type of entry `index`; nothing but PUBLISH and SUBSCRIBE is in here.
    pub(super) fn kind(&self, index: usize) -> Option<Kind> {
        self.image(index).first().and_then(|&first| Kind::from_first_byte(first))
    }

    /// QoS of the PUBLISH at `index`.
    pub(super) fn qos(&self, index: usize) -> Qos {
        self.image(index).first().and_then(|first| Qos::from_u8(first >> 1 & 0x03)).unwrap_or_default()
    }

    fn start(&self, index: usize) -> usize {
        self.entries().iter().take(index).map(|entry| entry.bytes).sum()
    }

    pub(super) fn mark_sent(&mut self, index: usize) {
        if let Some(entry) = self.entries_mut().get_mut(index) {
            entry.sent = true;
        }
    }

    /// Takes entry `index` out; the others keep their order.
    pub(super) fn remove(&mut self, index: usize) -> Option<Entry> {
        let start = self.start(index);
        let entry = *self.entries().get(index)?;
        if let Some(behind) = self.arena.get_mut(start..self.used)
            && entry.bytes <= behind.len()
        {
            behind.copy_within(entry.bytes.., 0);
        }
        if let Some(behind) = self.entries_mut().get_mut(index..) {
            behind.rotate_left(1);
        }
        self.count -= 1;
        self.used = self.used.saturating_sub(entry.bytes);
        Some(entry)
    }

    /// The connection is gone: what was sent is to be sent again, QoS 0 is forgotten.
    pub(super) fn rewind(&mut self) {
        while let Some(index) = self.entries().iter().position(|entry| entry.id == 0) {
            self.remove(index);
        }
        for entry in self.entries_mut() {
            entry.repeated |= entry.sent;
            entry.sent = false;
        }
    }
}
