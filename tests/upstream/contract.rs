//! The contract that all kinds of upstream hold: `gateway/src/upstream/mod.rs` in words, here in tests.

use crate::amqp091::Broker;
use crate::file::Folder;
use std::time::Duration;
use tidegate::config::UpstreamKind;
use tidegate_engine::event::{Outcome, Publication};
use tidegate_tests::publications::{Driven, SOON, message, publication};
use tidegate_tests::wait::wait_for;

/// A place that messages go to, and how to spoil it.
pub(crate) trait Place {
    fn kind(&self) -> UpstreamKind;
    /// The payloads that are there, in the order in which a consumer gets them first, once the last one that was
    /// confirmed is among them.
    fn arrived(&mut self, last: u64) -> Vec<String>;
    /// Makes the place unusable, so that a link ends at the latest with the next message.
    fn spoil(&mut self);
    fn mend(&mut self);
}

macro_rules! for_every_kind {
    ($($name:ident),* $(,)?) => {
        mod amqp091 {
            $(#[test] fn $name() { super::$name(&mut super::Broker::own()); })*
        }
        mod file {
            $(#[test] fn $name() { super::$name(&mut super::Folder::new()); })*
        }
    };
}

for_every_kind!(
    a_confirmed_message_is_there_in_order_and_settled_once,
    a_reset_ends_the_link_and_makes_a_new_one,
    what_was_handed_over_for_an_earlier_link_never_leaves_on_the_next,
    a_spoilt_place_is_down_and_comes_back_when_it_is_mended,
);

fn readings(range: std::ops::Range<u64>) -> Vec<Publication> {
    range.map(|seq| publication(message(seq), "sensors.boiler-3.temperature")).collect()
}

fn texts(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|seq| format!("reading {seq}")).collect()
}

fn confirmed(range: std::ops::Range<u64>) -> Vec<(u64, Outcome)> {
    range.map(|seq| (seq, Outcome::Confirmed)).collect()
}

fn a_confirmed_message_is_there_in_order_and_settled_once(place: &mut impl Place) {
    let mut driven = Driven::start(place.kind());
    driven.expect_up();
    driven.publish(readings(0..1));
    assert_eq!(driven.settled(1), confirmed(0..1));
    assert_eq!(place.arrived(0), texts(0..1));
    for begin in (1..401).step_by(50) {
        driven.publish(readings(begin..begin + 50));
    }
    assert_eq!(driven.settled(400), confirmed(1..401));
    assert_eq!(place.arrived(400), texts(0..401));
    driven.expect_silence(Duration::from_millis(200));
}

fn a_reset_ends_the_link_and_makes_a_new_one(place: &mut impl Place) {
    let mut driven = Driven::start(place.kind());
    driven.expect_up();
    driven.publish(readings(0..10));
    driven.settled(10);
    driven.reset();
    assert_eq!(driven.expect_down(), []);
    driven.expect_up();
    driven.publish(readings(10..20));
    assert_eq!(driven.settled(10), confirmed(10..20));
    assert_eq!(place.arrived(19), texts(0..20));
}

fn what_was_handed_over_for_an_earlier_link_never_leaves_on_the_next(place: &mut impl Place) {
    let mut driven = Driven::start(place.kind());
    driven.expect_up();
    driven.reset();
    // The driver reads its inbox late: it goes on handing over until the new link has long been made.
    let mut seq = 0..60;
    wait_for(SOON, || {
        let Some(seq) = seq.next() else { return Some(()) };
        driven.publish(readings(seq..seq + 1));
        None
    });
    let early = driven.expect_down();
    driven.publish(readings(60..61));
    driven.expect_up();
    driven.publish(readings(100..110));
    assert_eq!(driven.settled(10), confirmed(100..110));
    let arrived = place.arrived(109);
    let new = arrived.iter().position(|text| text == "reading 100").unwrap();
    assert_eq!(arrived[new..], texts(100..110), "something for the old link left on the new one");
    assert!(early.len() <= new, "{early:?} were confirmed and only {new} arrived");
    assert!(arrived.iter().all(|text| text != "reading 60"));
}

fn a_spoilt_place_is_down_and_comes_back_when_it_is_mended(place: &mut impl Place) {
    let mut driven = Driven::start(place.kind());
    driven.expect_up();
    driven.publish(readings(0..10));
    driven.settled(10);
    place.spoil();
    driven.publish(readings(10..20));
    let before = driven.expect_down();
    assert_eq!(before, [], "confirmed by a place that is spoilt");
    driven.expect_silence(Duration::from_millis(500));
    place.mend();
    driven.expect_up();
    driven.publish(readings(20..30));
    assert_eq!(driven.settled(10), confirmed(20..30));
    let arrived = place.arrived(29);
    assert_eq!(arrived[..10], texts(0..10));
    assert_eq!(arrived[arrived.len() - 10..], texts(20..30));
}
