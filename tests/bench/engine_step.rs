//! What a message costs in the whole engine, without sockets, disk and broker: from its bytes to its PUBACK and its
//! way upstream, in both durability modes, a hundred devices at once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark that cannot go on says so by panicking"
)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::collections::VecDeque;
use tidegate_engine::Engine;
use tidegate_engine::event::{
    Anonymous, Drain, Durability, Input, Outcome, Output, Peer, Recovered, RouteSetup, Setup, UpstreamSetup,
};
use tidegate_engine::id::{ConnId, GatewayId, LaneId, UpstreamId};
use tidegate_engine::limits::Limits;
use tidegate_engine::time::{Duration, Now};
use tidegate_engine::topic::Filter;
use tidegate_wire::mqtt::{self, Connect, Packet, PacketId, Properties, Publish, Qos, Version};

const DEVICES: u64 = 100;
const UPSTREAM: UpstreamId = UpstreamId(0);

fn encode(packet: &Packet<'_>) -> Bytes {
    let mut bytes = vec![0; mqtt::encoded_len(Version::V3_1_1, packet).unwrap()];
    mqtt::encode(Version::V3_1_1, packet, &mut bytes).unwrap();
    Bytes::from(bytes)
}

/// An engine with its devices connected and its upstream there.
fn engine(durability: Durability) -> Engine {
    let limits = Limits::default();
    let setup = Setup {
        gateway: GatewayId::new("gw").unwrap(),
        epoch: 1,
        seed: 1,
        anonymous: Anonymous::Loopback,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: vec![UpstreamSetup {
            name: "cloud".into(),
            window: limits.upstream_window,
            drain: Drain::default(),
        }],
        routes: vec![RouteSetup {
            lane: LaneId(1),
            name: "all".into(),
            filter: Some(Filter::new("#").unwrap()),
            upstream: UPSTREAM,
            routing_key: None,
            durability,
            priority: 5,
            senml: tidegate_engine::event::Senml::Untouched,
            packing: None,
            policy: tidegate_engine::event::Policy::default(),
            salvaged: false,
        }],
        limits,
    };
    let now = Now::default();
    let mut engine = Engine::new(setup, Recovered::default(), now);
    engine.handle(now, Input::UpstreamUp { upstream: UPSTREAM });
    for number in 0..DEVICES {
        let conn = ConnId(number);
        engine.handle(now, Input::Opened { conn, peer: Peer::at("127.0.0.1:1".parse().unwrap()) });
        let connect = Connect {
            version: Version::V3_1_1,
            clean_start: true,
            keep_alive: 0,
            properties: Properties::EMPTY,
            client_id: &format!("pump-{number}"),
            will: None,
            username: None,
            password: None,
        };
        engine.handle(now, Input::Received { conn, bytes: encode(&Packet::Connect(connect)) });
    }
    settle(&mut engine);
    engine
}

/// Carries out orders as a store and a broker would that answer at once, until nothing is left; counts bytes to devices.
fn settle(engine: &mut Engine) -> usize {
    let now = Now::default();
    let mut sent = 0;
    let mut answers = VecDeque::new();
    loop {
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send { conn, bytes } => {
                    sent += bytes.len();
                    answers.push_back(Input::Sent { conn, count: bytes.len() });
                }
                Output::Commit(batch) => answers.push_back(Input::Committed { batch: batch.id }),
                Output::Publish(publication) => answers.push_back(Input::Settled {
                    upstream: UPSTREAM,
                    tag: publication.tag,
                    outcome: Outcome::Confirmed,
                }),
                _ => {}
            }
        }
        if answers.is_empty() {
            return sent;
        }
        for answer in answers.drain(..) {
            engine.handle(now, answer);
        }
    }
}

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(DEVICES));
    let packets: Vec<_> = (0..DEVICES)
        .map(|number| {
            encode(&Packet::Publish(Publish {
                dup: false,
                qos: Qos::AtLeastOnce,
                retain: false,
                topic: &format!("sensors/pump-{number}/temperature"),
                packet_id: PacketId::new(1),
                properties: Properties::EMPTY,
                payload: &[b'x'; 128],
            }))
        })
        .collect();
    let relay = Durability::Relay { spill_after: Duration::from_millis(250) };
    for (name, durability) in [("relay", relay), ("disk", Durability::Disk)] {
        let mut engine = engine(durability);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (number, bytes) in (0..).zip(&packets) {
                    engine.handle(
                        Now::default(),
                        Input::Received { conn: ConnId(number), bytes: bytes.clone() },
                    );
                }
                assert_eq!(settle(&mut engine), 4 * packets.len(), "a PUBACK for each");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
