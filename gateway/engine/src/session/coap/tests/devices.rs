//! Devices: their commands, identities and rights, and how fast they may send.

use super::bodies::codes;
use super::observing::{get, value};
use super::{Bench, con, setup, write};
use crate::event::{Anonymous, DeviceSetup, Via};
use crate::id::DeviceId;
use crate::limits::Limits;
use crate::message::Qos;
use crate::time::{Duration, Stamp};
use crate::topic::Filter;
use tidegate_wire::coap::{Code, Kind, Message, OptionNumber as Number};

fn hono(id: u16, path: &[&[u8]], query: &[u8]) -> Vec<u8> {
    write(Kind::Confirmable, Code::POST, id, path, &[(Number::URI_QUERY, query)], b"on")
}

const TELEMETRY: [&[u8]; 3] = [b"telemetry", b"tenant", b"pump-1"];

#[test]
fn a_command_rides_on_the_answer_of_a_device_that_listens() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&hono(1, &TELEMETRY, b"hono-ttd=10")), []);
    assert_eq!(bench.published[0].0.topic.as_str(), "sensors/pump-1/telemetry");
    assert_eq!(bench.published[0].0.device.as_str(), "pump-1");
    assert_eq!(bench.safe(0), [], "it listens");
    let sent = bench.publish(&value(3, "commands/pump-1/speed", b"3", Qos::AtLeastOnce, false));
    let message = Message::parse(&sent[0]).unwrap();
    assert_eq!((message.kind(), message.code()), (Kind::Acknowledgement, Code::CHANGED));
    assert_eq!(message.payload(), b"3");
    assert_eq!(message.option(Number::LOCATION_QUERY), Some(&b"hono-command=speed"[..]));
    let location: Vec<_> = message.options_of(Number::LOCATION_PATH).collect();
    assert_eq!(location[0], b"command_response");
    assert_eq!(bench.ask_raw(bench.device, &hono(1, &TELEMETRY, b"hono-ttd=10")), sent, "the same again");
    assert_eq!(bench.published.len(), 1);

    // Its answer is reported once.
    let path: [&[u8]; 4] = [b"command_response", b"tenant", b"pump-1", location[1]];
    let answer = |id| hono(id, &path, b"hono-cmd-status=200");
    bench.ask(&answer(2));
    assert_eq!(bench.published.len(), 2);
    let properties = bench.published[1].0.properties.clone().unwrap();
    assert_eq!(properties.user, [("hono-cmd-status".to_owned(), "200".to_owned())]);
    assert_eq!(bench.safe(1)[0].code, Code::CHANGED);
    assert_eq!(codes(&mut bench, &answer(3)), [Code::CHANGED]);
    assert_eq!(bench.published.len(), 2);
    assert_eq!(codes(&mut bench, &hono(4, &path, b"hono-cmd-status=soon")), [Code::BAD_REQUEST]);
}

#[test]
fn a_device_that_listens_is_answered_when_its_time_is_over_and_never_before_its_message_is_safe() {
    let mut bench = Bench::new();
    bench.ask(&hono(1, &TELEMETRY, b"hono-ttd=10"));
    bench.safe(0);
    assert_eq!(bench.pass(Duration::from_secs(1)).len(), 1, "the empty ACK");
    let answer = bench.pass(Duration::from_secs(9));
    assert_eq!((answer[0].kind, answer[0].code), (Kind::Confirmable, Code::CHANGED));
    let mut bench = Bench::new();
    bench.ask(&hono(1, &TELEMETRY, b"hono-ttd=1"));
    let command = value(3, "commands/pump-1/speed", b"3", Qos::AtLeastOnce, false);
    assert!(bench.publish(&command).is_empty(), "not safe");
    assert_eq!(bench.pass(Duration::from_secs(5)).len(), 1, "the empty ACK");
    assert_eq!(bench.safe(0)[0].payload, b"3");
    // A stop does not wait.
    let mut bench = Bench::new();
    bench.ask(&hono(1, &TELEMETRY, b"hono-ttd=100"));
    bench.safe(0);
    bench.coap.stop(bench.now);
    bench.gather();
    assert_eq!(bench.answers()[0].code, Code::CHANGED);
}

#[test]
fn an_observer_of_commands_gets_each_of_them_in_order_and_acknowledges_each() {
    let mut bench = Bench::new();
    let path: [&[u8]; 3] = [b"command", b"tenant", b"pump-1"];
    let answer = bench.ask(&get(1, &path, &[(Number::OBSERVE, b"")]));
    assert_eq!(answer[0].code, Code::CONTENT);
    let mut sent = bench.publish(&value(1, "commands/pump-1/a", b"1", Qos::AtMostOnce, false));
    for number in 2..=5 {
        let topic = "commands/pump-1/b";
        assert!(bench.publish(&value(number, topic, &[number as u8], Qos::AtMostOnce, false)).is_empty());
    }
    assert!(bench.publish(&value(9, "commands/pump-2/b", b"9", Qos::AtMostOnce, false)).is_empty());
    for number in 2..=5_u8 {
        let message = Message::parse(&sent[0]).unwrap();
        assert_eq!(
            (message.kind(), message.options_of(Number::LOCATION_PATH).count()),
            (Kind::Confirmable, 2)
        );
        let device = bench.device;
        sent = bench.ask_raw(device, &[0x60, 0, sent[0][2], sent[0][3]]);
        assert_eq!(Message::parse(&sent[0]).unwrap().payload(), [number]);
    }
}

// ---------------------------------------------------------------------------------- identities and rates

