//! Peers whose place is not proved, and questions that went to all: what may be sent to whoever may not have asked.

use super::observing::{PATH, get, kind, payload, value};
use super::{Answer, Bench, TOPIC, con, endpoint, write};
use crate::event::Anonymous;
use crate::limits::Limits;
use crate::message::Qos;
use crate::time::Duration;
use std::collections::BTreeSet;
use tidegate_wire::coap::{Code, Kind, Message, OptionNumber as Number};

#[test]
fn a_peer_whose_place_is_not_proved_gets_little_and_can_prove_it() {
    let mut bench = Bench::with(Anonymous::Everywhere, Limits::default());
    let stranger = endpoint("192.0.2.9:4000");
    let body = vec![b'x'; 900];
    bench.publish(&value(1, "sensors/boiler-3/temperature", &body, Qos::AtLeastOnce, true));
    let request = get(1, &TOPIC, &[]);
    let answer = bench.ask_raw(stranger, &request).remove(0);
    assert!(answer.len() <= 3 * request.len(), "{} for {}", answer.len(), request.len());
    let message = Message::parse(&answer).unwrap();
    let echo = message.option(Number::ECHO).expect("it is asked to prove its place").to_vec();
    let again = bench.ask_raw(stranger, &get(2, &TOPIC, &[(Number::ECHO, &echo)])).remove(0);
    assert_eq!(payload(&again).len(), 900);
    assert_eq!(payload(&bench.ask_raw(stranger, &get(3, &TOPIC, &[])).remove(0)).len(), 900);
    // Somebody else gains nothing by the value.
    let stolen = get(4, &TOPIC, &[(Number::ECHO, &echo)]);
    let other = bench.ask_raw(endpoint("192.0.2.10:4000"), &stolen).remove(0);
    assert!(other.len() <= 3 * stolen.len());
}

#[test]
fn a_notification_to_a_place_that_is_not_proved_stays_small_until_it_is_acknowledged() {
    let mut bench = Bench::with(Anonymous::Everywhere, Limits::default());
    bench.device = endpoint("192.0.2.9:4000");
    let request = get(1, &PATH, &[(Number::OBSERVE, b"")]);
    bench.observe(1, &PATH);
    let body = vec![b'x'; 900];
    let sent = bench.publish(&value(1, "a/b", &body, Qos::AtMostOnce, false));
    assert_eq!(kind(&sent[0]), Kind::Confirmable);
    assert!(sent[0].len() <= 3 * request.len());
    bench.acknowledge(&sent[0]);
    bench.pass(Duration::from_secs(5));
    let sent = bench.publish(&value(2, "a/b", &body, Qos::AtMostOnce, false));
    assert_eq!(payload(&sent[0]).len(), 900);
}

#[test]
fn only_the_list_is_told_to_everybody_after_a_while_and_no_errors_are() {
    use crate::event::Via;
    let mut bench = Bench::with(Anonymous::Everywhere, Limits::default());
    let stranger = endpoint("192.0.2.9:4000");
    let multicast = |bench: &mut Bench, bytes: Vec<u8>| {
        bench.coap.datagram(bench.now, stranger, Via::Multicast, bytes.into(), &bench.values);
        bench.gather();
        bench.raw()
    };
    let non = |code, path: &[&[u8]], options: &[(Number, &[u8])]| {
        write(Kind::NonConfirmable, code, 1, path, options, b"")
    };
    let core: [&[u8]; 2] = [b".well-known", b"core"];
    for silent in [
        non(Code::GET, &[b"t", b"a"], &[]),
        non(Code::POST, &[b"t", b"a"], &[]),
        non(Code::POST, &core, &[]),
        non(Code::GET, &[b"nowhere"], &[]),
        non(Code::GET, &core, &[(Number::URI_QUERY, b"rt=light")]),
        non(Code::GET, &core, &[(Number::ACCEPT, &[60])]),
        get(1, &core, &[]),
        vec![0x40, 0, 0, 1],
        vec![0x49, 1, 0, 1],
    ] {
        assert!(multicast(&mut bench, silent).is_empty());
    }
    assert_eq!((bench.coap.timeout(), bench.published.len()), (None, 0));
    let question = non(Code::GET, &core, &[]);
    assert!(multicast(&mut bench, question.clone()).is_empty(), "not at once");
    let wait = bench.coap.timeout().unwrap().since(bench.now.instant);
    assert!(wait <= Duration::from_secs(5));
    bench.pass(wait);
    bench.sent.clear();
    multicast(&mut bench, question.clone());
    bench.now.instant = bench.coap.timeout().unwrap();
    bench.coap.tick(bench.now);
    bench.gather();
    let answers: Vec<Answer> = bench.sent.iter().map(|(_, bytes)| Answer::read(bytes)).collect();
    assert_eq!((answers[0].kind, answers[0].code), (Kind::NonConfirmable, Code::CONTENT));
    assert!(bench.sent[0].1.len() <= 3 * question.len());

    // Who looks for the gateway has no way to show credentials to everybody.
    let mut bench = Bench::with(Anonymous::Never, Limits::default());
    assert!(multicast(&mut bench, non(Code::GET, &[b"t", b"a"], &[])).is_empty());
    multicast(&mut bench, question);
    let answers = bench.pass(Duration::from_secs(5));
    assert_eq!((answers.len(), bench.notices.len()), (1, 0));
}

#[test]
fn what_nobody_waits_for_is_ignored() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let sent = bench.publish(&value(1, "a/b", b"1", Qos::AtLeastOnce, false));
    let [high, low] = [sent[0][2], sent[0][3]];
    let device = bench.device;
    for guess in [&[0x60, 0, high, low ^ 1][..], &[0x70, 0, high ^ 1, low], &[0x60, 0x45, low, high ^ 7]] {
        assert!(bench.ask_raw(device, guess).is_empty());
    }
    let stranger = endpoint("127.0.0.1:40009");
    for kind in [0x60, 0x70] {
        assert!(bench.ask_raw(stranger, &[kind, 0, high, low]).is_empty());
    }
    assert_eq!(bench.coap.stats().subscriptions, 1);
    assert_eq!(bench.next().len(), 1, "it is still not acknowledged");
}

#[test]
fn message_ids_to_one_peer_do_not_come_again_and_begin_anywhere() {
    let first_ids: BTreeSet<u16> = (1..=50)
        .map(|port| {
            let mut bench = Bench::new();
            // Another peer before it, so that each takes another number from the same source.
            for other in 0..port {
                bench.from(endpoint(&format!("127.0.0.1:{}", 100 + other)), &con(1));
            }
            bench.observe(1, &PATH);
            let sent = bench.publish(&value(1, "a/b", b"1", Qos::AtLeastOnce, false));
            u16::from_be_bytes([sent[0][2], sent[0][3]])
        })
        .collect();
    assert!(first_ids.len() > 45, "{first_ids:?}");
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let mut ids = BTreeSet::new();
    for number in 0..1_000 {
        let sent = bench.publish(&value(number, "a/b", b"1", Qos::AtLeastOnce, false));
        assert!(ids.insert([sent[0][2], sent[0][3]]));
        bench.acknowledge(&sent[0]);
    }
}
