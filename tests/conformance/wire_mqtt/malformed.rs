//! Packets that must be refused, each with its error and the reason code that MQTT 5 has for it.

use super::bytes;
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::Version::{V3_1, V3_1_1, V5};
use tidegate_wire::mqtt::{
    Error, Packet, ReasonCode, Sender, Version, decode, frame, is_topic_filter, is_topic_name, split_shared,
};

#[track_caller]
fn refused(versions: &[Version], first: u8, body: &str, error: Error) {
    for &version in versions {
        let packet = whole(first, body);
        assert_eq!(decode(version, &packet), Err(error), "{version:?} {packet:02x?}");
    }
}

/// A packet of MQTT 5 with these properties where `@` stands.
#[track_caller]
fn properties_refused(first: u8, body: &str, properties: &str, error: Error) {
    let list = bytes(properties);
    refused(&[V5], first, &body.replace('@', &format!("{:02X} {properties}", list.len())), error);
}

const OLD: &[Version] = &[V3_1, V3_1_1];
const ALL: &[Version] = &[V3_1, V3_1_1, V5];
const NEW: &[Version] = &[V5];

#[test]
fn wrong_headers_are_known_before_the_body() {
    for first in 0x00..=0x0F {
        assert_eq!(frame(&[first]), Err(Error::PacketType));
    }
    for kind in [1_u8, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let right = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
        for flags in (0..16).filter(|&flags| flags != right) {
            let first = kind << 4 | flags;
            // MQTT 3.1 has DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE; the version is not yet known here.
            if right == 2 && flags == 10 {
                assert_eq!(frame(&[first]), Ok(None));
                assert_eq!(decode(V5, &[first, 0]), Err(Error::Flags));
                assert_eq!(decode(V3_1_1, &[first, 0]), Err(Error::Flags));
            } else {
                assert_eq!(frame(&[first]), Err(Error::Flags), "{first:02x}");
            }
        }
    }
    assert_eq!(frame(&[0x36]), Err(Error::Qos));
    assert_eq!(frame(&[0x3E]), Err(Error::Qos));
    assert_eq!(frame(&[0x38]), Err(Error::Flags), "DUP with QoS 0");
    for length in ["80 00", "80 80 00", "FF 80 80 00", "80 80 80 80", "FF FF FF FF 7F"] {
        assert_eq!(frame(&bytes(&format!("30 {length}"))), Err(Error::VariableInteger), "{length}");
    }
}

#[test]
fn mqtt_3_1_may_repeat_with_dup() {
    assert!(matches!(decode(V3_1, &bytes("6A 02 0001")), Ok(Packet::PubRel(_))));
    assert!(matches!(decode(V3_1, &bytes("8A 06 0001 0001'a'00")), Ok(Packet::Subscribe(_))));
}

