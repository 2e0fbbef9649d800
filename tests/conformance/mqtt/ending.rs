//! PINGREQ, DISCONNECT and every other end of a connection: said in the version's words, then closed, and nothing after
//! it (MQTT 5.0, 3.12, 3.14, 4.13).

use crate::broker::{
    ALL_VERSIONS, BOTH, Broker, Client, Hello, encode, has_reason_string, message, properties,
};
use tidegate_engine::event::{Anonymous, Input};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::{bytes, whole};
use tidegate_wire::mqtt::{self, Packet, Property, Publish, Qos, ReasonCode, Version};

#[test]
fn a_ping_is_answered() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.bytes(client.conn, &bytes("C0 00 C0 00"));
        assert_eq!(broker.frames(client), [bytes("D0 00"), bytes("D0 00")]);
    }
}

/// Every way in which the gateway itself ends a connection that was accepted.
fn endings() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let mut end = |name, broker: &mut Broker, act: &mut dyn FnMut(&mut Broker, Client)| {
        let client = broker.client(Version::V5, "a");
        act(broker, client);
        assert!(broker.is_closed(client), "{name}");
        let frames = broker.frames(client);
        all.push((name, frames.last().cloned().unwrap_or_default()));
    };
    for (name, first, body) in [
        ("malformed", 0x30, "00"),
        ("protocol error", 0x82, "0001 00"),
        ("server's packet", 0x90, "0001 00 00"),
        ("filter", 0x82, "0001 00 0002'a+' 00"),
        ("name", 0x30, "0001'#' 00"),
        ("alias", 0x30, "0001'a' 03 23 FFFF"),
        ("alias zero", 0x30, "0001'a' 03 23 0000"),
        ("auth", 0xF0, "19 04 15 0001'm'"),
        ("second connect", 0x10, "0004'MQTT'05 02 0000 00 0001'd'"),
        ("second connect, another version", 0x10, "0004'MQTT'07 02 0000 00 0001'd'"),
        ("second connect without a name", 0x10, "0004'MQTT'04 00 0000 0000"),
        ("flags", 0xC1, ""),
        ("disconnect of a server", 0xE0, "8B"),
    ] {
        end(name, &mut Broker::new(), &mut |broker, client| {
            broker.bytes(client.conn, &whole(first, body));
        });
    }
    end("too large", &mut Broker::new(), &mut |broker, client| {
        broker.bytes(client.conn, &bytes("30 FF FF FF 7F"));
    });
    end("keep-alive", &mut Broker::new(), &mut |broker, _| broker.pass(Duration::from_secs(90)));
    end("taken over", &mut Broker::new(), &mut |broker, _| {
        broker.client(Version::V5, "a");
    });
    end("stop", &mut Broker::new(), &mut |broker, _| broker.tell(Input::Stop));
    end("not allowed any more", &mut Broker::new(), &mut |broker, _| {
        broker.setup.anonymous = Anonymous::Never;
        let setup = Box::new(broker.setup.clone());
        broker.tell(Input::Reload(setup));
    });
    end("receive maximum", &mut Broker::new(), &mut |broker, client| {
        broker.disk_works = false;
        for id in 1..=40 {
            broker.publish(client, message("t", Qos::AtLeastOnce, id));
        }
    });
    all
}

#[test]
fn every_end_by_the_gateway_is_said_with_a_code_of_disconnect_and_why() {
    for (name, frame) in endings() {
        // Decoding would fail for a code that DISCONNECT does not have.
        let Ok(Packet::Disconnect(disconnect)) = mqtt::decode(Version::V5, &frame) else {
            panic!("{name}: {frame:02x?}");
        };
        let packet = Packet::Disconnect(disconnect);
        assert!(disconnect.reason.is_failure(), "{name}");
        assert_eq!(packet.check_sender(mqtt::Sender::Server), Ok(()), "{name}: {packet:?}");
        assert!(has_reason_string(Version::V5, &frame), "{name}");
        let list = properties(Version::V5, &frame);
        assert!(!list.iter().any(|property| matches!(property, Property::SessionExpiry(_))), "{name}");
    }
}

#[test]
fn before_connack_nothing_is_disconnected_in_words() {
    for first in ["30 00", "10 02 0000", "E0 00"] {
        let mut broker = Broker::new();
        let client = broker.raw(Version::V5, &bytes(first));
        assert!(!broker.said(client).iter().any(|words| words.starts_with("DISCONNECT")));
        assert!(broker.is_closed(client));
    }
    // No CONNECT at all.
    let mut broker = Broker::new();
    let client = broker.raw(Version::V5, &[]);
    broker.pass(broker.setup.limits.connect_timeout);
    broker.ended(client, &[]);
    // Refused: CONNACK is the last word.
    let client = broker.greet(&Hello::new(Version::V5, "a/b"));
    broker.pass(Duration::from_secs(10));
    broker.ended(client, &["CONNACK 0x85"]);
}

