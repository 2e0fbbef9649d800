//! The firmware's publisher with a context, against the other end of it: what it sends, what it believes, and what it
//! does when the gateway has forgotten what it knew.

use crate::{BUFFER, answer, message, session, take, view};
use tidegate_node::coap::secured::Secured;
use tidegate_node::coap::{Event, Publication, PublishError, Publisher};
use tidegate_oscore::{Exchange, Opened, Replay, Sequence, Session};
use tidegate_wire::coap::{Code, Header, Kind, Message, Token, Writer};

const SECOND: u64 = 1_000_000;
const PATH: [&str; 3] = ["t", "sensors", "boiler-3"];
const READING: Publication<'_> = Publication::confirmable(&PATH, b"71.5");

type Device = Secured<[u8; 128], [u8; 256]>;

fn device() -> Device {
    let session = session(&[], &[1], Sequence::resume(40), Replay::fresh());
    let mut device = Secured::new(Publisher::new([0; 128], 7), session, [0; 256]);
    assert_eq!(device.publish(0, &READING), Err(PublishError::NoNumber));
    let upto = device.to_reserve(10).unwrap();
    device.stored(upto);
    device
}

fn gateway(replay: Replay) -> Session {
    session(&[1], &[], Sequence::reserved(0, 100), replay)
}

fn sent(device: &mut Device, now: u64) -> Vec<u8> {
    let datagram = device.poll_transmit(now).unwrap().to_vec();
    assert_eq!(device.poll_transmit(now), None);
    datagram
}

/// The answer to a request, as it would be without protection, in its ACK.
fn plain(request: &[u8], code: Code, max_age: Option<u32>) -> Vec<u8> {
    let request = view(request);
    let header = Header { kind: Kind::Acknowledgement, code, message_id: request.message_id() };
    let mut buffer = [0; BUFFER];
    let mut writer = Writer::new(&mut buffer, header, request.token());
    if let Some(seconds) = max_age {
        writer = writer.uint(tidegate_wire::coap::OptionNumber::MAX_AGE, seconds);
    }
    writer.finish().unwrap().to_vec()
}

fn respond(gateway: &mut Session, exchange: &mut Exchange, request: &[u8], code: Code) -> Vec<u8> {
    answer(gateway, exchange, &plain(request, code, None))
}

#[test]
fn a_reading_is_taken_by_the_other_end_and_its_answer_believed() {
    let (mut device, mut gateway) = (device(), gateway(Replay::fresh()));
    let token = device.publish(0, &READING).unwrap();
    let datagram = sent(&mut device, 0);
    assert!(!datagram.windows(4).any(|bytes| bytes == b"71.5"));
    let again = sent(&mut device, 3 * SECOND);
    assert_eq!(again, datagram, "what goes again is not protected anew");
    let (opened, mut exchange) = take(&mut gateway, &datagram);
    assert_eq!((view(&opened).code(), view(&opened).payload()), (Code::POST, &b"71.5"[..]));
    let reply = respond(&mut gateway, &mut exchange, &datagram, Code::CHANGED);
    device.handle_datagram(4 * SECOND, &reply);
    assert_eq!(device.poll_event(), Some(Event::Acknowledged { token }));
    // The next message has the next number.
    device.publish(4 * SECOND, &READING).unwrap();
    let next = sent(&mut device, 4 * SECOND);
    assert_eq!(take(&mut gateway, &next).1.request().get(), 41);
}

