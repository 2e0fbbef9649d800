//! Packets that lie, break the rules, or come where they must not: each on connections of its own, again and again.

use super::{Arena, Case, SOON, Setting};
use crate::link::Link;
use crate::mqtt::{Hello, bytes, encode, message, whole};
use std::time::Duration;
use tidegate_wire::mqtt::{
    Ack, Auth, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, Subscribe, Subscription,
    Subscriptions, Version,
};

/// A remaining length of 256 MiB, the most that the encoding can say.
const CLAIM: [u8; 4] = [0xFF, 0xFF, 0xFF, 0x7F];

/// What one packet may cost of the processor's time, however it is made. On a busy machine several times what it is alone.
const PACKET_CPU: Duration = Duration::from_millis(5);

/// The connect time-out is long where it is not what shall close.
fn patient(_: &Arena) -> Setting {
    Setting::of("[limits]\nconnect_timeout = \"5 min\"\n")
}

const TRAVERSED: [Version; 2] = [Version::V3_1_1, Version::V5];

/// The first bytes are all that is said, and the end comes at once.
async fn refused_at_once(arena: &Arena, version: Version, said: &[u8]) {
    let mut link = arena.open(version).await.expect("a connection");
    link.write(said).await.expect("they are taken");
    assert!(link.closed(SOON).await, "nothing more is awaited");
}

/// Says something on a connection that was let in, which must end for it.
async fn ends(arena: &Arena, id: &str, version: Version, said: &[u8]) {
    let mut link = arena.connect(&Hello::new(version, id)).await;
    let _ = link.write(said).await; // It may end before everything is said.
    assert!(link.closed(SOON).await);
}

/// Waits for a packet, and gives its reason code.
async fn answer(link: &mut Link) -> Option<u8> {
    let read = |packet: Packet<'_>| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => ack.reason.0,
        Packet::SubAck(ack) => ack.codes[0],
        Packet::Disconnect(disconnect) => disconnect.reason.0,
        other => panic!("{other:?}"),
    };
    link.next(SOON, read).await.ok().flatten()
}

pub(super) const M02: Case = Case {
    id: "M02",
    name: "a first packet that is no CONNECT and claims 256 MiB (Mosquitto CVE-2023-0809, CVE-2017-7651)",
    setting: patient,
    attack: |arena| {
        Box::pin(async move {
            for number in 0..=255_u8 {
                if number != 0x10 {
                    refused_at_once(arena, Version::V5, &[&[number][..], &CLAIM].concat()).await;
                }
            }
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"protocol error\"}", 200.0)],
    audited: &[],
};

pub(super) const M03: Case = Case {
    id: "M03",
    name: "a CONNECT that claims 256 MiB",
    setting: patient,
    attack: |arena| {
        Box::pin(async move {
            for _ in 0..300 {
                refused_at_once(arena, Version::V5, &[&[0x10][..], &CLAIM].concat()).await;
            }
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"packet too large\"}", 300.0)],
    audited: &[],
};

/// Names that are none in UTF-8 (MQTT 5.0, 1.5.4).
const UNREADABLE: [&[u8]; 6] =
    [b"a\0b", b"\xC0\xAF", b"\xED\xA0\x80", b"\xED\xBF\xBF", b"\xF4\x90\x80\x80", b"a\xFF"];

/// Names that would mean something elsewhere.
const MISLEADING: [&str; 8] = [
    "$CONTROL/x",
    "$SYS/broker",
    "$share/g/t",
    "a\nb",
    super::FORGED,
    "a\u{7F}",
    "a\u{85}b",
    "'; DROP TABLE messages; --\r\n",
];

pub(super) const M07: Case = Case {
    id: "M07",
    name: "topics that are no UTF-8, have control characters, or begin with $ (CVE-2018-12543)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            let before = arena.strangers();
            for version in TRAVERSED {
                for name in UNREADABLE {
                    let mut body = vec![0, u8::try_from(name.len()).expect("short")];
                    body.extend_from_slice(name);
                    body.extend_from_slice(&[0, 1]);
                    body.extend(version.is_v5().then_some(0));
                    let mut packet = vec![0x32, u8::try_from(body.len()).expect("short")];
                    packet.extend(body);
                    ends(arena, "names", version, &packet).await;
                }
                for name in MISLEADING {
                    let packet = encode(version, &Packet::Publish(message(name, Qos::AtLeastOnce, 1)));
                    if version.is_v5() {
                        let mut link = arena.connect(&Hello::new(version, "names")).await;
                        link.write(&packet).await.expect("it is taken");
                        let answer = answer(&mut link).await;
                        assert!(matches!(answer, Some(0x81 | 0x90)), "{name:?}: {answer:?}");
                    } else {
                        ends(arena, "names", version, &packet).await;
                    }
                }
            }
            assert!(arena.strangers() <= before, "none was taken");
            let log = arena.gateway.log();
            assert!(!log.contains("DROP") && !log.contains("[2J"), "none stands in the log as it came");
        })
    },
    counted: &[
        ("tidegate_refusals_total{reason=\"malformed packet\"}", 12.0),
        ("tidegate_refusals_total{reason=\"topic name invalid\"}", 10.0),
    ],
    audited: &[],
};

