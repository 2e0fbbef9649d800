//! SUBSCRIBE, UNSUBSCRIBE and their answers (MQTT 5.0, 3.8 to 3.11).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Hello, has_reason_string, message};
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::{Property, Qos, Subscription, Version};

fn refused(version: Version, first: u8, body: &str, reason: u8) {
    let mut broker = Broker::new();
    let client = broker.client(version, "a");
    let properties = if version.is_v5() { "00" } else { "" };
    broker.bytes(client.conn, &whole(first, &body.replace('@', properties)));
    broker.ended_for(client, reason);
    assert_eq!(broker.stats().subscriptions, 0);
}

#[test]
fn a_subscription_packet_needs_an_entry() {
    for version in BOTH {
        refused(version, 0x82, "0001 @", 0x82);
        refused(version, 0xA2, "0001 @", 0x82);
    }
}

#[test]
fn reserved_bits_of_the_options_end_the_connection() {
    for option in ["40", "80", "C1"] {
        refused(Version::V5, 0x82, &format!("0001 @ 0001'a' {option}"), 0x81);
    }
    for option in ["04", "08", "10", "20", "40", "80"] {
        refused(Version::V3_1_1, 0x82, &format!("0001 @ 0001'a' {option}"), 0x81);
    }
    for version in BOTH {
        refused(version, 0x82, "0001 @ 0001'a' 03", 0x82);
    }
    refused(Version::V5, 0x82, "0001 @ 0001'a' 30", 0x82);
}

#[test]
fn each_entry_has_its_code_in_its_place() {
    let deep = "a/".repeat(100);
    for version in ALL_VERSIONS {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        let wishes = [
            Subscription::new("x", Qos::ExactlyOnce),
            Subscription::new(&deep, Qos::AtLeastOnce),
            Subscription::new("y", Qos::AtMostOnce),
            Subscription::new("z", Qos::AtLeastOnce),
        ];
        broker.subscribe(client, 77, &wishes);
        let failed = if version.is_v5() { 0x8F } else { 0x80 };
        assert_eq!(broker.said(client), [format!("SUBACK 77 [2, {failed}, 0, 1]")]);
        assert_eq!(broker.stats().subscriptions, 3, "one that fails takes none of the others along");
        broker.unsubscribe(client, 78, &["none", "y", "x"]);
        let codes = if version.is_v5() { "[17, 0, 0]" } else { "[]" };
        assert_eq!(broker.said(client), [format!("UNSUBACK 78 {codes}")]);
        assert_eq!(broker.stats().subscriptions, 1);
    }
}

#[test]
fn many_entries_are_like_many_packets() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        // The same filter twice: the later one counts, and each has its code.
        let wishes = [Subscription::new("t", Qos::AtMostOnce), Subscription::new("t", Qos::AtLeastOnce)];
        broker.subscribe(client, 1, &wishes);
        assert_eq!(broker.said(client), ["SUBACK 1 [0, 1]"]);
        broker.publish(client, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5", "PUBACK 1"]);
        broker.unsubscribe(client, 2, &["t", "t"]);
        let codes = if version.is_v5() { "[0, 17]" } else { "[]" };
        assert_eq!(broker.said(client), [format!("UNSUBACK 2 {codes}")]);
    }
}

#[test]
fn the_lower_quality_of_service_counts() {
    let all = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    for version in ALL_VERSIONS {
        for granted in all {
            for published in all {
                let mut broker = Broker::new();
                let (publisher, client) = (broker.client(version, "p"), broker.client(version, "a"));
                broker.subscribed(client, "t", granted);
                let id = u16::from(published != Qos::AtMostOnce);
                broker.publish(publisher, message("t", published, id));
                let expected = match (granted as u8).min(published as u8) {
                    0 => "PUBLISH - t 21.5",
                    1 => "PUBLISH 1:1 t 21.5",
                    _ => "PUBLISH 2:1 t 21.5",
                };
                assert_eq!(broker.said(client), [expected]);
            }
        }
    }
}

