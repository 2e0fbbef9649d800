//! Each duty of the CoAP server on its own; that messages are truly safe is shown by the simulation.

use super::{Coap, Receipt};
use crate::event::{Anonymous, Endpoint, Notice, Output, Setup};
use crate::id::GatewayId;
use crate::limits::Limits;
use crate::message::{Qos, Source};
use crate::mutant::Planted;
use crate::session::{Incoming, Receipt as AnyReceipt, Request};
use crate::time::{Duration, Instant, Now};
use bytes::Bytes;
use std::net::SocketAddr;
use tidegate_wire::coap::{
    Block, Code, Header, Kind, Message, OptionNumber as Number, Token, Writer, content,
};

const TOKEN: [u8; 4] = [0xA1, 0xB2, 0xC3, 0xD4];

fn setup(anonymous: Anonymous, limits: Limits) -> Setup {
    Setup {
        gateway: GatewayId::new("g").unwrap(),
        epoch: 1,
        seed: 7,
        limits,
        anonymous,
        upstreams: Vec::new(),
        routes: Vec::new(),
    }
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint { socket: 0, peer: text.parse::<SocketAddr>().unwrap() }
}

/// A server on a clock that the test moves, and one device's address.
struct Bench {
    coap: Coap,
    now: Now,
    device: Endpoint,
    published: Vec<(Incoming, Option<Receipt>)>,
    sent: Vec<(Endpoint, Bytes)>,
    notices: Vec<Notice>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Anonymous::Loopback, Limits::default())
    }

    fn with(anonymous: Anonymous, limits: Limits) -> Self {
        Self {
            coap: Coap::new(&setup(anonymous, limits), Planted::default()),
            now: Now { instant: Instant(1_000_000), ..Now::default() },
            device: endpoint("127.0.0.1:40000"),
            published: Vec::new(),
            sent: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn gather(&mut self) {
        while let Some(request) = self.coap.poll() {
            match request {
                Request::Publish { incoming, receipt } => {
                    let receipt = receipt.map(|receipt| match receipt {
                        AnyReceipt::Coap(receipt) => receipt,
                        AnyReceipt::Mqtt(_) => panic!("an MQTT receipt"),
                    });
                    self.published.push((incoming, receipt));
                }
                Request::Output(Output::SendTo { endpoint, bytes }) => self.sent.push((endpoint, bytes)),
                Request::Output(Output::Notice(notice)) => self.notices.push(notice),
                other => panic!("{other:?}"),
            }
        }
    }

    fn from(&mut self, endpoint: Endpoint, bytes: &[u8]) {
        self.coap.datagram(self.now, endpoint, Bytes::copy_from_slice(bytes));
        self.gather();
    }

    /// What the server sends at once in answer to the device's datagram.
    fn ask(&mut self, bytes: &[u8]) -> Vec<Answer> {
        self.sent.clear();
        self.from(self.device, bytes);
        self.answers()
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.sent.drain(..).map(|(_, bytes)| Answer::read(&bytes)).collect()
    }

    fn safe(&mut self, index: usize) -> Vec<Answer> {
        let receipt = self.published[index].1.unwrap();
        self.coap.safe(self.now, receipt);
        self.gather();
        self.answers()
    }

    fn pass(&mut self, time: Duration) -> Vec<Answer> {
        self.now.instant = self.now.instant.after(time);
        self.coap.tick(self.now);
        self.gather();
        self.answers()
    }

    /// Moves to the next timeout.
    fn next(&mut self) -> Vec<Answer> {
        let due = self.coap.timeout().unwrap();
        self.pass(due.since(self.now.instant))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    kind: Kind,
    code: Code,
    message_id: u16,
    token: Vec<u8>,
    max_age: Option<u32>,
    size1: Option<u32>,
    payload: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let message = Message::parse(bytes).unwrap();
        Self {
            kind: message.kind(),
            code: message.code(),
            message_id: message.message_id(),
            token: message.token().as_bytes().to_vec(),
            max_age: message.option_uint(Number::MAX_AGE),
            size1: message.option_uint(Number::SIZE1),
            payload: message.payload().to_vec(),
        }
    }

    fn empty(kind: Kind, message_id: u16) -> Self {
        Self {
            kind,
            code: Code::EMPTY,
            message_id,
            token: vec![],
            max_age: None,
            size1: None,
            payload: vec![],
        }
    }
}

fn write(
    kind: Kind,
    code: Code,
    id: u16,
    path: &[&[u8]],
    options: &[(Number, &[u8])],
    payload: &[u8],
) -> Vec<u8> {
    let mut all: Vec<(Number, &[u8])> = path.iter().map(|segment| (Number::URI_PATH, *segment)).collect();
    all.extend_from_slice(options);
    all.sort_by_key(|(number, _)| *number);
    let mut buffer = vec![0; 4096];
    let header = Header { kind, code, message_id: id };
    let mut writer = Writer::new(&mut buffer, header, Token::new(&TOKEN).unwrap());
    for (number, value) in all {
        writer = writer.option(number, value);
    }
    writer.payload(payload).finish().unwrap().to_vec()
}

const TOPIC: [&[u8]; 4] = [b"t", b"sensors", b"boiler-3", b"temperature"];

fn con(id: u16) -> Vec<u8> {
    write(Kind::Confirmable, Code::POST, id, &TOPIC, &[], b"21.5")
}

fn non(id: u16) -> Vec<u8> {
    write(Kind::NonConfirmable, Code::POST, id, &TOPIC, &[], b"21.5")
}

fn code_of(bytes: &[u8]) -> Option<Code> {
    Bench::new().ask(bytes).first().map(|answer| answer.code)
}

/// The answer to a CON POST with this path and these options.
fn post(path: &[&[u8]], options: &[(Number, &[u8])]) -> Option<Code> {
    code_of(&write(Kind::Confirmable, Code::POST, 1, path, options, b"x"))
}

// ------------------------------------------------------------------------------------- acknowledgement

#[test]
fn a_con_is_answered_in_its_ack_when_safe_and_not_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&con(7)), []);
    let (incoming, receipt) = &bench.published[0];
    assert!(receipt.is_some());
    assert_eq!(incoming.device.as_str(), "boiler-3");
    assert_eq!(incoming.topic.as_str(), "sensors/boiler-3/temperature");
    assert_eq!(&incoming.payload[..], b"21.5");
    assert_eq!((incoming.qos, incoming.source), (Qos::AtLeastOnce, Source::Coap));
    assert_eq!(incoming.properties, None);
    let answers = bench.safe(0);
    assert_eq!(
        answers,
        [Answer { code: Code::CHANGED, token: TOKEN.to_vec(), ..Answer::empty(Kind::Acknowledgement, 7) }]
    );
    assert_eq!(bench.coap.stats().acknowledged, 1);
    assert_eq!(bench.safe(0), [], "said once");
}

