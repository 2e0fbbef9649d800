//! The power-cut proof's short form for `cargo test`; the long one is the binary's: `powercut run --cuts 1000000`.

use tidegate_tests::powercut::campaign::{self, Defect};
use tidegate_tests::powercut::corrupt;

#[test]
fn no_acknowledged_message_is_lost() {
    let outcome = campaign::run(0, None, 2_000, 2, 5, |_| ());
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.counts.checked > 10_000, "{:?}", outcome.counts);
}

#[test]
fn damaged_stores_give_back_what_is_whole_and_nothing_else() {
    let outcome = corrupt::run(0, 20, 2);
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.counts.quarantined > 3 && outcome.counts.sound_given > 10_000, "{:?}", outcome.counts);
}

#[test]
fn equal_seeds_are_cut_equally() {
    let counts = || format!("{:?}", campaign::seed(3, None, None, 5).counts);
    assert_eq!(counts(), counts());
}

#[test]
fn every_planted_defect_shows() {
    for defect in Defect::all() {
        let outcome = campaign::hunt(defect, 60, 1);
        assert!(!outcome.failures.is_empty(), "{}", defect.name());
    }
}
