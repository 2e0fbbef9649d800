//! Attacks on MQTT servers that have happened elsewhere, each with what it may cost here at the most. Memory is asserted by
//! what the engine counts and what stands in its records; that the process stays small is measured on the real one.
//! AUTH without a method (M20) stands in `authentication`, a PUBLISH that stalls over WebSocket (M04) in `tests/transports`.

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Client, Hello, encode, message, setup, will};
use std::collections::BTreeSet;
use tidegate_engine::event::{Anonymous, Input, Notice, Setup};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::{bytes, whole};
use tidegate_wire::mqtt::{Packet, Properties, Property, Publish, Qos, ReasonCode, Subscription, Version};

/// Nothing of an attack is left: no peer, no session, no record, nothing that waits to be safe.
#[track_caller]
fn nothing_is_left(broker: &Broker) {
    let stats = broker.engine.stats();
    assert_eq!((stats.mqtt.peers, stats.mqtt.sessions, stats.mqtt.subscriptions), (0, 0, 0));
    assert_eq!(stats.unsafe_bytes, 0);
    assert!(broker.records.is_empty());
}

/// No notice, which goes into a log, carries what could write a line of its own there.
#[track_caller]
fn notices_are_fit_for_a_log(broker: &Broker) {
    for notice in &broker.notices {
        let text = match notice {
            Notice::Refused { reason, .. } | Notice::Disconnected { reason, .. } => reason.as_str(),
            Notice::Connected { device, .. } => device.as_str(),
            _ => continue,
        };
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{FEFF}'), "{text:?}");
    }
}

/// M02: the length that a first packet claims is not believed.
#[test]
fn a_first_packet_that_claims_much_is_closed_at_its_header() {
    for first in (0..=0xFF_u8).filter(|first| *first != 0x10) {
        let mut broker = Broker::new();
        let client = broker.raw(Version::V5, &[first, 0xFF, 0xFF, 0xFF, 0x7F]);
        broker.ended(client, &[]);
        nothing_is_left(&broker);
    }
}

/// M03: a CONNECT is small, and comes soon.
#[test]
fn a_connect_is_bounded_in_size_and_time() {
    let mut broker = Broker::new();
    let client = broker.raw(Version::V5, &bytes("10 FF FF FF 7F"));
    broker.ended(client, &[]);
    // One byte a second, of a CONNECT of fair size.
    let client = Client { conn: broker.open(), version: Version::V5 };
    let connect = Hello::new(Version::V5, "a-client-that-has-time").bytes();
    for byte in connect {
        if !broker.is_closed(client) {
            broker.bytes(client.conn, &[byte]);
        }
        broker.pass(Duration::from_secs(1));
    }
    broker.ended(client, &[]);
    nothing_is_left(&broker);
}

/// M04: a PUBLISH that never ends.
#[test]
fn a_publish_that_does_not_end_is_given_up_and_leaves_nothing() {
    for version in ALL_VERSIONS {
        for keep_alive in [10, 0] {
            let mut broker = Broker::new();
            let client = broker.greet(&Hello { keep_alive, ..Hello::new(version, "a") });
            assert_eq!(broker.said(client), ["CONNACK"]);
            broker.bytes(client.conn, &bytes("32 80 20 0001 61"));
            broker.pass(Duration::from_secs(300));
            assert!(broker.is_closed(client), "{version:?} {keep_alive}");
            // The same, and the client closes its end.
            let client = broker.client(version, "b");
            broker.bytes(client.conn, &bytes("32 80 20 0001 61"));
            broker.gone(client);
            assert!(broker.upstream.is_empty());
            nothing_is_left(&broker);
        }
    }
}

