//! Batches against a real RabbitMQ: what arrives, taken apart by a reader that is not ours, is what was handed over, in order and once;
//! and what a broker does not take as a batch it gets message by message.

use crate::amqp091::{MAX_MESSAGE_BYTES, amqp, shared};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidegate::config::UpstreamKind;
use tidegate_engine::event::{Compression, Format, Outcome, Packing, Publication};
use tidegate_tests::publications::{Driven, SOON, message, publication};
use tidegate_tests::rabbit::Received;

/// Longer than any test waits: a batch that must fill to be sent.
const FOR_EVER: Duration = Duration::from_secs(3_600);

fn packing(max_messages: usize, linger: Duration) -> Packing {
    Packing { max_messages, max_bytes: 64 << 10, linger, format: Format::Json, compression: None }
}

fn readings(range: std::ops::Range<u64>, packing: &Arc<Packing>) -> Vec<Publication> {
    range
        .map(|seq| Publication {
            packing: Some(Arc::clone(packing)),
            ..publication(message(seq), "readings")
        })
        .collect()
}

fn driven(exchange: &str) -> Driven {
    shared().exchange(exchange);
    shared().queue(exchange, exchange, "#", &[]);
    let mut driven = Driven::start(UpstreamKind::Amqp(amqp(&[shared().url()], exchange, true)));
    driven.expect_up();
    driven
}

fn numbers(received: &[Received]) -> Vec<u64> {
    received.iter().map(|one| one.id.rsplit('/').next().unwrap().parse().unwrap()).collect()
}

/// The lengths of the batches in which messages came, in their order; 1 for one that came by itself.
fn lengths(received: &[Received]) -> Vec<usize> {
    received
        .chunk_by(|one, next| one.batch.is_some() && one.batch == next.batch)
        .map(<[Received]>::len)
        .collect()
}

#[test]
fn batches_of_every_format_bring_every_message_once_and_in_order() {
    for (name, format, compression) in [
        ("json", Format::Json, None),
        ("json-zstd", Format::Json, Some(Compression::Zstd(None))),
        ("senml", Format::Senml, None),
        ("senml-zstd", Format::Senml, Some(Compression::Zstd(None))),
        ("lengths", Format::LengthPrefixed, None),
        ("lengths-zstd", Format::LengthPrefixed, Some(Compression::Zstd(None))),
    ] {
        let mut driven = driven(name);

        let packing = Arc::new(Packing { format, compression, ..packing(100, Duration::from_millis(200)) });
        let mut all = readings(0..250, &packing);
        all[7].resend = true;
        Arc::get_mut(&mut all[8].message).unwrap().received.synchronised = false;
        Arc::get_mut(&mut all[9].message).unwrap().payload = (0..=255).collect::<Vec<u8>>().into();
        driven.publish(all);
        let settled = driven.settled(250);
        assert!(settled.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed), "{name}: {settled:?}");
        let received = shared().consume(name).take(250);
        assert_eq!(numbers(&received), (0..250).collect::<Vec<_>>(), "{name}");
        assert_eq!(lengths(&received), [100, 100, 50], "{name}");
        for (seq, one) in (0..).zip(&received) {
            assert_eq!(one.id, format!("site-a/boiler-3/7/{seq}"), "{name}");
            assert_eq!(one.topic(), "sensors/boiler-3/temperature", "{name}");
            assert_eq!(one.device().as_deref(), Some("boiler-3"));
            assert_eq!(one.resend(), seq == 7, "{name} {seq}");
            assert_eq!(one.text("clock").is_some(), seq == 8, "{name} {seq}");
            let received = lapin::types::AMQPValue::LongLongInt(1_700_000_000_123);
            assert_eq!(one.header("received"), Some(received), "{name}");
            match seq {
                9 => assert!(one.body.iter().copied().eq(0..=255), "{name}"),
                _ => assert_eq!(one.body, format!("reading {seq}").into_bytes(), "{name}"),
            }
        }
    }
}

#[test]
fn a_full_batch_leaves_at_once_and_one_that_does_not_fill_when_it_has_waited_long_enough() {
    let mut driven = driven("linger");
    let patient = Arc::new(packing(20, FOR_EVER));
    driven.publish(readings(0..40, &patient));
    driven.settled(40);
    driven.publish(readings(40..59, &patient));
    driven.expect_silence(Duration::from_millis(300));
    driven.publish(readings(59..60, &patient));
    driven.settled(20);
    driven.publish(readings(60..65, &Arc::new(packing(20, Duration::from_millis(50)))));
    driven.settled(5);
    let received = shared().consume("linger").take(65);
    assert_eq!(numbers(&received), (0..65).collect::<Vec<_>>());
    assert_eq!(lengths(&received), [20, 20, 20, 5]);
}

