//! The long campaigns: a fleet publishes while the broker, or the gateway, is taken away again and again; then the ledger
//! is compared. Ends with failure when a promise was broken. The short forms are tests (`delivery.rs`).
#![expect(clippy::print_stdout, reason = "a command that reports on the terminal")]

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use tidegate_tests::outage::{Fault, Scene};

/// What is taken away.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// RabbitMQ, killed and started again on its data.
    Broker,
    /// The gateway, killed with SIGKILL and started again.
    Gateway,
    /// The broker in turn stopped, killed, blocked or frozen, and the gateway killed while it is away and when it is back.
    Both,
}

#[derive(Debug, Parser)]
#[command(
    name = "outage",
    about = "Publish while the broker or the gateway is killed, and compare the ledger"
)]
struct Arguments {
    #[arg(value_enum)]
    target: Target,
    #[arg(long, default_value_t = 5)]
    kills: usize,
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    #[arg(long, default_value_t = 100)]
    devices: usize,
    /// Which faults `both` chooses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// "relay" or "disk".
    #[arg(long, default_value = "relay")]
    durability: String,
    /// Write the gateway's log there when a promise was broken.
    #[arg(long, default_value = "target/outage.log")]
    log: std::path::PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut scene = Scene::new(&arguments.durability);
    let plan = scene.plan(arguments.devices, arguments.messages);
    let outcome = match arguments.target {
        Target::Broker => scene.broker_outages(&plan, &vec![Fault::Kill; arguments.kills]),
        Target::Gateway => scene.gateway_kills(&plan, arguments.kills),
        Target::Both => scene.both_fail(&plan, arguments.kills, arguments.seed),
    };
    println!(
        "{:?} killed {} times, {} devices, {}: {outcome}",
        arguments.target, arguments.kills, arguments.devices, arguments.durability
    );
    if outcome.is_sound() {
        return ExitCode::SUCCESS;
    }
    let kept = std::fs::write(&arguments.log, scene.gateway.log());
    println!("a promise was broken; the gateway's log: {} ({kept:?})", arguments.log.display());
    ExitCode::FAILURE
}
