//! Local publish-to-subscriber traffic, Tidegate and Mosquitto in turn, case by case and round by round. Ratios are what
//! counts, the processor time of a delivered message first: it hardly depends on what else the machine does.

use crate::load::greet;
use crate::mosquitto::Mosquitto;
use crate::pairs::{Pairs, subscribe};
use crate::process;
use crate::selection::{Selection, median};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_wire::mqtt::Qos;
use tokio::net::TcpStream;

/// What has not arrived after so long is lost.
const LIMIT: Duration = Duration::from_secs(60);

/// Filters that one session subscribes to, and that one SUBSCRIBE carries.
const FILTERS_PER_SESSION: usize = 50;

/// Local traffic beside Mosquitto.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Local {
    #[command(flatten)]
    selection: Selection,
}

struct Case {
    name: &'static str,
    publishers: usize,
    subscribers: usize,
    qos: Qos,
    window: usize,
    messages: usize,
    /// Filters of other sessions that stand in the way meanwhile.
    filters: usize,
}

const fn pairs(name: &'static str, publishers: usize, qos: Qos, window: usize, messages: usize) -> Case {
    Case { name, publishers, subscribers: 1, qos, window, messages, filters: 0 }
}

/// Half a million deliveries.
const fn fan_out(name: &'static str, qos: Qos, subscribers: usize) -> Case {
    Case { name, publishers: 1, subscribers, qos, window: 10, messages: 500_000 / subscribers, filters: 0 }
}

const fn with_filters(name: &'static str, filters: usize) -> Case {
    Case { filters, ..pairs(name, 100, Qos::AtLeastOnce, 10, 100_000) }
}

/// Window 1 leaves a server nothing to gather: each message costs its own wake-up, read and write.
const CASES: [Case; 18] = [
    pairs("QoS 0, 1 pair, window 1", 1, Qos::AtMostOnce, 1, 100_000),
    pairs("QoS 0, 100 pairs, window 1", 100, Qos::AtMostOnce, 1, 100_000),
    pairs("QoS 0, 1,000 pairs, window 1", 1_000, Qos::AtMostOnce, 1, 100_000),
    pairs("QoS 0, 1 pair, window 10", 1, Qos::AtMostOnce, 10, 100_000),
    pairs("QoS 0, 100 pairs, window 10", 100, Qos::AtMostOnce, 10, 100_000),
    pairs("QoS 0, 1,000 pairs, window 10", 1_000, Qos::AtMostOnce, 10, 100_000),
    pairs("QoS 1, 1 pair, window 1", 1, Qos::AtLeastOnce, 1, 100_000),
    pairs("QoS 1, 100 pairs, window 1", 100, Qos::AtLeastOnce, 1, 100_000),
    pairs("QoS 1, 1,000 pairs, window 1", 1_000, Qos::AtLeastOnce, 1, 100_000),
    pairs("QoS 1, 1 pair, window 10", 1, Qos::AtLeastOnce, 10, 100_000),
    pairs("QoS 1, 100 pairs, window 10", 100, Qos::AtLeastOnce, 10, 100_000),
    pairs("QoS 1, 1,000 pairs, window 10", 1_000, Qos::AtLeastOnce, 10, 100_000),
    fan_out("QoS 0, 1 to 100", Qos::AtMostOnce, 100),
    fan_out("QoS 1, 1 to 100", Qos::AtLeastOnce, 100),
    fan_out("QoS 0, 1 to 1,000", Qos::AtMostOnce, 1_000),
    fan_out("QoS 1, 1 to 1,000", Qos::AtLeastOnce, 1_000),
    with_filters("QoS 1, 100 pairs, and 100 filters", 100),
    with_filters("QoS 1, 100 pairs, and 100,000 filters", 100_000),
];

/// What one run showed.
#[derive(Clone, Debug, Default)]
struct Report {
    delivered_rate: f64,
    lost: usize,
    cpu_us: f64,
    latency_ms: [f64; 3],
}

/// A server of the comparison.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
}

/// The processes behind the servers; they end with it.
pub(crate) struct Running {
    _gateway: Gateway,
    _mosquitto: Mosquitto,
}

