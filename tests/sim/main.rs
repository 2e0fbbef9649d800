//! `sim`: the simulation's command line. Runs campaigns, replays one seed, hunts mutants; decides nothing itself.
#![allow(clippy::print_stdout)] // its output is for people and for the test script

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Instant;
use tidegate_engine::mutant::Mutant;
use tidegate_tests::sim::campaign;

/// Deterministic simulation of Tidegate.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the kept seeds and then many others, and says whether a promise was broken.
    Run {
        /// How many seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Ends after so many failures.
        #[arg(long, default_value_t = 20)]
        most_failures: usize,
    },
    /// Replays one seed.
    Seed {
        /// Which.
        seed: u64,
        /// Prints everything that happens.
        #[arg(long)]
        trace: bool,
        /// Plants a defect, for example `AckOnEnqueue`.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Plants each defect in turn and looks for the seed that shows it.
    Mutants {
        /// How many seeds each may take.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Run { seeds, from, threads, most_failures } => run(seeds, from, threads, most_failures),
        Command::Seed { seed, trace, mutant } => replay(seed, trace, mutant.as_deref()),
        Command::Mutants { seeds, only } => mutants(seeds, only.as_deref()),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seeds: u64, from: u64, threads: usize, most_failures: usize) -> bool {
    let started = Instant::now();
    let outcome = campaign::run(from, seeds, threads, most_failures);
    for failure in &outcome.failures {
        println!("seed {}: {}", failure.seed, failure.violation);
    }
    if let Some(first) = outcome.failures.first() {
        println!("replay with: sim seed {} --trace", first.seed);
    }
    println!("what happened:");
    for (count, meaning) in outcome.paths() {
        println!("  {count:>10}  {meaning}");
    }
    for missing in &outcome.missing {
        println!("too little happened: {missing}");
    }
    let deterministic = (from..from + seeds.min(20)).all(campaign::is_deterministic);
    if !deterministic {
        println!("equal seeds ran differently: the simulation is not deterministic");
    }
    let good = outcome.failures.is_empty() && outcome.missing.is_empty() && deterministic;
    println!(
        "simulation {}: {} seeds, {} failures, {} events in {:.1} s; at rest at most {} virtual s after the last fault",
        if good { "passed" } else { "FAILED" },
        outcome.seeds,
        outcome.failures.len(),
        outcome.events,
        started.elapsed().as_secs_f64(),
        outcome.slowest_rest_s,
    );
    good
}

fn replay(seed: u64, trace: bool, mutant: Option<&str>) -> bool {
    let Ok(mutant) = mutant.map(named).transpose() else { return false };
    let (lines, violation) = campaign::replay(seed, mutant);
    if trace {
        lines.iter().for_each(|line| println!("{line}"));
    }
    match &violation {
        Some(text) => println!("seed {seed} FAILED: {text}"),
        None => println!("seed {seed} passed"),
    }
    violation.is_none()
}

fn mutants(seeds: u64, only: Option<&str>) -> bool {
    let Ok(only) = only.map(named).transpose() else { return false };
    let started = Instant::now();
    let chosen: Vec<Mutant> =
        Mutant::ALL.into_iter().filter(|m| only.is_none_or(|only| only == *m)).collect();
    let mut caught = 0;
    for mutant in &chosen {
        match campaign::hunt(*mutant, seeds) {
            Some(failure) => {
                caught += 1;
                println!("{mutant:?} caught at seed {}: {}", failure.seed, failure.violation);
            }
            None => println!("{mutant:?} NOT CAUGHT in {seeds} seeds"),
        }
    }
    let good = caught == chosen.len();
    println!(
        "mutants {}: {caught} of {} caught within {seeds} seeds each, in {:.1} s",
        if good { "passed" } else { "FAILED" },
        chosen.len(),
        started.elapsed().as_secs_f64(),
    );
    good
}

fn named(name: &str) -> Result<Mutant, ()> {
    Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name).ok_or_else(|| {
        println!("no mutant is called {name}; there are {:?}", Mutant::ALL);
    })
}