/// M07: names that are none, or would mean something elsewhere.
#[test]
fn no_odd_name_reaches_the_store_an_upstream_or_a_log() {
    let raw: [&[u8]; 6] =
        [b"a\0b", b"\xC0\xAF", b"\xED\xA0\x80", b"\xED\xBF\xBF", b"\xF4\x90\x80\x80", b"a\xFF"];
    for version in BOTH {
        for name in raw {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            let mut body = vec![0, u8::try_from(name.len()).unwrap()];
            body.extend_from_slice(name);
            body.extend_from_slice(&[0, 1]);
            if version.is_v5() {
                body.push(0);
            }
            let mut packet = vec![0x32, u8::try_from(body.len()).unwrap()];
            packet.extend(body);
            broker.bytes(client.conn, &packet);
            broker.ended_for(client, 0x81);
            assert!(broker.upstream.is_empty());
            notices_are_fit_for_a_log(&broker);
            nothing_is_left(&broker);
        }
        for name in ["$CONTROL/x", "$SYS/broker", "$share/g/t", "a\nb", "a\u{1B}[2Jb", "a\u{7F}", "a\u{85}b"]
        {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.publish(client, message(name, Qos::AtLeastOnce, 1));
            if version.is_v5() {
                assert_eq!(broker.said(client), ["PUBACK 1 0x90"], "{name:?}");
            } else {
                broker.ended(client, &[]);
            }
            assert!(broker.upstream.is_empty());
            notices_are_fit_for_a_log(&broker);
        }
    }
    // A client id is a name as well.
    let mut broker = Broker::new();
    for id in ["a\nb", "\u{FEFF}a", "../x", "%c", "a\u{202E}b"] {
        let client = broker.greet(&Hello::new(Version::V5, id));
        broker.ended(client, &["CONNACK 0x85"]);
    }
    notices_are_fit_for_a_log(&broker);
    nothing_is_left(&broker);
}

/// M09: as many levels as fit into a name.
#[test]
fn names_of_very_many_levels_are_refused_without_a_trace() {
    let deep = "/".repeat(65_535);
    let wild = "+/".repeat(32_767) + "#";
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        for (id, filter) in [(1, &deep), (2, &wild)] {
            broker.subscribe(client, id, &[Subscription::new(filter, Qos::AtMostOnce)]);
            let code = if version.is_v5() { 0x8F } else { 0x80 };
            assert_eq!(broker.said(client), [format!("SUBACK {id} [{code}]")]);
            broker.unsubscribe(client, id, &[filter]);
            broker.frames(client);
        }
        assert_eq!(broker.stats().subscriptions, 0);
        broker.publish(client, message(&deep, Qos::AtLeastOnce, 3));
        if version.is_v5() {
            assert_eq!(broker.said(client), ["PUBACK 3 0x90"]);
            broker.gone(client);
        } else {
            broker.ended(client, &[]);
        }
        assert!(broker.upstream.is_empty());
        nothing_is_left(&broker);
    }
}

/// M12: packets before CONNECT.
#[test]
fn before_connect_nothing_else_does_anything() {
    let mut broker = Broker::new();
    for version in BOTH {
        let publish = encode(version, &Packet::Publish(message("t", Qos::AtLeastOnce, 1)));
        for first in ["40 02 0001", "62 02 0001", "82 06 0001 0001'a' 00", "C0 00", "E0 00"] {
            let mut stream = bytes(first);
            stream.extend(Hello::new(version, "a").bytes());
            stream.extend(&publish);
            let client = broker.raw(version, &stream);
            broker.ended(client, &[]);
        }
        let client = broker.raw(version, &publish);
        broker.ended(client, &[]);
    }
    assert!(broker.upstream.is_empty());
    nothing_is_left(&broker);
}

/// M13: packets that only a server sends, and a second CONNECT.
#[test]
fn packets_out_of_their_role_end_the_connection() {
    for (first, body) in [(0x20, "00 00 00"), (0x90, "0001 00 00"), (0xB0, "0001 00 00"), (0xD0, "")] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(first, body));
        broker.ended_for(client, 0x82);
        nothing_is_left(&broker);
    }
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    broker.bytes(client.conn, &Hello::lasting(Version::V5, "another").bytes());
    broker.ended_for(client, 0x82);
    nothing_is_left(&broker);
}

/// M14: property bombs.
#[test]
fn ten_thousand_user_properties_are_refused_wherever_they_stand() {
    let list = vec![Property::User("", ""); 10_000];
    let properties = Properties::new(&list);
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    for (qos, answer) in
        [(Qos::AtLeastOnce, "PUBACK 1 0x97"), (Qos::ExactlyOnce, "PUBREC 1 0x97"), (Qos::AtMostOnce, "")]
    {
        broker.publish(client, Publish { properties, ..message("t", qos, 1) });
        let said = broker.said(client);
        assert_eq!(said, if answer.is_empty() { vec![] } else { vec![answer] });
    }
    assert!(broker.upstream.is_empty());
    // They change nothing where they mean nothing.
    broker.subscribe_with(client, 2, &list, &[Subscription::new("t", Qos::AtMostOnce)]);
    assert_eq!(broker.said(client), ["SUBACK 2 [0]"]);
    broker.disconnect(client, ReasonCode::SUCCESS, &list);
    assert!(broker.is_closed(client));
    // Before the CONNECT is accepted its size is bound more tightly.
    let mut hello = Hello::new(Version::V5, "a");
    hello.properties = list.clone();
    let client = broker.greet(&hello);
    broker.ended(client, &[]);
    let few = vec![Property::User("", ""); 500];
    let hello = Hello { will: Some(will("w", &few)), ..Hello::new(Version::V5, "a") };
    let client = broker.greet(&hello);
    broker.ended(client, &["CONNACK 0x97"]);
    nothing_is_left(&broker);
}

