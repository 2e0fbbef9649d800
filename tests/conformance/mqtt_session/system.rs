//! The gateway's own topics: who hears them, when, and that nobody else can speak there.

use crate::world::{ALL_VERSIONS, Client, Hello, World, message};
use std::collections::BTreeMap;
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{self, Packet, Publish, Qos, Subscription, Version};

fn watch(world: &mut World, filter: &str) -> Client {
    let client = world.connect(&Hello::new(Version::V5, "watcher"), false);
    world.subscribe(client, 1, &[Subscription::new(filter, Qos::ExactlyOnce)]);
    client
}

/// The values that a client has been sent, and whether each was marked as retained.
fn values(world: &mut World, client: Client) -> BTreeMap<String, (String, bool)> {
    let frames = world.frames(client.conn);
    let packets = frames.iter().map(|frame| mqtt::decode(client.version, frame).unwrap());
    let value = |packet| match packet {
        Packet::Publish(Publish { topic, payload, retain, .. }) => {
            Some((topic.to_owned(), (String::from_utf8_lossy(payload).into_owned(), retain)))
        }
        _ => None,
    };
    packets.filter_map(value).collect()
}

#[test]
fn a_watcher_gets_the_values_at_once_and_then_what_changes() {
    let mut world = World::new();
    world.pass(Duration::from_secs(5));
    let client = watch(&mut world, "$SYS/#");
    let first = values(&mut world, client);
    let said = |text: &str| Some((text.to_owned(), true));
    assert_eq!(first.get("$SYS/broker/uptime").cloned(), said("5 seconds"));
    assert_eq!(first.get("$SYS/broker/clients/connected").cloned(), said("1"));
    assert_eq!(first.get("$SYS/broker/subscriptions/count").cloned(), said("1"));
    assert_eq!(first.get("$SYS/broker/retained messages/count").cloned(), said("0"));
    assert!(first["$SYS/broker/version"].0.starts_with("Tidegate version "));

    let other = world.connect(&Hello::new(Version::V5, "other"), false);
    world.relay(other, message("t", Qos::AtMostOnce, 0));
    assert!(values(&mut world, client).is_empty(), "not before the interval is over");
    world.pass(Duration::from_secs(10));
    let second = values(&mut world, client);
    assert_eq!(second["$SYS/broker/clients/connected"], ("2".to_owned(), false));
    assert_eq!(second["$SYS/broker/publish/messages/received"], ("1".to_owned(), false));
    assert_eq!(second["$SYS/broker/publish/bytes/received"], ("4".to_owned(), false));
    assert!(!second.contains_key("$SYS/broker/version"), "it has not changed");
    assert!(world.published.is_empty(), "nothing of it goes to a route");
}

#[test]
fn nobody_asks_and_nothing_is_counted_out() {
    let mut world = World::new();
    let client = world.connect(&Hello { keep_alive: 0, ..Hello::new(Version::V3_1_1, "all") }, false);
    world.subscribed(client, "#", Qos::AtMostOnce);
    world.subscribed(client, "+/broker/uptime", Qos::AtMostOnce);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.said(client), [""; 0], "a leading wildcard does not see them");

    let watcher = watch(&mut world, "$SYS/broker/uptime");
    assert_eq!(values(&mut world, watcher).len(), 1);
    world.unsubscribe(watcher, 2, &["$SYS/broker/uptime"]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.said(watcher), ["UNSUBACK 2 [0]"]);
    world.gone(watcher);
    world.gone(client);
    assert_eq!(world.mqtt.timeout(), None, "it does not wake for nobody");
}

#[test]
fn the_interval_can_be_switched_off() {
    let mut world = World::limited(|limits| limits.sys_interval = Duration::ZERO);
    let client = watch(&mut world, "$SYS/#");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.said(client), ["SUBACK 1 [2]"]);
}

#[test]
fn nobody_publishes_there() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let client = world.connect(&Hello::new(version, "a"), false);
        world.publish(client, message("$SYS/broker/uptime", Qos::AtLeastOnce, 1));
        assert!(world.published.is_empty());
        match version {
            Version::V5 => assert_eq!(world.said(client), ["PUBACK 1 0x90"]),
            _ => assert!(world.is_closed(client), "it has no other way to say so"),
        }
    }
}
