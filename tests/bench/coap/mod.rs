//! CoAP requests from many peers, Tidegate and libcoap's example server in turn, case by case and round by round. Tidegate stores
//! and syncs each message before it answers, and in a third process forwards them to a file as well; libcoap keeps the last one in
//! memory. Ratios are what counts.

pub(crate) mod libcoap;
pub(crate) mod peers;

use crate::idle::raise_open_files;
use crate::local::Server;
use crate::process;
use crate::selection::{Selection, median};
use libcoap::Libcoap;
use peers::{Peers, Target};
use std::io;
use std::time::Duration;
use tidegate_tests::gateway::Gateway;

/// What is not answered after so long is lost.
const LIMIT: Duration = Duration::from_secs(120);

/// Files beside the peers' sockets.
const OTHER_FILES: u64 = 64;

/// CoAP over UDP beside libcoap's server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Coap {
    #[command(flatten)]
    selection: Selection,
    /// Only Tidegate, for profiles.
    #[arg(long)]
    alone: bool,
}

struct Case {
    name: &'static str,
    peers: usize,
    /// libcoap takes part. With thousands of peers it does not end: its socket drops what comes at once, and each request costs more.
    beside: bool,
}

/// Requests of each round.
const REQUESTS: usize = 200_000;

const CASES: [Case; 5] = [
    Case { name: "10 peers", peers: 10, beside: false },
    Case { name: "64 peers", peers: 64, beside: true },
    Case { name: "1,000 peers", peers: 1_000, beside: true },
    Case { name: "4,000 peers", peers: 4_000, beside: false },
    Case { name: "10,000 peers", peers: 10_000, beside: false },
];

/// What one run showed.
#[derive(Clone, Debug, Default)]
struct Report {
    rate: f64,
    lost: usize,
    resent: usize,
    cpu_us: f64,
    latency_ms: [f64; 3],
}

/// Everything is written and synced before it is answered. One peer may ask as often as it likes: with few of them each asks
/// thousands of times a second.
const CONFIGURATION: &str = "[limits]\ncoap_peers = 16384\ncoap_messages_per_second = 60000\n\
     [[route]]\ntopic = \"#\"\ndurability = \"disk\"\n";

/// The same, and nobody takes the messages: what storing costs, without forwarding.
const AWAY: &str = "[spool]\nmax_size = \"16 GiB\"\n\
     [upstream.away]\nkind = \"amqp\"\nurls = [\"amqp://127.0.0.1:9\"]\n";

/// A server under test; it ends with this.
struct Running {
    server: Server,
    target: Target,
    reports: Vec<Report>,
    _process: Box<dyn std::any::Any>,
}

impl Running {
    fn tidegate(name: &'static str, configuration: &str) -> Self {
        let gateway = Gateway::start(configuration);
        Self {
            server: Server { name, address: gateway.coap, pid: gateway.pid() },
            target: Target::Post,
            reports: Vec::new(),
            _process: Box::new(gateway),
        }
    }

    fn libcoap() -> io::Result<Self> {
        let libcoap = Libcoap::start()?;
        Ok(Self {
            server: Server { name: "libcoap", address: libcoap.address, pid: libcoap.pid() },
            target: Target::PutExampleData,
            reports: Vec::new(),
            _process: Box::new(libcoap),
        })
    }
}

impl Coap {
    pub(crate) fn run(&self) -> io::Result<()> {
        raise_open_files(CASES.iter().map(|case| case.peers as u64).max().unwrap_or(0) + OTHER_FILES)?;
        let rounds = self.selection.rounds;
        let requests = self.selection.of(REQUESTS);
        let mut costs = Vec::new();
        for case in CASES.iter().filter(|case| self.selection.takes(case.name)) {
            println!("\n{} ({requests} requests, 128 bytes, {rounds} rounds: medians)", case.name);
            println!("{:<10} answered/s   lost   resent   CPU µs each   p50 ms   p99 ms", "");
            let mut servers = vec![Running::tidegate("stores", &format!("{CONFIGURATION}{AWAY}"))];
            if case.beside && !self.alone {
                servers.push(Running::libcoap()?);
                servers.push(Running::tidegate("forwards", CONFIGURATION));
            }
            for _ in 0..rounds {
                for running in &mut servers {
                    let report = measure(&running.server, running.target, case.peers, requests)?;
                    running.reports.push(report);
                }
            }
            let reports: Vec<Report> = servers.iter().map(|running| summary(&running.reports)).collect();
            for (running, report) in servers.iter().zip(&reports) {
                println!(
                    "{:<10} {:>10.0}   {:>4}   {:>6}   {:>11.2}   {:>6.2}   {:>6.2}",
                    running.server.name,
                    report.rate,
                    report.lost,
                    report.resent,
                    report.cpu_us,
                    report.latency_ms[0],
                    report.latency_ms[1]
                );
            }
            costs.extend(reports.first().map(|own| format!("{} {:.2}", case.name, own.cpu_us)));
            if let [own, peer, ..] = &reports[..] {
                println!(
                    "Tidegate: {:.2} × libcoap's requests, {:.2} × its processor time",
                    own.rate / peer.rate,
                    own.cpu_us / peer.cpu_us
                );
            }
        }
        println!("\nTidegate's processor time for a request, in µs: {}", costs.join(", "));
        Ok(())
    }
}

fn measure(server: &Server, target: Target, peers: usize, requests: usize) -> io::Result<Report> {
    let mut peers = Peers::new(server.address, peers, target)?;
    // A first request of each, so that both servers know all of them.
    peers.send(peers.len(), LIMIT)?;
    let before = process::cpu(&[server.pid]);
    let mut seen = peers.send(requests, LIMIT)?;
    let cpu = process::cpu(&[server.pid]).saturating_sub(before);
    if seen.refused > 0 {
        return Err(io::Error::other(format!("{} refused {} requests", server.name, seen.refused)));
    }
    Ok(Report {
        rate: seen.answered as f64 / seen.elapsed.as_secs_f64().max(1e-9),
        lost: requests - seen.answered,
        resent: seen.resent,
        cpu_us: cpu.as_secs_f64() * 1e6 / seen.answered.max(1) as f64,
        latency_ms: seen.latencies.summary(),
    })
}

/// Each figure's median; what was lost or sent again is summed.
fn summary(reports: &[Report]) -> Report {
    Report {
        rate: median(reports, |report| report.rate),
        lost: reports.iter().map(|report| report.lost).sum(),
        resent: reports.iter().map(|report| report.resent).sum(),
        cpu_us: median(reports, |report| report.cpu_us),
        latency_ms: [0, 1, 2].map(|index| median(reports, |report| report.latency_ms[index])),
    }
}
