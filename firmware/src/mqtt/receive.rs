//! A bounded buffer for what comes in, cut into packets; and small bounded lists of packet identifiers.
//! Knows framing only.

use tidegate_wire::mqtt::{Error, Frame, frame};

/// Bytes that have come in and are not yet worked off.
#[derive(Debug)]
pub(super) struct Inbox<const BYTES: usize> {
    buffer: [u8; BYTES],
    head: usize,
    tail: usize,
}

impl<const BYTES: usize> Inbox<BYTES> {
    pub(super) const fn new() -> Self {
        Self { buffer: [0; BYTES], head: 0, tail: 0 }
    }

    pub(super) fn clear(&mut self) {
        (self.head, self.tail) = (0, 0);
    }

    /// Takes as much as there is room for and says how much that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        if self.head > 0 && BYTES - self.tail < bytes.len() {
            self.buffer.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        let free = self.buffer.get_mut(self.tail..).unwrap_or(&mut []);
        let count = free.len().min(bytes.len());
        if let (Some(to), Some(from)) = (free.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.tail += count;
        count
    }

    /// The packet at the front, if it is whole. `Err(None)` means that it can never fit.
    pub(super) fn packet(&self) -> Result<Option<(Frame, &[u8])>, Option<Error>> {
        let waiting = self.buffer.get(self.head..self.tail).unwrap_or(&[]);
        let Some(frame) = frame(waiting).map_err(Some)? else { return Ok(None) };
        if frame.total_bytes() > BYTES {
            return Err(None);
        }
        Ok(waiting.get(..frame.total_bytes()).map(|packet| (frame, packet)))
    }

    /// Forgets the packet at the front.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.head = self.tail.min(self.head + bytes);
    }
}

/// A bounded list in order.
#[derive(Debug)]
pub(super) struct List<T, const N: usize> {
    items: [T; N],
    count: usize,
}

impl<T: Copy + PartialEq, const N: usize> List<T, N> {
    pub(super) const fn new(vacant: T) -> Self {
        Self { items: [vacant; N], count: 0 }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        self.items.get(..self.count).unwrap_or(&[])
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        self.items.get_mut(..self.count).unwrap_or(&mut [])
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= N
    }

    /// Appends, if there is room.
    pub(super) fn push(&mut self, item: T) -> bool {
        match self.items.get_mut(self.count) {
            Some(slot) => {
                *slot = item;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// Takes out the first that fits, and says whether there was one.
    pub(super) fn remove(&mut self, fits: impl Fn(&T) -> bool) -> bool {
        let Some(index) = self.as_slice().iter().position(fits) else { return false };
        if let Some(behind) = self.as_mut_slice().get_mut(index..) {
            behind.rotate_left(1);
        }
        self.count -= 1;
        true
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}
