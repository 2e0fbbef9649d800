//! Snippets that break each rule, and near misses that do not: a rule that cannot fail is no rule.

use crate::RULES;
use crate::tree::Source;

/// The rule, a file's path, its text, and how many findings it must give.
const CASES: &[(&str, &str, &str, usize)] = &[
    (
        "only_the_driver_turns_the_engine",
        "gateway/src/run.rs",
        "use tidegate_engine::{event, Engine};\nfn f(e: &mut Engine) { e.handle(n, i) }",
        1,
    ),
    (
        "only_the_driver_turns_the_engine",
        "gateway/src/run.rs",
        "fn f() { tidegate_engine::Engine::handle(e, n, i) }",
        1,
    ),
    (
        "the_bytes_and_the_device_need_no_std_and_no_unsafe",
        "firmware/src/mqtt/tests/a.rs",
        "use std::vec;",
        6,
    ),
    ("tests_wait_for_events_and_do_not_sleep", "firmware/src/mqtt/tests/a.rs", "fn f() { sleep(D) }", 1),
    ("only_the_driver_turns_the_engine", "gateway/src/listen/mqtt.rs", "let o = e.poll_output();", 1),
    (
        "only_the_driver_turns_the_engine",
        "gateway/src/run.rs",
        "use tidegate_engine::Engine;\nlet e = Engine::new(s);",
        0,
    ),
    (
        "only_the_driver_turns_the_engine",
        "gateway/src/upstream/file.rs",
        "use base64::Engine;\nlet h = runtime.handle();",
        0,
    ),
    (
        "only_the_driver_turns_the_engine",
        "gateway/src/driver.rs",
        "use tidegate_engine::Engine;\nlet o = e.handle(n, i);",
        0,
    ),
    // The other four crates are absent from the snippet: four findings.
    ("crates_depend_one_way", "firmware/wire/Cargo.toml", "[dependencies]\n", 4),
    (
        "crates_depend_one_way",
        "firmware/wire/Cargo.toml",
        "[dependencies]\ntidegate-engine = { workspace = true }\n",
        5,
    ),
    ("crates_depend_one_way", "firmware/Cargo.toml", "[dev-dependencies]\ntidegate = \"1\"\n", 5),
    (
        "crates_depend_one_way",
        "gateway/Cargo.toml",
        "[target.'cfg(unix)'.dependencies]\ntidegate-node = \"1\"\n",
        5,
    ),
    ("crates_depend_one_way", "gateway/engine/Cargo.toml", "[dependencies]\nfastrand = \"2\"\n", 5),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/spool.rs",
        "use crate::router::Lanes;",
        1,
    ),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/spool.rs",
        "use crate::{id::Seq, delivery::{self}};",
        1,
    ),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/session/mqtt/mod.rs",
        "fn f() { super::super::journal::x() }",
        1,
    ),
    ("the_engines_parts_do_not_import_each_other", "gateway/engine/src/router.rs", "use super::spool;", 1),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/session/mqtt/mod.rs",
        "use super::router; // its own\nuse crate::session::x;",
        0,
    ),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/lib.rs",
        "use crate::router::Lanes;",
        0,
    ),
    (
        "the_engines_parts_do_not_import_each_other",
        "gateway/engine/src/spool.rs",
        "// see crate::router::Lanes\n",
        0,
    ),
    (
        "listeners_stores_and_upstreams_do_not_see_one_another",
        "gateway/src/store/sqlite/mod.rs",
        "use crate::upstream::Upstream;",
        1,
    ),
    (
        "listeners_stores_and_upstreams_do_not_see_one_another",
        "gateway/src/listen.rs",
        "use crate::{inbox, store};",
        1,
    ),
    (
        "listeners_stores_and_upstreams_do_not_see_one_another",
        "gateway/src/upstream/file.rs",
        "use crate::inbox::Inbox;",
        0,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/time.rs",
        "use std::time::{Duration, Instant};",
        1,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/a.rs",
        "fn f() { std::thread::spawn(g); }",
        1,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/a.rs",
        "use std::{collections::BTreeMap, fs};",
        1,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/a.rs",
        "use std::collections::HashMap;",
        1,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/a.rs",
        "fn f(s: net::TcpStream) {}",
        1,
    ),
    (
        "the_engine_has_no_clock_socket_file_thread_or_chance",
        "gateway/engine/src/a.rs",
        "use std::net::SocketAddr;\nuse core::time::Duration;",
        0,
    ),
    (
        "the_bytes_and_the_device_need_no_std_and_no_unsafe",
        "firmware/src/lib.rs",
        "// #![no_std]\n#![deny(unsafe_code)]",
        6,
    ),
    (
        "the_bytes_and_the_device_need_no_std_and_no_unsafe",
        "firmware/wire/src/coap.rs",
        "use std::vec::Vec;\nextern crate alloc; use alloc::vec;",
        8,
    ),
    (
        "the_bytes_and_the_device_need_no_std_and_no_unsafe",
        "firmware/wire/src/coap.rs",
        "use core::fmt;\n#[cfg(test)]\nmod tests { use std::vec; }",
        6,
    ),
    ("every_source_file_says_what_it_owns", "gateway/src/a.rs", "use std::fs;\n//! late", 1),
    ("every_source_file_says_what_it_owns", "gateway/src/a.rs", "//! placeholder\n", 1),
    ("every_source_file_says_what_it_owns", "gateway/src/a.rs", "//! Owns the one thing.\n", 0),
    ("names_mean_something", "gateway/src/utils.rs", "", 1),
    ("names_mean_something", "tests/common/mod.rs", "", 1),
    ("names_mean_something", "gateway/src/lib.rs", "pub(crate) mod helpers { }", 1),
    ("names_mean_something", "gateway/src/lib.rs", "mod commands; // common", 0),
    ("tests_wait_for_events_and_do_not_sleep", "tests/e2e/a.rs", "fn f() { std::thread::sleep(D); }", 1),
    ("tests_wait_for_events_and_do_not_sleep", "tests/e2e/a.py", "time.sleep(1)\n", 1),
    (
        "tests_wait_for_events_and_do_not_sleep",
        "gateway/src/a.rs",
        "async fn f() { sleep(D).await }\n#[cfg(test)]\nmod tests { fn g() { sleep(D) } }",
        1,
    ),
    ("tests_wait_for_events_and_do_not_sleep", "tests/e2e/a.rs", "// does not sleep\nlet a = \"sleep\";", 0),
    ("every_exception_has_its_reason", "gateway/src/a.rs", "#[allow(dead_code)]\nfn f() {}", 1),
    ("every_exception_has_its_reason", "gateway/src/a.rs", "/// Documented.\n#![expect(clippy::panic)]", 1),
    (
        "every_exception_has_its_reason",
        "gateway/src/a.rs",
        "#[expect(clippy::panic, reason = \"a test's body\")]",
        0,
    ),
    (
        "every_exception_has_its_reason",
        "gateway/src/a.rs",
        "#[allow(dead_code)] // the fields are read by name",
        0,
    ),
    (
        "every_exception_has_its_reason",
        "gateway/src/a.rs",
        "// The fields are read by name.\n#[allow(dead_code)]",
        0,
    ),
    (
        "every_exception_has_its_reason",
        "gateway/src/a.rs",
        "#[expect(\n    clippy::panic,\n    reason = \"a test's body\"\n)]\nfn f() {}",
        0,
    ),
    ("every_exception_has_its_reason", "gateway/src/a.rs", "#[expect(\n    clippy::panic\n)]\nfn f() {}", 1),
    ("nothing_is_left_for_later", "gateway/src/a.rs", "// TODO: write it\n", 1),
    ("nothing_is_left_for_later", "gateway/src/a.rs", "let todo_list = 1; // todos are fine\n", 0),
    ("every_crate_inherits_the_lints", "gateway/Cargo.toml", "[package]\nname = \"tidegate\"\n", 1),
    ("every_crate_inherits_the_lints", "gateway/Cargo.toml", "[lints]\nworkspace = false\n", 1),
    ("every_crate_inherits_the_lints", "gateway/Cargo.toml", "[lints]\nworkspace = true\n", 0),
    ("the_changelog_has_room_for_what_is_new", "CHANGELOG.md", "# Changelog\n\n## 0.1.0\n", 1),
    ("the_changelog_has_room_for_what_is_new", "CHANGELOG.md", "# Changelog\n\n## Unreleased\n", 0),
];

