//! What ends a link, and that it does end: silence, garbage, floods, brokers that do not read, and the driver's own end. Each
//! time the messages get another link, and nothing spins.

use super::peer::{
    Peer, Place, ack, bytes, channel_ready, close_channel, close_connection, declared, open_ok,
    returned_with, start, tune,
};
use super::readings;
use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};
use std::time::{Duration, Instant};
use tidegate::config::{self, UpstreamKind};
use tidegate_engine::event::{Input, Outcome};
use tidegate_tests::publications::{Driven, SOON, message, publication};

/// Two heartbeats of a second, the looks between them, and a machine that has more to do.
const TWO_HEARTBEATS: Duration = Duration::from_secs(6);

/// A step of the handshake: what the broker says, and the methods that it hears then.
type Step<'a> = (&'a [AMQPFrame], &'a [(u16, u16)]);

/// An end that is seen, not waited for: a patient upstream's `connect_timeout` is five seconds.
const SOONER_THAN_PATIENCE: Duration = Duration::from_secs(4);

fn established(place: &Place, kind: UpstreamKind) -> (Driven, Peer) {
    let mut driven = Driven::start(kind);
    let peer = place.link();
    driven.expect_up();
    (driven, peer)
}

/// The messages get another link, which works.
fn expect_another(place: &Place, driven: &mut Driven) {
    let mut peer = place.link();
    driven.expect_up();
    driven.publish(readings(900..901));
    peer.messages(1);
    peer.say(&[ack(1, false)]);
    assert_eq!(driven.settled(1), [(900, Outcome::Confirmed)]);
}

#[test]
fn a_broker_that_falls_silent_is_given_up_after_two_heartbeats() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, place.kind());
    driven.publish(readings(0..3));
    peer.messages(3);
    let began = Instant::now();
    assert_eq!(driven.expect_down(), []);
    assert!((Duration::from_secs(1)..TWO_HEARTBEATS).contains(&began.elapsed()), "{:?}", began.elapsed());
    peer.say(&[ack(3, true)]);
    expect_another(&place, &mut driven);
}

#[test]
fn heartbeats_alone_keep_a_link_both_ways() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, place.kind());
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let frame = peer.hear_within(Duration::from_secs(2)).expect("two heartbeats without a byte");
        assert!(matches!(frame, Some(AMQPFrame::Heartbeat)), "{frame:?}");
        heard.push(Instant::now());
        peer.say(&[AMQPFrame::Heartbeat]);
    }
    driven.publish(readings(0..1));
    peer.messages(1);
    peer.say(&[ack(1, false)]);
    assert_eq!(driven.settled(1), [(0, Outcome::Confirmed)]);
}

/// More than the buffers of two sockets take.
fn flood() -> Vec<tidegate_engine::event::Publication> {
    let heavy = |seq| {
        let mut heavy = message(seq);
        heavy.payload = vec![b'x'; 256 << 10].into();
        publication(heavy, "k")
    };
    (0..100).map(heavy).collect()
}

#[test]
fn a_broker_that_reads_nothing_and_says_nothing_is_given_up() {
    let place = Place::new();
    let (mut driven, peer) = established(&place, place.kind());
    driven.publish(flood());
    let began = Instant::now();
    assert_eq!(driven.expect_down(), []);
    assert!(began.elapsed() < TWO_HEARTBEATS, "{:?}", began.elapsed());
    drop(peer);
    expect_another(&place, &mut driven);
}

#[test]
fn a_broker_that_reads_slowly_and_says_nothing_is_given_up() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, place.kind());
    driven.publish(flood());
    // Room in the socket is no sign of life from a broker: what reads may be a proxy in between.
    let until = Instant::now() + TWO_HEARTBEATS;
    loop {
        assert!(Instant::now() < until, "a broker that says nothing is taken for alive");
        assert!(matches!(peer.hear_within(SOON), Ok(Some(_))), "hung up without a word to the driver");
        match driven.next(Duration::from_millis(50)) {
            None => {}
            Some(Input::UpstreamDown { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(peer);
    expect_another(&place, &mut driven);
}

#[test]
fn a_broker_that_reads_late_and_says_that_it_lives_gets_everything() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, place.kind());
    driven.publish(flood());
    for _ in 0..8 {
        peer.say(&[AMQPFrame::Heartbeat]);
        driven.expect_silence(Duration::from_millis(500));
    }
    assert_eq!(peer.messages(100).len(), 100);
    peer.say(&[ack(100, true)]);
    assert_eq!(driven.settled(100).len(), 100);
}

#[test]
fn what_is_no_frame_for_a_publisher_ends_the_link_and_settles_nothing() {
    let frame = |kind: u8, size: u32, payload: &[u8], end: u8| {
        [&[kind, 0, 1][..], &size.to_be_bytes(), payload, &[end]].concat()
    };
    let good = bytes(&[ack(1, false)]);
    let mut wrong_end = good.clone();
    *wrong_end.last_mut().unwrap() = 0;
    let secure = connection::Secure { challenge: "?".into() };
    let garbage = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"AMQP\x00\x01\x00\x00".to_vec(),
        vec![0; 64],
        wrong_end,
        frame(3, u32::MAX, &[], 0xce),
        frame(3, (32 << 10) + 1, &[0; 100], 0xce),
        frame(1, 4, &[0, 60, 0, 80], 0xce), // an ack without its arguments
        frame(1, 14, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9], 0xce), // and one with too many
        frame(1, 2, &[0, 60], 0xce),
        frame(1, 4, &[255; 4], 0xce),
        frame(2, 0, &[], 0xce),
        frame(8, 0, &[], 0xce), // a heartbeat on a channel
        bytes(&[AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Secure(secure)))]),
        bytes(&[start(FieldTable::default())]),
        bytes(&[AMQPFrame::Method(
            2,
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})),
        )]),
        bytes(&channel_ready()),
        bytes(&[declared()]),
    ];
    for (index, said) in garbage.iter().enumerate() {
        let place = Place::new();
        let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(place.patient()));
        driven.publish(readings(0..1));
        peer.messages(1);
        peer.say_bytes(said);
        peer.say_bytes(&good);
        assert_eq!(driven.expect_down(), [], "garbage {index}");
        peer.expect_end();
    }
}

