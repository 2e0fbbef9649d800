//! CONNECT: who comes in, with which session, under which name (MQTT 5.0, 3.1). Wills have a file of their own.

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Client, Hello, message, setup, will};
use tidegate_engine::event::{Anonymous, Setup};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::{bytes, whole};
use tidegate_wire::mqtt::{Packet, Property, Qos, ReasonCode, Version};

/// A CONNECT of this level from its flags on; `@` stands for the properties that only MQTT 5 has.
fn connect(version: Version, from_flags: &str) -> Vec<u8> {
    let properties = if version.is_v5() { "00" } else { "" };
    whole(0x10, &format!("0004'MQTT'{:02X} {}", version as u8, from_flags.replace('@', properties)))
}

/// It is not let in; MQTT 5 says so with this code, MQTT 3.1.1 by closing.
#[track_caller]
fn not_let_in(broker: &mut Broker, client: Client, reason: u8) {
    let connack = format!("CONNACK 0x{reason:02X}");
    let words: &[&str] = if client.version.is_v5() { &[&connack] } else { &[] };
    broker.ended(client, words);
    assert_eq!((broker.stats().sessions, broker.stats().peers), (0, 0));
}

#[test]
fn the_first_packet_is_connect_or_nothing() {
    for first in [
        "30 03 0001'a'",
        "40 02 0001",
        "82 06 0001 0001'a'00",
        "C0 00",
        "E0 00",
        "F0 00",
        "20 02 0000",
        "00 00",
    ] {
        let mut broker = Broker::new();
        let client = broker.raw(Version::V5, &bytes(first));
        broker.ended(client, &[]);
        assert!(broker.upstream.is_empty());
        assert_eq!(broker.stats().sessions, 0);
    }
}

#[test]
fn a_second_connect_ends_the_connection() {
    for version in ALL_VERSIONS {
        for second in [Version::V3_1_1, Version::V5] {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &Hello::new(second, "a").bytes());
            broker.ended_for(client, 0x82);
            assert_eq!(broker.stats().peers, 0);
        }
    }
}

#[test]
fn another_protocol_gets_no_answer_and_no_session() {
    for body in ["0004'HTTP'05 02 0000 00 0001'd'", "0004'mqtt'04 02 0000 0001'd'", "0000 04 02 0000 0001'd'"]
    {
        let mut broker = Broker::new();
        let client = broker.raw(Version::V5, &whole(0x10, body));
        broker.ended(client, &[]);
        assert_eq!(broker.stats().sessions, 0);
    }
}

#[test]
fn an_unknown_version_is_refused_in_words_that_its_client_may_know() {
    for (level, version) in
        [(6, Version::V5), (0x84, Version::V5), (2, Version::V3_1_1), (0, Version::V3_1_1)]
    {
        let mut broker = Broker::new();
        let body = format!("0004'MQTT'{level:02X} 02 0000 0001'd'");
        let client = broker.raw(version, &whole(0x10, &body));
        broker.ended(client, &["CONNACK 0x84"]);
    }
    // As bytes: 3.1.1's code 1.
    let mut broker = Broker::new();
    let client = broker.raw(Version::V3_1_1, &whole(0x10, "0004'MQTT'03 02 0000 0001'd'"));
    assert_eq!(broker.frames(client), [bytes("20 02 00 01")]);
}

#[test]
fn mqtt_3_1_is_understood_under_its_own_name() {
    let mut broker = Broker::new();
    let client = broker.raw(Version::V3_1, &whole(0x10, "0006'MQIsdp'03 02 003C 0001'd'"));
    assert_eq!(broker.frames(client), [bytes("20 02 00 00")]);
    broker.subscribed(client, "t", Qos::ExactlyOnce);
    broker.publish(client, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5", "PUBACK 1"]);
    // A session that is there cannot be told: the bit is reserved.
    let lasting = whole(0x10, "0006'MQIsdp'03 00 003C 0001'e'");
    for _ in 0..2 {
        let client = broker.raw(Version::V3_1, &lasting);
        assert_eq!(broker.frames(client), [bytes("20 02 00 00")]);
        broker.disconnect(client, ReasonCode::SUCCESS, &[]);
    }
    // Longer than the 23 characters of its specification is let in; none at all is refused with its code.
    let long = "c".repeat(24);
    broker.connect(&Hello::new(Version::V3_1, &long), false);
    let client = broker.raw(Version::V3_1, &whole(0x10, "0006'MQIsdp'03 02 003C 0000"));
    assert_eq!(broker.frames(client), [bytes("20 02 00 02")]);
    assert!(broker.is_closed(client));
    // The name of one version and the level of another are neither.
    let client = broker.raw(Version::V3_1_1, &whole(0x10, "0006'MQIsdp'04 02 003C 0001'd'"));
    broker.ended(client, &["CONNACK 0x84"]);
}

#[test]
fn the_reserved_flag_is_checked() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.raw(version, &connect(version, "03 0000 @ 0001'd'"));
        not_let_in(&mut broker, client, 0x81);
    }
}

