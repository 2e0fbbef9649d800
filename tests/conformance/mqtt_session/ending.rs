//! Ends of connections: keep-alive, wills, DISCONNECT, the gateway's own stop and reload.

use crate::world::{Hello, World, message, setup, will};
use tidegate_engine::event::{Anonymous, Setup};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Packet, Property, Qos, ReasonCode, Version};

fn topics(world: &World) -> Vec<&str> {
    world.published.iter().map(|(incoming, ..)| incoming.topic.as_str()).collect()
}

#[test]
fn silence_for_one_and_a_half_times_the_keep_alive_ends_the_connection() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut world = World::new();
        let client = world.connect(&Hello { keep_alive: 10, ..Hello::new(version, "a") }, false);
        for _ in 0..5 {
            world.pass(Duration::from_millis(14_999));
            world.send(client, &Packet::PingReq);
        }
        world.said(client);
        world.pass(Duration::from_millis(14_999));
        assert!(!world.is_closed(client));
        world.pass(Duration::from_millis(1));
        assert!(world.is_closed(client));
        let expected: &[&str] = if version.is_v5() { &["DISCONNECT 0x8D"] } else { &[] };
        assert_eq!(world.said(client), expected);
    }
}

#[test]
fn the_server_keep_alive_counts_where_it_was_told() {
    let mut world = World::limited(|limits| limits.keep_alive_max = Duration::from_secs(20));
    let told = world.connect(&Hello { keep_alive: 1_000, ..Hello::new(Version::V5, "a") }, false);
    let old = world.connect(&Hello { keep_alive: 1_000, ..Hello::new(Version::V3_1_1, "b") }, false);
    world.pass(Duration::from_secs(30));
    assert!(world.is_closed(told) && !world.is_closed(old));
    world.pass(Duration::from_secs(1_470));
    assert!(world.is_closed(old));
}

#[test]
fn a_packet_that_does_not_end_ends_the_connection() {
    let mut world = World::new();
    let client = world.connect(&Hello { keep_alive: 0, ..Hello::new(Version::V3_1_1, "a") }, false);
    world.bytes(client.conn, b"\x30\x80\x20abc");
    for _ in 0..59 {
        world.pass(Duration::from_secs(10));
        world.bytes(client.conn, b"x");
    }
    assert!(world.is_closed(client));
    assert!(world.published.is_empty());
}

#[test]
fn the_will_is_published_when_the_connection_breaks_and_not_after_good_bye() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let mut world = World::new();
        let hello = Hello { will: Some(will("wills/a", &[])), keep_alive: 10, ..Hello::new(version, "a") };
        let client = world.connect(&hello, false);
        world.disconnect(client, ReasonCode::SUCCESS, &[]);
        assert_eq!(topics(&world), [""; 0]);
        let client = world.connect(&hello, false);
        world.gone(client);
        assert_eq!(topics(&world), ["wills/a"]);
        assert!(world.published[0].1.is_none(), "nobody waits for it");
        assert_eq!(&world.published[0].0.payload[..], b"gone");
        let client = world.connect(&hello, false);
        world.pass(Duration::from_secs(15));
        world.gone(client);
        let client = world.connect(&hello, false);
        world.bytes(client.conn, &[0xFF]);
        world.gone(client);
        assert_eq!(topics(&world), ["wills/a"; 3]);
    }
}

#[test]
fn disconnect_with_will_publishes_it() {
    let mut world = World::new();
    let client = world.connect(&Hello { will: Some(will("w", &[])), ..Hello::new(Version::V5, "a") }, false);
    world.disconnect(client, ReasonCode::DISCONNECT_WITH_WILL, &[]);
    assert_eq!(topics(&world), ["w"]);
}

#[test]
fn a_delayed_will_waits_and_is_cancelled_by_coming_back() {
    let mut world = World::new();
    let delay = [Property::WillDelay(30)];
    let hello = Hello { will: Some(will("w", &delay)), ..Hello::lasting(Version::V5, "a") };
    let client = world.connect(&hello, false);
    world.gone(client);
    world.pass(Duration::from_secs(29));
    let client = world.connect(&hello, true);
    world.pass(Duration::from_secs(31));
    assert_eq!(topics(&world), [""; 0]);
    world.gone(client);
    world.pass(Duration::from_secs(29));
    assert_eq!(topics(&world), [""; 0], "never early");
    world.pass(Duration::from_secs(1));
    assert_eq!(topics(&world), ["w"]);
    world.pass(Duration::from_secs(4_000));
    assert_eq!(topics(&world), ["w"], "once");
}

#[test]
fn a_will_goes_out_when_its_session_ends_at_the_latest() {
    let mut world = World::new();
    let delay = [Property::WillDelay(u32::MAX)];
    let hello = Hello { will: Some(will("w", &delay)), ..Hello::new(Version::V5, "a") };
    let client = world.connect(&hello.clone().with(Property::SessionExpiry(10)), false);
    world.gone(client);
    world.pass(Duration::from_secs(10));
    assert_eq!(topics(&world), ["w"]);
    let client = world.connect(&hello, false);
    world.gone(client);
    assert_eq!(topics(&world), ["w"; 2]);
    let client = world.connect(&hello.clone().with(Property::SessionExpiry(10)), false);
    world.gone(client);
    world.connect(&hello, false);
    assert_eq!(topics(&world), ["w"; 3], "a clean start ends the session before");
}

#[test]
fn takeover_publishes_a_will_without_delay() {
    let mut world = World::new();
    world.connect(&Hello { will: Some(will("w", &[])), ..Hello::lasting(Version::V5, "a") }, false);
    world.connect(&Hello::lasting(Version::V5, "a"), true);
    assert_eq!(topics(&world), ["w"]);
}

#[test]
fn stopping_acknowledges_first_and_says_good_bye() {
    let mut world = World::new();
    let hello = Hello { will: Some(will("w", &[])), ..Hello::new(Version::V5, "busy") };
    let busy = world.connect(&hello, false);
    let idle = world.connect(&Hello { will: Some(will("w", &[])), ..Hello::new(Version::V5, "idle") }, false);
    let old = world.connect(&Hello::new(Version::V3_1_1, "old"), false);
    let silent = world.open();
    world.publish(busy, message("t", Qos::AtLeastOnce, 1));
    world.mqtt.stop(world.now);
    world.settle();
    assert_eq!(world.said(idle), ["DISCONNECT 0x8B"]);
    assert!(world.is_closed(idle) && world.is_closed(old) && world.closed.contains(&silent));
    assert!(!world.is_closed(busy));
    assert_eq!(world.reading.get(&busy.conn), Some(&false));
    world.publish(busy, message("t", Qos::AtLeastOnce, 2));
    assert_eq!(world.published.len(), 1, "nothing more is taken");
    world.all_safe();
    assert_eq!(world.said(busy), ["PUBACK 1", "DISCONNECT 0x8B"]);
    assert!(world.is_closed(busy));
    assert!(world.published.is_empty(), "no wills: the devices are not gone");
    let late = world.greet(&Hello::new(Version::V5, "late"));
    assert_eq!(world.said(late), ["CONNACK 0x88"]);
}

#[test]
fn a_reload_disconnects_who_may_not_be_here_any_more() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    world.mqtt.reload(world.now, &setup());
    world.settle();
    assert!(!world.is_closed(client));
    world.mqtt.reload(world.now, &Setup { anonymous: Anonymous::Never, ..setup() });
    world.settle();
    assert_eq!(world.said(client), ["DISCONNECT 0x87"]);
    let client = world.greet(&Hello::new(Version::V5, "a"));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.said(client), ["CONNACK 0x87"]);
}
