//! Who may come, as whom, and what they may do then: the attacks on access of brokers' history (A01 to A11), as far as they are MQTT.

use crate::world::{ALL_VERSIONS, Client, Hello, World, message, setup, will};
use std::sync::Arc;
use tidegate_engine::event::{Anonymous, Certificate, DeviceSetup, Notice, Peer, Proof, Secret, Setup};
use tidegate_engine::id::DeviceId;
use tidegate_engine::session::acl::Acl;
use tidegate_engine::time::Duration;
use tidegate_engine::topic::Filter;
use tidegate_wire::mqtt::{Qos, ReasonCode, Subscription, Version};

const SECOND: Duration = Duration::from_secs(1);
const ELSEWHERE: &str = "192.0.2.1:5000";

pub(crate) fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::new(text).unwrap()).collect()
}

/// A device with its default rights whose password is its id with "pw-" before it.
pub(crate) fn device(id: &str) -> DeviceSetup {
    let id = DeviceId::new(id).unwrap();
    DeviceSetup {
        publish: Acl::default_publish(&id).into_iter().collect(),
        subscribe: Acl::default_subscribe(&id).into_iter().collect(),
        secret: Some(Arc::new(Secret { hash: format!("pw-{id}"), slow: false })),
        certificate: None,
        oscore: None,
        psk: false,
        id,
    }
}

fn slow(id: &str) -> DeviceSetup {
    DeviceSetup { secret: Some(Arc::new(Secret { hash: format!("pw-{id}"), slow: true })), ..device(id) }
}

pub(crate) fn with(devices: Vec<DeviceSetup>) -> Setup {
    Setup { anonymous: Anonymous::Never, devices, ..setup() }
}

/// A device's CONNECT with its password.
fn hello(version: Version, id: &str) -> Hello<'_> {
    let passwords = [("a", "pw-a"), ("b", "pw-b")];
    let password = passwords.iter().find(|(name, _)| *name == id).unwrap().1;
    Hello::new(version, id).proving(id, password)
}

fn refusals(world: &World) -> usize {
    world.notices.iter().filter(|notice| matches!(notice, Notice::SignInRefused { .. })).count()
}

#[test]
fn whatever_is_wrong_with_credentials_has_one_answer_at_one_time() {
    let without_password = DeviceSetup { secret: None, certificate: Some([7; 32]), ..device("c") };
    for version in ALL_VERSIONS {
        let v5 = version.is_v5();
        let mut cases = vec![
            Hello::new(version, "a"),
            Hello::new(version, "a").proving("a", ""),
            Hello { username: Some("a"), ..Hello::new(version, "a") },
            Hello::new(version, "a").proving("a", "pw-b"),
            Hello::new(version, "a").proving("nobody", "pw-a"),
            Hello::new(version, "a").proving("", "pw-a"),
            Hello::new(version, "c").proving("c", "pw-c"),
            Hello::new(version, "s").proving("s", "wrong"),
        ];
        if v5 {
            cases.push(Hello { password: Some(b"pw-a"), ..Hello::new(version, "a") });
        }
        for name in ["#", "+", "a/b", "../x", "%c", "a\u{7f}"] {
            cases.push(Hello::new(version, "a").proving(name, "pw-a"));
        }
        for case in cases {
            let mut world =
                World::with(with(vec![device("a"), device("b"), without_password.clone(), slow("s")]));
            let client = world.greet(&case);
            if !world.asked.is_empty() {
                world.verified();
            }
            world.pass(Duration::from_micros(999_999));
            assert!(world.frames(client.conn).is_empty() && !world.is_closed(client));
            world.pass(Duration::from_micros(1));
            assert_eq!(world.said(client), ["CONNACK 0x87"]);
            assert!(world.is_closed(client));
            assert_eq!((world.mqtt.stats().sign_ins_refused, refusals(&world)), (1, 1));
            assert_eq!(world.mqtt.stats().sessions, 0);
        }
    }
}

