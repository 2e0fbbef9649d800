//! Flow control: Receive Maximum both ways, and that it stops messages only (MQTT 5.0, 3.3.4, 4.9).

use crate::broker::{Broker, Client, Hello, message, packet_id};
use tidegate_wire::mqtt::{Ack, Packet, Properties, Property, Qos, ReasonCode, Subscription, Version};

/// A publisher, and a subscriber that takes `most` messages at once.
fn narrow(most: u16, qos: Qos) -> (Broker, Client, Client) {
    let mut broker = Broker::new();
    let publisher = broker.client(Version::V5, "p");
    let hello = Hello::lasting(Version::V5, "s").with(Property::ReceiveMaximum(most));
    let subscriber = broker.connect(&hello, false);
    broker.subscribed(subscriber, "t", qos);
    (broker, publisher, subscriber)
}

fn publish(broker: &mut Broker, publisher: Client, qos: Qos, count: u16) {
    for id in 1..=count {
        broker.publish(publisher, message("t", qos, id));
        broker.pubrel(publisher, id);
    }
    broker.frames(publisher);
}

#[test]
fn no_more_messages_are_open_than_the_client_takes() {
    for most in [1, 2, 7] {
        let (mut broker, publisher, subscriber) = narrow(most, Qos::AtLeastOnce);
        publish(&mut broker, publisher, Qos::AtLeastOnce, 20);
        let mut open = broker.said(subscriber).len();
        assert_eq!(open, usize::from(most));
        for id in 1..=20 {
            broker.puback(subscriber, id);
            open = open - 1 + broker.said(subscriber).len();
            assert!(open <= usize::from(most));
            assert!(open > 0 || id == 20, "what is free is used");
        }
    }
}

#[test]
fn a_message_at_qos_2_is_open_until_pubcomp_or_a_refusal() {
    let (mut broker, publisher, subscriber) = narrow(2, Qos::ExactlyOnce);
    publish(&mut broker, publisher, Qos::ExactlyOnce, 5);
    assert_eq!(broker.said(subscriber), ["PUBLISH 2:1 t 21.5", "PUBLISH 2:2 t 21.5"]);
    broker.pubrec(subscriber, 1);
    assert_eq!(broker.said(subscriber), ["PUBREL 1"]);
    broker.pubcomp(subscriber, 1);
    assert_eq!(broker.said(subscriber), ["PUBLISH 2:3 t 21.5"]);
    let properties = Properties::EMPTY;
    let refusal = Ack { packet_id: packet_id(2), reason: ReasonCode::UNSPECIFIED_ERROR, properties };
    broker.send(subscriber, &Packet::PubRec(refusal));
    assert_eq!(broker.said(subscriber), ["PUBLISH 2:4 t 21.5"]);
}

#[test]
fn everything_but_messages_goes_on_while_nothing_more_may_be_sent() {
    let (mut broker, publisher, subscriber) = narrow(1, Qos::AtLeastOnce);
    publish(&mut broker, publisher, Qos::AtLeastOnce, 5);
    assert_eq!(broker.said(subscriber), ["PUBLISH 1:1 t 21.5"]);
    broker.send(subscriber, &Packet::PingReq);
    broker.publish(subscriber, message("x", Qos::AtLeastOnce, 50));
    broker.publish(subscriber, message("x", Qos::ExactlyOnce, 51));
    broker.pubrel(subscriber, 51);
    broker.subscribe(subscriber, 52, &[Subscription::new("y", Qos::AtMostOnce)]);
    broker.unsubscribe(subscriber, 53, &["y"]);
    assert_eq!(
        broker.said(subscriber),
        ["PINGRESP", "PUBACK 50", "PUBREC 51", "PUBCOMP 51", "SUBACK 52 [0]", "UNSUBACK 53 [0]"]
    );
    // QoS 0 is not counted.
    broker.publish(publisher, message("t", Qos::AtMostOnce, 0));
    assert_eq!(broker.said(subscriber), ["PUBLISH - t 21.5"]);
}

#[test]
fn the_window_of_each_connection_is_its_own() {
    let (mut broker, publisher, subscriber) = narrow(1, Qos::AtLeastOnce);
    publish(&mut broker, publisher, Qos::AtLeastOnce, 5);
    broker.frames(subscriber);
    broker.gone(subscriber);
    let wider = Hello::lasting(Version::V5, "s").with(Property::ReceiveMaximum(3));
    let subscriber = broker.greet(&wider);
    assert_eq!(
        broker.said(subscriber),
        ["CONNACK present", "PUBLISH 1:1 dup t 21.5", "PUBLISH 1:2 t 21.5", "PUBLISH 1:3 t 21.5"]
    );
    broker.gone(subscriber);
    let narrower = Hello::lasting(Version::V5, "s").with(Property::ReceiveMaximum(1));
    let subscriber = broker.greet(&narrower);
    assert_eq!(broker.said(subscriber), ["CONNACK present", "PUBLISH 1:1 dup t 21.5"]);
    broker.puback(subscriber, 1);
    assert_eq!(broker.said(subscriber), ["PUBLISH 1:2 dup t 21.5"]);
}

#[test]
fn a_client_that_sends_more_than_the_gateways_receive_maximum_is_disconnected() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut broker = Broker::limited(|limits| limits.receive_maximum = 5);
        let client = broker.client(Version::V5, "a");
        broker.disk_works = false;
        for id in 1..=5 {
            broker.publish(client, message("t", qos, id));
        }
        assert!(!broker.is_closed(client));
        broker.publish(client, message("t", qos, 6));
        broker.ended_for(client, 0x93);
    }
    // At QoS 2 PUBREC makes no room, PUBCOMP does.
    let mut broker = Broker::limited(|limits| limits.receive_maximum = 5);
    let client = broker.client(Version::V5, "a");
    for id in 1..=5 {
        broker.publish(client, message("t", Qos::ExactlyOnce, id));
    }
    broker.pubrel(client, 3);
    broker.publish(client, message("t", Qos::ExactlyOnce, 6));
    assert!(!broker.is_closed(client));
    broker.frames(client);
    broker.publish(client, message("t", Qos::ExactlyOnce, 7));
    broker.ended_for(client, 0x93);
}

#[test]
fn packets_other_than_messages_are_answered_while_the_gateways_window_is_full() {
    let mut broker = Broker::limited(|limits| limits.receive_maximum = 2);
    let client = broker.client(Version::V5, "a");
    broker.disk_works = false;
    broker.publish(client, message("t", Qos::AtLeastOnce, 1));
    broker.publish(client, message("t", Qos::AtLeastOnce, 2));
    broker.send(client, &Packet::PingReq);
    broker.subscribe(client, 3, &[Subscription::new("y", Qos::AtMostOnce)]);
    assert_eq!(broker.said(client), ["PINGRESP", "SUBACK 3 [0]"]);
}
