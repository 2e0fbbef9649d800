//! What happened in a seed: a hash of it always, to prove that equal seeds run equally, and lines to read when asked for.

/// The record of one seed.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(traced: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: traced.then(Vec::new) }
    }

    /// Mixes a number into the hash.
    pub(crate) fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Mixes bytes into the hash.
    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.mix(u64::from_le_bytes(eight));
        }
    }

    /// Adds a line, when somebody reads them.
    pub(crate) fn say(&mut self, now: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>10}.{:03} ms  {}", now / 1_000, now % 1_000, line()));
        }
    }

    /// Equal for equal runs.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
