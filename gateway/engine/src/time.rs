//! Time as the engine knows it: it arrives with every input and is never asked for.
//! Decisions use the monotonic [`Instant`]; the wall clock is only ever written down, because
//! a board without a battery-backed clock boots in the past (P5).

pub use core::time::Duration;

/// A point on the gateway's monotonic clock, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant moved `by` into the future; saturates at the end of time.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What the wall clock said, and whether it could be believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
    /// True when the kernel's clock was synchronised at that moment.
    pub synchronised: bool,
}

/// The time that comes with an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, for decisions.
    pub instant: Instant,
    /// The wall clock, for the record.
    pub wall: Stamp,
}
