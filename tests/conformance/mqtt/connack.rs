//! CONNACK: first, once, truthful, and no larger than the client takes (MQTT 5.0, 3.2).

use crate::broker::{
    ALL_VERSIONS, BOTH, Broker, Hello, encode, has_reason_string, message, properties, setup,
};
use std::net::SocketAddr;
use tidegate_engine::event::{Anonymous, Setup};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::bytes;
use tidegate_wire::mqtt::{Packet, Properties, Property, Publish, Qos, Subscription, Version};

#[test]
fn connack_comes_before_everything_else_and_once() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.subscribed(client, "t", Qos::AtLeastOnce);
        broker.gone(client);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        // Everything in one piece, and messages wait.
        let mut stream = Hello::lasting(version, "a").bytes();
        stream.extend(encode(version, &Packet::PingReq));
        stream.extend(encode(version, &Packet::Publish(message("x", Qos::AtLeastOnce, 9))));
        let client = broker.raw(version, &stream);
        broker.pass(Duration::from_secs(10));
        let said = broker.said(client);
        assert_eq!(said[0], "CONNACK present");
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(!said[1..].iter().any(|words| words.starts_with("CONNACK")));
    }
}

#[test]
fn the_flags_of_connack_are_session_present_alone() {
    for version in BOTH {
        let mut broker = Broker::new();
        for (clean, flags) in [(false, 0), (false, 1), (false, 1), (true, 0)] {
            let client = broker.greet(&Hello { clean, ..Hello::lasting(version, "a") });
            let frames = broker.frames(client);
            assert_eq!((frames[0][2], frames[0][3]), (flags, 0), "{version:?}: flags and code");
            broker.gone(client);
        }
    }
}

#[test]
fn a_refusal_says_no_session_and_closes() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.gone(client);
        broker.setup.anonymous = Anonymous::Never;
        let setup = Box::new(broker.setup.clone());
        broker.tell(tidegate_engine::event::Input::Reload(setup));
        let client = broker.greet(&Hello::lasting(version, "a"));
        broker.pass(broker.setup.limits.refusal_delay);
        let frames = broker.frames(client);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][2], 0, "no session present");
        assert_eq!(frames[0][3], if version.is_v5() { 0x87 } else { 5 });
        assert!(broker.is_closed(client));
    }
}

/// One refusal for every reason that there is at CONNECT.
fn refusals(version: Version) -> Vec<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    let mut refuse = |setup: Setup, address: &str, before: &[Hello<'_>], hello: &[u8]| {
        let mut broker = Broker::with(setup);
        for hello in before {
            let client = broker.greet(hello);
            if hello.id == "left" {
                broker.gone(client);
            }
        }
        let conn = broker.open_from(address);
        broker.bytes(conn, hello);
        broker.pass(broker.setup.limits.refusal_delay);
        let client = crate::broker::Client { conn, version };
        let frames = broker.frames(client);
        assert!(broker.is_closed(client));
        all.push((frames.first().cloned().unwrap_or_default(), frames.len() > 1));
    };
    let fine = Hello::new(version, "a").bytes();
    let local = "127.0.0.1:1";
    refuse(setup(), "192.0.2.1:1", &[], &fine);
    refuse(setup(), local, &[], &Hello::new(version, "a/b").bytes());
    let mut full = setup();
    full.limits.connections = 1;
    refuse(full.clone(), local, &[Hello::new(version, "b")], &fine);
    full.limits = setup().limits;
    full.limits.sessions = 1;
    refuse(full, local, &[Hello::lasting(version, "left")], &fine);
    let secret = crate::broker::will("$SYS/x", &[]);
    refuse(setup(), local, &[], &Hello { will: Some(secret), ..Hello::new(version, "a") }.bytes());
    if version.is_v5() {
        refuse(setup(), local, &[], &Hello::new(version, "a").with(Property::AuthMethod("SCRAM")).bytes());
        refuse(setup(), local, &[], &bytes("10 0F 0004'MQTT'05 03 0000 00 0002'ab'"));
        refuse(setup(), local, &[], &bytes("10 0F 0004'MQTT'09 02 0000 00 0002'ab'"));
    }
    all
}

