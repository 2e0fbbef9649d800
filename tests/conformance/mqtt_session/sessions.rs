//! Sessions: kept, taken over, remembered over a restart, ended in time.

use crate::world::{ALL_VERSIONS, Hello, World, message, welcome, will};
use bytes::Bytes;
use tidegate_engine::event::{Notice, RecordKey, RecordKind};
use tidegate_engine::mutant::Planted;
use tidegate_engine::session::mqtt::Mqtt;
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Property, Publish, Qos, ReasonCode, Version};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_clean_session_ends_with_its_connection() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let client = world.connect(&Hello::new(version, "a"), false);
        world.subscribed(client, "t", Qos::AtLeastOnce);
        assert!(world.store.is_empty() && world.changes.is_empty());
        world.gone(client);
        assert_eq!((world.mqtt.stats().sessions, world.mqtt.stats().subscriptions), (0, 0));
        world.connect(&Hello::lasting(version, "a"), false);
    }
}

#[test]
fn a_lasting_session_is_there_again_until_it_expires() {
    for (version, lasts) in
        [(Version::V3_1, 7 * DAY), (Version::V3_1_1, 7 * DAY), (Version::V5, Duration::from_secs(3_600))]
    {
        let mut world = World::new();
        let hello = Hello::lasting(version, "a");
        let client = world.connect(&hello, false);
        world.subscribed(client, "t", Qos::AtLeastOnce);
        world.gone(client);
        world.pass(lasts - Duration::from_secs(1));
        let client = world.connect(&hello, true);
        world.gone(client);
        world.pass(lasts);
        assert_eq!((world.mqtt.stats().sessions, world.mqtt.stats().subscriptions), (0, 0));
        world.durable();
        assert!(world.store.is_empty(), "its record is gone, too");
        assert_eq!(world.mqtt.timeout(), None);
        world.connect(&hello, false);
    }
}

#[test]
fn a_connected_session_does_not_expire() {
    let mut world = World::new();
    let hello = Hello { keep_alive: 0, ..Hello::lasting(Version::V3_1_1, "a") };
    let client = world.connect(&hello, false);
    world.pass(30 * DAY);
    assert!(!world.is_closed(client), "keep-alive 0 is off");
    assert_eq!(world.mqtt.stats().sessions, 1);
}

#[test]
fn disconnect_may_change_the_expiry_but_not_from_zero() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.subscribed(client, "t", Qos::AtLeastOnce);
    world.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(0)]);
    assert_eq!(world.mqtt.stats().sessions, 0);
    world.durable();
    assert!(world.store.is_empty());

    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(10)]);
    world.pass(Duration::from_secs(9));
    assert_eq!(world.mqtt.stats().sessions, 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.mqtt.stats().sessions, 0);

    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    world.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(10)]);
    assert_eq!(world.said(client), ["DISCONNECT 0x82"]);
}

#[test]
fn the_new_connection_takes_over() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let publisher = world.connect(&Hello::new(version, "p"), false);
        let hello = Hello::lasting(version, "a");
        let old = world.connect(&hello, false);
        world.subscribed(old, "t", Qos::AtLeastOnce);
        world.relay(publisher, message("t", Qos::AtLeastOnce, 1));
        world.publish(old, message("x", Qos::AtLeastOnce, 5));
        world.said(old);
        let new = world.greet(&hello);
        if version.is_v5() {
            assert_eq!(world.said(old), ["DISCONNECT 0x8E"]);
        }
        assert!(world.is_closed(old));
        assert_eq!(
            world.said(new),
            [welcome(version, true), "PUBLISH 1:1 dup t 21.5"],
            "handed over at once"
        );
        world.publish(new, Publish { dup: true, ..message("x", Qos::AtLeastOnce, 5) });
        world.all_safe();
        assert_eq!(world.said(new), ["PUBACK 5"]);
        assert_eq!(world.said(old), [""; 0]);
        world.gone(old);
        assert_eq!(world.relay(publisher, message("t", Qos::AtLeastOnce, 2)), 1);
        assert_eq!(world.said(new).len(), 1, "the end of the old connection does not touch the new one");
    }
}

