//! Enhanced authentication: the gateway has no method, and says so (MQTT 5.0, 3.15, 4.12).

use crate::broker::{Broker, Hello, has_reason_string, properties};
use tidegate_tests::mqtt::whole;
use tidegate_wire::mqtt::{Auth, Packet, Properties, Property, ReasonCode, Version};

fn auth<'a>(reason: ReasonCode, list: &'a [Property<'a>]) -> Packet<'a> {
    Packet::Auth(Auth { reason, properties: Properties::new(list) })
}

#[test]
fn every_authentication_method_is_refused_as_unknown() {
    for method in ["SCRAM-SHA-256", "GS2-KRB5", ""] {
        let mut broker = Broker::new();
        let hello = Hello::new(Version::V5, "a").with(Property::AuthMethod(method));
        let client = broker.greet(&hello.with(Property::AuthData(b"\0\x01")));
        let frames = broker.frames(client);
        assert_eq!(frames.len(), 1, "no AUTH before it");
        assert_eq!(frames[0][3], 0x8C);
        assert!(has_reason_string(Version::V5, &frames[0]));
        assert!(broker.is_closed(client));
        assert_eq!(broker.stats().sessions, 0);
    }
}

#[test]
fn data_without_a_method_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a").with(Property::AuthData(b"x")));
    broker.ended(client, &["CONNACK 0x82"]);
}

#[test]
fn without_a_method_there_is_no_auth_and_no_method_in_connack() {
    let mut broker = Broker::new();
    let client = broker.greet(&Hello::new(Version::V5, "a"));
    let frames = broker.frames(client);
    assert_eq!(frames.len(), 1);
    let told = properties(Version::V5, &frames[0]);
    assert!(!told.iter().any(|property| matches!(property, Property::AuthMethod(_) | Property::AuthData(_))));
}

#[test]
fn auth_without_a_method_in_connect_ends_the_connection() {
    let method = [Property::AuthMethod("SCRAM-SHA-256")];
    for reason in [ReasonCode::CONTINUE_AUTHENTICATION, ReasonCode::RE_AUTHENTICATE, ReasonCode::SUCCESS] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.send(client, &auth(reason, &method));
        broker.ended_for(client, 0x82);
    }
    for body in ["", "18 00", "19", "80 04 15 0001'm'", "18 04 16 0001 00"] {
        let mut broker = Broker::new();
        let client = broker.client(Version::V5, "a");
        broker.bytes(client.conn, &whole(0xF0, body));
        broker.ended_for(client, 0x82);
    }
}

#[test]
fn auth_before_connect_and_auth_before_version_5_end_the_connection() {
    let mut broker = Broker::new();
    let client = broker.raw(Version::V5, &whole(0xF0, "18 04 15 0001'm'"));
    broker.ended(client, &[]);
    let client = broker.client(Version::V3_1_1, "a");
    broker.bytes(client.conn, &whole(0xF0, ""));
    broker.ended(client, &[]);
}