/// M15: broken properties, again and again.
#[test]
fn broken_properties_leave_nothing_however_often_they_come() {
    let connect = "0004'MQTT'05 06 0000 00 0001'd'";
    let bad = [
        whole(0x10, "0004'MQTT'05 02 0000 0A 11 00000001 11 00000002 0001'd'"),
        whole(0x10, "0004'MQTT'05 02 0000 03 23 0001 0001'd'"),
        whole(0x10, &format!("{connect} 0A 18 00000001 18 00000002 0001'w' 0000")),
        whole(0x10, &format!("{connect} 02 24 01 0001'w' 0000")),
        whole(0x10, &format!("{connect} 05 08 0002'w' 0001'w' 0000")),
        whole(0x10, &format!("{connect} 7F 01 01 0001'w' 0000")),
    ];
    let mut broker = Broker::new();
    let codes: BTreeSet<String> = (0..100_000)
        .map(|round: usize| {
            let client = broker.raw(Version::V5, &bad[round % bad.len()]);
            let said = broker.said(client);
            assert!(broker.is_closed(client) && said.len() == 1);
            broker.forget(client);
            said[0].clone()
        })
        .collect();
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["CONNACK 0x81", "CONNACK 0x82"]);
    nothing_is_left(&broker);
}

/// M17: more than Receive Maximum, without waiting.
#[test]
fn ten_thousand_unacknowledged_messages_end_at_receive_maximum() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut broker = Broker::new();
        broker.disk_works = false;
        let client = broker.client(Version::V5, "a");
        let stream: Vec<u8> = (1..=10_000)
            .flat_map(|id| encode(Version::V5, &Packet::Publish(message("t", qos, id))))
            .collect();
        broker.bytes(client.conn, &stream);
        broker.ended_for(client, 0x93);
        let most = u64::from(broker.setup.limits.receive_maximum);
        assert!(broker.engine.stats().accepted <= most);
        broker.disk_recovers();
        assert!(broker.topics().len() as u64 <= most);
        nothing_is_left(&broker);
    }
}

/// M18: QoS 2 without end.
#[test]
fn packet_ids_that_are_never_released_are_few() {
    let mut broker = Broker::new();
    let most = usize::from(broker.setup.limits.receive_maximum);
    let hello = Hello::lasting(Version::V5, "a");
    let client = broker.connect(&hello, false);
    for round in 0..1_000 {
        let publish = Publish { dup: round > 0, ..message("t", Qos::ExactlyOnce, 7) };
        broker.publish(client, publish);
        assert_eq!(broker.said(client), ["PUBREC 7"]);
    }
    assert_eq!(broker.topics(), ["t"]);
    for id in 100..200 {
        broker.publish(client, message("t", Qos::ExactlyOnce, id));
    }
    assert!(broker.is_closed(client));
    assert!(broker.records.len() <= most + 1, "{} records", broker.records.len());
    let client = broker.connect(&hello, true);
    broker.pubrel(client, 999);
    assert_eq!(broker.said(client), ["PUBCOMP 999 0x92"]);
}

/// M19: a crash between PUBREC and PUBREL.
#[test]
fn a_crash_between_pubrec_and_pubrel_makes_no_second_message() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let hello = Hello::lasting(version, "a");
        let client = broker.connect(&hello, false);
        broker.publish(client, message("t", Qos::ExactlyOnce, 7));
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        for _ in 0..3 {
            broker.restart();
            let client = broker.connect(&hello, true);
            broker.publish(client, Publish { dup: true, ..message("t", Qos::ExactlyOnce, 7) });
            assert_eq!(broker.said(client), ["PUBREC 7"]);
        }
        let ids: BTreeSet<_> = broker.upstream.iter().map(|publication| publication.message.id).collect();
        assert_eq!(ids.len(), 1);
        let client = broker.connect(&hello, true);
        broker.pubrel(client, 7);
        assert_eq!(broker.said(client), ["PUBCOMP 7"]);
    }
}

