//! Bodies in blocks: in order, whole, never mixed, within budgets.

use super::{Bench, TOPIC, endpoint, write};
use crate::event::Anonymous;
use crate::limits::Limits;
use crate::time::Duration;
use tidegate_wire::coap::{Block, Code, Kind, Message, OptionNumber as Number};

/// A block of a body, as it is sent.
fn block(
    id: u16,
    number: u32,
    more: bool,
    exponent: u8,
    body: &[u8],
    options: &[(Number, &[u8])],
) -> Vec<u8> {
    let bytes = Block { number, more, exponent }.to_uint().to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let size = 16 << exponent;
    let start = number as usize * size;
    let payload = &body[start.min(body.len())..body.len().min(start + size)];
    let mut all = vec![(Number::BLOCK1, &bytes[zeros..])];
    all.extend_from_slice(options);
    write(Kind::Confirmable, Code::POST, id, &TOPIC, &all, payload)
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 253) as u8).collect()
}

pub(super) fn codes(bench: &mut Bench, bytes: &[u8]) -> Vec<Code> {
    bench.ask(bytes).iter().map(|answer| answer.code).collect()
}

#[test]
fn a_body_in_blocks_is_published_once_and_whole() {
    for (exponent, length) in [(0, 100), (2, 64), (6, 1_048_576), (6, 5_000)] {
        let mut bench = Bench::new();
        let body = body(length);
        let size = 16 << exponent;
        let count = length.div_ceil(size);
        for number in 0..count {
            let more = number + 1 < count;
            let request = block(number as u16, number as u32, more, exponent, &body, &[]);
            let answers = codes(&mut bench, &request);
            assert_eq!(answers, if more { vec![Code::CONTINUE] } else { vec![] });
            // Each comes twice, because its answer was lost.
            assert_eq!(codes(&mut bench, &request), answers);
        }
        assert_eq!(bench.published.len(), 1);
        assert_eq!(bench.published[0].0.payload, body);
        let answer = bench.safe(0);
        assert_eq!(answer[0].code, Code::CHANGED);
        assert_eq!(bench.coap.uploads.held(), (0, 0));
    }
}

#[test]
fn blocks_out_of_order_or_of_the_wrong_size_are_refused() {
    let incomplete = vec![Code::REQUEST_ENTITY_INCOMPLETE];
    let mut bench = Bench::new();
    let body = body(200);
    assert_eq!(codes(&mut bench, &block(1, 5, true, 0, &body, &[])), incomplete, "begins at 5");
    codes(&mut bench, &block(2, 0, true, 0, &body, &[]));
    assert_eq!(codes(&mut bench, &block(3, 2, true, 0, &body, &[])), incomplete, "a gap");
    assert_eq!(codes(&mut bench, &block(4, 1, true, 0, &body, &[])), incomplete, "and all is forgotten");
    codes(&mut bench, &block(5, 0, true, 0, &body, &[]));
    assert_eq!(codes(&mut bench, &block(6, 1, true, 1, &body, &[])), incomplete, "another size");
    codes(&mut bench, &block(7, 0, true, 1, &body, &[]));
    assert_eq!(codes(&mut bench, &block(8, 2, true, 0, &body, &[])), [Code::CONTINUE], "a smaller one fits");
    let other: [(Number, &[u8]); 1] = [(Number::CONTENT_FORMAT, &[60])];
    assert_eq!(codes(&mut bench, &block(9, 3, true, 0, &body, &other)), incomplete, "another format");
    let short = write(Kind::Confirmable, Code::POST, 9, &TOPIC, &[(Number::BLOCK1, &[8])], b"short");
    assert_eq!(codes(&mut bench, &short), [Code::BAD_REQUEST]);
    assert_eq!((bench.published.len(), bench.coap.uploads.held()), (0, (0, 0)));
}

#[test]
fn the_answer_to_a_block_says_which_one_it_answers() {
    let mut bench = Bench::new();
    let body = body(48);
    let device = bench.device;
    let block_of =
        |bytes: &[u8]| Message::parse(bytes).unwrap().option(Number::BLOCK1).and_then(Block::parse);
    for number in 0..2 {
        let answer = bench.ask_raw(device, &block(1, number, true, 0, &body, &[])).remove(0);
        assert_eq!(block_of(&answer), Some(Block { number, more: true, exponent: 0 }));
    }
    bench.ask_raw(device, &block(3, 2, false, 0, &body, &[]));
    bench.coap.safe(bench.now, bench.published[0].1.unwrap());
    bench.gather();
    assert_eq!(block_of(&bench.raw()[0]), Some(Block { number: 2, more: false, exponent: 0 }));
    let refused = bench.ask_raw(device, &block(4, 7, true, 0, &body, &[])).remove(0);
    assert_eq!(block_of(&refused), Some(Block { number: 7, more: true, exponent: 0 }));
}

