//! More of the same kinds: floods of connections, and subscribers that do not take what they asked for.

use super::{ATTACKER, Arena, Case, LOAD_BALANCER, SOON, Setting};
use crate::link::Link;
use crate::mqtt::Hello;
use crate::wait::wait_for;
use std::net::Ipv4Addr;
use tidegate_wire::mqtt::{
    Ack, Packet, PacketId, Properties, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// An honest client connects, publishes at QoS 1, and is acknowledged.
async fn honest(arena: &Arena, id: &str) {
    let (mut link, _) =
        Link::connect(arena.gateway.mqtt, &Hello::new(Version::V3_1_1, id)).await.expect("it is let in");
    let packet_id = PacketId::new(1).expect("an id");
    link.put_publish("flood/honest", b"1", Qos::AtLeastOnce, packet_id, false, false);
    link.flush().await.expect("it stays");
    assert_eq!(link.next(SOON, |packet| packet.kind().name()).await.expect("it stays"), Some("PUBACK"));
}

pub(super) const F01: Case = Case {
    id: "F01",
    name: "a flood of connections from one address",
    setting: |_| Setting { mqtt: LOAD_BALANCER.to_owned(), rest: String::new() },
    attack: |arena| {
        Box::pin(async move {
            let flooder = super::speaking_for(Ipv4Addr::new(192, 0, 2, 66));
            for round in 0..20 {
                let mut held = Vec::new();
                for _ in 0..200 {
                    let mut link = arena.open(Version::V3_1_1).await.expect("a connection");
                    let _ = link.write(&flooder).await; // It may be refused before.
                    held.push(link);
                }
                honest(arena, &format!("honest-{round}")).await;
            }
        })
    },
    counted: &[("tidegate_connections_refused_total", 1_000.0)],
    audited: &[],
};

pub(super) const F02: Case = Case {
    id: "F02",
    name: "connections that say nothing",
    setting: |_| Setting::of("[limits]\nconnect_timeout = \"5 min\"\n"),
    attack: |arena| {
        Box::pin(async move {
            let mut held = Vec::new();
            for round in 0..20 {
                for _ in 0..100 {
                    held.push(arena.open(Version::V3_1_1).await.expect("a connection"));
                }
                honest(arena, &format!("honest-{round}")).await;
            }
            assert!(held[0].closed(SOON).await, "the oldest goes first");
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"connection rate exceeded\"}", 1_000.0)],
    audited: &[],
};

pub(super) const F03: Case = Case {
    id: "F03",
    name: "a flood of clients that connect and go, and CONNECTs of one byte at a time",
    setting: |_| Setting::of("[limits]\nconnect_timeout = \"1 s\"\n"),
    attack: |arena| {
        Box::pin(async move {
            let slow: Vec<_> =
                (0..50).map(|number| tokio::spawn(trickle(arena.gateway.mqtt, number))).collect();
            for number in 0..5_000 {
                let hello = Hello { version: Version::V5, ..Hello::new(Version::V5, "") };
                let Ok(mut link) = arena.open(hello.version).await else { continue };
                // Whether it is answered or refused is the gateway's to say; that it does is what counts.
                let _ = link.write(&Hello { id: &format!("fleeting-{number}"), ..hello }.bytes()).await;
                let _ = link.next(SOON, |packet| packet.kind()).await;
            }
            for one in slow {
                one.await.expect("it is cut off");
            }
            let sessions = "tidegate_sessions{protocol=\"mqtt\"}";
            let gone = || (arena.gateway.metric(sessions) <= 1.0).then_some(());
            assert!(wait_for(SOON, gone).is_some(), "{} sessions are left", arena.gateway.metric(sessions));
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"maximum connect time\"}", 40.0)],
    audited: &[],
};

/// Between two bytes of somebody slow; less than every time-out.
const TRICKLE: std::time::Duration = std::time::Duration::from_millis(100);

async fn trickle(address: std::net::SocketAddr, number: usize) {
    let id = format!("slow-{number:04}-with-a-client-identifier-of-some-length");
    let mut link = Link::open_from(ATTACKER, address, Version::V3_1_1).await.expect("a connection");
    for byte in Hello::new(Version::V3_1_1, &id).bytes() {
        if link.write(&[byte]).await.is_err() || link.closed(TRICKLE).await {
            return;
        }
    }
    panic!("a CONNECT of one byte in {TRICKLE:?} was waited for");
}

/// Subscribers that stop reading, at each QoS.
const DEAF: usize = 4;

/// What is sent to each of them: 48 MiB in pieces that no socket buffer swallows.
const PIECES: usize = 768;
const PIECE_BYTES: usize = 64 << 10;

async fn subscriber(arena: &Arena, id: &str, qos: Qos) -> Link {
    let mut link = arena.connect(&Hello::new(Version::V5, id)).await;
    let subscriptions = [Subscription::new("much/#", qos)];
    link.put(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).expect("an id"),
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&subscriptions),
    }));
    link.flush().await.expect("it stays");
    let granted = link.next(SOON, |packet| matches!(packet, Packet::SubAck(ack) if ack.codes == [qos as u8]));
    assert_eq!(granted.await.expect("it stays"), Some(true));
    link
}