/// M26: filters without end, and filters that match everything.
#[test]
fn subscriptions_are_few_and_a_message_is_one_copy_however_many_match() {
    let mut broker = Broker::new();
    let most = broker.setup.limits.subscriptions_per_session;
    let client = broker.client(Version::V5, "a");
    let names: Vec<String> = (0..100_000).map(|number| format!("+/+/{number}/#")).collect();
    let (mut granted, mut refused) = (0, 0);
    for some in names.chunks(1_000) {
        let wishes: Vec<_> = some.iter().map(|name| Subscription::new(name, Qos::AtMostOnce)).collect();
        broker.subscribe(client, 1, &wishes);
        for frame in broker.frames(client) {
            let codes = &frame[frame.len() - wishes.len()..];
            granted += codes.iter().filter(|code| **code == 0).count();
            refused += codes.iter().filter(|code| **code == 0x97).count();
        }
    }
    assert_eq!((granted, refused), (most, names.len() - most));
    assert_eq!(broker.stats().subscriptions, most as u64);
    // Every combination of levels and wildcards, and each message still comes once.
    let greedy = broker.client(Version::V5, "b");
    for number in 0..64_u8 {
        let level = |bit: u8| if number & 1 << bit == 0 { "+" } else { "x" };
        let filter = [0, 1, 2, 3, 4, 5].map(level).join("/");
        broker.subscribed(greedy, &filter, Qos::AtMostOnce);
    }
    broker.publish(client, message("x/x/x/x/x/x", Qos::AtMostOnce, 0));
    assert_eq!(broker.said(greedy), ["PUBLISH - x/x/x/x/x/x 21.5"]);
}

/// M28: wills as a weapon.
#[test]
fn wills_are_checked_at_connect_and_their_delay_is_bounded() {
    let mut broker = Broker::new();
    for topic in ["$CONTROL/x", "$SYS/x", "$share/g/x"] {
        let client = broker.greet(&Hello { will: Some(will(topic, &[])), ..Hello::new(Version::V5, "a") });
        broker.ended(client, &["CONNACK 0x90"]);
    }
    nothing_is_left(&broker);
    // Connect and abort, over and over, with the longest delay: one session, one will.
    broker.setup.limits.wills_per_minute = u32::MAX;
    broker.tell(Input::Reload(Box::new(broker.setup.clone())));
    let delay = [Property::WillDelay(u32::MAX)];
    let hello = Hello {
        clean: false,
        will: Some(will("gone/a", &delay)),
        ..Hello::new(Version::V5, "a").with(Property::SessionExpiry(u32::MAX))
    };
    for round in 0..1_000 {
        let client = broker.connect(&hello, round > 0);
        broker.gone(client);
    }
    assert_eq!(broker.stats().sessions, 1);
    assert!(broker.upstream.is_empty());
    broker.pass(broker.setup.limits.session_expiry_max);
    assert_eq!(broker.topics(), ["gone/a"], "the delay ends with the longest session");
    nothing_is_left(&broker);
}

/// M28: as many wills as connections can be made and broken.
#[test]
fn a_device_has_so_many_wills_a_minute_and_is_told_so_beyond() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let most = broker.setup.limits.wills_per_minute as usize;
        let hello = Hello { will: Some(will("gone/a", &[])), ..Hello::new(version, "a") };
        let mut accepted = 0;
        for _ in 0..1_000 {
            let client = broker.greet(&hello);
            match broker.said(client).as_slice() {
                [connack] if connack == "CONNACK" => accepted += 1,
                refused => {
                    let expected = if version.is_v5() { "CONNACK 0x9F" } else { "CONNACK 0x88" };
                    assert_eq!(refused, [expected]);
                }
            }
            broker.gone(client);
            broker.forget(client);
        }
        assert_eq!(
            (accepted, broker.topics().len()),
            (most, most),
            "every will that was accepted, and no other"
        );
        assert!(broker.stats().refusals.contains(&("connection rate exceeded", 1_000 - accepted as u64)));
        // Others are not concerned, nor is the device itself without a will, nor with one a while later.
        broker.connect(&Hello { will: Some(will("gone/b", &[])), ..Hello::new(version, "b") }, false);
        broker.client(version, "a");
        broker.pass(Duration::from_secs(60));
        broker.connect(&hello, false);
        nothing_refused_since(&mut broker, &hello);
    }
}

