//! Every packet type as bytes written by hand from the specifications: MQTT 3.1.1 and 5.0, chapters 2 and 3, their
//! non-normative examples included. Each is read and written.

use super::{bytes, encoded};
use tidegate_wire::mqtt::Version::{V3_1, V3_1_1, V5};
use tidegate_wire::mqtt::{
    Ack, Auth, ConnAck, Connect, Disconnect, EncodeError, Filters, Kind, Packet, PacketId, Properties,
    Property, Publish, Qos, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, Subscriptions,
    UnsubAck, Unsubscribe, Version, Will, connect_version, decode, encode, encode_publish_header,
    encoded_len, frame, short_ack,
};

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// Both directions.
#[track_caller]
fn golden(version: Version, hex: &str, packet: &Packet<'_>) {
    let bytes = bytes(hex);
    assert_eq!(decode(version, &bytes).as_ref(), Ok(packet), "decoding");
    assert_eq!(encoded(version, packet).as_ref(), Ok(&bytes), "encoding");
    assert_eq!(encoded_len(version, packet), Ok(bytes.len()));
    let frame = frame(&bytes).unwrap().unwrap();
    assert_eq!((frame.total_bytes(), frame.kind), (bytes.len(), packet.kind()));
}

const CONNECT: Connect<'_> = Connect {
    version: V3_1_1,
    clean_start: true,
    keep_alive: 10,
    properties: Properties::EMPTY,
    client_id: "d",
    will: None,
    username: None,
    password: None,
};

#[test]
fn connect_with_everything_in_3_1_1() {
    // Flags and keep-alive as in the example of 3.1.2.
    let will = Will {
        topic: "w",
        payload: b"bye",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::EMPTY,
    };
    let packet = Connect { will: Some(will), username: Some("u"), password: Some(b"\x00\xff"), ..CONNECT };
    golden(
        V3_1_1,
        "10 1C 0004'MQTT'04 CE 000A 0001'd' 0001'w' 0003'bye' 0001'u' 0002 00FF",
        &Packet::Connect(packet),
    );
}

#[test]
fn connect_in_3_1() {
    golden(
        V3_1,
        "10 0F 0006'MQIsdp'03 02 000A 0001'd'",
        &Packet::Connect(Connect { version: V3_1, ..CONNECT }),
    );
}

#[test]
fn connect_says_its_own_version() {
    golden(V5, "10 0D 0004'MQTT'04 02 000A 0001'd'", &Packet::Connect(CONNECT));
    assert_eq!(connect_version(&bytes("10 0D 0004'MQTT'05 03 000A")), Some(V5));
    assert_eq!(connect_version(&bytes("10 0D 0004'MQTT'06 02 000A")), None);
    assert_eq!(connect_version(&bytes("C0 00")), None);
}

#[test]
fn connect_with_everything_in_5() {
    let properties = [
        Property::SessionExpiry(10),
        Property::ReceiveMaximum(20),
        Property::MaximumPacketSize(0x1_0000),
        Property::TopicAliasMaximum(0),
        Property::RequestResponseInfo(true),
        Property::RequestProblemInfo(false),
        Property::User("k", "v"),
        Property::User("k", "v"),
        Property::AuthMethod("m"),
        Property::AuthData(&[1, 2]),
    ];
    let will_properties = [
        Property::WillDelay(5),
        Property::PayloadFormat(true),
        Property::MessageExpiry(0),
        Property::ContentType("t"),
        Property::ResponseTopic("r"),
        Property::CorrelationData(&[0]),
        Property::User("", ""),
    ];
    let will = Will {
        topic: "w",
        payload: &[],
        qos: Qos::ExactlyOnce,
        retain: true,
        properties: Properties::new(&will_properties),
    };
    let packet = Connect {
        version: V5,
        clean_start: false,
        keep_alive: 0,
        properties: Properties::new(&properties),
        client_id: "",
        will: Some(will),
        username: None,
        password: Some(b"p"),
    };
    golden(
        V5,
        "10 5E 0004'MQTT'05 74 0000 \
         2B 11 0000000A 21 0014 27 00010000 22 0000 19 01 17 00 26 0001'k'0001'v' 26 0001'k'0001'v' 15 0001'm' 16 00020102 \
         0000 \
         1D 18 00000005 01 01 02 00000000 03 0001't' 08 0001'r' 09 0001 00 26 0000 0000 \
         0001'w' 0000 0001'p'",
        &Packet::Connect(packet),
    );
}