#[test]
fn a_device_comes_in_under_its_own_names_and_no_other() {
    for version in ALL_VERSIONS {
        let mut world = World::with(with(vec![device("a"), device("ab"), device("b")]));
        for id in ["a", "a@", "a@dashboard"] {
            world.connect(&Hello::new(version, id).proving("a", "pw-a"), false);
        }
        let victim = world.connect(&hello(version, "b"), false);
        for id in ["b", "b@x", "ab", "A", "a.x", "other", "#", "+", "a/b", "../x", "%c", "a@/"] {
            let thief = world.greet(&Hello::new(version, id).proving("a", "pw-a"));
            assert_eq!(world.said(thief), ["CONNACK 0x85"], "{id}");
            assert!(world.is_closed(thief));
        }
        assert!(!world.is_closed(victim), "the victim stays");
        assert!(refusals(&world) >= 6, "and the operator can read of it");
        let accepted = |notice: &&Notice| matches!(notice, Notice::SignedIn { proof: Proof::Password, .. });
        assert_eq!(world.notices.iter().filter(accepted).count(), 4);
    }
}

#[test]
fn without_credentials_nobody_uses_a_devices_name() {
    let mut world = World::with(Setup { anonymous: Anonymous::Loopback, ..with(vec![device("a")]) });
    world.connect(&Hello::new(Version::V5, "other"), false);
    for id in ["a", "a@x"] {
        let thief = world.greet(&Hello::new(Version::V5, id));
        world.pass(SECOND);
        assert_eq!(world.said(thief), ["CONNACK 0x87"], "{id}");
    }
    let own = world.greet(&Hello::new(Version::V5, "").proving("a", "pw-a"));
    let frame = world.frames(own.conn).remove(0);
    let text = String::from_utf8_lossy(&frame).into_owned();
    assert!(text.contains("a@auto-"), "an assigned name is the device's, too: {text}");
}

#[test]
fn a_certificate_is_its_devices_identity() {
    let certified = |name: &str, fingerprint| Peer {
        certificate: Some(Arc::new(Certificate { name: name.to_owned(), fingerprint: [fingerprint; 32] })),
        ..Peer::at(ELSEWHERE.parse().unwrap())
    };
    let pinned = DeviceSetup { secret: None, certificate: Some([7; 32]), ..device("pinned") };
    let cases = [
        (certified("a", 1), "a", None, "CONNACK"),
        (certified("a", 1), "a@2", Some("a"), "CONNACK"),
        (certified("a", 1), "b", None, "CONNACK 0x85"),
        (certified("a", 1), "a", Some("b"), "CONNACK 0x87"),
        (certified("not configured", 1), "x", None, "CONNACK 0x87"),
        (certified("unknown", 1), "unknown", None, "CONNACK"),
        (certified("a@x", 1), "a@x", None, "CONNACK 0x87"),
        (certified("*", 1), "a", None, "CONNACK 0x87"),
        (certified("anything", 7), "pinned", None, "CONNACK"),
        (certified("pinned", 8), "pinned", None, "CONNACK 0x87"),
    ];
    for (peer, id, username, expected) in cases {
        let mut world = World::with(with(vec![device("a"), device("b"), pinned.clone()]));
        let client = Client { conn: world.open_as(peer.clone()), version: Version::V5 };
        world.bytes(client.conn, &Hello { username, ..Hello::new(Version::V5, id) }.bytes());
        world.pass(SECOND);
        assert_eq!(world.said(client), [expected], "{peer:?} {id}");
        if expected == "CONNACK" {
            world.publish(client, message("elsewhere", Qos::AtLeastOnce, 1));
            assert_eq!(world.said(client), ["PUBACK 1 0x87"], "it has the rights of a device");
        }
    }
}