#[test]
fn put_publishes_as_post_does() {
    let mut bench = Bench::new();
    bench.ask(&write(Kind::Confirmable, Code::PUT, 1, &[b"ps", b"a"], &[], b""));
    assert_eq!(bench.published[0].0.topic.as_str(), "a");
    assert!(bench.published[0].0.payload.is_empty());
}

#[test]
fn safety_after_a_second_is_told_in_a_separate_response_until_it_is_acknowledged() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    assert_eq!(bench.pass(Duration::from_millis(999)), []);
    assert_eq!(bench.pass(Duration::from_millis(1)), [Answer::empty(Kind::Acknowledgement, 7)]);
    bench.pass(Duration::from_secs(20));
    let first = bench.safe(0);
    assert_eq!((first[0].kind, first[0].code), (Kind::Confirmable, Code::CHANGED));
    assert_eq!(first[0].token, TOKEN);
    let start = bench.now.instant;
    assert_eq!(bench.next(), first, "the same message id");
    let wait = bench.now.instant.since(start);
    assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&wait), "{wait:?}");
    let start = bench.now.instant;
    assert_eq!(bench.next(), first);
    assert_eq!(bench.now.instant.since(start), wait * 2);
    let ack = [0x60, 0, first[0].message_id.to_be_bytes()[0], first[0].message_id.to_be_bytes()[1]];
    assert_eq!(bench.ask(&ack), []);
    assert_eq!(bench.pass(Duration::from_secs(200)), [], "it does not go again");
}

