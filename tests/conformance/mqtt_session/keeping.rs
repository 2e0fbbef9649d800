//! What a session keeps over a restart of the gateway: messages for its client, releases, wills; who waits for the store, and
//! for how long.

use crate::world::{Client, Hello, World, message, welcome, will};
use tidegate_engine::event::{Anonymous, Notice, RecordKind};
use tidegate_engine::session::Claim;
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Ack, Packet, PacketId, Property, Publish, Qos, ReasonCode, Subscription, Version};

const ALL: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
pub(crate) const SPILL_AFTER: Duration = Duration::from_millis(250);

pub(crate) fn ack(id: u16) -> Ack<'static> {
    Ack::success(PacketId::new(id).unwrap())
}

/// A publisher and a subscriber whose session lasts.
pub(crate) fn pair(version: Version, qos: Qos) -> (World, Client, Client) {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::lasting(version, "s"), false);
    world.subscribed(subscriber, "t", qos);
    (world, publisher, subscriber)
}

/// A message is accepted; its publisher waits for the copies, as many as are given.
pub(crate) fn publish(world: &mut World, from: Client, publish: Publish<'_>) -> u32 {
    world.publish(from, publish);
    let (incoming, ..) = world.published.pop_front().expect("it was accepted");
    world.deliver_for(&incoming, Some(Claim(7))).claimed
}

pub(crate) fn outgoing(world: &World) -> usize {
    world.store.keys().filter(|key| key.kind == RecordKind::Outgoing).count()
}

fn wills(world: &World) -> usize {
    world.store.keys().filter(|key| key.kind == RecordKind::Will).count()
}

#[test]
fn a_subscriber_that_keeps_up_costs_no_write() {
    for version in ALL {
        let (mut world, publisher, subscriber) = pair(version, Qos::AtLeastOnce);
        assert_eq!(publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 1)), 1);
        assert_eq!(world.settled, [], "its publisher waits");
        world.send(subscriber, &Packet::PubAck(ack(1)));
        assert_eq!(world.settled, [(Claim(7), false)]);
        world.pass(SPILL_AFTER * 2);
        assert!(world.changes.is_empty());
    }
}

#[test]
fn a_subscriber_that_is_slow_has_its_messages_written_and_its_publisher_waits_no_more() {
    let (mut world, publisher, subscriber) = pair(Version::V5, Qos::AtLeastOnce);
    publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 1));
    world.pass(SPILL_AFTER - Duration::from_millis(1));
    assert!(world.changes.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.changes.len(), 1);
    assert_eq!(world.settled, [], "it is not durable");
    world.durable();
    assert_eq!(world.settled, [(Claim(7), true)]);
    world.pass(Duration::from_millis(1));
    publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 2));
    assert_eq!(world.changes.len(), 1, "the next is written at once, as the first still waits");
    world.durable();
    for id in [1, 2] {
        world.send(subscriber, &Packet::PubAck(ack(id)));
    }
    world.durable();
    assert_eq!(outgoing(&world), 0);
}

#[test]
fn sessions_that_end_with_their_connection_never_touch_the_disk() {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber =
        world.connect(&Hello { will: Some(will("w", &[])), ..Hello::new(Version::V3_1_1, "s") }, false);
    world.subscribed(subscriber, "t", Qos::ExactlyOnce);
    for (number, qos) in [(1, Qos::AtLeastOnce), (2, Qos::ExactlyOnce)] {
        assert_eq!(publish(&mut world, publisher, message("t", qos, number)), 0, "nobody waits");
    }
    world.pass(SPILL_AFTER * 2);
    world.gone(subscriber);
    assert!(world.changes.is_empty() && world.store.is_empty());
}

#[test]
fn what_waits_for_an_absent_subscriber_survives_a_restart_in_order() {
    for version in ALL {
        let (mut world, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(world.said(subscriber).len(), 1);
        world.gone(subscriber);
        assert_eq!(world.changes.len(), 1, "nobody is there to acknowledge it");
        publish(&mut world, publisher, message("t", Qos::ExactlyOnce, 2));
        publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 3));
        world.durable();
        assert_eq!(world.settled.len(), 3);
        world.restart();
        let subscriber = world.connect(&Hello::lasting(version, "s"), true);
        // Whether they had been sent was not written: DUP says that they may have been.
        let expected = ["PUBLISH 1:1 dup t 21.5", "PUBLISH 2:2 dup t 21.5", "PUBLISH 1:3 dup t 21.5"];
        assert_eq!(world.last_said[1..], expected);
        world.send(subscriber, &Packet::PubAck(ack(1)));
        world.send(subscriber, &Packet::PubRec(ack(2)));
        world.send(subscriber, &Packet::PubAck(ack(3)));
        world.durable();
        assert_eq!(world.said(subscriber), ["PUBREL 2"]);
        world.send(subscriber, &Packet::PubComp(ack(2)));
        world.durable();
        assert_eq!(outgoing(&world), 0);
        let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
        publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 4));
        assert_eq!(world.said(subscriber), ["PUBLISH 1:4 t 21.5"]);
    }
}

