//! Ten times as many publishers as the gateway bears, for minutes: what it still makes safe, beside what it makes safe at its
//! peak, and what that does to its memory and to a device with one message at a time.

use crate::process::rss_mib;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tidegate_tests::fleet::{Fleet, Plan};
use tidegate_tests::gateway::Gateway;

/// Devices that bring the gateway to its peak, each with its window always full: more give no more.
const DEVICES: usize = 20;

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

struct Seen {
    per_second: f64,
    /// MiB at the beginning and at the most.
    memory: (f64, f64),
}

impl Overload {
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut gateway = Gateway::prepare("");
        gateway.configure("[[route]]\ntopic = \"sensors/#\"\ndurability = \"disk\"\n");
        gateway.start_again();
        let lasting = Duration::from_secs(self.seconds);
        let peak = publish(&gateway, DEVICES, PEAK.min(lasting))?;
        let attacked = publish(&gateway, TIMES * DEVICES, lasting)?;
        println!(
            "\n{DEVICES} publishers: {:.0}/s made safe; {TIMES} times as many for {} s: {:.0}/s, {:.0} % of that",
            peak.per_second,
            self.seconds,
            attacked.per_second,
            100.0 * attacked.per_second / peak.per_second
        );
        println!(
            "memory: {:.0} MiB after {} s, {:.0} MiB at the most; devices were told to hold {} times, {:.0} bytes unsafe now",
            attacked.memory.0,
            SETTLING.as_secs(),
            attacked.memory.1,
            gateway.metric("tidegate_holds_total"),
            gateway.metric("tidegate_unsafe_bytes"),
        );
        Ok(())
    }
}

/// Publishes from so many devices for so long, and sees to it that nothing was acknowledged that is not safe.
fn publish(gateway: &Gateway, devices: usize, lasting: Duration) -> io::Result<Seen> {
    let (address, pid) = (gateway.mqtt, gateway.pid());
    let before = gateway.metric("tidegate_store_committed_rows_total");
    let plan = Plan {
        address,
        devices,
        messages_each: usize::MAX / devices,
        window: WINDOW,
        payload_bytes: PAYLOAD_BYTES,
    };
    let fleet = Fleet::start(plan);
    fleet.allow(usize::MAX);
    sleep(SETTLING);
    let (began, begun) = (Instant::now(), fleet.acknowledged());
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
    if fleet.reconnects() > 0 {
        println!("{} connections were lost", fleet.reconnects());
    }
    Ok(Seen { per_second, memory: (first, most) })
}
