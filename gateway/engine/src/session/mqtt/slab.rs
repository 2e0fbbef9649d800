//! The table of sessions: found by a key that goes stale when its session ends, so that a receipt which comes
//! back late can never meet a stranger. Knows nothing of what stands in it.

/// Where a session stands. Never used for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Slots that are allocated together. A table that grew as a whole would for a moment, and in a quiet gateway for long,
/// hold twice its memory.
/// In bytes: a size in which the allocator wastes nothing.
const CHUNK_BYTES: usize = 10 << 10;

/// A table with stable keys.
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All but the last are full.
    chunks: Vec<Vec<Slot<T>>>,
    slots: usize,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    const CHUNK_SLOTS: usize =
        if size_of::<Slot<T>>() < CHUNK_BYTES { CHUNK_BYTES / size_of::<Slot<T>>() } else { 1 };

    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), slots: 0, free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> SessionKey {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slot_mut(index)
        {
            slot.value = Some(value);
            return SessionKey { index, generation: slot.generation };
        }
        let slot = Slot { generation: 0, value: Some(value) };
        match self.chunks.last_mut().filter(|chunk| chunk.len() < Self::CHUNK_SLOTS) {
            Some(chunk) => chunk.push(slot),
            None => {
                let mut chunk = Vec::with_capacity(Self::CHUNK_SLOTS);
                chunk.push(slot);
                self.chunks.push(chunk);
            }
        }
        self.slots += 1;
        // As many as fit into memory: far fewer than 2^32.
        SessionKey { index: u32::try_from(self.slots - 1).unwrap_or(u32::MAX), generation: 0 }
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let index = index as usize;
        self.chunks.get(index / Self::CHUNK_SLOTS)?.get(index % Self::CHUNK_SLOTS)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.chunks.get_mut(index / Self::CHUNK_SLOTS)?.get_mut(index % Self::CHUNK_SLOTS)
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&T> {
        let slot = self.slot(key.index)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut T> {
        let slot = self.slot_mut(key.index)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<T> {
        let slot = self.slot_mut(key.index)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn keys_stay_while_the_table_grows_and_go_stale_when_their_value_goes() {
        let most = 3 * Slab::<usize>::CHUNK_SLOTS;
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..most).map(|value| slab.insert(value)).collect();
        assert!(keys.iter().enumerate().all(|(value, key)| slab.get(*key) == Some(&value)));
        assert_eq!(slab.remove(keys[70]), Some(70));
        assert_eq!(slab.len(), most - 1);
        let again = slab.insert(7);
        assert_eq!(again.index, keys[70].index, "the place is used again");
        assert_eq!((slab.get(keys[70]), slab.get(again)), (None, Some(&7)));
        assert_eq!(slab.remove(keys[70]), None);
    }
}
