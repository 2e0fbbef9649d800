//! Those who want in, or further in than they may: without credentials, under names that are not theirs, to topics that are not
//! for them, and after their rights were taken away.

use super::{ATTACKER, Arena, Case, FORGED, SOON, Setting};
use crate::link::Link;
use crate::mqtt::{Hello, bytes, message, will};
use crate::wait::wait_for;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tidegate_wire::mqtt::{
    Packet, PacketId, Properties, Publish, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// What a refused sign-in waits for its answer, less what a timer may be early.
const REFUSED_AFTER: Duration = Duration::from_millis(990);

/// How far apart the answers to different mistakes may be in the middle, on a machine that does other things as well: far less than
/// would be needed to tell them apart.
const SPREAD: Duration = Duration::from_millis(700);

/// What somebody chose, as a board verifies it in tens of milliseconds. Nobody knows the password.
pub(super) const CHOSEN: &str = "[device.person]\npassword_hash = \"$argon2id$v=19$m=19456,t=2,p=1\
     $c29tZSBzYWx0IGhlcmU$L7xoins35Zxujf2h44+A9MrPs+uMD4EcSd6TRn8OKkg\"\n";

pub(super) const A01: Case = Case {
    id: "A01",
    name: "no credentials, half of them, or wrong ones: one answer at one time",
    setting: |arena| {
        let device = arena.device("sensor", "");
        Setting::of(&format!("[access]\nanonymous = \"never\"\n{device}{CHOSEN}"))
    },
    attack: |arena| Box::pin(strangers(arena)),
    counted: &[("tidegate_sign_ins_refused_total{protocol=\"mqtt\"}", 42.0)],
    audited: &[("sign-in refused", 42)],
};

async fn strangers(arena: &Arena) {
    type Claim = (&'static str, Option<&'static str>, Option<&'static [u8]>);
    let claims: [Claim; 7] = [
        ("sensor", None, None),
        ("sensor", Some("sensor"), None),
        ("sensor", Some("sensor"), Some(b"")),
        ("nobody", Some("nobody"), Some(b"hunter2")),
        ("sensor", Some("sensor"), Some(b"hunter2")),
        ("person", Some("person"), Some(b"hunter2")),
        ("\u{E4}", Some("person"), Some(b"\0\xFF")),
    ];
    for version in [Version::V3_1_1, Version::V5] {
        let mut took = vec![Vec::new(); claims.len()];
        for _ in 0..3 {
            let answers = claims.map(|(id, username, password)| {
                let hello = Hello { username, password, ..Hello::new(version, id) }.bytes();
                let address = arena.gateway.mqtt;
                tokio::spawn(async move {
                    let mut link = Link::open_from(ATTACKER, address, version).await.expect("a connection");
                    let began = Instant::now();
                    link.write(&hello).await.expect("it is taken");
                    let answer = link.next(SOON, |packet| format!("{packet:?}")).await;
                    let took = began.elapsed();
                    assert!(link.closed(SOON).await);
                    (answer.expect("an answer").expect("in time"), took)
                })
            });
            let mut words = None;
            for (answer, took) in answers.into_iter().zip(&mut took) {
                let (said, after) = answer.await.expect("an answer");
                assert_eq!(words.get_or_insert_with(|| said.clone()), &said, "the same words for all");
                assert!(after >= REFUSED_AFTER, "{after:?}");
                took.push(after);
            }
        }
        let middle = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let times: Vec<_> = took.into_iter().map(middle).collect();
        let spread = times.iter().max().zip(times.iter().min()).map(|(most, least)| *most - *least);
        assert!(spread < Some(SPREAD), "{times:?}");
    }
}

/// Names that mean something to a matcher of patterns, a file system, a terminal or a log.
const NAMES: [&str; 10] =
    ["#", "+", "a/b", "../x", "%c", "a b", FORGED, "\u{FEFF}a", "a\u{202E}b", "'; DROP TABLE messages; --"];

pub(super) const A02: Case = Case {
    id: "A02",
    name: "names that are patterns, paths, or lines of a log (CVE-2017-7650)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            for version in [Version::V3_1_1, Version::V5] {
                let (invalid, unknown) = (0x85, 0x87);
                for name in NAMES {
                    assert_eq!(arena.greet(&Hello::new(version, name)).await.1, Some(invalid), "{name:?}");
                    let hello = Hello::new(version, "x").proving(name, FORGED);
                    assert_eq!(arena.greet(&hello).await.1, Some(unknown), "{name:?}");
                }
                let mut link = arena.open(version).await.expect("a connection");
                let level = if version.is_v5() { "05 02 0000 00" } else { "04 02 0000" };
                let body = bytes(&format!("0004'MQTT'{level} 0003'a' 00 'b'"));
                let mut packet = vec![0x10, u8::try_from(body.len()).expect("short")];
                packet.extend(body);
                link.write(&packet).await.expect("it is taken");
                assert!(link.closed(SOON).await, "U+0000");
            }
        })
    },
    counted: &[
        ("tidegate_sign_ins_refused_total{protocol=\"mqtt\"}", 40.0),
        ("tidegate_refusals_total{reason=\"client identifier not valid\"}", 20.0),
        ("tidegate_refusals_total{reason=\"malformed packet\"}", 2.0),
    ],
    audited: &[("sign-in refused", 40)],
};