#[test]
fn a_connect_that_does_not_conform_is_not_let_in() {
    for version in BOTH {
        // Nothing at all, no payload, a byte too many, a field that is cut, flags that contradict each other.
        for body in ["", "02", "02 0000 @", "02 0000 @ 0001'd' 00", "02 0000 @ 0003'd'", "12 0000 @ 0001'd'"]
        {
            let mut broker = Broker::new();
            let client = broker.raw(version, &connect(version, body));
            not_let_in(&mut broker, client, 0x81);
        }
    }
    for properties in ["0A 11 00000001 11 00000001", "03 21 0000", "02 17 02", "05 27 00000000"] {
        let mut broker = Broker::new();
        let body = format!("0004'MQTT'05 02 0000 {properties} 0001'd'");
        let client = broker.raw(Version::V5, &whole(0x10, &body));
        not_let_in(&mut broker, client, 0x82);
    }
}

#[test]
fn will_flags_without_a_will_are_refused() {
    for version in BOTH {
        for flags in ["0A", "12", "22", "3A"] {
            let mut broker = Broker::new();
            let client = broker.raw(version, &connect(version, &format!("{flags} 0000 @ 0001'd'")));
            not_let_in(&mut broker, client, 0x81);
        }
        let mut broker = Broker::new();
        // Fields of a will that was not announced are bytes too many.
        let client = broker.raw(version, &connect(version, "02 0000 @ 0001'd' @ 0001'w' 0001'x'"));
        not_let_in(&mut broker, client, 0x81);
    }
}

#[test]
fn a_will_has_qos_0_1_or_2_and_all_its_fields() {
    for version in BOTH {
        for flags in ["06", "0E", "16"] {
            let mut broker = Broker::new();
            let client =
                broker.raw(version, &connect(version, &format!("{flags} 0000 @ 0001'd' @ 0001'w' 0000")));
            assert_eq!(broker.said(client), ["CONNACK"]);
        }
        for body in ["1E 0000 @ 0001'd' @ 0001'w' 0000", "06 0000 @ 0001'd'", "06 0000 @ 0001'd' @ 0001'w'"] {
            let mut broker = Broker::new();
            let client = broker.raw(version, &connect(version, body));
            not_let_in(&mut broker, client, 0x81);
        }
    }
}

#[test]
fn user_name_and_password_stand_where_their_flags_say() {
    for version in BOTH {
        let fine = ["82 0000 @ 0001'd' 0001'u'", "C2 0000 @ 0001'd' 0001'u' 0001'p'", "02 0000 @ 0001'd'"];
        for body in fine {
            let mut broker = Broker::new();
            let client = broker.raw(version, &connect(version, body));
            assert_eq!(broker.said(client), ["CONNACK"], "{body}");
        }
        for body in [
            "02 0000 @ 0001'd' 0001'u'",
            "82 0000 @ 0001'd'",
            "82 0000 @ 0001'd' 0001'u' 0001'p'",
            "C2 0000 @ 0001'd' 0001'u'",
            "82 0000 @ 0001'd' 0001 FF",
        ] {
            let mut broker = Broker::new();
            let client = broker.raw(version, &connect(version, body));
            not_let_in(&mut broker, client, 0x81);
        }
        // A password alone came with MQTT 5.
        let mut broker = Broker::new();
        let client = broker.raw(version, &connect(version, "42 0000 @ 0001'd' 0001'p'"));
        if version.is_v5() {
            assert_eq!(broker.said(client), ["CONNACK"]);
        } else {
            not_let_in(&mut broker, client, 0x81);
        }
    }
}

#[test]
fn the_fields_of_connect_are_read_in_their_order() {
    for version in BOTH {
        let mut broker = Broker::new();
        let body = "CE 0000 @ 0002'id' @ 0005'topic' 0004'will' 0004'user' 0004'pass'";
        let client = broker.raw(version, &connect(version, body));
        assert_eq!(broker.said(client), ["CONNACK"]);
        broker.gone(client);
        let told = &broker.upstream[0].message;
        assert_eq!(
            (told.device.as_str(), told.topic.as_str(), &told.payload[..]),
            ("id", "topic", &b"will"[..])
        );
    }
}

