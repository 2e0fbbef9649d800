//! What is given up: messages that expire, become too large or are not the client's any more, and sessions that cannot be brought
//! back. A packet id that the client may hold is freed by the whole exchange only [MQTT-4.3.3].

use crate::access::{device, filters, with};
use crate::keeping::{SPILL_AFTER, ack, outgoing, pair, publish};
use crate::world::{ALL_VERSIONS, Client, Hello, World, message, welcome};
use bytes::Bytes;
use tidegate_engine::event::{Anonymous, DeviceSetup, Notice, RecordKey, RecordKind, Setup};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Packet, Properties, Property, Publish, Qos, Subscription, Version};

/// PUBREL goes out when it is durable that nothing else will; PUBCOMP ends it. What comes behind it has not waited.
fn assert_released(world: &mut World, version: Version, hello: &Hello<'_>, behind: &[&str]) {
    let subscriber = world.greet(hello);
    let said = world.said(subscriber);
    assert_eq!(said[0], welcome(version, true));
    assert_eq!(said[1..], *behind, "not before that is durable");
    world.durable();
    assert_eq!(world.said(subscriber), ["PUBREL 1"]);
    // Once more, if PUBCOMP does not come; also in another life.
    world.gone(subscriber);
    world.durable();
    world.restart();
    let subscriber = world.greet(hello);
    world.durable();
    assert!(world.said(subscriber).contains(&"PUBREL 1".to_owned()));
    world.send(subscriber, &Packet::PubComp(ack(1)));
    world.durable();
    assert_eq!(outgoing(world), behind.len());
}

#[test]
fn the_exchange_of_a_message_whose_right_is_taken_away_is_completed() {
    for version in ALL_VERSIONS {
        let reader = DeviceSetup { subscribe: filters(&["#"]), ..device("a") };
        let local = |devices| Setup { anonymous: Anonymous::Loopback, ..with(devices) };
        let mut world = World::with(local(vec![reader.clone()]));
        let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
        let hello = Hello::lasting(version, "a").proving("a", "pw-a");
        let subscriber = world.connect(&hello, false);
        world.subscribed(subscriber, "#", Qos::ExactlyOnce);
        publish(&mut world, publisher, message("t", Qos::ExactlyOnce, 1));
        world.durable();
        assert_eq!(world.said(subscriber), ["PUBLISH 2:1 t 21.5"]);
        world.gone(subscriber);
        publish(&mut world, publisher, message("u", Qos::AtLeastOnce, 2));
        publish(&mut world, publisher, message("t", Qos::ExactlyOnce, 3));
        world.durable();
        world.reload(&local(vec![DeviceSetup { subscribe: filters(&["u"]), ..reader }]));
        assert_released(&mut world, version, &hello, &["PUBLISH 1:2 u 21.5"]);
    }
}

#[test]
fn the_exchange_of_a_message_that_is_too_large_now_is_completed() {
    let (mut world, publisher, subscriber) = pair(Version::V5, Qos::ExactlyOnce);
    publish(&mut world, publisher, Publish { payload: &[b'x'; 200], ..message("t", Qos::ExactlyOnce, 1) });
    world.durable();
    assert_eq!(world.said(subscriber).len(), 1);
    world.gone(subscriber);
    let smaller = Hello::lasting(Version::V5, "s").with(Property::MaximumPacketSize(100));
    assert_released(&mut world, Version::V5, &smaller, &[]);
}

fn expiring(seconds: u32, world: &mut World, publisher: Client, qos: Qos, id: u16) {
    let list = [Property::MessageExpiry(seconds)];
    publish(world, publisher, Publish { properties: Properties::new(&list), ..message("t", qos, id) });
}

