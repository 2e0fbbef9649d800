//! Wills: published when a connection ends without a good-bye, once, as they were left, neither early nor late
//! (MQTT 5.0, 3.1.2.5, 3.1.3.2).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Hello, message, properties, will};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::{Properties, Property, Qos, ReasonCode, Subscription, Version, Will};

fn mortal(version: Version) -> Hello<'static> {
    Hello { will: Some(will("gone/a", &[])), ..Hello::new(version, "a") }
}

#[test]
fn a_will_goes_out_when_its_connection_ends_without_good_bye() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let witness = broker.client(version, "w");
        broker.subscribed(witness, "gone/+", Qos::AtLeastOnce);
        // The network fails.
        let client = broker.connect(&mortal(version), false);
        broker.gone(client);
        assert_eq!(broker.said(witness), ["PUBLISH 1:1 gone/a gone"]);
        // The client breaks the protocol.
        let client = broker.connect(&mortal(version), false);
        broker.bytes(client.conn, &[0x00, 0x00]);
        assert_eq!(broker.said(witness), ["PUBLISH 1:2 gone/a gone"]);
        // Its keep-alive passes.
        let client = broker.connect(&Hello { keep_alive: 1, ..mortal(version) }, false);
        broker.pass(Duration::from_millis(1_500));
        assert!(broker.is_closed(client));
        assert_eq!(broker.said(witness), ["PUBLISH 1:3 gone/a gone"]);
        // Another connection takes its name over.
        broker.connect(&mortal(version), false);
        broker.connect(&Hello::new(version, "a"), false);
        assert_eq!(broker.said(witness), ["PUBLISH 1:4 gone/a gone"]);
    }
}

#[test]
fn a_good_bye_drops_the_will_for_good() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let hello = Hello { clean: false, ..mortal(version) };
        let client =
            broker.connect(&Hello { properties: Hello::lasting(version, "a").properties, ..hello }, false);
        broker.disconnect(client, ReasonCode::SUCCESS, &[]);
        assert!(broker.is_closed(client));
        broker.pass(Duration::from_secs(10_000_000));
        assert!(broker.upstream.is_empty(), "not even when the session ends");
    }
}

#[test]
fn another_reason_than_success_keeps_the_will() {
    for reason in [ReasonCode::DISCONNECT_WITH_WILL, ReasonCode::UNSPECIFIED_ERROR] {
        let mut broker = Broker::new();
        let client = broker.connect(&mortal(Version::V5), false);
        broker.disconnect(client, reason, &[]);
        assert_eq!(broker.topics(), ["gone/a"]);
    }
}

#[test]
fn a_will_goes_out_once() {
    for version in BOTH {
        let mut broker = Broker::new();
        let hello = Hello { will: Some(will("gone/a", &[])), ..Hello::lasting(version, "a") };
        let client = broker.connect(&hello, false);
        broker.gone(client);
        assert_eq!(broker.topics(), ["gone/a"]);
        // The session goes on without it, and ends without it.
        let client = broker.connect(&Hello::lasting(version, "a"), true);
        broker.gone(client);
        broker.pass(Duration::from_secs(10_000_000));
        assert_eq!(broker.topics(), ["gone/a"]);
    }
}

#[test]
fn without_a_will_nothing_is_published_at_the_end() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let witness = broker.client(version, "w");
        broker.subscribed(witness, "#", Qos::ExactlyOnce);
        let client = broker.client(version, "a");
        broker.gone(client);
        broker.pass(Duration::from_secs(10));
        assert!(broker.upstream.is_empty());
        assert_eq!(broker.said(witness), [""; 0]);
    }
}

#[test]
fn a_will_is_published_with_its_own_quality_of_service_and_not_retained() {
    for version in BOTH {
        for (qos, arrives) in [(Qos::AtMostOnce, "-"), (Qos::AtLeastOnce, "1:1"), (Qos::ExactlyOnce, "2:1")] {
            let mut broker = Broker::new();
            let witness = broker.client(Version::V5, "w");
            let wish =
                Subscription { retain_as_published: true, ..Subscription::new("gone/+", Qos::ExactlyOnce) };
            broker.subscribe(witness, 1, &[wish]);
            broker.said(witness);
            let hello = Hello { will: Some(Will { qos, ..will("gone/a", &[]) }), ..Hello::new(version, "a") };
            let client = broker.connect(&hello, false);
            broker.gone(client);
            assert_eq!(broker.said(witness), [format!("PUBLISH {arrives} gone/a gone")]);
            let late = broker.client(version, "late");
            broker.subscribed(late, "gone/+", Qos::AtMostOnce);
            assert_eq!(broker.said(late), [""; 0], "nothing was retained");
        }
    }
}

