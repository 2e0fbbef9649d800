//! The three qualities of service, both ways, and what is sent again when (MQTT 5.0, 4.1, 4.3, 4.4).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Client, Hello, message, packet_id};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Ack, Packet, Properties, Property, Publish, Qos, ReasonCode, Version};

/// A publisher, and a subscriber with a session that lasts.
fn pair(version: Version, qos: Qos) -> (Broker, Client, Client) {
    let mut broker = Broker::new();
    let publisher = broker.client(version, "p");
    let subscriber = broker.connect(&Hello::lasting(version, "s"), false);
    broker.subscribed(subscriber, "t", qos);
    (broker, publisher, subscriber)
}

#[test]
fn at_most_once_out_is_sent_once_without_dup_and_forgotten() {
    for version in ALL_VERSIONS {
        let (mut broker, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        broker.publish(publisher, message("t", Qos::AtMostOnce, 0));
        assert_eq!(broker.said(subscriber), ["PUBLISH - t 21.5"]);
        broker.gone(subscriber);
        let subscriber = broker.connect(&Hello::lasting(version, "s"), true);
        assert_eq!(broker.said(subscriber), [""; 0]);
    }
}

#[test]
fn at_least_once_out_is_open_until_its_puback() {
    for version in ALL_VERSIONS {
        let (mut broker, publisher, mut subscriber) = pair(version, Qos::AtLeastOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(broker.said(subscriber), ["PUBLISH 1:1 t 21.5"]);
        // As long as it is not acknowledged each new connection gets it again, marked, under the same id.
        for _ in 0..3 {
            broker.gone(subscriber);
            subscriber = broker.greet(&Hello::lasting(version, "s"));
            assert_eq!(broker.said(subscriber)[1..], ["PUBLISH 1:1 dup t 21.5"]);
        }
        broker.puback(subscriber, 1);
        broker.gone(subscriber);
        let subscriber = broker.connect(&Hello::lasting(version, "s"), true);
        assert_eq!(broker.said(subscriber), [""; 0]);
    }
}

#[test]
fn at_least_once_in_is_acknowledged_and_after_that_its_id_is_free() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        for dup in [false, true] {
            broker.publish(client, Publish { dup, ..message("t", Qos::AtLeastOnce, 1) });
            assert_eq!(broker.said(client), ["PUBACK 1"]);
        }
        assert_eq!(broker.topics(), ["t", "t"], "whatever DUP says");
    }
}

#[test]
fn exactly_once_out_goes_its_four_steps_and_sends_the_open_one_again() {
    for version in ALL_VERSIONS {
        let (mut broker, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        let hello = Hello::lasting(version, "s");
        broker.publish(publisher, message("t", Qos::ExactlyOnce, 1));
        assert_eq!(broker.said(subscriber), ["PUBLISH 2:1 t 21.5"]);
        broker.gone(subscriber);
        let subscriber = broker.greet(&hello);
        assert_eq!(broker.said(subscriber)[1..], ["PUBLISH 2:1 dup t 21.5"], "PUBLISH is open until PUBREC");
        broker.pubrec(subscriber, 1);
        assert_eq!(broker.said(subscriber), ["PUBREL 1"]);
        broker.gone(subscriber);
        let subscriber = broker.greet(&hello);
        assert_eq!(broker.said(subscriber)[1..], ["PUBREL 1"], "PUBREL until PUBCOMP; PUBLISH never again");
        broker.pubrec(subscriber, 1);
        assert_eq!(broker.said(subscriber), ["PUBREL 1"]);
        broker.pubcomp(subscriber, 1);
        broker.gone(subscriber);
        let subscriber = broker.greet(&hello);
        assert_eq!(broker.said(subscriber)[1..], [""; 0]);
    }
}

#[test]
fn exactly_once_in_reaches_everybody_once_however_often_it_comes() {
    for version in ALL_VERSIONS {
        let (mut broker, ..) = pair(version, Qos::ExactlyOnce);
        let hello = Hello::lasting(version, "a");
        let mut client = broker.connect(&hello, false);
        broker.publish(client, message("t", Qos::ExactlyOnce, 7));
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        for _ in 0..3 {
            broker.publish(client, Publish { dup: true, ..message("t", Qos::ExactlyOnce, 7) });
            assert_eq!(broker.said(client), ["PUBREC 7"], "acknowledged each time");
            broker.gone(client);
            client = broker.connect(&hello, true);
        }
        // Nor does a restart of the gateway make it two.
        broker.restart();
        client = broker.connect(&hello, true);
        broker.publish(client, Publish { dup: true, ..message("t", Qos::ExactlyOnce, 7) });
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        broker.pubrel(client, 7);
        assert_eq!(broker.said(client), ["PUBCOMP 7"]);
        let ids: std::collections::BTreeSet<_> =
            broker.upstream.iter().map(|publication| publication.message.id).collect();
        assert_eq!(ids.len(), 1);
        // After PUBCOMP the id is free.
        broker.publish(client, message("t", Qos::ExactlyOnce, 7));
        assert_eq!(broker.said(client), ["PUBREC 7"]);
        let ids: std::collections::BTreeSet<_> =
            broker.upstream.iter().map(|publication| publication.message.id).collect();
        assert_eq!(ids.len(), 2);
    }
}

#[test]
fn the_subscriber_gets_a_repeated_exactly_once_message_one_time() {
    for version in BOTH {
        let (mut broker, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        for dup in [false, true, true] {
            broker.publish(publisher, Publish { dup, ..message("t", Qos::ExactlyOnce, 7) });
        }
        assert_eq!(broker.said(publisher), ["PUBREC 7"; 3]);
        assert_eq!(broker.said(subscriber), ["PUBLISH 2:1 t 21.5"]);
    }
}

#[test]
fn every_pubrel_gets_its_pubcomp() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.publish(client, message("t", Qos::ExactlyOnce, 7));
        broker.pubrel(client, 7);
        broker.pubrel(client, 7);
        let again = if version.is_v5() { "PUBCOMP 7 0x92" } else { "PUBCOMP 7" };
        assert_eq!(broker.said(client), ["PUBREC 7", "PUBCOMP 7", again]);
    }
}

