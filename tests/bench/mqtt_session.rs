//! What the MQTT sessions cost a message, without core, store and sockets: PUBLISH in, PUBACK out; and PUBLISH to
//! subscribers. The goal is well under a microsecond, so that 200,000 messages/s fit into one core with all the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark that cannot go on says so by panicking"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use tidegate_engine::event::{Anonymous, Output, Peer, Setup};
use tidegate_engine::id::{ConnId, DeviceId, GatewayId, MessageId, Seq};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message, Properties as MessageProperties, Qos as MessageQos, Source};
use tidegate_engine::mutant::Planted;
use tidegate_engine::session::mqtt::Mqtt;
use tidegate_engine::session::{Receipt, Request};
use tidegate_engine::time::{Now, Stamp};
use tidegate_engine::topic::Topic;
use tidegate_wire::mqtt::{
    self, Connect, Packet, PacketId, Properties, Publish, Qos, Subscribe, Subscription, Subscriptions,
    Version,
};

const PAYLOAD: [u8; 128] = [b'x'; 128];

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = vec![0; mqtt::encoded_len(Version::V5, packet).unwrap()];
    mqtt::encode(Version::V5, packet, &mut bytes).unwrap();
    bytes
}

fn publish(qos: Qos, id: u16) -> Vec<u8> {
    encode(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: "sensors/pump-7/temperature",
        packet_id: PacketId::new(id),
        properties: Properties::EMPTY,
        payload: &PAYLOAD,
    }))
}

fn server(clients: u64, filter: &str) -> Mqtt {
    let setup = Setup {
        gateway: GatewayId::new("gw").unwrap(),
        epoch: 1,
        seed: 1,
        limits: Limits { connections: 2_048, connections_unauthenticated: 2_048, ..Limits::default() },
        anonymous: Anonymous::Loopback,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: Vec::new(),
        routes: Vec::new(),
    };
    let mut mqtt = Mqtt::new(&setup, Planted::default(), &[], Now::default());
    for number in 0..clients {
        let conn = ConnId(number);
        mqtt.opened(Now::default(), conn, Peer::at("127.0.0.1:1".parse().unwrap()));
        let connect = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive: 60,
            properties: Properties::EMPTY,
            client_id: &format!("pump-{number}"),
            will: None,
            username: None,
            password: None,
        };
        mqtt.received(Now::default(), conn, Bytes::from(encode(&Packet::Connect(connect))));
        if !filter.is_empty() {
            let wishes = [Subscription::new(filter, Qos::AtMostOnce)];
            let subscriptions = Subscriptions::new(&wishes);
            let packet_id = PacketId::new(1).unwrap();
            let subscribe = Subscribe { packet_id, properties: Properties::EMPTY, subscriptions };
            mqtt.received(Now::default(), conn, Bytes::from(encode(&Packet::Subscribe(subscribe))));
        }
    }
    drain(&mut mqtt, &mut Vec::new());
    mqtt
}

/// Carries out what is asked; returns the bytes that were sent.
fn drain(mqtt: &mut Mqtt, receipts: &mut Vec<Receipt>) -> usize {
    let mut sent = 0;
    while let Some(request) = mqtt.poll() {
        match request {
            Request::Publish { receipt, .. } => receipts.extend(receipt),
            Request::Output(Output::Send { conn, bytes }) => {
                sent += bytes.len();
                mqtt.sent(Now::default(), conn, bytes.len());
            }
            _ => {}
        }
    }
    sent
}

fn acknowledge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mqtt_session");
    for clients in [1_u64, 100] {
        let window = 10;
        let chunk: Bytes =
            (1..=window).flat_map(|id| publish(Qos::AtLeastOnce, id)).collect::<Vec<u8>>().into();
        let mut mqtt = server(clients, "");
        let mut receipts = Vec::new();
        group.throughput(Throughput::Elements(clients * u64::from(window)));
        group.bench_function(format!("puback/{clients}_clients_window_10"), |bencher| {
            bencher.iter(|| {
                for number in 0..clients {
                    mqtt.received(Now::default(), ConnId(number), chunk.clone());
                }
                drain(&mut mqtt, &mut receipts);
                for receipt in receipts.drain(..) {
                    let Receipt::Mqtt(receipt) = receipt else { panic!("not MQTT's") };
                    mqtt.safe(Now::default(), receipt);
                }
                assert_eq!(drain(&mut mqtt, &mut receipts), clients as usize * 4 * usize::from(window));
            });
        });
    }
    group.finish();
}

fn message(qos: MessageQos, properties: Option<MessageProperties>) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId { epoch: 1, seq: Seq(1) },
        device: DeviceId::new("pump-7").unwrap(),
        topic: Topic::new("sensors/pump-7/temperature").unwrap(),
        payload: Bytes::copy_from_slice(&PAYLOAD),
        received: Stamp::default(),
        qos,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: properties.map(Box::new),
    })
}

fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mqtt_session");
    let plain = message(MessageQos::AtLeastOnce, None);
    let user = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let described = message(
        MessageQos::AtLeastOnce,
        Some(MessageProperties {
            content_type: Some("application/senml+json".to_owned()),
            user: vec![user("unit", "Cel"), user("line", "7"), user("trace", "8f14e45fceea167a")],
            ..MessageProperties::default()
        }),
    );
    let cases = [
        ("", 0, &plain),
        ("", 1, &plain),
        ("", 100, &plain),
        ("", 1_000, &plain),
        ("_described", 1_000, &described),
    ];
    for (name, clients, message) in cases {
        let mut mqtt = server(clients, "sensors/+/temperature");
        group.throughput(Throughput::Elements(clients.max(1)));
        group.bench_function(format!("deliver/{clients}_subscribers{name}"), |bencher| {
            bencher.iter(|| {
                assert_eq!(mqtt.deliver(Now::default(), message, None, None, false).taken, clients as usize);
                drain(&mut mqtt, &mut Vec::new())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, acknowledge, deliver);
criterion_main!(benches);
