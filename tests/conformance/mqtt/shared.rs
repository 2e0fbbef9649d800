//! Shared subscriptions: one member of a group gets each message, and keeps what was begun with it (MQTT 5.0, 4.8.2).

use crate::broker::{Broker, Client, Hello, message, packet_id, properties};
use tidegate_engine::time::Duration;
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::{Ack, Packet, Properties, Property, Qos, ReasonCode, Subscription, Version};

/// Two members of one group, with sessions that last and these granted qualities of service, and a publisher.
fn group(granted: [Qos; 2]) -> (Broker, Client, [Client; 2]) {
    let mut broker = Broker::new();
    let publisher = broker.client(Version::V5, "p");
    let lasting = |id| Hello { keep_alive: 1_000, ..Hello::lasting(Version::V5, id) };
    let members = ["m1", "m2"].map(|id| broker.connect(&lasting(id), false));
    for (member, qos) in members.into_iter().zip(granted) {
        broker.subscribed(member, "$share/g/t/+", qos);
    }
    (broker, publisher, members)
}

/// Which of the two got something, and what.
fn taken(broker: &mut Broker, members: [Client; 2]) -> (usize, Vec<String>) {
    let said = members.map(|member| broker.said(member));
    let who = said.iter().position(|said| !said.is_empty()).expect("somebody got it");
    assert!(said[1 - who].is_empty(), "and nobody else: {said:?}");
    (who, said[who].clone())
}

#[test]
fn a_shared_filter_names_a_group_and_a_filter() {
    for filter in [
        "0007'$share/'",
        "0008'$share/g'",
        "0009'$share/g/'",
        "0009'$share//t'",
        "000A'$share/+/t'",
        "000B'$share/g#/t'",
        "000B'$share/g/t#'",
    ] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(0x82, &format!("0001 00 {filter} 00")));
        broker.ended_for(client, 0x8F);
        assert_eq!(broker.stats().subscriptions, 0);
    }
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let frames = broker.frames(client);
    assert!(!properties(Version::V5, &frames[0]).contains(&Property::SharedAvailable(false)));
    for filter in ["$share/g/t", "$share/g/#", "$share/a b/+/t", "$share/g//t"] {
        broker.subscribed(client, filter, Qos::AtMostOnce);
    }
    // The group is no part of what is matched.
    broker.publish(client, message("/t", Qos::AtMostOnce, 0));
    let said = broker.said(client);
    assert!(said.iter().all(|words| words == "PUBLISH - /t 21.5") && !said.is_empty(), "{said:?}");
}

#[test]
fn each_message_goes_to_one_member_at_the_quality_it_was_granted() {
    let (mut broker, publisher, members) = group([Qos::AtMostOnce, Qos::AtLeastOnce]);
    let mut turns = [0, 0];
    for _ in 0..100 {
        broker.publish(publisher, message("t/1", Qos::AtLeastOnce, 1));
        let (who, said) = taken(&mut broker, members);
        turns[who] += 1;
        if who == 0 {
            assert_eq!(said, ["PUBLISH - t/1 21.5"]);
        } else {
            assert!(said[0].starts_with("PUBLISH 1:"));
            let id = said[0][10..].split(' ').next().unwrap().parse().unwrap();
            broker.puback(members[1], id);
        }
    }
    assert!(turns.iter().all(|count| *count > 10), "both work: {turns:?}");
    // Another group gets its own copy, and so does who subscribes alone.
    let (other, alone) = (broker.client(Version::V5, "other"), broker.client(Version::V5, "alone"));
    broker.subscribed(other, "$share/h/t/+", Qos::AtMostOnce);
    broker.subscribed(alone, "t/#", Qos::AtMostOnce);
    broker.publish(publisher, message("t/2", Qos::AtLeastOnce, 1));
    taken(&mut broker, members);
    assert_eq!(broker.said(other).len() + broker.said(alone).len(), 2);
}

#[test]
fn what_was_begun_at_qos_2_is_finished_with_its_member() {
    let (mut broker, publisher, members) = group([Qos::ExactlyOnce; 2]);
    broker.publish(publisher, message("t/1", Qos::ExactlyOnce, 1));
    let (who, said) = taken(&mut broker, members);
    assert_eq!(said, ["PUBLISH 2:1 t/1 21.5"]);
    broker.gone(members[who]);
    broker.pass(Duration::from_secs(600));
    assert_eq!(broker.said(members[1 - who]), [""; 0], "it is not given to another one meanwhile");
    let id = ["m1", "m2"][who];
    let back = broker.greet(&Hello::lasting(Version::V5, id));
    assert_eq!(broker.said(back), ["CONNACK present", "PUBLISH 2:1 dup t/1 21.5"]);
    broker.pubrec(back, 1);
    broker.gone(back);
    let back = broker.greet(&Hello::lasting(Version::V5, id));
    assert_eq!(broker.said(back), ["CONNACK present", "PUBREL 1"]);
    broker.pubcomp(back, 1);
}

#[test]
fn what_was_begun_at_qos_2_goes_to_nobody_else_when_its_session_ends() {
    let (mut broker, publisher, members) = group([Qos::ExactlyOnce; 2]);
    broker.publish(publisher, message("t/1", Qos::ExactlyOnce, 1));
    let (who, _) = taken(&mut broker, members);
    broker.gone(members[who]);
    // A clean start ends the session of who had it.
    let hello = Hello { keep_alive: 1_000, ..Hello::new(Version::V5, ["m1", "m2"][who]) };
    let fresh = broker.connect(&hello, false);
    broker.pass(Duration::from_secs(600));
    assert_eq!(broker.said(members[1 - who]), [""; 0]);
    assert_eq!(broker.said(fresh), [""; 0]);
}

#[test]
fn what_one_member_refuses_goes_to_nobody_else() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut broker, publisher, members) = group([qos; 2]);
        broker.publish(publisher, message("t/1", qos, 1));
        let (who, _) = taken(&mut broker, members);
        let refusal = Ack {
            packet_id: packet_id(1),
            reason: ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            properties: Properties::EMPTY,
        };
        let ack = if qos == Qos::AtLeastOnce { Packet::PubAck(refusal) } else { Packet::PubRec(refusal) };
        broker.send(members[who], &ack);
        broker.gone(members[who]);
        broker.pass(Duration::from_secs(600));
        assert_eq!(broker.said(members[1 - who]), [""; 0]);
        let back = broker.greet(&Hello::lasting(Version::V5, ["m1", "m2"][who]));
        assert_eq!(broker.said(back), ["CONNACK present"]);
    }
}

#[test]
fn a_shared_subscription_gets_nothing_that_is_retained() {
    let (mut broker, publisher, _) = group([Qos::AtMostOnce; 2]);
    let retained = tidegate_wire::mqtt::Publish { retain: true, ..message("t/1", Qos::AtLeastOnce, 1) };
    broker.publish(publisher, retained);
    let late = broker.client(Version::V5, "late");
    broker.subscribe(late, 1, &[Subscription::new("$share/g/t/+", Qos::AtMostOnce)]);
    assert_eq!(broker.said(late), ["SUBACK 1 [0]"]);
}
