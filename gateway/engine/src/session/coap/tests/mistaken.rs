//! Peers that are mistaken, have lost their memory or mean no good: what they do costs nobody else anything, and never makes an
//! answer mean more than it says.

use super::observing::{PATH, get, payload, value};
use super::{Answer, Bench, TOPIC, con, endpoint, non, setup, write};
use crate::event::{Anonymous, DeviceSetup, Notice, Via};
use crate::id::{ConnId, DeviceId};
use crate::limits::Limits;
use crate::message::Qos;
use crate::time::Duration;
use crate::topic::Filter;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate_wire::coap::{Block, Code, Kind, Message, OptionNumber as Number};

const COMMAND: [&[u8]; 3] = [b"command", b"tenant", b"pump-1"];

fn with_token(mut datagram: Vec<u8>, token: u8) -> Vec<u8> {
    datagram[4] = token;
    datagram
}

fn command(number: u64) -> Arc<crate::message::Message> {
    value(number, "commands/pump-1/speed", &[number as u8], Qos::AtLeastOnce, false)
}

/// Moves on to what is due next, and gives what is sent then.
fn due(bench: &mut Bench) -> Vec<Vec<u8>> {
    bench.sent.clear();
    let due = bench.coap.timeout().unwrap();
    bench.now.instant = bench.now.instant.max(due);
    bench.coap.tick(bench.now);
    bench.gather();
    bench.raw()
}

// ------------------------------------------------------------------------------------------ tokens anew

#[test]
fn the_answer_to_a_request_that_was_given_up_is_not_taken_for_the_next_one_with_its_token() {
    let mut bench = Bench::new();
    bench.ask(&con(1));
    assert_eq!(bench.pass(Duration::from_secs(1)), [Answer::empty(Kind::Acknowledgement, 1)]);
    // The device waits no longer, and asks anew with the token that it always has.
    bench.ask(&con(2));
    assert_eq!(bench.safe(0), [], "2 is not safe, and this would say so");
    assert_eq!(bench.safe(1)[0].message_id, 2);
    assert_eq!(bench.pass(Duration::from_secs(100)), []);
    assert_eq!(bench.ask(&con(1))[0].code, Code::CHANGED, "in the ACK it is told apart");
}

#[test]
fn a_separate_response_is_not_repeated_once_its_token_is_used_anew() {
    let mut bench = Bench::new();
    bench.ask(&con(1));
    bench.next();
    assert_eq!(bench.safe(0).len(), 1);
    bench.ask(&con(2));
    let sent = bench.pass(Duration::from_secs(60));
    assert_eq!(sent, [Answer::empty(Kind::Acknowledgement, 2)]);
    let answer = bench.safe(1);
    assert_eq!((answer[0].kind, answer[0].code), (Kind::Confirmable, Code::CHANGED));
}

#[test]
fn a_notification_waits_while_a_request_with_its_token_waits_for_its_answer() {
    let mut bench = Bench::new();
    bench.observe(1, &COMMAND);
    bench.ask(&con(2));
    assert!(bench.publish(&command(7)).is_empty(), "2.05 to a message that is not safe");
    bench.safe(0);
    let answered = bench.now.instant;
    while bench.now.instant.since(answered) < Duration::from_secs(5) {
        let sent = due(&mut bench);
        if sent.iter().any(|bytes| payload(bytes) == [7]) {
            return;
        }
    }
    panic!("the command never came");
}

// ------------------------------------------------------------------------------------------- observers

#[test]
fn asking_for_an_observation_once_more_loses_no_command() {
    let mut bench = Bench::new();
    bench.observe(1, &COMMAND);
    let first = bench.publish(&command(1));
    assert!(bench.publish(&command(2)).is_empty());
    // A copy of the request comes late, and then the device asks anew, as it should now and then (RFC 7641, 3.3.1).
    bench.observe(1, &COMMAND);
    bench.observe(2, &COMMAND);
    assert_eq!(bench.coap.stats().subscriptions, 1);
    assert_eq!(due(&mut bench), first, "it goes again");
    let second = bench.acknowledge(&first[0]);
    assert_eq!(payload(&second[0]), [2]);
}

