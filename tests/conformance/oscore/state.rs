//! What an end must not forget: numbers used over restarts, requests seen; and what it asks when it has forgotten.

use crate::{BUFFER, ask, client, message, server, session, take, view};
use proptest::prelude::*;
use std::collections::BTreeSet;
use tidegate_oscore::{Opened, PartialIv, ProtectError, Refusal, Replay, Sequence, SequenceError, Window};
use tidegate_wire::coap::{Code, Header, Kind, OptionNumber, Writer};

const CHALLENGE: [u8; 8] = *b"new life";

fn number(number: u64) -> PartialIv {
    PartialIv::new(number).unwrap()
}

#[test]
fn a_number_is_taken_once_within_the_window_and_never_below_it() {
    let mut window = Window::new();
    for (at, new) in [
        (5, true),
        (5, false),
        (3, true),
        (36, true),
        (5, false),
        (4, false),
        (6, true),
        (37, true),
        (1_000, true),
        (37, false),
        (969, true),
        (968, false),
    ] {
        assert_eq!(window.is_new(number(at)), new, "{at}");
        assert_eq!(window.take(number(at)), new, "{at}");
    }
    let mut above = Window::above(number(40));
    assert!((0..=40).all(|at| !above.take(number(at))));
    assert!(above.take(number(41)));
    assert!(!Window::above(PartialIv::MAX).is_new(number(0)));
}

proptest! {
    #[test]
    fn the_window_agrees_with_a_list_of_everything_seen(numbers in prop::collection::vec(0_u64..120, 1..200)) {
        let mut window = Window::new();
        let mut seen = BTreeSet::new();
        for at in numbers {
            let low = seen.last().map_or(0, |highest: &u64| highest.saturating_sub(31));
            let new = at >= low && !seen.contains(&at);
            prop_assert_eq!(window.take(number(at)), new);
            if new {
                seen.insert(at);
            }
        }
    }

    /// Whenever the power fails, before or after a reservation is stored: no number comes twice.
    #[test]
    fn no_number_is_used_twice_over_any_restarts(
        events in prop::collection::vec(0_u8..10, 1..300),
        step in 1_u64..20,
    ) {
        let (mut stored, mut ordered) = (0, None);
        let mut sequence = Sequence::resume(stored);
        let mut used = BTreeSet::new();
        for event in events {
            match event {
                0 => {
                    sequence = Sequence::resume(stored);
                    ordered = None;
                }
                1 | 2 => ordered = ordered.or(sequence.to_reserve(step)),
                3 | 4 => {
                    if let Some(upto) = ordered.take() {
                        stored = stored.max(upto);
                        sequence.stored(upto);
                    }
                }
                _ => match sequence.take() {
                    Ok(number) => prop_assert!(used.insert(number) && number.get() < stored),
                    Err(error) => prop_assert_eq!(error, SequenceError::NotReserved),
                },
            }
        }
    }
}

#[test]
fn the_numbers_end_at_two_to_the_forty() {
    let mut sequence = Sequence::resume(PartialIv::MAX.get());
    assert_eq!(sequence.take(), Err(SequenceError::NotReserved));
    let upto = sequence.to_reserve(100).unwrap();
    assert_eq!(upto, 1 << 40);
    sequence.stored(upto);
    assert_eq!(sequence.take(), Ok(PartialIv::MAX));
    assert_eq!(sequence.take(), Err(SequenceError::Exhausted));
    assert_eq!(sequence.to_reserve(100), None);
}

fn challenged(server: &mut tidegate_oscore::Session, sealed: &[u8]) -> Vec<u8> {
    let mut buffer = [0; BUFFER];
    let Ok(Opened::Challenge { mut exchange }) = server.open_request(&view(sealed), &mut buffer) else {
        panic!("taken or refused");
    };
    let asked = view(sealed);
    let header = Header { kind: Kind::Acknowledgement, ..asked.header() };
    server.challenge(&mut exchange, header, asked.token(), &mut buffer).unwrap().to_vec()
}

#[test]
fn after_a_restart_a_request_is_taken_only_when_it_brings_the_challenge_back() {
    let mut client = client();
    let plain = message(Code::POST, &[(11, b"t")], b"open");
    let (old, _) = ask(&mut client, &plain);
    take(&mut server(), &old);
    let (new, asked) = ask(&mut client, &plain);

    let mut server = session(&[1], &[], Sequence::reserved(100, 200), Replay::Lost(CHALLENGE));
    // An old one, recorded by somebody, is genuine too.
    challenged(&mut server, &old);
    let challenge = challenged(&mut server, &new);
    assert_eq!(view(&challenge).option(OptionNumber::OSCORE), Some(&[1, 101][..]), "a number of its own");
    let mut buffer = [0; BUFFER];
    let opened = client.open_response(&asked, None, &view(&challenge), &mut buffer).unwrap();
    assert_eq!(view(opened).code(), Code::UNAUTHORIZED);
    let echo = view(opened).option(OptionNumber::ECHO).unwrap().to_vec();

    // A forged echo cannot be inside, and one outside does not count.
    let sealed = view(&new);
    let mut forged = [0; BUFFER];
    let forged = Writer::new(&mut forged, sealed.header(), sealed.token())
        .option(OptionNumber::OSCORE, sealed.option(OptionNumber::OSCORE).unwrap())
        .option(OptionNumber::ECHO, &echo)
        .payload(sealed.payload())
        .finish()
        .unwrap();
    challenged(&mut server, forged);

    let (fresh, _) = ask(&mut client, &message(Code::POST, &[(11, b"t"), (252, &echo)], b"open"));
    let (later, _) = ask(&mut client, &plain);
    take(&mut server, &fresh);
    for seen in [&old, &new, &fresh] {
        let refused = server.open_request(&view(seen), &mut buffer);
        assert_eq!(refused, Err(Refusal::Replay));
    }
    take(&mut server, &later);
}

#[test]
fn a_challenge_needs_a_number_that_no_earlier_life_can_have_used() {
    let (sealed, _) = ask(&mut client(), &message(Code::GET, &[(11, b"t")], b""));
    let mut server = session(&[1], &[], Sequence::resume(100), Replay::Lost(CHALLENGE));
    let mut buffer = [0; BUFFER];
    let Ok(Opened::Challenge { mut exchange }) = server.open_request(&view(&sealed), &mut buffer) else {
        panic!("taken or refused");
    };
    let header = Header { kind: Kind::Acknowledgement, ..view(&sealed).header() };
    let refused = server.challenge(&mut exchange, header, view(&sealed).token(), &mut buffer);
    assert_eq!(refused, Err(ProtectError::Sequence(SequenceError::NotReserved)));
}
