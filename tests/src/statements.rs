//! Tables of a standard's normative statements: complete, without repetition, in order, and every test that they name exists and
//! runs. What the statements say is the tables' business; how many there are is counted by those who use this.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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

/// The folder of the tests.
#[must_use]
pub fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is a test of this name that runs: a function behind `#[test]`, not ignored, or a case of a table of such
/// (`name = "ID";` in a `cases!`), in a file of that path below one of `folders`.
fn is_a_test(name: &str, folders: &[&str]) -> bool {
    let Some((path, function)) = name.rsplit_once("::") else { return false };
    let file = PathBuf::from(path.replace("::", "/")).with_extension("rs");
    let sources = folders
        .iter()
        .filter_map(|folder| std::fs::read_to_string(tests_folder().join(folder).join(&file)).ok());
    for source in sources {
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        let case = format!("{function} = \"");
        if lines.contains(&"cases! {")
            && lines.iter().any(|line| line.starts_with(&case) && line.ends_with("\";"))
        {
            return true;
        }
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

/// Everything that is wrong with a table. `sections`: the numbers of the first and last statement of each; `folders`: where tests
/// are looked for, from the folder of the tests.
#[must_use]
pub fn faults(table: &str, sections: &[(&str, u16, u16)], folders: &[&str]) -> String {
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
                for test in tests.iter().filter(|test| !is_a_test(test, folders)) {
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
