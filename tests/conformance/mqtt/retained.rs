//! Retained messages: what is kept of a topic, who gets it when, and with which flag (MQTT 5.0, 3.3.1.3, 3.8.3.1).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Client, Hello, message, properties, will};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{
    Properties, Property, Publish, Qos, ReasonCode, RetainHandling, Subscription, Version, Will,
};

fn retain(broker: &mut Broker, from: Client, publish: Publish<'_>) {
    broker.publish(from, Publish { retain: true, ..publish });
    if publish.qos == Qos::ExactlyOnce {
        broker.pubrel(from, publish.packet_id.unwrap().get());
    }
    broker.frames(from);
}

/// What a new subscriber hears behind its SUBACK.
fn heard(broker: &mut Broker, version: Version, wish: Subscription<'_>) -> Vec<String> {
    let client = broker.client(version, "reader");
    broker.subscribe(client, 1, &[wish]);
    let said = broker.said(client);
    assert!(said[0].starts_with("SUBACK 1"), "{said:?}");
    broker.disconnect(client, ReasonCode::SUCCESS, &[]);
    said[1..].to_vec()
}

fn wish(filter: &str) -> Subscription<'_> {
    Subscription::new(filter, Qos::ExactlyOnce)
}

#[test]
fn a_retained_message_replaces_the_one_before() {
    for version in BOTH {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut broker = Broker::new();
            let from = broker.client(version, "p");
            retain(&mut broker, from, Publish { payload: b"old", ..message("t", Qos::AtLeastOnce, 1) });
            retain(&mut broker, from, Publish { payload: b"other", ..message("u", Qos::AtLeastOnce, 2) });
            retain(&mut broker, from, Publish { payload: b"new", ..message("t", qos, 3) });
            let id = match qos {
                Qos::AtMostOnce => "-",
                Qos::AtLeastOnce => "1:1",
                Qos::ExactlyOnce => "2:1",
            };
            let expected = [format!("PUBLISH {id} retain t new")];
            assert_eq!(heard(&mut broker, version, wish("t")), expected, "with its quality of service");
            assert_eq!(heard(&mut broker, version, wish("+")).len(), 2, "one of each topic");
        }
    }
}

#[test]
fn an_empty_retained_message_removes_and_is_not_kept() {
    for version in BOTH {
        let mut broker = Broker::new();
        let from = broker.client(version, "p");
        let live = broker.client(version, "live");
        broker.subscribed(live, "t", Qos::AtMostOnce);
        retain(&mut broker, from, message("t", Qos::AtLeastOnce, 1));
        retain(&mut broker, from, Publish { payload: b"", ..message("t", Qos::AtLeastOnce, 2) });
        assert_eq!(broker.said(live), ["PUBLISH - t 21.5", "PUBLISH - t "], "it is passed on like others");
        assert_eq!(heard(&mut broker, version, wish("#")), [""; 0]);
        retain(&mut broker, from, Publish { payload: b"", ..message("never", Qos::AtLeastOnce, 3) });
        assert_eq!(heard(&mut broker, version, wish("#")), [""; 0]);
        broker.restart();
        assert_eq!(heard(&mut broker, version, wish("#")), [""; 0]);
    }
}

#[test]
fn a_message_without_retain_leaves_the_retained_one_alone() {
    for version in BOTH {
        let mut broker = Broker::new();
        let from = broker.client(version, "p");
        broker.publish(from, message("none", Qos::AtLeastOnce, 1));
        retain(&mut broker, from, Publish { payload: b"kept", ..message("t", Qos::AtLeastOnce, 1) });
        broker.publish(from, message("t", Qos::AtLeastOnce, 1));
        broker.publish(from, Publish { payload: b"", ..message("t", Qos::AtLeastOnce, 1) });
        assert_eq!(heard(&mut broker, version, wish("#")), ["PUBLISH 1:1 retain t kept"]);
    }
}

#[test]
fn retain_handling_says_when_retained_messages_come() {
    let mut broker = Broker::new();
    let from = broker.client(Version::V5, "p");
    retain(&mut broker, from, message("a/1", Qos::AtMostOnce, 0));
    retain(&mut broker, from, message("a/2", Qos::AtMostOnce, 0));
    retain(&mut broker, from, message("b", Qos::AtMostOnce, 0));
    let all = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
    for retain_handling in all {
        let client = broker.client(Version::V5, "reader");
        // New, and once more.
        for again in [false, true] {
            broker.subscribe(client, 1, &[Subscription { retain_handling, ..wish("a/+") }]);
            let mut said = broker.said(client);
            assert_eq!(said.remove(0), "SUBACK 1 [2]");
            said.sort();
            let come = match retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !again,
                RetainHandling::DoNotSend => false,
            };
            let expected: &[&str] =
                if come { &["PUBLISH - retain a/1 21.5", "PUBLISH - retain a/2 21.5"] } else { &[] };
            assert_eq!(said, expected, "{retain_handling:?}, again: {again}");
        }
        broker.gone(client);
    }
    // Before version 5 they always come.
    for version in [Version::V3_1, Version::V3_1_1] {
        let client = broker.client(version, "reader");
        for _ in 0..2 {
            broker.subscribe(client, 1, &[wish("b")]);
            assert_eq!(broker.said(client), ["SUBACK 1 [2]", "PUBLISH - retain b 21.5"]);
        }
        broker.gone(client);
    }
}

