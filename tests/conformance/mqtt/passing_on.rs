//! A message on its way to subscribers: what goes with it unaltered, what is adjusted, what is left out
//! (MQTT 5.0, 3.3).

use crate::broker::{ALL_VERSIONS, BOTH, Broker, Client, Hello, message, properties};
use std::collections::BTreeMap;
use tidegate_wire::mqtt::{self, Packet, Properties, Property, Publish, Qos, Subscription, Version};

/// A publisher, and a subscriber to everything.
fn pair(version: Version) -> (Broker, Client, Client) {
    let mut broker = Broker::new();
    let (publisher, subscriber) = (broker.client(version, "p"), broker.client(version, "s"));
    broker.subscribed(subscriber, "#", Qos::ExactlyOnce);
    (broker, publisher, subscriber)
}

/// What a subscriber gets of a message with these properties.
fn passed(list: &[Property<'_>]) -> Vec<u8> {
    let (mut broker, publisher, subscriber) = pair(Version::V5);
    let publish = Publish { properties: Properties::new(list), ..message("t", Qos::AtLeastOnce, 1) };
    broker.publish(publisher, publish);
    let frames = broker.frames(subscriber);
    assert_eq!(frames.len(), 1);
    frames[0].clone()
}

#[test]
fn the_payload_format_is_passed_on() {
    let frame = passed(&[Property::PayloadFormat(true)]);
    assert_eq!(properties(Version::V5, &frame), [Property::PayloadFormat(true)]);
    // To say that bytes are bytes is to say nothing.
    let frame = passed(&[Property::PayloadFormat(false)]);
    assert!(!properties(Version::V5, &frame).contains(&Property::PayloadFormat(true)));
}

#[test]
fn response_topic_correlation_data_and_content_type_are_passed_on_unaltered() {
    for property in [
        Property::ResponseTopic("answers/7/\u{2A6D4}"),
        Property::CorrelationData(&[0, 1, 0xFF, 0]),
        Property::CorrelationData(&[]),
        Property::ContentType("application/vnd.x; q=\"1\""),
        Property::ContentType(""),
    ] {
        let frame = passed(&[property]);
        assert_eq!(properties(Version::V5, &frame), [property]);
    }
}

#[test]
fn user_properties_are_passed_on_in_order_with_repetitions() {
    let list = [
        Property::User("z", "1"),
        Property::User("a", "\u{FEFF}"),
        Property::User("z", "1"),
        Property::User("", ""),
        Property::User("z", "0"),
    ];
    let frame = passed(&list);
    assert_eq!(properties(Version::V5, &frame), list);
}

#[test]
fn older_versions_get_the_message_without_properties_and_the_other_way_round() {
    let mut broker = Broker::new();
    let new = broker.client(Version::V5, "new");
    let clients =
        ALL_VERSIONS.map(|version| broker.client(version, version.name().replace(' ', "-").as_str()));
    for client in clients {
        broker.subscribed(client, "t", Qos::AtLeastOnce);
    }
    let list = [Property::ContentType("text/plain")];
    broker.publish(new, Publish { properties: Properties::new(&list), ..message("t", Qos::AtLeastOnce, 1) });
    for client in clients {
        let frames = broker.frames(client);
        let expected: &[Property<'_>] = if client.version.is_v5() { &list } else { &[] };
        assert_eq!(properties(client.version, &frames[0]), expected);
        broker.puback(client, 1);
    }
    for (number, publisher) in (2..).zip(clients) {
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 9));
        for client in clients {
            let said = broker.said(client);
            assert!(said.contains(&format!("PUBLISH 1:{number} t 21.5")), "{said:?}");
            broker.puback(client, number);
        }
    }
}

#[test]
fn a_message_reaches_only_whose_filter_matches_and_under_its_own_name() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let (a, b) = (broker.client(version, "a"), broker.client(version, "b"));
        broker.subscribed(a, "sport/+/player1", Qos::AtMostOnce);
        broker.subscribed(b, "sport/#", Qos::AtMostOnce);
        for topic in ["sport/tennis/player1", "sport/tennis/player2", "sports", "sport"] {
            broker.publish(publisher, message(topic, Qos::AtMostOnce, 0));
        }
        assert_eq!(broker.said(a), ["PUBLISH - sport/tennis/player1 21.5"]);
        assert_eq!(
            broker.said(b),
            [
                "PUBLISH - sport/tennis/player1 21.5",
                "PUBLISH - sport/tennis/player2 21.5",
                "PUBLISH - sport 21.5"
            ]
        );
    }
}