#[test]
fn a_separate_response_goes_five_times_and_then_rides_on_the_ack() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    bench.next();
    bench.safe(0);
    for _ in 0..4 {
        assert_eq!(bench.next().len(), 1);
    }
    assert_eq!(bench.next(), []);
    assert_eq!(bench.ask(&con(7))[0].code, Code::CHANGED);
    assert_eq!(bench.published.len(), 1);
}

#[test]
fn a_reset_ends_a_separate_response_and_trailing_bytes_do_not_matter() {
    for ending in [&[0x70, 0][..], &[0x64, 0]] {
        let mut bench = Bench::new();
        bench.ask(&con(7));
        bench.next();
        let id = bench.safe(0)[0].message_id.to_be_bytes();
        // The second is an empty ACK with a token behind it, as some devices send.
        bench.ask(&[ending, &id[..], if ending[0] == 0x64 { &TOKEN } else { &[] }].concat());
        assert_eq!(bench.pass(Duration::from_secs(100)), []);
    }
}

#[test]
fn an_ack_from_another_address_ends_nothing() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    bench.next();
    let id = bench.safe(0)[0].message_id.to_be_bytes();
    bench.from(endpoint("127.0.0.1:40001"), &[0x60, 0, id[0], id[1]]);
    assert_eq!(bench.next().len(), 1);
}

#[test]
fn separate_responses_to_one_peer_go_one_after_the_other() {
    let mut bench = Bench::new();
    bench.ask(&con(1));
    bench.ask(&con(2));
    bench.pass(Duration::from_secs(1));
    let first = bench.safe(0);
    assert_eq!(first.len(), 1);
    assert_eq!(bench.safe(1), [], "NSTART is 1");
    let id = first[0].message_id.to_be_bytes();
    let second = bench.ask(&[0x60, 0, id[0], id[1]]);
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].message_id, first[0].message_id);
}

#[test]
fn a_stop_says_at_once_what_is_due_and_takes_no_more() {
    let mut bench = Bench::new();
    bench.ask(&con(1));
    bench.ask(&con(2));
    bench.ask(&con(3));
    bench.pass(Duration::from_secs(1));
    bench.safe(0);
    bench.safe(1);
    bench.coap.stop(bench.now);
    bench.gather();
    assert_eq!(bench.answers().len(), 1, "the second need not wait for the first");
    assert_eq!(bench.safe(2).len(), 1);
    assert_eq!(bench.ask(&con(4))[0].code, Code::SERVICE_UNAVAILABLE);
}

#[test]
fn a_non_is_answered_when_taken_and_carries_no_receipt() {
    let mut bench = Bench::new();
    let answers = bench.ask(&non(7));
    assert_eq!((answers[0].kind, answers[0].code), (Kind::NonConfirmable, Code::CHANGED));
    assert_eq!(answers[0].token, TOKEN);
    assert!(bench.published[0].1.is_none());
    assert_eq!(bench.published[0].0.qos, Qos::AtMostOnce);
    assert_eq!(bench.ask(&non(7)), [], "a repeated NON is passed over");
    assert_eq!(bench.published.len(), 1);
}

#[test]
fn no_response_silences_the_answer_to_a_non_only() {
    let mut bench = Bench::new();
    let unwanted: [(Number, &[u8]); 1] = [(Number::NO_RESPONSE, &[2])];
    assert_eq!(bench.ask(&write(Kind::NonConfirmable, Code::POST, 1, &TOPIC, &unwanted, b"x")), []);
    bench.ask(&write(Kind::Confirmable, Code::POST, 2, &TOPIC, &unwanted, b"x"));
    assert_eq!(bench.safe(1)[0].code, Code::CHANGED);
    // Only 2.xx is unwanted: an error is still told.
    let error = bench.ask(&write(Kind::NonConfirmable, Code::POST, 3, &[b"nowhere"], &unwanted, b"x"));
    assert_eq!(error[0].code, Code::NOT_FOUND);
}