#[test]
fn every_rule_finds_what_breaks_it_and_nothing_else() {
    for (name, path, text, expected) in CASES {
        let (_, rule) = RULES.iter().find(|(rule, _)| rule == name).unwrap();
        let found = rule(&[Source::new(path, text)]);
        assert_eq!(found.len(), *expected, "{name} on {text:?}: {found:?}");
    }
}

#[test]
fn a_file_of_701_lines_is_too_long_and_one_of_700_is_not() {
    let (_, rule) = RULES.iter().find(|(rule, _)| *rule == "no_file_is_too_long").unwrap();
    assert_eq!(rule(&[Source::new("gateway/src/a.rs", &"//! x\n".repeat(701))]).len(), 1);
    assert_eq!(rule(&[Source::new("gateway/src/a.rs", &"//! x\n".repeat(700))]).len(), 0);
}

#[test]
fn every_rule_has_a_snippet_that_breaks_it() {
    for (name, _) in RULES.iter().filter(|(name, _)| *name != "no_file_is_too_long") {
        assert!(CASES.iter().any(|case| case.0 == *name && case.3 > 0), "{name} has never been seen to fail");
    }
}

#[test]
fn an_exception_for_a_file_that_is_gone_is_found() {
    let (_, rule) = RULES.iter().find(|(rule, _)| *rule == "tests_wait_for_events_and_do_not_sleep").unwrap();
    assert!(!rule(&[Source::new("Cargo.toml", "")]).is_empty());
}
