//! How fast the MQTT codec reads and writes what a gateway sees most: QoS 1 PUBLISH of 128-byte payloads, and PUBACK.
//! `cargo bench -p tidegate-tests --bench wire_mqtt`; the aim is 20 to 30 ns to read a PUBLISH on an idle core.

#![allow(clippy::unwrap_used, missing_docs)] // a benchmark may stop

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate_wire::mqtt::{
    Ack, Kind, Packet, PacketId, Properties, Property, Publish, Qos, Version, decode, encode,
    encode_publish_header, short_ack,
};

fn codec(criterion: &mut Criterion) {
    let payload = [0x55; 128];
    let properties = [Property::MessageExpiry(60), Property::User("unit", "celsius")];
    for (name, version, properties) in [
        ("MQTT 3.1.1", Version::V3_1_1, Properties::EMPTY),
        ("MQTT 5", Version::V5, Properties::EMPTY),
        ("MQTT 5 with properties", Version::V5, Properties::new(&properties)),
    ] {
        let packet_id = PacketId::new(77);
        let publish = Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: "sensors/boiler-3/temp",
            packet_id,
            properties,
            payload: &payload,
        };
        let packet = Packet::Publish(publish);
        let mut buffer = [0; 512];
        let size = encode(version, &packet, &mut buffer).unwrap();
        let bytes = &buffer[..size];
        let mut out = [0; 512];
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        group.bench_function("decode PUBLISH", |bencher| {
            bencher.iter(|| black_box(decode(black_box(version), black_box(bytes)).is_ok()));
        });
        group.bench_function("encode PUBLISH", |bencher| {
            bencher.iter(|| encode(black_box(version), black_box(&packet), &mut out).unwrap());
        });
        group.bench_function("encode PUBLISH's header", |bencher| {
            bencher
                .iter(|| encode_publish_header(black_box(version), black_box(&publish), &mut out).unwrap());
        });
        let puback = Packet::PubAck(Ack::success(packet_id.unwrap()));
        group.bench_function("encode PUBACK", |bencher| {
            bencher.iter(|| encode(black_box(version), black_box(&puback), &mut out).unwrap());
        });
        let short = short_ack(Kind::PubAck, packet_id.unwrap());
        group.bench_function("decode PUBACK", |bencher| {
            bencher.iter(|| black_box(decode(black_box(version), black_box(&short)).is_ok()));
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