pub(super) const M09: Case = Case {
    id: "M09",
    name: "topics and filters of 65,000 levels (CVE-2019-11779, CVE-2021-33176)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            const ROUNDS: u16 = 100;
            let (deep, wild) = ("/".repeat(65_535), "+/".repeat(32_767) + "#");
            let (strangers, cpu) = (arena.strangers(), arena.cpu());
            let mut link = arena.connect(&Hello::new(Version::V5, "deep")).await;
            for round in 1..=ROUNDS {
                let id = PacketId::new(round).expect("an id");
                for filter in [&deep, &wild] {
                    let wishes = [Subscription::new(filter, Qos::AtMostOnce)];
                    link.put(&subscribe(id, &[], &wishes));
                    link.flush().await.expect("it stays");
                    assert_eq!(answer(&mut link).await, Some(0x8F));
                }
                link.put_publish(&deep, b"", Qos::AtLeastOnce, id, false, false);
                link.flush().await.expect("it stays");
                assert_eq!(answer(&mut link).await, Some(0x90));
            }
            let each = (arena.cpu() - cpu) / (3 * u32::from(ROUNDS));
            assert!(each <= PACKET_CPU, "{each:?} of processor time each");
            assert!(arena.strangers() <= strangers);
        })
    },
    counted: &[
        ("tidegate_refusals_total{reason=\"topic filter invalid\"}", 200.0),
        ("tidegate_refusals_total{reason=\"topic name invalid\"}", 100.0),
    ],
    audited: &[],
};

fn subscribe<'a>(
    packet_id: PacketId,
    properties: &'a [Property<'a>],
    wishes: &'a [Subscription<'a>],
) -> Packet<'a> {
    Packet::Subscribe(Subscribe {
        packet_id,
        properties: Properties::new(properties),
        subscriptions: Subscriptions::new(wishes),
    })
}

pub(super) const M12: Case = Case {
    id: "M12",
    name: "packets before CONNECT",
    setting: patient,
    attack: |arena| {
        Box::pin(async move {
            let (sessions, strangers) = (arena.gateway.metric("tidegate_sessions"), arena.strangers());
            for round in 0..20 {
                for version in TRAVERSED {
                    let publish = encode(version, &Packet::Publish(message("t", Qos::AtLeastOnce, 1)));
                    for first in ["40 02 0001", "62 02 0001", "82 06 0001 0001'a' 00", "C0 00", "E0 00", ""] {
                        let mut said = bytes(first);
                        if first.is_empty() {
                            said.extend(&publish);
                        }
                        said.extend(Hello::lasting(version, &format!("early-{round}")).bytes());
                        said.extend(&publish);
                        refused_at_once(arena, version, &said).await;
                    }
                }
            }
            assert!(arena.gateway.metric("tidegate_sessions") <= sessions, "no session is begun");
            assert!(arena.strangers() <= strangers);
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"protocol error\"}", 240.0)],
    audited: &[],
};

pub(super) const M13: Case = Case {
    id: "M13",
    name: "a second CONNECT, and packets that only a server sends (CVE-2021-28166)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            for _ in 0..50 {
                for (first, body) in
                    [(0x20, "00 00 00"), (0x90, "0001 00 00"), (0xB0, "0001 00 00"), (0xD0, "")]
                {
                    ends(arena, "server", Version::V5, &whole(first, body)).await;
                }
                let again = Hello::lasting(Version::V5, "another").bytes();
                ends(arena, "server", Version::V5, &again).await;
            }
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"protocol error\"}", 250.0)],
    audited: &[],
};

