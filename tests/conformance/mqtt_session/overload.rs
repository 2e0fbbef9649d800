//! Overload is said, not suffered: who is told to hold, what is dropped, what waits, and that nothing acknowledged by
//! nobody grows without bound.

use crate::world::{Client, Hello, World, encode, message};
use tidegate_engine::session::Hold;
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Packet, Publish, Qos, Version};

fn reading(world: &World, client: Client) -> bool {
    world.reading.get(&client.conn).copied().unwrap_or(true)
}

fn hold(world: &mut World, on: bool) {
    hold_back(world, if on { Hold::All } else { Hold::Nobody });
}

fn hold_back(world: &mut World, hold: Hold) {
    world.mqtt.hold(world.now, hold);
    world.settle();
}

#[test]
fn while_holding_publishers_are_not_read_and_nothing_is_refused() {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::new(Version::V5, "s"), false);
    world.publish(publisher, message("t", Qos::AtLeastOnce, 1));
    hold(&mut world, true);
    assert!(!reading(&world, publisher) && reading(&world, subscriber));
    // What was read before the order came: QoS 0 is dropped, the rest waits.
    world.publish(publisher, message("t", Qos::AtMostOnce, 0));
    world.publish(publisher, message("t", Qos::AtLeastOnce, 2));
    world.publish(publisher, message("t", Qos::AtMostOnce, 0));
    assert_eq!(world.published.len(), 1);
    assert_eq!(world.mqtt.stats().dropped, 1);
    world.subscribed(subscriber, "x", Qos::AtMostOnce);
    world.publish(subscriber, message("t", Qos::AtLeastOnce, 7));
    assert!(!reading(&world, subscriber), "it has become a publisher");
    world.all_safe();
    assert_eq!(world.said(publisher), ["PUBACK 1"]);
    hold(&mut world, false);
    assert!(reading(&world, publisher) && reading(&world, subscriber));
    world.all_safe();
    assert_eq!(world.said(publisher), ["PUBACK 2"]);
    assert_eq!(world.said(subscriber), ["PUBACK 7"]);
}

#[test]
fn who_sends_one_message_at_a_time_goes_on_while_the_busy_ones_hold() {
    let mut world = World::new();
    let busy = world.connect(&Hello::new(Version::V5, "busy"), false);
    let quiet = world.connect(&Hello::new(Version::V3_1_1, "quiet"), false);
    world.publish(busy, message("t", Qos::AtLeastOnce, 1));
    world.publish(busy, message("t", Qos::AtLeastOnce, 2));
    hold_back(&mut world, Hold::Busy);
    assert!(!reading(&world, busy) && reading(&world, quiet));
    for id in 1..=3 {
        world.publish(quiet, message("t", Qos::AtLeastOnce, id));
        assert!(!reading(&world, quiet), "it has one that is not safe, as the others");
        world.publish(quiet, message("t", Qos::AtLeastOnce, id + 10));
        assert_eq!(world.published.len(), if id == 1 { 3 } else { 1 }, "what had come already waits");
        world.all_safe();
        assert_eq!(world.said(quiet), [format!("PUBACK {id}"), format!("PUBACK {}", id + 10)]);
        assert!(reading(&world, quiet));
    }
    assert_eq!(world.said(busy), ["PUBACK 1", "PUBACK 2"]);
    assert!(reading(&world, busy), "nothing of its waits any more");
    hold_back(&mut world, Hold::All);
    assert!(!reading(&world, busy) && !reading(&world, quiet));
}

#[test]
fn who_is_held_for_too_long_is_told_that_the_server_is_busy() {
    let mut world = World::new();
    let publisher = world.connect(&Hello { keep_alive: 10, ..Hello::new(Version::V5, "p") }, false);
    world.publish(publisher, message("t", Qos::AtLeastOnce, 1));
    hold(&mut world, true);
    world.pass(Duration::from_secs(59));
    assert!(world.said(publisher).is_empty(), "a short keep-alive is no reason");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.said(publisher), ["DISCONNECT 0x89"]);
}

