//! The tables of statements: complete, without repetition, in order, and every test that they name exists and runs.
//! What the statements say is the tables' business; how many there are was counted in appendix B of the standards.

use tidegate_tests::statements::{self, tests_folder};

/// Where tests are looked for.
const FOLDERS: &[&str] = &["conformance/mqtt", "conformance", "."];

/// Sections of MQTT 5.0 with the numbers of their first and last statement; 251 in all.
const V5: &[(&str, u16, u16)] = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

/// The same for MQTT 3.1.1; 141 in all.
const V3_1_1: &[(&str, u16, u16)] = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

fn table(name: &str) -> String {
    std::fs::read_to_string(tests_folder().join("conformance/mqtt").join(name)).unwrap()
}

#[test]
fn every_statement_of_mqtt_5_0_is_held_by_a_test_or_has_a_reason() {
    assert_eq!(V5.iter().map(|(_, first, last)| last - first + 1).sum::<u16>(), 251);
    let faults = statements::faults(&table("MQTT-5.0.md"), V5, FOLDERS);
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_statement_of_mqtt_3_1_1_is_held_by_a_test_or_has_a_reason() {
    assert_eq!(V3_1_1.iter().map(|(_, first, last)| last - first + 1).sum::<u16>(), 141);
    let faults = statements::faults(&table("MQTT-3.1.1.md"), V3_1_1, FOLDERS);
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn a_table_that_lacks_something_is_found_out() {
    const SECTIONS: &[(&str, u16, u16)] = &[("1.0.0", 1, 2)];
    let faults = |table: &str, sections| statements::faults(table, sections, FOLDERS);
    const GOOD: &str = "| 1.0.0-1 | A ping is answered | `ending::a_ping_is_answered` |\n\
                        | 1.0.0-2 | No third one | client |";
    assert_eq!(faults(GOOD, SECTIONS), "");
    for (from, to, word) in [
        ("1.0.0-2", "1.0.0-1", "stands 2 times"),
        ("1.0.0-2", "1.0.0-1", "1.0.0-2: missing"),
        ("1.0.0-2", "1.0.0-3", "no such statement"),
        ("a_ping_is_answered", "a_ping_is_ignored", "no test"),
        // A function that is no test.
        ("ending::a_ping_is_answered", "ending::endings", "no test"),
        ("`ending::a_ping_is_answered`", "n/a: no", "no reason"),
        ("`ending::a_ping_is_answered`", "pending", "not a row"),
        ("`ending::a_ping_is_answered`", "", "not a row"),
        ("A ping is answered", " ", "says nothing"),
    ] {
        let bad = GOOD.replace(from, to);
        assert!(faults(&bad, SECTIONS).contains(word), "{bad}\n{}", faults(&bad, SECTIONS));
    }
    let swapped: Vec<&str> = GOOD.lines().rev().collect();
    assert!(faults(&swapped.join("\n"), SECTIONS).contains("order"));
}
