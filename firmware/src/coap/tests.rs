//! The publisher's duties one by one; that it and the gateway understand each other is shown in `tests`.

extern crate std;

use super::{Event, Method, Publication, PublishError, Publisher};
use std::vec;
use std::vec::Vec;
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer, content};

const SECOND: u64 = 1_000_000;
const PATH: [&str; 2] = ["t", "a"];

/// A publisher with a CON under way that has been sent once at time 0, and what was sent.
fn sent() -> (Publisher<[u8; 64]>, Token, Vec<u8>) {
    let mut publisher = Publisher::new([0; 64], 7);
    let token = publisher.publish(0, &Publication::confirmable(&PATH, b"21.5")).unwrap();
    let datagram = publisher.poll_transmit(0).unwrap().to_vec();
    assert_eq!(publisher.poll_transmit(0), None);
    (publisher, token, datagram)
}

fn id(datagram: &[u8]) -> u16 {
    Message::parse(datagram).unwrap().message_id()
}

fn answer(kind: Kind, code: Code, message_id: u16, token: Token, max_age: Option<u32>) -> Vec<u8> {
    let mut buffer = [0; 32];
    let mut writer = Writer::new(&mut buffer, Header { kind, code, message_id }, token);
    if let Some(seconds) = max_age {
        writer = writer.uint(OptionNumber::MAX_AGE, seconds);
    }
    writer.finish().unwrap().to_vec()
}

fn ack(datagram: &[u8], code: Code, token: Token) -> Vec<u8> {
    answer(Kind::Acknowledgement, code, id(datagram), token, None)
}

#[test]
fn a_publication_is_written_as_asked() {
    let mut publisher = Publisher::new([0; 64], 7);
    let publication = Publication {
        method: Method::Put,
        content_format: Some(content::JSON),
        ..Publication::confirmable(&["t", "sensors", "a"], b"{}")
    };
    let token = publisher.publish(0, &publication).unwrap();
    let message = Message::parse(publisher.poll_transmit(0).unwrap()).unwrap();
    assert_eq!((message.kind(), message.code(), message.token()), (Kind::Confirmable, Code::PUT, token));
    assert_eq!(message.token().as_bytes().len(), 4);
    assert!(message.options_of(OptionNumber::URI_PATH).eq([&b"t"[..], b"sensors", b"a"]));
    assert_eq!(message.option_uint(OptionNumber::CONTENT_FORMAT), Some(50));
    assert_eq!(message.payload(), b"{}");
}

#[test]
fn a_con_goes_again_by_the_rfcs_timing_and_then_times_out() {
    let (mut publisher, token, first) = sent();
    let mut now = 0;
    let mut waits = Vec::new();
    loop {
        let due = publisher.poll_timeout().unwrap();
        assert_eq!(publisher.poll_transmit(due - 1), None);
        waits.push(due - now);
        now = due;
        match publisher.poll_transmit(now) {
            Some(again) => assert_eq!(again, first),
            None => break,
        }
    }
    assert!((2 * SECOND..=3 * SECOND).contains(&waits[0]));
    let doubled: Vec<u64> = (0..5).map(|power| waits[0] << power).collect();
    assert_eq!(waits, doubled, "five times in all, each wait twice the one before");
    assert_eq!(publisher.poll_event(), Some(Event::TimedOut { token }));
    assert!(publisher.is_ready());
    assert_eq!(publisher.poll_timeout(), None);
}

#[test]
fn a_piggybacked_answer_ends_it() {
    let (mut publisher, token, datagram) = sent();
    assert_eq!(publisher.publish(0, &Publication::confirmable(&PATH, b"")), Err(PublishError::Busy));
    publisher.handle_datagram(1, &ack(&datagram, Code::CHANGED, token));
    assert!(!publisher.is_ready(), "not before the event is polled");
    assert_eq!(publisher.poll_event(), Some(Event::Acknowledged { token }));
    let next = publisher.publish(2, &Publication::confirmable(&PATH, b"")).unwrap();
    assert_ne!(next, token);
    assert_eq!(id(publisher.poll_transmit(2).unwrap()), id(&datagram).wrapping_add(1));
}

