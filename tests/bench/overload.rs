//! Ten times as many publishers as the gateway bears, for minutes: what it still makes safe, beside what it makes safe at its
//! peak, and what that does to its memory and to a device with one message at a time.

use crate::attacks::{elsewhere, p99};
use crate::beside::Beside;
use crate::process::rss_mib;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tidegate_tests::attacks::{Arena, Case, Setting};
use tidegate_tests::fleet::{Fleet, Plan};

/// Devices that bring the gateway to its peak, each with its window always full: more give no more.
const DEVICES: usize = 60;

/// How many times as many overload it.
const TIMES: usize = 10;

/// Messages that a device has under way.
const WINDOW: usize = 32;
const PAYLOAD_BYTES: usize = 128;

/// How long the peak is measured; the overload lasts as long as the operator says.
const PEAK: Duration = Duration::from_secs(20);

/// Not counted at the beginning of each: connections are made, memory is taken.
const SETTLING: Duration = Duration::from_secs(2);

/// Publishers beyond measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Overload {
    /// How long, in seconds.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

/// A gateway that makes everything safe on the disk, with an honest device beside the others. The spool does not fill up in
/// minutes: who is measured is the gateway, not its upstream.
const CASE: Case = Case {
    id: "overload",
    name: "publishers",
    setting: |_| {
        Setting::of(
            "[spool]\nmax_size = \"8 GiB\"\n[[route]]\ntopic = \"sensors/#\"\ndurability = \"disk\"\n",
        )
    },
    attack: |_| Box::pin(std::future::ready(())),
    counted: &[],
    audited: &[],
};

struct Seen {
    per_second: f64,
    /// MiB at the beginning and at the most.
    memory: (f64, f64),
    /// The honest device's, in milliseconds.
    p99: f64,
}

impl Overload {
    pub(crate) fn run(&self) -> io::Result<()> {
        let arena = Arena::start(&CASE);
        let beside = Beside::start(&arena)?;
        sleep(SETTLING);
        let peace = p99(&beside.latencies());
        let lasting = Duration::from_secs(self.seconds);
        let peak = publish(&arena, &beside, DEVICES, PEAK.min(lasting))?;
        let beyond = publish(&arena, &beside, TIMES * DEVICES, lasting)?;
        println!(
            "\npublishers   made safe/s   memory at first, at most (MiB)   p99 of a device with one message at a time (ms)"
        );
        println!("{:>10}   {:>11}   {:>30}   {peace:.2}", 0, "", "");
        for (devices, seen) in [(DEVICES, &peak), (TIMES * DEVICES, &beyond)] {
            let memory = format!("{:.0}, {:.0}", seen.memory.0, seen.memory.1);
            println!("{devices:>10}   {:>11.0}   {memory:>30}   {:.2}", seen.per_second, seen.p99);
        }
        println!(
            "{TIMES} times the peak's publishers for {} s: {:.0} % of its rate, {:.2} × its p99; devices were told to hold {} times",
            self.seconds,
            100.0 * beyond.per_second / peak.per_second,
            beyond.p99 / peak.p99,
            arena.gateway.metric("tidegate_holds_total"),
        );
        Ok(())
    }
}

/// Publishes from so many devices for so long, and sees to it that nothing was acknowledged that is not safe.
fn publish(arena: &Arena, beside: &Beside, devices: usize, lasting: Duration) -> io::Result<Seen> {
    let gateway = &arena.gateway;
    let (address, pid) = (gateway.mqtt, gateway.pid());
    let before = gateway.metric("tidegate_store_committed_rows_total");
    let plan = Plan {
        address,
        devices,
        messages_each: usize::MAX / devices,
        window: WINDOW,
        payload_bytes: PAYLOAD_BYTES,
    };
    let fleet = elsewhere(|| Ok(Fleet::start(plan)))?;
    fleet.allow(usize::MAX);
    sleep(SETTLING);
    let (began, begun, connected) = (Instant::now(), fleet.acknowledged(), fleet.reconnects());
    let _ = beside.latencies();
    let first = rss_mib(&[pid]);
    let mut most = first;
    while began.elapsed() < lasting {
        sleep(Duration::from_millis(200));
        most = rss_mib(&[pid]).max(most);
    }
    let acknowledged = fleet.acknowledged();
    let per_second = (acknowledged - begun) as f64 / began.elapsed().as_secs_f64();
    let safe = gateway.metric("tidegate_store_committed_rows_total") - before;
    if (acknowledged as f64) > safe || fleet.disordered() > 0 {
        let disordered = fleet.disordered();
        return Err(io::Error::other(format!(
            "{acknowledged} acknowledged, {safe} committed, {disordered} out of order"
        )));
    }
    if fleet.reconnects() > connected {
        println!("{} connections were lost", fleet.reconnects() - connected);
    }
    Ok(Seen { per_second, memory: (first, most), p99: p99(&beside.latencies()) })
}