pub(super) const M14: Case = Case {
    id: "M14",
    name: "ten thousand user properties (CVE-2021-41039)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            const ROUNDS: u32 = 50;
            let list = vec![Property::User("", ""); 10_000];
            let properties = Properties::new(&list);
            let (strangers, cpu) = (arena.strangers(), arena.cpu());
            let mut link = arena.connect(&Hello::new(Version::V5, "bomb")).await;
            for _ in 0..ROUNDS {
                for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                    link.put(&Packet::Publish(Publish { properties, ..message("t", qos, 1) }));
                    link.flush().await.expect("it stays");
                    assert_eq!(answer(&mut link).await, Some(0x97));
                }
                let wishes = [Subscription::new("t", Qos::AtMostOnce)];
                link.put(&subscribe(PacketId::new(2).expect("an id"), &list, &wishes));
                link.flush().await.expect("it stays");
                assert_eq!(answer(&mut link).await, Some(0), "where they mean nothing they change nothing");
                // Before a CONNECT is accepted its size is bound more tightly.
                let mut hello = Hello::new(Version::V5, "bomb-2");
                hello.properties.clone_from(&list);
                refused_at_once(arena, Version::V5, &hello.bytes()).await;
            }
            let each = (arena.cpu() - cpu) / (4 * ROUNDS);
            assert!(each <= PACKET_CPU, "{each:?} of processor time each");
            assert!(arena.strangers() <= strangers);
        })
    },
    counted: &[
        ("tidegate_refusals_total{reason=\"quota exceeded\"}", 100.0),
        ("tidegate_refusals_total{reason=\"packet too large\"}", 50.0),
    ],
    audited: &[],
};

pub(super) const M15: Case = Case {
    id: "M15",
    name: "doubled, misplaced and broken properties, again and again (CVE-2023-3592)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            let connect = "0004'MQTT'05 06 0000 00 0001'd'";
            let bad = [
                whole(0x10, "0004'MQTT'05 02 0000 0A 11 00000001 11 00000002 0001'd'"),
                whole(0x10, "0004'MQTT'05 02 0000 03 23 0001 0001'd'"),
                whole(0x10, &format!("{connect} 0A 18 00000001 18 00000002 0001'w' 0000")),
                whole(0x10, &format!("{connect} 02 24 01 0001'w' 0000")),
                whole(0x10, &format!("{connect} 05 08 0002'w' 0001'w' 0000")),
                whole(0x10, &format!("{connect} 7F 01 01 0001'w' 0000")),
            ];
            for round in 0..6_000 {
                refused_at_once(arena, Version::V5, &bad[round % bad.len()]).await;
            }
        })
    },
    counted: &[
        ("tidegate_refusals_total{reason=\"protocol error\"}", 2_000.0),
        ("tidegate_refusals_total{reason=\"malformed packet\"}", 4_000.0),
    ],
    audited: &[],
};

/// A topic that goes upstream: what has no route is acknowledged at once.
const ROUTED: &str = "bystander/flood";

/// The bystander's device may publish there; those of this host that are nobody in particular may publish everywhere.
async fn flood(arena: &Arena, id: &str, qos: Qos) -> u8 {
    let mut link = arena.connect(&Hello::new(Version::V5, id)).await;
    let stream: Vec<u8> =
        (1..=10_000).flat_map(|id| encode(Version::V5, &Packet::Publish(message(ROUTED, qos, id)))).collect();
    let _ = link.write(&stream).await; // It may end before everything is said.
    loop {
        let read = |packet: Packet<'_>| match packet {
            Packet::Disconnect(disconnect) => Some(disconnect.reason.0),
            _ => None,
        };
        match link.next(SOON, read).await {
            Ok(Some(Some(reason))) => return reason,
            Ok(Some(None)) => {}
            Ok(None) => panic!("neither an acknowledgement nor the end"),
            // The kernel throws away what was sent before a connection is reset.
            Err(_) => return ReasonCode::RECEIVE_MAXIMUM_EXCEEDED.0,
        }
    }
}

pub(super) const M17: Case = Case {
    id: "M17",
    name: "ten thousand messages beyond Receive Maximum",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            for _ in 0..5 {
                for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                    assert_eq!(flood(arena, "flood", qos).await, 0x93);
                }
            }
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"receive maximum exceeded\"}", 10.0)],
    audited: &[],
};

pub(super) const M18: Case = Case {
    id: "M18",
    name: "QoS 2 without end: one id repeated, ids never released, PUBREL for none (CVE-2023-28366)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            let accepted = arena.gateway.metric("tidegate_messages_unrouted_total");
            let mut link = arena.connect(&Hello::new(Version::V5, "endless")).await;
            let id = PacketId::new(7).expect("an id");
            for round in 0..1_000 {
                link.put_publish("t", b"", Qos::ExactlyOnce, id, round > 0, false);
                link.flush().await.expect("it stays");
                assert_eq!(answer(&mut link).await, Some(0));
                let unknown = PacketId::new(1_000 + round).expect("an id");
                link.put(&Packet::PubRel(Ack::success(unknown)));
                link.flush().await.expect("it stays");
                assert_eq!(answer(&mut link).await, Some(0x92));
            }
            let taken = arena.gateway.metric("tidegate_messages_unrouted_total") - accepted;
            assert!(taken <= 1.0, "one message, {taken} times");
            // An older version knows no Receive Maximum: it is let go on for longer, and not for ever.
            let mut link = arena.connect(&Hello::new(Version::V3_1_1, "endless-too")).await;
            let stream: Vec<u8> = (1..=20_000)
                .flat_map(|id| encode(Version::V3_1_1, &Packet::Publish(message("t", Qos::ExactlyOnce, id))))
                .collect();
            let _ = link.write(&stream).await; // It ends before everything is said.
            assert!(link.closed(SOON).await);
        })
    },
    counted: &[
        ("tidegate_repeated_messages_total{protocol=\"mqtt\"}", 999.0),
        ("tidegate_refusals_total{reason=\"packet identifier not found\"}", 1_000.0),
        ("tidegate_refusals_total{reason=\"quota exceeded\"}", 1.0),
    ],
    audited: &[],
};