#[test]
fn an_id_whose_message_was_refused_is_free() {
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    broker.publish(client, message("$SYS/x", Qos::ExactlyOnce, 7));
    broker.publish(client, Publish { dup: true, ..message("t", Qos::ExactlyOnce, 7) });
    assert_eq!(broker.said(client), ["PUBREC 7 0x90", "PUBREC 7"]);
    assert_eq!(broker.topics(), ["t"], "a new message");
}

#[test]
fn nothing_is_sent_again_on_the_same_connection() {
    for version in BOTH {
        let (mut broker, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        broker.publish(publisher, message("t", Qos::ExactlyOnce, 2));
        broker.pubrec(subscriber, 2);
        assert_eq!(broker.said(subscriber), ["PUBLISH 1:1 t 21.5", "PUBLISH 2:2 t 21.5", "PUBREL 2"]);
        for _ in 0..60 {
            broker.pass(Duration::from_secs(60));
            broker.send(subscriber, &Packet::PingReq);
            assert_eq!(broker.said(subscriber), ["PINGRESP"]);
        }
    }
}

#[test]
fn what_a_client_refuses_is_not_sent_again() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut broker, publisher, subscriber) = pair(Version::V5, qos);
        broker.publish(publisher, message("t", qos, 1));
        broker.frames(subscriber);
        let properties = Properties::EMPTY;
        let refusal = Ack { packet_id: packet_id(1), reason: ReasonCode::QUOTA_EXCEEDED, properties };
        let ack = if qos == Qos::AtLeastOnce { Packet::PubAck(refusal) } else { Packet::PubRec(refusal) };
        broker.send(subscriber, &ack);
        assert_eq!(broker.said(subscriber), [""; 0], "no PUBREL either");
        broker.gone(subscriber);
        let subscriber = broker.connect(&Hello::lasting(Version::V5, "s"), true);
        assert_eq!(broker.said(subscriber), [""; 0]);
    }
}

#[test]
fn a_clean_start_gets_nothing_again() {
    for version in BOTH {
        let (mut broker, publisher, subscriber) = pair(version, Qos::ExactlyOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        broker.frames(subscriber);
        broker.gone(subscriber);
        let subscriber = broker.connect(&Hello { clean: true, ..Hello::lasting(version, "s") }, false);
        broker.pass(Duration::from_secs(10));
        assert_eq!(broker.said(subscriber), [""; 0]);
    }
}

#[test]
fn a_session_is_not_dropped_while_its_connection_is_open() {
    let mut broker = Broker::new();
    let hello = Hello { keep_alive: 1_000, clean: false, ..Hello::new(Version::V5, "a") };
    let hello = hello.with(Property::SessionExpiry(1));
    let client = broker.connect(&hello, false);
    broker.subscribed(client, "t", Qos::AtLeastOnce);
    broker.pass(Duration::from_secs(1_000));
    broker.publish(client, message("t", Qos::AtLeastOnce, 1));
    broker.pass(Duration::from_secs(1));
    assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5", "PUBACK 1"]);
    broker.gone(client);
    let client = broker.greet(&hello);
    assert_eq!(broker.said(client), ["CONNACK present", "PUBLISH 1:1 dup t 21.5"]);
    // A clean session lasts as long as its connection as well, and no longer.
    let client = broker.client(Version::V3_1_1, "b");
    broker.subscribed(client, "u", Qos::AtLeastOnce);
    broker.publish(client, message("u", Qos::AtLeastOnce, 1));
    assert_eq!(broker.said(client), ["PUBLISH 1:1 u 21.5", "PUBACK 1"]);
}

#[test]
fn a_session_is_dropped_when_its_expiry_has_passed() {
    let mut broker = Broker::new();
    let hello = Hello { clean: false, ..Hello::new(Version::V5, "a") }.with(Property::SessionExpiry(5));
    let client = broker.connect(&hello, false);
    broker.subscribed(client, "t", Qos::AtLeastOnce);
    broker.gone(client);
    broker.pass(Duration::from_secs(5));
    assert_eq!((broker.stats().sessions, broker.stats().subscriptions), (0, 0));
    assert!(broker.records.is_empty(), "nothing of it is left on the disk");
    let client = broker.connect(&hello, false);
    broker.publish(client, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(broker.said(client), ["PUBACK 1"]);
}

#[test]
fn subscriptions_survive_a_restart_of_the_gateway() {
    for version in BOTH {
        let mut broker = Broker::new();
        let hello = Hello::lasting(version, "a");
        let client = broker.connect(&hello, false);
        broker.subscribed(client, "t", Qos::AtLeastOnce);
        broker.restart();
        let client = broker.connect(&hello, true);
        broker.publish(client, message("t", Qos::AtLeastOnce, 1));
        broker.pass(Duration::from_secs(1));
        assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5", "PUBACK 1"]);
    }
}
