//! PUBLISH from clients: acknowledged when safe and in order, recognised when it comes again, refused in the right words.

use crate::world::{ALL_VERSIONS, Client, Hello, World, encode, message};
use tidegate_engine::event::{Op, RecordKind};
use tidegate_engine::message::Qos as EngineQos;
use tidegate_engine::mutant::Mutant;
use tidegate_wire::mqtt::{Ack, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, Version};

const TOPIC: &str = "sensors/pump-7/t";

fn one(qos: Qos, id: u16) -> Publish<'static> {
    message(TOPIC, qos, id)
}

fn again(qos: Qos, id: u16) -> Publish<'static> {
    Publish { dup: true, ..one(qos, id) }
}

fn release(world: &mut World, client: Client, id: u16) {
    world.send(client, &Packet::PubRel(Ack::success(PacketId::new(id).unwrap())));
}

fn connected(version: Version) -> (World, Client) {
    let mut world = World::new();
    let client = world.connect(&Hello::new(version, "pump-7"), false);
    (world, client)
}

#[test]
fn puback_waits_for_safety() {
    for version in ALL_VERSIONS {
        let (mut world, client) = connected(version);
        world.publish(client, one(Qos::AtLeastOnce, 1));
        assert_eq!(world.said(client), [""; 0]);
        let (incoming, ..) = &world.published[0];
        assert_eq!(incoming.device.as_str(), "pump-7");
        assert_eq!(incoming.topic.as_str(), TOPIC);
        assert_eq!(&incoming.payload[..], b"21.5");
        assert_eq!((incoming.qos, incoming.duplicate), (EngineQos::AtLeastOnce, false));
        assert!(incoming.record.is_none() && incoming.properties.is_none());
        world.safe(0);
        assert_eq!(world.said(client), ["PUBACK 1"]);
    }
}

#[test]
fn at_most_once_is_passed_on_and_nobody_waits() {
    let (mut world, client) = connected(Version::V5);
    world.publish(client, one(Qos::AtMostOnce, 0));
    assert!(world.published[0].1.is_none());
    world.all_safe();
    assert_eq!(world.said(client), [""; 0]);
}

#[test]
fn acknowledgements_leave_in_the_order_of_reception() {
    let (mut world, client) = connected(Version::V5);
    world.publish(client, one(Qos::AtLeastOnce, 1));
    world.publish(client, one(Qos::ExactlyOnce, 2));
    world.publish(client, one(Qos::AtLeastOnce, 3));
    world.safe(2);
    world.safe(1);
    assert_eq!(world.said(client), [""; 0]);
    world.safe(0);
    assert_eq!(world.said(client), ["PUBACK 1", "PUBREC 2", "PUBACK 3"]);
}

#[test]
fn the_mutant_that_reorders_acknowledgements_does() {
    let (mut world, client) = connected(Version::V5);
    world.plant(Mutant::AcksReordered);
    world.publish(client, one(Qos::AtLeastOnce, 1));
    world.publish(client, one(Qos::AtLeastOnce, 2));
    world.safe(1);
    world.safe(0);
    assert_eq!(world.said(client), ["PUBACK 2", "PUBACK 1"]);
}

#[test]
fn the_acknowledgements_of_one_commit_leave_in_one_write() {
    let (mut world, client) = connected(Version::V5);
    let mut bytes = Vec::new();
    for id in 1..=20 {
        bytes.extend(encode(Version::V5, &Packet::Publish(one(Qos::AtLeastOnce, id))));
    }
    world.bytes(client.conn, &bytes);
    let before = world.writes[&client.conn];
    world.commit();
    assert_eq!(world.writes[&client.conn], before + 1);
    assert_eq!(world.said(client).len(), 20);
}