#[test]
fn batches_that_cannot_fill_because_the_window_is_full_do_not_wait() {
    let mut driven = driven("stuck");
    let patient = Arc::new(packing(100, FOR_EVER));
    // As many as the window has, each device with a routing key of its own.
    let all = (0..512).map(|seq| {
        let mut message = message(seq);
        message.device = tidegate_engine::id::DeviceId::new(&format!("d{seq}")).unwrap();
        Publication { packing: Some(Arc::clone(&patient)), ..publication(message, &format!("k{seq}")) }
    });
    driven.publish(all.collect());
    driven.settled(385);
}

#[test]
fn messages_of_a_device_keep_their_order_across_batches_and_alone() {
    let mut driven = driven("order");
    let packing = Arc::new(packing(50, FOR_EVER));
    let alone = |seq| publication(message(seq), "readings");
    let elsewhere =
        |seq| Publication { routing_key: "other".to_owned(), ..readings(seq..seq + 1, &packing).remove(0) };
    driven.publish(readings(0..10, &packing));
    driven.publish(vec![alone(10)]);
    driven.publish(readings(11..20, &packing));
    driven.publish(vec![elsewhere(20)]);
    driven.publish(readings(21..71, &packing));
    driven.settled(71);
    let received = shared().consume("order").take(71);
    assert_eq!(numbers(&received), (0..71).collect::<Vec<_>>());
    assert_eq!(lengths(&received), [10, 1, 9, 1, 50]);
}

#[test]
fn a_batch_that_the_broker_finds_too_large_arrives_message_by_message() {
    let mut driven = driven("too-large");
    let packing = Arc::new(Packing { max_bytes: 1 << 20, ..packing(10, FOR_EVER) });
    let mut all = readings(0..20, &packing);
    for publication in &mut all[..10] {
        Arc::get_mut(&mut publication.message).unwrap().payload = vec![b'x'; MAX_MESSAGE_BYTES / 5].into();
    }
    // One that it does not take by itself either.
    Arc::get_mut(&mut all[4].message).unwrap().payload = vec![b'x'; MAX_MESSAGE_BYTES + 1].into();
    driven.publish(all);
    for (seq, outcome) in driven.settled(20) {
        match outcome {
            Outcome::Confirmed => assert_ne!(seq, 4),
            Outcome::Refused(why) => assert!(seq == 4 && why.starts_with("406 "), "{seq}: {why}"),
            other => panic!("{seq}: {other:?}"),
        }
    }
    let consumer = shared().consume("too-large");
    let received = consumer.wait(SOON, |all| all.iter().any(|one| one.id.ends_with("/19"))).unwrap();
    let mut seen = BTreeSet::new();
    let mut first = Vec::new();
    for (number, one) in numbers(&received).into_iter().zip(&received) {
        if seen.insert(number) {
            first.push(number);
        } else {
            assert!(one.resend(), "{number} came twice without the mark");
        }
    }
    assert_eq!(first, (0..20).filter(|number| *number != 4).collect::<Vec<_>>());
    // The batches behind it were not at fault, and later ones are batches again.
    driven.publish(readings(20..30, &packing));
    driven.settled(10);
}

#[test]
fn every_message_of_a_batch_that_no_queue_takes_is_returned() {
    let rabbit = shared();
    rabbit.exchange("unbound");
    rabbit.queue("unbound", "unbound", "bound", &[]);
    let mut driven = Driven::start(UpstreamKind::Amqp(amqp(&[rabbit.url()], "unbound", true)));
    driven.expect_up();
    let packing = Arc::new(packing(10, FOR_EVER));
    driven.publish(readings(0..10, &packing));
    for (_, outcome) in driven.settled(10) {
        assert!(matches!(&outcome, Outcome::Returned(why) if why.contains("readings")), "{outcome:?}");
    }
    let bound = readings(10..20, &packing).into_iter();
    driven.publish(bound.map(|one| Publication { routing_key: "bound".to_owned(), ..one }).collect());
    assert!(driven.settled(10).iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
}