#[test]
fn what_a_device_may_not_publish_is_refused_in_its_versions_words() {
    for (version, qos, answer, closed) in [
        (Version::V5, Qos::AtMostOnce, None, false),
        (Version::V5, Qos::AtLeastOnce, Some("PUBACK 1 0x87"), false),
        (Version::V5, Qos::ExactlyOnce, Some("PUBREC 1 0x87"), false),
        (Version::V3_1_1, Qos::AtMostOnce, None, false),
        (Version::V3_1_1, Qos::AtLeastOnce, None, true),
        (Version::V3_1_1, Qos::ExactlyOnce, None, true),
    ] {
        let mut world = World::with(with(vec![device("a")]));
        let client = world.connect(&hello(version, "a"), false);
        let id = u16::from(qos != Qos::AtMostOnce);
        world.publish(client, message("sensors/b/x", qos, id));
        assert_eq!(world.said(client), answer.map(str::to_owned).into_iter().collect::<Vec<_>>());
        assert_eq!(world.is_closed(client), closed);
        assert!(world.published.is_empty());
        assert_eq!(world.mqtt.stats().publishes_denied, 1);
        assert!(world.notices.iter().any(|notice| matches!(notice, Notice::Denied { .. })));
    }
}

#[test]
fn a_message_is_named_after_its_device_whichever_client_sent_it() {
    let mut world = World::with(with(vec![device("a")]));
    let client = world.connect(&Hello::new(Version::V5, "a@2").proving("a", "pw-a"), false);
    world.publish(client, message("sensors/a/x", Qos::AtLeastOnce, 1));
    assert_eq!(world.published[0].0.device.as_str(), "a");
}

#[test]
fn a_subscription_is_granted_when_it_has_something_to_deliver() {
    for (version, denied) in [(Version::V5, 0x87), (Version::V3_1_1, 0x80)] {
        let mut world = World::with(with(vec![device("a")]));
        let client = world.connect(&hello(version, "a"), false);
        let wishes: Vec<_> = [
            "commands/a/x",
            "commands/b/x",
            "#",
            "$SYS/#",
            "sensors/#",
            "$share/g/commands/a/#",
            "$share/g/x",
        ]
        .iter()
        .map(|filter| Subscription::new(filter, Qos::AtMostOnce))
        .collect();
        world.subscribe(client, 5, &wishes);
        assert_eq!(world.said(client), [format!("SUBACK 5 {:?}", [0, denied, 0, denied, denied, 0, denied])]);
        assert_eq!(world.mqtt.stats().subscriptions_denied, 4);
    }
}

#[test]
fn a_wildcard_delivers_what_is_permitted_and_nothing_else() {
    let all = DeviceSetup { publish: filters(&["#"]), subscribe: Vec::new(), ..device("b") };
    let some = DeviceSetup { subscribe: filters(&["commands/a/#", "+/x"]), ..device("a") };
    let mut world = World::with(with(vec![some, all]));
    let reader = world.connect(&hello(Version::V5, "a"), false);
    for (id, filter) in [(1, "#"), (2, "+/x"), (3, "$share/g/#")] {
        world.subscribe(reader, id, &[Subscription::new(filter, Qos::AtLeastOnce)]);
    }
    world.said(reader);
    let writer = world.connect(&hello(Version::V5, "b"), false);
    for (topic, copies) in
        [("commands/a/1", 2), ("commands/b/1", 0), ("sensors/x", 2), ("sensors/x/y", 0), ("secret", 0)]
    {
        world.relay(writer, message(topic, Qos::AtLeastOnce, 1));
        assert_eq!(world.said(reader).len(), copies, "{topic}");
    }
}