#[test]
fn a_payload_does_not_hold_the_chunk_it_came_in() {
    let (mut world, client) = connected(Version::V5);
    let payload = vec![b'x'; 5_000];
    let large =
        encode(Version::V5, &Packet::Publish(Publish { payload: &payload, ..one(Qos::AtLeastOnce, 1) }));
    for cut in [1, 2, 3, 10, 4_000, large.len()] {
        let (a, b) = large.split_at(cut);
        world.bytes(client.conn, a);
        world.bytes(client.conn, b);
        assert_eq!(&world.published[0].0.payload[..], &payload[..]);
        world.all_safe();
        assert_eq!(world.said(client), ["PUBACK 1"]);
    }
}

#[test]
fn a_repetition_marked_by_an_unknown_client_is_passed_on_with_its_mark() {
    let (mut world, client) = connected(Version::V3_1_1);
    world.publish(client, again(Qos::AtLeastOnce, 9));
    assert!(world.published[0].0.duplicate);
}

#[test]
fn another_message_under_the_packet_id_of_one_on_its_way_is_never_taken_for_it() {
    // A client that was started again knows nothing of its first message. Its next one, of the same packet id, got lost on the
    // way here and comes marked as a repetition: acknowledged with the first, it would be lost for good.
    let mut world = World::new();
    let hello = Hello::lasting(Version::V3_1_1, "pump-7");
    let client = world.connect(&hello, false);
    world.publish(client, one(Qos::AtLeastOnce, 1));
    world.gone(client);
    let client = world.connect(&hello, true);
    world.publish(client, Publish { payload: b"22.0", ..again(Qos::AtLeastOnce, 1) });
    assert_eq!(world.published.len(), 2);
    world.safe(0);
    assert_eq!(world.said(client), [""; 0]);
    world.safe(0);
    assert_eq!(world.said(client), ["PUBACK 1"]);
}

#[test]
fn a_repetition_of_what_is_on_its_way_is_not_published_twice() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let client = world.connect(&Hello::lasting(version, "pump-7"), false);
        world.publish(client, one(Qos::AtLeastOnce, 1));
        world.gone(client);
        let client = world.connect(&Hello::lasting(version, "pump-7"), true);
        world.publish(client, again(Qos::AtLeastOnce, 1));
        world.publish(client, one(Qos::AtLeastOnce, 2));
        assert_eq!(world.published.len(), 2);
        world.safe(1);
        assert_eq!(world.said(client), [""; 0]);
        world.safe(0);
        assert_eq!(world.said(client), ["PUBACK 1", "PUBACK 2"]);
        assert_eq!(world.mqtt.stats().repeated, 1);
    }
}

#[test]
fn safety_that_comes_after_the_connection_is_gone_leads_to_a_marked_duplicate() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), false);
    world.publish(client, one(Qos::AtLeastOnce, 1));
    world.gone(client);
    world.all_safe();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), true);
    world.publish(client, again(Qos::AtLeastOnce, 1));
    assert!(world.published[0].0.duplicate);
    world.all_safe();
    assert_eq!(world.said(client), ["PUBACK 1"]);
}

#[test]
fn a_receipt_of_an_ended_session_reaches_nobody() {
    let (mut world, client) = connected(Version::V5);
    world.publish(client, one(Qos::AtLeastOnce, 1));
    world.gone(client);
    let next = world.connect(&Hello::new(Version::V5, "pump-8"), false);
    world.publish(next, one(Qos::AtLeastOnce, 1));
    world.safe(0);
    assert_eq!(world.said(next), [""; 0]);
    world.safe(0);
    assert_eq!(world.said(next), ["PUBACK 1"]);
}

// ------------------------------------------------------------------------------------------------- QoS 2