/// A client that comes with a will and says good-bye is not counted: nothing of it is published.
#[track_caller]
fn nothing_refused_since(broker: &mut Broker, hello: &Hello<'_>) {
    broker.pass(Duration::from_secs(60));
    for _ in 0..1_000 {
        let client = broker.greet(hello);
        assert_eq!(broker.said(client), ["CONNACK"]);
        broker.disconnect(client, ReasonCode::SUCCESS, &[]);
    }
}

/// M28: under names of their own, from one address that is not this host.
#[test]
fn wills_of_those_who_are_nobody_are_counted_by_their_address() {
    let mut broker = Broker::with(Setup { anonymous: Anonymous::Everywhere, ..setup() });
    let most = broker.setup.limits.wills_per_minute_and_address as usize;
    let mut hit = |address: &str, count: usize| {
        let accepted = (0..count).filter(|number| {
            let id = format!("nobody-{number}");
            let hello = Hello { will: Some(will("gone/a", &[])), ..Hello::new(Version::V5, &id) };
            let client = Client { conn: broker.open_from(address), version: Version::V5 };
            broker.bytes(client.conn, &hello.bytes());
            let accepted = broker.said(client) == ["CONNACK"];
            broker.gone(client);
            accepted
        });
        accepted.count()
    };
    assert_eq!(hit("192.0.2.66:1000", 2_000), most);
    assert_eq!(hit("[2001:db8::1]:1000", 2_000), most);
    assert_eq!(hit("[2001:db8::2]:1000", 100), 0, "a network of IPv6 counts as one address");
    assert_eq!(hit("192.0.2.67:1000", 100), 100);
}

/// M29: sessions without end.
#[test]
fn sessions_are_bounded_in_number_and_time() {
    const MOST: usize = 500;
    let mut broker = Broker::limited(|limits| limits.sessions = MOST);
    let mut refused = 0;
    for number in 0..10_000 {
        let id = format!("hoarder-{number}");
        let hello = Hello { clean: false, ..Hello::new(Version::V5, &id) };
        let client = broker.greet(&hello.with(Property::SessionExpiry(u32::MAX)));
        let said = broker.said(client);
        if said == ["CONNACK"] {
            broker.subscribed(client, "t", Qos::AtLeastOnce);
        } else {
            assert_eq!(said, ["CONNACK 0x97"]);
            refused += 1;
        }
        broker.gone(client);
        broker.forget(client);
    }
    assert_eq!((broker.stats().sessions, refused), (MOST as u64, 10_000 - MOST));
    assert!(broker.records.len() <= MOST);
    // 3.1.1 is told in its own words, and its sessions end as well.
    let client = broker.greet(&Hello::lasting(Version::V3_1_1, "one-more"));
    broker.ended(client, &["CONNACK 0x88"]);
    broker.pass(broker.setup.limits.session_expiry_max);
    nothing_is_left(&broker);
    let client = broker.connect(&Hello::lasting(Version::V3_1_1, "one-more"), false);
    broker.gone(client);
    broker.pass(broker.setup.limits.session_expiry_max);
    nothing_is_left(&broker);
}

