//! Retained messages: who gets them, when, with which flags, and what is left after a restart.

use crate::world::{ALL_VERSIONS, Client, Hello, World, message, will};
use bytes::Bytes;
use tidegate_engine::event::{Notice, RecordKey, RecordKind};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{
    self, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, RetainHandling, Subscribe,
    Subscription, Subscriptions, Version, Will,
};

fn publisher(world: &mut World) -> Client {
    world.connect(&Hello::new(Version::V5, "publisher"), false)
}

fn wish(filter: &str) -> Subscription<'_> {
    Subscription::new(filter, Qos::ExactlyOnce)
}

/// A new client subscribes to this; what it then hears.
fn heard(world: &mut World, version: Version, wishes: &[Subscription<'_>]) -> Vec<String> {
    let client = world.connect(&Hello::new(version, "reader"), false);
    world.subscribe(client, 1, wishes);
    let said = world.said(client);
    assert!(said.first().is_some_and(|first| first.starts_with("SUBACK")), "{said:?}");
    world.disconnect(client, ReasonCode::SUCCESS, &[]);
    said.into_iter().skip(1).collect()
}

#[test]
fn a_new_subscription_gets_the_last_message_of_each_topic_marked_as_retained() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let from = publisher(&mut world);
        world.retain(from, Publish { payload: b"old", ..message("a/1", Qos::AtLeastOnce, 1) });
        world.retain(from, Publish { payload: b"new", ..message("a/1", Qos::AtLeastOnce, 2) });
        world.retain(from, message("a/2", Qos::AtMostOnce, 0));
        world.retain(from, message("b", Qos::ExactlyOnce, 3));
        world.relay(from, message("a/3", Qos::AtLeastOnce, 4));
        assert_eq!(
            heard(&mut world, version, &[wish("a/+")]),
            ["PUBLISH - retain a/2 21.5", "PUBLISH 1:1 retain a/1 new"]
        );
        assert_eq!(
            heard(&mut world, version, &[Subscription::new("b", Qos::AtLeastOnce)]),
            ["PUBLISH 1:1 retain b 21.5"],
            "with the lower quality of service"
        );
    }
}

#[test]
fn an_empty_message_clears_its_topic_and_is_passed_on() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let live = world.connect(&Hello::new(Version::V5, "live"), false);
    world.subscribed(live, "t", Qos::AtMostOnce);
    world.retain(from, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(world.store.len(), 1);
    world.retain(from, Publish { payload: b"", ..message("t", Qos::AtLeastOnce, 2) });
    assert_eq!(
        world.said(live),
        ["PUBLISH - t 21.5", "PUBLISH - t "],
        "not marked: it was subscribed before"
    );
    assert_eq!(heard(&mut world, Version::V5, &[wish("t")]), [""; 0]);
    assert!(world.store.is_empty());
}

#[test]
fn a_message_without_the_mark_leaves_what_is_retained() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, Publish { payload: b"kept", ..message("t", Qos::AtLeastOnce, 1) });
    world.relay(from, message("t", Qos::AtLeastOnce, 2));
    world.relay(from, Publish { payload: b"", ..message("t", Qos::AtLeastOnce, 3) });
    assert_eq!(heard(&mut world, Version::V3_1_1, &[wish("t")]), ["PUBLISH 1:1 retain t kept"]);
}

#[test]
fn retain_handling_says_when_retained_messages_are_sent() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, message("t", Qos::AtMostOnce, 0));
    let client = world.connect(&Hello::new(Version::V5, "s"), false);
    let with = |retain_handling| [Subscription { retain_handling, ..wish("t") }];
    let mut answers = |wishes: &[Subscription<'_>]| {
        world.subscribe(client, 1, wishes);
        world.said(client).len() - 1
    };
    assert_eq!(answers(&with(RetainHandling::DoNotSend)), 0);
    assert_eq!(answers(&with(RetainHandling::SendIfNew)), 0, "it is not new");
    assert_eq!(answers(&with(RetainHandling::Send)), 1);
    assert_eq!(answers(&with(RetainHandling::Send)), 1, "again");
    world.unsubscribe(client, 2, &["t"]);
    world.said(client);
    world.subscribe(client, 3, &with(RetainHandling::SendIfNew));
    assert_eq!(world.said(client), ["SUBACK 3 [2]", "PUBLISH - retain t 21.5"]);
}

