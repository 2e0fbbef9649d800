//! Live messages and a backlog: which go first, how fast a backlog leaves, and what of it has waited too long.

use super::*;
use crate::event::{LossReason, Notice, Order, RecordKind};

const BACKLOG: u64 = 400;

/// A lane with a backlog on the disk, in this order.
fn bench(order: Order, window: usize, drain: Drain) -> Bench {
    let backlog = LaneState { lane: LANE, last: Seq(BACKLOG), rows: BACKLOG, bytes: 200 * BACKLOG };
    let recovered = Recovered { lanes: vec![backlog], last: Seq(BACKLOG), ..Recovered::default() };
    let mut route = route(LANE, "#", relay());
    route.policy.order = order;
    let upstreams = vec![UpstreamSetup { name: "cloud".into(), window, drain }];
    Bench::new(Setup { upstreams, ..setup(vec![route]) }, recovered)
}

/// The whole backlog comes from the disk.
fn page() -> Input {
    let messages: Vec<_> = (1..=BACKLOG).map(stored).collect();
    Input::Loaded { lane: LANE, messages, damaged: 0, note: None, upto: Some(Seq(BACKLOG)) }
}

/// Confirms what is handed over until so many have been, and says of each whether it was live.
fn confirm_all(bench: &mut Bench, mut outputs: Vec<Output>, most: usize) -> Vec<bool> {
    let mut order = Vec::new();
    while order.len() < most {
        let sent: Vec<_> = publications(&outputs).into_iter().cloned().collect();
        if sent.is_empty() {
            break;
        }
        outputs = Vec::new();
        for publication in sent {
            order.push(publication.live);
            outputs.extend(bench.on(confirm(&publication)));
        }
    }
    order
}

#[test]
fn a_live_message_does_not_wait_for_the_backlog() {
    let mut bench = bench(Order::LiveFirst, 8, Drain::default());
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    // The backlog is being read, and then fills its part of the window.
    assert!(publications(&bench.post(1))[0].live);
    let outputs = bench.on(page());
    let backlog = publications(&outputs);
    assert!(backlog.len() == 3 && backlog.iter().all(|publication| !publication.live), "{}", backlog.len());
    let outputs = bench.post(2);
    let live = publications(&outputs);
    assert!(live.len() == 1 && live[0].live && live[0].message.id.seq > Seq(BACKLOG));
    assert_eq!(bench.engine.stats().lanes[0].live, 2);
}

#[test]
fn with_oldest_first_it_does() {
    let mut bench = bench(Order::OldestFirst, 8, Drain::default());
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    assert!(publications(&bench.post(1)).is_empty());
    assert_eq!(publications(&bench.on(page())).len(), 8);
    assert!(publications(&bench.post(2)).is_empty());
}

#[test]
fn interleaved_the_backlog_has_its_share_while_both_wait() {
    let mut bench = bench(Order::Interleave(25), 4, Drain::default());
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    let mut outputs = Vec::new();
    // As many as one device may have under way.
    for id in 1..=32 {
        outputs.extend(bench.post(id));
    }
    outputs.extend(bench.on(page()));
    let order = confirm_all(&mut bench, outputs, 24);
    let backlog = order.iter().filter(|live| !**live).count();
    assert!((4..=8).contains(&backlog), "{backlog} of {}", order.len());
}

#[test]
fn a_drain_limit_holds_up_the_backlog_and_nothing_live() {
    let drain = Drain { messages_per_second: std::num::NonZeroU32::new(10), ..Drain::default() };
    let mut bench = bench(Order::LiveFirst, 256, drain);
    bench.now.instant = Instant(60_000_000);
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    let outputs = bench.on(page());
    assert_eq!(confirm_all(&mut bench, outputs, 100).len(), 11, "a second's worth, and the one that is due");
    let live = bench.post(1);
    assert_eq!(confirm_all(&mut bench, live, 100), [true]);
    for _ in 0..10 {
        let next = bench.engine.poll_timeout().unwrap();
        assert!(next > bench.now.instant && next <= bench.now.instant.after(Duration::from_millis(101)));
        bench.now.instant = next;
        let outputs = bench.on(Input::Tick);
        assert!(confirm_all(&mut bench, outputs, 100).len() <= 1);
    }
    assert!((20..=21).contains(&bench.engine.stats().upstreams[0].drained));
}

#[test]
fn what_has_waited_too_long_is_discarded_and_told_whatever_the_clock_says() {
    let backlog = LaneState { lane: LANE, last: Seq(2), rows: 2, bytes: 400 };
    let recovered = Recovered { lanes: vec![backlog], last: Seq(2), ..Recovered::default() };
    let mut route = route(LANE, "#", relay());
    route.policy.expires_after = Some(Duration::from_secs(3_600));
    let mut bench = Bench::new(setup(vec![route]), recovered);
    bench.wait(Duration::from_secs(3_599));
    bench.now.wall.unix_ms += 10 * 366 * 86_400_000;
    let outputs = bench.on(Input::Tick);
    assert!(loads(&outputs).is_empty(), "the clock has jumped, and nothing has expired");
    let [Op::Put { key, .. }] = &commits(&outputs)[0].ops[..] else { panic!("{outputs:?}") };
    assert_eq!(key.kind, RecordKind::Ages, "how long they have waited is written down");
    bench.on(Input::Committed { batch: commits(&outputs)[0].id });
    bench.wait(Duration::from_secs(2));
    assert_eq!(loads(&bench.on(Input::Tick)), [(LANE, Seq(0))], "although the upstream is away");
    let messages = vec![stored(1), stored(2)];
    let outputs =
        bench.on(Input::Loaded { lane: LANE, messages, damaged: 0, note: None, upto: Some(Seq(2)) });
    let batch = commits(&outputs)[0];
    let forgotten = batch.ops.iter().filter(|op| matches!(op, Op::Forget { .. })).count();
    assert_eq!(forgotten, 2, "{batch:?}");
    let told = outputs.iter().any(|output| {
        matches!(output, Output::Notice(Notice::Lost { reason: LossReason::Expired, messages: 2, .. }))
    });
    assert!(told);
    let outputs = bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    assert!(publications(&outputs).is_empty());
}
