//! CONNECT and CONNACK: who comes in, what both sides learn, what is refused in which words.

use crate::world::{ALL_VERSIONS, Client, Hello, World, message, setup, will};
use tidegate_engine::event::{Anonymous, Notice};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{self, ConnAck, Packet, Property, Qos, Version};

fn connack(version: Version, frame: &[u8]) -> ConnAck<'_> {
    match mqtt::decode(version, frame).unwrap() {
        Packet::ConnAck(ack) => ack,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_version_is_accepted() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let client = world.connect(&Hello::new(version, "pump-7"), false);
        world.send(client, &Packet::PingReq);
        assert_eq!(world.said(client), ["PINGRESP"]);
        assert!(
            world
                .notices
                .iter()
                .any(|n| matches!(n, Notice::Connected { protocol, .. } if *protocol == version.name()))
        );
    }
}

#[test]
fn connack_tells_every_limit_truthfully() {
    let mut world = World::new();
    let client = world.open();
    let hello = Hello { keep_alive: 0, ..Hello::new(Version::V5, "") };
    world.bytes(client, &hello.with(Property::SessionExpiry(u32::MAX)).bytes());
    let frame = world.frames(client).remove(0);
    let properties = connack(Version::V5, &frame).properties;
    assert_eq!(properties.receive_maximum(), Some(32));
    assert_eq!(properties.maximum_packet_size(), Some(256 << 10));
    assert_eq!(properties.topic_alias_maximum(), Some(16));
    assert_eq!(properties.session_expiry(), Some(7 * 86_400));
    assert_eq!(properties.server_keep_alive(), Some(1_200));
    assert_eq!(properties.assigned_client_id(), Some("auto-7-1"));
    assert_eq!(properties.retain_available(), Some(true));
    assert_eq!(properties.shared_available(), Some(true));
    assert_eq!(properties.maximum_qos(), None, "QoS 2 is supported");
}

#[test]
fn what_was_wished_is_not_repeated_in_connack() {
    let mut world = World::new();
    let client = world.open();
    world.bytes(client, &Hello::lasting(Version::V5, "pump-7").bytes());
    let frame = world.frames(client).remove(0);
    let properties = connack(Version::V5, &frame).properties;
    assert_eq!(properties.session_expiry(), None);
    assert_eq!(properties.server_keep_alive(), None);
    assert_eq!(properties.assigned_client_id(), None);
}

#[test]
fn without_permission_nobody_comes_in() {
    let cases = [
        (Anonymous::Never, "127.0.0.1:5000", false),
        (Anonymous::Loopback, "127.0.0.1:5000", true),
        (Anonymous::Loopback, "[::1]:5000", true),
        (Anonymous::Loopback, "[::ffff:127.0.0.1]:5000", true),
        (Anonymous::Loopback, "192.0.2.1:5000", false),
        (Anonymous::Everywhere, "192.0.2.1:5000", true),
    ];
    for (anonymous, address, allowed) in cases {
        for version in ALL_VERSIONS {
            for username in [None, Some("root")] {
                let mut world = World::with(tidegate_engine::event::Setup { anonymous, ..setup() });
                let client = Client { conn: world.open_from(address), version };
                world.bytes(client.conn, &Hello { username, ..Hello::new(version, "pump-7") }.bytes());
                // A refusal takes the same time whatever was wrong.
                assert!(!world.is_closed(client));
                world.pass(Duration::from_secs(1));
                let expected = if allowed { "CONNACK" } else { "CONNACK 0x87" };
                assert_eq!(world.said(client), [expected], "{anonymous:?} {address}");
                assert_eq!(world.is_closed(client), !allowed);
            }
        }
    }
}

#[test]
fn client_ids_that_could_be_taken_for_something_else_are_refused() {
    for id in ["#", "+", "a/b", "../x", "%c", ".hidden", "a b"] {
        for version in ALL_VERSIONS {
            let mut world = World::new();
            let client = world.greet(&Hello::new(version, id));
            assert_eq!(world.said(client), ["CONNACK 0x85"], "{id}");
            assert!(world.is_closed(client));
        }
    }
}

