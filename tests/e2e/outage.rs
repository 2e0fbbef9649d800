//! The long campaigns: a fleet publishes while the broker, or the gateway, is taken away again and again; then the ledger
//! is compared. Ends with failure when a promise was broken. The short forms are tests (`delivery.rs`).
#![expect(clippy::print_stdout, reason = "a command that reports on the terminal")]

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::outage::{Fault, Scene};
use tidegate_tests::sessions;

/// What is taken away.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// RabbitMQ, killed and started again on its data.
    Broker,
    /// The gateway, killed with SIGKILL and started again.
    Gateway,
    /// The broker in turn stopped, killed, blocked or frozen, and the gateway killed while it is away and when it is back.
    Both,
    /// The gateway, in the middle of QoS 1 and 2 between local clients whose sessions are kept, and of retained messages.
    Sessions,
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
    /// Publishers of retained topics in `sessions`.
    #[arg(long, default_value_t = 2)]
    keepers: usize,
    /// "relay" or "disk".
    #[arg(long, default_value = "relay")]
    durability: String,
    /// Write the gateway's log there when a promise was broken.
    #[arg(long, default_value = "target/outage.log")]
    log: std::path::PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.target, Target::Sessions) {
        return sessions(&arguments);
    }
    let mut scene = Scene::new(&arguments.durability);
    let plan = scene.plan(arguments.devices, arguments.messages);
    let outcome = match arguments.target {
        Target::Broker => scene.broker_outages(&plan, &vec![Fault::Kill; arguments.kills]),
        Target::Gateway | Target::Sessions => scene.gateway_kills(&plan, arguments.kills),
        Target::Both => scene.both_fail(&plan, arguments.kills, arguments.seed),
    };
    println!(
        "{:?} killed {} times, {} devices, {}: {outcome}",
        arguments.target, arguments.kills, arguments.devices, arguments.durability
    );
    verdict(outcome.is_sound(), &scene.gateway, &arguments)
}

/// A tenth of `--devices` publishes, and the subscribers are fewer still: each message goes to all of them.
fn sessions(arguments: &Arguments) -> ExitCode {
    let publishers = (arguments.devices / 10).max(1);
    let plan = sessions::Plan {
        publishers,
        messages_each: arguments.messages.div_ceil(publishers),
        keepers: arguments.keepers,
        subscribers: 4,
        kills: arguments.kills,
    };
    let (outcome, gateway) = sessions::run(&plan);
    println!("sessions, {publishers} publishers, {} subscribers: {outcome}", plan.subscribers);
    verdict(outcome.is_sound(), &gateway, arguments)
}

fn verdict(sound: bool, gateway: &Gateway, arguments: &Arguments) -> ExitCode {
    if sound {
        return ExitCode::SUCCESS;
    }
    let kept = std::fs::write(&arguments.log, gateway.log());
    println!("a promise was broken; the gateway's log: {} ({kept:?})", arguments.log.display());
    ExitCode::FAILURE
}