#[test]
fn the_retain_flag_is_passed_on_as_published_only_if_asked() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let from = broker.client(version, "p");
        let (plain, as_published) =
            (broker.client(version, "plain"), broker.client(Version::V5, "as-published"));
        broker.subscribed(plain, "t", Qos::AtMostOnce);
        broker.subscribe(as_published, 1, &[Subscription { retain_as_published: true, ..wish("t") }]);
        broker.frames(as_published);
        retain(&mut broker, from, message("t", Qos::AtMostOnce, 0));
        broker.publish(from, message("t", Qos::AtMostOnce, 0));
        assert_eq!(broker.said(plain), ["PUBLISH - t 21.5"; 2]);
        assert_eq!(broker.said(as_published), ["PUBLISH - retain t 21.5", "PUBLISH - t 21.5"]);
    }
}

#[test]
fn a_retained_will_is_retained() {
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let last_words = Will { retain: true, ..will("gone/a", &[]) };
        let client = broker.connect(&Hello { will: Some(last_words), ..Hello::new(version, "a") }, false);
        broker.gone(client);
        assert_eq!(heard(&mut broker, version, wish("gone/#")), ["PUBLISH 1:1 retain gone/a gone"]);
    }
}

#[test]
fn retained_messages_do_not_end_with_a_session() {
    for version in BOTH {
        let mut broker = Broker::new();
        let from = broker.client(version, "p");
        retain(&mut broker, from, message("t", Qos::AtLeastOnce, 1));
        broker.disconnect(from, ReasonCode::SUCCESS, &[]);
        broker.pass(Duration::from_secs(10_000_000));
        assert_eq!(heard(&mut broker, version, wish("t")).len(), 1);
        broker.restart();
        assert_eq!(heard(&mut broker, version, wish("t")).len(), 1, "nor with the gateway's process");
    }
}

#[test]
fn a_retained_message_brings_along_what_every_message_does() {
    let mut broker = Broker::new();
    let from = broker.client(Version::V5, "p");
    let list = [Property::MessageExpiry(10), Property::ContentType("text/plain"), Property::User("k", "v")];
    let publish = Publish { properties: Properties::new(&list), ..message("t", Qos::ExactlyOnce, 1) };
    retain(&mut broker, from, publish);
    broker.pass(Duration::from_secs(4));
    let client = broker.client(Version::V5, "reader");
    let lower = [Subscription::new("t", Qos::AtLeastOnce)];
    broker.subscribe_with(client, 1, &[Property::SubscriptionId(7)], &lower);
    let frames = broker.frames(client);
    assert_eq!(tidegate_tests::mqtt::words(Version::V5, &frames[1]), "PUBLISH 1:1 retain t 21.5");
    assert_eq!(
        properties(Version::V5, &frames[1]),
        [
            Property::MessageExpiry(6),
            Property::ContentType("text/plain"),
            Property::User("k", "v"),
            Property::SubscriptionId(7)
        ]
    );
    broker.pass(Duration::from_secs(7));
    assert_eq!(heard(&mut broker, Version::V5, wish("t")), [""; 0], "it has expired");
}

#[test]
fn where_nothing_is_retained_it_is_said_and_refused() {
    let mut broker = Broker::limited(|limits| limits.retained_messages = 0);
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let frames = broker.frames(client);
    assert!(properties(Version::V5, &frames[0]).contains(&Property::RetainAvailable(false)));
    broker.publish(client, Publish { retain: true, ..message("t", Qos::AtLeastOnce, 1) });
    broker.ended_for(client, 0x9A);
    let last_words = Will { retain: true, ..will("gone", &[]) };
    let client = broker.greet(&Hello { will: Some(last_words), ..Hello::new(Version::V5, "a") });
    broker.ended(client, &["CONNACK 0x9A"]);
    assert!(broker.upstream.is_empty());
    // Where it is, CONNACK does not say otherwise.
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let frames = broker.frames(client);
    assert!(!properties(Version::V5, &frames[0]).contains(&Property::RetainAvailable(false)));
}
