//! CoAP on a stream: the same requests, and the signalling around them.

use super::super::Coap;
use super::observing::{get, value};
use super::{Bench, TOKEN, con, non};
use crate::event::{Anonymous, DeviceSetup, Notice, StreamPeer};
use crate::id::{ConnId, DeviceId};
use crate::limits::Limits;
use crate::message::Qos;
use crate::mutant::Planted;
use crate::time::Duration;
use crate::topic::Filter;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tidegate_oscore::{Context, Observation, Parameters, Replay, Sequence, Session};
use tidegate_wire::coap::stream::{self, Frame};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber as Number, Token, Writer};

const CONN: ConnId = ConnId(7);

/// A datagram's message as a frame.
fn frame(datagram: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; datagram.len() + 2];
    stream::write(&mut buffer, datagram).unwrap().to_vec()
}

/// The same under another token; that of `datagram` is [`TOKEN`].
fn under(token: &[u8], datagram: &[u8]) -> Vec<u8> {
    let head = [0x50 | token.len() as u8, datagram[1], 0, 0];
    frame(&[&head, token, &datagram[4 + TOKEN.len()..]].concat())
}

/// A signalling message.
fn signal(code: Code, token: &[u8], body: &[u8]) -> Vec<u8> {
    let head = [0x50 | token.len() as u8, code.0, 0, 0];
    frame(&[&head, token, body].concat())
}

/// A frame that the server sent: its code, token, payload, and options.
type Sent = (Code, Vec<u8>, Vec<u8>, Vec<(u16, Vec<u8>)>);

impl Bench {
    fn open(&mut self, device: Option<&str>) -> Vec<Sent> {
        let device = device.and_then(|name| DeviceId::new(name).ok());
        let peer = StreamPeer { address: "127.0.0.1:9".parse().unwrap(), device };
        self.coap.opened(self.now, CONN, peer);
        self.gather();
        self.frames()
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Sent> {
        self.coap.received(self.now, CONN, &Bytes::copy_from_slice(bytes), &self.values);
        self.gather();
        self.frames()
    }

    /// What was sent on the stream.
    fn frames(&mut self) -> Vec<Sent> {
        let mut stream = BytesMut::new();
        for bytes in self.streamed.drain(..) {
            stream.extend_from_slice(&bytes);
        }
        let mut sent = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let frame = Frame::parse(rest, 100_000).unwrap();
            let mut buffer = vec![0; frame.body.len() + 12];
            let length = frame.to_datagram(&mut buffer).unwrap().len();
            buffer.truncate(length);
            // Signalling codes are none that the reader of datagrams takes.
            buffer[1] = 0x45;
            let message = Message::parse(&buffer).unwrap();
            let options = message.options().map(|option| (option.number.0, option.value.to_vec())).collect();
            let token = frame.token.as_bytes().to_vec();
            sent.push((frame.code, token, message.payload().to_vec(), options));
            rest = &rest[frame.bytes..];
        }
        sent
    }

    fn greeted() -> Self {
        let mut bench = Self::new();
        bench.open(None);
        bench.feed(&signal(stream::CSM, &[], &[]));
        bench
    }
}

fn codes(sent: &[Sent]) -> Vec<Code> {
    sent.iter().map(|(code, ..)| *code).collect()
}

#[test]
fn the_csm_goes_first_and_one_is_awaited() {
    let mut bench = Bench::new();
    let sent = bench.open(None);
    assert_eq!(codes(&sent), [stream::CSM]);
    assert_eq!(sent[0].3, [(stream::MAX_MESSAGE_SIZE, vec![4, 128]), (stream::BLOCK_WISE_TRANSFER, vec![])]);
    assert_eq!(codes(&bench.feed(&frame(&con(1)))), [stream::ABORT]);
    assert_eq!((bench.closed.len(), bench.published.len()), (1, 0));
    assert!(bench.feed(&signal(stream::CSM, &[], &[])).is_empty(), "too late");
}