// --------------------------------------------------------------------------------------- deduplication

#[test]
fn a_repeated_con_is_published_once_and_gets_the_same_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&con(7)), []);
    assert_eq!(bench.ask(&con(7)), [], "safety is pending");
    let answers = bench.safe(0);
    bench.pass(Duration::from_secs(246));
    assert_eq!(bench.ask(&con(7)), answers);
    assert_eq!(bench.published.len(), 1);
    let stats = bench.coap.stats();
    assert_eq!((stats.received, stats.repeated, stats.acknowledged), (3, 2, 1));
}

#[test]
fn a_repeated_con_after_the_empty_ack_gets_the_empty_ack_again() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    bench.next();
    assert_eq!(bench.ask(&con(7)), [Answer::empty(Kind::Acknowledgement, 7)]);
    bench.safe(0);
    assert_eq!(bench.ask(&con(7)), [Answer::empty(Kind::Acknowledgement, 7)]);
    assert_eq!(bench.published.len(), 1);
}

#[test]
fn a_message_id_may_come_again_after_the_exchange_lifetime() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    bench.safe(0);
    bench.pass(Duration::from_secs(247));
    assert_eq!(bench.coap.stats().peers, 0, "forgotten");
    bench.ask(&con(7));
    assert_eq!(bench.published.len(), 2);
}

#[test]
fn the_same_message_id_with_another_payload_is_a_rebooted_device() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    let other = write(Kind::Confirmable, Code::POST, 7, &TOPIC, &[], b"22.0");
    bench.ask(&other);
    assert_eq!(bench.published.len(), 2);
    assert_eq!(bench.safe(0), [], "the old answer would be taken for the new one's");
    assert_eq!(bench.safe(1).len(), 1);
}

#[test]
fn the_same_datagram_from_another_address_is_another_message() {
    let mut bench = Bench::new();
    bench.ask(&con(7));
    bench.from(endpoint("127.0.0.1:40001"), &con(7));
    assert_eq!(bench.published.len(), 2);
}

