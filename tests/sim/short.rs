//! The simulation's short form for `cargo test`: the kept seeds, some hundred others, the mutants. The long campaign is
//! the binary's: `cargo run --release -p tidegate-tests --bin sim -- run`.

use tidegate_engine::mutant::Mutant;
use tidegate_tests::sim::campaign;

/// Enough for every path to be taken, little enough for a debug build.
const SEEDS: u64 = 300;

#[test]
fn no_promise_is_broken() {
    let outcome = campaign::run(0, SEEDS, 2, 5);
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
}

#[test]
fn equal_seeds_run_equally() {
    for seed in 0..10 {
        assert!(campaign::is_deterministic(seed), "seed {seed}");
    }
}

#[test]
fn an_acknowledgement_that_comes_too_early_is_seen() {
    for mutant in [Mutant::AckOnEnqueue, Mutant::AckBeforeCommit] {
        assert!(campaign::hunt(mutant, SEEDS).is_some(), "{mutant:?}");
    }
}