#[test]
fn overlapping_subscriptions_give_the_highest_quality_of_service() {
    const FILTERS: [&str; 3] = ["a/#", "a/+", "a/b"];
    for version in BOTH {
        for highest in FILTERS {
            let mut broker = Broker::new();
            let (publisher, client) = (broker.client(version, "p"), broker.client(version, "a"));
            for filter in FILTERS {
                let qos = if filter == highest { Qos::ExactlyOnce } else { Qos::AtMostOnce };
                broker.subscribed(client, filter, qos);
            }
            broker.publish(publisher, message("a/b", Qos::ExactlyOnce, 1));
            assert_eq!(broker.said(client), ["PUBLISH 2:1 a/b 21.5"], "{highest}: one copy");
        }
    }
}

#[test]
fn one_copy_has_the_identifiers_of_all_subscriptions_that_match() {
    let mut broker = Broker::new();
    let (publisher, client) = (broker.client(Version::V5, "p"), broker.client(Version::V5, "a"));
    for (number, filter) in [(7, "a/#"), (268_435_455, "a/b"), (9, "c"), (7, "+/b")] {
        let wish = [Subscription::new(filter, Qos::AtLeastOnce)];
        broker.subscribe_with(client, 1, &[Property::SubscriptionId(number)], &wish);
    }
    broker.subscribe(client, 2, &[Subscription::new("+/+", Qos::AtLeastOnce)]);
    broker.frames(client);
    broker.publish(publisher, message("a/b", Qos::AtLeastOnce, 1));
    let frames = broker.frames(client);
    assert_eq!(frames.len(), 1);
    let mut ids = properties(Version::V5, &frames[0]);
    ids.sort_unstable_by_key(|property| match property {
        Property::SubscriptionId(id) => *id,
        other => panic!("{other:?}"),
    });
    ids.dedup();
    assert_eq!(ids, [Property::SubscriptionId(7), Property::SubscriptionId(268_435_455)]);
}

#[test]
fn the_identifier_of_a_subscription_comes_with_each_of_its_messages() {
    let mut broker = Broker::new();
    let (publisher, client) = (broker.client(Version::V5, "p"), broker.client(Version::V5, "a"));
    let wishes = [Subscription::new("x", Qos::AtMostOnce), Subscription::new("y/#", Qos::ExactlyOnce)];
    broker.subscribe_with(client, 1, &[Property::SubscriptionId(5)], &wishes);
    broker.frames(client);
    broker.subscribed(client, "z", Qos::AtLeastOnce);
    for (topic, expected) in [("x", Some(5)), ("y/1", Some(5)), ("z", None)] {
        for (id, qos) in [(0, Qos::AtMostOnce), (1, Qos::AtLeastOnce)] {
            broker.publish(publisher, message(topic, qos, id));
            let frames = broker.frames(client);
            let ids = properties(Version::V5, frames.last().unwrap());
            assert_eq!(
                ids,
                expected.map(Property::SubscriptionId).into_iter().collect::<Vec<_>>(),
                "{topic}"
            );
        }
    }
    // Replacing the subscription replaces, or removes, the identifier.
    broker.subscribe_with(client, 2, &[Property::SubscriptionId(6)], &wishes[..1]);
    broker.frames(client);
    broker.publish(publisher, message("x", Qos::AtMostOnce, 0));
    let frames = broker.frames(client);
    assert_eq!(properties(Version::V5, &frames[0]), [Property::SubscriptionId(6)]);
    broker.subscribe(client, 3, &wishes[..1]);
    broker.frames(client);
    broker.publish(publisher, message("x", Qos::AtMostOnce, 0));
    let frames = broker.frames(client);
    assert_eq!(properties(Version::V5, &frames[0]), []);
}

#[test]
fn messages_larger_than_the_client_takes_are_left_out_and_count_as_delivered() {
    let mut broker = Broker::new();
    let publisher = broker.client(Version::V5, "p");
    let hello = Hello::lasting(Version::V5, "a").with(Property::MaximumPacketSize(60));
    let client = broker.connect(&hello, false);
    broker.subscribed(client, "#", Qos::ExactlyOnce);
    let large = [b'x'; 100];
    for (qos, id) in [(Qos::AtMostOnce, 0), (Qos::AtLeastOnce, 1), (Qos::ExactlyOnce, 2)] {
        broker.publish(publisher, Publish { payload: &large, ..message("large", qos, id) });
    }
    broker.publish(publisher, message("small", Qos::AtLeastOnce, 3));
    assert_eq!(broker.said(client).iter().filter(|words| words.contains("small")).count(), 1);
    // Nothing of them waits for the next connection, which takes more.
    broker.gone(client);
    let client = broker.greet(&Hello::lasting(Version::V5, "a"));
    assert_eq!(broker.said(client).iter().filter(|words| words.contains("large")).count(), 0);
}