pub(super) const F04: Case = Case {
    id: "F04",
    name: "subscribers that stop reading",
    setting: Setting::plain,
    attack: |arena| Box::pin(deaf(arena)),
    counted: &[("tidegate_dropped_messages_total{protocol=\"mqtt\"}", 1.0)],
    audited: &[],
};

async fn deaf(arena: &Arena) {
    let mut deaf = Vec::new();
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        for number in 0..DEAF {
            deaf.push(subscriber(arena, &format!("deaf-{}-{number}", qos as u8), qos).await);
        }
    }
    let mut hears = subscriber(arena, "hears", Qos::AtLeastOnce).await;
    let mut publisher = arena.connect(&Hello::new(Version::V5, "speaks")).await;
    let (id, piece) = (PacketId::new(1).expect("an id"), vec![b'x'; PIECE_BYTES]);
    for number in 0..PIECES {
        publisher.put_publish("much/of/it", &piece, Qos::ExactlyOnce, id, false, false);
        publisher.flush().await.expect("it stays");
        let recorded =
            publisher.next(SOON, |packet| matches!(packet, Packet::PubRec(ack) if !ack.reason.is_failure()));
        assert_eq!(recorded.await.expect("it stays"), Some(true), "PUBREC of {number}");
        publisher.put(&Packet::PubRel(Ack::success(id)));
        publisher.flush().await.expect("it stays");
        let released = publisher.next(SOON, |packet| packet.kind().name()).await;
        assert_eq!(released.expect("it stays"), Some("PUBCOMP"));
        let heard = hears.next(SOON, |packet| match packet {
            Packet::Publish(message) => (message.payload.len(), message.packet_id),
            other => panic!("{other:?}"),
        });
        let (bytes, heard_id) = heard.await.expect("it stays").expect("who reads hears every message");
        assert_eq!(bytes, PIECE_BYTES);
        hears.put(&Packet::PubAck(Ack::success(heard_id.expect("QoS 1"))));
        hears.flush().await.expect("it stays");
    }
    drop(deaf);
}

pub(super) const F05: Case = Case {
    id: "F05",
    name: "subscribers that read and never acknowledge",
    setting: Setting::plain,
    attack: |arena| {
        Box::pin(async move {
            let mut silent = Vec::new();
            for number in 0..8 {
                silent.push(subscriber(arena, &format!("silent-{number}"), Qos::AtLeastOnce).await);
            }
            let mut publisher = arena.connect(&Hello::new(Version::V5, "speaks")).await;
            let (id, piece) = (PacketId::new(1).expect("an id"), vec![b'x'; 4 << 10]);
            for _ in 0..4_000 {
                publisher.put_publish("much/of/it", &piece, Qos::AtLeastOnce, id, false, false);
                publisher.flush().await.expect("it stays");
                let answer = publisher.next(SOON, |packet| packet.kind().name()).await;
                assert_eq!(answer.expect("it stays"), Some("PUBACK"));
            }
            drop(silent);
        })
    },
    counted: &[("tidegate_dropped_messages_total{protocol=\"mqtt\"}", 1.0)],
    audited: &[],
};