#[test]
fn a_request_is_answered_when_it_is_safe_without_message_ids_or_acknowledgements() {
    let mut bench = Bench::greeted();
    // In any cut, and two that would be one by datagram.
    let bytes = [1, 2, 3].map(|token| under(&[token], &if token == 2 { non(1) } else { con(1) })).concat();
    for byte in &bytes {
        assert!(bench.feed(&[*byte]).is_empty());
    }
    assert_eq!(bench.published.len(), 3);
    bench.pass(Duration::from_secs(3));
    assert!(bench.frames().is_empty(), "no empty ACK");
    for index in [2, 0, 1] {
        bench.safe(index);
        let sent = bench.frames();
        assert_eq!((sent[0].0, &sent[0].1[..]), (Code::CHANGED, &[index as u8 + 1][..]));
    }
    bench.pass(Duration::from_secs(300));
    assert!(bench.frames().is_empty(), "nothing is repeated");
}

#[test]
fn an_answer_is_never_taken_for_that_to_a_later_request_under_its_token() {
    let mut bench = Bench::greeted();
    bench.feed(&[under(&[7], &con(1)), under(&[8], &con(2)), under(&[7], &con(3))].concat());
    bench.safe(0);
    assert!(bench.frames().is_empty(), "the device waits for the third one now, which is not safe");
    bench.safe(1);
    bench.safe(2);
    let tokens: Vec<Vec<u8>> = bench.frames().into_iter().map(|(_, token, ..)| token).collect();
    assert_eq!(tokens, [[8], [7]]);
    // What is not answered owes nothing to who goes.
    bench.feed(&[under(&[7], &con(4)), under(&[7], &con(5)), signal(stream::RELEASE, &[], &[])].concat());
    bench.safe(4);
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![Code::CHANGED], 0));
    bench.safe(3);
    assert_eq!((bench.frames().len(), bench.closed.len()), (0, 1));
}

#[test]
fn pings_are_answered_and_a_release_closes() {
    let mut bench = Bench::greeted();
    let sent = bench.feed(&signal(stream::PING, &[9], &[0x20]));
    assert_eq!((sent[0].0, &sent[0].1[..], sent[0].3.len()), (stream::PONG, &[9][..], 1));
    assert!(bench.feed(&[0x00, 0x00]).is_empty(), "an empty message is passed over");
    assert!(bench.feed(&signal(stream::RELEASE, &[], &[])).is_empty());
    assert_eq!(bench.closed, [CONN]);
    bench.coap.closed(bench.now, CONN);
    assert_eq!(bench.coap.stats().peers, 0);
}

#[test]
fn what_was_asked_before_a_release_is_answered_before_the_end() {
    let mut bench = Bench::greeted();
    let requests = [under(&[1], &con(1)), under(&[2], &con(2))].concat();
    bench.feed(&[requests, signal(stream::RELEASE, &[], &[]), under(&[3], &con(3))].concat());
    assert_eq!((bench.published.len(), bench.closed.len()), (2, 0), "nothing counts behind it");
    bench.safe(1);
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![Code::CHANGED], 0));
    bench.safe(0);
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![Code::CHANGED], 1));

    let mut bench = Bench::greeted();
    bench.feed(&[frame(&con(1)), signal(stream::RELEASE, &[], &[])].concat());
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.closed, [CONN], "and not for ever");
}

#[test]
fn what_breaks_the_protocol_is_aborted() {
    for bytes in [
        &[0x09, 0x01][..],                     // a token of nine bytes
        &[0xF0, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], // four gigabytes
        &[0xE0, 0x10, 0x00, 0x01],             // more than the CSM allows
        &signal(stream::CSM, &[], &[0x10]),    // a critical option that is unknown
        &[0x10, 0x01, 0xFF],                   // a marker without payload
    ] {
        let mut bench = Bench::greeted();
        assert_eq!(codes(&bench.feed(bytes)), [stream::ABORT], "{bytes:02x?}");
        assert_eq!(bench.closed, [CONN]);
    }
}

#[test]
fn a_connection_that_says_nothing_or_half_of_something_is_given_up() {
    let mut bench = Bench::new();
    bench.open(None);
    bench.pass(Duration::from_secs(10));
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![stream::ABORT], 1));
    let mut bench = Bench::greeted();
    // Each byte comes in time, and the message does not.
    for byte in &frame(&con(1))[..4] {
        bench.feed(&[*byte]);
        bench.pass(Duration::from_secs(9));
    }
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![stream::ABORT], 1));
}

