//! Values read and observed: what is on the list of observers, what they are sent when, what ends it.

use super::{Bench, TOKEN, endpoint, write};
use crate::event::{Anonymous, Endpoint};
use crate::id::{DeviceId, MessageId, Seq};
use crate::limits::Limits;
use crate::message::{Message as Value, Properties, Qos, Source};
use crate::time::{Duration, Stamp};
use crate::topic::Topic;
use std::sync::Arc;
use tidegate_wire::coap::{Block, Code, Kind, Message, OptionNumber as Number, content};

pub(super) fn value(seq: u64, topic: &str, payload: &[u8], qos: Qos, retain: bool) -> Arc<Value> {
    Arc::new(Value {
        id: MessageId { epoch: 1, seq: Seq(seq) },
        device: DeviceId::new("d").unwrap(),
        topic: Topic::new(topic).unwrap(),
        payload: payload.to_vec().into(),
        received: Stamp::default(),
        qos,
        retain,
        duplicate: false,
        source: Source::Mqtt,
        properties: Some(Box::new(Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        })),
    })
}

impl Bench {
    /// A message is published by somebody; a retained one is kept.
    pub(super) fn publish(&mut self, message: &Arc<Value>) -> Vec<Vec<u8>> {
        self.sent.clear();
        self.coap.deliver(self.now, message);
        if message.retain {
            self.values.0.insert(message.topic.clone(), Arc::clone(message));
        }
        self.gather();
        self.raw()
    }

    pub(super) fn raw(&mut self) -> Vec<Vec<u8>> {
        self.sent.drain(..).map(|(_, bytes)| bytes.to_vec()).collect()
    }

    pub(super) fn ask_raw(&mut self, from: Endpoint, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.sent.clear();
        self.from(from, bytes);
        self.raw()
    }

    pub(super) fn acknowledge(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.ask_raw(self.device, &[0x60, 0, bytes[2], bytes[3]])
    }

    pub(super) fn observe(&mut self, id: u16, path: &[&[u8]]) -> Vec<u8> {
        let device = self.device;
        self.ask_raw(device, &get(id, path, &[(Number::OBSERVE, b"")])).remove(0)
    }
}

pub(super) fn get(id: u16, path: &[&[u8]], options: &[(Number, &[u8])]) -> Vec<u8> {
    write(Kind::Confirmable, Code::GET, id, path, options, b"")
}

pub(super) const PATH: [&[u8]; 3] = [b"ps", b"a", b"b"];

fn sequence(bytes: &[u8]) -> Option<u32> {
    Message::parse(bytes).unwrap().option_uint(Number::OBSERVE)
}

pub(super) fn payload(bytes: &[u8]) -> Vec<u8> {
    Message::parse(bytes).unwrap().payload().to_vec()
}

fn code(bytes: &[u8]) -> Code {
    Message::parse(bytes).unwrap().code()
}

pub(super) fn kind(bytes: &[u8]) -> Kind {
    Message::parse(bytes).unwrap().kind()
}

