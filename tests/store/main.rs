//! The store: the contract, what SQLite adds to it (crashes, damage, full media, foreign directories), the writer thread.

#![allow(clippy::unwrap_used, clippy::panic)] // tests and what they call

mod contract;
mod crash;
mod damage;
mod full;
mod migration;
mod opening;
mod salvage;
mod writer;

use std::process::{Command, Stdio};
use tidegate::store::sqlite::Sizes;

/// The routes of the tests that need but one.
const ROUTES: &[(&str, &str)] = &[("all", "cloud")];

/// Enough for every test that is not about room.
fn sizes() -> Sizes {
    Sizes::for_spool(256 << 20)
}

/// Another process with the store; see `child.rs`.
fn child(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store_child"));
    command.args(args).stdin(Stdio::null());
    command
}