#[test]
fn connack_in_all_versions() {
    let accepted =
        ConnAck { session_present: true, reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
    golden(V3_1_1, "20 02 01 00", &Packet::ConnAck(accepted));
    golden(V5, "20 03 01 00 00", &Packet::ConnAck(accepted));
    let codes = [
        (1, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        (2, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (3, ReasonCode::SERVER_UNAVAILABLE),
        (4, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (5, ReasonCode::NOT_AUTHORIZED),
    ];
    for (code, reason) in codes {
        let refused = Packet::ConnAck(ConnAck { session_present: false, reason, ..accepted });
        golden(V3_1_1, &format!("20 02 00 {code:02X}"), &refused);
        golden(V5, &format!("20 03 00 {:02X} 00", reason.0), &refused);
    }
}

#[test]
fn connack_with_every_property() {
    let properties = [
        Property::SessionExpiry(u32::MAX),
        Property::ReceiveMaximum(1),
        Property::MaximumQos(Qos::AtLeastOnce),
        Property::RetainAvailable(false),
        Property::MaximumPacketSize(1),
        Property::AssignedClientId("c"),
        Property::TopicAliasMaximum(16),
        Property::ReasonString("ok"),
        Property::User("a", "b"),
        Property::WildcardAvailable(true),
        Property::SubscriptionIdsAvailable(false),
        Property::SharedAvailable(false),
        Property::ServerKeepAlive(60),
        Property::ResponseInfo("i"),
        Property::ServerReference("s"),
        Property::AuthMethod("m"),
        Property::AuthData(&[]),
    ];
    let packet = ConnAck {
        session_present: false,
        reason: ReasonCode::SUCCESS,
        properties: Properties::new(&properties),
    };
    golden(
        V5,
        "20 3F 00 00 3C 11 FFFFFFFF 21 0001 24 01 25 00 27 00000001 12 0001'c' 22 0010 1F 0002'ok' 26 0001'a'0001'b' \
         28 01 29 00 2A 00 13 003C 1A 0001'i' 1C 0001's' 15 0001'm' 16 0000",
        &Packet::ConnAck(packet),
    );
}

#[test]
fn a_3_1_1_servers_refusal_of_version_5_is_understood() {
    let reason = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
    let expected = ConnAck { session_present: false, reason, properties: Properties::EMPTY };
    assert_eq!(decode(V5, &bytes("20 02 00 01")), Ok(Packet::ConnAck(expected)));
}

const PUBLISH: Publish<'_> = Publish {
    dup: false,
    qos: Qos::AtLeastOnce,
    retain: false,
    topic: "a/b",
    packet_id: PacketId::new(10),
    properties: Properties::EMPTY,
    payload: b"hi",
};

#[test]
fn publish_in_all_versions() {
    // The variable header of the examples in 3.3.2.
    golden(V3_1_1, "32 09 0003'a/b' 000A 'hi'", &Packet::Publish(PUBLISH));
    golden(V5, "32 0A 0003'a/b' 000A 00 'hi'", &Packet::Publish(PUBLISH));
    let plain = Publish { qos: Qos::AtMostOnce, packet_id: None, retain: true, payload: &[], ..PUBLISH };
    golden(V3_1, "31 05 0003'a/b'", &Packet::Publish(plain));
    golden(V5, "31 06 0003'a/b' 00", &Packet::Publish(plain));
    let again = Publish { qos: Qos::ExactlyOnce, dup: true, retain: true, ..PUBLISH };
    golden(V3_1_1, "3D 09 0003'a/b' 000A 'hi'", &Packet::Publish(again));
}

#[test]
fn publish_with_every_property() {
    let properties = [
        Property::PayloadFormat(false),
        Property::MessageExpiry(1),
        Property::TopicAlias(3),
        Property::ResponseTopic("r/t"),
        Property::CorrelationData(&[9]),
        Property::User("k", "1"),
        Property::User("k", "2"),
        Property::SubscriptionId(1),
        Property::SubscriptionId(268_435_455),
        Property::ContentType("x"),
    ];
    let packet = Publish { topic: "", properties: Properties::new(&properties), ..PUBLISH };
    golden(
        V5,
        "32 34 0000 000A 2D 01 00 02 00000001 23 0003 08 0003'r/t' 09 0001 09 26 0001'k'0001'1' 26 0001'k'0001'2' 0B 01 \
         0B FFFFFF7F 03 0001'x' 'hi'",
        &Packet::Publish(packet),
    );
    let user: Vec<_> = packet.properties.user().collect();
    assert_eq!(user, [("k", "1"), ("k", "2")]);
    assert_eq!(packet.properties.subscription_ids().collect::<Vec<_>>(), [1, 268_435_455]);
    assert_eq!(packet.properties.subscription_id(), Some(1));
    assert_eq!(packet.properties.topic_alias(), Some(3));
    assert_eq!(packet.properties.receive_maximum(), None);
}

#[test]
fn a_payload_lies_within_the_packet() {
    let bytes = bytes("32 09 0003'a/b' 000A 'hi'");
    let Ok(Packet::Publish(publish)) = decode(V3_1_1, &bytes) else { panic!("a PUBLISH") };
    let shared = bytes::Bytes::from(bytes.clone());
    let Ok(Packet::Publish(view)) = decode(V3_1_1, &shared) else { panic!("a PUBLISH") };
    assert_eq!(shared.slice_ref(view.payload), publish.payload);
}

#[test]
fn a_publish_header_is_the_packet_without_its_payload() {
    let whole = encoded(V5, &Packet::Publish(PUBLISH)).unwrap();
    let mut buffer = vec![0; whole.len() - PUBLISH.payload.len()];
    assert_eq!(encode_publish_header(V5, &PUBLISH, &mut buffer), Ok(buffer.len()));
    assert_eq!([&buffer, PUBLISH.payload].concat(), whole);
}

type Wrap = fn(Ack<'static>) -> Packet<'static>;
const ACKS: [(Kind, u8, Wrap); 4] = [
    (Kind::PubAck, 0x40, Packet::PubAck),
    (Kind::PubRec, 0x50, Packet::PubRec),
    (Kind::PubRel, 0x62, Packet::PubRel),
    (Kind::PubComp, 0x70, Packet::PubComp),
];

#[test]
fn acknowledgements_in_all_versions() {
    for (kind, first, wrap) in ACKS {
        let success = wrap(Ack::success(id(0x1234)));
        for version in [V3_1, V3_1_1, V5] {
            golden(version, &format!("{first:02X} 02 1234"), &success);
        }
        assert_eq!(short_ack(kind, id(0x1234)).as_slice(), bytes(&format!("{first:02X} 02 1234")));
        let release = matches!(kind, Kind::PubRel | Kind::PubComp);
        let reason =
            if release { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND } else { ReasonCode::QUOTA_EXCEEDED };
        let failure = Ack { reason, ..Ack::success(id(1)) };
        golden(V5, &format!("{first:02X} 03 0001 {:02X}", reason.0), &wrap(failure));
        let properties = Box::leak(Box::new([Property::ReasonString("why"), Property::User("a", "")]));
        let wordy = Ack { properties: Properties::new(properties), ..failure };
        golden(
            V5,
            &format!("{first:02X} 10 0001 {:02X} 0C 1F 0003'why' 26 0001'a'0000", reason.0),
            &wrap(wordy),
        );
        // The property length may stand there although it is 0 (3.4.2.2.1).
        let long = bytes(&format!("{first:02X} 04 1234 00 00"));
        assert_eq!(decode(V5, &long), Ok(success));
    }
}

#[test]
fn subscribe_and_unsubscribe_in_all_versions() {
    // The payload of the examples in 3.8.3 and 3.10.3.
    let list = [Subscription::new("a/b", Qos::AtLeastOnce), Subscription::new("c/d", Qos::ExactlyOnce)];
    let subscribe = Subscribe {
        packet_id: id(10),
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&list),
    };
    golden(V3_1_1, "82 0E 000A 0003'a/b'01 0003'c/d'02", &Packet::Subscribe(subscribe));
    golden(V5, "82 0F 000A 00 0003'a/b'01 0003'c/d'02", &Packet::Subscribe(subscribe));

    let filters = ["a/b", "c/d"];
    let unsubscribe =
        Unsubscribe { packet_id: id(10), properties: Properties::EMPTY, filters: Filters::new(&filters) };
    golden(V3_1_1, "A2 0C 000A 0003'a/b' 0003'c/d'", &Packet::Unsubscribe(unsubscribe));
    golden(V5, "A2 0D 000A 00 0003'a/b' 0003'c/d'", &Packet::Unsubscribe(unsubscribe));

    let options = [
        Subscription { no_local: true, retain_handling: RetainHandling::SendIfNew, ..list[0] },
        Subscription {
            filter: "$share/g/+/#",
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..list[1]
        },
    ];
    let properties = [Property::SubscriptionId(128), Property::User("k", "v")];
    let rich = Subscribe {
        packet_id: id(1),
        properties: Properties::new(&properties),
        subscriptions: Subscriptions::new(&options),
    };
    golden(
        V5,
        "82 22 0001 0A 0B 8001 26 0001'k'0001'v' 0003'a/b'15 000C'$share/g/+/#'2A",
        &Packet::Subscribe(rich),
    );
    let properties = [Property::User("k", "v")];
    let rich = Unsubscribe { properties: Properties::new(&properties), ..unsubscribe };
    golden(V5, "A2 14 000A 07 26 0001'k'0001'v' 0003'a/b' 0003'c/d'", &Packet::Unsubscribe(rich));
}

#[test]
fn suback_and_unsuback_in_all_versions() {
    let codes = [0, 2, 0x80];
    let suback = SubAck { packet_id: id(10), properties: Properties::EMPTY, codes: &codes };
    golden(V3_1_1, "90 05 000A 00 02 80", &Packet::SubAck(suback));
    golden(V5, "90 06 000A 00 00 02 80", &Packet::SubAck(suback));
    let refused = Packet::SubAck(SubAck { codes: &[1, 0x87, 0xA2], ..suback });
    assert_eq!(encoded(V3_1_1, &refused).unwrap(), bytes("90 05 000A 01 80 80"), "3.1.1 knows one failure");

    let unsuback = UnsubAck { packet_id: id(10), properties: Properties::EMPTY, codes: &[] };
    golden(V3_1_1, "B0 02 000A", &Packet::UnsubAck(unsuback));
    let properties = [Property::ReasonString("r")];
    let rich = UnsubAck { codes: &[0x00, 0x11, 0x8F], properties: Properties::new(&properties), ..unsuback };
    golden(V5, "B0 0A 000A 04 1F 0001'r' 00 11 8F", &Packet::UnsubAck(rich));
    assert_eq!(encoded(V3_1_1, &Packet::UnsubAck(rich)).unwrap(), bytes("B0 02 000A"));
}

#[test]
fn pings_disconnect_and_auth() {
    for version in [V3_1, V3_1_1, V5] {
        golden(version, "C0 00", &Packet::PingReq);
        golden(version, "D0 00", &Packet::PingResp);
        golden(version, "E0 00", &Packet::Disconnect(Disconnect::default()));
    }
    let will = Disconnect { reason: ReasonCode::DISCONNECT_WITH_WILL, ..Disconnect::default() };
    golden(V5, "E0 01 04", &Packet::Disconnect(will));
    assert_eq!(encoded(V3_1_1, &Packet::Disconnect(will)).unwrap(), bytes("E0 00"));
    let properties = [
        Property::SessionExpiry(0),
        Property::ReasonString("r"),
        Property::User("k", "v"),
        Property::ServerReference("s"),
    ];
    let rich = Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::new(&properties) };
    golden(V5, "E0 16 00 14 11 00000000 1F 0001'r' 26 0001'k'0001'v' 1C 0001's'", &Packet::Disconnect(rich));

    golden(V5, "F0 00", &Packet::Auth(Auth::default()));
    let properties = [Property::AuthMethod("m"), Property::AuthData(&[7]), Property::ReasonString("r")];
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties: Properties::new(&properties) };
    golden(V5, "F0 0E 18 0C 15 0001'm' 16 0001 07 1F 0001'r'", &Packet::Auth(auth));
    assert_eq!(encoded(V3_1_1, &Packet::Auth(auth)), Err(EncodeError::Version));
}

#[test]
fn text_may_hold_every_character_but_nul() {
    // 1.5.4: the letter A and U+2A6D4; and U+FEFF, which is not a byte order mark to be dropped [MQTT-1.5.4-3].
    for (hex, topic) in [("41 F0AA9B94", "A\u{2A6D4}"), ("EFBBBF 61 62", "\u{FEFF}ab")] {
        let packet = Publish { topic, qos: Qos::AtMostOnce, packet_id: None, payload: &[], ..PUBLISH };
        golden(V3_1_1, &format!("30 07 0005 {hex}"), &Packet::Publish(packet));
    }
}

#[test]
fn remaining_lengths_at_their_edges() {
    // MQTT 5.0, table 1-1.
    for (hex, value) in [
        ("00", 0),
        ("7F", 127),
        ("80 01", 128),
        ("FF 7F", 16_383),
        ("80 80 01", 16_384),
        ("FF FF 7F", 2_097_151),
        ("80 80 80 01", 2_097_152),
        ("FF FF FF 7F", 268_435_455),
    ] {
        let header = bytes(&format!("30 {hex}"));
        let known = frame(&header).unwrap().unwrap();
        assert_eq!((known.header_bytes, known.remaining_bytes), (header.len(), value));
        for short in 0..header.len() {
            assert_eq!(frame(&header[..short]), Ok(None));
        }
    }
}

#[test]
fn a_buffer_too_small_is_told_how_much_is_needed() {
    let packet = Packet::Publish(PUBLISH);
    let needed = encoded_len(V5, &packet).unwrap();
    for size in 0..needed {
        assert_eq!(encode(V5, &packet, &mut vec![0; size]), Err(EncodeError::BufferTooSmall { needed }));
    }
    assert_eq!(encode(V5, &packet, &mut vec![0; needed]), Ok(needed));
}

#[test]
fn what_cannot_be_said_is_not_written() {
    let long = "x".repeat(65_536);
    let refused = |version, packet: &Packet<'_>| encoded(version, packet).unwrap_err();
    assert_eq!(refused(V5, &Packet::Publish(Publish { topic: &long, ..PUBLISH })), EncodeError::TooLong);
    assert_eq!(refused(V5, &Packet::Publish(Publish { packet_id: None, ..PUBLISH })), EncodeError::PacketId);
    let zero = Publish { qos: Qos::AtMostOnce, ..PUBLISH };
    assert_eq!(refused(V5, &Packet::Publish(zero)), EncodeError::PacketId);
    let zero = Publish { qos: Qos::AtMostOnce, packet_id: None, dup: true, ..PUBLISH };
    assert_eq!(refused(V5, &Packet::Publish(zero)), EncodeError::PacketId);
    assert_eq!(refused(V3_1_1, &Packet::Publish(Publish { topic: "", ..PUBLISH })), EncodeError::Version);
    let misplaced = [Property::ServerKeepAlive(1)];
    let misplaced = Publish { properties: Properties::new(&misplaced), ..PUBLISH };
    assert_eq!(refused(V5, &Packet::Publish(misplaced)), EncodeError::Property);
    assert_eq!(
        refused(V3_1_1, &Packet::Connect(Connect { password: Some(b""), ..CONNECT })),
        EncodeError::Version
    );
    let nameless = Connect { client_id: "", clean_start: false, ..CONNECT };
    assert_eq!(refused(V3_1_1, &Packet::Connect(nameless)), EncodeError::Version);
    let reason = ReasonCode::MALFORMED_PACKET;
    let connack = ConnAck { session_present: false, reason, properties: Properties::EMPTY };
    assert_eq!(refused(V3_1_1, &Packet::ConnAck(connack)), EncodeError::Version);
    let nothing =
        Subscribe { packet_id: id(1), properties: Properties::EMPTY, subscriptions: Subscriptions::new(&[]) };
    assert_eq!(refused(V5, &Packet::Subscribe(nothing)), EncodeError::NoEntries);
}