#[test]
fn connect_of_another_protocol_or_version() {
    for body in
        ["0004'HTTP'04 02 0000 0001'd'", "0000 04 02 0000 0001'd'", "0006'MQTTXX'05 02", "0004'mqtt'04 02"]
    {
        refused(ALL, 0x10, body, Error::ProtocolName);
    }
    for (body, level) in [
        ("0004'MQTT'03 02 0000 0001'd'", 3),
        ("0004'MQTT'06 02 0000 0001'd'", 6),
        ("0004'MQTT'84 02 0000 0001'd'", 0x84),
        ("0004'MQTT'00 02 0000 0001'd'", 0),
        ("0006'MQIsdp'04 02 0000 0001'd'", 4),
        ("0006'MQIsdp'05 02 0000 00 0001'd'", 5),
    ] {
        refused(ALL, 0x10, body, Error::ProtocolLevel(level));
    }
    assert_eq!(Error::ProtocolName.reason(), ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    assert_eq!(Error::ProtocolLevel(6).reason().0, 0x84);
}

#[test]
fn connect_with_contradictions() {
    // Reserved bit; will QoS 3; will QoS, will RETAIN without a will; a password without a name before MQTT 5.
    for flags in ["03", "1E", "0A", "22", "12"] {
        refused(ALL, 0x10, &format!("0004'MQTT'04 {flags} 0000 0001'd'"), Error::ConnectFlags);
        refused(ALL, 0x10, &format!("0004'MQTT'05 {flags} 0000 00 0001'd'"), Error::ConnectFlags);
    }
    refused(ALL, 0x10, "0004'MQTT'04 42 0000 0001'd' 0001'p'", Error::ConnectFlags);
    refused(ALL, 0x10, "0004'MQTT'04 00 0000 0000", Error::ClientId);
    refused(ALL, 0x10, "0006'MQIsdp'03 02 0000 0000", Error::ClientId);
    assert_eq!(Error::ClientId.reason().connect_return_code(), Some(2));
    refused(ALL, 0x10, "0004'MQTT'04 02 0000 0001'd' 00", Error::Trailing);
    refused(ALL, 0x10, "0004'MQTT'04 82 0000 0001'd'", Error::Truncated);
    refused(ALL, 0x10, "0004'MQTT'04 82 0000 0001'd' 0001 00", Error::Utf8);
    refused(ALL, 0x10, "0004'MQTT'04 06 0000 0001'd' 0001'#' 0000", Error::TopicName);
    refused(ALL, 0x10, "0004'MQTT'04 06 0000 0001'd' 0000 0000", Error::TopicName);
    refused(ALL, 0x10, "0004'MQTT'04 02 0000", Error::Truncated);
    refused(ALL, 0x10, "", Error::Truncated);
}

#[test]
fn text_that_is_none() {
    // A surrogate, an overlong form, a cut sequence, beyond U+10FFFF, U+0000.
    for text in [
        "0003 EDA080",
        "0002 C0AF",
        "0002 E282",
        "0004 F4908080",
        "0001 00",
        "0003 61 00 62",
        "0009 'aaaaaaaa' 00",
    ] {
        refused(OLD, 0x30, text, Error::Utf8);
        refused(NEW, 0x30, &format!("{text} 00"), Error::Utf8);
        refused(ALL, 0x10, &format!("0004'MQTT'04 02 0000 {text}"), Error::Utf8);
        refused(OLD, 0x82, &format!("0001 {text} 00"), Error::Utf8);
        refused(OLD, 0xA2, &format!("0001 {text}"), Error::Utf8);
    }
}

#[test]
fn publish_that_must_not_be() {
    for topic in
        ["0001'#'", "0001'+'", "0003'a/+'", "0003'a/#'", "000C'aaaa/bbbb+cc'", "0010'aaaaaaaabbbbbb#c'"]
    {
        refused(OLD, 0x30, topic, Error::TopicName);
        refused(NEW, 0x30, &format!("{topic} 00"), Error::TopicName);
    }
    refused(OLD, 0x30, "0000", Error::TopicName);
    refused(NEW, 0x30, "0000 00", Error::TopicMissing);
    refused(OLD, 0x32, "0001'a' 0000", Error::PacketIdZero);
    refused(NEW, 0x32, "0001'a' 0000 00", Error::PacketIdZero);
    refused(ALL, 0x32, "0001'a' 00", Error::Truncated);
    refused(ALL, 0x30, "0002'a'", Error::Truncated);
    refused(ALL, 0x30, "00", Error::Truncated);
    refused(NEW, 0x30, "0001'a'", Error::Truncated);
    properties_refused(0x30, "0001'a' @", "23 0000", Error::TopicAlias);
    assert_eq!(Error::TopicName.reason(), ReasonCode::TOPIC_NAME_INVALID);
    assert_eq!(Error::TopicAlias.reason(), ReasonCode::TOPIC_ALIAS_INVALID);
    assert_eq!(Error::TopicMissing.reason(), ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn acknowledgements_that_must_not_be() {
    for first in [0x40, 0x50, 0x62, 0x70] {
        refused(ALL, first, "0000", Error::PacketIdZero);
        refused(ALL, first, "00", Error::Truncated);
        refused(OLD, first, "0001 00", Error::Trailing);
        refused(NEW, first, "0001 01", Error::ReasonCode(0x01));
        refused(NEW, first, "0001 00 00 00", Error::Trailing);
        refused(NEW, first, "0001 00 01", Error::Truncated);
        properties_refused(first, "0001 00 @", "01 00", Error::PropertyMisplaced(0x01));
    }
    refused(NEW, 0x40, "0001 92", Error::ReasonCode(0x92));
    refused(NEW, 0x62, "0001 10", Error::ReasonCode(0x10));
    refused(OLD, 0xB0, "0001 00", Error::Trailing);
    refused(OLD, 0x90, "0001", Error::NoEntries);
    refused(OLD, 0x90, "0001 03", Error::ReasonCode(3));
    refused(NEW, 0x90, "0001 00 11", Error::ReasonCode(0x11));
    refused(NEW, 0xB0, "0001 00", Error::NoEntries);
    refused(NEW, 0xB0, "0001 00 01", Error::ReasonCode(1));
    refused(OLD, 0x20, "00 06", Error::ReasonCode(6));
    refused(NEW, 0x20, "00 02 00", Error::ReasonCode(2));
    refused(OLD, 0x20, "02 00", Error::ReservedBits);
    refused(&[V3_1_1], 0x20, "01 05", Error::SessionPresent);
    refused(NEW, 0x20, "01 87 00", Error::SessionPresent);
    refused(OLD, 0x20, "00 00 00", Error::Trailing);
}

#[test]
fn subscriptions_that_must_not_be() {
    refused(OLD, 0x82, "0001", Error::NoEntries);
    refused(NEW, 0x82, "0001 00", Error::NoEntries);
    refused(OLD, 0xA2, "0001", Error::NoEntries);
    refused(NEW, 0xA2, "0001 00", Error::NoEntries);
    refused(ALL, 0x82, "0000 00 0001'a'00", Error::PacketIdZero);
    refused(OLD, 0x82, "0001 0001'a'03", Error::SubscriptionOptions);
    refused(OLD, 0x82, "0001 0001'a'04", Error::ReservedBits);
    refused(OLD, 0x82, "0001 0001'a'80", Error::ReservedBits);
    refused(NEW, 0x82, "0001 00 0001'a'03", Error::SubscriptionOptions);
    refused(NEW, 0x82, "0001 00 0001'a'30", Error::SubscriptionOptions);
    refused(NEW, 0x82, "0001 00 0001'a'40", Error::ReservedBits);
    refused(NEW, 0x82, "0001 00 0001'a'80", Error::ReservedBits);
    refused(NEW, 0x82, "0001 00 000A'$share/g/a'04", Error::NoLocalOnShared);
    assert_eq!(Error::NoLocalOnShared.reason(), ReasonCode::PROTOCOL_ERROR);
    refused(OLD, 0x82, "0001 0001'a'", Error::Truncated);
    // The second entry is looked at as well.
    refused(OLD, 0x82, "0001 0001'a'00 0002'a#'00", Error::TopicFilter);
    for filter in ["0000", "0002'a+'", "0002'#/'", "0003'a#b'", "0004'+a/b'", "0002'##'", "0003'/+#'"] {
        refused(OLD, 0x82, &format!("0001 {filter} 00"), Error::TopicFilter);
        refused(NEW, 0x82, &format!("0001 00 {filter} 00"), Error::TopicFilter);
        refused(OLD, 0xA2, &format!("0001 {filter}"), Error::TopicFilter);
    }
    for filter in [
        "0007'$share/'",
        "0008'$share/g'",
        "0009'$share/g/'",
        "0009'$share//a'",
        "000A'$share/+/a'",
        "000B'$share/g/a#'",
    ] {
        refused(NEW, 0x82, &format!("0001 00 {filter} 00"), Error::TopicFilter);
        refused(NEW, 0xA2, &format!("0001 00 {filter}"), Error::TopicFilter);
    }
    assert_eq!(Error::TopicFilter.reason(), ReasonCode::TOPIC_FILTER_INVALID);
}

#[test]
fn packets_without_a_body_have_none() {
    refused(ALL, 0xC0, "00", Error::Trailing);
    refused(ALL, 0xD0, "00", Error::Trailing);
    refused(OLD, 0xE0, "00", Error::Trailing);
    refused(NEW, 0xE0, "01", Error::ReasonCode(1));
    refused(NEW, 0xE0, "00 00 00", Error::Trailing);
    refused(OLD, 0xF0, "", Error::PacketType);
    refused(NEW, 0xF0, "18", Error::AuthMethodMissing);
    refused(NEW, 0xF0, "18 00", Error::AuthMethodMissing);
    refused(NEW, 0xF0, "80 04 15 0001'm'", Error::ReasonCode(0x80));
    properties_refused(0xF0, "18 @", "16 0001 00", Error::AuthMethodMissing);
}

/// A place of properties: a first byte and a body with `@`, and the numbers that may stand there.
const PLACES: [(u8, &str, &[u8]); 13] = [
    (0x10, "0004'MQTT'05 02 0000 @ 0001'd'", &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
    (0x10, "0004'MQTT'05 06 0000 00 0001'd' @ 0001'w' 0000", &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]),
    (
        0x20,
        "00 00 @",
        &[
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
            0x2A,
        ],
    ),
    (0x30, "0001'a' @", &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]),
    (0x40, "0001 00 @", &[0x1F, 0x26]),
    (0x50, "0001 00 @", &[0x1F, 0x26]),
    (0x62, "0001 00 @", &[0x1F, 0x26]),
    (0x70, "0001 00 @", &[0x1F, 0x26]),
    (0x82, "0001 @ 0001'a'00", &[0x0B, 0x26]),
    (0x90, "0001 @ 00", &[0x1F, 0x26]),
    (0xA2, "0001 @ 0001'a'", &[0x26]),
    (0xB0, "0001 @ 00", &[0x1F, 0x26]),
    (0xE0, "00 @", &[0x11, 0x1C, 0x1F, 0x26]),
];

/// Every property, legal.
const PROPERTIES: [&str; 27] = [
    "01 01",
    "02 00000000",
    "03 0000",
    "08 0001'r'",
    "09 0000",
    "0B 01",
    "11 00000000",
    "12 0000",
    "13 0000",
    "15 0001'm'",
    "16 0000",
    "17 00",
    "18 00000000",
    "19 01",
    "1A 0000",
    "1C 0000",
    "1F 0000",
    "21 0001",
    "22 0000",
    "23 0001",
    "24 00",
    "25 00",
    "26 0000 0000",
    "27 00000001",
    "28 01",
    "29 01",
    "2A 01",
];

#[test]
fn properties_stand_only_where_they_belong_and_mostly_once() {
    for (first, body, allowed) in PLACES {
        for property in PROPERTIES {
            let number = bytes(property)[0];
            // Data needs its method.
            let prefix = if number == 0x16 && allowed.contains(&0x15) { "15 0001'm' " } else { "" };
            let once = format!("{prefix}{property}");
            if !allowed.contains(&number) {
                properties_refused(first, body, &once, Error::PropertyMisplaced(number));
                continue;
            }
            let fill =
                |list: &str| whole(first, &body.replace('@', &format!("{:02X} {list}", bytes(list).len())));
            let packet = fill(&once);
            assert!(decode(V5, &packet).is_ok(), "{packet:02x?}");
            let twice = format!("{once} {property}");
            if number == 0x26 || (number == 0x0B && first == 0x30) {
                assert!(decode(V5, &fill(&twice)).is_ok());
            } else {
                properties_refused(first, body, &twice, Error::PropertyRepeated(number));
            }
        }
        for number in (0..=0xFF_u8).filter(|n| !PROPERTIES.iter().any(|p| bytes(p)[0] == *n)) {
            properties_refused(
                first,
                body,
                &format!("{number:02X} 00000000"),
                Error::PropertyUnknown(number),
            );
        }
    }
}

#[test]
fn properties_of_wrong_value_or_size() {
    let connect = "0004'MQTT'05 02 0000 @ 0001'd'";
    for (number, property) in [(0x17, "17 02"), (0x19, "19 FF"), (0x21, "21 0000"), (0x27, "27 00000000")] {
        properties_refused(0x10, connect, property, Error::PropertyValue(number));
    }
    for (number, property) in
        [(0x24, "24 02"), (0x25, "25 02"), (0x28, "28 02"), (0x29, "29 02"), (0x2A, "2A 03")]
    {
        properties_refused(0x20, "00 00 @", property, Error::PropertyValue(number));
    }
    properties_refused(0x30, "0001'a' @", "01 02", Error::PropertyValue(0x01));
    properties_refused(0x30, "0001'a' @", "0B 00", Error::PropertyValue(0x0B));
    properties_refused(0x30, "0001'a' @", "0B 8000", Error::VariableInteger);
    properties_refused(0x30, "0001'a' @", "0B 80808080 01", Error::VariableInteger);
    properties_refused(0x30, "0001'a' @", "08 0003'a/#'", Error::TopicName);
    properties_refused(0x30, "0001'a' @", "08 0000", Error::TopicName);
    properties_refused(0x30, "0001'a' @", "03 0001 00", Error::Utf8);
    properties_refused(0x30, "0001'a' @", "26 0001'k'", Error::Truncated);
    properties_refused(0x30, "0001'a' @", "02 000000", Error::Truncated);
    properties_refused(0x10, connect, "16 0001 00", Error::AuthMethodMissing);
    // The length of the properties: longer than the packet, not the shortest form, more than four bytes.
    refused(NEW, 0x30, "0001'a' 05 01 00", Error::Truncated);
    refused(NEW, 0x30, "0001'a' 8000", Error::VariableInteger);
    refused(NEW, 0x30, "0001'a' 80808080 00", Error::VariableInteger);
    assert_eq!(Error::PropertyMisplaced(1).reason(), ReasonCode::MALFORMED_PACKET);
    assert_eq!(Error::PropertyRepeated(1).reason(), ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn each_side_sends_only_what_is_its_own() {
    let wrong = |sender, first, body: &str| {
        let packet = whole(first, body);
        let other = if sender == Sender::Client { Sender::Server } else { Sender::Client };
        let packet = decode(V5, &packet).unwrap();
        assert_eq!(packet.check_sender(sender), Err(Error::WrongSender), "{packet:?}");
        assert_eq!(packet.check_sender(other), Ok(()), "{packet:?}");
    };
    for (first, body) in [
        (0x20, "00 00 00"),
        (0x30, "0001'a' 02 0B01"),
        (0x90, "0001 00 00"),
        (0xB0, "0001 00 00"),
        (0xD0, ""),
        (0xE0, "8B"),
        (0xE0, "00 04 1C 0001'x'"),
        (0xF0, ""),
    ] {
        wrong(Sender::Client, first, body);
    }
    for (first, body) in [
        (0x10, "0004'MQTT'05 02 0000 00 0001'd'"),
        (0x82, "0001 00 0001'a'00"),
        (0xA2, "0001 00 0001'a'"),
        (0xC0, ""),
        (0xE0, "04"),
        (0xE0, "00 05 11 00000000"),
        (0xF0, "19 04 15 0001'm'"),
    ] {
        wrong(Sender::Server, first, body);
    }
}

#[test]
fn names_and_filters_are_told_apart() {
    for name in ["a", "/", "a/b", "$SYS/x", " ", "é"] {
        assert!(is_topic_name(name) && is_topic_filter(name), "{name}");
    }
    for filter in ["#", "+", "+/+", "a/#", "/#", "+/a/#", "$share/g/a"] {
        assert!(is_topic_filter(filter), "{filter}");
    }
    for filter in ["#", "+", "a/+/b"] {
        assert!(!is_topic_name(filter), "{filter}");
    }
    for neither in ["", "\0", "a+", "#/a", "aaaaaaaa\0"] {
        assert!(!is_topic_name(neither) && !is_topic_filter(neither), "{neither}");
    }
    assert!(is_topic_name(&"x".repeat(65_535)) && !is_topic_name(&"x".repeat(65_536)));
    assert_eq!(split_shared("$share/g/a/b"), Ok(Some(("g", "a/b"))));
    assert_eq!(split_shared("$shared/g/a"), Ok(None));
    assert_eq!(split_shared("$share/g"), Err(Error::TopicFilter));
}

#[test]
fn no_byte_of_the_hot_path_hides_a_wildcard_or_nul() {
    // The check looks at eight bytes at a time: every offset, next to bytes that could carry over.
    for length in 1..=25 {
        for position in 0..length {
            for (bad, error) in [(b'+', Error::TopicName), (b'#', Error::TopicName), (0, Error::Utf8)] {
                for filler in [b'a', 1, b'*', b',', b'"', b'$', 0x7F] {
                    let mut topic = vec![filler; length];
                    topic[position] = bad;
                    let mut packet =
                        vec![0x30, u8::try_from(length + 2).unwrap(), 0, u8::try_from(length).unwrap()];
                    packet.extend(&topic);
                    assert_eq!(decode(V3_1_1, &packet), Err(error), "{topic:02x?}");
                    packet[4 + position] = filler;
                    assert!(decode(V3_1_1, &packet).is_ok());
                }
            }
        }
    }
}
