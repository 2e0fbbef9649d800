//! What every attack is held to: the process goes on and does not panic; memory grows by so much at the most and comes back;
//! descriptors come back; an honest device beside it goes on being acknowledged and loses nothing; the attack is counted, and
//! written down where it is about access, without writing there itself. (What it does to the device's acknowledgement times is
//! measured, by `bench attacks`: tests look at no clock.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tidegate_tests::attacks::{Arena, Bystander, Case, SOON};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::wait::wait_for;

/// What an attack may cost in memory, at its height and a minute later.
const GROWTH_BYTES_MOST: u64 = 32 << 20;
const LEFT_BYTES_MOST: u64 = 8 << 20;
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Acknowledgements that the bystander must get before the attack, and while it goes on: it is held up, perhaps, but not stopped.
const WARM: usize = 200;
const ACKNOWLEDGED_LEAST: usize = 10;

/// The longest that the bystander may wait for one acknowledgement while an attack goes on. On a machine that does nothing else
/// it is milliseconds; this only tells a delay from a standstill.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);

/// Events of the audit log.
const EVENTS: [&str; 5] = ["sign-in", "sign-in refused", "taken over", "denied", "configuration"];

/// One of the process's sizes in bytes: `VmHWM` is the most that it has held, `RssAnon` what it holds now of its own, without the
/// pages of its program, which the kernel takes back when it likes.
fn memory(gateway: &Gateway, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// What is looked at before and after.
struct Look {
    files: f64,
    connections: f64,
    counted: Vec<f64>,
    audited: BTreeMap<String, usize>,
}

impl Look {
    fn at(arena: &Arena, case: &Case) -> Self {
        Self {
            files: arena.gateway.metric("tidegate_process_open_files"),
            connections: arena.gateway.metric("tidegate_connections"),
            counted: case.counted.iter().map(|(metric, _)| arena.gateway.metric(metric)).collect(),
            audited: audited(arena),
        }
    }
}

/// Every event of the audit log, counted; and that it is a log: one JSON object a line, nothing that a terminal obeys.
fn audited(arena: &Arena) -> BTreeMap<String, usize> {
    let text = arena.audit();
    let mut events = BTreeMap::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        let kind = event["event"].as_str().unwrap();
        assert!(EVENTS.contains(&kind), "{line:?}");
        // What a peer called itself is escaped before it becomes JSON: reading it gives no control character either.
        let plain = |value: &serde_json::Value| {
            value
                .as_str()
                .is_none_or(|text| !text.chars().any(|c| c.is_control() || "\u{202E}\u{FEFF}".contains(c)))
        };
        assert!(event.as_object().unwrap().values().all(plain), "{line:?}");
        assert_ne!(event["device"], "forged", "{line:?}");
        *events.entry(kind.to_owned()).or_default() += 1;
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    events
}

/// Plays a case and holds the gateway to the rule.
pub(crate) fn stands(case: &Case) -> Arena {
    let arena = Arena::start(case);
    let bystander = arena.bystander();
    acknowledged(&arena, &bystander, WARM);
    let before = Look::at(&arena, case);
    let (height, held) = (memory(&arena.gateway, "VmHWM"), memory(&arena.gateway, "RssAnon"));
    let (so_far, _) = (bystander.acknowledged(), bystander.latencies());
    let (cpu, began) = (arena.cpu(), Instant::now());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on((case.attack)(&arena));
    drop(runtime);

    let share = (arena.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    acknowledged(&arena, &bystander, so_far + ACKNOWLEDGED_LEAST);
    let slowest = bystander.latencies().last().copied().unwrap_or_default();
    assert!(slowest < ACKNOWLEDGED_WITHIN, "the bystander waited {slowest:?}");
    let grown = memory(&arena.gateway, "VmHWM").saturating_sub(height);
    assert!(grown <= GROWTH_BYTES_MOST, "memory grew by {} KiB", grown >> 10);
    let left = || memory(&arena.gateway, "RssAnon").saturating_sub(held);
    let back = wait_for(BACK_WITHIN, || (left() <= LEFT_BYTES_MOST).then_some(()));
    assert!(back.is_some(), "{} KiB more are held than before", left() >> 10);
    println!(
        "{case:?}: {:.1?}, {} acknowledged beside it, slowest {slowest:.1?}; memory +{} KiB, {} KiB left; {:.0} % of a processor",
        began.elapsed(),
        bystander.acknowledged() - so_far,
        grown >> 10,
        left() >> 10,
        100.0 * share
    );
    // The connection that asks for the metrics is one of the open files, as it was before.
    let after = || Look::at(&arena, case);
    let given_back =
        || Some(after()).filter(|now| now.files <= before.files && now.connections <= before.connections);
    assert!(wait_for(SOON, given_back).is_some(), "open files: {} before, {}", before.files, after().files);
    counted(&arena, case, &before);

    let payloads = bystander.finish();
    nothing_lost(&arena.gateway, &payloads);
    assert!(!arena.gateway.log().contains("panicked"), "{}", arena.gateway.log());
    arena
}

fn acknowledged(arena: &Arena, bystander: &Bystander, count: usize) {
    let served = wait_for(SOON, || (bystander.acknowledged() >= count).then_some(()));
    assert!(served.is_some(), "the bystander is not acknowledged: {}", arena.gateway.log());
}

fn counted(arena: &Arena, case: &Case, before: &Look) {
    let now = Look::at(arena, case);
    assert!(!case.counted.is_empty(), "every attack is counted somewhere");
    for ((metric, least), (before, now)) in case.counted.iter().zip(before.counted.iter().zip(&now.counted)) {
        assert!(now - before >= *least, "{metric} grew by {} and not by {least}", now - before);
    }
    for (event, least) in case.audited {
        let lines = |look: &BTreeMap<String, usize>| look.get(*event).copied().unwrap_or(0);
        // The log has a thread of its own.
        let written =
            wait_for(SOON, || (lines(&audited(arena)) >= lines(&before.audited) + least).then_some(()));
        assert!(
            written.is_some(),
            "{} more lines of {event:?} and not {least}: {}",
            lines(&now.audited),
            arena.audit()
        );
    }
}

/// What the bystander was told is safe has gone upstream.
pub(crate) fn nothing_lost(gateway: &Gateway, payloads: &[String]) {
    let upstream = gateway.upstream_lines();
    let arrived: BTreeSet<_> = upstream.iter().filter_map(|line| line["payload"].as_str()).collect();
    let lost: Vec<_> = payloads.iter().filter(|payload| !arrived.contains(payload.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost: {:?}", lost.len(), payloads.len(), lost[0]);
}