#[test]
fn a_silent_connection_is_asked_whether_it_lives() {
    let mut bench = Bench::greeted();
    bench.pass(Duration::from_secs(600));
    bench.feed(&frame(&con(1)));
    bench.safe(0);
    bench.frames();
    bench.pass(Duration::from_secs(1_199));
    assert!(bench.frames().is_empty(), "it has said something meanwhile");
    for _ in 0..3 {
        bench.pass(Duration::from_secs(1_200));
        assert_eq!(codes(&bench.frames()), [stream::PING]);
        assert!(bench.feed(&signal(stream::PONG, &[], &[])).is_empty());
        bench.pass(Duration::from_secs(40));
        assert!(bench.closed.is_empty(), "it lives");
    }
    bench.pass(Duration::from_secs(1_200));
    bench.pass(Duration::from_secs(30));
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![stream::PING, stream::ABORT], 1));
}

#[test]
fn no_answer_is_longer_than_the_csm_allows() {
    for (longest, wanted) in [(30, Code::BAD_REQUEST), (60, Code::CONTENT), (1_152, Code::CONTENT)] {
        let mut bench = Bench::greeted();
        let size = u16::to_be_bytes(longest);
        bench.feed(&signal(stream::CSM, &[], &[0x22, size[0], size[1]]));
        let question = frame(&get(1, &[b".well-known", b"core"], &[]));
        bench.coap.received(bench.now, CONN, &Bytes::from(question), &bench.values);
        bench.gather();
        let bytes: usize = bench.streamed.iter().map(Bytes::len).sum();
        assert!(bytes <= longest.into(), "{bytes} of {longest}");
        assert_eq!(codes(&bench.frames()), [wanted]);
    }
}

#[test]
fn a_crowd_that_says_nothing_throws_out_its_own_and_not_who_is_slow() {
    let limits = Limits { connections_unauthenticated: 8, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Everywhere, limits);
    for number in 1..=1_000 {
        // The slow one came first.
        let address = if number == 1 { "192.0.2.1:5000" } else { "198.51.100.1:5000" };
        let peer = StreamPeer { address: address.parse().unwrap(), device: None };
        bench.coap.opened(bench.now, ConnId(number), peer);
    }
    bench.gather();
    assert_eq!(bench.closed.len(), 992);
    assert!(!bench.closed.contains(&ConnId(1)));
}

#[test]
fn a_reload_ends_the_connections_of_those_who_may_not_come_any_more() {
    let reload = |bench: &mut Bench, anonymous| {
        let setup = super::setup(anonymous, Limits::default());
        bench.coap.reload(bench.now, &setup);
        bench.gather();
    };
    let mut bench = Bench::greeted();
    reload(&mut bench, Anonymous::Loopback);
    assert!(bench.closed.is_empty());
    reload(&mut bench, Anonymous::Never);
    assert_eq!((codes(&bench.frames()), &bench.closed[..]), (vec![stream::ABORT], &[CONN][..]));

    // Whose certificate counts no more is told to the server.
    let mut bench = Bench::new();
    bench.open(Some("pump-1"));
    bench.feed(&signal(stream::CSM, &[], &[]));
    reload(&mut bench, Anonymous::Never);
    assert!(bench.closed.is_empty());
    bench.coap.revoked(CONN);
    bench.gather();
    assert_eq!((codes(&bench.frames()), &bench.closed[..]), (vec![stream::ABORT], &[CONN][..]));
    bench.coap.revoked(CONN);
    bench.gather();
    assert_eq!((bench.frames().len(), bench.closed.len()), (0, 1));
}