#[test]
fn what_has_expired_and_may_have_been_sent_in_an_earlier_life_is_released_and_not_sent_again() {
    for version in ALL_VERSIONS {
        let (mut world, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        world.gone(subscriber);
        expiring(60, &mut world, publisher, Qos::ExactlyOnce, 1);
        world.durable();
        world.now.wall.unix_ms += 61_000;
        world.restart();
        assert_released(&mut world, version, &Hello::lasting(version, "s"), &[]);
    }
}

#[test]
fn what_has_expired_makes_room_before_its_client_comes() {
    let mut world = World::limited(|limits| limits.outgoing_messages = 3);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    world.gone(subscriber);
    for id in 1..=3 {
        expiring(60, &mut world, publisher, Qos::AtLeastOnce, id);
    }
    world.pass(Duration::from_secs(59));
    publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 4));
    assert_eq!((world.mqtt.stats().queued, world.mqtt.stats().dropped), (3, 1));
    world.pass(Duration::from_secs(2));
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 5));
    world.durable();
    assert_eq!((world.mqtt.stats().queued, outgoing(&world)), (1, 1));
    let said = |notice: &&Notice| matches!(notice, Notice::SubscriberOverrun { .. });
    assert_eq!(world.notices.iter().filter(said).count(), 1);
}

#[test]
fn what_waits_for_a_slow_connection_counts_once_among_what_waits_for_all() {
    let mut world = World::limited(|limits| limits.outgoing_bytes_in_all = 8_000);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    world.clients_read = false;
    let mut number = 0;
    while world.mqtt.stats().dropped == 0 {
        number += 1;
        let from = Publish { payload: &[b'x'; 200], ..message("t", Qos::AtLeastOnce, number) };
        publish(&mut world, publisher, from);
    }
    let stats = world.mqtt.stats();
    assert!((7_000..=8_500).contains(&stats.queued_bytes), "{stats:?}");
}

#[test]
fn retained_messages_that_come_one_by_one_are_written_for_a_client_that_is_slow() {
    let mut world = World::limited(|limits| limits.outgoing_messages = 2);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    for topic in ["r/1", "r/2"] {
        world.retain(publisher, message(topic, Qos::AtLeastOnce, 1));
    }
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribe(subscriber, 1, &[Subscription::new("r/#", Qos::AtLeastOnce)]);
    world.durable();
    assert_eq!(world.said(subscriber).len(), 2, "SUBACK and the first");
    world.pass(SPILL_AFTER);
    world.durable();
    assert_eq!(outgoing(&world), 1);
    world.send(subscriber, &Packet::PubAck(ack(1)));
    assert_eq!(world.said(subscriber).len(), 1);
    world.pass(SPILL_AFTER);
    world.durable();
    assert_eq!(outgoing(&world), 1, "the second");
}

#[test]
fn nobody_comes_under_the_name_of_a_session_that_could_not_be_brought_back_before_it_is_gone() {
    let key = |name: &'static str| RecordKey {
        kind: RecordKind::Session,
        key: Bytes::from_static(name.as_bytes()),
    };
    let good = Bytes::from_static(b"\x02\0\0\0\x0e\x10\0\0");
    let mut setup = World::new().setup;
    setup.limits.sessions = 2;
    let mut world = World::with(setup);
    world.store.extend([
        (key("broken"), Bytes::from_static(b"\x63")),
        (
            RecordKey { kind: RecordKind::InboundQos2, key: Bytes::from_static(b"broken\0\0\x01") },
            Bytes::from_static(b"\x01"),
        ),
        (key("x"), good.clone()),
        (key("y"), good.clone()),
        (key("z"), good),
    ]);
    world.restart();
    let lost = |notice: &&Notice| matches!(notice, Notice::SessionLost { .. });
    assert_eq!(world.notices.iter().filter(lost).count(), 2, "one line for each session");
    assert_eq!(world.mqtt.stats().sessions, 2);
    let other = world.greet(&Hello::lasting(Version::V5, "x"));
    assert_eq!(world.said(other), ["CONNACK present"]);
    world.setup.limits.sessions = 9;
    let setup = world.setup.clone();
    world.reload(&setup);
    for name in ["broken", "z"] {
        let early = world.greet(&Hello::lasting(Version::V5, name));
        assert_eq!(world.said(early), [""; 0], "{name}");
        world.gone(early);
    }
    world.durable();
    assert_eq!(world.store.len(), 2);
    for name in ["broken", "z"] {
        world.connect(&Hello::lasting(Version::V5, name), false);
    }
}
