//! Those who do not read: subscribers that stop while much is sent to them, and those that never acknowledge.

use crate::{SOON, withstands};
use std::net::SocketAddr;
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::Hello;
use tidegate_wire::mqtt::{
    Packet, PacketId, Properties, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// Subscribers that stop reading, at each QoS.
const DEAF: usize = 4;

/// What is sent to each of them: 48 MiB in pieces that no socket buffer swallows.
const PIECES: usize = 768;
const PIECE_BYTES: usize = 64 << 10;

async fn subscribe(address: SocketAddr, id: &str, qos: Qos) -> Link {
    let (mut link, _) = Link::connect(address, &Hello::new(Version::V5, id)).await.unwrap();
    let subscriptions = [Subscription::new("much/#", qos)];
    link.put(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&subscriptions),
    }));
    link.flush().await.unwrap();
    let granted = link.next(SOON, |packet| matches!(packet, Packet::SubAck(ack) if ack.codes == [qos as u8]));
    assert_eq!(granted.await.unwrap(), Some(true));
    link
}

#[test]
fn subscribers_that_stop_reading_hold_up_neither_publishers_nor_other_subscribers() {
    let gateway = withstands("", |address| async move {
        let mut deaf = Vec::new();
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for number in 0..DEAF {
                deaf.push(subscribe(address, &format!("deaf-{}-{number}", qos as u8), qos).await);
            }
        }
        let mut hears = subscribe(address, "hears", Qos::AtLeastOnce).await;
        let (mut publisher, _) = Link::connect(address, &Hello::new(Version::V5, "speaks")).await.unwrap();
        let (id, piece) = (PacketId::new(1).unwrap(), vec![b'x'; PIECE_BYTES]);
        for number in 0..PIECES {
            publisher.put_publish("much/of/it", &piece, Qos::ExactlyOnce, id, false, false);
            publisher.flush().await.unwrap();
            let recorded = publisher
                .next(SOON, |packet| matches!(packet, Packet::PubRec(ack) if !ack.reason.is_failure()));
            assert_eq!(recorded.await.unwrap(), Some(true), "PUBREC of {number}");
            publisher.put(&Packet::PubRel(tidegate_wire::mqtt::Ack::success(id)));
            publisher.flush().await.unwrap();
            assert_eq!(publisher.next(SOON, |packet| packet.kind().name()).await.unwrap(), Some("PUBCOMP"));
            let heard = hears.next(SOON, |packet| match packet {
                Packet::Publish(message) => (message.payload.len(), message.packet_id),
                other => panic!("{other:?}"),
            });
            let (bytes, heard_id) = heard.await.unwrap().expect("who reads hears every message");
            assert_eq!(bytes, PIECE_BYTES);
            hears.put(&Packet::PubAck(tidegate_wire::mqtt::Ack::success(heard_id.unwrap())));
            hears.flush().await.unwrap();
        }
        drop(deaf);
    });
    assert!(gateway.metric("tidegate_dropped_messages_total") > 0.0, "what they did not take is counted");
}

/// Subscribers that read and never acknowledge: nothing beyond the Receive Maximum is sent to them, and what waits is bounded.
#[test]
fn subscribers_that_never_acknowledge_cost_no_more_than_their_queue() {
    const SILENT: usize = 8;
    let gateway = withstands("", |address| async move {
        let mut silent = Vec::new();
        for number in 0..SILENT {
            silent.push(subscribe(address, &format!("silent-{number}"), Qos::AtLeastOnce).await);
        }
        let (mut publisher, _) = Link::connect(address, &Hello::new(Version::V5, "speaks")).await.unwrap();
        let (id, piece) = (PacketId::new(1).unwrap(), vec![b'x'; 4 << 10]);
        for _ in 0..4_000 {
            publisher.put_publish("much/of/it", &piece, Qos::AtLeastOnce, id, false, false);
            publisher.flush().await.unwrap();
            assert_eq!(publisher.next(SOON, |packet| packet.kind().name()).await.unwrap(), Some("PUBACK"));
        }
        drop(silent);
    });
    assert!(gateway.metric("tidegate_dropped_messages_total") > 0.0);
}