#[test]
fn block_0_begins_anew() {
    let mut bench = Bench::new();
    let (old, new) = (vec![b'o'; 64], vec![b'n'; 48]);
    for number in 0..3 {
        bench.ask(&block(1 + number, number.into(), true, 0, &old, &[]));
    }
    for number in 0..3 {
        bench.ask(&block(11 + number, number.into(), number < 2, 0, &new, &[]));
    }
    assert_eq!(bench.published[0].0.payload, new);
    assert_eq!((bench.published.len(), bench.coap.uploads.held()), (1, (0, 0)));
}

#[test]
fn bodies_of_two_peers_or_request_tags_are_never_mixed() {
    let mut bench = Bench::new();
    let (one, two) = (vec![b'1'; 48], vec![b'2'; 48]);
    let tag = |tag: &'static [u8]| [(Number::REQUEST_TAG, tag)];
    let other = endpoint("127.0.0.1:40001");
    for number in 0..3 {
        let more = number < 2;
        for (id, body, tags) in [(1, &one, tag(b"a")), (2, &two, tag(b"b"))] {
            bench.ask(&block(id * 10 + number, number.into(), more, 0, body, &tags));
        }
        bench.from(other, &block(100 + number, number.into(), more, 0, &two, &tag(b"a")));
    }
    let mut bodies: Vec<_> = bench.published.iter().map(|(incoming, _)| incoming.payload.to_vec()).collect();
    bodies.sort();
    assert_eq!(bodies, [one, two.clone(), two]);
}

#[test]
fn unfinished_bodies_keep_within_their_budgets_and_are_forgotten_after_a_minute() {
    let limits = Limits {
        coap_transfers: 8,
        coap_transfers_per_peer: 2,
        coap_block_bytes: 4_096,
        coap_body_bytes: 3_000,
        ..Limits::default()
    };
    let mut bench = Bench::with(Anonymous::Loopback, limits);
    let body = body(4_000);
    let tags: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n]).collect();
    for (id, tag) in tags.iter().enumerate() {
        bench.ask(&block(id as u16, 0, true, 0, &body, &[(Number::REQUEST_TAG, tag)]));
    }
    assert_eq!(bench.coap.uploads.held().0, 2, "the same peer's oldest makes room");
    let mut refused = 0;
    for port in 1..=50 {
        let from = endpoint(&format!("127.0.0.1:{port}"));
        bench.sent.clear();
        bench.from(from, &block(1, 0, true, 6, &body, &[]));
        refused += usize::from(bench.answers()[0].code == Code::SERVICE_UNAVAILABLE);
    }
    let (count, bytes) = bench.coap.uploads.held();
    assert!(count <= 8 && bytes <= 4_096 && refused >= 40, "{count} {bytes} {refused}");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.coap.uploads.held(), (0, 0));
    // One that is too large in all.
    for (id, expected) in [(0, Code::CONTINUE), (1, Code::CONTINUE), (2, Code::REQUEST_ENTITY_TOO_LARGE)] {
        assert_eq!(codes(&mut bench, &block(id, id.into(), true, 6, &body, &[])), [expected]);
    }
    let claimed: [(Number, &[u8]); 1] = [(Number::SIZE1, &[0xFF; 4])];
    let answer = bench.ask(&block(9, 0, true, 0, &body, &claimed));
    assert_eq!((answer[0].code, answer[0].size1), (Code::REQUEST_ENTITY_TOO_LARGE, Some(3_000)));
    assert_eq!(bench.coap.uploads.held(), (0, 0));
}

#[test]
fn a_body_that_begins_while_devices_are_held_is_put_off() {
    let mut bench = Bench::new();
    bench.coap.hold(true);
    let answer = bench.ask(&block(1, 0, true, 0, &body(64), &[]));
    assert_eq!(answer[0].code, Code::SERVICE_UNAVAILABLE);
    assert!(answer[0].max_age.is_some());
}

#[test]
fn delete_clears_what_is_retained() {
    let mut bench = Bench::new();
    bench.ask(&write(Kind::Confirmable, Code::DELETE, 1, &[b"ps", b"a"], &[], b""));
    let (incoming, _) = &bench.published[0];
    assert!(incoming.retain && incoming.payload.is_empty());
    assert_eq!(bench.safe(0)[0].code, Code::DELETED);
}
