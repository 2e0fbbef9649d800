//! Benchmarks that anyone can run: a load of devices with a consumer behind it, and Tidegate beside its peers.
//! Measures only; nothing here passes or fails by a time.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports on the terminal")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod attacks;
mod backlog;
mod beside;
mod coap;
mod compare;
mod consumer;
mod dtls;
mod idle;
mod ledger;
mod load;
mod local;
mod mosquitto;
mod overload;
mod pairs;
mod process;
mod run;
mod selection;
mod wire;

use clap::Parser;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Benchmarks of Tidegate and its peers")]
enum Command {
    /// Drive devices against a server, with a consumer at the broker behind it.
    Load {
        #[command(flatten)]
        load: Box<load::Load>,
        #[command(flatten)]
        queue: Box<consumer::Queue>,
        /// Processes whose processor time and memory to report.
        #[arg(long)]
        pid: Vec<u32>,
    },
    /// Tidegate in both durability modes, RabbitMQ's MQTT plug-in and Mosquitto, side by side.
    Compare(compare::Compare),
    /// A million messages wait: memory, and the time until a killed gateway listens again.
    Backlog(backlog::Backlog),
    /// From local publishers to local subscribers, beside Mosquitto.
    Local(local::Local),
    /// The memory of idle connections, beside Mosquitto.
    Idle(idle::Idle),
    /// CoAP requests that are stored and synced, beside libcoap's server that keeps them in memory.
    Coap(coap::Coap),
    /// The memory of DTLS associations.
    Dtls(dtls::Dtls),
    /// The acknowledgement times of an honest device beside each attack.
    Attacks(attacks::Attacks),
    /// Ten times as many publishers as the gateway bears.
    Overload(overload::Overload),
    /// Bytes on the wire per reading, alone and in batches.
    Wire(wire::Wire),
    /// The honest device of `attacks` and `overload`, which start it.
    #[command(hide = true)]
    Device(beside::Device),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Load { load, queue, pid } => run::measure(&load, &queue, &[pid]).map(|report| {
            println!("{}\n{}", run::Report::HEADER, report.line());
            println!(
                "acknowledged {}, received {}, server: {:.1} CPU s per million, {:.0} MiB",
                report.acknowledged, report.received, report.cpu_per_million[0], report.rss_mib[0]
            );
        }),
        Command::Compare(compare) => compare.run(),
        Command::Backlog(backlog) => backlog.run(),
        Command::Local(local) => local.run(),
        Command::Idle(idle) => idle.run(),
        Command::Coap(coap) => coap.run(),
        Command::Dtls(dtls) => dtls.run(),
        Command::Attacks(attacks) => attacks.run(),
        Command::Overload(overload) => overload.run(),
        Command::Wire(wire) => wire.run(),
        Command::Device(device) => device.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
