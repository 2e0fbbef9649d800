//! What the operator's word lets go: a gateway whose spool is full discards as it was told, and tells the consumer exactly of what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidegate_tests::fleet::{Fleet, origin};
use tidegate_tests::outage::{Scene, configuration};
use tidegate_tests::rabbit::Received;
use tidegate_tests::wait::wait_for;

/// For what takes moments, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// What a tombstone says of `reason`; nothing for what is none.
fn told(received: &Received, reason: &str) -> u64 {
    if received.header("x-tombstone").is_none() {
        return 0;
    }
    let said: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
    let kind = received.properties.content_type().as_ref().map(|kind| kind.as_str().to_owned());
    assert_eq!(kind.as_deref(), Some("application/vnd.tidegate.tombstone+json"));
    assert_eq!((said["tombstone"].as_u64(), said["reason"].as_str()), (Some(1), Some(reason)), "{said}");
    assert!(said["from"].as_i64().unwrap() <= said["until"].as_i64().unwrap(), "{said}");
    if let Some(topic) = said["topic"].as_str() {
        assert_eq!(received.routing_key, topic.replace('/', "."), "it goes where they would have gone");
    }
    said["count"].as_u64().unwrap()
}

#[test]
fn what_a_full_spool_discards_is_told_exactly_once_when_the_broker_is_back() {
    for (policy, reason) in [("drop-oldest", "dropped-oldest"), ("drop-newest", "dropped-newest")] {
        let mut scene = Scene::new("relay");
        let text = configuration(&scene.gateway, &scene.broker, "relay");
        scene.gateway.stop();
        scene.gateway.configure(&format!("{text}[spool]\nmax_size = \"1 MiB\"\nwhen_full = \"{policy}\"\n"));
        scene.broker.stop();
        scene.gateway.start_again();
        // Three times what the spool holds; every device hears that its messages are safe, as the operator understands it.
        let plan = scene.plan(10, 9_000);
        let fleet = Fleet::start(plan.clone());
        fleet.allow(plan.messages());
        let all = wait_for(SOON, || (fleet.acknowledged() == plan.messages()).then_some(()));
        assert!(all.is_some(), "{} acknowledged\n{}", fleet.acknowledged(), scene.gateway.log());
        assert!(scene.gateway.metric("tidegate_untold_lost_messages") > 1_000.0, "{policy}");
        drop(fleet);
        // What the ledger has survives.
        scene.gateway.stop();
        scene.gateway.start_again();
        scene.broker.start_again();
        let arrived = |received: &[Received]| -> (usize, u64) {
            let readings: BTreeSet<_> =
                received.iter().filter_map(|received| origin(&received.body)).collect();
            let id = |received: &Received| {
                received.properties.message_id().as_ref().map(|id| id.as_str().to_owned())
            };
            let tombstones: BTreeMap<_, _> = received.iter().map(|r| (id(r), told(r, reason))).collect();
            (readings.len(), tombstones.values().sum())
        };
        let whole = |received: &[Received]| {
            let (readings, told) = arrived(received);
            readings as u64 + told >= plan.messages() as u64
        };
        let received = scene.consumer.wait(SOON, whole).unwrap_or_else(|received| {
            panic!("{policy}: {:?} arrived\n{}", arrived(&received), scene.gateway.log())
        });
        let (readings, told) = arrived(&received);
        assert_eq!(readings as u64 + told, plan.messages() as u64, "{policy}");
        let emptied =
            wait_for(SOON, || (scene.gateway.metric("tidegate_ledger_entries") == 0.0).then_some(()));
        assert!(emptied.is_some(), "{policy}: what was told has left the ledger");
    }
}