#[test]
fn exactly_once_goes_its_four_steps() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let client = world.connect(&Hello::lasting(version, "pump-7"), false);
        world.publish(client, one(Qos::ExactlyOnce, 5));
        let Some(Op::Put { key, .. }) = world.published[0].0.record.clone() else {
            panic!("its packet id is committed with it");
        };
        assert_eq!((key.kind, &key.key[..]), (RecordKind::InboundQos2, &b"pump-7\0\0\x05"[..]));
        assert_eq!(world.said(client), [""; 0]);
        world.all_safe();
        assert_eq!(world.said(client), ["PUBREC 5"]);
        assert!(world.store.contains_key(&key));

        release(&mut world, client, 5);
        assert_eq!(world.said(client), [""; 0], "PUBCOMP waits until the record is gone");
        world.durable();
        assert_eq!(world.said(client), ["PUBCOMP 5"]);
        assert!(!world.store.contains_key(&key));

        world.publish(client, one(Qos::ExactlyOnce, 5));
        assert_eq!(world.published.len(), 1, "the id is free: this is a new message");
    }
}

#[test]
fn a_clean_session_remembers_packet_ids_without_records() {
    let (mut world, client) = connected(Version::V5);
    world.publish(client, one(Qos::ExactlyOnce, 5));
    assert!(world.published[0].0.record.is_none());
    world.publish(client, again(Qos::ExactlyOnce, 5));
    assert_eq!(world.published.len(), 1);
    world.all_safe();
    assert_eq!(world.said(client), ["PUBREC 5"]);
    release(&mut world, client, 5);
    assert_eq!(world.said(client), ["PUBCOMP 5"]);
    assert!(world.changes.is_empty());
}

#[test]
fn exactly_once_survives_a_lost_connection() {
    let mut world = World::new();
    let hello = Hello::lasting(Version::V3_1_1, "pump-7");
    let client = world.connect(&hello, false);
    world.publish(client, one(Qos::ExactlyOnce, 5));
    world.gone(client);
    let client = world.connect(&hello, true);
    world.publish(client, again(Qos::ExactlyOnce, 5));
    assert_eq!(world.published.len(), 1);
    world.all_safe();
    assert_eq!(world.said(client), ["PUBREC 5"]);
    release(&mut world, client, 5);
    world.gone(client);
    world.durable();
    let client = world.connect(&hello, true);
    release(&mut world, client, 5);
    assert_eq!(world.said(client), ["PUBCOMP 5"], "released while it was away");
}

#[test]
fn exactly_once_survives_a_crash_between_pubrec_and_pubrel() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let hello = Hello::lasting(version, "pump-7");
        let client = world.connect(&hello, false);
        world.publish(client, one(Qos::ExactlyOnce, 5));
        world.all_safe();
        world.restart();
        let client = world.connect(&hello, true);
        world.publish(client, again(Qos::ExactlyOnce, 5));
        assert_eq!(world.published.len(), 0, "it is stored already");
        assert_eq!(world.said(client), ["PUBREC 5"]);
        release(&mut world, client, 5);
        world.all_safe();
        world.restart();
        let client = world.connect(&hello, true);
        world.publish(client, one(Qos::ExactlyOnce, 5));
        assert_eq!(world.published.len(), 1, "a new message");
    }
}

#[test]
fn the_qos_2_mutants_do_what_they_say() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), false);
    world.plant(Mutant::Qos2Forgotten);
    world.publish(client, one(Qos::ExactlyOnce, 5));
    world.all_safe();
    world.publish(client, again(Qos::ExactlyOnce, 5));
    assert_eq!(world.published.len(), 1, "published twice");

    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), false);
    world.plant(Mutant::Qos2NeverReleased);
    world.publish(client, one(Qos::ExactlyOnce, 5));
    world.all_safe();
    release(&mut world, client, 5);
    world.all_safe();
    world.publish(client, one(Qos::ExactlyOnce, 5));
    assert!(world.published.is_empty(), "swallowed");
    assert_eq!(world.said(client), ["PUBREC 5", "PUBCOMP 5", "PUBREC 5"]);
}

#[test]
fn pubrel_of_an_unknown_id_is_answered_truthfully() {
    let (mut world, client) = connected(Version::V5);
    release(&mut world, client, 9);
    assert_eq!(world.said(client), ["PUBCOMP 9 0x92"]);
    let (mut world, client) = connected(Version::V3_1_1);
    release(&mut world, client, 9);
    assert_eq!(world.said(client), ["PUBCOMP 9"]);
}

