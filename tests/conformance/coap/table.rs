//! The tables of what the CoAP standards demand: complete as far as it was counted when they were written, without repetition,
//! in order, and every test that they name exists and runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

use tidegate_tests::statements::{faults, tests_folder};

/// Where tests are looked for: beside this file, and beside the server and its listeners.
const FOLDERS: &[&str] = &[
    "conformance/coap",
    "conformance",
    ".",
    "../gateway/engine/src/session/coap/tests",
    "../gateway/engine/src/session/coap",
    "../gateway/src/listen",
    "../gateway/src",
];

/// Sections of RFC 7252, with the numbers of their first and last statement.
const RFC_7252: &[(&str, u16, u16)] = &[
    ("3", 1, 3),
    ("3.1", 1, 2),
    ("3.2", 1, 2),
    ("4.1", 1, 1),
    ("4.2", 1, 6),
    ("4.3", 1, 2),
    ("4.4", 1, 2),
    ("4.5", 1, 2),
    ("4.6", 1, 1),
    ("4.7", 1, 1),
    ("4.8", 1, 1),
    ("5.2.1", 1, 1),
    ("5.2.2", 1, 2),
    ("5.2.3", 1, 1),
    ("5.3.1", 1, 1),
    ("5.3.2", 1, 2),
    ("5.4.1", 1, 3),
    ("5.4.3", 1, 1),
    ("5.4.5", 1, 1),
    ("5.5.2", 1, 1),
    ("5.7.2", 1, 1),
    ("5.8", 1, 1),
    ("5.8.1", 1, 1),
    ("5.8.2", 1, 1),
    ("5.8.3", 1, 1),
    ("5.8.4", 1, 1),
    ("5.9.1.3", 1, 1),
    ("5.9.2.9", 1, 1),
    ("5.9.3.4", 1, 1),
    ("5.10.1", 1, 1),
    ("5.10.2", 1, 1),
    ("5.10.4", 1, 1),
    ("5.10.6", 1, 1),
    ("5.10.6.2", 1, 1),
    ("5.10.7", 1, 1),
    ("5.10.8", 1, 1),
    ("5.10.8.1", 1, 1),
    ("5.10.8.2", 1, 1),
    ("5.10.9", 1, 1),
    ("7.1", 1, 1),
    ("7.2", 1, 1),
    ("8.1", 1, 1),
    ("8.2", 1, 3),
    ("9.1", 1, 1),
    ("11.3", 1, 2),
];

/// Sections of RFC 7641, with the numbers of their first and last statement.
const RFC_7641: &[(&str, u16, u16)] = &[
    ("2", 1, 3),
    ("3.2", 1, 1),
    ("3.3", 1, 1),
    ("4.1", 1, 2),
    ("4.2", 1, 4),
    ("4.3.1", 1, 1),
    ("4.4", 1, 2),
    ("4.5", 1, 4),
    ("4.5.1", 1, 2),
    ("4.5.2", 1, 2),
    ("7", 1, 2),
];

/// Sections of RFC 7959, and of RFC 9175 with an E, with the numbers of their first and last statement.
const RFC_7959: &[(&str, u16, u16)] = &[
    ("2.2", 1, 2),
    ("2.3", 1, 2),
    ("2.4", 1, 3),
    ("2.5", 1, 4),
    ("2.6", 1, 1),
    ("2.9.1", 1, 1),
    ("2.9.2", 1, 1),
    ("2.9.3", 1, 1),
    ("4", 1, 2),
    ("7", 1, 1),
    ("E2.3", 1, 1),
    ("E2.4", 1, 1),
    ("E3.3", 1, 1),
];

/// Sections of RFC 8613, with the numbers of their first and last statement.
const RFC_8613: &[(&str, u16, u16)] = &[
    ("3.1", 1, 1),
    ("3.2", 1, 1),
    ("3.2.1", 1, 1),
    ("3.3", 1, 2),
    ("4", 1, 1),
    ("4.1", 1, 1),
    ("4.1.3.1", 1, 1),
    ("4.1.3.2", 1, 1),
    ("4.1.3.3", 1, 1),
    ("4.1.3.4.1", 1, 1),
    ("4.1.3.4.2", 1, 1),
    ("4.1.3.5", 1, 1),
    ("4.1.3.5.1", 1, 2),
    ("4.1.3.5.2", 1, 2),
    ("4.1.3.6", 1, 1),
    ("4.1.3.7", 1, 1),
    ("4.2", 1, 1),
    ("4.3", 1, 1),
    ("5", 1, 3),
    ("5.2", 1, 2),
    ("5.4", 1, 1),
    ("6.1", 1, 1),
    ("7.1", 1, 1),
    ("7.2", 1, 1),
    ("7.2.1", 1, 1),
    ("7.4", 1, 2),
    ("7.5", 1, 1),
    ("8.2", 1, 5),
    ("8.3", 1, 2),
    ("12", 1, 1),
    ("B.1.1", 1, 1),
    ("B.1.2", 1, 1),
];

/// Sections of RFC 8323, with the numbers of their first and last statement.
const RFC_8323: &[(&str, u16, u16)] = &[
    ("3.2", 1, 2),
    ("3.4", 1, 1),
    ("4.1", 1, 2),
    ("4.2", 1, 2),
    ("5.2", 1, 1),
    ("5.3", 1, 2),
    ("5.3.1", 1, 2),
    ("5.3.2", 1, 1),
    ("5.4", 1, 1),
    ("5.4.1", 1, 1),
    ("5.5", 1, 1),
    ("5.6", 1, 1),
    ("6", 1, 1),
    ("7", 1, 2),
    ("8.2", 1, 1),
];

/// Sections of the notes on attacks, with the numbers of their first and last statement.
const ATTACKS: &[(&str, u16, u16)] = &[
    ("C01", 1, 1),
    ("C03", 1, 1),
    ("C04", 1, 1),
    ("C05", 1, 1),
    ("C07", 1, 1),
    ("C08", 1, 1),
    ("C09", 1, 1),
    ("C10", 1, 1),
    ("C11", 1, 1),
    ("C12", 1, 1),
    ("C14", 1, 1),
    ("C15", 1, 1),
    ("C16", 1, 1),
    ("C17", 1, 1),
    ("C18", 1, 1),
    ("C19", 1, 1),
];

fn check(name: &str, sections: &[(&str, u16, u16)]) {
    let table = std::fs::read_to_string(tests_folder().join("conformance/coap").join(name)).unwrap();
    let faults = faults(&table, sections, FOLDERS);
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_statement_of_rfc_7252_is_held_by_a_test_or_has_a_reason() {
    check("RFC-7252.md", RFC_7252);
}

#[test]
fn every_statement_of_rfc_7641_is_held_by_a_test_or_has_a_reason() {
    check("RFC-7641.md", RFC_7641);
}

#[test]
fn every_statement_of_rfc_7959_is_held_by_a_test_or_has_a_reason() {
    check("RFC-7959.md", RFC_7959);
}

#[test]
fn every_statement_of_rfc_8613_is_held_by_a_test_or_has_a_reason() {
    check("RFC-8613.md", RFC_8613);
}

#[test]
fn every_statement_of_rfc_8323_is_held_by_a_test_or_has_a_reason() {
    check("RFC-8323.md", RFC_8323);
}

#[test]
fn every_attack_is_held_by_a_test() {
    check("ATTACKS.md", ATTACKS);
}