#[test]
fn a_subscription_to_the_same_filter_replaces_the_one_before() {
    for version in BOTH {
        let mut broker = Broker::new();
        let (publisher, client) = (broker.client(version, "p"), broker.client(version, "a"));
        broker.subscribed(client, "t", Qos::ExactlyOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        assert_eq!(broker.said(client), ["PUBLISH 1:1 t 21.5"]);
        broker.subscribed(client, "t", Qos::AtMostOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 2));
        assert_eq!(broker.said(client), ["PUBLISH - t 21.5"], "one copy, at the new quality of service");
        assert_eq!(broker.stats().subscriptions, 1);
        // What was on its way under the old subscription is not lost with it.
        broker.gone(client);
        let lasting = broker.connect(&Hello::lasting(version, "b"), false);
        broker.subscribed(lasting, "t", Qos::AtLeastOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 3));
        broker.frames(lasting);
        broker.subscribed(lasting, "t", Qos::AtMostOnce);
        broker.gone(lasting);
        let lasting = broker.greet(&Hello::lasting(version, "b"));
        assert_eq!(broker.said(lasting)[1..], ["PUBLISH 1:1 dup t 21.5"]);
        // It is the new one that outlives a restart.
        broker.puback(lasting, 1);
        broker.restart();
        let (lasting, publisher) =
            (broker.connect(&Hello::lasting(version, "b"), true), broker.client(version, "p"));
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 4));
        assert_eq!(broker.said(lasting), ["PUBLISH - t 21.5"]);
    }
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut broker = Broker::new();
    let (me, other) = (broker.client(Version::V5, "me"), broker.client(Version::V5, "other"));
    let wish = Subscription { no_local: true, ..Subscription::new("t", Qos::AtLeastOnce) };
    broker.subscribe(me, 1, &[wish]);
    broker.frames(me);
    broker.publish(me, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(broker.said(me), ["PUBACK 1"]);
    broker.publish(other, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(broker.said(me), ["PUBLISH 1:1 t 21.5"]);
    // Not only on the same connection: the same client id.
    let again = broker.connect(&Hello::lasting(Version::V5, "me"), false);
    broker.subscribe(again, 1, &[wish]);
    broker.gone(again);
    let again = broker.connect(&Hello::lasting(Version::V5, "me"), true);
    broker.publish(again, message("t", Qos::AtLeastOnce, 2));
    assert_eq!(broker.said(again), ["PUBACK 2"]);
}

#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    refused(Version::V5, 0x82, "0001 @ 000A'$share/g/a' 04", 0x82);
}

#[test]
fn a_filter_that_is_none_ends_the_connection() {
    for version in BOTH {
        for filter in ["0000", "0002'a+'", "0003'#/a'", "0004'a/#b'", "0002'##'"] {
            refused(version, 0x82, &format!("0001 @ {filter} 00"), 0x8F);
            refused(version, 0xA2, &format!("0001 @ {filter}"), 0x8F);
        }
    }
}

#[test]
fn a_reason_string_says_why_a_subscription_fails_if_there_is_room() {
    let deep = "a/".repeat(100);
    for (most, told) in [(u32::MAX, true), (45, false)] {
        let mut broker = Broker::new();
        let client =
            broker.connect(&Hello::new(Version::V5, "a").with(Property::MaximumPacketSize(most)), false);
        let fine = [Subscription::new("x", Qos::AtMostOnce)];
        broker.subscribe(client, 1, &fine);
        let frames = broker.frames(client);
        assert!(!has_reason_string(Version::V5, &frames[0]), "nothing is wrong");
        broker.subscribe(client, 2, &[fine[0], Subscription::new(&deep, Qos::AtMostOnce)]);
        let frames = broker.frames(client);
        assert_eq!(has_reason_string(Version::V5, &frames[0]), told);
        assert_eq!(frames[0].last(), Some(&0x8F));
        broker.unsubscribe(client, 3, &["none"]);
        let frames = broker.frames(client);
        assert!(frames[0].len() <= 7, "what was not there is no refusal");
    }
}

#[test]
fn unsubscribe_compares_filters_letter_by_letter() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        for filter in ["a/+", "a/b", "A/b", "a/b/", "a/#"] {
            broker.subscribed(client, filter, Qos::AtMostOnce);
        }
        broker.unsubscribe(client, 1, &["a/+"]);
        broker.frames(client);
        assert_eq!(broker.stats().subscriptions, 4, "only itself, not what it matches");
        broker.unsubscribe(client, 2, &["+/b", "a", "#"]);
        let codes = if version.is_v5() { "[17, 17, 17]" } else { "[]" };
        assert_eq!(broker.said(client), [format!("UNSUBACK 2 {codes}")], "answered although nothing matched");
        assert_eq!(broker.stats().subscriptions, 4);
    }
}

#[test]
fn after_unsubscribe_nothing_new_comes_and_what_was_begun_is_finished() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let client = broker.connect(&Hello::lasting(version, "a"), false);
        broker.subscribed(client, "t", Qos::ExactlyOnce);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        broker.publish(publisher, message("t", Qos::ExactlyOnce, 2));
        broker.frames(client);
        broker.unsubscribe(client, 3, &["t"]);
        broker.frames(client);
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 3));
        assert_eq!(broker.said(client), [""; 0]);
        // Both are finished, on this connection or the next.
        broker.pubrec(client, 2);
        assert_eq!(broker.said(client), ["PUBREL 2"]);
        broker.gone(client);
        let client = broker.greet(&Hello::lasting(version, "a"));
        assert_eq!(broker.said(client)[1..], ["PUBLISH 1:1 dup t 21.5", "PUBREL 2"]);
    }
}
