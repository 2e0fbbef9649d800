//! The medium damages the database of a running gateway: it starts itself anew, takes messages again, and forwards what is whole.

#![allow(clippy::unwrap_used, clippy::panic)] // a test

use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::steadfast::{Device, arrived};
use tidegate_tests::wait::wait_for;

const WITHIN: Duration = Duration::from_secs(60);
const PAGE: usize = 4_096;

fn route(upstream: &str) -> String {
    format!(
        "[upstream.out]\n{upstream}\n[[route]]\ntopic = \"#\"\nupstream = \"out\"\ndurability = \"disk\"\n"
    )
}

#[test]
fn a_gateway_that_meets_damage_starts_itself_anew_and_forwards_what_is_whole() {
    // Nobody listens there: everything waits.
    let mut gateway = Gateway::start(&route("kind = \"amqp\"\nurls = [\"amqp://127.0.0.1:1\"]"));
    let mut device = Device::new(gateway.mqtt, 300);
    assert!(device.send(3_000, WITHIN));
    let (status, _) = gateway.stop();
    assert!(status.success());
    let path = gateway.data().join("tidegate.db");
    let mut file = std::fs::read(&path).unwrap();
    let page = file.len() / PAGE / 2 * PAGE;
    file[page..page + PAGE].fill(0xEE);
    std::fs::write(&path, file).unwrap();

    // The start does not read that page; what is loaded for the upstream does.
    gateway.configure(&route("kind = \"file\""));
    gateway.spawn();
    let pid = gateway.pid();
    let said = wait_for(WITHIN, || gateway.log().contains("starting anew").then_some(()));
    assert!(said.is_some(), "{}", gateway.log());
    assert!(device.send(3_100, WITHIN), "devices connect again: {}", gateway.log());
    let report = wait_for(WITHIN, || {
        let log = gateway.log();
        let (_, rest) = log.split_once("was damaged: ")?;
        rest.split_once(" of ")?.0.parse::<usize>().ok()
    });
    let lost = report.unwrap_or_else(|| panic!("{}", gateway.log()));
    assert!((1..40).contains(&lost), "{lost}");
    let all = wait_for(WITHIN, || {
        let arrived = arrived(&gateway.upstream_lines());
        (device.acknowledged.difference(&arrived).count() == lost).then_some(())
    });
    assert!(all.is_some(), "{}", gateway.log());
    let lines = gateway.upstream_lines();
    let salvaged = lines.iter().filter(|line| line.get("salvaged").is_some()).count();
    assert!(salvaged > 100, "{salvaged}");
    assert_eq!(gateway.pid(), pid, "the service manager sees the same process");
    let (code, status) = gateway.get("/status");
    assert_eq!(code, 200);
    assert!(status.contains("messages are salvaged"), "{status}");
}
