//! PUBLISH as it comes in: what it must look like, what answers it, what is refused and how (MQTT 5.0, 3.3).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Hello, message};
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::{Packet, Properties, Property, Publish, Qos, Version};

fn body(version: Version, text: &str) -> String {
    text.replace('@', if version.is_v5() { "00" } else { "" })
}

#[test]
fn each_quality_of_service_has_its_answer() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.publish(client, message("t", Qos::AtMostOnce, 0));
        assert_eq!(broker.said(client), [""; 0]);
        broker.publish(client, message("t", Qos::AtLeastOnce, 5));
        assert_eq!(broker.said(client), ["PUBACK 5"]);
        broker.publish(client, message("t", Qos::ExactlyOnce, 6));
        assert_eq!(broker.said(client), ["PUBREC 6"]);
        broker.pubrel(client, 6);
        assert_eq!(broker.said(client), ["PUBCOMP 6"]);
        assert_eq!(broker.topics(), ["t", "t", "t"]);
    }
}

#[test]
fn dup_without_a_quality_of_service_ends_the_connection() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.bytes(client.conn, &whole(0x38, &body(version, "0001't' @ 'x'")));
        broker.ended_for(client, 0x81);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn dup_is_not_passed_on() {
    for version in BOTH {
        let mut broker = Broker::new();
        let (publisher, subscriber) = (broker.client(version, "p"), broker.client(version, "s"));
        broker.subscribed(subscriber, "t", Qos::ExactlyOnce);
        broker.publish(publisher, Publish { dup: true, ..message("t", Qos::AtLeastOnce, 1) });
        broker.publish(publisher, Publish { dup: true, ..message("t", Qos::ExactlyOnce, 2) });
        assert_eq!(broker.said(subscriber), ["PUBLISH 1:1 t 21.5", "PUBLISH 2:2 t 21.5"]);
    }
}

#[test]
fn quality_of_service_3_ends_the_connection() {
    for version in BOTH {
        for first in [0x36, 0x3E, 0x37] {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &whole(first, &body(version, "0001't' 0001 @ 'x'")));
            broker.ended_for(client, 0x81);
            assert!(broker.upstream.is_empty());
        }
    }
}

#[test]
fn a_topic_name_has_no_wildcards_and_is_not_empty() {
    for version in BOTH {
        for (topic, reason) in [("0001'#'", 0x90), ("0003'a/+'", 0x90), ("0004'a/#b'", 0x90), ("0000", 0x82)]
        {
            let mut broker = Broker::new();
            let client = broker.client(version, "a");
            broker.bytes(client.conn, &whole(0x32, &body(version, &format!("{topic} 0001 @"))));
            broker.ended_for(client, reason);
            assert!(broker.upstream.is_empty());
        }
    }
}

#[test]
fn a_topic_alias_of_zero_or_never_set_ends_the_connection() {
    for (properties, reason) in [("03 23 0000", 0x94), ("03 23 0001", 0x82)] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(0x30, &format!("0000 {properties}")));
        broker.ended_for(client, reason);
    }
}

#[test]
fn every_topic_alias_up_to_the_maximum_is_understood() {
    let mut broker = Broker::new();
    let maximum = broker.setup.limits.topic_alias_maximum;
    let client = broker.client(Version::V5, "a");
    let subscriber = broker.client(Version::V5, "s");
    broker.subscribed(subscriber, "of/#", Qos::AtMostOnce);
    for round in 0..3 {
        for alias in 1..=maximum {
            let list = [Property::TopicAlias(alias)];
            // Set, used, and set to another topic.
            let name = format!("of/{round}/{alias}");
            for topic in [name.as_str(), ""] {
                let properties = Properties::new(&list);
                broker.publish(client, Publish { properties, ..message(topic, Qos::AtMostOnce, 0) });
                assert_eq!(broker.said(subscriber), [format!("PUBLISH - {name} 21.5")]);
            }
        }
    }
}

#[test]
fn topic_aliases_end_with_their_connection() {
    let mut broker = Broker::new();
    let list = [Property::TopicAlias(1)];
    let aliased =
        |topic| Publish { properties: Properties::new(&list), ..message(topic, Qos::AtMostOnce, 0) };
    let client = broker.connect(&Hello::lasting(Version::V5, "a"), false);
    broker.publish(client, aliased("t"));
    broker.gone(client);
    let client = broker.connect(&Hello::lasting(Version::V5, "a"), true);
    broker.publish(client, aliased(""));
    broker.ended_for(client, 0x82);
    assert_eq!(broker.topics(), ["t"]);
}

#[test]
fn a_response_topic_is_a_topic_name_in_text() {
    for (topic, reason) in [("0002 C0AF", 0x81), ("0001 00", 0x81), ("0001'#'", 0x90), ("0003'a/+'", 0x90)] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        let length = tidegate_tests::mqtt::bytes(topic).len() + 1;
        broker.bytes(client.conn, &whole(0x30, &format!("0001't' {length:02X} 08 {topic}")));
        broker.ended_for(client, reason);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn a_content_type_is_text() {
    for text in ["0002 C0AF", "0001 00", "0003 EDA080"] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        let length = tidegate_tests::mqtt::bytes(text).len() + 1;
        broker.bytes(client.conn, &whole(0x30, &format!("0001't' {length:02X} 03 {text}")));
        broker.ended_for(client, 0x81);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn a_subscription_identifier_from_a_client_ends_the_connection() {
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    broker.bytes(client.conn, &whole(0x30, "0001't' 02 0B 01"));
    broker.ended_for(client, 0x82);
    assert!(broker.upstream.is_empty());
}

#[test]
fn what_may_not_be_published_is_refused_and_never_passed_on() {
    let deep = "a/".repeat(100);
    let long = "a".repeat(600);
    for topic in ["$SYS/x", "$CONTROL/x", "a\u{7}b", deep.as_str(), long.as_str()] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.subscribed(client, "#", Qos::AtMostOnce);
        for (qos, id, answer) in
            [(Qos::AtLeastOnce, 1, "PUBACK 1 0x90"), (Qos::ExactlyOnce, 2, "PUBREC 2 0x90")]
        {
            broker.publish(client, message(topic, qos, id));
            assert_eq!(broker.said(client), [answer]);
        }
        // 3.1.1 has no word for it: an acknowledgement would be a lie, so the connection ends.
        let old = broker.client(Version::V3_1_1, "b");
        broker.publish(old, message(topic, Qos::AtLeastOnce, 1));
        broker.ended(old, &[]);
        assert!(broker.upstream.is_empty());
    }
}

#[test]
fn what_cannot_be_stored_is_not_acknowledged_before_it_can() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        broker.disk_works = false;
        broker.publish(client, message("t", Qos::AtLeastOnce, 1));
        broker.publish(client, message("t", Qos::ExactlyOnce, 2));
        broker.send(client, &Packet::PingReq);
        assert_eq!(broker.said(client), ["PINGRESP"], "ownership is not accepted yet");
        broker.disk_recovers();
        assert_eq!(broker.said(client), ["PUBACK 1", "PUBREC 2"]);
    }
}
