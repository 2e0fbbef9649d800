//! SUBSCRIBE and UNSUBSCRIBE: what is granted, refused, remembered.

use crate::world::{Hello, World, message};
use tidegate_engine::event::RecordKind;
use tidegate_engine::time::Duration;
use tidegate_engine::topic::Topic;
use tidegate_wire::mqtt::{Qos, Subscription, Version};

#[test]
fn suback_grants_entry_by_entry() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    let deep = "a/".repeat(16);
    let wishes = [
        Subscription::new("a/b", Qos::AtMostOnce),
        Subscription::new("a/+/#", Qos::ExactlyOnce),
        Subscription::new("$share/g/t", Qos::AtLeastOnce),
        Subscription::new(&deep, Qos::AtLeastOnce),
        Subscription::new("a\u{7}", Qos::AtLeastOnce),
    ];
    world.subscribe(client, 1, &wishes);
    assert_eq!(world.said(client), ["SUBACK 1 [0, 2, 1, 143, 143]"]);
    assert_eq!(world.mqtt.stats().subscriptions, 3);

    let old = world.connect(&Hello::new(Version::V3_1_1, "b"), false);
    world.subscribe(old, 1, &wishes);
    assert_eq!(world.said(old), ["SUBACK 1 [0, 2, 1, 128, 128]"]);
}

#[test]
fn subscriptions_beyond_the_limit_are_refused() {
    let mut world = World::limited(|limits| limits.subscriptions_per_session = 2);
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    let wish = |filter| Subscription::new(filter, Qos::AtMostOnce);
    world.subscribe(client, 1, &[wish("a"), wish("b"), wish("c"), wish("a")]);
    assert_eq!(world.said(client), ["SUBACK 1 [0, 0, 151, 0]"]);
}

#[test]
fn the_suback_of_a_lasting_session_waits_for_its_record() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut world = World::new();
        let client = world.connect(&Hello::lasting(version, "a"), false);
        assert!(world.changes.is_empty(), "there is nothing to remember yet");
        world.subscribe(client, 1, &[Subscription::new("a", Qos::AtLeastOnce)]);
        world.subscribe(client, 2, &[Subscription::new("a", Qos::AtLeastOnce)]);
        assert_eq!(world.said(client), [""; 0]);
        assert_eq!(world.changes.len(), 1, "the second changes nothing, and waits for the first");
        world.durable();
        assert_eq!(world.said(client), ["SUBACK 1 [1]", "SUBACK 2 [1]"]);
        assert!(world.store.keys().all(|key| key.kind == RecordKind::Session));
        world.subscribe(client, 3, &[Subscription::new("a", Qos::AtLeastOnce)]);
        assert_eq!(world.said(client), ["SUBACK 3 [1]"]);
    }
}

#[test]
fn unsubscribe_says_what_there_was() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.subscribed(client, "x", Qos::AtLeastOnce);
    world.unsubscribe(client, 2, &["x", "y"]);
    assert_eq!(world.said(client), [""; 0], "a crash must not bring it back");
    world.durable();
    assert_eq!(world.said(client), ["UNSUBACK 2 [0, 17]"]);
    assert_eq!(world.mqtt.stats().subscriptions, 0);
    assert_eq!(world.relay(client, message("x", Qos::AtMostOnce, 0)), 0);

    let old = world.connect(&Hello::new(Version::V3_1_1, "b"), false);
    world.unsubscribe(old, 3, &["x"]);
    assert_eq!(world.said(old), ["UNSUBACK 3 []"]);
}

#[test]
fn a_flood_of_subscriptions_waits_for_the_disk() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    let filters: Vec<String> = (0..40).map(|n| format!("f/{n}")).collect();
    for (filter, id) in filters.iter().zip(1..) {
        world.subscribe(client, id, &[Subscription::new(filter, Qos::AtMostOnce)]);
    }
    assert_eq!(world.changes.len(), 16);
    assert_eq!(world.reading.get(&client.conn), Some(&false));
    while !world.changes.is_empty() {
        world.durable();
    }
    assert_eq!(world.said(client).len(), 40);
    assert_eq!(world.reading.get(&client.conn), Some(&true));
}

#[test]
fn a_leading_wildcard_gets_nothing_that_begins_with_a_dollar() {
    for version in [Version::V3_1_1, Version::V5] {
        for (filter, expected) in [
            ("#", 0),
            ("+/#", 0),
            ("+/monitor/+", 0),
            ("$share/g/#", 0),
            ("$SYS/#", 1),
            ("$SYS/monitor/+", 1),
            ("$SYS/monitor/clients", 1),
            ("$share/g/$SYS/#", 1),
        ] {
            let mut world = World::limited(|limits| limits.sys_interval = Duration::ZERO);
            let client = world.connect(&Hello::new(version, "a"), false);
            world.subscribed(client, filter, Qos::AtMostOnce);
            // Clients cannot publish under such a name; the gateway itself can.
            world.publish(client, message("SYS/monitor/clients", Qos::AtMostOnce, 0));
            let (mut incoming, ..) = world.published.pop_front().unwrap();
            incoming.topic = Topic::new("$SYS/monitor/clients").unwrap();
            assert_eq!(world.deliver(&incoming), expected, "{filter}");
        }
    }
}