#[test]
fn a_delayed_will_waits_and_a_new_connection_takes_it_back() {
    let mut broker = Broker::new();
    let delay = [Property::WillDelay(30)];
    let hello = Hello { will: Some(will("gone/a", &delay)), ..Hello::lasting(Version::V5, "a") };
    let client = broker.connect(&hello, false);
    broker.gone(client);
    broker.pass(Duration::from_millis(29_999));
    let client = broker.connect(&hello, true);
    broker.pass(Duration::from_secs(60));
    broker.send(client, &tidegate_wire::mqtt::Packet::PingReq);
    assert!(broker.upstream.is_empty());
    broker.gone(client);
    broker.pass(Duration::from_millis(29_999));
    assert!(broker.upstream.is_empty(), "never early");
    broker.pass(Duration::from_millis(1));
    assert_eq!(broker.topics(), ["gone/a"]);
}

#[test]
fn a_delayed_will_goes_out_when_its_session_ends_before() {
    let delay = [Property::WillDelay(u32::MAX)];
    let hello = Hello { will: Some(will("gone/a", &delay)), ..Hello::new(Version::V5, "a") };
    let mut broker = Broker::new();
    let client = broker.connect(&hello.clone().with(Property::SessionExpiry(10)), false);
    broker.gone(client);
    broker.pass(Duration::from_millis(9_999));
    assert!(broker.upstream.is_empty());
    broker.pass(Duration::from_millis(1));
    assert_eq!(broker.topics(), ["gone/a"]);
    // A session that ends with its connection, and one that a clean start ends.
    let client = broker.connect(&hello, false);
    broker.gone(client);
    assert_eq!(broker.topics().len(), 2);
    let client = broker.connect(&hello.clone().with(Property::SessionExpiry(10)), false);
    broker.gone(client);
    broker.connect(&Hello::new(Version::V5, "a"), false);
    assert_eq!(broker.topics().len(), 3);
}

#[test]
fn what_goes_with_a_will_is_passed_on_in_its_order() {
    let list = [
        Property::PayloadFormat(true),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("why"),
        Property::CorrelationData(b"\0\xFF"),
        Property::User("b", "1"),
        Property::User("a", "2"),
        Property::User("b", "1"),
        Property::User("", ""),
    ];
    let mut broker = Broker::new();
    let witness = broker.client(Version::V5, "w");
    broker.subscribed(witness, "gone/+", Qos::AtMostOnce);
    let with = Will { properties: Properties::new(&list), ..will("gone/a", &[]) };
    let client = broker.connect(&Hello { will: Some(with), ..Hello::new(Version::V5, "a") }, false);
    broker.gone(client);
    let frames = broker.frames(witness);
    assert_eq!(properties(Version::V5, &frames[0]), list);
}

#[test]
fn a_wills_topic_is_text_and_a_topic() {
    for version in BOTH {
        let level = version as u8;
        let none = if version.is_v5() { "00" } else { "" };
        for (topic, reason) in
            [("0002 C0AF", 0x81), ("0001 00", 0x81), ("0003'a/#'", 0x90), ("0001'+'", 0x90), ("0000", 0x90)]
        {
            let mut broker = Broker::new();
            let body = format!("0004'MQTT'{level:02X} 06 0000 {none} 0001'd' {none} {topic} 0000");
            let client = broker.raw(version, &whole(0x10, &body));
            let connack = format!("CONNACK 0x{reason:02X}");
            let told: &[&str] = if version.is_v5() { &[&connack] } else { &[] };
            broker.ended(client, told);
        }
    }
}

#[test]
fn a_will_that_could_not_be_published_is_refused_at_once() {
    for version in BOTH {
        let mut broker = Broker::new();
        let deep = "a/".repeat(100);
        for topic in ["$SYS/broker/load", "$CONTROL/x", deep.as_str()] {
            let client = broker.greet(&Hello { will: Some(will(topic, &[])), ..Hello::new(version, "a") });
            let expected = if version.is_v5() { "CONNACK 0x90" } else { "CONNACK 0x87" };
            broker.ended(client, &[expected]);
        }
        assert_eq!(broker.stats().sessions, 0);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn a_will_is_taken_back_by_the_connection_that_brings_a_new_one() {
    let mut broker = Broker::new();
    let delay = [Property::WillDelay(30)];
    let first = Hello { will: Some(will("gone/first", &delay)), ..Hello::lasting(Version::V5, "a") };
    let second = Hello { will: Some(will("gone/second", &delay)), ..Hello::lasting(Version::V5, "a") };
    let client = broker.connect(&first, false);
    broker.gone(client);
    let client = broker.connect(&second, true);
    broker.publish(client, message("t", Qos::AtMostOnce, 0));
    broker.gone(client);
    broker.pass(Duration::from_secs(100));
    assert_eq!(broker.topics(), ["t", "gone/second"]);
}