#[test]
fn an_empty_client_id_needs_a_clean_session_before_version_5() {
    let mut world = World::new();
    let client = world.greet(&Hello { clean: false, ..Hello::new(Version::V5, "") });
    assert_eq!(world.said(client), ["CONNACK"]);
    // The encoder refuses to say it: 3.1.1, flags 0, keep-alive 60, empty client id.
    let client = Client { conn: world.open(), version: Version::V3_1_1 };
    world.bytes(client.conn, b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00");
    assert_eq!(world.said(client), ["CONNACK 0x85"]);
    assert!(world.is_closed(client));
}

#[test]
fn unknown_versions_are_told_so_and_foreign_protocols_are_not_answered() {
    let mut world = World::new();
    let newer = Client { conn: world.open(), version: Version::V5 };
    world.bytes(newer.conn, b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x00");
    assert_eq!(world.said(newer), ["CONNACK 0x84"]);
    let older = Client { conn: world.open(), version: Version::V3_1_1 };
    world.bytes(older.conn, b"\x10\x0c\x00\x04MQTT\x02\x02\x00\x3c\x00\x00");
    assert_eq!(world.frames(older.conn), [b"\x20\x02\x00\x01"]);
    let foreign = Client { conn: world.open(), version: Version::V5 };
    world.bytes(foreign.conn, b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x3c\x00\x00");
    assert_eq!(world.said(foreign), [""; 0]);
    assert!([newer, older, foreign].iter().all(|client| world.is_closed(*client)));
}

#[test]
fn a_first_packet_that_is_not_connect_is_closed_at_its_first_byte() {
    for first in [0x00, 0x20, 0x30, 0x40, 0x82, 0xC0, 0xE0, 0xF0] {
        let mut world = World::new();
        let conn = world.open();
        world.bytes(conn, &[first]);
        assert!(world.closed.contains(&conn), "{first:#x}");
        assert!(world.frames(conn).is_empty());
        assert_eq!(world.mqtt.stats().sessions, 0);
    }
}

#[test]
fn a_connect_that_claims_too_much_is_closed_at_its_header() {
    let mut world = World::new();
    let conn = world.open();
    world.bytes(conn, &[0x10, 0xFF, 0xFF, 0xFF]);
    assert!(!world.closed.contains(&conn), "its length is not known yet");
    world.bytes(conn, &[0x7F]);
    assert!(world.closed.contains(&conn));
}

#[test]
fn a_connect_may_come_byte_by_byte_and_be_followed_at_once() {
    let mut world = World::new();
    let client = Client { conn: world.open(), version: Version::V5 };
    let mut bytes = Hello::new(Version::V5, "pump-7").bytes();
    bytes.extend_from_slice(&crate::world::encode(
        Version::V5,
        &Packet::Publish(message("sensors/pump-7/t", Qos::AtLeastOnce, 1)),
    ));
    for byte in bytes {
        world.bytes(client.conn, &[byte]);
    }
    world.all_safe();
    assert_eq!(world.said(client), ["CONNACK", "PUBACK 1"]);
}

#[test]
fn without_connect_the_connection_is_closed_in_time() {
    let mut world = World::new();
    let conn = world.open();
    world.pass(Duration::from_secs(9));
    world.bytes(conn, &[0x10]);
    world.pass(Duration::from_millis(999));
    assert!(!world.closed.contains(&conn));
    world.pass(Duration::from_millis(1));
    assert!(world.closed.contains(&conn));
}

#[test]
fn a_second_connect_ends_the_connection() {
    let mut world = World::new();
    let hello = Hello::new(Version::V5, "pump-7");
    let client = world.connect(&hello, false);
    world.bytes(client.conn, &hello.bytes());
    assert_eq!(world.said(client), ["DISCONNECT 0x82"]);
    assert!(world.is_closed(client));
}

#[test]
fn enhanced_authentication_is_refused_in_its_own_words() {
    let mut world = World::new();
    let client = world.greet(&Hello::new(Version::V5, "pump-7").with(Property::AuthMethod("SCRAM-SHA-1")));
    assert_eq!(world.said(client), ["CONNACK 0x8C"]);
    let client = world.connect(&Hello::new(Version::V5, "pump-7"), false);
    world.bytes(client.conn, b"\xF0\x08\x19\x06\x15\x00\x03abc");
    assert_eq!(world.said(client), ["DISCONNECT 0x82"], "DISCONNECT has no 0x8C");
}

#[test]
fn a_will_that_could_not_be_published_is_refused_at_connect() {
    let mut world = World::new();
    let client = world.greet(&Hello { will: Some(will("$CONTROL/x", &[])), ..Hello::new(Version::V5, "a") });
    assert_eq!(world.said(client), ["CONNACK 0x90"]);
    let client =
        world.greet(&Hello { will: Some(will("$CONTROL/x", &[])), ..Hello::new(Version::V3_1_1, "a") });
    assert_eq!(world.said(client), ["CONNACK 0x87"]);
    assert_eq!(world.mqtt.stats().sessions, 0);
}

#[test]
fn connections_beyond_the_limits_are_told_so() {
    let mut world = World::limited(|limits| limits.connections = 1);
    world.connect(&Hello::new(Version::V5, "a"), false);
    let client = world.greet(&Hello::new(Version::V5, "b"));
    assert_eq!(world.said(client), ["CONNACK 0x89"]);
    let client = world.greet(&Hello::new(Version::V3_1_1, "b"));
    assert_eq!(world.said(client), ["CONNACK 0x88"], "return code 3");

    let mut setup = setup();
    setup.anonymous = Anonymous::Everywhere;
    setup.limits.connections_per_address = 1;
    let mut world = World::with(setup);
    for (address, expected) in
        [("192.0.2.1:1", "CONNACK"), ("192.0.2.1:2", "CONNACK 0x97"), ("192.0.2.2:1", "CONNACK")]
    {
        let client = Client { conn: world.open_from(address), version: Version::V5 };
        world.bytes(client.conn, &Hello::new(Version::V5, "").bytes());
        assert_eq!(world.said(client), [expected], "{address}");
    }
}

#[test]
fn a_place_is_free_again_when_its_connection_is_gone() {
    let mut world = World::limited(|limits| limits.connections = 1);
    for _ in 0..3 {
        let client = world.connect(&Hello::new(Version::V5, "a"), false);
        world.gone(client);
    }
    assert_eq!((world.mqtt.stats().peers, world.mqtt.stats().sessions), (0, 0));
}

#[test]
fn a_crowd_that_does_not_connect_loses_its_oldest() {
    let mut world = World::limited(|limits| limits.connections_unauthenticated = 2);
    let (a, b, c) = (world.open(), world.open(), world.open());
    assert!(world.closed.contains(&a) && !world.closed.contains(&b) && !world.closed.contains(&c));
    world.bytes(c, &Hello::new(Version::V5, "c").bytes());
    world.open();
    assert!(!world.closed.contains(&b));
}

#[test]
fn sessions_beyond_the_limit_are_refused() {
    let mut world = World::limited(|limits| limits.sessions = 1);
    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.gone(client);
    let client = world.greet(&Hello::new(Version::V5, "b"));
    assert_eq!(world.said(client), ["CONNACK 0x97"]);
    world.connect(&Hello::lasting(Version::V5, "a"), true);
}
