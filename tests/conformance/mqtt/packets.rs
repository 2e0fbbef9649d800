//! How packets are written: text, lengths, flags, packet ids (MQTT 5.0, chapters 1 and 2). What cannot be read ends
//! the connection, with its reason where the version has one.

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Hello, message};
use std::collections::BTreeSet;
use tidegate_tests::mqtt::{bytes, whole};
use tidegate_wire::mqtt::{self, Packet, Properties, Property, Publish, Qos, Version};

/// The same packet in both versions: `@` stands for the properties that only MQTT 5 has.
fn packet(version: Version, first: u8, body: &str) -> Vec<u8> {
    whole(first, &body.replace('@', if version.is_v5() { "00" } else { "" }))
}

#[test]
fn text_that_is_not_utf8_ends_the_connection() {
    // A surrogate, a sequence that is cut, one longer than needed, and U+0000.
    for text in ["0003 EDA080", "0002 E282", "0002 C0AF", "0003 61 00 62"] {
        for version in BOTH {
            for (first, body) in [
                (0x30, format!("{text} @")),
                (0x82, format!("0001 @ {text} 00")),
                (0xA2, format!("0001 @ {text}")),
            ] {
                let mut broker = Broker::new();
                let client = broker.client(version, "a");
                broker.bytes(client.conn, &packet(version, first, &body));
                broker.ended_for(client, 0x81);
                assert!(broker.upstream.is_empty());
            }
            let mut broker = Broker::new();
            let level = version as u8;
            let connect = packet(version, 0x10, &format!("0004'MQTT'{level:02X} 02 0000 @ {text}"));
            let client = broker.raw(version, &connect);
            let told: &[&str] = if version.is_v5() { &["CONNACK 0x81"] } else { &[] };
            broker.ended(client, told);
            assert_eq!(broker.stats().sessions, 0);
        }
    }
}

#[test]
fn a_byte_order_mark_is_a_character_like_others() {
    for version in BOTH {
        let mut broker = Broker::new();
        let (with, without) = (broker.client(version, "with"), broker.client(version, "without"));
        broker.subscribed(with, "\u{FEFF}a", Qos::AtMostOnce);
        broker.subscribed(without, "a", Qos::AtMostOnce);
        broker.publish(without, message("\u{FEFF}a", Qos::AtMostOnce, 0));
        assert_eq!(broker.said(with), ["PUBLISH - \u{FEFF}a 21.5"]);
        assert_eq!(broker.said(without), [""; 0]);
    }
}

#[test]
fn lengths_longer_than_needed_end_the_connection() {
    for version in BOTH {
        for bad in ["C0 80 00", "30 85 00 0001'a' 00 00", "30 80 80 80 80"] {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &bytes(bad));
            broker.ended_for(client, 0x81);
        }
    }
    for body in ["0001'a' 8000", "0001'a' 03 0B 8100"] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(0x30, body));
        broker.ended_for(client, 0x81);
    }
}

#[test]
fn both_texts_of_a_user_property_are_checked() {
    for pair in ["0002 C0AF 0001'v'", "0001'k' 0001 00"] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        let length = bytes(pair).len() + 1;
        broker.bytes(client.conn, &whole(0x30, &format!("0001'a' {length:02X} 26 {pair}")));
        broker.ended_for(client, 0x81);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn reserved_flags_of_the_first_byte_end_the_connection() {
    for version in BOTH {
        for kind in [4_u8, 5, 6, 7, 8, 10, 12, 14, 15] {
            let right = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
            for flags in (0..16).filter(|flags| *flags != right) {
                let mut broker = Broker::new();
                let client = broker.client(version, "a");
                broker.bytes(client.conn, &packet(version, kind << 4 | flags, "0001"));
                broker.ended_for(client, 0x81);
            }
        }
        for flags in 1..16 {
            let mut broker = Broker::new();
            let mut connect = Hello::new(version, "a").bytes();
            connect[0] |= flags;
            let client = broker.raw(version, &connect);
            broker.ended(client, &[]);
        }
    }
}

#[test]
fn a_message_at_most_once_has_no_packet_id() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.subscribed(client, "t", Qos::ExactlyOnce);
        // What stands behind the topic is payload at once, even if it looks like a packet id.
        let sent = packet(version, 0x30, "0001't' @ 0007'x'");
        broker.bytes(client.conn, &sent);
        assert_eq!(broker.frames(client), [sent]);
    }
}