/// M30: takeovers, subscriptions and messages of one client id, cut anywhere.
#[test]
fn a_storm_of_takeovers_loses_nothing_acknowledged() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let version = BOTH[rng.usize(..2)];
        // In some of the worlds nobody is refused for coming too often.
        let mut broker = Broker::limited(|limits| {
            limits.takeovers_per_minute = if seed % 4 == 0 { 12 } else { u32::MAX };
        });
        let mut acknowledged: BTreeSet<String> = BTreeSet::new();
        let mut sent: u32 = 0;
        for _ in 0..200 {
            let clean = rng.u8(..) < 30;
            let mut stream = Hello { clean, ..Hello::lasting(version, "a") }.bytes();
            let mut ids = Vec::new();
            for id in 1..=rng.u16(1..5) {
                sent += 1;
                let payload = sent.to_string();
                let publish = Publish { payload: payload.as_bytes(), ..message("t", Qos::AtLeastOnce, id) };
                stream.extend(encode(version, &Packet::Publish(publish)));
                ids.push((id, payload));
            }
            broker.disk_works = rng.bool();
            let cut = rng.usize(..=stream.len());
            let client = broker.raw(version, &stream[..cut]);
            if rng.bool() && cut == stream.len() && !broker.is_closed(client) {
                broker.subscribe(client, 50, &[Subscription::new("t", Qos::ExactlyOnce)]);
                broker.unsubscribe(client, 51, &["t"]);
            }
            if rng.bool() {
                broker.disk_recovers();
            }
            for words in broker.said(client) {
                if let Some(id) = words.strip_prefix("PUBACK ") {
                    let (_, payload) = ids.iter().find(|(known, _)| known.to_string() == id).unwrap();
                    acknowledged.insert(payload.clone());
                }
            }
        }
        broker.disk_recovers();
        let arrived: BTreeSet<String> = broker
            .upstream
            .iter()
            .map(|publication| String::from_utf8_lossy(&publication.message.payload).into_owned())
            .collect();
        assert!(acknowledged.is_subset(&arrived), "seed {seed}");
        assert!(!acknowledged.is_empty());
        // Of those that finished their CONNECT one is in; it is one client id.
        assert!(broker.stats().sessions <= 1, "one client id is one session");
    }
}

/// M30: two that fight for one name change places so often and no more; whoever is in stays in.
#[test]
fn a_client_identifier_changes_hands_so_often_a_minute() {
    for version in ALL_VERSIONS {
        for hello in [Hello::lasting(version, "a"), Hello::new(version, "a")] {
            let mut broker = Broker::new();
            let most = broker.setup.limits.takeovers_per_minute as usize;
            let mut holder = broker.connect(&hello, false);
            let mut changes = 0;
            for _ in 0..1_000 {
                let client = broker.greet(&hello);
                if broker.said(client)[0].ends_with(if version.is_v5() { "0x9F" } else { "0x88" }) {
                    assert!(broker.is_closed(client) && !broker.is_closed(holder));
                } else {
                    assert!(broker.is_closed(holder) && !broker.is_closed(client));
                    holder = client;
                    changes += 1;
                }
                broker.pass(Duration::from_millis(11));
            }
            assert_eq!(changes, most + 2, "and one more every five seconds");
            let taken_over =
                broker.notices.iter().filter(|notice| matches!(notice, Notice::TakenOver { .. }));
            assert_eq!(taken_over.count(), changes);
            // Whoever leaves first, and comes back, takes nothing over.
            for _ in 0..100 {
                broker.gone(holder);
                holder = broker.greet(&hello);
                assert!(broker.said(holder)[0].starts_with("CONNACK"));
                assert!(!broker.is_closed(holder));
            }
        }
    }
}

/// M32: publishers that are faster than the disk.
#[test]
fn publishers_that_are_faster_than_the_disk_are_held_within_bounds_and_lose_nothing() {
    let mut broker = Broker::limited(|limits| limits.unsafe_bytes = 256 << 10);
    broker.disk_works = false;
    let clients: Vec<Client> =
        (0..50).map(|number| broker.client(BOTH[number % 2], &format!("p-{number}"))).collect();
    let payload = vec![b'x'; 2_000];
    let mut sent = vec![0_u16; clients.len()];
    for _ in 0..30 {
        for (client, sent) in clients.iter().zip(&mut sent) {
            // A client that is not read has what it sends in the network, not here.
            if broker.is_read(*client) {
                *sent += 1;
                let publish = Publish { payload: &payload, ..message("t", Qos::AtLeastOnce, *sent) };
                broker.publish(*client, publish);
                assert_eq!(broker.said(*client), [""; 0], "not safe, not acknowledged");
            }
        }
    }
    let total: usize = sent.iter().map(|count| usize::from(*count)).sum();
    assert!(total < 50 * 30, "they were held");
    let stats = broker.engine.stats();
    assert!(stats.holding);
    assert!(stats.unsafe_bytes <= (256 << 10) + 50 * 3_000, "{}", stats.unsafe_bytes);
    assert_eq!(stats.safe_on_disk, 0);
    broker.disk_recovers();
    for (client, sent) in clients.iter().zip(&sent) {
        let expected: Vec<String> = (1..=*sent).map(|id| format!("PUBACK {id}")).collect();
        assert_eq!(broker.said(*client), expected);
        assert!(broker.is_read(*client) && !broker.is_closed(*client));
    }
    assert_eq!(broker.topics().len(), total);
}