#[test]
fn every_refusal_has_a_code_of_the_table_and_a_reason_string() {
    for version in BOTH {
        for (frame, more) in refusals(version) {
            // Decoding it would fail for a code that CONNACK does not have.
            let words = tidegate_tests::mqtt::words(version, &frame);
            assert!(words.starts_with("CONNACK 0x") && !more, "{words}");
            if version.is_v5() {
                assert!(has_reason_string(version, &frame), "{words} says why");
            } else {
                assert_eq!(frame.len(), 4);
            }
        }
    }
}

#[test]
fn where_3_1_1_has_no_code_the_connection_is_closed_without_connack() {
    for bad in ["10 0C 0004'MQTT'04 03 0000 0000", "10 0F 0004'MQTT'04 06 0000 0001'd' 0002'x"] {
        let mut broker = Broker::new();
        let client = broker.raw(Version::V3_1_1, &bytes(bad));
        broker.pass(Duration::from_secs(10));
        broker.ended(client, &[]);
    }
}

#[test]
fn connack_tells_every_limit_that_holds() {
    let mut broker = Broker::new();
    let client = broker.greet(&Hello { keep_alive: 0xFFFF, ..Hello::new(Version::V5, "") });
    let frames = broker.frames(client);
    let told = properties(Version::V5, &frames[0]);
    let limits = broker.setup.limits.clone();
    assert!(told.contains(&Property::ReceiveMaximum(limits.receive_maximum)));
    assert!(told.contains(&Property::MaximumPacketSize(u32::try_from(limits.packet_bytes).unwrap())));
    assert!(told.contains(&Property::TopicAliasMaximum(limits.topic_alias_maximum)));
    let keep_alive = u16::try_from(limits.keep_alive_max.as_secs()).unwrap();
    assert!(told.contains(&Property::ServerKeepAlive(keep_alive)));
    assert!(told.iter().any(|property| matches!(property, Property::AssignedClientId(_))));
    let client = broker.greet(&Hello::new(Version::V5, "b").with(Property::SessionExpiry(u32::MAX)));
    let frames = broker.frames(client);
    let longest = u32::try_from(limits.session_expiry_max.as_secs()).unwrap();
    assert!(properties(Version::V5, &frames[0]).contains(&Property::SessionExpiry(longest)));
}

#[test]
fn the_server_keep_alive_is_what_counts_when_it_is_told() {
    let mut broker = Broker::limited(|limits| limits.keep_alive_max = Duration::from_secs(20));
    for wished in [0, 21, 0xFFFF] {
        let client = broker.greet(&Hello { keep_alive: wished, ..Hello::new(Version::V5, "a") });
        let frames = broker.frames(client);
        assert!(properties(Version::V5, &frames[0]).contains(&Property::ServerKeepAlive(20)));
        broker.pass(Duration::from_millis(29_999));
        assert!(!broker.is_closed(client));
        broker.pass(Duration::from_millis(1));
        broker.ended_for(client, 0x8D);
    }
}

#[test]
fn every_quality_of_service_is_supported_and_connack_tells_no_maximum() {
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let frames = broker.frames(client);
    let told = properties(Version::V5, &frames[0]);
    assert!(!told.iter().any(|property| matches!(property, Property::MaximumQos(_))));
    for (id, qos) in [(1, Qos::AtMostOnce), (2, Qos::AtLeastOnce), (3, Qos::ExactlyOnce)] {
        broker.subscribe(client, id, &[Subscription::new("t", qos)]);
        assert_eq!(broker.said(client), [format!("SUBACK {id} [{}]", qos as u8)]);
    }
    broker.publish(client, message("x", Qos::ExactlyOnce, 9));
    assert_eq!(broker.said(client), ["PUBREC 9"]);
}

#[test]
fn the_assigned_client_id_is_used_by_no_other_session() {
    let mut broker = Broker::new();
    // The names that the gateway would make up next are taken already.
    for number in 1..=3 {
        let name = format!("auto-7-{number:x}");
        broker.connect(&Hello::lasting(Version::V5, &name), false);
    }
    let sessions = broker.stats().sessions;
    let client = broker.greet(&Hello::lasting(Version::V5, ""));
    assert_eq!(broker.said(client), ["CONNACK"]);
    assert_eq!(broker.stats().sessions, sessions + 1);
}

