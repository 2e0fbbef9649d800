//! Messages to subscribers: who gets which copy, acknowledged how, bounded by what.

use crate::world::{Client, Hello, World, encode, message, welcome};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{
    self, Ack, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, Subscribe, Subscription,
    Subscriptions, Version,
};

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn pair(subscriber: &Hello<'_>) -> (World, Client, Client) {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V5, "publisher"), false);
    let subscriber = world.connect(subscriber, false);
    (world, publisher, subscriber)
}

fn wish(filter: &str, qos: Qos) -> Subscription<'_> {
    Subscription::new(filter, qos)
}

#[test]
fn the_lower_quality_of_service_counts() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let (mut world, publisher, subscriber) = pair(&Hello::new(version, "s"));
        let wishes =
            [wish("0/#", Qos::AtMostOnce), wish("1/#", Qos::AtLeastOnce), wish("2/#", Qos::ExactlyOnce)];
        world.subscribe(subscriber, 1, &wishes);
        world.said(subscriber);
        assert_eq!(world.relay(publisher, message("0/x", Qos::ExactlyOnce, 1)), 1);
        world.relay(publisher, message("1/x", Qos::ExactlyOnce, 2));
        world.relay(publisher, message("2/x", Qos::ExactlyOnce, 3));
        world.relay(publisher, message("2/x", Qos::AtMostOnce, 0));
        assert_eq!(world.relay(publisher, message("3/x", Qos::AtMostOnce, 0)), 0);
        assert_eq!(
            world.said(subscriber),
            ["PUBLISH - 0/x 21.5", "PUBLISH 1:1 1/x 21.5", "PUBLISH 2:2 2/x 21.5", "PUBLISH - 2/x 21.5"]
        );
    }
}

