//! The honest device beside a load, as a process of its own: a device has a machine to itself, and shares no allocator, page table
//! or lock with those who attack.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;
use tidegate_tests::attacks::{Arena, Bystander};
use tidegate_tests::wait::wait_for;

/// The longest wait for its acknowledgements.
const WITHIN: Duration = Duration::from_secs(60);

/// How often it reports.
const REPORTS: Duration = Duration::from_millis(20);

/// What the process itself does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Device {
    /// The gateway's listener.
    address: SocketAddr,
    /// The device's password.
    #[arg(allow_hyphen_values = true)]
    password: String,
}

impl Device {
    /// Publishes until nobody reads any more how long each acknowledgement took, in nanoseconds, a line each.
    pub(crate) fn run(&self) -> io::Result<()> {
        let bystander = Bystander::start(self.address, &self.password);
        loop {
            let mut lines = String::new();
            for latency in bystander.latencies() {
                lines.push_str(&format!("{}\n", latency.as_nanos()));
            }
            let mut out = io::stdout().lock();
            out.write_all(lines.as_bytes())?;
            out.flush()?;
            drop(out);
            sleep(REPORTS);
        }
    }
}

/// The process, and what it has reported.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    latencies: Arc<Mutex<Vec<Duration>>>,
}

impl Beside {
    /// Starts it; it connects and begins.
    pub(crate) fn start(arena: &Arena) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("device").arg(arena.gateway.mqtt.to_string()).arg(arena.password());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let reports = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&latencies);
        std::thread::spawn(move || {
            let lines = BufReader::new(reports).lines().map_while(Result::ok);
            for latency in lines.filter_map(|line| line.parse().ok()).map(Duration::from_nanos) {
                if let Ok(mut heard) = heard.lock() {
                    heard.push(latency);
                }
            }
        });
        Ok(Self { child, latencies })
    }

    /// How many acknowledgements it has reported since [`Self::latencies`].
    pub(crate) fn acknowledged(&self) -> usize {
        self.latencies.lock().map_or(0, |latencies| latencies.len())
    }

    /// Waits for so many.
    ///
    /// # Errors
    /// When they do not come: its connection was taken from it, or it is not served.
    pub(crate) fn wait(&self, count: usize) -> io::Result<()> {
        wait_for(WITHIN, || (self.acknowledged() >= count).then_some(()))
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the honest device is not acknowledged"))
    }

    /// How long the acknowledgements took since this was asked last, the shortest first.
    pub(crate) fn latencies(&self) -> Vec<Duration> {
        let mut latencies =
            self.latencies.lock().map(|mut heard| std::mem::take(&mut *heard)).unwrap_or_default();
        latencies.sort_unstable();
        latencies
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