#[test]
fn a_retained_message_carries_the_identifier_of_the_subscription_and_its_properties() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let list = [Property::ContentType("text/plain"), Property::User("a", "1"), Property::User("a", "2")];
    world.retain(from, Publish { properties: Properties::new(&list), ..message("t", Qos::AtMostOnce, 0) });
    world.restart();
    let client = world.connect(&Hello::new(Version::V5, "s"), false);
    let (wishes, ids) = ([wish("t")], [Property::SubscriptionId(9)]);
    let subscribe = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::new(&ids),
        subscriptions: Subscriptions::new(&wishes),
    };
    world.send(client, &Packet::Subscribe(subscribe));
    let frames = world.frames(client.conn);
    let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[1]).unwrap() else { panic!("PUBLISH") };
    let expected = [&list[..], &ids].concat();
    assert_eq!(publish.properties.iter().collect::<Vec<_>>(), expected);
    assert!(publish.retain);
}

#[test]
fn retained_messages_survive_a_restart() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, Publish { payload: b"a", ..message("t/1", Qos::AtLeastOnce, 1) });
    world.retain(from, Publish { payload: b"b", ..message("t/2", Qos::ExactlyOnce, 2) });
    world.retain(from, Publish { payload: b"", ..message("t/1", Qos::AtLeastOnce, 3) });
    world.restart();
    assert_eq!(world.mqtt.stats().retained, 1);
    assert_eq!(heard(&mut world, Version::V5, &[wish("#")]), ["PUBLISH 2:1 retain t/2 b"]);
}

#[test]
fn a_retained_message_expires_and_says_what_is_left() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let list = [Property::MessageExpiry(60)];
    world.retain(from, Publish { properties: Properties::new(&list), ..message("t", Qos::AtMostOnce, 0) });
    world.pass(Duration::from_secs(20));
    let client = world.connect(&Hello::new(Version::V5, "s"), false);
    world.subscribe(client, 1, &[wish("t")]);
    let frames = world.frames(client.conn);
    let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[1]).unwrap() else { panic!("PUBLISH") };
    assert_eq!(publish.properties.message_expiry(), Some(40));
    world.pass(Duration::from_secs(40));
    world.durable();
    assert_eq!((world.mqtt.stats().retained, world.store.len()), (0, 0));
    assert_eq!(heard(&mut world, Version::V5, &[wish("t")]), [""; 0]);
}

#[test]
fn what_there_is_no_room_for_is_passed_on_and_counted() {
    let mut world = World::limited(|limits| limits.retained_messages = 1);
    let from = publisher(&mut world);
    let live = world.connect(&Hello::new(Version::V5, "live"), false);
    world.subscribed(live, "#", Qos::AtMostOnce);
    world.retain(from, message("a", Qos::AtLeastOnce, 1));
    world.publish(from, Publish { retain: true, ..message("b", Qos::AtLeastOnce, 2) });
    let (incoming, ..) = world.published.front().unwrap();
    let incoming = tidegate_engine::session::Incoming {
        device: incoming.device.clone(),
        topic: incoming.topic.clone(),
        payload: incoming.payload.clone(),
        client: None,
        properties: None,
        record: None,
        ..*incoming
    };
    assert_eq!(world.deliver(&incoming), 1);
    world.all_safe();
    assert_eq!(world.said(from), ["PUBACK 2"], "a refusal would forbid to send it again");
    assert_eq!(world.mqtt.stats().not_retained, 1);
    assert!(matches!(world.notices.last(), Some(Notice::NotRetained { topic }) if topic.as_str() == "b"));
    assert_eq!(heard(&mut world, Version::V5, &[wish("#")]), ["PUBLISH 1:1 retain a 21.5"]);
}

