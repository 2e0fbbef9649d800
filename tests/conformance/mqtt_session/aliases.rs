//! Topic aliases that the gateway sets, for clients that take them.

use crate::world::{Client, Hello, World, message};
use tidegate_wire::mqtt::{self, Packet, Property, Publish, Qos, Version};

const TOPIC: &str = "sensors/pump-7/temperature";

/// The topic and alias of each message that a client has been sent.
fn heard(world: &mut World, client: Client) -> Vec<(String, Option<u16>)> {
    let frames = world.frames(client.conn);
    let packets = frames.iter().map(|frame| mqtt::decode(Version::V5, frame).unwrap());
    let named = |packet| match packet {
        Packet::Publish(Publish { topic, properties, .. }) => {
            Some((topic.to_owned(), properties.topic_alias()))
        }
        _ => None,
    };
    packets.filter_map(named).collect()
}

#[test]
fn a_client_that_takes_aliases_gets_each_topic_in_full_once_a_connection() {
    let mut world = World::new();
    let from = world.connect(&Hello::new(Version::V5, "publisher"), false);
    let hello = || Hello::lasting(Version::V5, "s").with(Property::TopicAliasMaximum(1));
    let client = world.connect(&hello(), false);
    world.subscribed(client, "#", Qos::AtLeastOnce);
    for (topic, qos, id) in
        [(TOPIC, Qos::AtMostOnce, 0), (TOPIC, Qos::AtLeastOnce, 1), ("another/topic", Qos::AtMostOnce, 0)]
    {
        world.relay(from, message(topic, qos, id));
    }
    let full = |alias| (TOPIC.to_owned(), alias);
    assert_eq!(
        heard(&mut world, client),
        [full(Some(1)), (String::new(), Some(1)), ("another/topic".to_owned(), None)]
    );
    world.gone(client);
    let client = world.greet(&hello());
    assert_eq!(heard(&mut world, client), [full(Some(1))], "sent again, in full again");
}

#[test]
fn who_does_not_ask_gets_none_and_a_tight_packet_goes_without() {
    let mut world = World::new();
    let from = world.connect(&Hello::new(Version::V5, "publisher"), false);
    let plain = world.connect(&Hello::new(Version::V5, "plain"), false);
    // Fixed header, topic, no properties, payload.
    let exact = 2 + 2 + TOPIC.len() as u32 + 1 + 4;
    let hello = Hello::new(Version::V5, "tight");
    let hello = hello.with(Property::TopicAliasMaximum(5)).with(Property::MaximumPacketSize(exact));
    let tight = world.connect(&hello, false);
    world.subscribed(plain, "#", Qos::AtMostOnce);
    world.subscribed(tight, "#", Qos::AtMostOnce);
    for _ in 0..2 {
        world.relay(from, message(TOPIC, Qos::AtMostOnce, 0));
    }
    assert_eq!(heard(&mut world, plain), [(TOPIC.to_owned(), None), (TOPIC.to_owned(), None)]);
    assert_eq!(heard(&mut world, tight), [(TOPIC.to_owned(), None), (TOPIC.to_owned(), None)]);
}
