//! Numbers, windows and packet ids, step by step.

use super::{Discarded, IN_FLIGHT_MAX, Next, Outbound, Parcel, Received};
use crate::id::{DeviceId, MessageId, Seq};
use crate::message::{Message, Properties, Qos, Source};
use crate::mutant::Planted;
use crate::session::Claim;
use crate::time::{Duration, Instant, Stamp};
use crate::topic::Topic;
use std::sync::Arc;

fn parcel(qos: Qos) -> Parcel {
    let message = Message {
        id: MessageId { epoch: 1, seq: Seq(1) },
        device: DeviceId::new("d").unwrap(),
        topic: Topic::new("t").unwrap(),
        payload: bytes::Bytes::from_static(b"x"),
        received: Stamp::default(),
        qos,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: Some(Box::new(Properties { expiry_seconds: Some(10), ..Properties::default() })),
    };
    Parcel {
        message: Arc::new(message),
        qos,
        retain: false,
        subscriptions: Vec::new(),
        shared: None,
        since: Instant(0),
        waited: Duration::ZERO,
    }
}

fn push(outbound: &mut Outbound, qos: Qos) -> u64 {
    outbound.push(parcel(qos), false, None, Instant(0))
}

fn received(outbound: &mut Outbound, packet_id: u16) -> Received {
    outbound.received(packet_id, Planted::default())
}

fn send(outbound: &mut Outbound) -> Option<(u16, bool)> {
    let sent = match outbound.next(Planted::default())? {
        Next::Publish { packet_id, dup, .. } => (packet_id, dup),
        Next::Release { packet_id } => (packet_id, true),
    };
    outbound.sent();
    Some(sent)
}

#[test]
fn the_window_of_the_client_holds() {
    let mut outbound = Outbound::new();
    outbound.attach(2);
    for _ in 0..3 {
        push(&mut outbound, Qos::AtLeastOnce);
    }
    assert_eq!(send(&mut outbound), Some((1, false)));
    assert_eq!(send(&mut outbound), Some((2, false)));
    assert_eq!(send(&mut outbound), None);
    assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
    assert!(outbound.finished(2, Qos::AtLeastOnce).is_none());
    assert_eq!(send(&mut outbound), Some((3, false)));
    assert!(outbound.finished(1, Qos::AtLeastOnce).is_some());
    assert!(outbound.finished(3, Qos::AtLeastOnce).is_some());
    assert_eq!((outbound.len(), outbound.bytes()), (0, 0));
}

#[test]
fn a_new_connection_gets_everything_in_flight_again_in_order() {
    let mut outbound = Outbound::new();
    outbound.attach(10);
    push(&mut outbound, Qos::ExactlyOnce);
    push(&mut outbound, Qos::AtLeastOnce);
    send(&mut outbound);
    send(&mut outbound);
    assert_eq!(received(&mut outbound, 2), Received::Unknown, "PUBREC for QoS 1");
    assert_eq!(received(&mut outbound, 1), Received::Release);
    outbound.attach(1);
    push(&mut outbound, Qos::AtLeastOnce);
    assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 1 })));
    outbound.sent();
    assert!(matches!(outbound.next(Planted::default()), Some(Next::Publish { packet_id: 2, dup: true, .. })));
    outbound.sent();
    assert!(outbound.next(Planted::default()).is_none(), "the window is smaller now");
    assert!(outbound.completed(2).is_none());
    assert!(outbound.completed(1).is_some());
    assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
    assert_eq!(send(&mut outbound), Some((3, false)));
}

#[test]
fn packet_ids_in_flight_are_not_given_again() {
    let mut outbound = Outbound::new();
    outbound.attach(100);
    for _ in 0..3 {
        push(&mut outbound, Qos::AtLeastOnce);
        send(&mut outbound);
    }
    assert!(outbound.finished(2, Qos::AtLeastOnce).is_some());
    for round in 0..65_532_u32 {
        push(&mut outbound, Qos::AtLeastOnce);
        let (id, _) = send(&mut outbound).unwrap();
        assert_eq!(u32::from(id), round + 4);
        assert!(outbound.finished(id, Qos::AtLeastOnce).is_some());
    }
    push(&mut outbound, Qos::AtLeastOnce);
    assert_eq!(send(&mut outbound), Some((2, false)), "1 and 3 are taken");
    push(&mut outbound, Qos::AtLeastOnce);
    assert_eq!(send(&mut outbound), Some((4, false)));
}

#[test]
fn exactly_once_waits_for_its_record_before_each_step() {
    let mut outbound = Outbound::new();
    outbound.attach(10);
    let claim = Some(Claim(3));
    let number = outbound.push(parcel(Qos::ExactlyOnce), true, claim, Instant(0));
    assert_eq!(send(&mut outbound), None, "its packet id is not durable");
    assert_eq!(outbound.secured(number).claim, claim);
    assert_eq!(send(&mut outbound), Some((1, false)));
    assert_eq!(received(&mut outbound, 1), Received::Record(number));
    assert_eq!(received(&mut outbound, 1), Received::Waiting);
    assert!(outbound.completed(1).is_none(), "PUBREL has not been sent");
    assert_eq!(outbound.secured(number).release, Some(1));
    let through = outbound.completed(1).unwrap();
    assert!(through.recorded && through.claim.is_none());
}

#[test]
fn a_release_that_becomes_durable_without_its_connection_waits_for_the_next() {
    let mut outbound = Outbound::new();
    outbound.attach(10);
    let number = outbound.push(parcel(Qos::ExactlyOnce), true, None, Instant(0));
    outbound.secured(number);
    send(&mut outbound);
    received(&mut outbound, 1);
    outbound.attach(10);
    assert_eq!(send(&mut outbound), None);
    assert_eq!(outbound.secured(number).release, None);
    assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 1 })));
}

