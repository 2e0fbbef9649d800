//! What finding the subscribers of a topic costs among 100 and among 100,000 filters. The goal: at most twice as much.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on says so by panicking")]

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use std::sync::Arc;
use tidegate_engine::event::{Anonymous, Output, Peer, Setup};
use tidegate_engine::id::{ConnId, DeviceId, GatewayId, MessageId, Seq};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message, Qos as MessageQos, Source};
use tidegate_engine::mutant::Planted;
use tidegate_engine::session::Request;
use tidegate_engine::session::mqtt::Mqtt;
use tidegate_engine::time::{Now, Stamp};
use tidegate_engine::topic::Topic;
use tidegate_wire::mqtt::{
    self, Connect, Packet, PacketId, Properties, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// Topics that are asked for in turn: so many that their levels do not all stay in the nearest cache.
const TOPICS: usize = 10_000;

fn encode(packet: &Packet<'_>) -> Bytes {
    let mut bytes = vec![0; mqtt::encoded_len(Version::V5, packet).unwrap()];
    mqtt::encode(Version::V5, packet, &mut bytes).unwrap();
    bytes.into()
}

/// Half of the filters name a device, half have a wildcard before the level that tells them apart.
fn filter(number: usize) -> String {
    if number.is_multiple_of(2) {
        format!("site/hall-{}/device-{number}/temperature", number % 10)
    } else {
        format!("site/+/device-{number}/#")
    }
}

fn drain(mqtt: &mut Mqtt) {
    while let Some(request) = mqtt.poll() {
        if let Request::Output(Output::Send { conn, bytes }) = request {
            mqtt.sent(Now::default(), conn, bytes.len());
        }
    }
}

/// A client with so many subscriptions.
fn server(filters: usize) -> Mqtt {
    let setup = Setup {
        gateway: GatewayId::new("gw").unwrap(),
        epoch: 1,
        seed: 1,
        limits: Limits { subscriptions_per_session: filters, ..Limits::default() },
        anonymous: Anonymous::Loopback,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: Vec::new(),
        routes: Vec::new(),
    };
    let mut mqtt = Mqtt::new(&setup, Planted::default(), &[], Now::default());
    let conn = ConnId(1);
    mqtt.opened(Now::default(), conn, Peer::at("127.0.0.1:1".parse().unwrap()));
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::EMPTY,
        client_id: "watcher",
        will: None,
        username: None,
        password: None,
    };
    mqtt.received(Now::default(), conn, encode(&Packet::Connect(connect)));
    for number in 0..filters {
        let text = filter(number);
        let wishes = [Subscription::new(&text, Qos::AtMostOnce)];
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&wishes),
        };
        mqtt.received(Now::default(), conn, encode(&Packet::Subscribe(subscribe)));
        drain(&mut mqtt);
    }
    mqtt
}

fn message(topic: &str) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId { epoch: 1, seq: Seq(1) },
        device: DeviceId::new("d").unwrap(),
        topic: Topic::new(topic).unwrap(),
        payload: Bytes::from_static(b"21.5"),
        received: Stamp::default(),
        qos: MessageQos::AtMostOnce,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    })
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matching");
    for (count, name) in [(100, "100"), (100_000, "100000")] {
        let mut mqtt = server(count);
        // A prime step goes through all filters in no order that a cache could foresee.
        let number = |n: usize| n * 7_919 % count;
        let topics = |last: &str| -> Vec<Arc<Message>> {
            (0..TOPICS)
                .map(&number)
                .map(|n| message(&format!("site/hall-{}/device-{n}/{last}", n % 10)))
                .collect()
        };
        let (hits, misses) = (topics("temperature"), topics("humidity"));
        let misses: Vec<_> = misses.into_iter().step_by(2).collect();
        let mut turn = 0;
        group.bench_function(format!("one_match/{name}_filters"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % TOPICS;
                assert_eq!(mqtt.deliver(Now::default(), &hits[turn], None, None, false).taken, 1);
                drain(&mut mqtt);
            });
        });
        group.bench_function(format!("walk/{name}_filters"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % misses.len();
                mqtt.deliver(Now::default(), &misses[turn], None, None, false)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
