//! What settles a message and what does not: confirms and returns in every grouping, lies, and messages that close the channel.

use super::peer::{
    Peer, Place, Published, ack, blocked, bytes, close_channel, close_connection, flow, nack, returned, tune,
    unblocked,
};
use super::readings;
use amq_protocol::frame::AMQPFrame;
use std::time::Duration;
use tidegate::config::UpstreamKind;
use tidegate_engine::event::{Input, Outcome};
use tidegate_tests::publications::{Driven, SOON};

/// Long enough for what is sent at once, when nothing should be.
const A_WHILE: Duration = Duration::from_millis(200);

/// What the broker says, made of the frames of two returns.
type Grouping = fn(&[Vec<AMQPFrame>; 2]) -> Vec<AMQPFrame>;

/// What the broker says, made of what it got.
type Lie<'a> = &'a dyn Fn(&[Published]) -> Vec<AMQPFrame>;

/// A link on which so many messages have arrived.
fn link(count: u64) -> (Place, Driven, Peer, Vec<Published>) {
    let place = Place::new();
    let mut driven = Driven::start(UpstreamKind::Amqp(place.patient()));
    let mut peer = place.link();
    driven.expect_up();
    driven.publish(readings(0..count));
    let messages = peer.messages(usize::try_from(count).unwrap());
    (place, driven, peer, messages)
}

fn confirmed(tags: impl IntoIterator<Item = u64>) -> Vec<(u64, Outcome)> {
    tags.into_iter().map(|tag| (tag, Outcome::Confirmed)).collect()
}

#[test]
fn confirms_settle_what_they_name_once_in_every_grouping() {
    let (_place, mut driven, mut peer, _) = link(10);
    peer.say(&[ack(3, false), ack(3, false)]);
    assert_eq!(driven.settled(1), confirmed([2]));
    peer.say(&[ack(5, true), ack(2, true), ack(4, false)]);
    assert_eq!(driven.settled(4), confirmed([0, 1, 3, 4]));
    peer.say(&[nack(8, false), nack(7, true), ack(9, true)]);
    let nacked = |tag| (tag, Outcome::Nacked);
    assert_eq!(driven.settled(4), [nacked(5), nacked(6), nacked(7), (8, Outcome::Confirmed)]);
    peer.say(&[ack(0, true), ack(0, true), ack(10, true)]);
    assert_eq!(driven.settled(1), confirmed([9]));
    driven.expect_silence(A_WHILE);
    driven.publish(readings(20..22));
    peer.messages(2);
    peer.say(&[ack(12, false)]);
    assert_eq!(driven.settled(1), confirmed([21]));
    peer.say(&[ack(11, false)]);
    assert_eq!(driven.settled(1), confirmed([20]));
}

#[test]
fn a_confirm_of_what_was_never_sent_ends_the_link_and_settles_nothing() {
    for lie in
        [ack(4, false), ack(4, true), ack(0, false), ack(u64::MAX, true), nack(4, true), nack(0, false)]
    {
        let (place, mut driven, mut peer, _) = link(3);
        peer.say(&[lie]);
        assert_eq!(driven.expect_down(), []);
        // The next link counts from one again, and hears only of what was sent on it.
        let mut peer = place.link();
        driven.expect_up();
        driven.publish(readings(10..11));
        peer.messages(1);
        peer.say(&[ack(1, true)]);
        assert_eq!(driven.settled(1), confirmed([10]));
    }
}