#[test]
fn what_is_restored_keeps_its_packet_id_and_may_have_been_sent() {
    let mut outbound = Outbound::new();
    outbound.restore(65_537, None, Instant(0));
    outbound.restore(65_539, Some(parcel(Qos::ExactlyOnce)), Instant(0));
    outbound.attach(10);
    assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 2 })));
    outbound.sent();
    assert_eq!(send(&mut outbound), Some((4, true)));
    assert_eq!(push(&mut outbound, Qos::AtLeastOnce), 65_540);
}

#[test]
fn a_client_that_does_not_acknowledge_in_time_has_records_made_of_all_that_waits() {
    let mut outbound = Outbound::new();
    outbound.attach(1);
    let patience = Duration::from_millis(250);
    assert_eq!(outbound.spill_due(patience), None);
    let first = push(&mut outbound, Qos::AtLeastOnce);
    let second = push(&mut outbound, Qos::AtLeastOnce);
    let due = outbound.spill_due(patience).unwrap();
    assert_eq!(outbound.spill(Instant(due.0 - 1), patience), []);
    assert!(!outbound.is_behind(due, patience));
    assert_eq!(outbound.spill(due, patience), [first, second]);
    assert_eq!(outbound.spill_due(patience), None);
    assert!(outbound.is_behind(due.after(patience), patience));
}

/// A QoS 2 message was sent on the last connection, its PUBREC did not come, and it is not to be sent again.
fn given_up() -> (Outbound, u64) {
    let mut outbound = Outbound::new();
    outbound.attach(10);
    let number = outbound.push(parcel(Qos::ExactlyOnce), true, None, Instant(0));
    outbound.secured(number);
    send(&mut outbound);
    outbound.attach(10);
    assert_eq!(outbound.discard(), Discarded::Record(number));
    (outbound, number)
}

#[test]
fn what_the_client_may_hold_is_given_up_by_a_release() {
    let (mut outbound, number) = given_up();
    assert_eq!(outbound.bytes(), 0);
    push(&mut outbound, Qos::AtLeastOnce);
    assert_eq!(send(&mut outbound), Some((2, false)), "what comes behind it does not wait");
    assert!(outbound.completed(1).is_none(), "PUBREL has not been sent");
    assert_eq!(outbound.secured(number).release, Some(1));
    outbound.attach(10);
    assert!(matches!(outbound.next(Planted::default()), Some(Next::Release { packet_id: 1 })));
    outbound.sent();
    assert!(outbound.completed(1).is_some());
    assert_eq!(outbound.len(), 1);
}

#[test]
fn the_packet_id_of_what_was_given_up_is_not_used_until_the_client_has_freed_it() {
    let (mut outbound, number) = given_up();
    outbound.secured(number);
    for _ in 0..65_534 {
        push(&mut outbound, Qos::AtLeastOnce);
        let (id, _) = send(&mut outbound).unwrap();
        assert_ne!(id, 1);
        assert!(outbound.finished(id, Qos::AtLeastOnce).is_some());
    }
    push(&mut outbound, Qos::AtLeastOnce);
    assert_eq!(send(&mut outbound), Some((2, false)));
    assert!(outbound.completed(1).is_some());
}

#[test]
fn what_was_not_sent_is_given_up_without_a_word() {
    let mut outbound = Outbound::new();
    outbound.attach(10);
    let number = outbound.push(parcel(Qos::ExactlyOnce), true, None, Instant(0));
    outbound.secured(number);
    assert!(matches!(outbound.discard(), Discarded::Through(Some(_))));
    assert_eq!((outbound.len(), outbound.bytes()), (0, 0));
}

#[test]
fn what_was_acknowledged_just_before_the_end_hides_nothing_that_was_sent() {
    let mut outbound = Outbound::new();
    let most = IN_FLIGHT_MAX as u64;
    for number in 1..=2 * most {
        outbound.restore(number, Some(parcel(Qos::AtLeastOnce)), Instant(0));
    }
    for number in 2 * most + 1..=3 * most + 1 {
        outbound.restore(number, Some(parcel(Qos::ExactlyOnce)), Instant(0));
    }
    let left = outbound.forget_expired(Instant(0).after(Duration::from_secs(11)));
    let gone: Vec<_> = left.iter().map(|through| through.number).collect();
    let expected: Vec<_> = (1..=2 * most).chain([3 * most + 1]).collect();
    assert_eq!(gone, expected, "the client may hold the packet ids of the others");
}

#[test]
fn what_has_expired_is_forgotten_when_its_room_is_needed() {
    let at = |seconds| Instant(0).after(Duration::from_secs(seconds));
    let mut outbound = Outbound::new();
    outbound.attach(1);
    push(&mut outbound, Qos::AtLeastOnce);
    send(&mut outbound);
    push(&mut outbound, Qos::AtLeastOnce);
    let later = outbound.push(Parcel { since: at(5), ..parcel(Qos::AtLeastOnce) }, false, None, at(5));
    assert!(outbound.forget_expired(at(10)).is_empty());
    assert_eq!(outbound.forget_expired(at(11)).len(), 1, "not the one whose delivery has begun");
    assert!(outbound.finished(1, Qos::AtLeastOnce).is_some());
    assert_eq!(outbound.forget_expired(at(16))[0].number, later);
    assert_eq!((outbound.len(), outbound.bytes()), (0, 0));
}
