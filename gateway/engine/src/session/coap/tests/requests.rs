//! What requests may say, who may say it, and what else is refused.

use super::{Answer, Bench, TOPIC, code_of, con, endpoint, post, setup, write};
use crate::event::{Anonymous, Notice};
use crate::limits::Limits;
use tidegate_wire::coap::{
    Block, Code, Header, Kind, Message, OptionNumber as Number, Token, Writer, content,
};
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
    assert_eq!(post(&TOPIC, &[(Number::IF_MATCH, b"too long!")]), bad);
    assert_eq!(post(&TOPIC, &[(Number::OSCORE, b"\x01")]), bad);
    assert_eq!(post(&TOPIC, &[(Number::URI_HOST, b"")]), bad, "too short");
    assert_eq!(post(&TOPIC, &[(Number::URI_PORT, b"\x01"), (Number::URI_PORT, b"\x02")]), bad, "twice");
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
fn a_thousand_options_are_refused_at_once() {
    for first in [0x00, 0x10, 0x40, 0xD0] {
        // A thousand empty options of one number: 0, If-Match, ETag, or one that nobody knows.
        let mut bytes = vec![0x40, 0x02, 0, 1, first];
        if first == 0xD0 {
            bytes.push(200);
        }
        bytes.extend([0; 1_000]);
        assert_eq!(code_of(&bytes), Some(Code::BAD_OPTION), "{first:02x}");
    }
    let mut path = vec![0x40, 0x02, 0, 1, 0xB1, b't'];
    path.extend([0x01, b'a'].repeat(300));
    assert_eq!(code_of(&path), Some(Code::BAD_REQUEST));
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
    for code in [Code::FETCH, Code::PATCH, Code::IPATCH, Code(0x1F)] {
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
    assert_eq!(answers[0].size1, Some(1 << 20), "in blocks");
    let room = body.len() - 1;
    assert_eq!(bench.ask(&write(Kind::Confirmable, Code::POST, 2, &TOPIC, &[], &body[..room])), []);
    assert_eq!(bench.published.len(), 1);
    let claimed: [(Number, &[u8]); 1] = [(Number::SIZE1, &[0xFF; 4])];
    let answers = bench.ask(&write(Kind::Confirmable, Code::POST, 3, &TOPIC, &claimed, b"x"));
    assert_eq!(answers[0].code, Code::REQUEST_ENTITY_TOO_LARGE);
}

#[test]
fn what_is_refused_says_why_in_words_without_a_format() {
    let mut bench = Bench::new();
    let device = bench.device;
    for path in [&[&b"nowhere"[..]][..], &[b"t", b"$SYS"], &[b"t", b"+"]] {
        let answer =
            bench.ask_raw(device, &write(Kind::Confirmable, Code::POST, 1, path, &[], b"x")).remove(0);
        let message = Message::parse(&answer).unwrap();
        assert!(
            message.code().class() == 4
                && core::str::from_utf8(message.payload()).is_ok_and(|text| text.len() > 10)
        );
        assert_eq!(message.option(Number::CONTENT_FORMAT), None);
    }
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
        let refused = |notice: &Notice| matches!(notice, Notice::SignInRefused { .. });
        assert_eq!(bench.notices.iter().filter(|notice| refused(notice)).count(), usize::from(!welcome));
        let codes: Vec<Code> = bench.answers().iter().map(|answer| answer.code).collect();
        assert_eq!(codes, if welcome { vec![] } else { vec![Code::UNAUTHORIZED] });
    }
}

#[test]
fn a_reload_changes_who_may_come() {
    let mut bench = Bench::new();
    bench.coap.reload(bench.now, &setup(Anonymous::Never, Limits::default()));
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
    let all = concat!(
        "</t>;rt=topic;obs,</ps>;rt=core.ps;obs,</telemetry>;rt=publish,</event>;rt=publish,",
        "</command>;rt=command;obs,</command_response>;rt=answer,</time>;rt=time"
    );
    assert_eq!(text(&[]), all);
    assert_eq!(text(&[(Number::URI_QUERY, b"rt=core.*")]), "</ps>;rt=core.ps;obs");
    assert_eq!(text(&[(Number::URI_QUERY, b"href=/t")]), "</t>;rt=topic;obs");
    assert_eq!(text(&[(Number::URI_QUERY, b"rt=light")]), "");
    assert_eq!(get(&[(Number::ACCEPT, &[50])]).code, Code::NOT_ACCEPTABLE);
    assert_eq!(get(&[(Number::ACCEPT, &[40])]).code, Code::CONTENT);
    let block = |number| u8::try_from(Block { number, more: false, exponent: 0 }.to_uint()).unwrap();
    assert_eq!(text(&[(Number::BLOCK2, &[block(0)])]), all[..16]);
    assert_eq!(text(&[(Number::BLOCK2, &[block(1)])]), all[16..32]);
    assert_eq!(get(&[(Number::BLOCK2, &[block(10)])]).code, Code::BAD_REQUEST);
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
            bench.from(endpoint("192.0.2.7:40000"), request);
            for (_, answer) in &bench.sent {
                assert!(answer.len() <= 3 * request.len(), "{request:02x?} gets {answer:02x?}");
            }
        }
    }
}
