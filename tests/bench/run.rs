//! One measured run: a load, its consumer, and what the server paid for it.

use crate::consumer::Queue;
use crate::ledger::Received;
use crate::load::Load;
use crate::process;
use std::io;
use std::time::{Duration, Instant};

/// The longest that a consumer waits for a message before the rest counts as lost.
const QUIET: Duration = Duration::from_secs(15);

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: usize,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
    /// Messages acknowledged a second.
    pub(crate) acknowledged_rate: f64,
    /// Messages a second from the first sending to the last arrival at the consumer; 0 without one.
    pub(crate) end_to_end_rate: f64,
    /// PUBACK or 2.04: p50, p99, longest, in milliseconds.
    pub(crate) latency_ms: [f64; 3],
    /// Processor seconds of each watched group of processes for a million messages.
    pub(crate) cpu_per_million: Vec<f64>,
    /// Memory of each watched group of processes at the end, in MiB.
    pub(crate) rss_mib: Vec<f64>,
}

impl Report {
    pub(crate) const HEADER: &str =
        "acked/s   end-to-end/s   p50 ms   p99 ms   max ms   lost  repeated  reordered";

    /// The figures under [`Self::HEADER`].
    pub(crate) fn line(&self) -> String {
        let [p50, p99, max] = self.latency_ms;
        format!(
            "{:>7.0}   {:>12.0}   {p50:>6.2}   {p99:>6.2}   {max:>6.1}   {:>4}  {:>8}  {:>9}",
            self.acknowledged_rate, self.end_to_end_rate, self.lost, self.repeated, self.reordered
        )
    }
}

/// Runs a load and watches groups of processes meanwhile.
pub(crate) fn measure(load: &Load, queue: &Queue, groups: &[Vec<u32>]) -> io::Result<Report> {
    let began = Instant::now();
    let consumer = queue.consume(load.devices, began)?;
    let before: Vec<_> = groups.iter().map(|pids| process::cpu(pids)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut outcome = runtime.block_on(load.run(began))?;
    let (received, last) = match &consumer {
        Some(consumer) => consumer.wait(outcome.acknowledged as u64, QUIET),
        None => (Received::default(), Duration::ZERO),
    };
    let per_million = 1e6 / outcome.acknowledged.max(1) as f64;
    let cpu_per_million = groups
        .iter()
        .zip(before)
        .map(|(pids, before)| process::cpu(pids).saturating_sub(before).as_secs_f64() * per_million)
        .collect();
    let lost = if consumer.is_some() {
        let of = |(device, &count): (usize, &usize)| {
            (0..count).filter(|&n| !received.has(device, n)).count() as u64
        };
        outcome.acknowledged_of.iter().enumerate().map(of).sum()
    } else {
        0
    };
    let rate = |count: f64, time: Duration| if time.is_zero() { 0.0 } else { count / time.as_secs_f64() };
    Ok(Report {
        acknowledged: outcome.acknowledged,
        received: received.distinct,
        lost,
        repeated: received.repeated,
        reordered: received.reordered,
        acknowledged_rate: rate(outcome.acknowledged as f64, outcome.elapsed),
        end_to_end_rate: rate(received.distinct as f64, last.saturating_sub(outcome.first)),
        latency_ms: outcome.latencies.summary(),
        cpu_per_million,
        rss_mib: groups.iter().map(|pids| process::rss_mib(pids)).collect(),
    })
}