/// Tables in tables, as deep as one frame takes them.
fn deep() -> FieldTable {
    // Five bytes each, and 32 KiB a frame.
    let mut value = AMQPValue::FieldArray(FieldArray::default());
    for _ in 0..6_000 {
        let mut array = FieldArray::default();
        array.push(value);
        value = AMQPValue::FieldArray(array);
    }
    let mut table = FieldTable::default();
    table.insert("x".into(), value);
    table
}

/// Writing so deep a table needs a stack that the broker's reader must not need.
fn on_a_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(256 << 20).spawn(work).unwrap().join().unwrap()
}

#[test]
fn tables_nested_without_end_do_no_harm() {
    let greeting = on_a_deep_stack(|| bytes(&[start(deep())]));
    assert!(greeting.len() < 32 << 10);
    let place = Place::new();
    let mut driven = Driven::start(UpstreamKind::Amqp(place.patient()));
    let mut peer = place.accept();
    peer.expect_header();
    peer.say_bytes(&greeting);
    // Whether it goes on with such a broker is its own business.
    drop(peer);
    let mut peer = place.link();
    driven.expect_up();
    driven.publish(readings(0..1));
    let message = peer.messages(1).remove(0);
    peer.say_bytes(&on_a_deep_stack(move || bytes(&returned_with(&message, deep()))));
    peer.say(&[ack(1, false)]);
    let settled = driven.settled(1);
    assert!(matches!(settled[0].1, Outcome::Returned(_)), "{settled:?}");
}

#[test]
fn a_broker_that_hangs_up_or_falls_silent_at_any_step_of_the_handshake_is_tried_again() {
    for step in 0..6 {
        for silent in [false, true] {
            let place = Place::new();
            let mut driven = Driven::start(place.kind());
            let mut peer = place.accept();
            peer.expect_header();
            let answers: [Step<'_>; 5] = [
                (&[start(FieldTable::default())], &[(10, 11)]),
                (&[tune(131_072, 60)], &[(10, 31), (10, 40)]),
                (&[open_ok()], &[(20, 10), (85, 10)]),
                (&channel_ready()[..1], &[]),
                (&channel_ready()[1..], &[(40, 10)]),
            ];
            for (said, heard) in answers.iter().take(step) {
                peer.say(said);
                heard.iter().for_each(|(class, method)| drop(peer.expect(*class, *method)));
            }
            if silent {
                // Half a frame and heartbeats are no progress.
                peer.say(&[AMQPFrame::Heartbeat]);
                peer.say_bytes(&[1, 0]);
                assert!(peer.expect_end() < Duration::from_secs(4), "step {step}");
            }
            drop(peer);
            expect_another(&place, &mut driven);
        }
    }
}

#[test]
fn a_refusal_at_any_step_of_the_handshake_is_tried_again() {
    for refusal in [close_connection(403, "ACCESS_REFUSED"), close_channel(404, "NOT_FOUND"), ack(1, true)] {
        let place = Place::new();
        let mut driven = Driven::start(place.kind());
        let mut peer = place.accept();
        peer.greet_with(tune(131_072, 60), &[refusal]);
        peer.expect_end();
        expect_another(&place, &mut driven);
    }
}

#[test]
fn every_offer_of_frame_size_and_heartbeat_that_can_be_met_is() {
    for (frame_max, heartbeat) in
        [(0, 0), (0, 1), (32 << 10, 0), (65_536, 60), (131_072, 65_535), (u32::MAX, 60)]
    {
        let place = Place::new();
        let mut driven = Driven::start(UpstreamKind::Amqp(place.patient()));
        let mut peer = place.accept();
        peer.greet_with(tune(frame_max, heartbeat), &[]);
        driven.expect_up();
    }
    let place = Place::new();
    let mut driven = Driven::start(place.kind());
    let mut peer = place.accept();
    peer.expect_header();
    peer.say(&[start(FieldTable::default())]);
    peer.expect(10, 11);
    peer.say(&[tune(4_096, 60)]);
    peer.expect_end();
    expect_another(&place, &mut driven);
}