pub(super) const A03: Case = Case {
    id: "A03",
    name: "another device's client identifier with one's own credentials (CVE-2026-6564)",
    setting: |arena| Setting::of(&(arena.device("victim", "") + &arena.device("thief", ""))),
    attack: |arena| {
        Box::pin(async move {
            let own = Hello::new(Version::V5, "victim").proving("victim", arena.password());
            let mut victim = arena.connect(&own).await;
            for _ in 0..10 {
                for id in ["victim", "victim@2", "victimthief"] {
                    let hello = Hello::new(Version::V5, id).proving("thief", arena.password());
                    assert_eq!(arena.greet(&hello).await.1, Some(0x85));
                }
                assert!(matches!(arena.greet(&Hello::new(Version::V5, "victim")).await.1, Some(0x87)));
                victim.put(&Packet::PingReq);
                victim.flush().await.expect("the victim stays");
                let answer = victim.next(SOON, |packet| packet.kind().name()).await;
                assert_eq!(answer.expect("the victim stays"), Some("PINGRESP"));
            }
        })
    },
    counted: &[("tidegate_sign_ins_refused_total{protocol=\"mqtt\"}", 40.0)],
    audited: &[("sign-in refused", 40)],
};

/// Subscribes, and gives the code.
async fn subscribe(link: &mut Link, filter: &str) -> u8 {
    let wishes = [Subscription::new(filter, Qos::AtLeastOnce)];
    link.put(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).expect("an id"),
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&wishes),
    }));
    link.flush().await.expect("it stays");
    loop {
        let read = |packet: Packet<'_>| match packet {
            Packet::SubAck(ack) => Some(ack.codes[0]),
            // What an earlier subscription brings.
            Packet::Publish(_) => None,
            other => panic!("{other:?}"),
        };
        if let Some(code) = link.next(SOON, read).await.expect("it stays").expect("SUBACK") {
            return code;
        }
    }
}

/// Publishes at QoS 1, and waits until it is acknowledged.
async fn publish(link: &mut Link, topic: &str, retain: bool) {
    link.put(&Packet::Publish(Publish { retain, ..message(topic, Qos::AtLeastOnce, 9) }));
    link.flush().await.expect("it stays");
    let read = |packet: Packet<'_>| matches!(packet, Packet::PubAck(ack) if !ack.reason.is_failure());
    assert_eq!(link.next(SOON, read).await.expect("it stays"), Some(true), "{topic}");
}

/// The topics of the messages that come, up to and with the one under `last`.
async fn heard(link: &mut Link, last: &str) -> Vec<String> {
    let mut topics = Vec::new();
    while topics.last().map(String::as_str) != Some(last) {
        let read = |packet: Packet<'_>| match packet {
            Packet::Publish(publish) => publish.topic.to_owned(),
            other => panic!("{other:?}"),
        };
        topics.push(link.next(SOON, read).await.expect("it stays").expect("a message"));
    }
    topics
}

pub(super) const A05: Case = Case {
    id: "A05",
    name: "wildcards that cover what is denied, and $SYS",
    setting: |arena| Setting {
        mqtt: "sys_interval = \"1 s\"\n".to_owned(),
        rest: arena.device("reader", "subscribe = [\"public/#\"]"),
    },
    attack: |arena| {
        Box::pin(async move {
            let own = Hello::new(Version::V5, "reader").proving("reader", arena.password());
            let mut reader = arena.connect(&own).await;
            for (filter, code) in [
                ("#", 1),
                ("+/x", 1),
                ("+/+", 1),
                ("secret/#", 0x87),
                ("$SYS/#", 0x87),
                ("secret/\u{202E}", 0x87),
            ] {
                assert_eq!(subscribe(&mut reader, filter).await, code, "{filter}");
            }
            // Somebody who may read it all sees that there is something to see.
            let mut witness = arena.connect(&Hello::new(Version::V5, "witness")).await;
            assert_eq!(subscribe(&mut witness, "$SYS/#").await, 1);
            heard(&mut witness, "$SYS/broker/uptime").await;
            let mut publisher = arena.connect(&Hello::new(Version::V5, "publisher")).await;
            for topic in ["secret/x", "public/x", "secret/x", "public/end"] {
                publish(&mut publisher, topic, true).await;
            }
            let topics = heard(&mut reader, "public/end").await;
            assert!(topics.iter().all(|topic| topic.starts_with("public/")), "{topics:?}");
        })
    },
    counted: &[("tidegate_subscriptions_denied_total{protocol=\"mqtt\"}", 3.0)],
    audited: &[("denied", 3)],
};

