//! What an operator is told about a configuration that is wrong, word for word, and what one that is right means.
//! Each `mistakes/NAME.toml` has its expected report in `NAME.txt`; `TIDEGATE_BLESS=1` writes the reports anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

use std::path::{Path, PathBuf};
use tidegate::config::{self, Environment};

mod certificates;
mod meaning;
mod oscore;
mod shipped;

fn surroundings() -> Environment {
    Environment { host: "gw-1".to_owned(), credentials: None, state: None, now: 1_800_000_000 }
}

fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/mistakes");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .collect();
    files.sort();
    files
}

fn report(path: &Path) -> String {
    let source = std::fs::read_to_string(path).unwrap();
    let name = PathBuf::from(path.file_name().unwrap());
    match config::parse(&source, Some(&name), &surroundings()) {
        Ok(config) => config.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(mistakes) => format!("{mistakes}\n"),
    }
}

#[test]
fn every_mistake_is_reported_with_its_place_and_what_would_be_right() {
    let files = golden_files();
    assert!(files.len() >= 8, "the golden files are missing");
    for path in files {
        let found = report(&path);
        let expected = path.with_extension("txt");
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
}

#[test]
fn no_report_shows_a_secret() {
    for path in golden_files() {
        let found = report(&path);
        assert!(!found.contains("hunter2"), "{}: {found}", path.display());
    }
}

#[test]
fn a_mistake_fits_in_one_line_of_a_log() {
    let mistakes =
        config::parse("[mqtt]\nlisen = 1\n", Some(Path::new("t.toml")), &surroundings()).unwrap_err();
    assert_eq!(
        mistakes.0[0].in_one_line(),
        "t.toml:2:1: unknown key `lisen` in `mqtt`; did you mean `listen`?"
    );
}