#[test]
fn a_takeover_of_a_clean_session_begins_anew() {
    let mut world = World::new();
    let old = world.connect(&Hello::new(Version::V5, "a"), false);
    world.subscribed(old, "t", Qos::AtLeastOnce);
    let new = world.greet(&Hello { clean: false, ..Hello::new(Version::V5, "a") });
    assert_eq!(world.said(new), ["CONNACK"]);
    assert_eq!((world.mqtt.stats().sessions, world.mqtt.stats().subscriptions), (1, 0));
}

#[test]
fn sessions_survive_a_restart() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let hello = Hello::lasting(version, "a");
        let client = world.connect(&hello, false);
        world.subscribed(client, "t/+", Qos::AtLeastOnce);
        world.restart();
        assert_eq!((world.mqtt.stats().sessions, world.mqtt.stats().subscriptions), (1, 1));
        let publisher = world.connect(&Hello::new(version, "p"), false);
        assert_eq!(world.relay(publisher, message("t/1", Qos::AtLeastOnce, 1)), 1);
        let client = world.greet(&hello);
        assert_eq!(world.said(client), [welcome(version, true), "PUBLISH 1:1 t/1 21.5"]);
        world.restart();
        world.pass(7 * DAY);
        world.durable();
        assert!(world.store.is_empty(), "nobody came back");
    }
}

#[test]
fn what_was_not_durable_is_not_there_after_a_restart() {
    let mut world = World::new();
    let hello = Hello::lasting(Version::V5, "a");
    let client = world.connect(&hello, false);
    world.subscribe(client, 1, &[tidegate_wire::mqtt::Subscription::new("t", Qos::AtLeastOnce)]);
    assert_eq!(world.said(client), [""; 0]);
    world.restart();
    world.connect(&hello, false);
}

#[test]
fn a_clean_start_after_a_restart_removes_everything_recorded() {
    let mut world = World::new();
    let hello = Hello::lasting(Version::V5, "a");
    let client = world.connect(&hello, false);
    world.subscribed(client, "t", Qos::AtLeastOnce);
    world.publish(client, message("x", Qos::ExactlyOnce, 5));
    world.publish(client, message("x", Qos::ExactlyOnce, 6));
    world.all_safe();
    assert_eq!(world.store.len(), 3);
    world.restart();
    let client = world.greet(&Hello { clean: true, ..hello });
    assert_eq!(world.said(client), [""; 0]);
    world.durable();
    world.welcomed(client, false);
    assert!(world.store.is_empty());
    assert_eq!(world.mqtt.stats().subscriptions, 0);
}

#[test]
fn what_comes_behind_a_connect_that_waits_is_taken_after_it() {
    let mut world = World::new();
    let hello = Hello::lasting(Version::V5, "a");
    let client = world.connect(&hello, false);
    world.subscribed(client, "t", Qos::AtLeastOnce);
    world.gone(client);
    let client = world.greet(&Hello { clean: true, ..hello });
    world.publish(client, message("x", Qos::AtLeastOnce, 5));
    assert!(world.published.is_empty());
    world.durable();
    world.welcomed(client, false);
    assert_eq!(world.published.len(), 1);
}