#[test]
fn a_session_that_starts_clean_forgets_its_packet_ids() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), false);
    world.publish(client, one(Qos::ExactlyOnce, 5));
    world.gone(client);
    let client = world.greet(&Hello { clean: true, ..Hello::lasting(Version::V5, "pump-7") });
    // The removal is asked for after the message, so it is carried out after it. Before that a crash would bring the
    // old session back, so that nothing is said of a new one.
    world.safe(0);
    assert_eq!(world.said(client), [""; 0]);
    world.durable();
    world.welcomed(client, false);
    assert!(world.store.is_empty());
    world.publish(client, again(Qos::ExactlyOnce, 5));
    assert_eq!(world.published.len(), 1);
    assert!(world.published[0].0.duplicate);
}

// ------------------------------------------------------------------------------------------- refusals

#[test]
fn more_than_receive_maximum_ends_the_connection() {
    for (qos, repeats) in [(Qos::AtLeastOnce, false), (Qos::ExactlyOnce, false), (Qos::ExactlyOnce, true)] {
        let (mut world, client) = connected(Version::V5);
        for id in 1..=32 {
            world.publish(client, one(qos, id));
            if repeats {
                world.publish(client, again(qos, id));
            }
        }
        assert_eq!(world.said(client), [""; 0]);
        world.publish(client, one(qos, 33));
        assert_eq!(world.said(client), ["DISCONNECT 0x93"]);
        assert_eq!(world.published.len(), 32);
    }
}

#[test]
fn an_acknowledgement_makes_room_for_the_next_message() {
    let (mut world, client) = connected(Version::V5);
    for id in 1..=200 {
        world.publish(client, one(Qos::AtLeastOnce, id));
        if id >= 32 {
            world.safe(0);
        }
    }
    for id in 201..=400 {
        world.publish(client, one(Qos::ExactlyOnce, id));
        world.all_safe();
        release(&mut world, client, id);
    }
    assert!(!world.is_closed(client));
}

#[test]
fn topics_that_are_not_permitted_are_refused_for_good() {
    let deep = "a/".repeat(16);
    let long = "a".repeat(513);
    for topic in ["$SYS/x", "$share/g/t", deep.as_str(), long.as_str(), "a\u{7}b"] {
        let (mut world, client) = connected(Version::V5);
        world.publish(client, one(Qos::AtLeastOnce, 1));
        world.publish(client, message(topic, Qos::AtLeastOnce, 2));
        world.publish(client, message(topic, Qos::ExactlyOnce, 3));
        world.publish(client, message(topic, Qos::AtMostOnce, 0));
        assert_eq!(world.published.len(), 1);
        world.all_safe();
        assert_eq!(
            world.said(client),
            ["PUBACK 1", "PUBACK 2 0x90", "PUBREC 3 0x90"],
            "in its place in the order"
        );
        assert!(!world.is_closed(client));

        let (mut world, client) = connected(Version::V3_1_1);
        world.publish(client, message(topic, Qos::AtLeastOnce, 2));
        assert_eq!(world.said(client), [""; 0]);
        assert!(world.is_closed(client), "3.1.1 has no other way to say it");
    }
}