#[test]
fn who_may_not_have_a_message_does_not_take_it_from_a_group() {
    let reader = DeviceSetup { subscribe: filters(&["jobs/#"]), ..device("b") };
    let blind = DeviceSetup { subscribe: filters(&["jobs/none"]), ..device("a") };
    let mut world = World::with(Setup { anonymous: Anonymous::Loopback, ..with(vec![blind, reader]) });
    let [blind, reader] = ["a", "b"].map(|id| {
        let client = world.connect(&hello(Version::V5, id), false);
        world.subscribe(client, 1, &[Subscription::new("$share/g/jobs/#", Qos::AtLeastOnce)]);
        world.said(client);
        client
    });
    let writer = world.connect(&Hello::new(Version::V5, "local"), false);
    for _ in 0..4 {
        world.relay(writer, message("jobs/1", Qos::AtLeastOnce, 1));
    }
    assert_eq!((world.said(blind).len(), world.said(reader).len()), (0, 4));
}

#[test]
fn a_will_that_its_device_may_not_publish_is_refused_at_connect() {
    for (topic, version, expected) in [
        ("sensors/a/gone", Version::V5, "CONNACK"),
        ("sensors/b/gone", Version::V5, "CONNACK 0x87"),
        ("sensors/b/gone", Version::V3_1_1, "CONNACK 0x87"),
        ("$CONTROL/#", Version::V5, "CONNACK 0x90"),
        ("$CONTROL/x", Version::V5, "CONNACK 0x90"),
    ] {
        let mut world = World::with(with(vec![device("a")]));
        let client = world.greet(&Hello { will: Some(will(topic, &[])), ..hello(version, "a") });
        assert_eq!(world.said(client), [expected], "{topic}");
    }
}

#[test]
fn a_right_that_is_taken_away_ends_with_the_reload() {
    let before = DeviceSetup { subscribe: filters(&["news/#"]), publish: filters(&["#"]), ..device("a") };
    let local = |devices| Setup { anonymous: Anonymous::Loopback, ..with(devices) };
    let mut world = World::with(local(vec![before.clone()]));
    let writer = world.connect(&Hello::new(Version::V5, "local"), false);
    // What is retained, and what is queued for a session without a connection.
    let hello = Hello::lasting(Version::V5, "a").proving("a", "pw-a");
    let reader = world.connect(&hello, false);
    world.subscribed(reader, "#", Qos::AtLeastOnce);
    world.retain(reader, message("left/behind", Qos::AtLeastOnce, 9));
    assert_eq!(world.mqtt.stats().retained, 1);
    world.gone(reader);
    world.relay(writer, message("news/1", Qos::AtLeastOnce, 1));
    let after =
        DeviceSetup { subscribe: filters(&["other/#"]), publish: filters(&["other/#"]), ..before.clone() };
    world.reload(&local(vec![after]));
    assert_eq!(world.mqtt.stats().retained, 0);
    world.relay(writer, message("news/2", Qos::AtLeastOnce, 2));
    let reader = world.connect(&hello, true);
    assert_eq!(world.said(reader), [""; 0], "neither what was queued nor what came since");
    world.relay(writer, message("other/1", Qos::AtLeastOnce, 3));
    assert_eq!(world.said(reader).len(), 1, "and what it may have now comes");
}

#[test]
fn a_will_whose_right_is_taken_away_stays_unsaid() {
    let before = DeviceSetup { publish: filters(&["#"]), ..device("a") };
    for (after, still_there) in
        [(DeviceSetup { publish: filters(&["other"]), ..before.clone() }, true), (device("b"), false)]
    {
        let mut world = World::with(with(vec![before.clone()]));
        let client =
            world.connect(&Hello { will: Some(will("last/words", &[])), ..hello(Version::V5, "a") }, false);
        world.reload(&with(vec![after]));
        assert_eq!(!world.is_closed(client), still_there);
        world.gone(client);
        assert!(world.published.is_empty());
        assert_eq!(world.mqtt.stats().sessions, 0);
    }
}

