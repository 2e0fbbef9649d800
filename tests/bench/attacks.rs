//! What attacks cost those beside them: the acknowledgement times of an honest device with and without each attack, in turn in one
//! run, and the processor time of the gateway meanwhile. The attacks are those of `tests/attacks`, which holds the gateway to
//! everything that needs no clock.

use crate::beside::Beside;
use crate::process::cpu;
use std::io;
use std::panic::resume_unwind;
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_tests::attacks::{Arena, CASES, Case};

/// The rule: an attack may at most double the device's 99th percentile.
const RATIO_MOST: f64 = 2.0;

/// The other rule: this share of one processor for guessed passwords.
const CPU_SHARE_MOST: f64 = 0.25;
const GUESSING: &str = "A11";

/// Acknowledgement times that a percentile is taken of, at the least: the attack is repeated until there are so many. One in a
/// hundred falls on a write-back or on a neighbour of this machine; of a thousand, ten would decide.
const SAMPLES: usize = 4_000;
const SAMPLES_SHORT: usize = 100;

/// An honest device beside each attack.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Attacks {
    /// Rounds; each has a gateway of its own, first in peace and then attacked. Medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A tenth of the samples: to see that it works.
    #[arg(long)]
    short: bool,
    /// Only the cases whose id begins like this.
    #[arg(long, default_value = "")]
    case: String,
}

/// One round: milliseconds, and the share of a processor during the attack.
struct Round {
    peace: f64,
    attacked: f64,
    share: f64,
}

impl Attacks {
    pub(crate) fn run(&self) -> io::Result<()> {
        let samples = if self.short { SAMPLES_SHORT } else { SAMPLES };
        println!(
            "\nQoS 1 acknowledgements of an honest device beside attacks: p99 in ms, medians of {} rounds",
            self.rounds
        );
        println!("case   in peace   attacked   ratio   processor of the gateway");
        for case in CASES.iter().filter(|case| case.id.starts_with(&self.case)) {
            let rounds = (0..self.rounds).map(|_| round(case, samples)).collect::<io::Result<Vec<_>>>()?;
            let middle = |figure: fn(&Round) -> f64| {
                let mut figures: Vec<_> = rounds.iter().map(figure).collect();
                figures.sort_unstable_by(f64::total_cmp);
                figures.get(figures.len() / 2).copied().unwrap_or_default()
            };
            let (peace, attacked, share) = (middle(|r| r.peace), middle(|r| r.attacked), middle(|r| r.share));
            let ratio = middle(|r| r.attacked / r.peace);
            let beyond = if ratio > RATIO_MOST { "  beyond twice" } else { "" };
            let greedy =
                if case.id == GUESSING && share > CPU_SHARE_MOST { "  beyond a quarter" } else { "" };
            println!(
                "{}    {peace:>8.2}   {attacked:>8.2}   {ratio:>5.2}   {:>3.0} %{beyond}{greedy}   {}",
                case.id,
                100.0 * share,
                case.name
            );
        }
        Ok(())
    }
}

fn round(case: &Case, samples: usize) -> io::Result<Round> {
    let arena = Arena::start(case);
    let beside = Beside::start(&arena)?;
    let pids = [arena.gateway.pid()];
    beside.wait(samples / 10)?;
    let _ = beside.latencies(); // The first ones are those of a gateway that has just begun.
    beside.wait(samples)?;
    let peace = p99(&beside.latencies());
    let (used, began) = (cpu(&pids), Instant::now());
    elsewhere(|| attack(case, &arena, &beside, samples))?;
    let attacked = p99(&beside.latencies());
    let share = cpu(&pids).saturating_sub(used).as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(Round { peace, attacked, share })
}

/// Attacks until the device has been acknowledged so often.
fn attack(case: &Case, arena: &Arena, beside: &Beside, samples: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while beside.acknowledged() < samples {
        runtime.block_on((case.attack)(arena));
    }
    Ok(())
}

/// Does what others would do on machines of their own: it, and the threads that it starts, take what the gateway, the kernel's
/// threads for the disk, and the device leave of this one (`SCHED_IDLE`; see sched(7)).
pub(crate) fn elsewhere<T: Send>(does: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let idly = || {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        let done = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status()?;
        if !done.success() {
            return Err(io::Error::other(format!("chrt, of util-linux, ended with {done}")));
        }
        does()
    };
    std::thread::scope(|scope| scope.spawn(idly).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// In milliseconds; of ascending times.
pub(crate) fn p99(times: &[Duration]) -> f64 {
    let place = times.len().saturating_sub(1) * 99 / 100;
    times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}