#[test]
fn the_longest_names_fit() {
    let place = Place::new();
    let mut settings = place.patient();
    let name = "n".repeat(255);
    settings.urls = vec![format!("{}/{name}", settings.urls[0])];
    settings.exchange = config::Exchange { name, ..settings.exchange };
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(settings));
    driven.publish(vec![publication(message(1), &"k".repeat(255))]);
    let message = peer.messages(1).remove(0);
    assert_eq!(message.key.len(), 255);
    peer.say(&[ack(1, false)]);
    assert_eq!(driven.settled(1), [(1, Outcome::Confirmed)]);
}

#[test]
fn a_broker_that_closes_every_channel_is_left_alone_for_a_while() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(place.patient()));
    // Nothing was under way: no message can be at fault, and asking for channel after channel would never end.
    let began = Instant::now();
    peer.say(&[close_channel(541, "INTERNAL_ERROR")]);
    assert_eq!(driven.expect_down(), []);
    assert!(began.elapsed() < SOONER_THAN_PATIENCE);
    drop(peer);
    // One was, and the fresh channel is refused.
    let mut peer = place.link();
    driven.expect_up();
    driven.publish(readings(0..2));
    peer.messages(2);
    peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
    peer.expect(20, 41);
    let began = Instant::now();
    peer.say(&[close_channel(504, "CHANNEL_ERROR")]);
    assert_eq!(driven.expect_down(), []);
    assert!(began.elapsed() < SOONER_THAN_PATIENCE);
    drop(peer);
    expect_another(&place, &mut driven);
}

#[test]
fn a_broker_that_never_opens_the_fresh_channel_is_given_up() {
    let place = Place::new();
    let mut settings = place.patient();
    settings.connect_timeout = Duration::from_secs(1);
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(settings));
    driven.publish(readings(0..2));
    peer.messages(2);
    peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
    let began = Instant::now();
    assert_eq!(driven.expect_down(), []);
    assert!(began.elapsed() < TWO_HEARTBEATS);
    drop(peer);
    expect_another(&place, &mut driven);
}

#[test]
fn a_broker_that_hangs_up_on_every_link_is_not_called_without_a_pause() {
    let place = Place::new();
    let mut driven = Driven::start(place.kind());
    let until = Instant::now() + Duration::from_secs(2);
    let mut links = 0;
    while Instant::now() < until {
        let Some(mut peer) = place.accept_within(Duration::from_millis(100)) else { continue };
        peer.greet();
        driven.expect_up();
        drop(peer);
        driven.expect_down();
        links += 1;
    }
    assert!((1..=20).contains(&links), "{links} links in two seconds");
}

#[test]
fn the_drivers_end_ends_the_link_soon_whatever_the_broker_does() {
    let soon = Duration::from_secs(4);
    // In order: it is told goodbye.
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(place.patient()));
    driven.publish(readings(0..2));
    drop(driven);
    assert_eq!(peer.messages(2).len(), 2, "what was handed over before is still sent");
    peer.expect(10, 50);
    assert!(peer.expect_end() < soon, "a broker that does not answer the goodbye");

    // It reads nothing.
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(place.patient()));
    driven.publish(flood());
    driven.expect_silence(Duration::from_millis(200));
    drop(driven);
    // Reading after the end has had its time: the connection is cut, wherever that is.
    assert!(place.accept_within(soon).is_none());
    let began = Instant::now();
    while let Ok(Some(_)) = peer.hear_within(soon) {}
    assert!(began.elapsed() < soon);

    // It is in the middle of the handshake.
    let driven = Driven::start(UpstreamKind::Amqp(place.patient()));
    let mut peer = place.accept();
    peer.expect_header();
    drop(driven);
    assert!(peer.expect_end() < soon);

    // It has closed the channel and opens none.
    let (mut driven, mut peer) = established(&place, UpstreamKind::Amqp(place.patient()));
    driven.publish(readings(0..2));
    peer.messages(2);
    peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
    peer.expect(20, 41);
    drop(driven);
    assert!(peer.expect_end() < soon);
}

#[test]
fn a_broker_that_never_stops_talking_keeps_nobody_from_publishing_or_ending() {
    let place = Place::new();
    let (mut driven, mut peer) = established(&place, place.kind());
    let mut talker = peer.another_mouth();
    let talk = std::thread::spawn(move || {
        let babble = bytes(&[AMQPFrame::Heartbeat]).repeat(8_192);
        let until = Instant::now() + SOON;
        while Instant::now() < until && talker.say_or_end(&babble) {}
        Instant::now() < until
    });
    driven.publish(readings(0..50));
    assert_eq!(peer.messages(50).len(), 50);
    drop(driven);
    peer.expect(10, 50);
    assert!(talk.join().unwrap(), "the link outlived its driver");
}