#[test]
fn who_is_held_stays_while_its_messages_become_safe() {
    let mut world = World::new();
    let publisher = world.connect(&Hello { keep_alive: 10, ..Hello::new(Version::V5, "p") }, false);
    for id in 1..=4 {
        world.publish(publisher, message("t", Qos::AtLeastOnce, id));
    }
    hold(&mut world, true);
    for id in 1..=4 {
        world.pass(Duration::from_secs(59));
        world.safe(0);
        assert_eq!(world.said(publisher), [format!("PUBACK {id}")]);
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(world.said(publisher), ["DISCONNECT 0x89"], "now nothing of its gets on");
}

#[test]
fn a_client_that_knows_no_receive_maximum_is_slowed_down() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut world = World::new();
        let client = world.connect(&Hello::new(version, "a"), false);
        let mut bytes = Vec::new();
        for id in 1..=500 {
            bytes.extend(encode(version, &Packet::Publish(message("t", Qos::AtLeastOnce, id))));
        }
        for chunk in bytes.chunks(1_000) {
            world.bytes(client.conn, chunk);
        }
        assert_eq!(world.published.len(), 32);
        assert!(!reading(&world, client));
        let mut most = 0;
        while !world.published.is_empty() {
            most = most.max(world.published.len());
            world.safe(0);
        }
        assert!(most <= 32);
        let expected: Vec<String> = (1..=500).map(|id| format!("PUBACK {id}")).collect();
        assert_eq!(world.said(client), expected, "every one of them, in order");
        assert!(reading(&world, client));
    }
}

#[test]
fn who_sends_on_while_not_read_is_disconnected() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V3_1_1, "a"), false);
    world.publish(client, message("t", Qos::AtLeastOnce, 1));
    hold(&mut world, true);
    let payload = vec![0; 100_000];
    for id in 2..40 {
        world.publish(client, Publish { payload: &payload, ..message("t", Qos::AtLeastOnce, id) });
    }
    assert!(world.is_closed(client));
}

#[test]
fn who_does_not_read_its_answers_is_not_read_and_at_last_disconnected() {
    let mut world = World::limited(|limits| limits.outgoing_bytes = 1_000);
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    world.clients_read = false;
    let pings: Vec<u8> = [0xC0, 0x00].repeat(300);
    world.bytes(client.conn, &pings);
    assert!(!reading(&world, client));
    world.mqtt.sent(world.now, client.conn, 600);
    world.settle();
    assert!(reading(&world, client), "it has read them");
    for _ in 0..40 {
        world.bytes(client.conn, &pings);
    }
    assert!(world.is_closed(client));
}

#[test]
fn packets_beyond_the_limit_are_not_awaited() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    world.bytes(client.conn, b"\x32\x80\x80\x10");
    assert_eq!(world.said(client), ["DISCONNECT 0x95"]);
}

#[test]
fn repetitions_do_not_pile_up_behind_a_message_that_is_not_safe() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    world.publish(client, message("t", Qos::ExactlyOnce, 1));
    world.all_safe();
    world.publish(client, message("t", Qos::AtLeastOnce, 2));
    let again = Publish { dup: true, ..message("t", Qos::ExactlyOnce, 1) };
    for _ in 0..100 {
        world.publish(client, again);
    }
    assert!(!reading(&world, client), "each would wait for its PUBREC in memory");
    world.all_safe();
    assert!(reading(&world, client));
    assert_eq!(world.said(client).len(), 1 + 1 + 100);
}

#[test]
fn packet_ids_that_are_never_released_are_bounded_in_every_version() {
    const MOST: u16 = 4_096;
    for version in [Version::V3_1_1, Version::V5] {
        let mut world = World::new();
        let hello = Hello::lasting(version, "a");
        let mut client = world.connect(&hello, false);
        for id in 1..=MOST {
            if id % 32 == 0 {
                world.gone(client);
                client = world.connect(&hello, true);
            }
            world.publish(client, message("t", Qos::ExactlyOnce, id));
            world.all_safe();
        }
        world.gone(client);
        let client = world.connect(&hello, true);
        let again = Publish { dup: true, ..message("t", Qos::ExactlyOnce, 7) };
        world.publish(client, again);
        assert!(!world.is_closed(client), "what is known may come again");
        world.publish(client, message("t", Qos::ExactlyOnce, MOST + 1));
        assert!(world.is_closed(client));
    }
}