#[test]
fn a_packet_larger_than_the_gateways_maximum_ends_the_connection() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::limited(|limits| limits.packet_bytes = 1_000);
        let client = broker.client(version, "a");
        // 1,000 bytes in all are taken; of 1,001 not even the body is awaited.
        let payload = vec![0; 1_000 - 3 - 3 - usize::from(version.is_v5())];
        broker.publish(client, Publish { payload: &payload, ..message("t", Qos::AtMostOnce, 0) });
        assert_eq!(broker.topics(), ["t"]);
        broker.bytes(client.conn, &bytes("30 E6 07"));
        broker.ended_for(client, 0x95);
    }
}

#[test]
fn a_topic_alias_beyond_the_gateways_maximum_ends_the_connection() {
    for maximum in [0, 5] {
        let mut broker = Broker::limited(|limits| limits.topic_alias_maximum = maximum);
        let client = broker.client(Version::V5, "a");
        for alias in 1..=maximum {
            let list = [Property::TopicAlias(alias)];
            let properties = Properties::new(&list);
            broker.publish(client, Publish { properties, ..message("t", Qos::AtMostOnce, 0) });
        }
        assert_eq!(broker.topics().len(), usize::from(maximum));
        let list = [Property::TopicAlias(maximum + 1)];
        broker.publish(
            client,
            Publish { properties: Properties::new(&list), ..message("t", Qos::AtMostOnce, 0) },
        );
        broker.ended_for(client, 0x94);
        assert_eq!(broker.topics().len(), usize::from(maximum));
    }
}

#[test]
fn the_reason_string_of_a_refusal_gives_way_to_the_clients_maximum_packet_size() {
    for (most, told) in [(10_000, true), (20, false), (5, false)] {
        let mut broker = Broker::new();
        let client = broker.greet(&Hello::new(Version::V5, "a/b").with(Property::MaximumPacketSize(most)));
        let frames = broker.frames(client);
        assert!(frames[0].len() <= most as usize);
        assert_eq!(has_reason_string(Version::V5, &frames[0]), told);
        assert_eq!(frames[0][3], 0x85);
        assert!(broker.is_closed(client));
    }
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a/b").with(Property::MaximumPacketSize(4)));
    broker.ended(client, &[]);
}

#[test]
fn a_client_that_takes_no_connack_is_not_let_in() {
    // What CONNACK must tell does not fit: without it the client would break rules that it cannot know.
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::lasting(Version::V5, "a").with(Property::MaximumPacketSize(10)));
    broker.ended(client, &["CONNACK 0x95"]);
    assert_eq!(broker.stats().sessions, 0);
    let client = broker.greet(&Hello::lasting(Version::V5, "a").with(Property::MaximumPacketSize(100)));
    assert_eq!(broker.said(client), ["CONNACK"]);
}

#[test]
fn response_information_is_returned_to_nobody_who_did_not_ask() {
    let mut broker = Broker::new();
    for asked in [None, Some(false)] {
        let mut hello = Hello::new(Version::V5, "a");
        hello.properties.extend(asked.map(Property::RequestResponseInfo));
        let client = broker.greet(&hello);
        let frames = broker.frames(client);
        let told = properties(Version::V5, &frames[0]);
        assert!(!told.iter().any(|property| matches!(property, Property::ResponseInfo(_))));
    }
}

#[test]
fn an_address_is_all_that_an_anonymous_peer_is_judged_by() {
    let address: SocketAddr = "192.0.2.1:1".parse().unwrap();
    for (anonymous, let_in) in [(Anonymous::Loopback, false), (Anonymous::Everywhere, true)] {
        let mut broker = Broker::with(Setup { anonymous, ..setup() });
        let conn = broker.open_from(&address.to_string());
        broker.bytes(conn, &Hello::new(Version::V5, "a").bytes());
        let client = crate::broker::Client { conn, version: Version::V5 };
        broker.pass(broker.setup.limits.refusal_delay);
        let expected = if let_in { "CONNACK" } else { "CONNACK 0x87" };
        assert_eq!(broker.said(client), [expected]);
    }
}
