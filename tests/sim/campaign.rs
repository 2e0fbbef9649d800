//! Many seeds: the kept ones first, then a range, on several threads; the sum of what they went through; and the
//! mutants, each of which must be caught.

use super::coverage::Coverage;
use super::oracle::Violation;
use super::world::{Report, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_engine::mutant::Mutant;

/// Seeds that once failed, one a line; text after `#` says why. They run first, every time.
const KEPT: &str = include_str!("seeds.txt");

/// A seed that breaks a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which seed.
    pub seed: u64,
    /// Which promise, in words.
    pub violation: String,
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seeds that ran.
    pub seeds: u64,
    /// Those that broke a promise, ascending.
    pub failures: Vec<Failure>,
    /// The longest that a seed took to come to rest after its last fault, in virtual seconds.
    pub slowest_rest_s: u64,
    /// Events, over all seeds.
    pub events: u64,
    /// What there was too little of; empty when enough happened.
    pub missing: Vec<String>,
    coverage: Coverage,
}

impl Outcome {
    /// Every path with its count.
    #[must_use]
    pub fn paths(&self) -> Vec<(u64, &'static str)> {
        self.coverage.list().into_iter().map(|(count, _, meaning)| (count, meaning)).collect()
    }
}

/// The seeds that are kept.
#[must_use]
pub fn kept() -> Vec<u64> {
    let number = |line: &str| line.split('#').next().and_then(|text| text.trim().parse().ok());
    KEPT.lines().filter_map(number).collect()
}

/// Runs one seed. A panic of the code under test is a broken promise too.
fn run_one(seed: u64, mutant: Option<Mutant>, traced: bool) -> Report {
    catch_unwind(AssertUnwindSafe(|| World::run(seed, mutant, traced))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Report {
            violation: Some(Violation(format!("panic: {text}"))),
            coverage: Coverage::default(),
            hash: 0,
            settled_in: 0,
            events: 0,
            lines: Vec::new(),
        }
    })
}

/// One seed with everything that happened, line by line; and what it broke.
#[must_use]
pub fn replay(seed: u64, mutant: Option<Mutant>) -> (Vec<String>, Option<String>) {
    let report = run_one(seed, mutant, true);
    (report.lines, report.violation.map(|violation| violation.0))
}

/// Runs a seed twice; false when the two runs differ.
#[must_use]
pub fn is_deterministic(seed: u64) -> bool {
    let (first, second) = (run_one(seed, None, false), run_one(seed, None, true));
    (first.hash, first.events, first.violation) == (second.hash, second.events, second.violation)
}

/// Runs the kept seeds and then `count` from `from` on. Stops early after `most_failures`.
#[must_use]
pub fn run(from: u64, count: u64, threads: usize, most_failures: usize) -> Outcome {
    let kept = kept();
    let seeds = kept.len() as u64 + count;
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds {
                        break;
                    }
                    let kept_seed = usize::try_from(index).ok().and_then(|index| kept.get(index).copied());
                    let seed = kept_seed.unwrap_or_else(|| from + index - kept.len() as u64);
                    let report = run_one(seed, None, false);
                    let Ok(mut total) = total.lock() else { break };
                    total.seeds += 1;
                    total.events += report.events;
                    total.coverage.add(&report.coverage);
                    total.slowest_rest_s = total.slowest_rest_s.max(report.settled_in / 1_000_000);
                    if let Some(Violation(violation)) = report.violation {
                        total.failures.push(Failure { seed, violation });
                        enough.store(total.failures.len() >= most_failures, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.failures.sort_by_key(|failure| failure.seed);
    total.missing = total.coverage.missing(total.seeds);
    total
}

/// Plants a mutant and runs seeds from 0 until one is caught: that seed and what the oracle said; `None` when none of
/// the first `seeds` was.
#[must_use]
pub fn hunt(mutant: Mutant, seeds: u64) -> Option<Failure> {
    (0..seeds).find_map(|seed| {
        let violation = run_one(seed, Some(mutant), false).violation?;
        Some(Failure { seed, violation: violation.0 })
    })
}