#[test]
fn commands_that_an_observer_never_took_are_counted() {
    let mut bench = Bench::new();
    bench.observe(1, &COMMAND);
    for number in 1..=3 {
        bench.publish(&command(number));
    }
    bench.pass(Duration::from_secs(1_000));
    for _ in 0..10 {
        bench.pass(Duration::from_secs(1_000));
    }
    assert_eq!((bench.coap.stats().subscriptions, bench.coap.stats().dropped), (0, 3));
}

#[test]
fn a_device_that_comes_back_elsewhere_again_and_again_takes_no_other_device_s_place() {
    let limits = Limits { coap_observers: 4, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    let observe = |bench: &mut Bench, port: u16, device: &[u8]| {
        let from = endpoint(&format!("127.0.0.1:{port}"));
        let asked = get(1, &[b"command", b"t", device], &[(Number::OBSERVE, b"")]);
        let answer = bench.ask_raw(from, &asked).pop().unwrap();
        Message::parse(&answer).unwrap().option(Number::OBSERVE).is_some()
    };
    assert!(observe(&mut bench, 1, b"quiet"));
    for port in 2..200 {
        assert!(observe(&mut bench, port, b"restless"), "{port}");
    }
    assert_eq!(bench.coap.stats().subscriptions, 4);
    assert!(!observe(&mut bench, 300, b"third"), "who is there stays");
    // After an hour without a sign of life they are taken for gone, and told.
    bench.pass(Duration::from_secs(3_600));
    bench.sent.clear();
    assert!(observe(&mut bench, 300, b"third"));
    assert_eq!(bench.coap.stats().subscriptions, 4);
}

#[test]
fn a_rebooted_device_that_always_observes_from_one_port_is_not_shut_out() {
    let mut bench = Bench::new();
    for token in 0..100 {
        let device = bench.device;
        let asked = with_token(get(1, &COMMAND, &[(Number::OBSERVE, b"")]), token);
        let answer = bench.ask_raw(device, &asked).pop().unwrap();
        assert!(Message::parse(&answer).unwrap().option(Number::OBSERVE).is_some(), "{token}");
    }
}

#[test]
fn who_has_proved_nothing_pushes_out_nobody_who_has() {
    let limits = Limits { coap_observers: 2, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Everywhere, limits);
    for (host, id) in [(1, "a"), (2, "b")] {
        let via = Via::Bound { device: DeviceId::new(id).ok() };
        let asked = get(1, &[b"command"], &[(Number::OBSERVE, b"")]).into();
        bench.coap.datagram(bench.now, endpoint(&format!("192.0.2.{host}:1")), via, asked, &bench.values);
    }
    bench.pass(Duration::from_secs(100_000));
    bench.ask(&get(1, &PATH, &[(Number::OBSERVE, b"")]));
    assert_eq!(bench.publish(&value(1, "a/b", b"x", Qos::AtLeastOnce, false)), Vec::<Vec<u8>>::new());
}

#[test]
fn a_busy_observation_does_not_hold_up_the_others_of_its_peer() {
    let mut bench = Bench::new();
    let device = bench.device;
    for (token, topic) in [(1, b"busy" as &[u8]), (2, b"calm")] {
        let asked = with_token(get(token.into(), &[b"t", topic], &[(Number::OBSERVE, b"")]), token);
        bench.ask_raw(device, &asked);
    }
    let mut sent = bench.publish(&value(1, "busy", b"busy", Qos::AtLeastOnce, false));
    bench.publish(&value(2, "calm", b"calm", Qos::AtLeastOnce, false));
    for number in 3..10 {
        // Whenever one is acknowledged there is another one.
        bench.publish(&value(number, "busy", b"busy", Qos::AtLeastOnce, false));
        sent = bench.acknowledge(&sent[0]);
        if payload(&sent[0]) == b"calm" {
            return;
        }
    }
    panic!("never its turn");
}

// -------------------------------------------------------------------------------------------- listening

fn listen(id: u16, seconds: &[u8]) -> Vec<u8> {
    let query = [b"hono-ttd=", seconds].concat();
    let path: [&[u8]; 3] = [b"telemetry", b"tenant", b"pump-1"];
    with_token(
        write(Kind::Confirmable, Code::POST, id, &path, &[(Number::URI_QUERY, &query)], b"on"),
        id as u8,
    )
}

#[test]
fn a_command_goes_to_the_request_that_still_waits() {
    let mut bench = Bench::new();
    bench.ask(&listen(1, b"100"));
    bench.safe(0);
    // The device reboots, and uses the message id for something else.
    bench.ask(&with_token(con(1), 1));
    bench.ask(&listen(2, b"100"));
    bench.safe(2);
    let sent = bench.publish(&command(5));
    assert_eq!((payload(&sent[0]), sent[0][4]), (vec![5], 2));
}

#[test]
fn who_listened_on_a_stream_that_is_gone_takes_no_command_with_it() {
    let mut bench = Bench::new();
    let conn = ConnId(1);
    let peer = crate::event::StreamPeer { address: bench.device.peer, device: None };
    bench.coap.opened(bench.now, conn, peer);
    // CSM, then POST /telemetry/t/pump-1?hono-ttd=100 with token 9.
    let mut request = listen(1, b"100");
    request.splice(..8, []);
    let mut bytes = vec![0x00, 0xE1, 0xD1, (request.len() - 13) as u8, 0x02, 9];
    bytes.extend(request);
    bench.coap.received(bench.now, conn, &bytes.into(), &bench.values);
    bench.gather();
    assert_eq!(bench.published.len(), 1);
    bench.coap.closed(bench.now, conn);
    bench.ask(&listen(2, b"100"));
    bench.safe(1);
    let sent = bench.publish(&command(5));
    assert_eq!(payload(&sent[0]), [5]);
}

#[test]
fn a_device_on_an_association_gets_a_long_command_with_its_answer() {
    let mut bench = Bench::with(Anonymous::Never, Limits::default());
    bench.device = endpoint("192.0.2.9:5684");
    bench.device.association = 3;
    let via = || Via::Bound { device: DeviceId::new("pump-1").ok() };
    bench.coap.datagram(bench.now, bench.device, via(), listen(1, b"100").into(), &bench.values);
    bench.gather();
    bench.safe(0);
    let long = value(5, "commands/pump-1/program", &[7; 500], Qos::AtLeastOnce, false);
    assert_eq!(payload(&bench.publish(&long)[0]), [7; 500]);
}

#[test]
fn another_answer_to_a_command_is_another_message() {
    let mut bench = Bench::new();
    let answer = |id, status: &[u8], body: &[u8]| {
        let path: [&[u8]; 4] = [b"command_response", b"t", b"pump-1", b"own-id"];
        let query = [b"hono-cmd-status=", status].concat();
        write(Kind::Confirmable, Code::POST, id, &path, &[(Number::URI_QUERY, &query)], body)
    };
    for (id, status, body) in [(1, b"202", b"begun"), (2, b"200", b"ended"), (3, b"200", b"other")] {
        assert_eq!(bench.ask(&answer(id, status, body)), [], "acknowledged and thrown away");
        bench.safe(usize::from(id) - 1);
    }
    assert_eq!(bench.ask(&answer(4, b"200", b"other"))[0].code, Code::CHANGED);
    assert_eq!(bench.published.len(), 3);
}

// ------------------------------------------------------------------------------------- requests and ids

#[test]
fn the_answers_to_many_nons_have_different_message_ids() {
    let mut bench =
        Bench::with(Anonymous::Loopback, Limits { coap_requests_per_second: 50_000, ..Limits::default() });
    let ids: BTreeSet<u16> =
        (0..5_000).flat_map(|id| bench.ask(&non(id))).map(|answer| answer.message_id).collect();
    assert!(ids.len() >= 4_999, "{}: the device would take some for copies (RFC 7252, 4.4)", ids.len());
}

#[test]
fn of_two_that_would_be_the_first_to_write_one_is() {
    let mut bench = Bench::new();
    let options: [(Number, &[u8]); 2] = [(Number::IF_NONE_MATCH, b""), (Number::URI_QUERY, b"retain=1")];
    let put = |id| write(Kind::Confirmable, Code::PUT, id, &PATH, &options, b"mine");
    // Both come before the engine has turned over.
    for (port, id) in [(1, 1), (2, 2)] {
        let from = endpoint(&format!("127.0.0.1:{port}"));
        bench.coap.datagram(bench.now, from, Via::Open, put(id).into(), &bench.values);
    }
    bench.gather();
    assert_eq!(bench.published.len(), 1);
    assert_eq!(bench.answers()[0].code, Code::PRECONDITION_FAILED);
}

#[test]
fn a_late_copy_of_the_first_block_does_not_begin_anew() {
    let mut bench = Bench::new();
    let block = |id, number, more| {
        let value = [Block { number, more, exponent: 0 }.to_uint() as u8];
        write(Kind::Confirmable, Code::PUT, id, &TOPIC, &[(Number::BLOCK1, &value)], &[id as u8; 16])
    };
    assert_eq!(bench.ask(&block(1, 0, true))[0].code, Code::CONTINUE);
    assert_eq!(bench.ask(&block(2, 1, true))[0].code, Code::CONTINUE);
    assert_eq!(bench.ask(&block(1, 0, true))[0].code, Code::CONTINUE);
    assert_eq!(bench.ask(&block(3, 2, false)), []);
    assert_eq!(bench.published[0].0.payload.len(), 48);
    // Another message id is another beginning.
    bench.ask(&block(4, 0, true));
    bench.ask(&block(5, 1, true));
    assert_eq!(bench.ask(&block(6, 0, true))[0].code, Code::CONTINUE);
    assert_eq!(bench.ask(&block(7, 2, false))[0].code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn the_message_ids_of_a_life_do_not_tell_the_secret_of_its_proofs() {
    let mut own = super::super::prng::Prng::apart(setup(Anonymous::Never, Limits::default()).seed);
    let mut seeded = 7_u64.wrapping_add(0x9E37_79B9_7F4A_7C15);
    seeded = (seeded ^ (seeded >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    seeded = (seeded ^ (seeded >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let [high, low, ..] = (seeded ^ (seeded >> 31)).to_be_bytes();
    assert_ne!(own.message_id(), u16::from_be_bytes([high, low]), "the seed itself is the generator's state");
}

// ---------------------------------------------------------------------------------------- what is told of it

#[test]
fn who_uses_the_name_of_a_device_with_credentials_or_exceeds_its_rights_is_told_of_with_names() {
    let mut bench = Bench::new();
    let device = DeviceSetup {
        id: DeviceId::new("a").unwrap(),
        publish: vec![Filter::new("sensors/a/#").unwrap()],
        subscribe: vec![Filter::new("commands/a/#").unwrap()],
        secret: None,
        certificate: Some([1; 32]),
        oscore: None,
        psk: false,
    };
    let setup = setup(Anonymous::Loopback, Limits::default());
    bench.coap.reload(bench.now, &crate::event::Setup { devices: vec![device], ..setup });
    let post = |path: &[&[u8]]| write(Kind::Confirmable, Code::POST, 1, path, &[], b"x");
    for request in [post(&[b"telemetry", b"t", b"a"]), get(2, &[b"command", b"t", b"a"], &[])] {
        assert_eq!(bench.ask(&request)[0].code, Code::UNAUTHORIZED);
        let notice = bench.notices.pop();
        assert!(matches!(notice, Some(Notice::SignInRefused { name, .. }) if name == "a"));
    }
    for request in [post(&[b"t", b"sensors", b"b", b"x"]), get(3, &[b"t", b"news"], &[])] {
        let via = Via::Bound { device: DeviceId::new("a").ok() };
        bench.coap.datagram(bench.now, bench.device, via, request.into(), &bench.values);
        bench.gather();
        let notice = bench.notices.pop();
        assert!(
            matches!(&notice, Some(Notice::Denied { device, topic, .. })
            if device.as_str() == "a" && ["sensors/b/x", "news"].contains(&&topic[..])),
            "{notice:?}"
        );
    }
    let stats = bench.coap.stats();
    assert_eq!((stats.sign_ins_refused, stats.publishes_denied, stats.subscriptions_denied), (2, 1, 1));
}