#[test]
fn the_oldest_of_too_many_that_say_nothing_goes() {
    let limits = Limits { connections_unauthenticated: 2, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    for number in 1..=3 {
        let address = "127.0.0.1:5000".parse().unwrap();
        bench.coap.opened(bench.now, ConnId(number), StreamPeer { address, device: None });
        if number == 1 {
            let csm = Bytes::from(signal(stream::CSM, &[], &[]));
            bench.coap.received(bench.now, ConnId(number), &csm, &bench.values);
        }
    }
    bench.gather();
    assert!(bench.closed.is_empty(), "one of the three has said its CSM");
    let address = "127.0.0.1:5000".parse().unwrap();
    bench.coap.opened(bench.now, ConnId(4), StreamPeer { address, device: None });
    bench.gather();
    assert_eq!(bench.closed, [ConnId(2)]);
}

#[test]
fn a_stranger_is_turned_away_before_it_has_said_anything() {
    let mut bench = Bench::with(Anonymous::Never, Limits::default());
    assert_eq!(codes(&bench.open(None)), [stream::ABORT]);
    assert_eq!((bench.closed.len(), bench.notices.len()), (1, 1));
    let mut bench = Bench::with(Anonymous::Never, Limits::default());
    assert_eq!(codes(&bench.open(Some("pump-1"))), [stream::CSM]);
    assert!(matches!(&bench.notices[..], [Notice::SignedIn { device, .. }] if device.as_str() == "pump-1"));
}

#[test]
fn who_asks_and_does_not_read_is_not_read_and_goes_in_the_end() {
    let mut bench = Bench::greeted();
    let path: [&[u8]; 2] = [b".well-known", b"core"];
    let question = frame(&get(1, &path, &[]));
    let observing = frame(&get(2, &[b"t", b"news"], &[(Number::OBSERVE, b"")]));
    bench.coap.received(bench.now, CONN, &Bytes::from(observing), &bench.values);
    bench.gather();
    let unread = |bench: &Bench| bench.streamed.iter().map(Bytes::len).sum::<usize>();
    while bench.reading {
        bench.coap.received(bench.now, CONN, &Bytes::from(question.clone()), &bench.values);
        bench.gather();
    }
    let waits = unread(&bench);
    assert!((64 << 10..66 << 10).contains(&waits), "{waits}");
    // The newest value waits for it, too.
    for number in 1..=100 {
        bench.publish(&value(number, "news", &[number as u8], Qos::AtLeastOnce, false));
    }
    assert_eq!(unread(&bench), waits);
    bench.pass(Duration::from_secs(59));
    bench.coap.sent(bench.now, CONN, waits - 100);
    bench.gather();
    assert!(bench.reading);
    let sent = bench.frames();
    assert_eq!(sent.last().unwrap().2, [100]);
    bench.pass(Duration::from_secs(100));
    assert!(bench.closed.is_empty());

    while bench.reading {
        bench.coap.received(bench.now, CONN, &Bytes::from(question.clone()), &bench.values);
        bench.gather();
    }
    bench.pass(Duration::from_secs(1));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.closed, [CONN]);
}