#[test]
fn exactly_once_out_goes_its_four_steps() {
    let (mut world, publisher, subscriber) = pair(&Hello::new(Version::V5, "s"));
    world.subscribed(subscriber, "t", Qos::ExactlyOnce);
    world.relay(publisher, message("t", Qos::ExactlyOnce, 1));
    assert_eq!(world.said(subscriber), ["PUBLISH 2:1 t 21.5"]);
    world.send(subscriber, &Packet::PubRec(Ack::success(id(1))));
    assert_eq!(world.said(subscriber), ["PUBREL 1"]);
    world.send(subscriber, &Packet::PubComp(Ack::success(id(1))));
    world.send(subscriber, &Packet::PubRec(Ack::success(id(1))));
    assert_eq!(world.said(subscriber), ["PUBREL 1 0x92"]);
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_the_highest_quality_and_all_identifiers() {
    let (mut world, publisher, subscriber) = pair(&Hello::new(Version::V5, "s"));
    for (filter, qos, number, packet) in
        [("a/#", Qos::AtMostOnce, 7, 1), ("a/+", Qos::ExactlyOnce, 3, 2), ("#", Qos::AtLeastOnce, 300, 3)]
    {
        let wishes = [wish(filter, qos)];
        let properties = [Property::SubscriptionId(number)];
        let subscribe = Subscribe {
            packet_id: id(packet),
            properties: Properties::new(&properties),
            subscriptions: Subscriptions::new(&wishes),
        };
        world.send(subscriber, &Packet::Subscribe(subscribe));
    }
    world.said(subscriber);
    world.relay(publisher, message("a/b", Qos::ExactlyOnce, 1));
    let frames = world.frames(subscriber.conn);
    assert_eq!(frames.len(), 1);
    let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[0]).unwrap() else { panic!("PUBLISH") };
    assert_eq!(publish.qos, Qos::ExactlyOnce);
    let mut ids: Vec<_> = publish
        .properties
        .iter()
        .map(|property| match property {
            Property::SubscriptionId(id) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    ids.sort_unstable(); // Their order says nothing (MQTT 5.0, 3.3.2.3.8).
    assert_eq!(ids, [3, 7, 300]);
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a"), false);
    let other = world.connect(&Hello::new(Version::V5, "b"), false);
    world.subscribe(client, 1, &[Subscription { no_local: true, ..wish("t", Qos::AtMostOnce) }]);
    world.said(client);
    assert_eq!(world.relay(client, message("t", Qos::AtMostOnce, 0)), 0);
    assert_eq!(world.relay(other, message("t", Qos::AtMostOnce, 0)), 1);
}

#[test]
fn retain_is_passed_on_only_to_those_who_want_it_as_published() {
    let mut world = World::new();
    let publisher = world.connect(&Hello::new(Version::V3_1_1, "p"), false);
    let plain = world.connect(&Hello::new(Version::V5, "a"), false);
    let exact = world.connect(&Hello::new(Version::V5, "b"), false);
    world.subscribe(plain, 1, &[wish("t", Qos::AtMostOnce)]);
    world.subscribe(exact, 1, &[Subscription { retain_as_published: true, ..wish("t", Qos::AtMostOnce) }]);
    world.said(plain);
    world.said(exact);
    world.relay(publisher, Publish { retain: true, ..message("t", Qos::AtMostOnce, 0) });
    assert_eq!(world.said(plain), ["PUBLISH - t 21.5"]);
    assert_eq!(world.said(exact), ["PUBLISH - retain t 21.5"]);
}

#[test]
fn what_goes_with_a_message_reaches_the_subscriber() {
    let (mut world, publisher, subscriber) = pair(&Hello::new(Version::V5, "s"));
    let old = world.connect(&Hello::new(Version::V3_1_1, "old"), false);
    world.subscribed(subscriber, "t", Qos::AtMostOnce);
    world.subscribed(old, "t", Qos::AtMostOnce);
    let list = [
        Property::PayloadFormat(true),
        Property::MessageExpiry(60),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("answers/7"),
        Property::CorrelationData(b"\0\x01"),
        Property::User("b", "2"),
        Property::User("a", "1"),
        Property::User("b", "2"),
    ];
    world
        .relay(publisher, Publish { properties: Properties::new(&list), ..message("t", Qos::AtMostOnce, 0) });
    let frames = world.frames(subscriber.conn);
    let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[0]).unwrap() else { panic!("PUBLISH") };
    assert_eq!(publish.properties.iter().collect::<Vec<_>>(), list);
    assert_eq!(world.said(old), ["PUBLISH - t 21.5"]);
}

#[test]
fn large_payloads_arrive_whole() {
    let (mut world, publisher, subscriber) = pair(&Hello::new(Version::V5, "s"));
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    let payload: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let large = Publish { payload: &payload, ..message("t", Qos::AtLeastOnce, 1) };
    let bytes = encode(Version::V5, &Packet::Publish(large));
    for chunk in bytes.chunks(16 << 10) {
        world.bytes(publisher.conn, chunk);
    }
    let incoming = world.published.pop_front().unwrap().0;
    world.deliver(&incoming);
    world.deliver(&incoming);
    let frames = world.frames(subscriber.conn);
    assert_eq!(frames.len(), 2);
    for (frame, number) in frames.iter().zip(1..) {
        let Packet::Publish(publish) = mqtt::decode(Version::V5, frame).unwrap() else { panic!("PUBLISH") };
        assert_eq!((publish.packet_id, publish.payload), (Some(id(number)), &payload[..]));
    }
}

#[test]
fn the_clients_receive_maximum_holds() {
    let (mut world, publisher, subscriber) =
        pair(&Hello::new(Version::V5, "s").with(Property::ReceiveMaximum(2)));
    world.subscribed(subscriber, "t", Qos::ExactlyOnce);
    for number in 1..=4 {
        world.relay(publisher, message("t", Qos::AtLeastOnce, number));
    }
    world.relay(publisher, message("t", Qos::AtMostOnce, 0));
    assert_eq!(
        world.said(subscriber),
        ["PUBLISH 1:1 t 21.5", "PUBLISH 1:2 t 21.5", "PUBLISH - t 21.5"],
        "QoS 0 does not count"
    );
    world.send(subscriber, &Packet::PubAck(Ack::success(id(2))));
    assert_eq!(world.said(subscriber), ["PUBLISH 1:3 t 21.5"]);
    let refusal = Ack { reason: ReasonCode::QUOTA_EXCEEDED, ..Ack::success(id(1)) };
    world.send(subscriber, &Packet::PubAck(refusal));
    assert_eq!(world.said(subscriber), ["PUBLISH 1:4 t 21.5"]);
}

#[test]
fn a_message_that_the_client_cannot_take_is_left_out_whole() {
    let (mut world, publisher, subscriber) =
        pair(&Hello::new(Version::V5, "s").with(Property::MaximumPacketSize(40)));
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    let large = [b'x'; 40];
    world.relay(publisher, Publish { payload: &large, ..message("t", Qos::AtLeastOnce, 1) });
    world.relay(publisher, Publish { payload: &large, ..message("t", Qos::AtMostOnce, 0) });
    world.relay(publisher, message("t", Qos::AtLeastOnce, 2));
    assert_eq!(world.said(subscriber), ["PUBLISH 1:2 t 21.5"]);
    assert_eq!(world.mqtt.stats().dropped, 2);
}

#[test]
fn a_message_expires_while_it_waits_and_says_what_is_left() {
    let (mut world, publisher, subscriber) = pair(&Hello::lasting(Version::V5, "s"));
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    world.gone(subscriber);
    for (seconds, number) in [(5, 1), (60, 2)] {
        let list = [Property::MessageExpiry(seconds)];
        world.relay(
            publisher,
            Publish { properties: Properties::new(&list), ..message("t", Qos::AtLeastOnce, number) },
        );
    }
    world.pass(Duration::from_secs(10));
    let subscriber = world.greet(&Hello::lasting(Version::V5, "s"));
    let frames = world.frames(subscriber.conn);
    assert_eq!(frames.len(), 2, "CONNACK, and the one that has not expired");
    let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[1]).unwrap() else { panic!("PUBLISH") };
    assert_eq!(publish.properties.message_expiry(), Some(50));
}