#[test]
fn a_changed_password_ends_the_connections_that_used_the_old_one() {
    let mut world = World::with(with(vec![device("a"), device("b")]));
    let one = world.connect(&hello(Version::V5, "a"), false);
    let two = world.connect(&hello(Version::V5, "b"), false);
    let changed =
        DeviceSetup { secret: Some(Arc::new(Secret { hash: "new".to_owned(), slow: false })), ..device("a") };
    world.reload(&with(vec![changed, device("b")]));
    assert_eq!(world.said(one), ["DISCONNECT 0x87"]);
    assert!(!world.is_closed(two), "who did not change stays");
    let old = world.greet(&hello(Version::V5, "a"));
    world.pass(SECOND);
    assert_eq!(world.said(old), ["CONNACK 0x87"]);
    world.connect(&Hello::new(Version::V5, "a").proving("a", "new"), false);
}

#[test]
fn a_takeover_by_the_same_device_is_written_down() {
    let mut world = World::with(with(vec![device("a")]));
    let old = world.connect(&hello(Version::V5, "a"), false);
    world.connect(&hello(Version::V5, "a"), false);
    assert_eq!(world.said(old), ["DISCONNECT 0x8E"]);
    assert!(world.notices.iter().any(|notice| matches!(notice, Notice::TakenOver { .. })));
}

#[test]
fn a_slow_password_holds_up_its_own_connection_only() {
    let mut world = World::with(with(vec![slow("a"), device("b")]));
    let waiting = world.greet(&hello(Version::V5, "a"));
    world.publish(waiting, message("sensors/a/x", Qos::AtLeastOnce, 1));
    assert_eq!(world.reading.get(&waiting.conn), Some(&false), "and is not read meanwhile");
    world.connect(&hello(Version::V5, "b"), false);
    assert_eq!(world.said(waiting), [""; 0]);
    world.verified();
    assert_eq!(world.said(waiting), ["CONNACK"]);
    assert_eq!(world.published.len(), 1, "what was sent behind CONNECT is taken then");
    assert_eq!(world.reading.get(&waiting.conn), Some(&true));
    // The client goes away before the answer comes.
    let gone = world.greet(&hello(Version::V5, "a"));
    world.gone(gone);
    world.verified();
    assert!(!world.is_closed(waiting), "nobody took it over");
}

#[test]
fn slow_passwords_wait_in_a_bounded_queue() {
    let mut setup = with(vec![slow("a"), slow("b")]);
    (setup.limits.verifications, setup.limits.verifications_per_device) = (3, 2);
    let mut world = World::with(setup);
    for (id, answered) in [("a", false), ("a", false), ("a", true), ("b", false), ("b", true)] {
        let client = world.greet(&hello(Version::V5, id));
        let expected: &[&str] = if answered { &["CONNACK 0x89"] } else { &[] };
        assert_eq!(world.said(client), expected, "{id}");
    }
    assert_eq!(world.asked.len(), 3);
}

#[test]
fn guesses_from_elsewhere_take_no_place_in_the_queue_of_a_device_at_home() {
    let mut setup = with(vec![slow("a")]);
    (setup.limits.verifications, setup.limits.verifications_per_device) = (3, 2);
    let mut world = World::with(setup);
    let home = world.greet_from("192.0.2.1:1", &hello(Version::V5, "a"));
    world.verified();
    assert_eq!(world.said(home), ["CONNACK"]);
    world.gone(home);
    for answer in [&[][..], &[], &["CONNACK 0x89"]] {
        let guess = world.greet_from("192.0.2.2:1", &Hello::new(Version::V5, "a").proving("a", "guess"));
        assert_eq!(world.said(guess), answer);
    }
    let home = world.greet_from("192.0.2.1:2", &hello(Version::V5, "a"));
    while !world.asked.is_empty() {
        world.verified();
    }
    assert_eq!(world.said(home), ["CONNACK"]);
}

