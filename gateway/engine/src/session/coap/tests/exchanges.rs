//! When and how requests are answered, how repetitions are recognised, and what is remembered.

use super::{Answer, Bench, TOKEN, TOPIC, con, endpoint, non, write};
use crate::event::{Anonymous, Endpoint};
use crate::limits::Limits;
use crate::message::{Qos, Source};
use crate::time::Duration;
use tidegate_wire::coap::{Code, Kind, OptionNumber as Number};

/// One with a token of its own.
fn own(id: u16) -> Vec<u8> {
    let mut datagram = con(id);
    datagram[4] = id.to_be_bytes()[1];
    datagram
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
    bench.ask(&own(2));
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
    bench.ask(&own(2));
    bench.ask(&own(3));
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
    bench.coap.plant(crate::mutant::Planted::with(crate::mutant::Mutant::CoapNoDedupe));
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
