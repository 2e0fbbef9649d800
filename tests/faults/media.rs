//! Media of a few megabytes, mounted for this process alone, that fill up under the gateway and are emptied again.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::steadfast::{Device, arrived};
use tidegate_tests::wait::wait_for;

/// Service must resume within this, once there is room again.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// What else is on the medium, until it goes.
const FILLER_BYTES: usize = 10 << 20;
/// Everything else, on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// What is mounted where: a command for `sh`, with the place as its first argument.
const MEDIA: &[(&str, &str)] = &[
    ("tmpfs", "mount -t tmpfs -o size=40m tidegate-test \"$1\""),
    (
        "ext4 on a loop device",
        "truncate -s 64m \"$1.image\" && mkfs.ext4 -q -F \"$1.image\" && mount -o loop \"$1.image\" \"$1\"",
    ),
];

/// Each medium in turn, in a name space of its own. What this machine does not permit is said, and is no failure.
pub(crate) fn run() -> bool {
    let own = std::env::current_exe().expect("this program");
    let mut good = true;
    for (kind, mount) in MEDIA {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("medium");
        std::fs::create_dir(&place).expect("a mount point");
        let script = format!("{{ {mount}; }} || exit 77; exec \"$2\" media --mounted \"$1\" --kind \"$3\"");
        // A user name space makes mounting a tmpfs possible for everybody; a loop device needs root itself.
        let spaces: &[&str] = if rustix::process::geteuid().is_root() {
            &["--mount"]
        } else {
            &["--user", "--map-root-user", "--mount"]
        };
        let output = Command::new("unshare")
            .args(spaces)
            .args(["sh", "-c", &script, "sh"])
            .arg(&place)
            .arg(&own)
            .arg(kind)
            .output();
        match output {
            Ok(output) if output.status.success() => print!("{}", String::from_utf8_lossy(&output.stdout)),
            Ok(output) if output.stdout.is_empty() => println!(
                "NOT TESTED on {kind}: this machine does not permit the mount: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Ok(output) => {
                good = false;
                println!(
                    "{kind}: {}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            Err(error) => println!("NOT TESTED on {kind}: unshare: {error}"),
        }
    }
    good
}

/// Fills the medium up under a gateway whose uplink is away, and makes room again; then lets the spool drain on a full medium.
pub(crate) fn on(place: &Path, kind: &str) -> bool {
    println!("  {kind}:");
    let filler = place.join("filler");
    std::fs::write(&filler, vec![0x5A; FILLER_BYTES]).unwrap();
    let mut gateway = Gateway::prepare("");
    let log = gateway.folder().join("messages.jsonl");
    let configuration = |upstream: &str| {
        format!(
            "[upstream.out]\n{upstream}\n[[route]]\ntopic = \"#\"\nupstream = \"out\"\ndurability = \"disk\"\n[spool]\nmax_size = \"1 GiB\"\n"
        )
    };
    // Nobody listens there: everything stays in the spool.
    let away = "kind = \"amqp\"\nurls = [\"amqp://127.0.0.1:1\"]";
    let at =
        |text: &str| text.replace(&format!("{:?}", gateway.data()), &format!("{:?}", place.join("data")));
    let config = gateway.config();
    gateway.configure(&configuration(away));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, at(&text)).unwrap();
    gateway.start_again();

    let mut device = Device::new(gateway.mqtt, 2_000);
    let mut target = 0;
    let full = wait_for(WITHIN, || {
        target += 500;
        (!device.send(target, Duration::from_secs(3))).then_some(())
    });
    if full.is_none() {
        println!("the medium does not fill up");
        return false;
    }
    let before = device.acknowledged.len();
    let (_, status) = gateway.get("/status");
    let says = status.contains("the store cannot write");
    println!("    {before} messages are acknowledged until it is full; the status says so: {says}");
    // Something else on the medium goes.
    std::fs::remove_file(&filler).unwrap();
    let began = Instant::now();
    if !device.send(before + 100, RESUMES_WITHIN) {
        println!(
            "    there is room again, and nothing is acknowledged within {RESUMES_WITHIN:?}: {}",
            gateway.get("/status").1
        );
        return false;
    }
    println!("    acknowledged again {:.1} s after there was room", began.elapsed().as_secs_f64());
    // Full once more.
    let full = wait_for(WITHIN, || {
        target += 500;
        (!device.send(target, Duration::from_secs(3))).then_some(())
    });
    // And from a full medium the spool drains.
    gateway.kill();
    let to = format!("kind = \"file\"\npath = {log:?}");
    gateway.configure(&configuration(&to));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace(&format!("{:?}", gateway.data()), &format!("{:?}", place.join("data"))),
    )
    .unwrap();
    gateway.start_again();
    let wanted = device.acknowledged.clone();
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        arrived(&lines)
    };
    let all = wait_for(WITHIN, || wanted.is_subset(&lines()).then_some(())).is_some();
    println!(
        "    of {} acknowledged messages {} arrive",
        wanted.len(),
        wanted.intersection(&lines()).count()
    );
    says && all && full.is_some()
}
