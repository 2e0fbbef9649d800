//! Whose a stored session is: what a restart with another configuration leaves of it, and who may go on with it (attacks A03
//! and A06, across a restart).

use crate::access::{device, filters, with};
use crate::world::{Client, Hello, World, message, will};
use bytes::Bytes;
use std::sync::Arc;
use tidegate_engine::event::{
    Anonymous, Certificate, DeviceSetup, Notice, Peer, RecordKey, RecordKind, Setup,
};
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{Property, Qos, Version};

const MINUTE: Duration = Duration::from_secs(60);

fn local(devices: Vec<DeviceSetup>) -> Setup {
    Setup { anonymous: Anonymous::Loopback, ..with(devices) }
}

/// The session of a device that may do everything, as a kill -9 leaves it: subscribed to everything, with a will, a message
/// that waits, and a QoS 2 packet id.
fn left_behind(setup: Setup, hello: impl Fn(&mut World) -> Client) -> World {
    let mut world = World::with(setup);
    let owner = hello(&mut world);
    world.durable();
    world.said(owner);
    world.subscribed(owner, "#", Qos::AtLeastOnce);
    world.publish(owner, message("x", Qos::ExactlyOnce, 9));
    world.all_safe();
    world.gone(owner);
    let writer = world.connect(&Hello::new(Version::V5, "writer"), false);
    world.relay(writer, message("secret", Qos::AtLeastOnce, 1));
    world.durable();
    for kind in [RecordKind::Session, RecordKind::InboundQos2, RecordKind::Outgoing, RecordKind::Will] {
        assert!(world.store.keys().any(|key| key.kind == kind), "{kind:?}");
    }
    world.notices.clear();
    world
}

const DELAY: [Property<'static>; 1] = [Property::WillDelay(30)];

fn with_will<'a>(id: &'a str) -> Hello<'a> {
    Hello { will: Some(will("last/words", &DELAY)), ..Hello::lasting(Version::V5, id) }
}

fn free(id: &str) -> DeviceSetup {
    DeviceSetup { publish: filters(&["#"]), subscribe: filters(&["#"]), ..device(id) }
}

fn certified(name: &str) -> Peer {
    Peer {
        certificate: Some(Arc::new(Certificate { name: name.to_owned(), fingerprint: [1; 32] })),
        ..Peer::at("192.0.2.1:5000".parse().unwrap())
    }
}

fn greet_as(world: &mut World, peer: Peer, hello: &Hello<'_>) -> Client {
    let client = Client { conn: world.open_as(peer), version: hello.version };
    world.bytes(client.conn, &hello.bytes());
    client
}

fn ended(world: &World) -> Vec<&str> {
    world
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::SessionEnded { client, .. } => Some(client.as_str()),
            _ => None,
        })
        .collect()
}

/// The session is gone for good: it has said nothing, given nobody anything, and left nothing.
fn assert_over(world: &mut World, id: &str) {
    assert_eq!(ended(world), [id]);
    assert_eq!(world.mqtt.stats().subscriptions, 0);
    let stranger = world.greet(&Hello::lasting(Version::V5, id));
    assert_eq!(world.said(stranger), [""; 0], "it waits until the old session is gone from the store");
    world.durable();
    assert_eq!(world.said(stranger), ["CONNACK"], "neither the session nor what waited in it");
    world.gone(stranger);
    world.pass(MINUTE);
    assert!(world.published.is_empty(), "its will stays unsaid");
    assert!(world.store.is_empty(), "{:?}", world.store);
}

#[test]
fn a_session_whose_device_is_gone_after_a_restart_ends() {
    let mut world =
        left_behind(local(vec![free("a")]), |world| world.greet(&with_will("a").proving("a", "pw-a")));
    world.setup = local(vec![device("b")]);
    world.restart();
    assert_over(&mut world, "a");
}

#[test]
fn a_session_whose_device_is_gone_after_a_reload_ends_likewise() {
    let mut world =
        left_behind(local(vec![free("a")]), |world| world.greet(&with_will("a").proving("a", "pw-a")));
    world.reload(&local(vec![device("b")]));
    assert_over(&mut world, "a");
}

#[test]
fn a_session_of_nobody_in_particular_ends_when_such_may_not_come_any_more() {
    for restart in [false, true] {
        let mut world = left_behind(local(vec![]), |world| world.greet(&with_will("a")));
        let closed = Setup { anonymous: Anonymous::Never, ..local(vec![]) };
        if restart {
            world.setup = closed;
            world.restart();
        } else {
            world.reload(&closed);
        }
        assert_eq!(ended(&world), ["a"]);
        world.durable();
        world.pass(MINUTE);
        assert!(world.published.is_empty() && world.store.is_empty(), "{:?}", world.store);
    }
}

