//! How property tests choose their cases: the same ones in every plain run, so that a change is to blame for a failure
//! and not luck; many more and always new ones in the long run. What the long run finds becomes a test of its own.

use proptest::test_runner::{Config, RngSeed};

/// By how much the long run (`tests/run --long`) multiplies the cases.
const TIMES: &str = "TIDEGATE_PROPERTY_TIMES";

/// `cases` cases of a fixed seed; with `TIDEGATE_PROPERTY_TIMES=n` in the environment, `n` times as many of a new one.
///
/// # Panics
///
/// If that variable is no number.
#[must_use]
pub fn property(cases: u32) -> Config {
    let plain = Config { failure_persistence: None, ..Config::default() };
    match std::env::var(TIMES) {
        Ok(times) => Config { cases: cases * times.parse::<u32>().unwrap(), ..plain },
        Err(_) => Config { cases, rng_seed: RngSeed::Fixed(0x5e_ed), ..plain },
    }
}
