//! Who sent what, and what became of it: acknowledged, received, lost, repeated, out of order.
//! Every payload begins with the device's number, the message's number and the time of sending.

use std::time::Duration;

/// The bytes at the front of each payload that say what it is.
pub(crate) const STAMP_BYTES: usize = 16;

/// What stands at the front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u32,
    pub(crate) number: u32,
    /// Since the beginning of the run.
    pub(crate) sent: Duration,
}

impl Stamp {
    /// Writes the stamp to the front of `payload`, which has room for it.
    pub(crate) fn write(self, payload: &mut [u8]) {
        let sent = u64::try_from(self.sent.as_micros()).unwrap_or(u64::MAX);
        let stamp = self.device.to_be_bytes().into_iter().chain(self.number.to_be_bytes());
        for (byte, value) in payload.iter_mut().zip(stamp.chain(sent.to_be_bytes())) {
            *byte = value;
        }
    }

    /// Reads a stamp; `None` for a payload that is not ours.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (device, rest) = payload.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        Some(Self {
            device: u32::from_be_bytes(*device),
            number: u32::from_be_bytes(*number),
            sent: Duration::from_micros(u64::from_be_bytes(*sent)),
        })
    }
}

/// What a consumer has received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    seen: Vec<Vec<bool>>,
    newest: Vec<Option<u32>>,
    /// Messages, repetitions included.
    pub(crate) all: u64,
    /// Messages, each counted once.
    pub(crate) distinct: u64,
    /// Messages that came again.
    pub(crate) repeated: u64,
    /// Messages whose first arrival came after that of a later one of the same device.
    pub(crate) reordered: u64,
}

impl Received {
    pub(crate) fn new(devices: usize) -> Self {
        Self { seen: vec![Vec::new(); devices], newest: vec![None; devices], ..Self::default() }
    }

    pub(crate) fn count(&mut self, payload: &[u8]) {
        let Some(stamp) = Stamp::read(payload) else { return };
        let (device, number) = (stamp.device as usize, stamp.number as usize);
        let (Some(seen), Some(newest)) = (self.seen.get_mut(device), self.newest.get_mut(device)) else {
            return;
        };
        self.all += 1;
        if seen.len() <= number {
            seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut seen[number], true) {
            self.repeated += 1;
            return;
        }
        self.distinct += 1;
        if newest.is_some_and(|newest| newest > stamp.number) {
            self.reordered += 1;
        } else {
            *newest = Some(stamp.number);
        }
    }

    /// Whether a message has been received.
    pub(crate) fn has(&self, device: usize, number: usize) -> bool {
        self.seen.get(device).and_then(|seen| seen.get(number)).copied().unwrap_or(false)
    }
}

/// Times from sending to acknowledgement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The p50, the p99 and the longest, in milliseconds.
    pub(crate) fn summary(&mut self) -> [f64; 3] {
        self.0.sort_unstable();
        let at = |part: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a list")]
            let index = (self.0.len().saturating_sub(1) as f64 * part) as usize;
            self.0.get(index).map_or(0.0, |&micros| f64::from(micros) / 1_000.0)
        };
        [at(0.5), at(0.99), at(1.0)]
    }
}
