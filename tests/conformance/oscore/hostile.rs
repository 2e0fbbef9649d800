//! What somebody on the way can do: change, repeat, invent. Nothing of it is taken, and nothing panics.

use crate::{BUFFER, answer, ask, client, message, server, take, view};
use proptest::prelude::*;
use tidegate_oscore::{Context, Header, Parameters, Refusal};
use tidegate_wire::coap::{Code, Message, OptionNumber};

/// All messages that differ in one bit behind the token.
fn flipped(datagram: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let behind_token = 4 + view(datagram).token().as_bytes().len();
    (behind_token * 8..datagram.len() * 8).map(|bit| {
        let mut changed = datagram.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    })
}

#[test]
fn a_request_of_which_one_bit_was_changed_is_refused() {
    let plain = message(Code::POST, &[(11, b"t"), (11, b"boiler-3")], b"71.5");
    let (mut client, mut server) = (client(), server());
    let (sealed, _) = ask(&mut client, &plain);
    let mut parsed = 0;
    for changed in flipped(&sealed) {
        let Ok(changed) = Message::parse(&changed) else { continue };
        parsed += 1;
        assert!(server.open_request(&changed, &mut [0; BUFFER]).is_err(), "{changed:?}");
    }
    assert!(parsed > 100);
    // None of them has used the number up.
    assert_eq!(take(&mut server, &sealed).0, plain);
}

#[test]
fn a_response_of_which_one_bit_was_changed_is_refused() {
    let (mut client, mut server) = (client(), server());
    let (sealed, asked) = ask(&mut client, &message(Code::GET, &[(11, b"t")], b""));
    let (_, mut got) = take(&mut server, &sealed);
    for _ in 0..2 {
        let reply = answer(&mut server, &mut got, &message(Code::CONTENT, &[(12, b"2")], b"71.5"));
        for changed in flipped(&reply) {
            let Ok(changed) = Message::parse(&changed) else { continue };
            assert!(client.open_response(&asked, None, &changed, &mut [0; BUFFER]).is_err(), "{changed:?}");
        }
        assert!(client.open_response(&asked, None, &view(&reply), &mut [0; BUFFER]).is_ok());
    }
}

#[test]
fn refusals_are_said_in_the_words_of_the_standard() {
    for (refusal, code, text) in [
        (Refusal::Malformed, Code::BAD_OPTION, "Failed to decode COSE"),
        (Refusal::UnknownContext, Code::UNAUTHORIZED, "Security context not found"),
        (Refusal::Replay, Code::UNAUTHORIZED, "Replay detected"),
        (Refusal::Decryption, Code::BAD_REQUEST, "Decryption failed"),
    ] {
        assert_eq!((refusal.code(), refusal.diagnostic()), (code, text));
    }
}

#[test]
fn each_fault_gets_its_own_refusal() {
    let plain = message(Code::POST, &[(11, b"t")], b"1");
    let (mut client, mut server) = (client(), server());
    let (sealed, _) = ask(&mut client, &plain);
    take(&mut server, &sealed);
    let mut open = |datagram: &[u8]| server.open_request(&view(datagram), &mut [0; BUFFER]).unwrap_err();
    assert_eq!(open(&sealed), Refusal::Replay);
    let with =
        |option: &[u8], payload: &[u8]| message(Code::POST, &[(OptionNumber::OSCORE.0, option)], payload);
    assert_eq!(open(&plain), Refusal::Malformed, "no option");
    assert_eq!(open(&with(&[9, 1], b"")), Refusal::Malformed, "no ciphertext");
    assert_eq!(open(&with(&[9, 1], b"12345678")), Refusal::Malformed, "a tag alone");
    assert_eq!(open(&with(&[8], b"123456789")), Refusal::Malformed, "no number");
    assert_eq!(open(&with(&[1, 1], b"123456789")), Refusal::Malformed, "no id");
    assert_eq!(open(&with(&[9, 1, 2], b"123456789")), Refusal::UnknownContext);
    assert_eq!(open(&with(&[0x19, 1, 1, 2], b"123456789")), Refusal::UnknownContext, "another ID Context");
    assert_eq!(open(&with(&[9, 1], b"123456789")), Refusal::Decryption);
    let twice = message(Code::POST, &[(9, &[9, 1]), (9, &[9, 1])], b"123456789");
    assert_eq!(open(&twice), Refusal::Malformed, "two options");
}

#[test]
fn no_key_is_printed() {
    let secret = [0xA7; 16];
    let parameters = Parameters {
        master_secret: &secret,
        master_salt: &[0xA7; 8],
        sender_id: &[1],
        recipient_id: &[2],
        ..Parameters::default()
    };
    let context = Context::derive(&parameters).unwrap();
    let printed = format!("{parameters:?} {context:?} {:?}", server());
    assert!(!printed.contains("a7a7") && !printed.contains("167, 167"), "{printed}");
    assert!(printed.contains("..") && !printed.contains("key"), "{printed}");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        option in prop::collection::vec(any::<u8>(), 0..20),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        known in any::<bool>(),
        buffer in 0_usize..80,
    ) {
        let _ = Header::parse(&option);
        // Half of them name the context and have a good number, to come as far as the decryption.
        let option = if known { vec![9, 1] } else { option };
        let mut buffer = vec![0; buffer];
        let request = message(Code::POST, &[(OptionNumber::OSCORE.0, &option)], &payload);
        prop_assert!(server().open_request(&view(&request), &mut buffer).is_err());
        let response = message(Code::CHANGED, &[(OptionNumber::OSCORE.0, &option)], &payload);
        let (_, asked) = ask(&mut client(), &message(Code::GET, &[], b""));
        prop_assert!(client().open_response(&asked, None, &view(&response), &mut buffer).is_err());
    }
}