pub(super) const M20: Case = Case {
    id: "M20",
    name: "AUTH without a method, and methods that nobody knows",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            for _ in 0..100 {
                let hello = Hello::new(Version::V5, "auth").with(Property::AuthMethod("SCRAM-SHA-1"));
                let (_, answer) = arena.greet(&hello).await;
                assert_eq!(answer, Some(0x8C));
                for reason in [ReasonCode::CONTINUE_AUTHENTICATION, ReasonCode::RE_AUTHENTICATE] {
                    let auth = Packet::Auth(Auth { reason, properties: Properties::EMPTY });
                    ends(arena, "auth", Version::V5, &encode(Version::V5, &auth)).await;
                }
            }
        })
    },
    counted: &[
        ("tidegate_refusals_total{reason=\"bad authentication method\"}", 100.0),
        ("tidegate_refusals_total{reason=\"protocol error\"}", 200.0),
    ],
    audited: &[],
};

pub(super) const M26: Case = Case {
    id: "M26",
    name: "100,000 filters, and filters that match everything (CVE-2021-33175, CVE-2021-33176)",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            const FILTERS: usize = 100_000;
            const AT_ONCE: usize = 1_000;
            let mut greedy = arena.connect(&Hello::new(Version::V5, "greedy")).await;
            let names: Vec<String> = (0..FILTERS).map(|number| format!("+/+/{number}/#")).collect();
            let (mut granted, id) = (0, PacketId::new(1).expect("an id"));
            for some in names.chunks(AT_ONCE) {
                let wishes: Vec<_> =
                    some.iter().map(|name| Subscription::new(name, Qos::AtMostOnce)).collect();
                greedy.put(&subscribe(id, &[], &wishes));
                greedy.flush().await.expect("it stays");
                let counted = greedy.next(SOON, |packet| match packet {
                    Packet::SubAck(ack) => {
                        assert!(ack.codes.iter().all(|code| matches!(code, 0 | 0x97)));
                        ack.codes.iter().filter(|code| **code == 0).count()
                    }
                    other => panic!("{other:?}"),
                });
                granted += counted.await.expect("it stays").expect("SUBACK");
            }
            assert!(granted < AT_ONCE, "{granted} of {FILTERS} were granted");
            // Every combination of wildcards, from many: a message costs what it costs.
            let mut all = Vec::new();
            for number in 0..50 {
                let mut one = arena.connect(&Hello::new(Version::V5, &format!("greedy-{number}"))).await;
                let level = |bit: u8, combination: u8| if combination & 1 << bit == 0 { "+" } else { "x" };
                let names: Vec<String> =
                    (0..64).map(|c| [0, 1, 2, 3, 4, 5].map(|bit| level(bit, c)).join("/")).collect();
                let wishes: Vec<_> =
                    names.iter().map(|name| Subscription::new(name, Qos::AtMostOnce)).collect();
                one.put(&subscribe(id, &[], &wishes));
                one.flush().await.expect("it stays");
                assert_eq!(answer(&mut one).await, Some(0));
                all.push(one);
            }
            let cpu = arena.cpu();
            let mut link = arena.connect(&Hello::new(Version::V5, "publisher")).await;
            for _ in 0..100 {
                link.put_publish("x/x/x/x/x/x", b"", Qos::AtLeastOnce, id, false, false);
                link.flush().await.expect("it stays");
                assert_eq!(answer(&mut link).await, Some(0));
            }
            let each = (arena.cpu() - cpu) / 100;
            assert!(each <= 2 * PACKET_CPU, "{each:?} of processor time each");
            for mut one in all {
                let heard = one.next(SOON, |packet| packet.kind().name()).await.expect("it stays");
                assert_eq!(heard, Some("PUBLISH"));
            }
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"quota exceeded\"}", 90_000.0)],
    audited: &[],
};