/// The rights of A06, before and after.
fn rights(arena: &Arena, revoked: bool) -> Setting {
    let (reader, leaver) = if revoked {
        ("subscribe = [\"public/#\"]", "publish = [\"public/#\"]")
    } else {
        ("subscribe = [\"public/#\", \"secret/#\"]", "publish = [\"public/#\", \"secret/#\"]")
    };
    let gone = if revoked { String::new() } else { arena.device("gone", "publish = [\"public/#\"]") };
    // The benchmark plays it again and again.
    let often = "[limits]\nwills_per_minute = 60000\n";
    let devices = arena.device("reader", reader) + &arena.device("leaver", leaver) + &gone;
    Setting::of(&(often.to_owned() + &devices))
}

pub(super) const A06: Case = Case {
    id: "A06",
    name: "rights taken away from sessions, wills and retained messages that are there (CVE-2021-34434, CVE-2018-12546)",
    setting: |arena| rights(arena, false),
    attack: |arena| Box::pin(revoked(arena)),
    counted: &[
        ("tidegate_refusals_total{reason=\"not authorized\"}", 1.0),
        ("tidegate_reloads_total{result=\"in force\"}", 2.0),
    ],
    audited: &[("configuration", 2)],
};

/// Has the gateway read its configuration again, and waits until it has, with this result.
pub(super) fn reload(arena: &Arena, result: &str) {
    let name = format!("tidegate_reloads_total{{result=\"{result}\"}}");
    let before = arena.gateway.metric(&name);
    arena.gateway.signal(Signal::HUP);
    let done = wait_for(SOON, || (arena.gateway.metric(&name) > before).then_some(()));
    assert!(done.is_some(), "the reload's result is not {result:?}: {}", arena.gateway.log());
}

async fn revoked(arena: &Arena) {
    arena.configure(&rights(arena, false));
    reload(arena, "in force");
    let as_device = |id: &'static str| Hello::new(Version::V5, id).proving(id, arena.password());
    let lasting = || Hello::lasting(Version::V5, "reader").proving("reader", arena.password());
    drop(arena.connect(&as_device("reader")).await); // Whatever an earlier round has left.
    let mut reader = arena.connect(&lasting()).await;
    assert_eq!(subscribe(&mut reader, "#").await, 1);
    drop(reader);
    let mut witness = arena.connect(&Hello::new(Version::V5, "witness")).await;
    assert_eq!(subscribe(&mut witness, "#").await, 1);
    let dying = |topic, id| Hello { will: Some(will(topic, &[])), ..as_device(id) };
    let mut leaver = arena.connect(&dying("secret/will", "leaver")).await;
    let mut gone = arena.connect(&dying("public/will", "gone")).await;
    publish(&mut leaver, "secret/kept", true).await;
    publish(&mut leaver, "secret/queued", false).await;

    arena.configure(&rights(arena, true));
    reload(arena, "in force");
    assert!(gone.closed(SOON).await, "a device that is gone");
    let mut publisher = arena.connect(&Hello::new(Version::V5, "publisher")).await;
    let mut reader = arena.connect(&lasting()).await;
    publish(&mut publisher, "secret/more", false).await;
    publish(&mut publisher, "public/end", false).await;
    assert_eq!(heard(&mut reader, "public/end").await, ["public/end"], "nothing of what waited");
    drop(leaver);
    let mut late = arena.connect(&Hello::new(Version::V5, "late")).await;
    assert_eq!(subscribe(&mut late, "secret/#").await, 1);
    publish(&mut publisher, "secret/end", false).await;
    assert_eq!(heard(&mut late, "secret/end").await, ["secret/end"], "nothing is retained");
    let topics = heard(&mut witness, "secret/end").await;
    assert!(!topics.iter().any(|topic| topic.ends_with("/will")), "{topics:?}");
}
