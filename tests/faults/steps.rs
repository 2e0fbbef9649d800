//! One fault at each step: counts the system calls of a run on the store's files, then lets each fail in a run of its own, in every
//! way in which it can, with strace's injection. What the medium says afterwards is true again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::gateway::{Gateway, binary};
use tidegate_tests::steadfast::{Device, arrived};
use tidegate_tests::wait::wait_for;

/// What the store asks of the system on its files.
const CALLS: &[&str] = &[
    "pwrite64",
    "write",
    "fdatasync",
    "fsync",
    "pread64",
    "ftruncate",
    "fallocate",
    "openat",
    "rename",
    "unlink",
];

/// Each system call's ways to fail: what strace injects, and its name.
fn faults(call: &str) -> &'static [(&'static str, &'static str)] {
    match call {
        "pwrite64" => &[
            ("error=ENOSPC", "no space"),
            ("error=EIO", "I/O error"),
            ("retval=0", "nothing written"),
            ("delay_enter=2000000", "a stall of 2 s"),
        ],
        "write" | "ftruncate" | "rename" | "unlink" => &[("error=EIO", "I/O error")],
        "fallocate" | "openat" => &[("error=ENOSPC", "no space")],
        "fdatasync" | "fsync" => &[
            ("error=EIO", "I/O error"),
            ("error=ENOSPC", "no space"),
            ("delay_enter=2000000", "a stall of 2 s"),
        ],
        _ => &[("error=EIO", "I/O error")],
    }
}

/// A stall costs its run 2 s: of those, one in so many steps.
const STALLS_EVERY: usize = 8;

/// Within this everything is acknowledged although something failed once; acknowledgements resume within 5 s.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// What a run takes without a fault on a busy machine.
const RUN_WITHIN: Duration = Duration::from_secs(30);

const CONFIGURATION: &str =
    "[upstream.out]\nkind = \"file\"\n[[route]]\ntopic = \"#\"\nupstream = \"out\"\ndurability = \"disk\"\n";

/// A run with a fault, or without.
struct Run {
    gateway: Gateway,
    traced: std::process::Child,
}

fn start(inject: Option<&str>, log: Option<&Path>) -> Run {
    let gateway = Gateway::prepare(CONFIGURATION);
    let data = gateway.data();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(log.unwrap_or(Path::new("/dev/null")));
    for name in [
        "tidegate.db",
        "tidegate.db-wal",
        "tidegate.db-shm",
        "ballast",
        "epoch",
        "epoch.new",
        "lanes",
        "lanes.new",
        "watermark",
    ] {
        command.arg("-P").arg(data.join(name));
    }
    command.arg("-e").arg(format!("trace={}", CALLS.join(",")));
    if let Some(inject) = inject {
        command.arg("-e").arg(format!("inject={inject}"));
    }
    let errors = std::fs::File::create(gateway.folder().join("errors")).unwrap();
    command.arg(binary()).args(["run", "--config"]).arg(gateway.config());
    let traced = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .unwrap_or_else(|error| panic!("strace: {error}; it is a package of Debian's"));
    Run { gateway, traced }
}

impl Run {
    /// Ends the gateway as a crash does; strace ends with it.
    fn kill(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.traced.id());
        for pid in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if wait_for(Duration::from_secs(5), || self.traced.try_wait().ok().flatten()).is_none() {
            let _ = self.traced.kill();
            let _ = self.traced.wait();
        }
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.gateway.folder().join("errors")).unwrap_or_default()
    }
}

/// How often each call comes in a run without faults.
fn count(messages: usize) -> Option<BTreeMap<&'static str, usize>> {
    let log: PathBuf = std::env::temp_dir().join(format!("tidegate-faults-{}", std::process::id()));
    let mut run = start(None, Some(&log));
    let mut device = Device::new(run.gateway.mqtt, 64);
    let all = device.send(messages, RUN_WITHIN);
    run.kill();
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    if !all {
        println!(
            "without a fault {} of {messages} are acknowledged: {}",
            device.acknowledged.len(),
            run.errors()
        );
        return None;
    }
    let count = |call: &&'static str| {
        let pattern = format!(" {call}(");
        (*call, text.lines().filter(|line| line.contains(&pattern)).count())
    };
    Some(CALLS.iter().map(count).collect())
}

/// Runs with a fault; gives what does not hold.
fn step(inject: &str, messages: usize, resumed: &mut Duration) -> Result<bool, String> {
    let mut run = start(Some(inject), None);
    let mut device = Device::new(run.gateway.mqtt, 64);
    let began = Instant::now();
    let mut all = false;
    // A fault at the start may end the gateway, with its reason; a device then waits for the next start.
    while began.elapsed() < RUN_WITHIN + RESUMES_WITHIN {
        if device.send(messages, Duration::from_millis(200)) {
            all = true;
            break;
        }
        if run.traced.try_wait().ok().flatten().is_some() {
            break;
        }
    }
    *resumed = (*resumed).max(began.elapsed());
    let ended = run.traced.try_wait().ok().flatten().is_some();
    run.kill();
    if !all && !ended {
        return Err(format!(
            "{} of {messages} are acknowledged: {}",
            device.acknowledged.len(),
            run.errors()
        ));
    }
    if ended && !run.errors().contains("ERROR") && !run.errors().contains("error") {
        return Err(format!("it ended and did not say why: {}", run.errors()));
    }
    // The medium is sound again.
    run.gateway.start_again();
    device.send(messages, RUN_WITHIN);
    let wanted = device.acknowledged.clone();
    if wanted.len() < messages {
        return Err(format!("after a new start {} of {messages} are acknowledged", wanted.len()));
    }
    let there = wait_for(RUN_WITHIN, || {
        let arrived = arrived(&run.gateway.upstream_lines());
        wanted.is_subset(&arrived).then_some(())
    });
    if there.is_none() {
        let arrived = arrived(&run.gateway.upstream_lines());
        return Err(format!("lost: {:?}", wanted.difference(&arrived).take(10).collect::<Vec<_>>()));
    }
    Ok(ended)
}

/// Every step; with `every`, only some.
pub(crate) fn run(messages: usize, every: usize) -> bool {
    let began = Instant::now();
    let Some(counts) = count(messages) else { return false };
    let (mut steps, mut ended, mut failures) = (0_usize, 0, 0);
    let mut longest = Duration::ZERO;
    for (call, count) in counts {
        for (inject, name) in faults(call) {
            let every = if inject.starts_with("delay") { every * STALLS_EVERY } else { every };
            // The first and the last steps always, for few calls come seldom.
            for n in (1..=count).filter(|n| *n == 1 || n % every == 0) {
                steps += 1;
                match step(&format!("{call}:{inject}:when={n}"), messages, &mut longest) {
                    Ok(end) => ended += usize::from(end),
                    Err(broken) => {
                        failures += 1;
                        println!("{name} at {call} {n} of {count}: {broken}");
                    }
                }
            }
        }
        println!(
            "  {call}: {count} in a run of {messages} messages ({:.0} s)",
            began.elapsed().as_secs_f64()
        );
    }
    println!(
        "faults {}: {steps} steps of {messages} messages, {failures} failed, lost 0 otherwise; {ended} ended the start and \
         said why; the slowest run took {:.1} s; in {:.0} s",
        if failures == 0 { "passed" } else { "FAILED" },
        longest.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    failures == 0 && steps > 0
}
