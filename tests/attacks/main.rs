//! Slow, broken and hostile clients against a whole gateway: whatever they do, an honest device beside them goes on being
//! acknowledged and loses nothing, memory stays bounded, and what they took is given back. The sessions' own refusals are
//! tested with the sessions; here it is the process that must stand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be
#![allow(clippy::print_stdout)] // what an attack cost stands in the test's output

mod bystander;
mod crowds;
mod readers;
mod writers;

use bystander::Bystander;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::wait::wait_for;

/// For what takes moments, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);

/// What an attack may cost in memory.
const GROWTH_BYTES_MOST: u64 = 32 << 20;

/// Acknowledgements that the bystander must get while an attack goes on: it is held up, perhaps, but not stopped.
const ACKNOWLEDGED_LEAST: usize = 10;

/// The longest that the bystander may wait for one acknowledgement while an attack goes on. On a machine that does nothing else
/// it is milliseconds; this only tells a delay from a standstill.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);

/// The most memory that the process has held since it began, in bytes.
fn peak_bytes(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Starts a gateway with this configuration and a bystander beside it, lets the attack happen, and looks what it did to both.
fn withstands<F: Future<Output = ()>>(configuration: &str, attack: impl FnOnce(SocketAddr) -> F) -> Gateway {
    withstands_with("", configuration, attack)
}

/// The same, with more keys of `[mqtt]`.
fn withstands_with<F: Future<Output = ()>>(
    mqtt: &str,
    configuration: &str,
    attack: impl FnOnce(SocketAddr) -> F,
) -> Gateway {
    // The bystander's messages alone go upstream: what it lost is not to be looked for among the attack's.
    let mut gateway = Gateway::prepare("");
    let route = format!("[[route]]\ntopic = \"{}/#\"\n", bystander::PREFIX);
    gateway.configure_with(mqtt, &format!("{configuration}{route}"));
    gateway.start_again();
    let bystander = Bystander::start(gateway.mqtt);
    let warm = || (bystander.acknowledged() >= 200).then_some(());
    assert!(wait_for(SOON, warm).is_some(), "the bystander is not even served in peace:\n{}", gateway.log());
    let files = gateway.metric("tidegate_process_open_files");
    let connections = gateway.metric("tidegate_connections");
    let (memory, before) = (peak_bytes(&gateway), bystander.acknowledged());
    bystander.forget_the_slowest();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(attack(gateway.mqtt));
    drop(runtime);

    let goes_on = || (bystander.acknowledged() >= before + ACKNOWLEDGED_LEAST).then_some(());
    assert!(
        wait_for(SOON, goes_on).is_some(),
        "the bystander is not acknowledged any more:\n{}",
        gateway.log()
    );
    assert!(bystander.slowest() < ACKNOWLEDGED_WITHIN, "the bystander waited {:?}", bystander.slowest());
    let grown = peak_bytes(&gateway).saturating_sub(memory);
    println!(
        "acknowledged meanwhile {}, slowest {:?}, memory grew by {} KiB",
        bystander.acknowledged() - before,
        bystander.slowest(),
        grown >> 10
    );
    assert!(grown <= GROWTH_BYTES_MOST, "memory grew by {grown} bytes");
    // The connection that asks for the metrics is one of the open files, as it was before.
    let given_back = || {
        let fewer = gateway.metric("tidegate_process_open_files") <= files
            && gateway.metric("tidegate_connections") <= connections;
        fewer.then_some(())
    };
    let back = wait_for(SOON, given_back);
    assert!(back.is_some(), "open files: {files} before, {}", gateway.metric("tidegate_process_open_files"));

    let acknowledged = bystander.finish();
    let upstream = gateway.upstream_lines();
    let arrived: std::collections::BTreeSet<_> =
        upstream.iter().filter_map(|line| line["payload"].as_str()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|payload| !arrived.contains(payload.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost: {:?}", lost.len(), acknowledged.len(), lost[0]);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    gateway
}