#[test]
fn an_answer_with_another_id_or_token_is_not_believed() {
    let (mut publisher, token, datagram) = sent();
    let other = Token::new(&[0; 4]).unwrap();
    publisher.handle_datagram(1, &ack(&datagram, Code::CHANGED, other));
    let wrong = id(&datagram).wrapping_add(1);
    publisher.handle_datagram(1, &answer(Kind::Acknowledgement, Code::CHANGED, wrong, token, None));
    publisher.handle_datagram(1, &answer(Kind::NonConfirmable, Code::CHANGED, 1, other, None));
    publisher.handle_datagram(1, &answer(Kind::Reset, Code::EMPTY, wrong, Token::EMPTY, None));
    assert_eq!(publisher.poll_event(), None);
    assert_eq!(publisher.poll_transmit(1), None);
    publisher.handle_datagram(1, &answer(Kind::Confirmable, Code::CHANGED, 9, other, None));
    let reset = answer(Kind::Reset, Code::EMPTY, 9, Token::EMPTY, None);
    assert_eq!(publisher.poll_transmit(1), Some(&reset[..]));
}

#[test]
fn an_empty_ack_stops_the_resending_until_the_separate_answer_comes() {
    let (mut publisher, token, datagram) = sent();
    publisher.handle_datagram(SECOND, &ack(&datagram, Code::EMPTY, Token::EMPTY));
    assert_eq!(publisher.poll_timeout(), Some(94 * SECOND));
    assert_eq!(publisher.poll_transmit(93 * SECOND), None);
    let response = answer(Kind::Confirmable, Code::CHANGED, 9, token, None);
    let acknowledgement = answer(Kind::Acknowledgement, Code::EMPTY, 9, Token::EMPTY, None);
    publisher.handle_datagram(93 * SECOND, &response);
    assert_eq!(publisher.poll_event(), Some(Event::Acknowledged { token }));
    assert_eq!(publisher.poll_transmit(93 * SECOND), Some(&acknowledgement[..]));
    // Our ACK got lost: the answer comes again, even behind the next message.
    for _ in 0..2 {
        publisher.handle_datagram(94 * SECOND, &response);
        assert_eq!(publisher.poll_transmit(94 * SECOND), Some(&acknowledgement[..]));
        assert_eq!(publisher.poll_event(), None);
        if publisher.is_ready() {
            publisher.publish(94 * SECOND, &Publication::confirmable(&PATH, b"")).unwrap();
        }
    }
}

#[test]
fn without_a_separate_answer_it_times_out() {
    let (mut publisher, token, mut datagram) = sent();
    // With a token behind it, as some servers send.
    datagram.truncate(4);
    datagram[0] = 0x64;
    datagram[1] = 0;
    datagram.extend_from_slice(token.as_bytes());
    publisher.handle_datagram(SECOND, &datagram);
    assert_eq!(publisher.poll_transmit(94 * SECOND), None);
    assert_eq!(publisher.poll_event(), Some(Event::TimedOut { token }));
}

#[test]
fn an_answer_that_overtakes_its_ack_counts() {
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let (mut publisher, token, _) = sent();
        publisher.handle_datagram(1, &answer(kind, Code::CHANGED, 9, token, None));
        assert_eq!(publisher.poll_event(), Some(Event::Acknowledged { token }));
        assert_eq!(publisher.poll_transmit(1).is_some(), kind == Kind::Confirmable);
    }
}

#[test]
fn busy_gateways_are_waited_for_and_get_the_message_under_a_new_id() {
    for (code, max_age, seconds) in [
        (Code::SERVICE_UNAVAILABLE, Some(7), 7),
        (Code::TOO_MANY_REQUESTS, Some(0), 0),
        (Code::SERVICE_UNAVAILABLE, None, 60),
        (Code::SERVICE_UNAVAILABLE, Some(u32::MAX), 3_600),
    ] {
        let (mut publisher, token, datagram) = sent();
        publisher.handle_datagram(0, &answer(Kind::Acknowledgement, code, id(&datagram), token, max_age));
        assert_eq!(publisher.poll_event(), None);
        let due = publisher.poll_timeout().unwrap();
        assert!((seconds * SECOND..=(seconds + 1) * SECOND).contains(&due), "{due}");
        let again = publisher.poll_transmit(due).unwrap().to_vec();
        assert_eq!(id(&again), id(&datagram).wrapping_add(1));
        assert_eq!(again[4..], datagram[4..]);
        // A late copy of the refusal changes nothing.
        publisher.handle_datagram(due, &answer(Kind::Acknowledgement, code, id(&datagram), token, max_age));
        publisher.handle_datagram(due, &ack(&again, Code::CHANGED, token));
        assert_eq!(publisher.poll_event(), Some(Event::Acknowledged { token }));
    }
}

