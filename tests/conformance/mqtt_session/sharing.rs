//! Shared subscriptions: who of a group gets which message, and what becomes of it when that one goes.

use crate::world::{ALL_VERSIONS, Client, Hello, World, message};
use tidegate_wire::mqtt::{Ack, Packet, PacketId, Publish, Qos, ReasonCode, Subscription, Version};

const SHARED: &str = "$share/workers/jobs/+";

fn group(world: &mut World, hello: impl Fn(&'static str) -> Hello<'static>, qos: Qos) -> Vec<Client> {
    ["a", "b", "c"]
        .map(|name| {
            let client = world.connect(&hello(name), false);
            world.subscribed(client, SHARED, qos);
            client
        })
        .to_vec()
}

fn clean(name: &'static str) -> Hello<'static> {
    Hello::new(Version::V5, name)
}

fn lasting(name: &'static str) -> Hello<'static> {
    Hello::lasting(Version::V5, name)
}

fn publisher(world: &mut World) -> Client {
    world.connect(&Hello::new(Version::V5, "publisher"), false)
}

fn job(payload: &'static [u8], qos: Qos, id: u16) -> Publish<'static> {
    Publish { payload, ..message("jobs/x", qos, id) }
}

#[test]
fn a_group_gets_each_message_once_and_its_members_take_turns() {
    for version in ALL_VERSIONS {
        let mut world = World::new();
        let from = publisher(&mut world);
        let members = group(&mut world, |name| Hello::new(version, name), Qos::AtMostOnce);
        let alone = world.connect(&clean("alone"), false);
        world.subscribed(alone, "$share/others/jobs/#", Qos::AtMostOnce);
        for _ in 0..6 {
            assert_eq!(world.relay(from, message("jobs/x", Qos::AtMostOnce, 0)), 2);
        }
        for member in members {
            assert_eq!(world.said(member), ["PUBLISH - jobs/x 21.5"; 2]);
        }
        assert_eq!(world.said(alone).len(), 6, "another group gets them all");
    }
}

#[test]
fn a_member_that_also_subscribes_alone_gets_both_copies() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let client = world.connect(&clean("a"), false);
    world.subscribed(client, SHARED, Qos::AtMostOnce);
    world.subscribed(client, "jobs/x", Qos::AtLeastOnce);
    assert_eq!(world.relay(from, message("jobs/x", Qos::AtLeastOnce, 1)), 2);
    assert_eq!(world.said(client), ["PUBLISH 1:1 jobs/x 21.5", "PUBLISH - jobs/x 21.5"]);
}

#[test]
fn who_has_room_comes_before_who_is_busy_or_away() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let narrow =
        |name| Hello::lasting(Version::V5, name).with(tidegate_wire::mqtt::Property::ReceiveMaximum(1));
    let members = group(&mut world, narrow, Qos::AtLeastOnce);
    world.gone(members[0]);
    for (payload, id) in [(b"1", 1), (b"2", 2), (b"3", 3)] {
        world.relay(from, job(payload, Qos::AtLeastOnce, id));
    }
    let said: Vec<_> = members.iter().map(|member| world.said(*member)).collect();
    assert_eq!(said, [vec![], vec!["PUBLISH 1:1 jobs/x 1"], vec!["PUBLISH 1:1 jobs/x 2"]]);
    world.send(members[2], &Packet::PubAck(Ack::success(PacketId::new(1).unwrap())));
    world.relay(from, job(b"4", Qos::AtLeastOnce, 4));
    assert_eq!(world.said(members[2]), ["PUBLISH 1:2 jobs/x 4"], "the third waits for the one that was next");
    world.gone(members[1]);
    world.gone(members[2]);
    assert_eq!(world.relay(from, job(b"5", Qos::AtLeastOnce, 5)), 1, "it waits for who comes back");
    assert_eq!(world.relay(from, job(b"6", Qos::AtMostOnce, 0)), 0, "and QoS 0 does not wait");
}

#[test]
fn what_a_member_had_not_acknowledged_goes_to_another_when_its_session_ends() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let members = group(&mut world, clean, Qos::ExactlyOnce);
    world.relay(from, job(b"1", Qos::AtLeastOnce, 1));
    world.relay(from, job(b"2", Qos::AtLeastOnce, 2));
    assert_eq!(world.said(members[0]), ["PUBLISH 1:1 jobs/x 1"]);
    world.said(members[1]);
    world.gone(members[0]);
    assert_eq!(world.said(members[2]), ["PUBLISH 1:1 jobs/x 1"], "not marked as sent before: not to it");
    world.relay(from, job(b"3", Qos::ExactlyOnce, 3));
    world.relay(from, job(b"4", Qos::ExactlyOnce, 4));
    world.gone(members[1]);
    let said = world.said(members[2]);
    assert_eq!(
        said.len(),
        2,
        "its own, and the other's of QoS 1; one of QoS 2 must not be passed on: {said:?}"
    );
    assert!(said.contains(&"PUBLISH 1:3 jobs/x 2".to_owned()), "{said:?}");
}

#[test]
fn a_lasting_member_keeps_what_it_has_while_it_is_away() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let members = group(&mut world, lasting, Qos::AtLeastOnce);
    world.relay(from, job(b"1", Qos::AtLeastOnce, 1));
    world.said(members[0]);
    world.gone(members[0]);
    assert_eq!((world.said(members[1]).len(), world.said(members[2]).len()), (0, 0));
    let back = world.greet(&lasting("a"));
    assert_eq!(world.said(back), ["CONNACK present", "PUBLISH 1:1 dup jobs/x 1"]);
}

