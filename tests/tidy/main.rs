//! The rules of the house that no compiler holds: who may import whom, and what every file owes its reader.
//! Each rule looks at the whole repository here, and at a snippet that breaks it in `broken.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

mod broken;
mod layering;
mod style;
mod tree;

use std::fmt;
use tree::Source;

/// Where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

fn finding(path: &str, line: usize, what: &str) -> Finding {
    Finding { path: path.to_owned(), line, what: what.to_owned() }
}

fn hold(rule: fn(&[Source]) -> Vec<Finding>) {
    let found: Vec<String> = rule(tree::repository()).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

macro_rules! rules {
    ($($module:ident::$rule:ident)*) => {
        $(#[test]
        fn $rule() {
            hold($module::$rule);
        })*

        /// Every rule by name.
        const RULES: &[(&str, fn(&[Source]) -> Vec<Finding>)] = &[$((stringify!($rule), $module::$rule)),*];
    };
}

rules! {
    layering::crates_depend_one_way
    layering::the_engines_parts_do_not_import_each_other
    layering::listeners_stores_and_upstreams_do_not_see_one_another
    layering::the_engine_has_no_clock_socket_file_thread_or_chance
    layering::only_the_driver_turns_the_engine
    layering::the_bytes_and_the_device_need_no_std_and_no_unsafe
    style::every_source_file_says_what_it_owns
    style::no_file_is_too_long
    style::names_mean_something
    style::tests_wait_for_events_and_do_not_sleep
    style::every_exception_has_its_reason
    style::nothing_is_left_for_later
    style::every_crate_inherits_the_lints
    style::the_changelog_has_room_for_what_is_new
}
