//! `faults`: lets every operation of the gateway on its store fail once, on the release binary, and fills media up under it.
//! Devices send meanwhile; whatever was acknowledged must arrive. It decides nothing about what the gateway should do otherwise.
#![allow(clippy::print_stdout)] // its output is for people and for the test script
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test: what it cannot do is its failure

mod media;
mod steps;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Lets the gateway's store fail at every step.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Errors, zero-length writes and stalls, one at each system call on the store's files (with strace).
    Steps {
        /// Messages in each run.
        #[arg(long, default_value_t = 1_000)]
        messages: usize,
        /// Only every so many steps.
        #[arg(long, default_value_t = 1)]
        every: usize,
    },
    /// A small medium that fills up and is emptied again.
    Media {
        /// Where the medium is mounted already: what is started by the command itself.
        #[arg(long, hide = true)]
        mounted: Option<std::path::PathBuf>,
        /// What kind of medium that is.
        #[arg(long, hide = true, default_value = "tmpfs")]
        kind: String,
    },
}

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Steps { messages, every } => steps::run(messages, every),
        Command::Media { mounted: None, .. } => media::run(),
        Command::Media { mounted: Some(path), kind } => media::on(&path, &kind),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
