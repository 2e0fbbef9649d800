//! Topic names and filters: wildcards, `$`, levels, and that nothing is made of them that they do not say (MQTT 5.0, 4.7).

use crate::broker::{BOTH, Broker, message};
use tidegate_wire::mqtt::Qos;

/// Whether a message under this name reaches a subscriber to this filter.
fn matches(filter: &str, topic: &str) -> bool {
    let outcomes = BOTH.map(|version| {
        let mut broker = Broker::new();
        let (publisher, subscriber) = (broker.client(version, "p"), broker.client(version, "s"));
        broker.subscribed(subscriber, filter, Qos::AtMostOnce);
        broker.publish(publisher, message(topic, Qos::AtMostOnce, 0));
        !broker.said(subscriber).is_empty()
    });
    assert_eq!(outcomes[0], outcomes[1]);
    outcomes[0]
}

#[test]
fn the_multi_level_wildcard_stands_for_its_parent_and_all_below() {
    for topic in
        ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
    {
        assert!(matches("sport/tennis/player1/#", topic), "{topic}");
    }
    assert!(matches("sport/#", "sport"));
    assert!(matches("#", "a/b/c"));
    assert!(!matches("sport/tennis/player1/#", "sport/tennis/player2"));
    assert!(!matches("sport/#", "sports"));
}

#[test]
fn the_single_level_wildcard_stands_for_exactly_one_level() {
    for (filter, topic, expected) in [
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/tennis/#", "sport/tennis", true),
        ("sport/+/player1", "sport/tennis/player1", true),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
}

#[test]
fn names_are_compared_as_they_are() {
    for (filter, topic) in [
        ("ACCOUNTS", "Accounts"),
        ("/finance", "finance"),
        ("a/", "a"),
        ("a//b", "a/b"),
        // One letter with an accent, and a letter and an accent: alike to the eye only.
        ("\u{E9}", "e\u{301}"),
        ("a b", "a%20b"),
        ("a", "a "),
    ] {
        assert!(!matches(filter, topic), "{filter} {topic}");
        assert!(!matches(topic, filter), "{topic} {filter}");
        assert!(matches(topic, topic) && matches(filter, filter));
    }
}

#[test]
fn a_leading_wildcard_does_not_match_a_name_that_begins_with_a_dollar() {
    // Clients cannot publish under such names, so that the engine has nothing to show here: `mqtt_session` delivers one.
    let filter = |text| tidegate_engine::topic::Filter::new(text).unwrap();
    let topic = tidegate_engine::topic::Topic::new("$SYS/monitor/Clients").unwrap();
    for leading in ["#", "+/monitor/Clients", "+/#", "+/monitor/#"] {
        assert!(!filter(leading).matches(&topic), "{leading}");
    }
    for named in ["$SYS/#", "$SYS/monitor/+", "$SYS/monitor/Clients"] {
        assert!(filter(named).matches(&topic), "{named}");
    }
}

#[test]
fn a_name_may_be_short_or_have_empty_levels() {
    for topic in ["a", "/", "//", " ", "a/", "/a"] {
        assert!(matches(topic, topic), "{topic}");
    }
}

#[test]
fn names_up_to_the_gateways_limit_are_taken_and_longer_ones_refused() {
    for version in BOTH {
        let mut broker = Broker::new();
        let most = broker.setup.limits.topic_bytes;
        let client = broker.client(version, "a");
        let longest = "x".repeat(most);
        broker.subscribed(client, &longest, Qos::AtMostOnce);
        broker.publish(client, message(&longest, Qos::AtLeastOnce, 1));
        let said = broker.said(client);
        assert_eq!(said.len(), 2);
        assert_eq!(said[1], "PUBACK 1");
        let longer = "x".repeat(65_535);
        broker.publish(client, message(&longer, Qos::AtLeastOnce, 2));
        if version.is_v5() {
            assert_eq!(broker.said(client), ["PUBACK 2 0x90"]);
        } else {
            broker.ended(client, &[]);
        }
    }
}