#[test]
fn the_reason_string_of_disconnect_gives_way_to_the_clients_maximum_packet_size() {
    for (most, told) in [(200, true), (45, false)] {
        let mut broker = Broker::new();
        let client =
            broker.connect(&Hello::new(Version::V5, "a").with(Property::MaximumPacketSize(most)), false);
        // "a topic alias is larger than Topic Alias Maximum" and the code.
        broker.bytes(client.conn, &whole(0x30, "0001'a' 03 23 FFFF"));
        let frames = broker.frames(client);
        assert!(frames[0].len() <= most as usize);
        assert_eq!(has_reason_string(Version::V5, &frames[0]), told);
        assert_eq!(frames[0][2], 0x94);
    }
}

#[test]
fn nothing_is_taken_or_sent_after_disconnect() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.subscribed(client, "t", Qos::AtMostOnce);
        let publisher = broker.client(version, "p");
        let mut stream = bytes("E0 00");
        stream.extend(encode(version, &Packet::Publish(message("x", Qos::AtLeastOnce, 1))));
        broker.bytes(client.conn, &stream);
        broker.publish(publisher, message("t", Qos::AtMostOnce, 0));
        broker.ended(client, &[]);
        assert_eq!(broker.topics(), ["t"]);
        // The same when the gateway has said it: what still comes is not looked at.
        let client = broker.client(version, "a");
        let mut stream = bytes("C1 00");
        stream.extend(encode(version, &Packet::Publish(message("x", Qos::AtLeastOnce, 1))));
        broker.bytes(client.conn, &stream);
        broker.bytes(client.conn, &encode(version, &Packet::PingReq));
        broker.ended_for(client, 0x81);
        assert_eq!(broker.topics(), ["t"]);
    }
}

#[test]
fn a_disconnect_of_a_client_is_not_answered_but_closed() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.disconnect(client, ReasonCode::SUCCESS, &[]);
        broker.ended(client, &[]);
    }
}

#[test]
fn disconnect_may_change_the_session_expiry_but_not_from_zero() {
    let mut broker = Broker::new();
    let hello = Hello::lasting(Version::V5, "a");
    let client = broker.connect(&hello, false);
    broker.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(10)]);
    broker.pass(Duration::from_secs(9));
    let client = broker.connect(&hello, true);
    broker.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(0)]);
    let client = broker.connect(&hello, false);
    broker.gone(client);
    let client = broker.client(Version::V5, "b");
    broker.disconnect(client, ReasonCode::SUCCESS, &[Property::SessionExpiry(10)]);
    broker.ended_for(client, 0x82);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_and_has_no_effect() {
    for version in BOTH {
        for (first, body) in [
            (0x00, ""),
            (0x20, "00 00"),
            (0x90, "0001 00"),
            (0xB0, "0001"),
            (0xD0, ""),
            (0x32, "0001't' 0000 'x'"),
            (0x82, "0001"),
            (0xC0, "00"),
        ] {
            let mut broker = Broker::new();
            let witness = broker.client(version, "w");
            broker.subscribed(witness, "#", Qos::AtMostOnce);
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &whole(first, body));
            assert!(broker.is_closed(client), "{first:02x} {body}");
            assert_eq!(broker.said(client).len(), usize::from(version.is_v5()));
            assert_eq!(broker.said(witness), [""; 0]);
            assert!(!broker.is_closed(witness), "nobody else is touched");
        }
    }
}

#[test]
fn what_the_gateway_cannot_take_now_is_not_lost_in_silence() {
    // A passing fault is not answered with a refusal, which would forbid the client to send the message again:
    // the acknowledgement waits, and when the connection ends without one the client knows that it must send again.
    for version in BOTH {
        let mut broker = Broker::new();
        let hello = Hello { keep_alive: 10, ..Hello::lasting(version, "a") };
        let client = broker.connect(&hello, false);
        broker.disk_works = false;
        broker.publish(client, message("t", Qos::AtLeastOnce, 1));
        broker.pass(Duration::from_secs(15));
        broker.ended_for(client, 0x8D);
        broker.restart();
        broker.disk_works = true;
        let client = broker.greet(&hello);
        broker.frames(client);
        broker.publish(client, Publish { dup: true, ..message("t", Qos::AtLeastOnce, 1) });
        assert_eq!(broker.said(client), ["PUBACK 1"]);
        assert_eq!(broker.topics(), ["t"]);
    }
}

#[test]
fn properties_stand_only_where_they_belong_and_once() {
    for (first, body, reason) in [
        (0x30, "0001't' 05 11 00000001", 0x81),
        (0x30, "0001't' 02 7F 00", 0x81),
        (0x30, "0001't' 04 01 01 01 01", 0x82),
        (0x30, "0001't' 02 01 02", 0x82),
        (0x82, "0001 02 0B 00 0001'a' 00", 0x82),
        (0x82, "0001 04 0B 01 0B 02 0001'a' 00", 0x82),
        (0xE0, "00 02 24 00", 0x81),
    ] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(first, body));
        broker.ended_for(client, reason);
    }
}
