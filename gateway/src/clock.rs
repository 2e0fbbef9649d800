//! The clocks: the monotonic one as the engine's `Instant`, the wall clock, and whether it can be believed.
//! Nothing here waits for the wall clock to be set: a board boots in the past and takes messages at once (P5).

use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::{Duration, Instant as StdInstant};
use tidegate_engine::time::{Instant, Now, Stamp};

/// How long an answer of the kernel about synchronisation is believed: a system call a second costs nothing,
/// one a message would.
const SYNCHRONISED_CACHED: Duration = Duration::from_secs(1);

/// What systemd-timesyncd leaves when it has set the clock. Asked only when the kernel may not be asked
/// (`ProtectClock=yes` in a unit blocks `adjtimex`).
const TIMESYNCD_FLAG: &str = "/run/systemd/timesync/synchronized";

/// Reads the clocks.
#[derive(Debug)]
pub struct Clock {
    start: StdInstant,
    asked: Option<StdInstant>,
    synchronised: bool,
}

impl Clock {
    /// A clock whose `Instant` begins at zero now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: StdInstant::now(), asked: None, synchronised: false }
    }

    /// The time now, on all clocks.
    pub fn now(&mut self) -> Now {
        let monotonic = StdInstant::now();
        if self.asked.is_none_or(|at| monotonic.duration_since(at) >= SYNCHRONISED_CACHED) {
            self.asked = Some(monotonic);
            self.synchronised = synchronised();
        }
        Now {
            instant: Instant(
                u64::try_from(monotonic.duration_since(self.start).as_micros()).unwrap_or(u64::MAX),
            ),
            wall: Stamp { unix_ms: unix_ms(), synchronised: self.synchronised },
        }
    }

    /// The engine's instant as the runtime's timers understand it; `None` when it lies too far in the future for them.
    #[must_use]
    pub fn std_instant(&self, instant: Instant) -> Option<StdInstant> {
        self.start.checked_add(Duration::from_micros(instant.0))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Milliseconds since 1970, negative before: a clock may be set to anything.
#[must_use]
pub fn unix_ms() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

/// Asks the kernel, and systemd-timesyncd when the kernel may not be asked.
fn synchronised() -> bool {
    kernel_synchronised().unwrap_or_else(|| Path::new(TIMESYNCD_FLAG).exists())
}

/// What the kernel says; whichever daemon sets the clock clears `STA_UNSYNC`, and the kernel sets it again when the daemon stays away.
#[allow(
    unsafe_code,
    reason = "no safe wrapper of adjtimex is among the dependencies; the call only reads (modes = 0)"
)]
fn kernel_synchronised() -> Option<bool> {
    // SAFETY: `timex` is plain old data for which all zeros is valid; with `modes == 0` the kernel only writes to it.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    match state {
        -1 => None,
        libc::TIME_ERROR => Some(false),
        _ => Some(status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use std::time::Instant;

    #[test]
    fn instants_ascend_and_translate_back() {
        let mut clock = Clock::new();
        let first = clock.now();
        let second = clock.now();
        assert!(second.instant >= first.instant);
        assert!(clock.std_instant(first.instant).unwrap() <= Instant::now());
        assert!(first.wall.unix_ms > 1_600_000_000_000);
    }
}
