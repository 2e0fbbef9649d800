//! What becomes of a batch that a broker refuses, returns or closes the channel over, of the messages in it, and of what waits behind it.

use super::peer::{Peer, Place, Published, ack, close_channel, nack, returned};
use super::readings;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tidegate::config::UpstreamKind;
use tidegate_engine::event::{Format, Outcome, Packing, Publication};
use tidegate_tests::publications::Driven;

/// Long enough for what is sent at once, when nothing should be.
const A_WHILE: Duration = Duration::from_millis(200);

/// In batches of three that must fill.
fn packed(range: std::ops::Range<u64>) -> Vec<Publication> {
    static PACKING: LazyLock<Arc<Packing>> = LazyLock::new(|| {
        Arc::new(Packing {
            max_messages: 3,
            max_bytes: 64 << 10,
            linger: Duration::from_secs(3_600),
            format: Format::Json,
            compression: None,
        })
    });
    let with = |one| Publication { packing: Some(Arc::clone(&PACKING)), ..one };
    readings(range).into_iter().map(with).collect()
}

/// The payloads of a batch.
fn payloads(batch: &Published) -> Vec<String> {
    let records: Vec<serde_json::Value> = serde_json::from_str(&batch.body).unwrap();
    records.iter().map(|record| record["payload"].as_str().unwrap().to_owned()).collect()
}

fn texts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("reading {number}")).collect()
}

/// A link on which two batches of three have arrived.
fn link() -> (Place, Driven, Peer, [Published; 2]) {
    let place = Place::new();
    let mut driven = Driven::start(UpstreamKind::Amqp(place.patient()));
    let mut peer = place.link();
    driven.expect_up();
    driven.publish(packed(0..6));
    let batches = [peer.messages(1).remove(0), peer.messages(1).remove(0)];
    assert_eq!(batches.each_ref().map(payloads), [texts(0..3), texts(3..6)]);
    (place, driven, peer, batches)
}

fn confirmed(tags: impl IntoIterator<Item = u64>) -> Vec<(u64, Outcome)> {
    tags.into_iter().map(|tag| (tag, Outcome::Confirmed)).collect()
}

#[test]
fn a_confirm_settles_every_message_of_its_batch_and_of_those_before_it() {
    let (_place, mut driven, mut peer, batches) = link();
    assert_ne!(batches[0].id, batches[1].id);
    driven.expect_silence(A_WHILE);
    peer.say(&[ack(1, false)]);
    assert_eq!(driven.settled(3), confirmed(0..3));
    driven.publish(packed(6..9));
    peer.messages(1);
    peer.say(&[ack(3, true)]);
    assert_eq!(driven.settled(6), confirmed(3..9));
    driven.expect_silence(A_WHILE);
}

#[test]
fn a_refused_batch_goes_message_by_message_and_only_the_guilty_one_is_refused() {
    let (_place, mut driven, mut peer, _) = link();
    // Handed over and not sent yet: it comes behind what is taken apart.
    driven.publish(packed(6..8));
    driven.expect_silence(A_WHILE);
    peer.say(&[nack(1, false), ack(2, false)]);
    assert_eq!(driven.settled(3), confirmed(3..6));
    let apart = peer.messages(3);
    assert_eq!(apart.iter().map(|one| one.body.clone()).collect::<Vec<_>>(), texts(0..3));
    assert!(apart.iter().all(|one| one.resend), "one of several queues may have taken them");
    assert!(apart.iter().all(|one| one.id.starts_with("site-a/boiler-3/7/")));
    peer.say(&[ack(3, false), nack(4, false), ack(5, false)]);
    assert_eq!(driven.settled(3), [(0, Outcome::Confirmed), (1, Outcome::Nacked), (2, Outcome::Confirmed)]);
    driven.publish(packed(8..9));
    assert_eq!(payloads(&peer.messages(1)[0]), texts(6..9));
    driven.expect_silence(Duration::from_millis(20));
}

#[test]
fn a_returned_batch_goes_message_by_message_and_each_is_judged_by_itself() {
    let (_place, mut driven, mut peer, batches) = link();
    peer.say(&[returned(&batches[0]), vec![ack(1, false)]].concat());
    let apart = peer.messages(3);
    assert_eq!(apart.iter().map(|one| one.body.clone()).collect::<Vec<_>>(), texts(0..3));
    assert!(apart.iter().all(|one| !one.resend), "nobody has what came back");
    peer.say(&[returned(&apart[1]), vec![ack(5, true)]].concat());
    let settled = driven.settled(6);
    assert!(matches!(settled[1], (1, Outcome::Returned(_))), "{settled:?}");
    let others = settled.iter().filter(|(tag, _)| *tag != 1).cloned().collect::<Vec<_>>();
    assert_eq!(others, confirmed([0, 2, 3, 4, 5]));
}

#[test]
fn batches_over_which_the_channel_was_closed_go_message_by_message_one_at_a_time() {
    let (_place, mut driven, mut peer, _) = link();
    // The first was refused, and before its messages could leave the channel is closed over the second.
    peer.say(&[nack(1, false), close_channel(406, "PRECONDITION_FAILED")]);
    peer.reopen();
    for number in 0..6 {
        let alone = peer.messages(1).remove(0);
        assert_eq!((&alone.body, alone.resend), (&texts([number])[0], true));
        peer.expect_silence(Duration::from_millis(20));
        if number == 4 {
            peer.say(&[close_channel(406, "PRECONDITION_FAILED")]);
            peer.reopen();
            let settled = driven.settled(1);
            assert!(matches!(&settled[0], (4, Outcome::Refused(_))), "{settled:?}");
        } else {
            peer.say(&[ack(if number == 5 { 1 } else { number + 1 }, false)]);
            assert_eq!(driven.settled(1), confirmed([number]));
        }
    }
    driven.publish(packed(6..9));
    assert_eq!(payloads(&peer.messages(1)[0]), texts(6..9));
}

#[test]
fn batches_that_are_open_or_unconfirmed_end_with_the_link_unsettled() {
    let (place, mut driven, peer, _) = link();
    driven.publish(packed(6..8));
    drop(peer);
    assert_eq!(driven.expect_down(), []);
    let mut peer = place.link();
    driven.expect_up();
    // The third fills nothing that was left of the old link.
    driven.publish(packed(8..10));
    peer.expect_silence(A_WHILE);
    driven.publish(packed(10..11));
    assert_eq!(payloads(&peer.messages(1)[0]), texts(8..11));
}