#[test]
fn a_message_that_was_received_is_only_released_after_a_restart() {
    for version in ALL {
        let (mut world, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        publish(&mut world, publisher, message("t", Qos::ExactlyOnce, 1));
        assert_eq!(world.said(subscriber), [""; 0], "its packet id is not durable");
        world.durable();
        assert_eq!(world.said(subscriber), ["PUBLISH 2:1 t 21.5"]);
        world.send(subscriber, &Packet::PubRec(ack(1)));
        assert_eq!(world.said(subscriber), [""; 0], "that it was received is not durable");
        world.durable();
        assert_eq!(world.said(subscriber), ["PUBREL 1"]);
        for _ in 0..2 {
            world.restart();
            world.connect(&Hello::lasting(version, "s"), true);
            assert_eq!(world.last_said, [welcome(version, true), "PUBREL 1"]);
        }
    }
}

#[test]
fn a_session_that_ends_leaves_nothing_and_settles_what_waited() {
    let (mut world, publisher, subscriber) = pair(Version::V5, Qos::ExactlyOnce);
    publish(&mut world, publisher, message("t", Qos::AtLeastOnce, 1));
    publish(&mut world, publisher, message("t", Qos::ExactlyOnce, 2));
    world.disconnect(subscriber, ReasonCode::SUCCESS, &[Property::SessionExpiry(0)]);
    assert_eq!(world.settled, [(Claim(7), false); 2]);
    world.durable();
    assert!(world.store.is_empty(), "{:?}", world.store);
}

#[test]
fn expiry_goes_on_over_a_restart_by_the_clock_on_the_wall_if_it_is_right() {
    for (synchronised, left) in [(true, 37), (false, 60)] {
        let (mut world, publisher, subscriber) = pair(Version::V5, Qos::AtLeastOnce);
        world.gone(subscriber);
        let list = [Property::MessageExpiry(60)];
        let properties = tidegate_wire::mqtt::Properties::new(&list);
        publish(&mut world, publisher, Publish { properties, ..message("t", Qos::AtLeastOnce, 1) });
        world.durable();
        world.now.wall.unix_ms += 23_000;
        world.now.wall.synchronised = synchronised;
        world.restart();
        let subscriber = world.greet(&Hello::lasting(Version::V5, "s"));
        let frames = world.frames(subscriber.conn);
        let Ok(Packet::Publish(publish)) = tidegate_wire::mqtt::decode(Version::V5, &frames[1]) else {
            panic!("PUBLISH")
        };
        assert_eq!(publish.properties.message_expiry(), Some(left));
    }
}

#[test]
fn what_has_expired_while_the_gateway_was_off_is_not_delivered() {
    let (mut world, publisher, subscriber) = pair(Version::V5, Qos::AtLeastOnce);
    world.gone(subscriber);
    let list = [Property::MessageExpiry(60)];
    let properties = tidegate_wire::mqtt::Properties::new(&list);
    publish(&mut world, publisher, Publish { properties, ..message("t", Qos::AtLeastOnce, 1) });
    world.durable();
    world.now.wall.unix_ms += 61_000;
    world.restart();
    world.connect(&Hello::lasting(Version::V5, "s"), true);
    assert_eq!(world.last_said, [welcome(Version::V5, true)]);
    world.durable();
    assert_eq!(outgoing(&world), 0);
}

// ---------------------------------------------------------------------------------------------- retained

/// Two retained messages are on their way to a new subscription that lasts.
fn retained_for_new_subscriber() -> (World, Client, Client) {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    for topic in ["r/1", "r/2"] {
        world.retain(publisher, message(topic, Qos::AtLeastOnce, 1));
    }
    world.pass(Duration::from_secs(60));
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribe(subscriber, 1, &[Subscription::new("r/#", Qos::AtLeastOnce)]);
    world.durable();
    assert_eq!(world.said(subscriber).len(), 3);
    (world, publisher, subscriber)
}

#[test]
fn what_was_retained_long_ago_costs_no_write_for_a_subscriber_that_keeps_up() {
    let (mut world, publisher, subscriber) = retained_for_new_subscriber();
    world.send(subscriber, &Packet::PubAck(ack(1)));
    publish(&mut world, publisher, message("r/3", Qos::AtLeastOnce, 1));
    world.pass(SPILL_AFTER - Duration::from_millis(1));
    assert!(world.changes.is_empty(), "{:?}", world.changes);
    for id in [2, 3] {
        world.send(subscriber, &Packet::PubAck(ack(id)));
    }
    world.pass(SPILL_AFTER);
    assert!(world.changes.is_empty());
}

#[test]
fn what_is_retained_is_written_for_a_subscriber_that_does_not_acknowledge_it() {
    let (mut world, ..) = retained_for_new_subscriber();
    world.pass(SPILL_AFTER);
    world.durable();
    assert_eq!(outgoing(&world), 2);
}

#[test]
fn the_time_that_a_retained_message_has_waited_counts_once() {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let list = [Property::MessageExpiry(60)];
    let properties = tidegate_wire::mqtt::Properties::new(&list);
    world.retain(publisher, Publish { properties, ..message("r", Qos::AtLeastOnce, 1) });
    world.now.wall.unix_ms += 20_000;
    world.restart();
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribe(subscriber, 1, &[Subscription::new("r", Qos::AtLeastOnce)]);
    world.durable();
    world.gone(subscriber);
    world.durable();
    assert_eq!(outgoing(&world), 1);
    world.now.wall.unix_ms += 5_000;
    world.restart();
    let subscriber = world.greet(&Hello::lasting(Version::V5, "s"));
    let frames = world.frames(subscriber.conn);
    let Ok(Packet::Publish(publish)) = tidegate_wire::mqtt::decode(Version::V5, &frames[1]) else {
        panic!("PUBLISH")
    };
    assert_eq!(publish.properties.message_expiry(), Some(35));
}

// ------------------------------------------------------------------------------------------------- wills

fn delayed<'a>(delay: &'a [Property<'a>]) -> Hello<'a> {
    Hello { will: Some(will("w", delay)), ..Hello::lasting(Version::V5, "a") }
}

#[test]
fn the_will_of_a_client_that_was_connected_goes_out_when_its_delay_after_the_restart_is_over() {
    let delay = [Property::WillDelay(30)];
    let mut world = World::new();
    world.connect(&delayed(&delay), false);
    world.pass(Duration::from_secs(100));
    world.restart();
    world.pass(Duration::from_secs(29));
    assert!(world.published.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published.len(), 1);
    world.all_safe();
    assert_eq!(wills(&world), 0, "in one transaction with the message");
    world.restart();
    world.pass(Duration::from_secs(100));
    assert!(world.published.is_empty(), "once");
}

#[test]
fn a_delay_that_has_begun_goes_on_over_a_restart_and_coming_back_cancels_it() {
    let delay = [Property::WillDelay(30)];
    for comes_back in [false, true] {
        let mut world = World::new();
        let client = world.connect(&delayed(&delay), false);
        world.gone(client);
        world.durable();
        world.now.wall.unix_ms += 10_000;
        world.restart();
        if comes_back {
            world.connect(&Hello::lasting(Version::V5, "a"), true);
            world.durable();
            assert_eq!(wills(&world), 0);
        }
        world.pass(Duration::from_secs(19));
        assert!(world.published.is_empty());
        world.pass(Duration::from_secs(1));
        assert_eq!(world.published.len(), usize::from(!comes_back));
    }
}

#[test]
fn a_good_bye_and_a_stop_of_the_gateway_take_the_will_from_the_store() {
    let delay = [Property::WillDelay(30)];
    for stop in [false, true] {
        let mut world = World::new();
        let client = world.connect(&delayed(&delay), false);
        assert_eq!(wills(&world), 1);
        if stop {
            world.mqtt.stop(world.now);
            world.settle();
        } else {
            world.disconnect(client, ReasonCode::SUCCESS, &[]);
        }
        world.durable();
        assert_eq!(wills(&world), 0);
    }
}

#[test]
fn the_will_of_a_client_that_may_not_be_here_any_more_stays_unsaid_after_a_restart() {
    let delay = [Property::WillDelay(30)];
    let mut world = World::new();
    let client = world.connect(&delayed(&delay), false);
    let mut closed = world.setup.clone();
    closed.anonymous = Anonymous::Never;
    world.reload(&closed);
    assert!(world.is_closed(client));
    world.durable();
    assert_eq!(wills(&world), 0);
    world.restart();
    world.pass(Duration::from_secs(100));
    assert!(world.published.is_empty());
}

// ---------------------------------------------------------------------------- answers that wait for the store

#[test]
fn connack_waits_until_the_will_is_stored_and_refuses_when_the_store_does_not_answer() {
    for version in [Version::V3_1_1, Version::V5] {
        let hello = Hello { will: Some(will("w", &[])), ..Hello::lasting(version, "a") };
        let mut world = World::new();
        let client = world.greet(&hello);
        assert_eq!(world.said(client), [""; 0]);
        world.durable();
        assert_eq!(world.said(client), [welcome(version, false)]);

        let mut world = World::new();
        let client = world.greet(&hello);
        world.pass(Duration::from_secs(10));
        assert!(world.is_closed(client));
        // MQTT 3.1.1 has one code for every server that cannot serve now.
        let expected = if version.is_v5() { "CONNACK 0x89" } else { "CONNACK 0x88" };
        assert_eq!(world.said(client), [expected]);
        world.durable();
        assert_eq!(wills(&world), 0, "what was not accepted is not published");
        assert!(world.published.is_empty());
    }
}

#[test]
fn suback_does_not_wait_for_ever() {
    for version in [Version::V3_1_1, Version::V5] {
        let mut world = World::new();
        let client = world.connect(&Hello::lasting(version, "a"), false);
        world.subscribe(client, 1, &[Subscription::new("t", Qos::AtLeastOnce)]);
        world.pass(Duration::from_millis(9_999));
        assert!(!world.is_closed(client));
        world.pass(Duration::from_millis(1));
        assert!(world.is_closed(client));
        let expected: &[&str] = if version.is_v5() { &["DISCONNECT 0x89"] } else { &[] };
        assert_eq!(world.said(client), expected);
    }
}

// ------------------------------------------------------------------------------------------------- bounds

#[test]
fn all_queues_together_are_bounded_and_a_drop_is_said() {
    let mut world = World::limited(|limits| limits.outgoing_bytes_in_all = 4_000);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    for name in ["a", "b"] {
        let subscriber = world.connect(&Hello::lasting(Version::V5, name), false);
        world.subscribed(subscriber, "t", Qos::AtLeastOnce);
        world.gone(subscriber);
    }
    for number in 1..=30 {
        publish(&mut world, publisher, message("t", Qos::AtLeastOnce, number));
    }
    let stats = world.mqtt.stats();
    assert!(
        stats.queued_bytes <= 4_000 && stats.queued > 8 && stats.queued + stats.dropped == 60,
        "{stats:?}"
    );
    let said = world.notices.iter().filter(|n| matches!(n, Notice::SubscriberOverrun { .. })).count();
    assert!((4..=12).contains(&said), "at the first, and when the number has doubled: {said}");
    world.durable();
    // Smaller limits hold for what is stored.
    world.setup.limits.outgoing_bytes_in_all = 1_000;
    world.restart();
    world.durable();
    let stats = world.mqtt.stats();
    assert!(stats.queued_bytes <= 1_000 && stats.queued == outgoing(&world) as u64, "{stats:?}");
}

#[test]
fn smaller_limits_take_no_release_from_a_client_that_waits_for_it() {
    let (mut world, publisher, subscriber) = pair(Version::V5, Qos::ExactlyOnce);
    for number in [1, 2] {
        publish(&mut world, publisher, message("t", Qos::ExactlyOnce, number));
        world.durable();
        world.send(subscriber, &Packet::PubRec(ack(number)));
        world.durable();
    }
    world.setup.limits.outgoing_messages = 1;
    world.restart();
    world.connect(&Hello::lasting(Version::V5, "s"), true);
    assert_eq!(world.last_said[1..], ["PUBREL 1", "PUBREL 2"]);
}

#[test]
fn what_a_session_leaves_to_its_group_counts_once() {
    let mut world = World::limited(|limits| limits.outgoing_bytes_in_all = 4_000);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let first = world.connect(&Hello::lasting(Version::V5, "a"), false);
    world.subscribed(first, "$share/g/t", Qos::AtLeastOnce);
    let mut number = 0;
    while world.mqtt.stats().queued_bytes < 3_000 {
        number += 1;
        publish(&mut world, publisher, message("t", Qos::AtLeastOnce, number));
    }
    let second = world.connect(&Hello::lasting(Version::V5, "b"), false);
    world.subscribed(second, "$share/g/t", Qos::AtLeastOnce);
    world.gone(second);
    world.disconnect(first, ReasonCode::SUCCESS, &[Property::SessionExpiry(0)]);
    let stats = world.mqtt.stats();
    assert_eq!((stats.queued, stats.dropped), (u64::from(number), 0));
}
