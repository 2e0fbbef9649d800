//! Who may know whom: between the crates, between the engine's parts, between the gateway's parts, and what the engine
//! and the three `no_std` crates must do without.

use crate::tree::Source;
use crate::{Finding, finding};
use std::collections::BTreeSet;

/// The crates of the workspace and those of them that each may depend on. `tests` sees everything.
const CRATES: &[(&str, &[&str])] = &[
    ("firmware/wire/Cargo.toml", &[]),
    ("firmware/oscore/Cargo.toml", &["tidegate-wire"]),
    ("firmware/Cargo.toml", &["tidegate-wire", "tidegate-oscore"]),
    ("gateway/engine/Cargo.toml", &["tidegate-wire", "tidegate-oscore"]),
    ("gateway/Cargo.toml", &["tidegate-wire", "tidegate-oscore", "tidegate-engine"]),
];

/// What the engine may depend on besides: nothing that knows a clock, a socket, a file, a thread or chance.
const ENGINE_DEPENDENCIES: &[&str] = &["bytes", "tidegate-oscore", "tidegate-wire"];

/// The engine's parts that do not know one another; its `lib.rs` passes values between them.
const ENGINE_SIBLINGS: &[&str] = &["session", "router", "spool", "delivery", "journal", "command"];

/// The gateway's parts that do not know one another.
const GATEWAY_SIBLINGS: &[&str] = &["listen", "store", "upstream"];

/// Paths that lead out of the engine's purity.
const IMPURE_PATHS: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "io"],
    &["std", "os"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "net", "TcpStream"],
    &["std", "net", "TcpListener"],
    &["std", "net", "UdpSocket"],
    &["std", "net", "ToSocketAddrs"],
];

/// Names that lead out of it whatever the path. `HashMap` iterates in an order of chance: two runs of one seed would differ.
const IMPURE_NAMES: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "SystemTime",
    "RandomState",
    "HashMap",
    "HashSet",
    "rand",
    "tokio",
];

pub(crate) fn crates_depend_one_way(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, allowed) in CRATES {
        let Some(source) = sources.iter().find(|source| source.path == *path) else {
            found.push(finding(path, 0, "this crate is gone: mend the rule"));
            continue;
        };
        for name in dependencies(&source.text) {
            if name.starts_with("tidegate") && !allowed.contains(&name.as_str()) {
                found.push(finding(path, 0, &format!("must not depend on {name}")));
            }
            if *path == "gateway/engine/Cargo.toml" && !ENGINE_DEPENDENCIES.contains(&name.as_str()) {
                found.push(finding(path, 0, &format!("the engine must not depend on {name}")));
            }
        }
    }
    found
}

/// Every dependency of a manifest, whatever its kind or target.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    fn gather(table: &toml::Table, names: &mut BTreeSet<String>) {
        for (key, value) in table {
            if let Some(inner) = value.as_table() {
                if key.ends_with("dependencies") {
                    names.extend(inner.keys().cloned());
                } else {
                    gather(inner, names);
                }
            }
        }
    }
    let mut names = BTreeSet::new();
    gather(&manifest.parse().unwrap_or_default(), &mut names);
    names
}

pub(crate) fn the_engines_parts_do_not_import_each_other(sources: &[Source]) -> Vec<Finding> {
    siblings(sources, "gateway/engine/src/", ENGINE_SIBLINGS)
}

pub(crate) fn listeners_stores_and_upstreams_do_not_see_one_another(sources: &[Source]) -> Vec<Finding> {
    siblings(sources, "gateway/src/", GATEWAY_SIBLINGS)
}

fn siblings(sources: &[Source], root: &str, siblings: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some(inside) = source.path.strip_prefix(root) else { continue };
        let module: Vec<&str> = inside.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
        let Some(own) = module.first().filter(|own| siblings.contains(own)) else { continue };
        for (at, path) in source.paths() {
            let supers = path.iter().take_while(|segment| **segment == "super").count();
            let target = match path.first() {
                Some(&"crate") => path.get(1),
                // A test module inside the file is one deeper; taking it for the file itself errs towards a finding.
                Some(&"super") if supers >= module.len() => path.get(supers),
                _ => None,
            };
            if let Some(target) = target.filter(|target| *target != own && siblings.contains(target)) {
                let what =
                    format!("`{own}` must not know `{target}`: pass values through lib.rs or the driver");
                found.push(finding(&source.path, source.line(at), &what));
            }
        }
    }
    found
}

pub(crate) fn the_engine_has_no_clock_socket_file_thread_or_chance(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust() && s.path.starts_with("gateway/engine/")) {
        for (at, path) in source.paths() {
            if let Some(impure) = IMPURE_PATHS.iter().find(|impure| path.starts_with(impure)) {
                found.push(finding(
                    &source.path,
                    source.line(at),
                    &format!("the engine is sans-IO: no {}", impure.join("::")),
                ));
            }
        }
        for (at, name) in source.words(|word| IMPURE_NAMES.contains(&word)) {
            found.push(finding(&source.path, source.line(at), &format!("the engine is sans-IO: no {name}")));
        }
    }
    found
}

pub(crate) fn only_the_driver_turns_the_engine(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust() && s.path.starts_with("gateway/src/")) {
        if source.path == "gateway/src/driver.rs" || source.path.starts_with("gateway/src/driver/") {
            continue;
        }
        // run.rs may make an engine and hand it to the driver; to turn it takes these.
        let names_it =
            source.paths().iter().any(|(_, path)| path.starts_with(&["tidegate_engine", "Engine"]));
        // dimpl is turned by words of the same kind.
        let names_dimpl = source.paths().iter().any(|(_, path)| path.starts_with(&["dimpl"]));
        for (at, word) in source.words(|word| matches!(word, "handle" | "poll_output" | "poll_timeout")) {
            let before = source.code[..at].trim_end();
            let call = (before.ends_with('.') || before.ends_with("Engine::"))
                && source.code[at + word.len()..].trim_start().starts_with('(');
            if call && (names_it || (word != "handle" && !names_dimpl)) {
                found.push(finding(&source.path, source.line(at), "only driver.rs turns the engine"));
            }
        }
    }
    found
}

pub(crate) fn the_bytes_and_the_device_need_no_std_and_no_unsafe(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for path in ["firmware/wire/src/lib.rs", "firmware/oscore/src/lib.rs", "firmware/src/lib.rs"] {
        let code =
            sources.iter().find(|source| source.path == path).map_or("", |source| source.code.as_str());
        let code: String = code.split_whitespace().collect();
        let tested_with_std = "#![cfg_attr(not(test),no_std)]";
        if !code.contains("#![no_std]") && !code.contains(tested_with_std) {
            found.push(finding(path, 1, "must be #![no_std]"));
        }
        if !code.contains("#![forbid(unsafe_code)]") {
            found.push(finding(path, 1, "must forbid unsafe code"));
        }
    }
    for source in sources.iter().filter(|source| source.is_rust()) {
        let inside = ["firmware/src/", "firmware/oscore/src/", "firmware/wire/src/"]
            .iter()
            .any(|root| source.path.starts_with(root));
        if !inside {
            continue;
        }
        let tests = source.tests_begin();
        for (at, path) in source.paths().into_iter().filter(|(at, _)| *at < tests) {
            if matches!(path.first(), Some(&"std" | &"alloc")) {
                found.push(finding(&source.path, source.line(at), "a device has neither std nor alloc"));
            }
        }
    }
    found
}