#[test]
fn a_clean_start_leaves_nothing_of_the_session_before() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.subscribed(client, "t", Qos::AtLeastOnce);
        broker.publish(client, message("x", Qos::ExactlyOnce, 7));
        broker.gone(client);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        let client = broker.connect(&Hello { clean: true, ..Hello::lasting(version, "a") }, false);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 2));
        assert_eq!(broker.said(client), [""; 0], "neither what waited nor the subscription is left");
        broker.publish(client, message("x", Qos::ExactlyOnce, 7));
        assert_eq!(broker.topics().iter().filter(|topic| **topic == "x").count(), 2, "nor the packet id");
    }
}

#[test]
fn a_clean_session_of_3_1_1_ends_with_its_connection() {
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.subscribed(client, "t", Qos::AtLeastOnce);
        broker.gone(client);
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.publish(client, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(broker.said(client), ["PUBACK 1"]);
    }
}

#[test]
fn a_session_goes_on_where_it_was_and_is_made_when_there_is_none() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.subscribed(client, "t", Qos::AtLeastOnce);
        broker.publish(client, message("x", Qos::ExactlyOnce, 7));
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        broker.gone(client);
        let client = broker.connect(&Hello::lasting(version, "a"), true);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5"], "the subscription is there");
        broker.publish(client, message("x", Qos::ExactlyOnce, 7));
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        assert_eq!(broker.topics(), ["x", "t"], "the packet id is known");
    }
}

#[test]
fn what_is_published_while_a_session_is_away_waits_for_it() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.subscribed(client, "t", Qos::ExactlyOnce);
        broker.disconnect(client, ReasonCode::SUCCESS, &[]);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        broker.publish(publisher, message("t", Qos::ExactlyOnce, 2));
        let client = broker.greet(&Hello::lasting(version, "a"));
        assert_eq!(
            broker.said(client),
            ["CONNACK present", "PUBLISH 1:1 t 21.5", "PUBLISH 2:2 t 21.5"],
            "{version:?}"
        );
    }
}

#[test]
fn a_session_lasts_as_long_as_its_expiry_says() {
    let mut broker = Broker::new();
    let hello = Hello { clean: false, ..Hello::new(Version::V5, "a") };
    let client = broker.connect(&hello.clone().with(Property::SessionExpiry(10)), false);
    broker.gone(client);
    broker.pass(Duration::from_millis(9_999));
    let client = broker.connect(&hello.clone().with(Property::SessionExpiry(10)), true);
    broker.gone(client);
    broker.pass(Duration::from_secs(10));
    // Without the property it ends with its connection.
    let client = broker.connect(&hello, false);
    broker.gone(client);
    broker.connect(&hello, false);
}

#[test]
fn a_session_is_known_by_its_client_id() {
    for version in BOTH {
        let mut broker = Broker::new();
        for (id, filter) in [("a", "of/a"), ("A", "of/A")] {
            let client = broker.connect(&Hello::lasting(version, id), false);
            broker.subscribed(client, filter, Qos::AtLeastOnce);
            broker.gone(client);
        }
        let client = broker.connect(&Hello::lasting(version, "A"), true);
        broker.publish(client, message("of/a", Qos::AtLeastOnce, 1));
        broker.publish(client, message("of/A", Qos::AtLeastOnce, 2));
        broker.pass(Duration::from_secs(1));
        assert_eq!(broker.said(client), ["PUBACK 1", "PUBLISH 1:1 of/A 21.5", "PUBACK 2"]);
    }
}

#[test]
fn every_client_id_that_a_server_must_allow_is_allowed() {
    const ALLOWED: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        for length in 1..=23 {
            for from in 0..ALLOWED.len() - length {
                let id = &ALLOWED[from..from + length];
                let client = broker.client(version, id);
                broker.disconnect(client, ReasonCode::SUCCESS, &[]);
            }
        }
    }
}

#[test]
fn an_empty_client_id_gets_one_of_its_own() {
    let mut broker = Broker::new();
    let mut given = Vec::new();
    for _ in 0..3 {
        let client = broker.greet(&Hello::lasting(Version::V5, ""));
        let frames = broker.frames(client);
        let id = crate::broker::properties(Version::V5, &frames[0])
            .iter()
            .find_map(|property| match property {
                Property::AssignedClientId(id) => Some((*id).to_owned()),
                _ => None,
            })
            .expect("the client is told its name");
        assert!(!given.contains(&id));
        broker.gone(client);
        given.push(id);
    }
    // It is a name like any other: the session is there under it.
    broker.connect(&Hello::lasting(Version::V5, &given[1]), true);
    // 3.1.1 is not told, but two such clients are two.
    let (a, b) = (broker.client(Version::V3_1_1, ""), broker.client(Version::V3_1_1, ""));
    assert!(!broker.is_closed(a) && !broker.is_closed(b));
}