#[test]
fn refusals_and_resets_are_told() {
    let (mut publisher, token, datagram) = sent();
    publisher.handle_datagram(1, &ack(&datagram, Code::UNAUTHORIZED, token));
    assert_eq!(
        publisher.poll_event(),
        Some(Event::Refused { token, code: Code::UNAUTHORIZED, max_age: None })
    );
    let (mut publisher, token, datagram) = sent();
    publisher.handle_datagram(1, &answer(Kind::Reset, Code::EMPTY, id(&datagram), Token::EMPTY, None));
    assert_eq!(publisher.poll_event(), Some(Event::Refused { token, code: Code::EMPTY, max_age: None }));
}

#[test]
fn an_answer_with_a_critical_option_is_rejected() {
    let (mut publisher, token, _) = sent();
    let mut buffer = [0; 32];
    let header = Header { kind: Kind::Confirmable, code: Code::CHANGED, message_id: 9 };
    let response = Writer::new(&mut buffer, header, token).option(OptionNumber(2049), b"").finish().unwrap();
    publisher.handle_datagram(1, response);
    assert_eq!(publisher.poll_event(), None);
    assert_eq!(publisher.poll_transmit(1), Some(&[0x70, 0, 0, 9][..]));
}

#[test]
fn pings_are_answered_with_a_reset() {
    let mut publisher = Publisher::new([0; 64], 7);
    publisher.handle_datagram(0, &[0x40, 0, 1, 2]);
    assert_eq!(publisher.poll_timeout(), Some(0));
    assert_eq!(publisher.poll_transmit(0), Some(&[0x70, 0, 1, 2][..]));
}

#[test]
fn a_non_goes_once_and_its_answer_is_welcome() {
    let mut publisher = Publisher::new([0; 64], 7);
    let token = publisher.publish(0, &Publication::non_confirmable(&PATH, b"x")).unwrap();
    assert!(!publisher.is_ready());
    assert_eq!(publisher.poll_timeout(), Some(0));
    let datagram = publisher.poll_transmit(0).unwrap().to_vec();
    assert_eq!(Message::parse(&datagram).unwrap().kind(), Kind::NonConfirmable);
    assert!(publisher.is_ready(), "the next need not wait");
    assert_eq!(publisher.poll_transmit(1_000 * SECOND), None);
    publisher.handle_datagram(1, &answer(Kind::NonConfirmable, Code::CHANGED, 9, token, None));
    assert_eq!(publisher.poll_event(), Some(Event::Acknowledged { token }));
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let mut publisher = Publisher::new([0; 64], 7);
    assert_eq!(publisher.publish(0, &Publication::confirmable(&PATH, &[0; 60])), Err(PublishError::TooLarge));
    let long = std::string::String::from_utf8(vec![b'a'; 256]).unwrap();
    assert_eq!(publisher.publish(0, &Publication::confirmable(&[&long], b"")), Err(PublishError::Path));
    assert!(publisher.is_ready());
    assert_eq!(publisher.poll_transmit(0), None);
}

#[test]
fn a_cancelled_message_is_silent() {
    let (mut publisher, token, datagram) = sent();
    publisher.cancel();
    publisher.handle_datagram(1, &ack(&datagram, Code::CHANGED, token));
    assert_eq!((publisher.poll_event(), publisher.poll_timeout()), (None, None));
}

#[test]
fn seeds_make_different_ids_and_tokens() {
    let first = |seed| {
        let mut publisher = Publisher::new([0; 64], seed);
        let token = publisher.publish(0, &Publication::confirmable(&PATH, b"")).unwrap();
        (token, id(publisher.poll_transmit(0).unwrap()))
    };
    assert_ne!(first(1), first(2));
    assert_eq!(first(1), first(1));
}
