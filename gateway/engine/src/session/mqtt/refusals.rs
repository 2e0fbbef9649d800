//! What clients were refused or sent away for, counted by reason code. Counts, and decides nothing.

use tidegate_wire::mqtt::ReasonCode;

/// The reason codes that tell of a failure begin here (MQTT 5.0, 2.4).
const FIRST: u8 = 0x80;

/// So many does the specification have room for.
const CODES: usize = 128;

/// A counter for each reason code of a failure.
#[derive(Debug)]
pub(super) struct Refusals([u64; CODES]);

impl Default for Refusals {
    fn default() -> Self {
        Self([0; CODES])
    }
}

impl Refusals {
    /// One more; success is none.
    pub(super) fn count(&mut self, reason: ReasonCode) {
        let place = reason.0.checked_sub(FIRST).map(usize::from);
        if let Some(count) = place.and_then(|place| self.0.get_mut(place)) {
            *count += 1;
        }
    }

    /// Those that have happened, by their names in the specification.
    pub(super) fn by_name(&self) -> Vec<(&'static str, u64)> {
        let codes = (FIRST..=u8::MAX).map(|code| ReasonCode(code).name());
        codes.zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}
