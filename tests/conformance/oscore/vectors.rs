//! The messages of RFC 8613, C.4 to C.8, byte for byte and in both directions. The keys of C.1 to C.3 are held beside
//! the code that makes them.

use crate::{BUFFER, hex, view};
use tidegate_oscore::{Context, Header, Opened, Parameters, PartialIv, Replay, Sequence, Session};

/// Salt, ID Context, the client's id; the plain request, the protected one, the server's id being 01 in all.
const REQUESTS: [(&str, Option<&str>, &str, &str, &str); 3] = [
    (
        "9e7ca92223786340",
        None,
        "",
        "44015d1f00003974396c6f63616c686f737483747631",
        "44025d1f00003974396c6f63616c686f7374620914ff612f1092f1776f1c1668b3825e",
    ),
    (
        "",
        None,
        "00",
        "440171c30000b932396c6f63616c686f737483747631",
        "440271c30000b932396c6f63616c686f737463091400ff4ed339a5a379b0b8bc731fffb0",
    ),
    (
        "9e7ca92223786340",
        Some("37cbf3210017a2d3"),
        "",
        "44012f8eef9bbf7a396c6f63616c686f737483747631",
        "44022f8eef9bbf7a396c6f63616c686f73746b19140837cbf3210017a2d3ff72cd7273fd331ac45cffbe55c3",
    ),
];

fn ends(salt: &str, id_context: Option<&str>, client_id: &str) -> (Session, Session) {
    let (secret, salt) = (hex("0102030405060708090a0b0c0d0e0f10"), hex(salt));
    let (id_context, client_id) = (id_context.map(hex), hex(client_id));
    let client = Parameters {
        master_secret: &secret,
        master_salt: &salt,
        id_context: id_context.as_deref(),
        sender_id: &client_id,
        recipient_id: &[1],
    };
    let server = Parameters { sender_id: &[1], recipient_id: &client_id, ..client };
    let end = |parameters, next| {
        let sequence = Sequence::reserved(next, next + 10);
        Session::new(Context::derive(&parameters).unwrap(), sequence, Replay::fresh())
    };
    (end(client, 20), end(server, 0))
}

#[test]
fn requests_are_protected_as_in_c4_to_c6_and_opened_again() {
    for (salt, id_context, id, plain, sealed) in REQUESTS {
        let (mut client, mut server) = ends(salt, id_context, id);
        let (plain, sealed) = (hex(plain), hex(sealed));
        let mut buffer = [0; BUFFER];
        let (written, exchange) = client.protect_request(&view(&plain), &mut buffer).unwrap();
        assert_eq!(written, sealed);
        assert_eq!(exchange.request().get(), 20);
        let mut buffer = [0; BUFFER];
        let Ok(Opened::Request { datagram, .. }) = server.open_request(&view(&sealed), &mut buffer) else {
            panic!("{sealed:?} is refused");
        };
        // Uri-Host stays outside; the path was inside.
        let opened = view(datagram);
        assert_eq!(opened.code(), view(&plain).code());
        assert_eq!(opened.token(), view(&plain).token());
        assert_eq!(opened.options().map(|option| option.value).collect::<Vec<_>>(), [b"tv1"]);
    }
}

#[test]
fn responses_are_protected_as_in_c7_and_c8_and_opened_again() {
    let (salt, id_context, id, request, sealed_request) = REQUESTS[0];
    let plain = hex("64455d1f00003974ff48656c6c6f20576f726c6421");
    let (mut client, mut server) = ends(salt, id_context, id);
    let mut buffer = [0; BUFFER];
    let request = hex(request);
    let (_, asked) = client.protect_request(&view(&request), &mut buffer).unwrap();
    let mut buffer = [0; BUFFER];
    let Ok(Opened::Request { mut exchange, .. }) =
        server.open_request(&view(&hex(sealed_request)), &mut buffer)
    else {
        panic!("refused");
    };
    let expected = [
        "64445d1f0000397490ffdbaad1e9a7e7b2a813d3c31524378303cdafae119106",
        // A second answer must not be given under the same nonce: it gets the server's number 0, which is C.8.
        "64445d1f00003974920100ff4d4c13669384b67354b2b6175ff4b8658c666a6cf88e",
    ];
    for sealed in expected {
        let mut buffer = [0; BUFFER];
        let written = server.protect_response(&mut exchange, &view(&plain), &mut buffer).unwrap();
        assert_eq!(written, hex(sealed));
        let mut opened = [0; BUFFER];
        assert_eq!(client.open_response(&asked, None, &view(written), &mut opened), Ok(&plain[..]));
    }
}

#[test]
fn the_option_is_compressed_as_in_the_examples_of_6_3() {
    let examples: [(&str, Header<'_>); 5] = [
        ("090525", Header { partial_iv: PartialIv::new(5), kid: Some(&[0x25]), kid_context: None }),
        ("0900", Header { partial_iv: PartialIv::new(0), kid: Some(&[]), kid_context: None }),
        (
            "19050544616c656b",
            Header { partial_iv: PartialIv::new(5), kid: Some(&[]), kid_context: Some(b"Dalek") },
        ),
        ("", Header::default()),
        ("0107", Header { partial_iv: PartialIv::new(7), kid: None, kid_context: None }),
    ];
    for (value, header) in examples {
        assert_eq!(Header::parse(&hex(value)), Ok(header), "{value}");
    }
}

#[test]
fn a_malformed_option_is_refused() {
    // Reserved bits; reserved lengths of the Partial IV; a Partial IV cut off or with a zero in front; a kid context cut
    // off or without its length; bytes that nothing announces; flags of zero written out.
    let malformed = [
        "2914",
        "4914",
        "8914",
        "0e010203040506",
        "0f01020304050607",
        "0a14",
        "0a0014",
        "19",
        "1914",
        "191402ff",
        "0114ff",
        "00",
    ];
    for value in malformed {
        assert!(Header::parse(&hex(value)).is_err(), "{value}");
    }
}