#[test]
fn a_get_gives_what_is_retained_with_its_tag_and_format_or_says_that_nothing_is() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&get(1, &PATH, &[]))[0].code, Code::NOT_FOUND);
    bench.publish(&value(1, "a/b", b"21.5", Qos::AtLeastOnce, true));
    let device = bench.device;
    let bytes = bench.ask_raw(device, &get(2, &PATH, &[])).remove(0);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.code(), message.payload()), (Code::CONTENT, &b"21.5"[..]));
    assert_eq!(message.option_uint(Number::CONTENT_FORMAT), Some(content::JSON.into()));
    let etag = message.option(Number::ETAG).unwrap().to_vec();
    let known = bench.ask(&get(3, &PATH, &[(Number::ETAG, &etag)]));
    assert_eq!((known[0].code, known[0].payload.len()), (Code::VALID, 0));
    assert_eq!(bench.ask(&get(4, &PATH, &[(Number::ACCEPT, &[60])]))[0].code, Code::NOT_ACCEPTABLE);
    assert_eq!(bench.ask(&get(5, &PATH, &[(Number::ACCEPT, &[50])]))[0].code, Code::CONTENT);
    // Conditions are held against it.
    let put = |id, options: &[(Number, &[u8])]| write(Kind::Confirmable, Code::PUT, id, &PATH, options, b"x");
    assert_eq!(bench.ask(&put(6, &[(Number::IF_NONE_MATCH, b"")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.ask(&put(7, &[(Number::IF_MATCH, b"other")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.ask(&put(8, &[(Number::IF_MATCH, &etag)])), []);
    assert_eq!(bench.published.len(), 1);
}

#[test]
fn an_observer_gets_what_comes_in_ascending_order() {
    let mut bench = Bench::new();
    let first = bench.observe(1, &PATH);
    assert_eq!((code(&first), kind(&first)), (Code::CONTENT, Kind::Acknowledgement));
    assert!(payload(&first).is_empty(), "nothing is there yet");
    let mut last = sequence(&first).unwrap();
    for number in 2..40_u64 {
        bench.pass(Duration::from_secs(5));
        let qos = if number % 2 == 0 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let sent = bench.publish(&value(number, "a/b", &[b'0', number as u8], qos, false));
        assert_eq!(sent.len(), 1);
        assert_eq!(Message::parse(&sent[0]).unwrap().token().as_bytes(), TOKEN);
        assert_eq!(payload(&sent[0]), [b'0', number as u8]);
        let sequence = sequence(&sent[0]).unwrap();
        assert!(sequence > last);
        last = sequence;
        if kind(&sent[0]) == Kind::Confirmable {
            assert!(bench.acknowledge(&sent[0]).is_empty());
        } else {
            assert_eq!(qos, Qos::AtMostOnce);
        }
    }
    assert!(bench.publish(&value(50, "a", b"x", Qos::AtLeastOnce, false)).is_empty(), "another topic");
}

#[test]
fn the_first_notification_and_one_a_while_want_an_acknowledgement() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let mut kinds = Vec::new();
    for number in 0..40 {
        bench.pass(Duration::from_secs(5));
        for bytes in bench.publish(&value(number, "a/b", b"x", Qos::AtMostOnce, false)) {
            kinds.push(kind(&bytes));
            if kind(&bytes) == Kind::Confirmable {
                bench.acknowledge(&bytes);
            }
        }
    }
    let confirmable: Vec<usize> =
        (0..kinds.len()).filter(|index| kinds[*index] == Kind::Confirmable).collect();
    assert_eq!(confirmable, [0, 17, 34]);
    bench.pass(Duration::from_secs(86_400));
    let sent = bench.publish(&value(99, "a/b", b"x", Qos::AtMostOnce, false));
    assert_eq!(kind(&sent[0]), Kind::Confirmable, "at least once a day");
}

#[test]
fn while_a_notification_is_not_acknowledged_the_newest_value_takes_the_place_of_the_others() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let first = bench.publish(&value(1, "a/b", b"1", Qos::AtLeastOnce, false));
    assert_eq!(first.len(), 1);
    assert!(bench.publish(&value(2, "a/b", b"2", Qos::AtLeastOnce, false)).is_empty());
    assert!(bench.publish(&value(3, "a/b", b"3", Qos::AtLeastOnce, false)).is_empty());
    // Not the same again, but the newest, as a new message.
    bench.sent.clear();
    bench.now.instant = bench.coap.timeout().unwrap();
    bench.coap.tick(bench.now);
    bench.gather();
    let again = bench.raw();
    assert_eq!(payload(&again[0]), b"3");
    assert_ne!(again[0][2..4], first[0][2..4]);
    assert!(sequence(&again[0]) > sequence(&first[0]));
    assert!(bench.acknowledge(&again[0]).is_empty());
    // And after an acknowledgement at once.
    bench.publish(&value(4, "a/b", b"4", Qos::AtLeastOnce, false));
    let pending = bench.publish(&value(5, "a/b", b"5", Qos::AtLeastOnce, false));
    assert!(pending.is_empty());
    bench.sent.clear();
}

#[test]
fn a_notification_that_is_never_acknowledged_ends_the_observation() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let first = bench.publish(&value(1, "a/b", b"1", Qos::AtLeastOnce, false));
    let mut copies = 1;
    for _ in 0..4 {
        bench.sent.clear();
        bench.now.instant = bench.coap.timeout().unwrap();
        bench.coap.tick(bench.now);
        bench.gather();
        let again = bench.raw();
        assert_eq!(again, first);
        copies += again.len();
    }
    assert_eq!(copies, 5);
    bench.next();
    assert_eq!(bench.coap.stats().subscriptions, 0);
    assert!(bench.publish(&value(2, "a/b", b"2", Qos::AtLeastOnce, false)).is_empty());
    bench.pass(Duration::from_secs(500));
    assert_eq!((bench.coap.stats().peers, bench.coap.timeout()), (0, None), "nothing is left of it");
}

#[test]
fn an_observation_ends_with_a_reset_a_deregistration_or_what_has_been_cleared() {
    let publish =
        |bench: &mut Bench, number| bench.publish(&value(number, "a/b", b"x", Qos::AtLeastOnce, false));
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let sent = publish(&mut bench, 1);
    let device = bench.device;
    bench.ask_raw(device, &[0x70, 0, sent[0][2], sent[0][3]]);
    assert!(publish(&mut bench, 2).is_empty());

    // One that wants no acknowledgement is rejected in the same way.
    bench.observe(9, &PATH);
    let sent = publish(&mut bench, 10);
    bench.acknowledge(&sent[0]);
    let sent = bench.publish(&value(11, "a/b", b"x", Qos::AtMostOnce, false));
    assert_eq!(kind(&sent[0]), Kind::NonConfirmable);
    bench.ask_raw(device, &[0x70, 0, sent[0][2], sent[0][3]]);
    assert_eq!(bench.coap.stats().subscriptions, 0);

    bench.observe(2, &PATH);
    let answer = bench.ask(&get(3, &PATH, &[(Number::OBSERVE, &[1])]));
    assert_eq!(answer[0].code, Code::NOT_FOUND, "a plain GET, of nothing");
    assert!(publish(&mut bench, 3).is_empty());

    bench.observe(4, &PATH);
    let gone = bench.publish(&value(4, "a/b", b"", Qos::AtLeastOnce, true));
    assert_eq!((code(&gone[0]), sequence(&gone[0])), (Code::NOT_FOUND, None));
    assert!(publish(&mut bench, 5).is_empty());
    assert_eq!(bench.coap.stats().subscriptions, 0);
}

#[test]
fn the_same_token_replaces_an_observation_and_another_adds_one_within_the_bounds() {
    let limits = Limits { coap_observers: 3, coap_observers_per_peer: 2, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    bench.observe(1, &PATH);
    bench.observe(2, &PATH);
    assert_eq!(bench.coap.stats().subscriptions, 1);
    bench.observe(3, &[b"ps", b"c"]);
    assert_eq!(bench.coap.stats().subscriptions, 1, "the token stands for another resource now");
    for (port, expected) in [(1, 2), (2, 3), (3, 3)] {
        let from = endpoint(&format!("127.0.0.1:{port}"));
        let answer = bench.ask_raw(from, &get(1, &PATH, &[(Number::OBSERVE, b"")])).remove(0);
        assert_eq!(sequence(&answer).is_some(), port < 3, "a plain answer when there is no room");
        assert_eq!(bench.coap.stats().subscriptions, expected);
    }
}

#[test]
fn one_notification_is_under_way_to_a_peer_at_a_time() {
    let mut bench = Bench::new();
    let device = bench.device;
    for (id, topic) in [(1_u16, b"x"), (2, b"y")] {
        let mut request = get(id, &[b"t", topic], &[(Number::OBSERVE, b"")]);
        request[4] = topic[0];
        bench.ask_raw(device, &request);
    }
    let first = bench.publish(&value(1, "x", b"1", Qos::AtLeastOnce, false));
    assert_eq!(first.len(), 1);
    assert!(bench.publish(&value(2, "y", b"2", Qos::AtLeastOnce, false)).is_empty(), "NSTART is 1");
    let second = bench.acknowledge(&first[0]);
    assert_eq!(payload(&second[0]), b"2");
}

#[test]
fn a_large_value_goes_in_blocks_from_one_snapshot() {
    let mut bench = Bench::new();
    let device = bench.device;
    let body: Vec<u8> = (0..5_000_u32).map(|n| (n % 251) as u8).collect();
    bench.publish(&value(1, "a/b", &body, Qos::AtLeastOnce, true));
    for exponent in [None, Some(0_u8), Some(2), Some(6)] {
        let mut whole = Vec::new();
        let mut number = 0;
        let mut tag = None;
        loop {
            let block =
                Block { number, more: false, exponent: exponent.unwrap_or(6) }.to_uint().to_be_bytes();
            let zeros = block.iter().take_while(|byte| **byte == 0).count();
            let options: &[(Number, &[u8])] =
                if exponent.is_none() && number == 0 { &[] } else { &[(Number::BLOCK2, &block[zeros..])] };
            let bytes = bench.ask_raw(device, &get(100, &PATH, options)).remove(0);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.code(), Code::CONTENT);
            let given = Block::parse(message.option(Number::BLOCK2).unwrap()).unwrap();
            let etag = message.option(Number::ETAG).unwrap().to_vec();
            assert_eq!((given.number, tag.get_or_insert(etag.clone())), (number, &mut etag.clone()));
            assert_eq!(message.option_uint(Number::SIZE2), (number == 0).then_some(5_000));
            whole.extend_from_slice(message.payload());
            // It changes in the middle: this transfer does not.
            bench.publish(&value(u64::from(number) + 10, "a/b", b"another", Qos::AtLeastOnce, true));
            if !given.more {
                break;
            }
            number += 1;
        }
        assert_eq!(whole, body);
        bench.publish(&value(1, "a/b", &body, Qos::AtLeastOnce, true));
    }
}

#[test]
fn conditions_are_held_against_what_is_retained() {
    let mut bench = Bench::new();
    let post =
        |id, options: &[(Number, &[u8])]| write(Kind::Confirmable, Code::POST, id, &PATH, options, b"x");
    assert_eq!(bench.ask(&post(1, &[(Number::IF_MATCH, b"")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.ask(&post(2, &[(Number::IF_NONE_MATCH, b"")])), [], "taken");
    let message = value(1, "a/b", b"1", Qos::AtLeastOnce, true);
    let etag = crate::session::coap::content::etag(&message);
    bench.publish(&message);
    assert_eq!(bench.ask(&post(3, &[(Number::IF_MATCH, b"")])), []);
    let either: [(Number, &[u8]); 2] = [(Number::IF_MATCH, b"other"), (Number::IF_MATCH, &etag)];
    assert_eq!(bench.ask(&post(4, &either)), []);
    assert_eq!(bench.ask(&post(5, &[(Number::IF_NONE_MATCH, b"")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.published.len(), 3);
    // Whatever the method: a condition that does not hold has nothing done.
    let read = |id, options: &[(Number, &[u8])]| get(id, &PATH, options);
    assert_eq!(bench.ask(&read(6, &[(Number::IF_NONE_MATCH, b"")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.ask(&read(7, &[(Number::IF_MATCH, b"other")]))[0].code, Code::PRECONDITION_FAILED);
    assert_eq!(bench.ask(&read(8, &[(Number::IF_MATCH, &etag)]))[0].code, Code::CONTENT);
}

#[test]
fn an_observer_that_takes_one_format_is_told_when_there_is_another() {
    let mut bench = Bench::new();
    let device = bench.device;
    bench.ask_raw(device, &get(1, &PATH, &[(Number::OBSERVE, b""), (Number::ACCEPT, &[50])]));
    let sent = bench.publish(&value(1, "a/b", b"{}", Qos::AtLeastOnce, false));
    assert_eq!(code(&sent[0]), Code::CONTENT);
    bench.acknowledge(&sent[0]);
    let other =
        Arc::new(Value { properties: None, ..(*value(2, "a/b", b"x", Qos::AtLeastOnce, false)).clone() });
    let sent = bench.publish(&other);
    assert_eq!((code(&sent[0]), sequence(&sent[0])), (Code::NOT_ACCEPTABLE, None));
    assert_eq!(bench.coap.stats().subscriptions, 0);
}

#[test]
fn what_expires_says_when() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let properties = Properties { expiry_seconds: Some(90), ..Properties::default() };
    let message = value(1, "a/b", b"x", Qos::AtLeastOnce, false);
    let message = Value { properties: Some(Box::new(properties)), ..(*message).clone() };
    let sent = bench.publish(&Arc::new(message));
    assert_eq!(Message::parse(&sent[0]).unwrap().option_uint(Number::MAX_AGE), Some(90));
}

#[test]
fn notifications_that_want_no_acknowledgement_keep_the_pace_of_the_link() {
    let mut bench = Bench::new();
    bench.observe(1, &PATH);
    let first = bench.publish(&value(1, "a/b", b"1", Qos::AtMostOnce, false));
    bench.pass(Duration::from_millis(200));
    bench.acknowledge(&first[0]);
    // A round trip of 200 ms: one in 200 ms, and the newest.
    assert_eq!(bench.publish(&value(2, "a/b", b"2", Qos::AtMostOnce, false)).len(), 1);
    assert!(bench.publish(&value(3, "a/b", b"3", Qos::AtMostOnce, false)).is_empty());
    assert!(bench.publish(&value(4, "a/b", b"4", Qos::AtMostOnce, false)).is_empty());
    assert_eq!(bench.pass(Duration::from_millis(199)), []);
    assert_eq!(bench.pass(Duration::from_millis(1))[0].payload, b"4");
}

#[test]
fn a_notification_carries_its_first_block_and_the_others_are_fetched() {
    let mut bench = Bench::new();
    let device = bench.device;
    bench.observe(1, &PATH);
    let body: Vec<u8> = (0..2_500_u32).map(|n| (n % 251) as u8).collect();
    let sent = bench.publish(&value(1, "a/b", &body, Qos::AtLeastOnce, false));
    let message = Message::parse(&sent[0]).unwrap();
    let block = Block::parse(message.option(Number::BLOCK2).unwrap()).unwrap();
    assert_eq!((block.number, block.more, message.payload()), (0, true, &body[..1024]));
    let etag = message.option(Number::ETAG).map(<[u8]>::to_vec);
    bench.acknowledge(&sent[0]);
    // It was not retained: the others come from what is kept for this observer.
    let mut whole = body[..1024].to_vec();
    for (number, more) in [(1, true), (2, false)] {
        let next = [Block { number, more: false, exponent: 6 }.to_uint() as u8];
        let bytes = bench.ask_raw(device, &get(9, &PATH, &[(Number::BLOCK2, &next)])).remove(0);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(Block::parse(message.option(Number::BLOCK2).unwrap()).unwrap().more, more);
        assert_eq!(message.option(Number::ETAG).map(<[u8]>::to_vec), etag);
        assert_eq!(sequence(&bytes), None);
        whole.extend_from_slice(message.payload());
    }
    assert_eq!(whole, body);
}