#[test]
fn packet_id_zero_ends_the_connection() {
    for version in BOTH {
        for (first, body) in [
            (0x32, "0001'a' 0000 @"),
            (0x34, "0001'a' 0000 @"),
            (0x40, "0000"),
            (0x62, "0000"),
            (0x82, "0000 @ 0001'a'00"),
            (0xA2, "0000 @ 0001'a'"),
        ] {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &packet(version, first, body));
            broker.ended_for(client, 0x82);
            assert!(broker.upstream.is_empty());
        }
    }
}

#[test]
fn packet_ids_given_out_are_not_zero_and_not_in_use() {
    for version in BOTH {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut broker = Broker::new();
            let (publisher, client) = (broker.client(version, "p"), broker.client(version, "s"));
            broker.subscribed(client, "t", qos);
            let mut in_use = BTreeSet::new();
            // Round the whole circle, and past the ids of messages that are never acknowledged.
            for number in 0..66_000_u32 {
                broker.publish(publisher, message("t", qos, 1));
                if qos == Qos::ExactlyOnce {
                    broker.pubrel(publisher, 1);
                }
                let frames = broker.frames(client);
                let Packet::Publish(publish) = mqtt::decode(version, frames.last().unwrap()).unwrap() else {
                    panic!("a message");
                };
                assert_eq!((publish.qos, publish.dup), (qos, false));
                let id = publish.packet_id.unwrap().get();
                assert!(in_use.insert(id), "{id} is in use");
                if number % 10_000 != 7 {
                    in_use.remove(&id);
                    if qos == Qos::ExactlyOnce {
                        broker.pubrec(client, id);
                        broker.pubcomp(client, id);
                    } else {
                        broker.puback(client, id);
                    }
                }
            }
            assert_eq!(in_use.len(), 7);
        }
    }
}

#[test]
fn acknowledgements_carry_the_packet_id_of_what_they_answer() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.publish(client, message("t", Qos::AtLeastOnce, 0x1234));
        broker.publish(client, message("t", Qos::ExactlyOnce, 0xFFFF));
        broker.pubrel(client, 0xFFFF);
        broker.subscribe(client, 300, &[mqtt::Subscription::new("a", Qos::AtMostOnce)]);
        broker.unsubscribe(client, 301, &["a"]);
        let unsuback = if version.is_v5() { "UNSUBACK 301 [0]" } else { "UNSUBACK 301 []" };
        assert_eq!(
            broker.said(client),
            ["PUBACK 4660", "PUBREC 65535", "PUBCOMP 65535", "SUBACK 300 [0]", unsuback]
        );
    }
}

#[test]
fn no_properties_are_a_length_of_zero() {
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    broker.subscribe(client, 1, &[mqtt::Subscription::new("t", Qos::AtMostOnce)]);
    broker.publish(client, message("t", Qos::AtMostOnce, 0));
    broker.unsubscribe(client, 2, &["t"]);
    assert_eq!(
        broker.frames(client),
        [bytes("90 04 0001 00 00"), bytes("30 08 0001't' 00 '21.5'"), bytes("B0 04 0002 00 00")]
    );
    let (mut broker, list) = (Broker::new(), [Property::TopicAlias(1)]);
    let client = broker.client(Version::V5, "a");
    broker.subscribe(client, 1, &[mqtt::Subscription::new("t", Qos::AtMostOnce)]);
    broker.frames(client);
    let aliased = Publish { properties: Properties::new(&list), ..message("t", Qos::AtMostOnce, 0) };
    broker.publish(client, aliased);
    assert_eq!(
        broker.frames(client),
        [bytes("30 08 0001't' 00 '21.5'")],
        "an alias belongs to one connection"
    );
}