#[test]
fn a_peer_with_too_much_in_progress_is_told_to_wait_and_loses_nothing() {
    let limits = Limits { coap_exchanges_per_peer: 2, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    bench.ask(&con(1));
    bench.ask(&con(2));
    let refused = bench.ask(&con(3));
    assert_eq!(refused[0].code, Code::TOO_MANY_REQUESTS);
    assert!(refused[0].max_age.is_some());
    assert_eq!(bench.ask(&non(4)), []);
    assert_eq!(bench.coap.stats().dropped, 1);
    bench.safe(0);
    assert_eq!(bench.ask(&con(3)), [], "there is room now");
    assert_eq!(bench.ask(&con(2)), [], "still known");
    assert_eq!(bench.published.len(), 3);
}

#[test]
fn the_oldest_idle_peer_is_forgotten_for_a_new_one_but_never_one_in_progress() {
    let limits = Limits { coap_peers: 2, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    let peers: Vec<Endpoint> = (1..=4).map(|port| endpoint(&format!("127.0.0.1:{port}"))).collect();
    bench.from(peers[0], &con(1));
    bench.pass(Duration::from_millis(1));
    bench.from(peers[1], &con(1));
    bench.safe(1);
    bench.from(peers[2], &con(1));
    assert_eq!(bench.coap.stats().peers, 2);
    assert_eq!(bench.published.len(), 3);
    bench.from(peers[0], &con(1));
    assert_eq!(bench.published.len(), 3, "the first is still known");
    bench.sent.clear();
    bench.from(peers[3], &con(1));
    assert_eq!(bench.answers()[0].code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(bench.safe(0).len(), 1);
    bench.from(peers[3], &con(1));
    assert_eq!(bench.published.len(), 4);
}

#[test]
fn memory_is_bounded_whoever_comes() {
    let limits = Limits { coap_peers: 8, coap_exchanges_per_peer: 4, ..Limits::default() };
    let mut bench = Bench::with(Anonymous::Everywhere, limits);
    for round in 0..200_u16 {
        let peer = endpoint(&format!("192.0.2.{}:{}", round % 50, 1000 + round));
        for id in 0..6 {
            bench.from(peer, &non(id));
        }
        bench.pass(Duration::from_millis(10));
        assert!(bench.coap.stats().peers <= 8);
    }
    bench.pass(Duration::from_secs(247));
    assert_eq!(bench.coap.stats().peers, 0);
    assert_eq!(bench.coap.timeout(), None);
}

#[test]
#[cfg(feature = "mutants")]
fn the_planted_defect_publishes_twice() {
    let mut bench = Bench::new();
    bench.coap.plant(Planted::with(crate::mutant::Mutant::CoapNoDedupe));
    bench.ask(&con(7));
    bench.ask(&con(7));
    assert_eq!(bench.published.len(), 2);
}

// ---------------------------------------------------------------------------------------------- holding

#[test]
fn while_holding_a_con_is_told_when_to_come_again_and_a_non_is_dropped() {
    let mut bench = Bench::new();
    bench.ask(&con(1));
    bench.coap.hold(true);
    let refused = bench.ask(&con(2));
    assert_eq!(refused[0].code, Code::SERVICE_UNAVAILABLE);
    assert!((5..=10).contains(&refused[0].max_age.unwrap()));
    assert_eq!(bench.ask(&non(3)), []);
    assert_eq!(bench.coap.stats().dropped, 1);
    assert_eq!(bench.ask(&con(1)), [], "known before, and still pending");
    bench.coap.hold(false);
    assert_eq!(bench.ask(&con(2)), refused, "a late copy of what was refused is not taken");
    bench.ask(&con(4));
    assert_eq!(bench.published.len(), 2);
}

// ------------------------------------------------------------------------------------------ the protocol

#[test]
fn a_ping_is_answered_with_a_reset() {
    assert_eq!(Bench::new().ask(&[0x40, 0, 0x12, 0x34]), [Answer::empty(Kind::Reset, 0x1234)]);
}

#[test]
fn malformed_cons_are_reset_and_everything_else_malformed_is_ignored() {
    let reset = [Answer::empty(Kind::Reset, 1)];
    for bytes in [
        &[0x49, 0x02, 0, 1][..],   // token length 9
        &[0x44, 0x02, 0, 1, 9],    // token cut off
        &[0x40, 0x02, 0, 1, 0xFF], // marker without payload
        &[0x40, 0x02, 0, 1, 0xF0], // reserved delta
        &[0x40, 0x00, 0, 1, 0x01], // an empty message with something in it
        &[0x40, 0x22, 0, 1],       // reserved class 1
        &[0x40, 0x45, 0, 1],       // a response to nothing
    ] {
        assert_eq!(Bench::new().ask(bytes), reset, "{bytes:02x?}");
        let as_non = [&[bytes[0] | 0x10], &bytes[1..]].concat();
        assert_eq!(Bench::new().ask(&as_non), [], "{as_non:02x?}");
    }
    for bytes in
        [&[][..], &[0x40], &[0x40, 2, 0], &[0x80, 2, 0, 1], &[0, 2, 0, 1], &[0x60, 2, 0, 1], &[0x70, 2, 0, 1]]
    {
        assert_eq!(Bench::new().ask(bytes), [], "{bytes:02x?}");
    }
}

#[test]
fn addresses_that_cannot_be_answered_are_not() {
    let mut bench = Bench::with(Anonymous::Everywhere, Limits::default());
    for address in ["127.0.0.1:0", "255.255.255.255:9", "224.0.1.187:5683", "0.0.0.0:9", "[ff02::fd]:5683"] {
        bench.from(endpoint(address), &con(1));
    }
    assert!(bench.sent.is_empty() && bench.published.is_empty());
    assert_eq!(bench.coap.stats().refused, 5);
}

#[test]
fn critical_options_that_are_not_understood_are_refused() {
    let bad = Some(Code::BAD_OPTION);
    assert_eq!(post(&TOPIC, &[(Number(2049), b"")]), bad);
    assert_eq!(post(&TOPIC, &[(Number::IF_MATCH, b"")]), bad);
    assert_eq!(post(&TOPIC, &[(Number::OSCORE, b"\x01")]), bad);
    assert_eq!(post(&TOPIC, &[(Number::URI_HOST, b"")]), bad, "too short");
    assert_eq!(post(&TOPIC, &[(Number::URI_PORT, b"\x01"), (Number::URI_PORT, b"\x02")]), bad, "twice");
    assert_eq!(post(&TOPIC, &[(Number::BLOCK1, &[0x0E])]), bad, "blocks are not supported");
    assert_eq!(post(&TOPIC, &[(Number::BLOCK1, &[0x0F])]), Some(Code::BAD_REQUEST), "size 7");
    assert_eq!(post(&TOPIC, &[(Number::PROXY_URI, b"coap://a")]), Some(Code::PROXYING_NOT_SUPPORTED));
    assert_eq!(post(&TOPIC, &[(Number::PROXY_SCHEME, b"coap")]), Some(Code::PROXYING_NOT_SUPPORTED));
    // A NON is not answered for it, and not taken.
    let mut bench = Bench::new();
    assert_eq!(
        bench.ask(&write(Kind::NonConfirmable, Code::POST, 1, &TOPIC, &[(Number(2049), b"")], b"")),
        []
    );
    assert!(bench.published.is_empty());
}

#[test]
fn elective_options_and_queries_that_are_not_understood_are_passed_over() {
    let mut bench = Bench::new();
    let options: [(Number, &[u8]); 8] = [
        (Number::URI_HOST, b"gateway"),
        (Number::URI_PORT, &[0x16, 0x33]),
        (Number::OBSERVE, b"too long"),
        (Number::CONTENT_FORMAT, &[0, 0, 60]),
        (Number::URI_QUERY, b"hono-ttd=5"),
        (Number::URI_QUERY, &[0xFF]),
        (Number::ACCEPT, &[60]),
        (Number(2048), b"?"),
    ];
    bench.ask(&write(Kind::Confirmable, Code::POST, 1, &TOPIC, &options, b"x"));
    assert_eq!(bench.published.len(), 1);
    assert_eq!(bench.published[0].0.properties, None);
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    assert_eq!(post(&[], &[]), Some(Code::NOT_FOUND));
    assert_eq!(post(&[b"nowhere"], &[]), Some(Code::NOT_FOUND));
    assert_eq!(post(&[b"t"], &[]), Some(Code::NOT_FOUND));
    assert_eq!(post(&[b".well-known", b"core"], &[]), Some(Code::METHOD_NOT_ALLOWED));
    for code in [Code::GET, Code::DELETE, Code::FETCH, Code(0x1F)] {
        let bytes = write(Kind::Confirmable, code, 1, &TOPIC, &[], b"");
        assert_eq!(code_of(&bytes), Some(Code::METHOD_NOT_ALLOWED));
    }
}

#[test]
fn a_path_never_becomes_a_wildcard_or_somebody_elses_level() {
    for segment in [
        &b""[..],
        b".",
        b"..",
        b"a/b",
        b"+",
        b"#",
        b"a+",
        b"a#",
        b"\0",
        b"a\x1B",
        b"a\x7F",
        b"\xC2\x85",
        b"\xED\xA0\x80",
        b"\xFF",
    ] {
        assert_eq!(post(&[b"t", b"sensors", segment, b"x"], &[]), Some(Code::BAD_REQUEST), "{segment:02x?}");
    }
    assert_eq!(post(&[b"t", b"a", b""], &[]), Some(Code::BAD_REQUEST), "a slash at the end");
    assert_eq!(post(&[b"t", b"$SYS", b"a"], &[]), Some(Code::FORBIDDEN));
    let many: Vec<&[u8]> = std::iter::once(&b"t"[..]).chain(std::iter::repeat_n(&b"a"[..], 17)).collect();
    assert_eq!(post(&many, &[]), Some(Code::BAD_REQUEST));
    assert_eq!(post(&many[..17], &[]), None, "taken");
    let long = [b'a'; 255];
    assert_eq!(post(&[b"t", &long, &long, b"a"], &[]), Some(Code::BAD_REQUEST));
}

#[test]
fn what_is_too_large_is_refused_with_the_size_that_would_fit() {
    let mut bench = Bench::new();
    let overhead = con(1).len() - b"21.5".len();
    let body = vec![b'x'; 1_281 - overhead];
    let answers = bench.ask(&write(Kind::Confirmable, Code::POST, 1, &TOPIC, &[], &body));
    assert_eq!(answers[0].code, Code::REQUEST_ENTITY_TOO_LARGE);
    let room = usize::try_from(answers[0].size1.unwrap()).unwrap();
    assert_eq!(room, body.len() - 1);
    assert_eq!(bench.ask(&write(Kind::Confirmable, Code::POST, 2, &TOPIC, &[], &body[..room])), []);
    assert_eq!(bench.published.len(), 1);
    let claimed: [(Number, &[u8]); 1] = [(Number::SIZE1, &[0xFF; 4])];
    let answers = bench.ask(&write(Kind::Confirmable, Code::POST, 3, &TOPIC, &claimed, b"x"));
    assert_eq!(answers[0].code, Code::REQUEST_ENTITY_TOO_LARGE);
}

// ------------------------------------------------------------------------------------------- properties

#[test]
fn content_format_and_queries_become_properties() {
    let properties = |options: &[(Number, &[u8])]| {
        let mut bench = Bench::new();
        bench.ask(&write(Kind::Confirmable, Code::POST, 1, &TOPIC, options, b"x"));
        let incoming = bench.published.remove(0).0;
        (incoming.retain, incoming.properties.unwrap_or_default())
    };
    let format = |value: &[u8]| {
        let (_, properties) = properties(&[(Number::CONTENT_FORMAT, value)]);
        (properties.content_type, properties.content_format)
    };
    assert_eq!(format(b""), (Some("text/plain; charset=utf-8".to_owned()), None));
    for number in [0_u8, 40, 41, 42, 47, 50, 60, 110, 112] {
        assert_eq!(format(&[number]).0.as_deref(), content::media_type(number.into()));
        assert!(format(&[number]).0.is_some());
    }
    assert_eq!(format(&[0x2D, 0x16]), (None, Some(11_542)));
    let (retain, properties) =
        properties(&[(Number::URI_QUERY, b"retain=true"), (Number::URI_QUERY, b"expiry=90")]);
    assert!(retain);
    assert_eq!(properties.expiry_seconds, Some(90));
    assert_eq!(post(&TOPIC, &[(Number::URI_QUERY, b"expiry=soon")]), Some(Code::BAD_REQUEST));
    assert_eq!(post(&TOPIC, &[(Number::URI_QUERY, b"retain=perhaps")]), Some(Code::BAD_REQUEST));
}

#[test]
fn a_device_is_named_by_its_topic_or_else_by_its_address() {
    let device = |peer: &str, path: &[&[u8]]| {
        let mut bench = Bench::with(Anonymous::Everywhere, Limits::default());
        bench.from(endpoint(peer), &write(Kind::Confirmable, Code::POST, 1, path, &[], b"x"));
        bench.published.remove(0).0.device.as_str().to_owned()
    };
    assert_eq!(device("192.0.2.7:1", &[b"t", b"sensors", b"pump-1"]), "pump-1");
    assert_eq!(device("192.0.2.7:1", &[b"t", b"sensors", b"pump 1"]), "192.0.2.7");
    assert_eq!(device("[::ffff:192.0.2.7]:1", &[b"t", b"alarms"]), "192.0.2.7");
    assert_eq!(device("[2001:db8::1]:1", &[b"t", b"alarms"]), "2001:db8::1");
}

// ---------------------------------------------------------------------------------------------- access

#[test]
fn strangers_are_refused_and_reported() {
    for (anonymous, address, welcome) in [
        (Anonymous::Never, "127.0.0.1:1", false),
        (Anonymous::Loopback, "127.0.0.1:1", true),
        (Anonymous::Loopback, "[::1]:1", true),
        (Anonymous::Loopback, "[::ffff:127.0.0.1]:1", true),
        (Anonymous::Loopback, "192.0.2.1:1", false),
        (Anonymous::Everywhere, "192.0.2.1:1", true),
    ] {
        let mut bench = Bench::with(anonymous, Limits::default());
        bench.from(endpoint(address), &con(1));
        assert_eq!(bench.published.len(), usize::from(welcome), "{anonymous:?} {address}");
        assert_eq!(bench.notices.len(), usize::from(!welcome));
        let codes: Vec<Code> = bench.answers().iter().map(|answer| answer.code).collect();
        assert_eq!(codes, if welcome { vec![] } else { vec![Code::UNAUTHORIZED] });
    }
}

#[test]
fn a_reload_changes_who_may_come() {
    let mut bench = Bench::new();
    bench.coap.reload(&setup(Anonymous::Never, Limits::default()));
    assert_eq!(bench.ask(&con(1))[0].code, Code::UNAUTHORIZED);
}

// ------------------------------------------------------------------------------------------- discovery

#[test]
fn discovery_lists_filters_and_cuts_into_blocks() {
    let get = |options: &[(Number, &[u8])]| {
        let bytes = write(Kind::Confirmable, Code::GET, 1, &[b".well-known", b"core"], options, b"");
        Bench::new().ask(&bytes).remove(0)
    };
    let text = |options: &[(Number, &[u8])]| String::from_utf8(get(options).payload).unwrap();
    assert_eq!(text(&[]), "</t>;rt=topic,</ps>;rt=core.ps");
    assert_eq!(text(&[(Number::URI_QUERY, b"rt=core.*")]), "</ps>;rt=core.ps");
    assert_eq!(text(&[(Number::URI_QUERY, b"href=/t")]), "</t>;rt=topic");
    assert_eq!(text(&[(Number::URI_QUERY, b"rt=light")]), "");
    assert_eq!(get(&[(Number::ACCEPT, &[50])]).code, Code::NOT_ACCEPTABLE);
    assert_eq!(get(&[(Number::ACCEPT, &[40])]).code, Code::CONTENT);
    let block = |number| u8::try_from(Block { number, more: false, exponent: 0 }.to_uint()).unwrap();
    assert_eq!(text(&[(Number::BLOCK2, &[block(0)])]), "</t>;rt=topic,</");
    assert_eq!(text(&[(Number::BLOCK2, &[block(1)])]), "ps>;rt=core.ps");
    assert_eq!(get(&[(Number::BLOCK2, &[block(2)])]).code, Code::BAD_REQUEST);
}

#[test]
fn no_answer_has_more_than_three_times_the_bytes_of_its_request() {
    // The shortest requests there are, without tokens: a forged source gains nothing by them.
    let mut requests =
        vec![vec![0x40, 1, 0, 1], vec![0x50, 1, 0, 1], vec![0x40, 2, 0, 1], vec![0x40, 2, 0, 1, 0x20]];
    for path in [&[&b".well-known"[..], b"core"][..], &[b"t"], &[b"x"], &[b"t", b"+"], &[b"t", b"$"]] {
        for code in [Code::GET, Code::POST] {
            let mut buffer = [0; 64];
            let header = Header { kind: Kind::Confirmable, code, message_id: 1 };
            let mut writer = Writer::new(&mut buffer, header, Token::EMPTY);
            for segment in path {
                writer = writer.option(Number::URI_PATH, segment);
            }
            requests.push(writer.finish().unwrap().to_vec());
        }
    }
    for anonymous in [Anonymous::Never, Anonymous::Everywhere] {
        for request in &requests {
            let mut bench = Bench::with(anonymous, Limits::default());
            bench.from(bench.device, request);
            for (_, answer) in &bench.sent {
                assert!(answer.len() <= 3 * request.len(), "{request:02x?} gets {answer:02x?}");
            }
        }
    }
}