#[test]
fn what_goes_with_a_message_is_passed_on_unchanged() {
    let (mut world, client) = connected(Version::V5);
    let list = [
        Property::PayloadFormat(true),
        Property::MessageExpiry(60),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("answers/7"),
        Property::CorrelationData(b"\0\x01"),
        Property::User("a", "1"),
        Property::User("b", "2"),
        Property::User("a", "1"),
    ];
    world.publish(client, Publish { properties: Properties::new(&list), ..one(Qos::AtLeastOnce, 1) });
    let properties = world.published[0].0.properties.clone().unwrap();
    assert!(properties.utf8_payload);
    assert_eq!(properties.expiry_seconds, Some(60));
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("answers/7"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\0\x01"[..]));
    let user: Vec<_> = properties.user.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(user, [("a", "1"), ("b", "2"), ("a", "1")]);
}

#[test]
fn too_many_user_properties_are_refused() {
    let (mut world, client) = connected(Version::V5);
    let list = vec![Property::User("k", "v"); 33];
    world.publish(client, Publish { properties: Properties::new(&list), ..one(Qos::AtLeastOnce, 1) });
    assert_eq!(world.said(client), ["PUBACK 1 0x97"]);
}

// ---------------------------------------------------------------------------------------- topic aliases

fn aliased(topic: &'static str, list: &'static [Property<'static>], id: u16) -> Publish<'static> {
    Publish { properties: Properties::new(list), ..message(topic, Qos::AtLeastOnce, id) }
}

const ALIAS_1: &[Property<'static>] = &[Property::TopicAlias(1)];

#[test]
fn a_topic_alias_stands_for_its_topic_until_the_connection_ends() {
    let mut world = World::new();
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), false);
    world.publish(client, aliased("a/b", ALIAS_1, 1));
    world.publish(client, aliased("", ALIAS_1, 2));
    world.publish(client, aliased("c", ALIAS_1, 3));
    world.publish(client, aliased("", ALIAS_1, 4));
    let topics: Vec<_> = world.published.iter().map(|(incoming, ..)| incoming.topic.as_str()).collect();
    assert_eq!(topics, ["a/b", "a/b", "c", "c"]);
    assert!(world.published[0].0.properties.is_none(), "an alias is the connection's business");
    world.gone(client);
    let client = world.connect(&Hello::lasting(Version::V5, "pump-7"), true);
    world.publish(client, aliased("", ALIAS_1, 5));
    assert_eq!(world.said(client), ["DISCONNECT 0x82"]);
}

#[test]
fn a_topic_alias_beyond_the_maximum_ends_the_connection() {
    let (mut world, client) = connected(Version::V5);
    world.publish(client, aliased("a/b", &[Property::TopicAlias(16)], 1));
    assert_eq!(world.said(client), [""; 0]);
    world.publish(client, aliased("a/b", &[Property::TopicAlias(17)], 2));
    assert_eq!(world.said(client), ["DISCONNECT 0x94"]);
}

// ------------------------------------------------------------------------------------------- bad bytes

#[test]
fn what_cannot_be_read_ends_the_connection_with_its_reason() {
    let cases: [(&[u8], &str); 8] = [
        (b"\x36\x05\x00\x01a\x00\x01", "DISCONNECT 0x81"),
        (b"\x30\x05\x00\x03a\x00b", "DISCONNECT 0x81"),
        (b"\x30\x04\x00\x01+\x00", "DISCONNECT 0x90"),
        (b"\x32\x06\x00\x01a\x00\x00\x00", "DISCONNECT 0x82"),
        (b"\x20\x03\x00\x00\x00", "DISCONNECT 0x82"),
        (b"\x90\x04\x00\x01\x00\x00", "DISCONNECT 0x82"),
        (b"\x30\xFF\xFF\xFF\x7F", "DISCONNECT 0x95"),
        (b"\x30\x07\x00\x01a\x02\x0B\x01x", "DISCONNECT 0x82"),
    ];
    for (bytes, expected) in cases {
        let (mut world, client) = connected(Version::V5);
        world.bytes(client.conn, bytes);
        assert_eq!(world.said(client), [expected], "{bytes:x?}");
        assert!(world.is_closed(client));
        world.bytes(client.conn, b"\xC0\x00");
        assert_eq!(world.said(client), [""; 0], "nothing more is taken from it");
        assert_eq!(world.mqtt.stats().refused, 1);
    }
}

#[test]
fn a_reason_string_gives_way_to_the_clients_maximum_packet_size() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V5, "a").with(Property::MaximumPacketSize(20)), false);
    world.bytes(client.conn, b"\x20\x03\x00\x00\x00");
    let frames = world.frames(client.conn);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].len() <= 20);
    assert_eq!(frames[0][2], ReasonCode::PROTOCOL_ERROR.0);
}