#[test]
fn an_answer_that_is_not_protected_or_not_to_this_message_counts_for_nothing() {
    let (mut device, mut gateway) = (device(), gateway(Replay::fresh()));
    device.publish(0, &READING).unwrap();
    let datagram = sent(&mut device, 0);
    for code in [Code::CHANGED, Code::UNAUTHORIZED, Code::SERVICE_UNAVAILABLE] {
        device.handle_datagram(0, &plain(&datagram, code, None));
        assert_eq!(device.poll_event(), None);
        assert_eq!(device.poll_unprotected(), Some(code));
    }
    let (_, mut exchange) = take(&mut gateway, &datagram);
    let mut forged = respond(&mut gateway, &mut exchange, &datagram, Code::CHANGED);
    *forged.last_mut().unwrap() ^= 1;
    device.handle_datagram(0, &forged);
    assert_eq!((device.poll_event(), device.poll_unprotected()), (None, None));
    assert!(device.poll_timeout().is_some(), "it goes on");
}

#[test]
fn a_gateway_that_has_forgotten_gets_its_challenge_back_in_the_same_message() {
    let mut device = device();
    let mut gateway = gateway(Replay::Lost(*b"new life"));
    let token = device.publish(0, &READING).unwrap();
    let first = sent(&mut device, 0);
    let mut buffer = [0; BUFFER];
    let Ok(Opened::Challenge { mut exchange }) = gateway.open_request(&view(&first), &mut buffer) else {
        panic!("taken or refused");
    };
    let header = Header { kind: Kind::Acknowledgement, ..view(&first).header() };
    let challenge = gateway.challenge(&mut exchange, header, view(&first).token(), &mut buffer).unwrap();
    device.handle_datagram(SECOND, challenge);
    assert_eq!(device.poll_event(), None);
    let second = sent(&mut device, SECOND);
    assert_ne!(view(&second).message_id(), view(&first).message_id());
    let (opened, mut exchange) = take(&mut gateway, &second);
    assert_eq!(view(&opened).payload(), b"71.5");
    let reply = respond(&mut gateway, &mut exchange, &second, Code::CHANGED);
    device.handle_datagram(SECOND, &reply);
    assert_eq!(device.poll_event(), Some(Event::Acknowledged { token }));
}

#[test]
fn a_message_put_off_goes_again_under_a_new_number() {
    let (mut device, mut gateway) = (device(), gateway(Replay::fresh()));
    device.publish(0, &READING).unwrap();
    let first = sent(&mut device, 0);
    let (_, mut exchange) = take(&mut gateway, &first);
    let reply = answer(&mut gateway, &mut exchange, &plain(&first, Code::SERVICE_UNAVAILABLE, Some(5)));
    device.handle_datagram(0, &reply);
    let due = device.poll_timeout().unwrap();
    assert!((5 * SECOND..7 * SECOND).contains(&due), "the Max-Age inside is obeyed");
    let second = sent(&mut device, due);
    assert_eq!(take(&mut gateway, &second).1.request().get(), 41);
}

#[test]
fn without_numbers_nothing_is_sent() {
    let (mut device, mut gateway) = (device(), gateway(Replay::fresh()));
    for _ in 0..9 {
        device.publish(0, &READING).unwrap();
        let datagram = sent(&mut device, 0);
        let (_, mut exchange) = take(&mut gateway, &datagram);
        let reply = respond(&mut gateway, &mut exchange, &datagram, Code::CHANGED);
        device.handle_datagram(0, &reply);
        assert!(device.poll_event().is_some());
    }
    assert_eq!(device.publish(0, &READING), Err(PublishError::NoNumber));
    assert!(device.is_ready());
    let upto = device.to_reserve(10).unwrap();
    device.stored(upto);
    assert!(device.publish(0, &READING).is_ok());
}

#[test]
fn pings_and_requests_are_rejected_as_without_a_context() {
    let mut device = device();
    device.handle_datagram(0, &message(Code::GET, &[], b""));
    let reset = sent(&mut device, 0);
    assert_eq!(Message::parse(&reset).unwrap().kind(), Kind::Reset);
    let header = Header { kind: Kind::Confirmable, code: Code::EMPTY, message_id: 9 };
    device.handle_datagram(0, Writer::new(&mut [0; 4], header, Token::EMPTY).finish().unwrap());
    assert_eq!(view(&sent(&mut device, 0)).message_id(), 9);
}
