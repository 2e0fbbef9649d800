//! The tables of statements: complete, without repetition, in order, and every test that they name exists and runs.
//! What the statements say is the tables' business; how many there are was counted in appendix B of the standards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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

/// What a row says of who holds its statement.
#[derive(Debug, PartialEq, Eq)]
enum Holder<'a> {
    /// It binds clients; the tests show what the gateway does when one breaks it.
    Client(Vec<&'a str>),
    Tests(Vec<&'a str>),
    /// It does not apply, for this reason.
    Nobody(&'a str),
}

struct Row<'a> {
    id: &'a str,
    meaning: &'a str,
    holder: Holder<'a>,
}

/// The rows of a table, or what is wrong with one.
fn rows(table: &str) -> Result<Vec<Row<'_>>, String> {
    let lines = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Statement"));
    lines.map(|line| row(line).ok_or_else(|| format!("not a row: {line}"))).collect()
}

fn row(line: &str) -> Option<Row<'_>> {
    let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
    let (id, meaning, held) = (cells.next()?, cells.next()?, cells.next()?);
    if cells.next().is_some() {
        return None;
    }
    let holder = match (held.strip_prefix("n/a: "), held.strip_prefix("client")) {
        (Some(reason), _) => Holder::Nobody(reason),
        (None, Some("")) => Holder::Client(Vec::new()),
        (None, Some(rest)) => Holder::Client(names(rest.strip_prefix("; ")?)?),
        (None, None) => Holder::Tests(names(held)?),
    };
    Some(Row { id, meaning, holder })
}

fn names(list: &str) -> Option<Vec<&str>> {
    list.split(", ").map(|name| name.strip_prefix('`')?.strip_suffix('`')).collect()
}

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is a test of this name that runs: a function behind `#[test]`, not ignored, in a file of that path.
fn is_a_test(name: &str) -> bool {
    let Some((path, function)) = name.rsplit_once("::") else { return false };
    let file = PathBuf::from(path.replace("::", "/")).with_extension("rs");
    let sources = ["conformance/mqtt", "conformance", "."]
        .iter()
        .filter_map(|folder| std::fs::read_to_string(tests_folder().join(folder).join(&file)).ok());
    for source in sources {
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        let heads = [format!("fn {function}("), format!("async fn {function}(")];
        let Some(at) = lines.iter().position(|line| heads.iter().any(|head| line.starts_with(head.as_str())))
        else {
            continue;
        };
        let attributes: Vec<&&str> = lines
            .get(..at)
            .unwrap_or_default()
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#'))
            .collect();
        let runs = attributes.iter().any(|line| **line == "#[test]" || line.starts_with("#[tokio::test"));
        return runs && !attributes.iter().any(|line| line.contains("ignore"));
    }
    false
}

/// Everything that is wrong with a table.
fn faults(table: &str, sections: &[(&str, u16, u16)]) -> String {
    let mut faults = String::new();
    let rows = match rows(table) {
        Ok(rows) => rows,
        Err(fault) => return fault,
    };
    let expected: Vec<String> = sections
        .iter()
        .flat_map(|(section, first, last)| (*first..=*last).map(move |number| format!("{section}-{number}")))
        .collect();
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *found.entry(row.id).or_default() += 1;
        if row.meaning.trim().is_empty() {
            let _ = writeln!(faults, "{}: says nothing", row.id);
        }
        match &row.holder {
            Holder::Nobody(reason) if reason.split(' ').count() < 3 => {
                let _ = writeln!(faults, "{}: gives no reason", row.id);
            }
            Holder::Nobody(_) => {}
            Holder::Client(tests) | Holder::Tests(tests) => {
                for test in tests.iter().filter(|test| !is_a_test(test)) {
                    let _ = writeln!(faults, "{}: there is no test `{test}`, or it does not run", row.id);
                }
            }
        }
    }
    for id in &expected {
        match found.remove(id.as_str()) {
            None => drop(writeln!(faults, "{id}: missing")),
            Some(1) => {}
            Some(times) => drop(writeln!(faults, "{id}: stands {times} times")),
        }
    }
    for id in found.keys() {
        let _ = writeln!(faults, "{id}: there is no such statement");
    }
    if faults.is_empty() && !rows.iter().map(|row| row.id).eq(expected.iter().map(String::as_str)) {
        faults.push_str("the statements do not stand in their order");
    }
    faults
}

fn table(name: &str) -> String {
    std::fs::read_to_string(tests_folder().join("conformance/mqtt").join(name)).unwrap()
}

#[test]
fn every_statement_of_mqtt_5_0_is_held_by_a_test_or_has_a_reason() {
    assert_eq!(V5.iter().map(|(_, first, last)| last - first + 1).sum::<u16>(), 251);
    let faults = faults(&table("MQTT-5.0.md"), V5);
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_statement_of_mqtt_3_1_1_is_held_by_a_test_or_has_a_reason() {
    assert_eq!(V3_1_1.iter().map(|(_, first, last)| last - first + 1).sum::<u16>(), 141);
    let faults = faults(&table("MQTT-3.1.1.md"), V3_1_1);
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn a_table_that_lacks_something_is_found_out() {
    const SECTIONS: &[(&str, u16, u16)] = &[("1.0.0", 1, 2)];
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