#[test]
fn a_device_that_only_its_certificate_names_keeps_its_session_and_its_rights() {
    // First with every right; then it is not configured any more, and has those of its name.
    let mut world =
        left_behind(local(vec![free("a")]), |world| greet_as(world, certified("a"), &with_will("a")));
    world.setup = local(vec![device("b")]);
    world.restart();
    assert_eq!(ended(&world), [""; 0]);
    let thief = world.greet(&Hello::lasting(Version::V5, "a"));
    assert_eq!(world.said(thief), ["CONNACK 0x85"]);
    let writer = world.connect(&Hello::new(Version::V5, "writer"), false);
    world.relay(writer, message("secret", Qos::AtLeastOnce, 1));
    world.relay(writer, message("commands/a/x", Qos::AtLeastOnce, 2));
    world.pass(MINUTE);
    assert!(world.published.is_empty(), "it may not say its last words");
    let owner = greet_as(&mut world, certified("a"), &Hello::lasting(Version::V5, "a"));
    world.durable();
    let said = world.said(owner);
    assert_eq!((&*said[0], said.len()), ("CONNACK present", 2), "{said:?}");
    assert!(said[1].contains(" commands/a/x "), "{said:?}");
}

#[test]
fn a_device_goes_on_with_its_session_after_a_restart_and_nobody_else_does() {
    let mut world = left_behind(local(vec![free("a"), device("b")]), |world| {
        world.greet(&with_will("a").proving("a", "pw-a"))
    });
    world.restart();
    assert!(world.changes.is_empty(), "nothing has changed: nothing is written");
    for (hello, answer) in [
        (Hello::lasting(Version::V5, "a").proving("b", "pw-b"), "CONNACK 0x85"),
        (Hello::lasting(Version::V5, "a"), "CONNACK 0x87"),
    ] {
        let thief = world.greet(&hello);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.said(thief), [answer]);
    }
    let owner = world.greet(&Hello::lasting(Version::V5, "a").proving("a", "pw-a"));
    world.durable();
    let said = world.said(owner);
    assert_eq!((&*said[0], said.len()), ("CONNACK present", 2), "{said:?}");
    assert!(world.changes.is_empty());
}

#[test]
fn a_name_that_became_a_devices_is_the_devices_from_then_on() {
    let mut world = left_behind(local(vec![]), |world| world.greet(&with_will("a")));
    world.setup = local(vec![device("a")]);
    world.restart();
    world.durable();
    world.pass(MINUTE);
    assert!(world.published.is_empty(), "its will is beyond the device's rights");
    let stranger = world.greet(&Hello::lasting(Version::V5, "a"));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.said(stranger), ["CONNACK 0x87"]);
    // Now its device goes, and it has not come meanwhile.
    world.setup = local(vec![]);
    world.restart();
    assert_over(&mut world, "a");
}

#[test]
fn a_record_of_an_older_gateway_is_judged_by_what_is_configured() {
    let old = Bytes::from_static(b"\x01\0\0\x0e\x10\0\x01\x01\0\0\0\0\0\x01#");
    let key = RecordKey { kind: RecordKind::Session, key: Bytes::from_static(b"a") };
    for (setup, again) in [
        (local(vec![device("a")]), Hello::lasting(Version::V5, "a").proving("a", "pw-a")),
        (local(vec![]), Hello::lasting(Version::V5, "a")),
    ] {
        let mut world = World::with(setup);
        world.store.insert(key.clone(), old.clone());
        world.restart();
        world.durable();
        assert_ne!(world.store.get(&key), Some(&old), "it is written anew");
        world.connect(&again, true);
        world.restart();
        world.connect(&again, true);
        world.setup = Setup { anonymous: Anonymous::Never, ..local(vec![]) };
        world.restart();
        assert_eq!(ended(&world), ["a"]);
    }
    // While nobody may come without credentials it can only be a device's with a certificate.
    let mut world = World::with(Setup { anonymous: Anonymous::Never, ..local(vec![]) });
    world.store.insert(key, old);
    world.restart();
    let owner = greet_as(&mut world, certified("a"), &Hello::lasting(Version::V5, "a"));
    world.durable();
    assert_eq!(world.said(owner), ["CONNACK present"]);
}

#[test]
fn what_waits_for_a_member_whose_device_is_gone_goes_to_its_group() {
    let setup = local(vec![free("a"), free("b"), free("c")]);
    let mut world = World::with(setup);
    let hello = |id| Hello::lasting(Version::V5, id).proving(id, if id == "a" { "pw-a" } else { "pw-c" });
    for id in ["a", "c"] {
        let client = world.connect(&hello(id), false);
        world.subscribed(client, "$share/g/jobs/#", Qos::AtLeastOnce);
        world.gone(client);
    }
    let writer = world.connect(&Hello::new(Version::V5, "writer"), false);
    for number in 1..=4 {
        world.relay(writer, message("jobs/1", Qos::AtLeastOnce, number));
    }
    world.durable();
    world.setup = local(vec![free("c")]);
    world.restart();
    let left = world.greet(&hello("c"));
    world.durable();
    assert_eq!(world.said(left).len(), 1 + 4);
}

#[test]
fn what_a_device_left_retained_goes_with_its_right_while_the_gateway_is_off() {
    let mut world = World::with(local(vec![free("a")]));
    let owner = world.connect(&Hello::new(Version::V5, "a").proving("a", "pw-a"), false);
    world.retain(owner, message("left/behind", Qos::AtLeastOnce, 1));
    world.setup = local(vec![device("a")]);
    world.restart();
    assert_eq!(world.mqtt.stats().retained, 0);
    world.durable();
    assert!(world.store.is_empty());
}