#[test]
fn a_subscriber_that_comes_back_gets_what_waited_and_what_it_did_not_acknowledge() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let (mut world, publisher, subscriber) = pair(&Hello::lasting(version, "s"));
        world.subscribed(subscriber, "#", Qos::ExactlyOnce);
        world.relay(publisher, message("a", Qos::AtLeastOnce, 1));
        world.relay(publisher, message("b", Qos::ExactlyOnce, 2));
        world.relay(publisher, message("c", Qos::ExactlyOnce, 3));
        assert_eq!(world.said(subscriber).len(), 1, "exactly once waits for its record");
        world.durable();
        world.send(subscriber, &Packet::PubRec(Ack::success(id(2))));
        assert_eq!(world.said(subscriber).len(), 2, "and the release for its own");
        world.durable();
        assert_eq!(world.said(subscriber), ["PUBREL 2"]);
        world.gone(subscriber);
        world.relay(publisher, message("d", Qos::AtLeastOnce, 4));
        assert_eq!(world.relay(publisher, message("e", Qos::AtMostOnce, 0)), 0, "nothing is promised");
        let subscriber = world.greet(&Hello::lasting(version, "s"));
        assert_eq!(
            world.said(subscriber),
            [
                welcome(version, true),
                "PUBLISH 1:1 dup a 21.5",
                "PUBREL 2",
                "PUBLISH 2:3 dup c 21.5",
                "PUBLISH 1:4 d 21.5"
            ]
        );
        world.pass(Duration::from_secs(20));
        assert_eq!(world.said(subscriber), [""; 0], "sent again on reconnect only");
    }
}

#[test]
fn what_waits_for_one_client_is_bounded() {
    let mut world = World::limited(|limits| limits.outgoing_messages = 10);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    world.gone(subscriber);
    for number in 1..=15 {
        world.relay(publisher, message("t", Qos::AtLeastOnce, number));
    }
    assert_eq!(world.mqtt.stats().dropped, 5);
    let subscriber = world.greet(&Hello::lasting(Version::V5, "s"));
    assert_eq!(world.said(subscriber).len(), 11);

    let mut world = World::limited(|limits| limits.outgoing_bytes = 4_000);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::lasting(Version::V5, "s"), false);
    world.subscribed(subscriber, "t", Qos::AtLeastOnce);
    world.gone(subscriber);
    let payload = [0; 1_000];
    for number in 1..=15 {
        world.relay(publisher, Publish { payload: &payload, ..message("t", Qos::AtLeastOnce, number) });
    }
    let subscriber = world.greet(&Hello::lasting(Version::V5, "s"));
    assert_eq!(world.frames(subscriber.conn).len(), 1 + 3);
}

#[test]
fn a_slow_reader_loses_qos_0_and_gets_the_rest_when_it_reads() {
    let mut world = World::limited(|limits| limits.outgoing_bytes = 64 << 10);
    let publisher = world.connect(&Hello::new(Version::V5, "p"), false);
    let subscriber = world.connect(&Hello::new(Version::V5, "s"), false);
    world.subscribed(subscriber, "#", Qos::AtLeastOnce);
    world.clients_read = false;
    let payload = [b'x'; 10_000];
    for _ in 0..20 {
        world.relay(publisher, Publish { payload: &payload, ..message("zero", Qos::AtMostOnce, 0) });
    }
    let taken = world.frames(subscriber.conn).len();
    assert!((4..=6).contains(&taken), "{taken}");
    assert_eq!(world.mqtt.stats().dropped, 20 - taken as u64);
    world.relay(publisher, message("one", Qos::AtLeastOnce, 1));
    world.mqtt.sent(world.now, subscriber.conn, taken * 10_010);
    world.settle();
    assert_eq!(world.said(subscriber), ["PUBLISH 1:1 one 21.5"]);
    assert_eq!(
        world.relay(publisher, message("zero", Qos::AtMostOnce, 0)),
        1,
        "it reads: it gets QoS 0 again"
    );
}
