//! Waiting for an event that another process makes, with a bound: the one place of the tests that sleeps.

use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `event` gives something; `None` after `at_most`.
pub fn wait_for<T>(at_most: Duration, mut event: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + at_most;
    loop {
        if let Some(happened) = event() {
            return Some(happened);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