#[test]
fn a_return_counts_in_every_grouping_with_its_confirm() {
    let is_back = |outcome: &Outcome| matches!(outcome, Outcome::Returned(why) if why.contains("NO_ROUTE"));
    let back = |n: usize, messages: &[Published]| returned(&messages[n]);
    // One by one, all returns first, a confirm of several, and byte by byte; the first and third come back.
    let scripts: [Grouping; 4] = [
        |[a, c]| [&a[..], &[ack(1, false), ack(2, false)], &c[..], &[ack(3, false)]].concat(),
        |[a, c]| [&c[..], &a[..], &[ack(2, false), ack(3, false), ack(1, false)]].concat(),
        |[a, c]| [&a[..], &c[..], &[ack(3, true)]].concat(),
        |[a, c]| [&a[..], &[nack(1, false)], &c[..], &[ack(3, true)]].concat(),
    ];
    for script in scripts {
        for step in [1, 7, usize::MAX] {
            let (_place, mut driven, mut peer, messages) = link(3);
            let said = bytes(&script(&[back(0, &messages), back(2, &messages)]));
            said.chunks(step).for_each(|part| peer.say_bytes(part));
            let settled = driven.settled(3);
            assert!(is_back(&settled[0].1) && is_back(&settled[2].1), "{settled:?}");
            assert_eq!(settled[1], (1, Outcome::Confirmed));
            driven.expect_silence(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_return_that_cannot_be_told_ends_the_link_and_no_confirm_after_it_counts() {
    // Of nothing that was sent, of what is confirmed already, and one whose properties never come.
    let stranger = |_: &[Published]| {
        let stranger =
            Published { id: "x/y/1/1".into(), key: "k".into(), body: String::new(), resend: false };
        [returned(&stranger), vec![ack(1, false)]].concat()
    };
    let late = |messages: &[Published]| {
        [returned(&messages[0]), returned(&messages[0]), vec![ack(1, true)]].concat()
    };
    let cut = |messages: &[Published]| vec![returned(&messages[0]).remove(0), ack(1, false)];
    let twice = |messages: &[Published]| {
        [vec![returned(&messages[0]).remove(0)], returned(&messages[1]), vec![ack(2, true)]].concat()
    };
    let scripts: [Lie<'_>; 4] = [&stranger, &late, &cut, &twice];
    for (index, script) in scripts.iter().enumerate() {
        let (_place, mut driven, mut peer, messages) = link(2);
        peer.say(&script(&messages));
        assert_eq!(driven.expect_down(), [], "script {index}");
    }
}

#[test]
fn a_message_that_closes_the_channel_is_found_among_others_one_at_a_time_and_order_is_kept() {
    let (_place, mut driven, mut peer, messages) = link(4);
    driven.publish(readings(4..6));
    peer.messages(2);
    // The second is the one; the first is confirmed, the fourth came back.
    peer.say(
        &[vec![ack(1, false)], returned(&messages[3]), vec![close_channel(406, "PRECONDITION_FAILED")]]
            .concat(),
    );
    // What the broker still had to say about the old channel says nothing about the new one.
    peer.say(&[ack(2, true), nack(3, false), ack(99, true)]);
    peer.say(&returned(&messages[1]));
    peer.expect(20, 41);
    // Handed over after the link has heard of the end of its channel: earlier ones may have left on it.
    driven.publish(readings(6..8));
    peer.open_again();
    let settled = driven.settled(2);
    assert_eq!(settled[0], (0, Outcome::Confirmed));
    assert!(matches!(settled[1], (3, Outcome::Returned(_))), "{settled:?}");
    let body = |n: u64| format!("reading {n}");
    let alone = peer.messages(1).remove(0);
    assert_eq!((alone.body.as_str(), alone.resend), (body(1).as_str(), true));
    peer.expect_silence(A_WHILE);
    peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
    peer.reopen();
    let settled = driven.settled(1);
    assert!(matches!(&settled[0], (1, Outcome::Refused(why)) if why.starts_with("406 ")), "{settled:?}");
    for (suspect, outcome) in [(2, Outcome::Confirmed), (4, Outcome::Nacked), (5, Outcome::Confirmed)] {
        let alone = peer.messages(1).remove(0);
        assert_eq!((alone.body, alone.resend), (body(suspect), true));
        peer.expect_silence(Duration::from_millis(50));
        let tag = [2, 4, 5].iter().position(|n| *n == suspect).unwrap() as u64 + 1;
        peer.say(&[if outcome == Outcome::Nacked { nack(tag, false) } else { ack(tag, false) }]);
        assert_eq!(driven.settled(1), [(suspect, outcome)]);
    }
    let new = peer.messages(2);
    assert_eq!(new.iter().map(|m| m.body.clone()).collect::<Vec<_>>(), [body(6), body(7)]);
    assert!(new.iter().all(|m| !m.resend));
    peer.say(&[ack(5, true)]);
    assert_eq!(driven.settled(2), confirmed([6, 7]));
    driven.expect_silence(A_WHILE);
}

#[test]
fn a_suspect_that_comes_back_is_returned_and_not_confirmed() {
    let (_place, mut driven, mut peer, _) = link(2);
    peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
    peer.reopen();
    let suspect = peer.messages(1).remove(0);
    peer.say(&[returned(&suspect), vec![ack(1, false)]].concat());
    let settled = driven.settled(1);
    assert!(matches!(settled[0], (0, Outcome::Returned(_))), "{settled:?}");
    peer.messages(1);
    peer.say(&[ack(2, false)]);
    assert_eq!(driven.settled(1), confirmed([1]));
}

#[test]
fn what_the_broker_said_before_it_hung_up_holds_and_nothing_after() {
    for close in [true, false] {
        let (place, mut driven, mut peer, _) = link(3);
        let mut said = vec![ack(1, false)];
        if close {
            said.extend([close_connection(320, "CONNECTION_FORCED"), ack(2, true)]);
        }
        peer.say(&said);
        if close {
            peer.expect(10, 51);
        }
        drop(peer);
        assert_eq!(driven.expect_down(), confirmed([0]));
        place.link();
        driven.expect_up();
    }
}

#[test]
fn a_pause_is_reported_wherever_it_begins_and_ends_with_the_link() {
    let is = |report: Option<Input>, wanted: bool| {
        assert!(
            matches!(report, Some(Input::UpstreamBlocked { blocked, .. }) if blocked == wanted),
            "{wanted}: {report:?}"
        );
    };
    let place = Place::new();
    let mut driven = Driven::start(UpstreamKind::Amqp(place.patient()));
    // A broker may be short of something already while the link is made.
    let mut peer = place.accept();
    peer.greet_with(tune(131_072, 60), &[blocked()]);
    driven.expect_up();
    is(driven.next(SOON), true);
    peer.say(&[unblocked()]);
    is(driven.next(SOON), false);
    // The older way to say it (AMQP 0-9-1, channel.flow), which wants an answer; two reasons for one pause.
    peer.say(&[flow(false)]);
    is(driven.next(SOON), true);
    peer.expect(20, 21);
    peer.say(&[blocked(), flow(true)]);
    peer.expect(20, 21);
    driven.expect_silence(A_WHILE);
    peer.say(&[unblocked()]);
    is(driven.next(SOON), false);
    driven.publish(readings(0..1));
    peer.messages(1);
    peer.say(&[blocked()]);
    is(driven.next(SOON), true);
    drop(peer);
    assert_eq!(driven.expect_down(), []);
}
