//! Whether batches keep to their bounds and to the order of each device, whatever comes.

use super::*;
use std::collections::HashMap;
use std::time::Duration;
use tidegate_engine::event::{Format, Senml};
use tidegate_engine::id::{DeviceId, MessageId, Seq, Tag, UpstreamId};
use tidegate_engine::message::{Message, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

const LINGER: Duration = Duration::from_millis(100);

fn gateway() -> GatewayId {
    GatewayId::new("g").unwrap()
}

fn packing(max_messages: usize, max_bytes: usize) -> Arc<Packing> {
    Arc::new(Packing { max_messages, max_bytes, linger: LINGER, format: Format::Json, compression: None })
}

fn publication(seq: u64, lane: u16, device: &str, key: &str, packing: Option<&Arc<Packing>>) -> Publication {
    Publication {
        upstream: UpstreamId(0),
        tag: Tag(seq),
        lane: LaneId(lane),
        message: Arc::new(Message {
            id: MessageId { epoch: 1, seq: Seq(seq) },
            device: DeviceId::new(device).unwrap(),
            topic: Topic::new("t").unwrap(),
            payload: "21.5".into(),
            received: Stamp { unix_ms: 1_700_000_000_000, synchronised: true },
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        }),
        routing_key: key.to_owned(),
        senml: Senml::Untouched,
        packing: packing.cloned(),
        resend: false,
        salvaged: false,
        live: false,
    }
}

/// The messages of what is ready, AMQP message by AMQP message.
fn tags(ready: &[Ready]) -> Vec<Vec<u64>> {
    ready
        .iter()
        .map(|ready| match ready {
            Ready::One(publication) => vec![publication.tag.0],
            Ready::Batch(batch) => batch.publications.iter().map(|publication| publication.tag.0).collect(),
        })
        .collect()
}

#[test]
fn a_batch_is_closed_when_it_is_full_and_not_before() {
    let (mut packer, packing, now) = (Packer::default(), packing(3, 1 << 20), Instant::now());
    let mut add = |seq| tags(&packer.add(&gateway(), publication(seq, 1, "d", "k", Some(&packing)), now));
    assert_eq!([add(1), add(2)], [const { Vec::<Vec<u64>>::new() }; 2]);
    assert_eq!(add(3), [[1, 2, 3]]);
    assert!(add(4).is_empty());
    assert_eq!((packer.messages(), packer.due()), (1, Some(now + LINGER)));
    assert!(packer.ripe(now + LINGER / 2).is_empty());
    assert_eq!(tags(&packer.ripe(now + LINGER)), [[4]]);
    assert!(packer.is_empty() && packer.bytes == 0 && packer.due().is_none());
}

#[test]
fn routes_and_routing_keys_have_batches_of_their_own() {
    let (mut packer, packing, now) = (Packer::default(), packing(2, 1 << 20), Instant::now());
    let mut add = |seq, lane, device: &str, key: &str| {
        tags(&packer.add(&gateway(), publication(seq, lane, device, key, Some(&packing)), now))
    };
    assert!(add(1, 1, "a", "x").is_empty());
    assert!(add(2, 1, "b", "y").is_empty());
    // One device on two routes: there is no order between them.
    assert!(add(3, 2, "a", "x").is_empty());
    assert_eq!(add(4, 1, "a", "x"), [[1, 4]]);
    assert_eq!(add(5, 2, "c", "x"), [[3, 5]]);
    assert_eq!(tags(&packer.all()), [[2]]);
}

#[test]
fn a_device_that_goes_elsewhere_takes_its_earlier_messages_along_first() {
    let (mut packer, packing, now) = (Packer::default(), packing(9, 1 << 20), Instant::now());
    let again = Arc::new((*packing).clone());
    let mut add = |seq, key: &str, packing: Option<&Arc<Packing>>| {
        tags(&packer.add(&gateway(), publication(seq, 1, "a", key, packing), now))
    };
    assert!(add(1, "x", Some(&packing)).is_empty());
    assert_eq!(add(2, "y", Some(&packing)), [[1]]);
    assert_eq!(add(3, "x", None), [vec![2], vec![3]]);
    assert!(add(4, "x", Some(&packing)).is_empty());
    assert_eq!(add(5, "x", Some(&again)), [[4]], "the route was configured anew");
}

#[test]
fn what_is_longer_than_a_batch_goes_alone_and_behind_what_came_before_it() {
    let (mut packer, packing, now) = (Packer::default(), packing(9, 200), Instant::now());
    assert!(packer.add(&gateway(), publication(1, 1, "a", "k", Some(&packing)), now).is_empty());
    let mut long = publication(2, 1, "b", "k", Some(&packing));
    Arc::get_mut(&mut long.message).unwrap().payload = vec![b'x'; 300].into();
    assert_eq!(tags(&packer.add(&gateway(), long, now)), [[1], [2]]);
    assert!(packer.is_empty() && packer.bytes == 0 && packer.messages() == 0);
}

#[test]
fn all_bodies_together_are_bounded() {
    let (mut packer, packing, now) = (Packer::default(), packing(1_000, 1 << 20), Instant::now());
    let mut closed = 0;
    for seq in 0..200 {
        let mut large = publication(seq, 1, &format!("d{seq}"), &format!("k{seq}"), Some(&packing));
        Arc::get_mut(&mut large.message).unwrap().payload = vec![b'x'; 100_000].into();
        closed += packer.add(&gateway(), large, now).len();
        assert!(packer.bytes <= OPEN_BYTES);
    }
    assert_eq!(closed + packer.all().len(), 200);
}

#[test]
fn nothing_is_lost_or_doubled_and_every_device_keeps_its_order_on_every_route() {
    for round in 0..300 {
        let packings: Vec<_> =
            (0..3).map(|_| packing(fastrand::usize(1..6), fastrand::usize(100..600))).collect();
        let (mut packer, mut now) = (Packer::default(), Instant::now());
        let mut sent = Vec::new();
        let count = fastrand::u64(0..200);
        for seq in 0..count {
            let lane = fastrand::u16(0..2);
            let device = format!("d{}", fastrand::u8(0..3));
            let key = ["x", "y", "z"][fastrand::usize(0..3)];
            let packing = packings.get(fastrand::usize(0..4));
            sent.extend(packer.add(&gateway(), publication(seq, lane, &device, key, packing), now));
            if fastrand::u8(0..8) == 0 {
                now += LINGER / 3;
                sent.extend(packer.ripe(now));
                assert!(packer.due().is_none_or(|due| due > now));
            }
        }
        sent.extend(packer.all());
        assert!(packer.is_empty() && packer.messages() == 0 && packer.bytes == 0);
        let mut last: HashMap<(u16, String), u64> = HashMap::new();
        let mut seen = 0;
        for ready in &sent {
            let publications = match ready {
                Ready::One(publication) => std::slice::from_ref(publication),
                Ready::Batch(batch) => {
                    assert!(batch.publications.len() <= batch.packing.max_messages);
                    assert!(batch.body.len() <= batch.packing.max_bytes);
                    let records: Vec<serde_json::Value> = serde_json::from_slice(&batch.body).unwrap();
                    assert_eq!(records.len(), batch.publications.len());
                    assert!(
                        batch
                            .publications
                            .iter()
                            .all(|p| p.lane == batch.lane && p.routing_key == batch.routing_key)
                    );
                    &batch.publications[..]
                }
            };
            for publication in publications {
                seen += 1;
                let of = (publication.lane.0, publication.message.device.to_string());
                let before = last.insert(of, publication.tag.0);
                assert!(before.is_none_or(|before| before < publication.tag.0), "round {round}");
            }
        }
        assert_eq!(seen, count, "round {round}");
    }
}