#[test]
fn without_retained_messages_connack_says_so_and_retain_is_refused() {
    let none = || World::limited(|limits| limits.retained_messages = 0);
    let mut world = none();
    let client = publisher(&mut world);
    world.publish(client, Publish { retain: true, ..message("t", Qos::AtLeastOnce, 1) });
    assert_eq!(world.said(client), ["DISCONNECT 0x9A"]);
    let retained = Will { retain: true, ..will("a/b", &[]) };
    let client = world.greet(&Hello { will: Some(retained), ..Hello::new(Version::V5, "a") });
    let frame = world.frames(client.conn).remove(0);
    let Packet::ConnAck(ack) = mqtt::decode(Version::V5, &frame).unwrap() else { panic!("CONNACK") };
    assert_eq!(ack.reason, ReasonCode::RETAIN_NOT_SUPPORTED);
    let client = world.greet(&Hello::new(Version::V5, "b"));
    let frame = world.frames(client.conn).remove(0);
    let Packet::ConnAck(ack) = mqtt::decode(Version::V5, &frame).unwrap() else { panic!("CONNACK") };
    assert_eq!(ack.properties.retain_available(), Some(false));

    let mut world = none();
    let old = world.connect(&Hello::new(Version::V3_1_1, "old"), false);
    world.relay(old, Publish { retain: true, ..message("t", Qos::AtLeastOnce, 1) });
    assert!(world.changes.is_empty(), "older versions cannot be told: it is passed on and not retained");
}

#[test]
fn a_retained_will_is_retained() {
    let mut world = World::new();
    let retained = Will { retain: true, ..will("state/a", &[]) };
    let client = world.connect(&Hello { will: Some(retained), ..Hello::new(Version::V3_1_1, "a") }, false);
    world.gone(client);
    let (incoming, ..) = world.published.pop_front().unwrap();
    world.deliver(&incoming);
    assert_eq!(heard(&mut world, Version::V5, &[wish("state/#")]), ["PUBLISH 1:1 retain state/a gone"]);
}

#[test]
fn more_than_a_client_takes_at_once_comes_as_it_reads() {
    let mut world = World::limited(|limits| {
        limits.outgoing_messages = 10;
        limits.outgoing_bytes = 64 << 10;
    });
    let from = publisher(&mut world);
    let payload = [b'x'; 8_000];
    let topics: Vec<String> = (0..40).map(|n| format!("t/{n:02}")).collect();
    for topic in &topics {
        world.retain(from, Publish { payload: &payload, ..message(topic, Qos::AtLeastOnce, 1) });
    }
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        world.clients_read = false;
        let client = world.connect(&Hello::new(Version::V5, "s"), false);
        world.subscribe(client, 1, &[Subscription::new("t/#", qos)]);
        let mut got = Vec::new();
        loop {
            let frames = world.frames(client.conn);
            if frames.is_empty() {
                break;
            }
            let mut acks = Vec::new();
            for frame in &frames {
                if let Packet::Publish(publish) = mqtt::decode(Version::V5, frame).unwrap() {
                    got.push(publish.topic.to_owned());
                    acks.extend(publish.packet_id);
                }
            }
            assert!(frames.len() <= 12, "{} packets at once", frames.len());
            world.mqtt.sent(world.now, client.conn, frames.iter().map(Vec::len).sum());
            world.settle();
            for id in acks {
                world.send(client, &Packet::PubAck(mqtt::Ack::success(id)));
            }
        }
        assert_eq!(got, topics);
        world.clients_read = true;
        world.disconnect(client, ReasonCode::SUCCESS, &[]);
    }
    assert_eq!(world.mqtt.stats().dropped, 0);
}

#[test]
fn a_lasting_session_gets_its_suback_before_what_is_retained() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, message("t", Qos::AtLeastOnce, 1));
    let client = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribe(client, 1, &[wish("t")]);
    assert_eq!(world.said(client), [""; 0]);
    world.durable();
    assert_eq!(world.said(client), ["SUBACK 1 [2]", "PUBLISH 1:1 retain t 21.5"]);
}

#[test]
fn records_that_cannot_be_read_cost_their_topic_and_are_reported() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, message("t", Qos::AtLeastOnce, 1));
    let (_, value) = world.store.first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    let key = |key: &'static [u8]| RecordKey { kind: RecordKind::Retained, key: Bytes::from_static(key) };
    world.store.insert(key(b"other"), value.clone());
    world.store.insert(key(b"cut"), value.slice(..9));
    world.store.insert(key(b"\xFF"), Bytes::new());
    world.restart();
    world.durable();
    assert_eq!((world.mqtt.stats().retained, world.store.len()), (1, 1));
    let lost = |notice: &&Notice| matches!(notice, Notice::RetainedLost { .. });
    assert_eq!(world.notices.iter().filter(lost).count(), 3);
}