#[test]
fn a_fleet_that_begins_anew_waits_each_for_its_own_old_session() {
    let ids: Vec<String> = (0..30).map(|number| format!("d{number}")).collect();
    fn hello(id: &str) -> Hello<'_> {
        Hello { will: Some(will("last/words", &[])), ..Hello::lasting(Version::V5, id) }
    }
    let mut world = World::new();
    for id in &ids {
        let client = world.connect(&hello(id), false);
        world.gone(client);
    }
    world.all_safe();
    // More of them than one may come in a minute: each is counted once, however many come back with it.
    let anew: Vec<_> = ids.iter().map(|id| world.greet(&Hello { clean: true, ..hello(id) })).collect();
    for client in &anew {
        assert_eq!(world.said(*client), [""; 0], "its old session is still in the store");
    }
    world.all_safe();
    for client in anew {
        assert_eq!(world.said(client), ["CONNACK"]);
        world.gone(client);
    }
    // And nobody is counted twice for having waited.
    world.all_safe();
    for _ in 2..world.setup.limits.wills_per_minute {
        let client = world.greet(&Hello { clean: true, ..hello("d0") });
        world.all_safe();
        assert_eq!(world.said(client), ["CONNACK"]);
        world.gone(client);
        world.all_safe();
    }
    let client = world.greet(&Hello { clean: true, ..hello("d0") });
    assert_eq!(world.said(client), ["CONNACK 0x9F"]);
}

#[test]
fn a_changed_expiry_is_recorded() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.subscribed(client, "t", Qos::AtLeastOnce);
    world.gone(client);
    let shorter = Hello { clean: false, ..Hello::new(Version::V5, "a").with(Property::SessionExpiry(10)) };
    world.connect(&Hello { clean: false, ..shorter }, true);
    world.durable();
    world.restart();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.mqtt.stats().sessions, 0);
}

#[test]
fn records_that_cannot_be_read_are_removed_and_reported() {
    let mut world = World::new();
    let key = |kind, key: &'static [u8]| RecordKey { kind, key: Bytes::from_static(key) };
    let records = vec![
        (key(RecordKind::Session, b"a"), Bytes::from_static(b"\x63")),
        (key(RecordKind::Session, b"b/c"), Bytes::from_static(b"\x01\0\0\0\x0a\0\0")),
        (key(RecordKind::Session, b"ok"), Bytes::from_static(b"\x01\0\0\0\x0a\0\0")),
        (key(RecordKind::InboundQos2, b"nobody\0\0\x01"), Bytes::from_static(b"\x01")),
        (key(RecordKind::InboundQos2, b"ok\0\0\x01"), Bytes::from_static(b"\x01")),
        (key(RecordKind::InboundQos2, b"ok"), Bytes::from_static(b"\x01")),
    ];
    world.mqtt = Mqtt::new(&world.setup, Planted::default(), &records, world.now);
    world.store.extend(records);
    world.settle();
    world.durable();
    let left: Vec<_> = world.store.keys().map(|key| &key.key[..]).collect();
    assert_eq!(left, [&b"ok"[..], &b"ok\0\0\x01"[..]]);
    assert_eq!(world.notices.iter().filter(|notice| matches!(notice, Notice::SessionLost { .. })).count(), 4);
    world.connect(&Hello { clean: false, ..Hello::new(Version::V5, "ok") }, true);
}

#[test]
fn a_storm_of_takeovers_leaves_nothing_behind() {
    let mut world = World::limited(|limits| limits.takeovers_per_minute = u32::MAX);
    let mut last = None;
    for round in 0..1_000_u16 {
        let hello =
            if round % 3 == 0 { Hello::new(Version::V5, "a") } else { Hello::lasting(Version::V5, "a") };
        let client = world.greet(&hello);
        world.subscribe(client, 1, &[tidegate_wire::mqtt::Subscription::new("t", Qos::AtLeastOnce)]);
        world.publish(client, message("t", Qos::ExactlyOnce, round % 7 + 1));
        if round % 5 == 0 {
            world.all_safe();
        }
        if let Some(old) = last.replace(client) {
            world.gone(old);
        }
    }
    world.all_safe();
    assert_eq!((world.mqtt.stats().peers, world.mqtt.stats().sessions), (1, 1));
    let client = world.greet(&Hello::new(Version::V5, "a"));
    world.gone(client);
    world.gone(last.unwrap());
    world.all_safe();
    assert!(world.store.is_empty(), "{:?}", world.store);
    assert_eq!(world.mqtt.timeout(), None);
}
