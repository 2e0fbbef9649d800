//! Order: what is received, passed on, acknowledged and sent again, in which order (MQTT 5.0, 4.5, 4.6).

use crate::broker::{BOTH, Broker, Hello, message};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Publish, Qos};

#[test]
fn every_matching_session_gets_a_message_present_or_away() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        for id in ["a", "b", "c"] {
            let client = broker.connect(&Hello::lasting(version, id), false);
            broker.subscribed(client, if id == "c" { "other" } else { "t" }, Qos::AtLeastOnce);
            if id != "a" {
                broker.gone(client);
            }
        }
        broker.publish(publisher, message("t", Qos::AtLeastOnce, 1));
        for (id, expected) in [("a", 1), ("b", 1), ("c", 0)] {
            let client = broker.greet(&Hello::lasting(version, id));
            let said = broker.said(client);
            assert_eq!(said.len() - 1, expected, "{said:?}");
        }
    }
}

#[test]
fn each_subscriber_gets_the_messages_of_a_client_in_their_order() {
    for version in BOTH {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut broker = Broker::new();
            let publisher = broker.client(version, "p");
            let subscriber = broker.connect(&Hello::lasting(version, "s"), false);
            broker.subscribed(subscriber, "t", qos);
            let mut got = Vec::new();
            for number in 0..400_u16 {
                // Some while it is away, where the quality of service lets them wait.
                if qos != Qos::AtMostOnce && number == 100 {
                    broker.gone(subscriber);
                }
                let payload = number.to_string();
                let publish = Publish { payload: payload.as_bytes(), ..message("t", qos, number + 1) };
                broker.publish(publisher, publish);
                if qos != Qos::AtMostOnce {
                    // What waits for a session may be kept a moment later, and acknowledged then.
                    broker.pass(Duration::from_millis(300));
                }
                broker.pubrel(publisher, number + 1);
                broker.frames(publisher);
            }
            let mut client = subscriber;
            if qos != Qos::AtMostOnce {
                got.extend(broker.said(client).into_iter().filter(|words| words.starts_with("PUBLISH")));
                client = broker.greet(&Hello::lasting(version, "s"));
                broker.disk_recovers();
            }
            loop {
                let said = broker.said(client);
                let fresh: Vec<_> = said.into_iter().filter(|words| words.starts_with("PUBLISH")).collect();
                if fresh.is_empty() {
                    break;
                }
                for words in &fresh {
                    if let Some(id) = words.split(':').nth(1).and_then(|rest| rest.split(' ').next()) {
                        let id = id.parse().unwrap();
                        if qos == Qos::ExactlyOnce {
                            broker.pubrec(client, id);
                            broker.pubcomp(client, id);
                        } else {
                            broker.puback(client, id);
                        }
                    }
                }
                got.extend(fresh);
            }
            let mut numbers: Vec<u16> =
                got.iter().map(|words| words.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            numbers.dedup();
            // Those that were in flight when it went away come twice, again in their order.
            let first_time: Vec<u16> = {
                let mut seen = std::collections::BTreeSet::new();
                numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
            };
            assert_eq!(first_time, (0..400).collect::<Vec<_>>(), "{version:?} {qos:?}");
        }
    }
}

#[test]
fn what_is_open_is_sent_again_in_its_first_order() {
    for version in BOTH {
        let mut broker = Broker::new();
        let publisher = broker.client(version, "p");
        let subscriber = broker.connect(&Hello::lasting(version, "s"), false);
        broker.subscribed(subscriber, "t", Qos::ExactlyOnce);
        for id in 1..=6 {
            let qos = if id % 2 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
            broker.publish(publisher, message("t", qos, id));
        }
        broker.puback(subscriber, 3);
        broker.pubrec(subscriber, 4);
        broker.gone(subscriber);
        let subscriber = broker.greet(&Hello::lasting(version, "s"));
        assert_eq!(
            broker.said(subscriber)[1..],
            [
                "PUBLISH 1:1 dup t 21.5",
                "PUBLISH 2:2 dup t 21.5",
                "PUBREL 4",
                "PUBLISH 1:5 dup t 21.5",
                "PUBLISH 2:6 dup t 21.5"
            ]
        );
    }
}

#[test]
fn acknowledgements_come_in_the_order_of_the_messages() {
    for version in BOTH {
        let mut broker = Broker::new();
        let client = broker.client(version, "a");
        for id in 1..=9 {
            let qos = if id % 3 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
            broker.publish(client, message("t", qos, 10 - id));
        }
        assert_eq!(
            broker.said(client),
            [
                "PUBACK 9", "PUBACK 8", "PUBREC 7", "PUBACK 6", "PUBACK 5", "PUBREC 4", "PUBACK 3",
                "PUBACK 2", "PUBREC 1"
            ]
        );
    }
}

#[test]
fn pubrels_come_in_the_order_of_the_pubrecs() {
    for version in BOTH {
        let mut broker = Broker::new();
        let (publisher, subscriber) = (broker.client(version, "p"), broker.client(version, "s"));
        broker.subscribed(subscriber, "t", Qos::ExactlyOnce);
        for id in 1..=3 {
            broker.publish(publisher, message("t", Qos::ExactlyOnce, id));
        }
        broker.frames(subscriber);
        for id in [2, 3, 1] {
            broker.pubrec(subscriber, id);
        }
        assert_eq!(broker.said(subscriber), ["PUBREL 2", "PUBREL 3", "PUBREL 1"]);
    }
}