#[test]
fn no_packet_to_the_client_is_larger_than_it_takes() {
    for most in [45_u32, 60, 100] {
        let mut broker = Broker::new();
        let publisher = broker.client(Version::V5, "p");
        let hello = Hello::new(Version::V5, "a").with(Property::MaximumPacketSize(most));
        let client = broker.connect(&hello, false);
        broker.subscribed(client, "+", Qos::ExactlyOnce);
        for size in 0..120 {
            let payload = vec![b'x'; size];
            broker.publish(publisher, Publish { payload: &payload, ..message("t", Qos::AtMostOnce, 0) });
        }
        broker.publish(client, message("$SYS/x", Qos::AtLeastOnce, 1));
        let wishes = [Subscription::new("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s", Qos::AtMostOnce)];
        broker.subscribe(client, 2, &wishes);
        broker.send(client, &Packet::PingReq);
        broker.pubrec(client, 77);
        broker.bytes(client.conn, &[0xFF, 0xFF]);
        let frames = broker.frames(client);
        assert!(frames.iter().all(|frame| frame.len() <= most as usize), "{frames:?}");
        assert!(frames.iter().any(|frame| frame.len() == most as usize), "up to the limit they are sent");
        assert!(broker.is_closed(client));
    }
}

#[test]
fn topic_aliases_to_a_client_stay_within_its_maximum_and_mean_what_they_say() {
    for maximum in [None, Some(0), Some(1), Some(3), Some(u16::MAX)] {
        let mut broker = Broker::new();
        let publisher = broker.client(Version::V5, "p");
        let mut hello = Hello::lasting(Version::V5, "a");
        hello.properties.extend(maximum.map(Property::TopicAliasMaximum));
        // On a second connection everything begins anew.
        for connection in 0..2 {
            let client = broker.connect(&hello, connection > 0);
            broker.subscribed(client, "#", Qos::AtMostOnce);
            let mut known: BTreeMap<u16, String> = BTreeMap::new();
            let mut without_name = 0;
            for number in [0, 1, 0, 2, 3, 4, 0, 4, 4, 1] {
                let topic = format!("a/rather/long/topic/{number}");
                broker.publish(publisher, message(&topic, Qos::AtMostOnce, 0));
                let frames = broker.frames(client);
                assert_eq!(frames.len(), 1);
                let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[0]).unwrap() else {
                    panic!("a message");
                };
                match publish.properties.topic_alias() {
                    None => assert_eq!(publish.topic, topic),
                    Some(alias) => {
                        assert!(alias >= 1 && alias <= maximum.unwrap_or(0), "{alias}");
                        if publish.topic.is_empty() {
                            assert_eq!(known.get(&alias), Some(&topic));
                            without_name += 1;
                        } else {
                            assert_eq!(publish.topic, topic);
                            known.insert(alias, topic);
                        }
                    }
                }
            }
            let expected = match maximum {
                None | Some(0) => 0,
                Some(1) => 2,
                Some(3) => 3,
                Some(_) => 5,
            };
            assert_eq!(without_name, expected, "an alias is used as soon as it is known");
            broker.gone(client);
        }
    }
}

/// MQTT.js keeps a message of QoS 2 as it came until PUBREL, and then looks for its topic.
#[test]
fn a_message_of_qos_2_names_its_topic_to_a_client_that_takes_aliases() {
    let mut broker = Broker::new();
    let publisher = broker.client(Version::V5, "p");
    let client =
        broker.connect(&Hello::lasting(Version::V5, "a").with(Property::TopicAliasMaximum(8)), false);
    broker.subscribed(client, "#", Qos::ExactlyOnce);
    for id in [1, 2] {
        broker.publish(publisher, message("a/rather/long/topic", Qos::ExactlyOnce, id));
        let frames = broker.frames(client);
        let Packet::Publish(publish) = mqtt::decode(Version::V5, &frames[0]).unwrap() else {
            panic!("a message");
        };
        assert_eq!((publish.topic, publish.properties.topic_alias()), ("a/rather/long/topic", None));
    }
}