#[test]
fn what_a_member_refuses_goes_to_nobody_else() {
    let mut world = World::new();
    let from = publisher(&mut world);
    let members = group(&mut world, clean, Qos::AtLeastOnce);
    world.relay(from, job(b"1", Qos::AtLeastOnce, 1));
    let refusal = Ack { reason: ReasonCode::UNSPECIFIED_ERROR, ..Ack::success(PacketId::new(1).unwrap()) };
    world.send(members[0], &Packet::PubAck(refusal));
    world.gone(members[0]);
    assert_eq!((world.said(members[1]).len(), world.said(members[2]).len()), (0, 0));
}

#[test]
fn a_group_outlives_a_restart() {
    let mut world = World::new();
    group(&mut world, lasting, Qos::AtLeastOnce);
    world.restart();
    assert_eq!(world.mqtt.stats().subscriptions, 3);
    let from = publisher(&mut world);
    let client = world.connect(&lasting("b"), true);
    world.relay(from, job(b"1", Qos::AtLeastOnce, 1));
    assert_eq!(world.said(client), ["PUBLISH 1:1 jobs/x 1"]);
    world.unsubscribe(client, 2, &[SHARED, "jobs/+"]);
    world.durable();
    assert_eq!(world.said(client), ["UNSUBACK 2 [0, 17]"]);
}

#[test]
fn a_shared_subscription_gets_nothing_that_is_retained() {
    let mut world = World::new();
    let from = publisher(&mut world);
    world.retain(from, message("jobs/x", Qos::AtLeastOnce, 1));
    let client = world.connect(&clean("a"), false);
    world.subscribed(client, SHARED, Qos::AtLeastOnce);
    assert_eq!(world.said(client), [""; 0]);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut world = World::new();
    let client = world.connect(&clean("a"), false);
    // The codec itself does not write it.
    let no_local = |qos: u8| {
        let mut bytes = vec![0x82, 0, 0, 1, 0, 0, SHARED.len() as u8];
        bytes.extend_from_slice(SHARED.as_bytes());
        bytes.push(qos | 0b100);
        bytes[1] = (bytes.len() - 2) as u8;
        bytes
    };
    world.bytes(client.conn, &no_local(1));
    assert_eq!(world.said(client), ["DISCONNECT 0x82"]);
}

#[test]
fn a_share_without_a_name_or_a_filter_is_refused() {
    let mut world = World::new();
    let client = world.connect(&Hello::new(Version::V3_1_1, "a"), false);
    for (filter, id) in ["$share//x", "$share/g", "$share/g/", "$share/+/x"].into_iter().zip(1..) {
        world.subscribe(client, id, &[Subscription::new(filter, Qos::AtLeastOnce)]);
        assert_eq!(world.said(client), [format!("SUBACK {id} [128]")], "{filter}");
    }
}