/// Ten thousand guesses in a minute from one address, at a password that somebody chose.
#[test]
fn guessing_is_slowed_down_and_locks_nobody_out_at_home() {
    let mut world = World::with(with(vec![slow("a"), device("b")]));
    let home = "198.51.100.7:1000";
    let at_home = |world: &mut World, id: &str| {
        let client = world.greet_from(home, &hello(Version::V5, id));
        if id == "a" {
            world.verified();
        }
        assert_eq!(world.said(client), ["CONNACK"], "{id} at home");
    };
    at_home(&mut world, "a");
    at_home(&mut world, "b");
    let mut verifications = 0;
    for attempt in 0..10_000_u32 {
        // Most from one address, the rest spread over a thousand.
        let address = if attempt % 10 > 0 {
            ELSEWHERE.to_owned()
        } else {
            format!("203.0.{}.{}:1", attempt / 10 % 4, attempt / 10 % 250)
        };
        let name = if attempt % 2 == 0 { "a" } else { "b" };
        let client = world.greet_from(&address, &Hello::new(Version::V5, name).proving(name, "guess"));
        while !world.asked.is_empty() {
            verifications += 1;
            world.verified();
        }
        world.pass(Duration::from_millis(6));
        if attempt % 997 == 0 {
            at_home(&mut world, "a");
            at_home(&mut world, "b");
        }
        world.frames(client.conn);
        world.gone(client);
    }
    assert!(verifications <= 20, "{verifications} slow verifications in a minute");
    assert!(world.mqtt.stats().sign_ins_refused >= 9_000);
    // From an address in disgrace even the right password is not looked at.
    let late = world.greet_from(ELSEWHERE, &hello(Version::V5, "a"));
    assert!(world.asked.is_empty());
    world.pass(SECOND);
    assert_eq!(world.said(late), ["CONNACK 0x87"]);
    // It is forgotten in time.
    world.pass(Duration::from_secs(700));
    let forgiven = world.greet_from(ELSEWHERE, &hello(Version::V5, "a"));
    world.verified();
    assert_eq!(world.said(forgiven), ["CONNACK"]);
}

#[test]
fn a_device_has_a_bounded_number_of_sessions() {
    let mut setup = with(vec![device("a")]);
    setup.limits.sessions_per_device = 2;
    let mut world = World::with(setup);
    for (id, expected) in [("a", "CONNACK"), ("a@1", "CONNACK"), ("a@2", "CONNACK 0x97"), ("a@1", "CONNACK")]
    {
        let client = world.greet(&Hello::new(Version::V5, id).proving("a", "pw-a"));
        assert_eq!(world.said(client), [expected], "{id}");
    }
}

#[test]
fn what_a_peer_calls_itself_reaches_the_operator_escaped_and_cut() {
    let mut world = World::with(with(vec![device("a")]));
    let name = format!("x\u{202e}\"\\{}", "y".repeat(1_000));
    world.greet(&Hello::new(Version::V5, "a").proving(&name, "z"));
    let Some(Notice::SignInRefused { name, .. }) = world.notices.last() else {
        panic!("{:?}", world.notices)
    };
    assert!(name.starts_with("x\\u{202e}\\\"\\\\y") && name.len() < 200, "{name}");
}

#[test]
fn no_local_goes_by_the_client_and_not_by_the_device() {
    let both = DeviceSetup { publish: filters(&["t"]), subscribe: filters(&["t"]), ..device("a") };
    let mut world = World::with(with(vec![both]));
    let one = world.connect(&Hello::new(Version::V5, "a@1").proving("a", "pw-a"), false);
    let two = world.connect(&Hello::new(Version::V5, "a@2").proving("a", "pw-a"), false);
    for client in [one, two] {
        let wish = Subscription { no_local: true, ..Subscription::new("t", Qos::AtMostOnce) };
        world.subscribe(client, 1, &[wish]);
        world.said(client);
    }
    world.relay(one, message("t", Qos::AtLeastOnce, 1));
    assert_eq!(world.said(one), ["PUBACK 1"]);
    assert_eq!(world.said(two).len(), 1);
    world.disconnect(one, ReasonCode::SUCCESS, &[]);
}