fn device(id: &str, with_credentials: bool) -> DeviceSetup {
    DeviceSetup {
        id: DeviceId::new(id).unwrap(),
        publish: vec![Filter::new(&format!("sensors/{id}/#")).unwrap()],
        subscribe: vec![Filter::new(&format!("commands/{id}/#")).unwrap()],
        secret: None,
        certificate: with_credentials.then_some([1; 32]),
        oscore: None,
        psk: false,
    }
}

#[test]
fn an_identity_that_is_proved_goes_before_the_path_and_keeps_to_its_rights() {
    let mut bench = Bench::with(Anonymous::Never, Limits::default());
    let devices = vec![device("a", true), device("b", false)];
    bench
        .coap
        .reload(bench.now, &crate::event::Setup { devices, ..setup(Anonymous::Loopback, Limits::default()) });
    let mut send = |id, path: &[&[u8]], proved: Option<&str>| {
        let via = match proved {
            Some(name) => Via::Bound { device: DeviceId::new(name).ok() },
            None => Via::Open,
        };
        let bytes = write(Kind::Confirmable, Code::POST, id, path, &[], b"x").into();
        bench.coap.datagram(bench.now, bench.device, via, bytes, &bench.values);
        bench.gather();
        let published = bench.published.pop().map(|(incoming, _)| incoming.topic.to_string());
        published.ok_or_else(|| bench.answers().remove(0).code)
    };
    assert_eq!(send(1, &[b"telemetry"], Some("a")), Ok("sensors/a/telemetry".into()));
    assert_eq!(send(2, &[b"telemetry", b"t", b"b"], Some("a")), Ok("sensors/a/telemetry".into()));
    assert_eq!(send(3, &[b"t", b"sensors", b"b", b"x"], Some("a")), Err(Code::FORBIDDEN));
    assert_eq!(send(4, &[b"telemetry", b"t", b"a"], None), Err(Code::UNAUTHORIZED), "a has credentials");
    assert_eq!(send(5, &[b"telemetry", b"t", b"b"], None), Ok("sensors/b/telemetry".into()));
    assert_eq!(send(6, &[b"telemetry", b"t", b"c/d"], None), Err(Code::BAD_REQUEST));
    assert_eq!(send(7, &[b"telemetry"], None), Ok("sensors/127.0.0.1/telemetry".into()));
    // One that is not configured has a name space of its own, as over MQTT with a certificate.
    assert_eq!(send(8, &[b"t", b"sensors", b"z", b"x"], Some("z")), Ok("sensors/z/x".into()));
    assert_eq!(send(9, &[b"t", b"alarms"], Some("z")), Err(Code::FORBIDDEN));
}

#[test]
fn a_right_that_is_taken_away_ends_an_observation() {
    let mut bench = Bench::new();
    let with = |subscribe: &str| {
        let subscribe = vec![Filter::new(subscribe).unwrap()];
        let devices = vec![DeviceSetup { subscribe, ..device("a", true) }];
        crate::event::Setup { devices, ..setup(Anonymous::Loopback, Limits::default()) }
    };
    bench.coap.reload(bench.now, &with("news/#"));
    let ask = |bench: &mut Bench, id, topic: &[u8]| {
        let via = Via::Bound { device: DeviceId::new("a").ok() };
        let request = get(id, &[b"t", topic, b"x"], &[(Number::OBSERVE, b"")]).into();
        bench.coap.datagram(bench.now, bench.device, via, request, &bench.values);
        bench.gather();
        bench.answers().remove(0).code
    };
    assert_eq!(ask(&mut bench, 1, b"other"), Code::FORBIDDEN);
    assert_eq!(ask(&mut bench, 2, b"news"), Code::CONTENT);
    bench.coap.reload(bench.now, &with("other/#"));
    let sent = bench.publish(&value(1, "news/x", b"secret", Qos::AtLeastOnce, false));
    let message = Message::parse(&sent[0]).unwrap();
    assert_eq!((message.code(), message.payload()), (Code::FORBIDDEN, &b""[..]));
    assert_eq!(bench.coap.stats().subscriptions, 0);
}

#[test]
fn a_device_that_sends_too_fast_is_told_so() {
    let limits = Limits { coap_requests_per_second: 5, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    let mut refused = 0;
    for id in 0..12 {
        for answer in bench.ask(&con(id)) {
            assert_eq!(answer.code, Code::TOO_MANY_REQUESTS);
            assert!(answer.max_age.is_some());
            refused += 1;
        }
    }
    assert_eq!((bench.published.len(), refused), (6, 6), "the first of a peer that is not known is free");
    bench.pass(Duration::from_secs(1));
    bench.ask(&con(100));
    assert_eq!(bench.published.len(), 7);
    assert_eq!(bench.ask(&con(11))[0].code, Code::TOO_MANY_REQUESTS, "a late copy is not taken");
}

#[test]
fn pings_are_answered_at_a_bounded_rate() {
    let mut bench = Bench::new();
    let answered: usize =
        (0..10_000_u16).map(|id| bench.ask(&[0x40, 0, id.to_be_bytes()[0], id.to_be_bytes()[1]]).len()).sum();
    assert!((900..=1_100).contains(&answered), "{answered}");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ask(&[0x40, 0, 0, 1]).len(), 1);
}

#[test]
fn the_time_is_told_when_it_is_known() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&get(1, &[b"time"], &[]))[0].code, Code::SERVICE_UNAVAILABLE);
    bench.now.wall = Stamp { unix_ms: 1_763_740_000_045, synchronised: true };
    let answer = bench.ask(&get(2, &[b"time"], &[]));
    assert_eq!((answer[0].code, &answer[0].payload[..]), (Code::CONTENT, &b"1763740000.045"[..]));
}