#[test]
fn an_empty_client_id_that_wants_a_session_is_refused_before_version_5() {
    let mut broker = Broker::new();
    let client = broker.raw(Version::V3_1_1, &connect(Version::V3_1_1, "00 003C 0000"));
    assert_eq!(broker.frames(client), [bytes("20 02 00 02")]);
    assert!(broker.is_closed(client));
}

#[test]
fn a_client_id_that_is_not_allowed_is_refused_in_its_own_words() {
    let long = "x".repeat(129);
    for version in BOTH {
        for id in ["a/b", "#", "+", "..", "a b", "%c", "a\u{1}", long.as_str()] {
            let mut broker = Broker::new();
            let client = broker.greet(&Hello::new(version, id));
            broker.ended(client, &["CONNACK 0x85"]);
            assert_eq!(broker.stats().sessions, 0);
        }
    }
}

#[test]
fn who_may_not_come_is_told_so_and_not_let_in() {
    for version in BOTH {
        let mut broker = Broker::with(Setup { anonymous: Anonymous::Never, ..setup() });
        let client = broker.greet(&Hello::new(version, "a"));
        broker.pass(broker.setup.limits.refusal_delay);
        broker.ended(client, &["CONNACK 0x87"]);
        assert_eq!(broker.stats().sessions, 0);
    }
}

#[test]
fn the_new_connection_of_a_client_id_takes_over() {
    for version in ALL_VERSIONS {
        for clean in [true, false] {
            let mut broker = Broker::new();
            let hello = Hello { clean, ..Hello::lasting(version, "a") };
            let old = broker.connect(&hello, false);
            let new = broker.connect(&hello, !clean);
            broker.ended_for(old, 0x8E);
            broker.publish(new, message("t", Qos::AtLeastOnce, 1));
            assert_eq!(broker.said(new), ["PUBACK 1"]);
        }
    }
}

#[test]
fn what_follows_a_refused_connect_is_not_looked_at() {
    for version in BOTH {
        let mut broker = Broker::new();
        let mut stream = Hello::new(version, "a/b").bytes();
        stream.extend(crate::broker::encode(version, &Packet::Publish(message("t", Qos::AtLeastOnce, 1))));
        stream.extend(Hello::new(version, "a").bytes());
        let client = broker.raw(version, &stream);
        broker.ended(client, &["CONNACK 0x85"]);
        assert!(broker.upstream.is_empty());
        assert_eq!(broker.stats().sessions, 0);
    }
}

#[test]
fn silence_beyond_one_and_a_half_times_the_keep_alive_ends_the_connection() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let hello = Hello { keep_alive: 10, will: Some(will("gone", &[])), ..Hello::new(version, "a") };
        let client = broker.connect(&hello, false);
        for _ in 0..3 {
            broker.pass(Duration::from_millis(14_999));
            broker.send(client, &Packet::PingReq);
            assert_eq!(broker.said(client), ["PINGRESP"]);
        }
        broker.pass(Duration::from_millis(14_999));
        assert!(!broker.is_closed(client));
        broker.pass(Duration::from_millis(1));
        broker.ended_for(client, 0x8D);
        assert_eq!(broker.topics(), ["gone"], "as if the network had failed");
    }
}

#[test]
fn without_a_server_keep_alive_the_clients_own_counts() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.greet(&Hello { keep_alive: 100, ..Hello::new(version, "a") });
        let frames = broker.frames(client);
        let told = crate::broker::properties(version, &frames[0]);
        assert!(!told.iter().any(|property| matches!(property, Property::ServerKeepAlive(_))));
        broker.pass(Duration::from_millis(149_999));
        assert!(!broker.is_closed(client));
        broker.pass(Duration::from_millis(1));
        broker.ended_for(client, 0x8D);
    }
}

#[test]
fn a_keep_alive_of_zero_ends_nothing_before_version_5() {
    let mut broker = Broker::new();
    let client = broker.connect(&Hello { keep_alive: 0, ..Hello::new(Version::V3_1_1, "a") }, false);
    broker.pass(Duration::from_secs(100_000));
    broker.send(client, &Packet::PingReq);
    assert_eq!(broker.said(client), ["PINGRESP"]);
}
