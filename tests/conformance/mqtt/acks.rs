//! PUBACK, PUBREC, PUBREL, PUBCOMP: their codes, and what they say beside them to whom (MQTT 5.0, 3.4 to 3.7, 3.1.2.11.7).

use crate::broker::{Broker, Client, Hello, has_reason_string, message, properties};
use tidegate_wire::mqtt::{Property, Publish, Qos, Subscription, Version};

/// Brings every kind of refusal about; gives the packets that say so.
fn refused(broker: &mut Broker, client: Client) -> Vec<Vec<u8>> {
    let user = vec![Property::User("k", "v"); 33];
    let too_many = Publish {
        properties: tidegate_wire::mqtt::Properties::new(&user),
        ..message("t", Qos::AtLeastOnce, 1)
    };
    broker.publish(client, too_many);
    broker.publish(client, message("$SYS/x", Qos::AtLeastOnce, 2));
    broker.publish(client, message("$SYS/x", Qos::ExactlyOnce, 3));
    broker.pubrel(client, 4);
    broker.pubrec(client, 5);
    let deep = "a/".repeat(100);
    broker.subscribe(client, 6, &[Subscription::new(&deep, Qos::AtMostOnce)]);
    broker.frames(client)
}

const SAID: [&str; 6] =
    ["PUBACK 1 0x97", "PUBACK 2 0x90", "PUBREC 3 0x90", "PUBCOMP 4 0x92", "PUBREL 5 0x92", "SUBACK 6 [143]"];

fn words(frames: &[Vec<u8>]) -> Vec<String> {
    // Decoding fails for a code that the packet does not have.
    frames.iter().map(|frame| tidegate_tests::mqtt::words(Version::V5, frame)).collect()
}

#[test]
fn every_refusal_has_a_code_of_its_packet_and_says_why() {
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    let frames = refused(&mut broker, client);
    assert_eq!(words(&frames), SAID);
    for frame in &frames {
        assert!(has_reason_string(Version::V5, frame), "{}", words(std::slice::from_ref(frame))[0]);
    }
    assert!(!broker.is_closed(client));
}

#[test]
fn who_wants_no_problem_information_gets_none_but_at_connack_and_disconnect() {
    let mut broker = Broker::new();
    let hello = Hello::new(Version::V5, "a").with(Property::RequestProblemInfo(false));
    let client = broker.connect(&hello, false);
    let frames = refused(&mut broker, client);
    assert_eq!(words(&frames), SAID, "the codes are the same");
    for frame in &frames {
        assert_eq!(properties(Version::V5, frame), []);
    }
    // What another client says about a message is passed on all the same.
    let publisher = broker.client(Version::V5, "p");
    broker.subscribed(client, "t", Qos::AtMostOnce);
    let list = [Property::User("k", "v")];
    let publish = message("t", Qos::AtMostOnce, 0);
    broker.publish(publisher, Publish { properties: tidegate_wire::mqtt::Properties::new(&list), ..publish });
    let frames = broker.frames(client);
    assert_eq!(properties(Version::V5, &frames[0]), list);
    broker.bytes(client.conn, &[0x00, 0x00]);
    let frames = broker.frames(client);
    assert!(has_reason_string(Version::V5, &frames[0]), "DISCONNECT may say why");
}

#[test]
fn a_reason_string_gives_way_to_the_clients_maximum_packet_size() {
    let mut whole = Broker::new();
    let client = whole.client(Version::V5, "a");
    let longest = refused(&mut whole, client).iter().map(Vec::len).max().unwrap();
    for most in [45_usize, 60, longest] {
        let mut broker = Broker::new();
        let hello =
            Hello::new(Version::V5, "a").with(Property::MaximumPacketSize(u32::try_from(most).unwrap()));
        let client = broker.connect(&hello, false);
        let frames = refused(&mut broker, client);
        assert_eq!(words(&frames), SAID);
        assert!(frames.iter().all(|frame| frame.len() <= most));
        if most == longest {
            assert!(frames.iter().all(|frame| has_reason_string(Version::V5, frame)));
        }
    }
}

#[test]
fn the_gateway_sends_no_user_properties_of_its_own() {
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let mut frames = broker.frames(client);
    frames.extend(refused(&mut broker, client));
    broker.publish(client, message("t", Qos::ExactlyOnce, 9));
    broker.unsubscribe(client, 10, &["none"]);
    broker.bytes(client.conn, &[0x00, 0x00]);
    frames.extend(broker.frames(client));
    assert_eq!(frames.len(), 10);
    for frame in &frames {
        let list = properties(Version::V5, frame);
        assert!(!list.iter().any(|property| matches!(property, Property::User(..))));
    }
}

#[test]
fn success_is_said_in_the_short_form_without_properties() {
    let mut broker = Broker::new();
    let client = broker.client(Version::V5, "a");
    broker.subscribed(client, "t", Qos::ExactlyOnce);
    broker.publish(client, message("t", Qos::ExactlyOnce, 1));
    broker.publish(client, message("x", Qos::AtLeastOnce, 2));
    broker.pubrel(client, 1);
    broker.pubrec(client, 1);
    let frames = broker.frames(client);
    let shorts: Vec<&Vec<u8>> = frames.iter().filter(|frame| frame[0] >> 4 != 3).collect();
    assert_eq!(shorts.len(), 4);
    assert!(shorts.iter().all(|frame| frame.len() == 4 && frame[1] == 2));
    // The flags of PUBREL.
    assert!(frames.iter().any(|frame| frame[0] == 0x62));
}