#[test]
fn who_reads_nothing_goes_when_all_have_too_much_and_nobody_with_it() {
    let limits = Limits { outgoing_bytes_in_all: 10_000, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    let question = Bytes::from(frame(&get(1, &[b".well-known", b"core"], &[])));
    for number in [1, 2] {
        let address = "127.0.0.1:5000".parse().unwrap();
        bench.coap.opened(bench.now, ConnId(number), StreamPeer { address, device: None });
        let csm = Bytes::from(signal(stream::CSM, &[], &[]));
        bench.coap.received(bench.now, ConnId(number), &csm, &bench.values);
    }
    bench.gather();
    while bench.closed.is_empty() {
        bench.coap.received(bench.now, ConnId(1), &question, &bench.values);
        bench.gather();
    }
    // Its connection takes a moment to go, and what waits there with it.
    for _ in 0..10 {
        bench.coap.received(bench.now, ConnId(2), &question, &bench.values);
        bench.gather();
    }
    assert_eq!(bench.closed, [ConnId(1)]);
}

#[test]
fn a_device_proves_itself_on_a_stream_with_its_context() {
    let context = |own: &[u8], other: &[u8]| {
        let parameters = Parameters {
            master_secret: &[7; 16],
            master_salt: &[],
            id_context: None,
            sender_id: own,
            recipient_id: other,
        };
        Context::derive(&parameters).unwrap()
    };
    let mut setup = super::setup(Anonymous::Never, Limits::default());
    setup.devices.push(DeviceSetup {
        id: DeviceId::new("pump-1").unwrap(),
        publish: vec![Filter::new("sensors/pump-1/#").unwrap()],
        subscribe: vec![Filter::new("sensors/pump-1/#").unwrap()],
        secret: None,
        certificate: None,
        psk: false,
        oscore: Some(Arc::new(context(&[1], &[0x5A]))),
    });
    let mut bench = Bench::new();
    bench.coap = Coap::new(&setup, Planted::default(), &[], bench.now);
    assert_eq!(codes(&bench.open(None)), [stream::CSM]);
    bench.feed(&signal(stream::CSM, &[], &[]));
    // Nothing is said of its place without a context.
    let path: [&[u8]; 3] = [b"t", b"sensors", b"pump-1"];
    assert_eq!(codes(&bench.feed(&frame(&get(1, &path, &[])))), [Code::UNAUTHORIZED]);

    let mut device = Session::new(context(&[0x5A], &[1]), Sequence::resume(0), Replay::fresh());
    device.sequence_mut().stored(100);
    let mut echo = None;
    let mut ask = |bench: &mut Bench, code, options: &[(Number, &[u8])]| {
        let plain = super::write(Kind::NonConfirmable, code, 0, &path, options, b"21");
        let mut buffer = vec![0; 500];
        let (sealed, exchange) = device
            .protect_request_with(&Message::parse(&plain).unwrap(), echo.as_deref(), &mut buffer)
            .unwrap();
        let mut answers = bench.feed(&frame(sealed));
        if code == Code::POST && !bench.published.is_empty() {
            bench.safe(bench.published.len() - 1);
            answers.extend(bench.frames());
        }
        let [(code, token, payload, options)] = &answers[..] else { panic!("{answers:?}") };
        let options = options.iter().map(|(number, value)| (Number(*number), &value[..])).collect::<Vec<_>>();
        let head = Header { kind: Kind::NonConfirmable, code: *code, message_id: 0 };
        let mut buffer = [0; 500];
        let mut writer = Writer::new(&mut buffer, head, Token::new(token).unwrap());
        for (number, value) in options {
            writer = writer.option(number, value);
        }
        let sealed = writer.payload(payload).finish().unwrap();
        let mut buffer = [0; 500];
        let sealed = Message::parse(sealed).unwrap();
        let observing = sealed.option(Number::OBSERVE).is_some();
        let mut observation = Observation::default();
        let observation = observing.then_some(&mut observation);
        let answer = device.open_response(&exchange, observation, &sealed, &mut buffer).unwrap();
        let answer = Message::parse(answer).unwrap();
        echo = answer.option(Number::ECHO).map(<[u8]>::to_vec).or(echo.take());
        answer.code()
    };
    assert_eq!(ask(&mut bench, Code::POST, &[]), Code::UNAUTHORIZED, "whether it is new");
    assert_eq!(ask(&mut bench, Code::POST, &[]), Code::CHANGED);
    assert_eq!(bench.published[0].0.device.as_str(), "pump-1");
    assert_eq!(ask(&mut bench, Code::GET, &[(Number::OBSERVE, b"")]), Code::CONTENT);
    bench.publish(&value(1, "sensors/pump-1", b"x", Qos::AtLeastOnce, false));
    assert_eq!(bench.frames().len(), 1, "a notification, protected");
    bench.pass(Duration::from_secs(60));
    assert!(bench.closed.is_empty(), "it may stay");
    bench.coap.reload(bench.now, &setup);
    bench.gather();
    assert_eq!((bench.closed.len(), bench.coap.stats().subscriptions), (0, 1), "its context is there");
    bench.coap.reload(bench.now, &super::setup(Anonymous::Never, Limits::default()));
    bench.gather();
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![stream::ABORT], 1));
    assert_eq!(bench.coap.stats().subscriptions, 0);
    bench.coap.closed(bench.now, CONN);
    assert_eq!((bench.coap.stats().subscriptions, bench.coap.stats().peers), (0, 0));
}

#[test]
fn observations_and_identities_go_with_the_connection() {
    let mut bench = Bench::new();
    bench.open(Some("pump-1"));
    bench.feed(&signal(stream::CSM, &[], &[]));
    let path: [&[u8]; 1] = [b"command"];
    let sent = bench.feed(&frame(&get(1, &path, &[(Number::OBSERVE, b"")])));
    assert_eq!(codes(&sent), [Code::CONTENT]);
    for number in 1..=3 {
        bench.publish(&value(number, "commands/pump-1/x", &[number as u8], Qos::AtLeastOnce, false));
    }
    let payloads: Vec<Vec<u8>> = bench.frames().into_iter().map(|(_, _, payload, _)| payload).collect();
    assert_eq!(payloads, [[1], [2], [3]], "none waits for an acknowledgement");
    bench.coap.closed(bench.now, CONN);
    assert_eq!(bench.coap.stats().subscriptions, 0);
    bench.publish(&value(4, "commands/pump-1/x", b"4", Qos::AtLeastOnce, false));
    assert!(bench.frames().is_empty());
}
