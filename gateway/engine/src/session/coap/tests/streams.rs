//! CoAP on a stream: the same requests, and the signalling around them.

use super::observing::{get, value};
use super::{Bench, TOKEN, con, non};
use crate::event::StreamPeer;
use crate::id::{ConnId, DeviceId};
use crate::message::Qos;
use crate::time::Duration;
use bytes::{Bytes, BytesMut};
use tidegate_wire::coap::stream::{self, Frame};
use tidegate_wire::coap::{Code, Message, OptionNumber as Number};

const CONN: ConnId = ConnId(7);

/// A datagram's message as a frame.
fn frame(datagram: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; datagram.len() + 2];
    stream::write(&mut buffer, datagram).unwrap().to_vec()
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
    let bytes = [frame(&con(1)), frame(&non(1)), frame(&con(1))].concat();
    for byte in &bytes {
        assert!(bench.feed(&[*byte]).is_empty());
    }
    assert_eq!(bench.published.len(), 3);
    bench.pass(Duration::from_secs(3));
    assert!(bench.frames().is_empty(), "no empty ACK");
    for index in [2, 0, 1] {
        bench.safe(index);
        let sent = bench.frames();
        assert_eq!((sent[0].0, &sent[0].1[..]), (Code::CHANGED, &TOKEN[..]));
    }
    bench.pass(Duration::from_secs(300));
    assert!(bench.frames().is_empty(), "nothing is repeated");
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
    bench.pass(Duration::from_secs(30));
    assert_eq!((codes(&bench.frames()), bench.closed.len()), (vec![stream::ABORT], 1));
    let mut bench = Bench::greeted();
    bench.pass(Duration::from_secs(3_600));
    assert_eq!(bench.closed.len(), 0, "a silent one stays");
    bench.feed(&frame(&con(1))[..5]);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.closed.len(), 1);
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
