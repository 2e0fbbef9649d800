//! `powercut`: the power-cut proof's command line. Runs campaigns, repeats one cut, hunts mutants; decides nothing itself.
#![allow(clippy::print_stdout)] // its output is for people and for the test script

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tidegate_tests::powercut::campaign::{self, Defect, Outcome};
use tidegate_tests::powercut::corrupt;

/// Cuts the power of the real store and engine, and looks for what was acknowledged.
#[derive(Debug, Parser)]
#[command(name = "powercut")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lives histories and cuts each at many moments.
    Run {
        /// Which histories, as A..B, to before B, or A.. without an end.
        #[arg(long, default_value = "0..")]
        seeds: String,
        /// Ends after so many cuts.
        #[arg(long, default_value_t = 10_000)]
        cuts: u64,
        /// How many histories at a time.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Ends after so many failures.
        #[arg(long, default_value_t = 20)]
        most_failures: usize,
    },
    /// Lives one history again and makes its cuts.
    Seed {
        /// Which.
        seed: u64,
        /// Only this cut.
        #[arg(long)]
        cut: Option<usize>,
        /// Plants a defect, for example `SynchronousNormal`.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Damages what stores hold, and looks for what was whole.
    Corrupt {
        /// How many stores.
        #[arg(long, default_value_t = 1_000)]
        cases: u64,
        /// From which seed on.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Plants each defect in turn and counts the cuts that show it.
    Mutants {
        /// How many histories each may take.
        #[arg(long, default_value_t = 60)]
        seeds: u64,
        /// Ends a hunt after so many detections.
        #[arg(long, default_value_t = 200)]
        most: usize,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Run { seeds, cuts, threads, most_failures } => run(&seeds, cuts, threads, most_failures),
        Command::Seed { seed, cut, mutant } => replay(seed, cut, mutant.as_deref()),
        Command::Corrupt { cases, from, threads } => corrupt(from, cases, threads),
        Command::Mutants { seeds, most, only } => mutants(seeds, most, only.as_deref()),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many cuts lie between two lines that say how far it is.
const TELL_EVERY: u64 = 100_000;

fn run(seeds: &str, cuts: u64, threads: usize, most_failures: usize) -> bool {
    let bounds = seeds.split_once("..").and_then(|(from, to)| {
        Some((from.parse().ok()?, if to.is_empty() { None } else { Some(to.parse().ok()?) }))
    });
    let Some((from, to)) = bounds else {
        println!("--seeds wants A..B or A.., not {seeds}");
        return false;
    };
    let started = Instant::now();
    let told = AtomicU64::new(0);
    let outcome = campaign::run(from, to, cuts, threads, most_failures, |counts| {
        let so_far = counts.cuts / TELL_EVERY;
        if told.fetch_max(so_far, Ordering::Relaxed) < so_far {
            println!("  {} cuts in {:.0} s", counts.cuts, started.elapsed().as_secs_f64());
        }
    });
    tell(&outcome, None);
    let counts = &outcome.counts;
    let seconds = started.elapsed().as_secs_f64();
    let lost = outcome.failures.iter().filter(|failure| failure.is_loss()).count();
    println!(
        "  {:>12}  histories, with {} lives and {} recorded operations and marks",
        counts.seeds, counts.lives, counts.events
    );
    println!(
        "  {:>12}  power cuts, from each of which store and engine started and handed over what waited",
        counts.cuts
    );
    println!(
        "  {:>12}  acknowledged messages looked for, {} found in the store",
        counts.checked, counts.found
    );
    println!("  {:>12}  cuts after which SQLite checked the whole file", counts.inspected);
    let good = outcome.failures.is_empty() && counts.cuts > 0;
    println!(
        "power cuts {}: {} cuts, lost {lost}, corrupt {}, {:.0} cuts/s, in {seconds:.1} s",
        if good { "passed" } else { "FAILED" },
        counts.cuts,
        outcome.failures.len() - lost,
        counts.cuts as f64 / seconds,
    );
    good
}

fn tell(outcome: &Outcome, mutant: Option<&str>) {
    for failure in &outcome.failures {
        let cut = failure.cut.map_or_else(String::new, |cut| format!(" --cut {cut}"));
        let mutant = mutant.map_or_else(String::new, |mutant| format!(" --mutant {mutant}"));
        println!("{}\n    again with: powercut seed {}{cut}{mutant}", failure.broken, failure.seed);
    }
}

fn replay(seed: u64, cut: Option<usize>, mutant: Option<&str>) -> bool {
    let Ok(defect) = mutant.map(named).transpose() else { return false };
    let outcome = campaign::seed(seed, cut, defect, usize::MAX);
    tell(&outcome, mutant);
    println!(
        "seed {seed}: {} cuts of {} recorded operations and marks in {} lives, {} failures",
        outcome.counts.cuts,
        outcome.counts.events,
        outcome.counts.lives,
        outcome.failures.len()
    );
    outcome.failures.is_empty()
}

/// Of a thousand sound rows so many may be missing at the most.
const MISSING_OF_A_THOUSAND: u64 = 1;

fn corrupt(from: u64, cases: u64, threads: usize) -> bool {
    let started = Instant::now();
    let outcome = corrupt::run(from, cases, threads);
    for (seed, text) in &outcome.notes {
        println!("  seed {seed}: {text}");
    }
    for (seed, text) in &outcome.failures {
        println!("{text}\n    again with: powercut corrupt --from {seed} --cases 1");
    }
    let c = &outcome.counts;
    let missing = c.sound - c.sound_given;
    println!("  {:>12}  stores damaged, {} of them moved to quarantine and salvaged", c.cases, c.quarantined);
    println!("  {:>12}  messages waited in them; none of the bytes of {} was hit", c.rows, c.sound);
    println!(
        "  {:>12}  of those are given back: {:.4} %; of {} that were hit, {} from an older copy",
        c.sound_given,
        100.0 * c.sound_given as f64 / c.sound.max(1) as f64,
        c.hit,
        c.hit_given
    );
    println!("  {:>12}  damaged messages are given back", outcome.failures.len());
    println!("  {:>12}  are missing, and {} are reported; {} stores differ", c.lost, c.said_lost, c.inexact);
    println!("  {:>12}  had left already and come again, marked", c.again);
    println!("  {:>12}  records of {} are given back", c.records_given, c.records);
    println!("  {:>12}  ms at the most until the next message was taken", c.longest_us / 1_000);
    let good =
        outcome.failures.is_empty() && c.cases > 0 && missing * 1_000 <= c.sound * MISSING_OF_A_THOUSAND;
    println!(
        "corruption {}: {} stores, {missing} of {} sound messages missing, 0 damaged ones given, in {:.1} s",
        if good { "passed" } else { "FAILED" },
        c.cases,
        c.sound,
        started.elapsed().as_secs_f64(),
    );
    good
}

fn mutants(seeds: u64, most: usize, only: Option<&str>) -> bool {
    let Ok(only) = only.map(named).transpose() else { return false };
    let started = Instant::now();
    let chosen: Vec<Defect> =
        Defect::all().into_iter().filter(|defect| only.is_none_or(|only| only == *defect)).collect();
    let mut caught = 0;
    for defect in &chosen {
        let outcome = campaign::hunt(*defect, seeds, most);
        let name = defect.name();
        let Some(first) = outcome.failures.first() else {
            println!(
                "{name} NOT CAUGHT in {} cuts of {} histories",
                outcome.counts.cuts, outcome.counts.seeds
            );
            continue;
        };
        caught += 1;
        println!(
            "{name} caught {} times in {} cuts of {} histories, first at seed {}: {}",
            outcome.failures.len(),
            outcome.counts.cuts,
            outcome.counts.seeds,
            first.seed,
            first.broken
        );
    }
    let good = caught == chosen.len();
    println!(
        "mutants {}: {caught} of {} caught, in {:.1} s",
        if good { "passed" } else { "FAILED" },
        chosen.len(),
        started.elapsed().as_secs_f64(),
    );
    good
}

fn named(name: &str) -> Result<Defect, ()> {
    let all = Defect::all();
    all.iter().copied().find(|defect| defect.name() == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|defect| defect.name()).collect();
        println!("no mutant is called {name}; there are {}", names.join(", "));
    })
}
