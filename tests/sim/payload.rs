//! What the simulated devices say: a payload names its device and its number, and every further byte follows from
//! these, so that whoever holds a payload can tell whether it is exactly what was sent.

/// The shortest payload, in bytes.
pub(crate) const SHORTEST_BYTES: usize = 8;

/// Which message of which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The device's index.
    pub(crate) device: u16,
    /// Its message, from 0.
    pub(crate) number: u32,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "d{}#{}", self.device, self.number)
    }
}

fn filling(key: Key, index: usize) -> u8 {
    let mixed = (key.number as usize).wrapping_mul(31).wrapping_add(index).wrapping_add(key.device.into());
    (mixed & 0xff) as u8
}

/// Writes a message's payload of `size` bytes.
pub(crate) fn write(key: Key, size: usize) -> Vec<u8> {
    let size = size.max(SHORTEST_BYTES);
    let mut payload = Vec::with_capacity(size);
    payload.extend(key.device.to_be_bytes());
    payload.extend(key.number.to_be_bytes());
    payload.extend((size as u16).to_be_bytes());
    payload.extend((SHORTEST_BYTES..size).map(|index| filling(key, index)));
    payload
}

/// Reads a payload; `None` when it is not exactly what some device wrote.
pub(crate) fn read(payload: &[u8]) -> Option<Key> {
    let (head, rest) = payload.split_at_checked(SHORTEST_BYTES)?;
    let &[d0, d1, n0, n1, n2, n3, s0, s1] = head else { return None };
    let key = Key { device: u16::from_be_bytes([d0, d1]), number: u32::from_be_bytes([n0, n1, n2, n3]) };
    let whole = usize::from(u16::from_be_bytes([s0, s1])) == payload.len();
    let filled = rest.iter().zip(SHORTEST_BYTES..).all(|(byte, index)| *byte == filling(key, index));
    (whole && filled).then_some(key)
}

/// Reads which message the first block of a payload belongs to.
pub(crate) fn read_head(block: &[u8]) -> Option<Key> {
    let &[d0, d1, n0, n1, n2, n3, s0, s1] = block.first_chunk()?;
    let key = Key { device: u16::from_be_bytes([d0, d1]), number: u32::from_be_bytes([n0, n1, n2, n3]) };
    let long = usize::from(u16::from_be_bytes([s0, s1])) > block.len();
    let filled =
        block.iter().enumerate().skip(SHORTEST_BYTES).all(|(index, byte)| *byte == filling(key, index));
    (long && filled).then_some(key)
}
