//! Messages that expire: what is left of their time, and that nothing is begun too late or given up half-way
//! (MQTT 5.0, 3.3.2.3.3, 4.3.3).

use crate::broker::{Broker, Client, Hello, message, properties};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Properties, Property, Publish, Qos, Version};

/// A subscriber that is away, and a message of ten seconds that waits for it.
fn waiting(qos: Qos) -> (Broker, Hello<'static>) {
    let mut broker = Broker::new();
    let publisher = broker.client(Version::V5, "p");
    let hello = Hello::lasting(Version::V5, "a");
    let client = broker.connect(&hello, false);
    broker.subscribed(client, "t", qos);
    broker.gone(client);
    expiring(&mut broker, publisher, qos, 10);
    (broker, hello)
}

fn expiring(broker: &mut Broker, publisher: Client, qos: Qos, seconds: u32) {
    let list = [Property::MessageExpiry(seconds)];
    broker.publish(publisher, Publish { properties: Properties::new(&list), ..message("t", qos, 1) });
}

#[test]
fn a_message_that_has_expired_is_not_begun() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut broker, hello) = waiting(qos);
        broker.pass(Duration::from_secs(11));
        let client = broker.connect(&hello, true);
        assert_eq!(broker.said(client), [""; 0]);
        broker.gone(client);
        broker.connect(&hello, true);
    }
}

#[test]
fn a_message_says_what_is_left_of_its_time() {
    let (mut broker, hello) = waiting(Qos::AtLeastOnce);
    broker.pass(Duration::from_secs(7));
    let client = broker.greet(&hello);
    let frames = broker.frames(client);
    assert_eq!(properties(Version::V5, &frames[1]), [Property::MessageExpiry(3)]);
    // Passed on at once, nothing is taken off.
    let publisher = broker.client(Version::V5, "q");
    expiring(&mut broker, publisher, Qos::AtMostOnce, 10);
    let frames = broker.frames(client);
    assert_eq!(properties(Version::V5, &frames[0]), [Property::MessageExpiry(10)]);
}

#[test]
fn a_message_that_has_been_sent_is_not_given_up_when_it_expires() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut broker, hello) = waiting(qos);
        let client = broker.greet(&hello);
        assert_eq!(broker.said(client).len(), 2);
        broker.gone(client);
        broker.pass(Duration::from_secs(100));
        let client = broker.greet(&hello);
        let number = qos as u8;
        assert_eq!(
            broker.said(client),
            ["CONNACK present".to_owned(), format!("PUBLISH {number}:1 dup t 21.5")]
        );
    }
}

#[test]
fn an_exchange_at_qos_2_is_finished_although_its_message_has_expired() {
    let mut broker = Broker::new();
    let (publisher, subscriber) = (broker.client(Version::V5, "p"), broker.client(Version::V5, "s"));
    broker.subscribed(subscriber, "t", Qos::ExactlyOnce);
    expiring(&mut broker, publisher, Qos::ExactlyOnce, 1);
    broker.pass(Duration::from_secs(10));
    // On the receiving side, where it came in, and on the sending side.
    broker.pubrel(publisher, 1);
    assert_eq!(broker.said(publisher), ["PUBREC 1", "PUBCOMP 1"]);
    broker.pubrec(subscriber, 1);
    assert_eq!(broker.said(subscriber), ["PUBLISH 2:1 t 21.5", "PUBREL 1"]);
    broker.pubcomp(subscriber, 1);
}

#[test]
fn an_expiry_of_zero_is_legal() {
    let mut broker = Broker::new();
    let (publisher, subscriber) = (broker.client(Version::V5, "p"), broker.client(Version::V5, "s"));
    broker.subscribed(subscriber, "t", Qos::AtLeastOnce);
    expiring(&mut broker, publisher, Qos::AtLeastOnce, 0);
    assert_eq!(broker.said(publisher), ["PUBACK 1"]);
    assert!(!broker.is_closed(subscriber));
}