/// Starts both. What has no route is acknowledged and delivered locally: nothing of it is written.
pub(crate) fn servers() -> io::Result<([Server; 2], Running)> {
    let gateway = Gateway::start(
        "[limits]\nconnections = 16384\nconnections_unauthenticated = 16384\nsessions = 16384\n\
         [[route]]\ntopic = \"upstream/#\"\n",
    );
    let mosquitto = Mosquitto::start()?;
    let servers = [
        Server { name: "Tidegate", address: gateway.mqtt, pid: gateway.pid() },
        Server { name: "Mosquitto", address: mosquitto.address, pid: mosquitto.pid() },
    ];
    Ok((servers, Running { _gateway: gateway, _mosquitto: mosquitto }))
}

impl Local {
    pub(crate) fn run(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (servers, _running) = servers()?;
        let rounds = self.selection.rounds;
        for case in CASES.iter().filter(|case| self.selection.takes(case.name)) {
            let messages = self.selection.of(case.messages);
            println!("\n{} ({messages} messages, 128 bytes, {rounds} rounds: medians)", case.name);
            println!("{:<10} delivered/s   lost   CPU µs each   p50 ms   p99 ms", "");
            let mut in_the_way = Vec::new();
            for server in &servers {
                in_the_way.push(runtime.block_on(hold_filters(server.address, case.filters))?);
            }
            let mut reports = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (server, reports) in servers.iter().zip(&mut reports) {
                    reports.push(runtime.block_on(measure(server, case, messages))?);
                }
            }
            let [own, peer] = reports.map(|reports| summary(&reports));
            for (server, report) in servers.iter().zip([&own, &peer]) {
                println!(
                    "{:<10} {:>11.0}   {:>4}   {:>11.2}   {:>6.2}   {:>6.2}",
                    server.name,
                    report.delivered_rate,
                    report.lost,
                    report.cpu_us,
                    report.latency_ms[0],
                    report.latency_ms[1]
                );
            }
            println!(
                "Tidegate: {:.2} × Mosquitto's throughput, {:.2} × its processor time",
                own.delivered_rate / peer.delivered_rate,
                own.cpu_us / peer.cpu_us
            );
        }
        Ok(())
    }
}

async fn measure(server: &Server, case: &Case, messages: usize) -> io::Result<Report> {
    let pairs = Pairs {
        target: server.address,
        publishers: case.publishers,
        subscribers: case.subscribers,
        qos: case.qos,
        window: case.window,
        messages,
        payload_bytes: 128,
        limit: LIMIT,
    };
    let connected = pairs.connect().await?;
    let before = process::cpu(&[server.pid]);
    let (mut seen, open) = connected.run().await?;
    let cpu = process::cpu(&[server.pid]).saturating_sub(before);
    drop(open);
    Ok(Report {
        delivered_rate: seen.delivered as f64 / seen.elapsed.as_secs_f64().max(1e-9),
        lost: seen.lost,
        cpu_us: cpu.as_secs_f64() * 1e6 / seen.delivered.max(1) as f64,
        latency_ms: seen.latencies.summary(),
    })
}

/// Sessions that subscribe to `count` filters in all, none of which matches what is published.
async fn hold_filters(target: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    let mut from = 0;
    while from < count {
        let to = count.min(from + FILTERS_PER_SESSION);
        // Of all shapes: most end in a level of their own, some in a wildcard, some begin with one.
        let filters: Vec<String> = (from..to)
            .map(|n| match n % 10 {
                0 => format!("site/{}/machine/{n}/#", n % 100),
                1 => format!("site/{}/+/{n}/value", n % 100),
                2 => format!("+/{n}/alarm"),
                _ => format!("site/{}/machine/{n}/value", n % 100),
            })
            .collect();
        let stream = TcpStream::connect(target).await?;
        let mut stream = greet(stream, &format!("filters-{from}"), (None, None), 0).await?;
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        subscribe(&mut stream, &filters, Qos::AtMostOnce).await?;
        held.push(stream);
        from = to;
    }
    Ok(held)
}

/// Each figure's median; what was lost is summed.
fn summary(reports: &[Report]) -> Report {
    Report {
        delivered_rate: median(reports, |report| report.delivered_rate),
        lost: reports.iter().map(|report| report.lost).sum(),
        cpu_us: median(reports, |report| report.cpu_us),
        latency_ms: [0, 1, 2].map(|index| median(reports, |report| report.latency_ms[index])),
    }
}
