//! What every file owes its reader: an opening that says what it owns, a bearable length, a name that means something,
//! reasons beside exceptions, and tests that wait for events instead of time.

use crate::tree::Source;
use crate::{Finding, finding};

/// Beyond this a file is not understood in one sitting.
const LINES_MOST: usize = 700;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// Tests that may sleep, each with its reason.
const SLEEPERS: &[(&str, &str)] = &[
    ("tests/src/wait.rs", "the one place that looks again after a pause, for events of other processes"),
    (
        "tests/src/rabbit.rs",
        "a consumer pauses between two attempts to reach a broker that the test has taken down",
    ),
    (
        "tests/src/steadfast.rs",
        "a device pauses between two attempts to reach a gateway that starts itself anew",
    ),
    (
        "tests/src/fleet.rs",
        "a device pauses between two attempts to reach a gateway that the test has killed",
    ),
    (
        "tests/src/sessions/",
        "clients pause between two attempts to reach a killed gateway, and stay away for a while on purpose",
    ),
    ("tests/bench/", "an open loop sends by the clock: the pauses are the load"),
];

pub(crate) fn every_source_file_says_what_it_owns(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let opening: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let words: usize = opening.iter().map(|line| line.split_whitespace().count() - 1).sum();
        if words < 4 {
            found.push(finding(&source.path, 1, "opens without `//!` lines that say what it owns"));
        }
    }
    found
}

pub(crate) fn no_file_is_too_long(sources: &[Source]) -> Vec<Finding> {
    let mut found = stale(sources, LONG_FILES);
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        if lines > LINES_MOST && !LONG_FILES.iter().any(|(path, _)| *path == source.path) {
            found.push(finding(&source.path, lines, &format!("is longer than {LINES_MOST} lines: split it")));
        }
    }
    found
}

pub(crate) fn names_mean_something(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let stems = source.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
        for stem in stems.filter(|stem| EMPTY_NAMES.contains(stem)) {
            found.push(finding(&source.path, 0, &format!("`{stem}` says nothing of what is inside")));
        }
        if source.is_rust() {
            let code: Vec<(usize, &str)> = source.words(|_| true).collect();
            for pair in code.windows(2) {
                if pair[0].1 == "mod" && EMPTY_NAMES.contains(&pair[1].1) {
                    let what = format!("module `{}` says nothing of what is inside", pair[1].1);
                    found.push(finding(&source.path, source.line(pair[1].0), &what));
                }
            }
        }
    }
    found
}

pub(crate) fn tests_wait_for_events_and_do_not_sleep(sources: &[Source]) -> Vec<Finding> {
    let mut found = stale(sources, SLEEPERS);
    for source in sources {
        let from = source.tests_begin();
        let program = source.is_rust() || source.path.ends_with(".py") || source.path.ends_with(".sh");
        if !program || SLEEPERS.iter().any(|(path, _)| source.path.starts_with(path)) || itself(source) {
            continue;
        }
        let sleeps = source.words(|word| matches!(word, "sleep" | "sleep_until" | "sleep_ms"));
        for (at, _) in sleeps.filter(|(at, _)| *at >= from) {
            found.push(finding(&source.path, source.line(at), "sleeps: wait for the event, with a bound"));
        }
    }
    found
}

pub(crate) fn every_exception_has_its_reason(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines: Vec<(&str, &str)> = source.text.lines().zip(source.code.lines()).collect();
        for (i, (text, code)) in lines.iter().enumerate() {
            let exception = ["[allow(", "[expect("].iter().find_map(|word| code.find(word));
            let Some(at) = exception.filter(|at| code[..*at].trim_end().ends_with(['#', '!'])) else {
                continue;
            };
            let before =
                i.checked_sub(1).and_then(|i| lines.get(i)).map_or("", |(text, _)| text.trim_start());
            // Attributes of several lines end with a bracket alone.
            let attribute =
                lines[i..].iter().take(6).take_while(|(_, code)| !code[..].trim().ends_with(")]"));
            let spread = attribute.clone().count() > 0 && !code.trim_end().contains(")]");
            let reason = text.contains("reason =")
                || text[at.min(text.len())..].contains("// ")
                || before.starts_with("//") && !before.starts_with("///")
                || spread && lines[i..].iter().take(6).any(|(text, _)| text.contains("reason ="));
            if !reason {
                found.push(finding(&source.path, i + 1, "an exception from a lint without its reason"));
            }
        }
    }
    found
}

pub(crate) fn nothing_is_left_for_later(sources: &[Source]) -> Vec<Finding> {
    const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "placeholder"];
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !itself(source)) {
        for (i, line) in source.text.lines().enumerate() {
            let comment = line.find("//").map_or("", |at| &line[at..]);
            let mut words = comment.split(|c: char| !c.is_alphanumeric());
            if let Some(mark) = words.find(|word| MARKS.contains(word)) {
                found.push(finding(&source.path, i + 1, &format!("`{mark}`: finish it, or write an issue")));
            }
        }
    }
    found
}

pub(crate) fn every_crate_inherits_the_lints(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with("/Cargo.toml")) {
        let manifest: toml::Table = source.text.parse().unwrap_or_default();
        // A board's or a fuzzer's workspace of its own has no lints to inherit.
        if manifest.contains_key("workspace") {
            continue;
        }
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if inherits.and_then(toml::Value::as_bool) != Some(true) {
            found.push(finding(&source.path, 0, "does not inherit the lints: [lints] workspace = true"));
        }
    }
    found
}

pub(crate) fn the_changelog_has_room_for_what_is_new(sources: &[Source]) -> Vec<Finding> {
    let changelog = sources.iter().find(|source| source.path == "CHANGELOG.md");
    let open = changelog.is_some_and(|source| source.text.lines().any(|line| line.trim() == "## Unreleased"));
    if open { Vec::new() } else { vec![finding("CHANGELOG.md", 0, "has no section `## Unreleased`")] }
}

/// Exceptions that except nothing any more.
fn stale(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let gone = |path: &str| !sources.iter().any(|source| source.path.starts_with(path));
    // A tree of a single snippet has none of the excepted files.
    let whole = sources.iter().any(|source| source.path == "Cargo.toml");
    exceptions
        .iter()
        .filter(|(path, _)| whole && gone(path))
        .map(|(path, _)| finding(path, 0, "is gone: take it off the list of exceptions"))
        .collect()
}

/// The rules name what they forbid.
fn itself(source: &Source) -> bool {
    source.path.starts_with("tests/tidy/")
}
