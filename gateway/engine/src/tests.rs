//! The whole engine, step by step, where its parts meet: the store fails or finds damage, the configuration changes, an
//! upstream goes away. Facts are made by hand; devices speak CoAP, which needs no connection.

mod order;

use crate::Engine;
use crate::event::{
    Anonymous, Batch, Drain, Durability, Endpoint, Input, LaneState, Letter, Op, Outcome, Output, Peer,
    Policy, Publication, Recovered, RouteSetup, Senml, Setup, StoreFault, UpstreamSetup,
};
use crate::id::{ConnId, DeviceId, GatewayId, LaneId, LetterId, MessageId, Seq, UpstreamId};
use crate::limits::Limits;
use crate::message::{Message, Qos, Source};
use crate::time::{Duration, Instant, Now, Stamp};
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::sync::Arc;

const UPSTREAM: UpstreamId = UpstreamId(0);
const LANE: LaneId = LaneId(1);

fn route(lane: LaneId, filter: &str, durability: Durability) -> RouteSetup {
    RouteSetup {
        lane,
        name: format!("route-{}", lane.0),
        filter: Some(Filter::new(filter).unwrap()),
        upstream: UPSTREAM,
        routing_key: None,
        durability,
        priority: 5,
        senml: Senml::Untouched,
        packing: None,
        policy: Policy::default(),
        salvaged: false,
    }
}

fn relay() -> Durability {
    Durability::Relay { spill_after: Duration::from_millis(250) }
}

fn setup(routes: Vec<RouteSetup>) -> Setup {
    Setup {
        gateway: GatewayId::new("g").unwrap(),
        epoch: 7,
        seed: 1,
        limits: Limits::default(),
        anonymous: Anonymous::Everywhere,
        devices: Vec::new(),
        resources: crate::resource::Resource::shipped(),
        upstreams: vec![UpstreamSetup { name: "cloud".into(), window: 256, drain: Drain::default() }],
        routes,
    }
}

fn stored(seq: u64) -> Message {
    Message {
        id: MessageId { epoch: 6, seq: Seq(seq) },
        device: DeviceId::new("a").unwrap(),
        topic: Topic::new("sensors/a/x").unwrap(),
        payload: Bytes::from_static(b"1"),
        received: Stamp::default(),
        qos: Qos::AtLeastOnce,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    }
}

/// An engine and its time.
struct Bench {
    engine: Engine,
    now: Now,
}

impl Bench {
    fn new(setup: Setup, recovered: Recovered) -> Self {
        let now = Now { instant: Instant(1_000_000), wall: Stamp::default() };
        Self { engine: Engine::new(setup, recovered, now), now }
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant = self.now.instant.after(time);
    }

    /// Handles a fact and takes what it leads to.
    fn on(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    /// A confirmable CoAP request that publishes `sensors/a/x`.
    fn post(&mut self, message_id: u16) -> Vec<Output> {
        let [high, low] = message_id.to_be_bytes();
        let head = [0x40, 0x02, high, low, 0xB1, b't', 0x07];
        let bytes = [&head[..], b"sensors", &[0x01, b'a', 0x01, b'x', 0xFF, b'1']].concat();
        let endpoint = Endpoint { socket: 0, peer: "127.0.0.1:9999".parse().unwrap(), association: 0 };
        self.on(Input::Datagram { endpoint, via: crate::event::Via::Open, bytes: bytes.into() })
    }

    /// Bytes on the one MQTT connection, which the first call opens.
    fn mqtt(&mut self, bytes: &[u8]) -> Vec<Output> {
        let conn = ConnId(1);
        let peer = Peer::at("127.0.0.1:9999".parse().unwrap());
        let mut outputs = Vec::new();
        if self.engine.stats().mqtt.peers == 0 {
            outputs.extend(self.on(Input::Opened { conn, peer }));
        }
        outputs.extend(self.on(Input::Received { conn, bytes: Bytes::copy_from_slice(bytes) }));
        outputs
    }

    /// Nothing is due at this moment: the shell may sleep.
    fn is_at_rest(&self) -> bool {
        self.engine.poll_timeout().is_none_or(|at| at > self.now.instant)
    }
}

fn publications(outputs: &[Output]) -> Vec<&Publication> {
    let mut found = Vec::new();
    for output in outputs {
        if let Output::Publish(publication) = output {
            found.push(publication);
        }
    }
    found
}

fn commits(outputs: &[Output]) -> Vec<&Batch> {
    let mut found = Vec::new();
    for output in outputs {
        if let Output::Commit(batch) = output {
            found.push(batch);
        }
    }
    found
}

fn loads(outputs: &[Output]) -> Vec<(LaneId, Seq)> {
    let of = |output: &Output| match output {
        Output::Load { lane, after, .. } => Some((*lane, *after)),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

fn confirm(publication: &Publication) -> Input {
    Input::Settled { upstream: UPSTREAM, tag: publication.tag, outcome: Outcome::Confirmed }
}

#[test]
fn a_load_that_may_be_tried_again_does_not_keep_the_gateway_awake_while_the_upstream_is_away() {
    let backlog = LaneState { lane: LANE, last: Seq(9), rows: 9, bytes: 2_000 };
    let recovered =
        Recovered { lanes: vec![backlog], last: Seq(9), records: Vec::new(), ..Recovered::default() };
    let mut bench = Bench::new(setup(vec![route(LANE, "#", relay())]), recovered);
    assert_eq!(loads(&bench.on(Input::UpstreamUp { upstream: UPSTREAM })), [(LANE, Seq(0))]);
    bench.on(Input::LoadFailed { lane: LANE, fault: StoreFault::Failed("I/O".into()) });
    bench.on(Input::UpstreamDown { upstream: UPSTREAM });
    bench.wait(Duration::from_secs(5));
    assert_eq!(loads(&bench.on(Input::Tick)), []);
    assert!(bench.is_at_rest(), "nothing can be done before the upstream is back");
    assert_eq!(loads(&bench.on(Input::UpstreamUp { upstream: UPSTREAM })), [(LANE, Seq(0))]);
}

#[test]
fn a_commit_that_is_no_longer_needed_does_not_keep_the_gateway_awake() {
    let mut bench = Bench::new(setup(vec![route(LANE, "#", relay())]), Recovered::default());
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    // One is stored and confirmed: its removal waits for a commit to ride on.
    let first = bench.post(1);
    let first = publications(&first)[0].clone();
    bench.wait(Duration::from_millis(300));
    let batch = commits(&bench.on(Input::Tick))[0].id;
    bench.on(Input::Committed { batch });
    // Another one cannot be stored, and is confirmed before that is tried again.
    let second = bench.post(2);
    let second = publications(&second)[0].clone();
    bench.wait(Duration::from_millis(300));
    let batch = commits(&bench.on(Input::Tick))[0].id;
    bench.on(Input::CommitFailed { batch, fault: StoreFault::Failed("I/O".into()) });
    bench.on(confirm(&second));
    bench.wait(Duration::from_millis(700));
    bench.on(confirm(&first));
    bench.wait(Duration::from_millis(300));
    assert!(commits(&bench.on(Input::Tick)).is_empty(), "the removal may wait a little longer");
    assert!(bench.is_at_rest());
    bench.wait(Duration::from_secs(1));
    assert_eq!(commits(&bench.on(Input::Tick)).len(), 1);
}

#[test]
fn the_next_commit_has_enough_at_its_bound_until_it_is_ordered() {
    let mut setup = setup(vec![route(LANE, "#", Durability::Disk)]);
    setup.limits.commit_enough = 2;
    let mut bench = Bench::new(setup, Recovered::default());
    let batch = commits(&bench.post(1))[0].id;
    bench.post(2);
    assert!(!bench.engine.has_enough());
    bench.post(3);
    assert!(bench.engine.has_enough());
    let next = bench.on(Input::Committed { batch });
    assert_eq!(commits(&next)[0].ops.len(), 2);
    assert!(!bench.engine.has_enough());
}

#[test]
fn a_commit_that_takes_long_keeps_nobody_from_being_read() {
    let mut setup = setup(vec![route(LANE, "#", Durability::Disk)]);
    setup.limits.commit_enough = 1;
    let mut bench = Bench::new(setup, Recovered::default());
    bench.post(1);
    bench.post(2);
    assert!(bench.engine.has_enough());
    let until = bench.engine.poll_timeout().unwrap();
    assert!(until.since(bench.now.instant) <= Duration::from_millis(20));
    bench.now.instant = until;
    bench.on(Input::Tick);
    assert!(!bench.engine.has_enough());
    assert!(bench.engine.poll_timeout().is_none_or(|at| at > until), "it is said once");
}

#[test]
fn what_waits_in_a_lane_that_a_reload_brings_back_is_delivered_before_what_comes_now() {
    // At the start the route was not configured, and neither was the upstream of its messages: nobody loaded them.
    let recovered = Recovered { last: Seq(20), ..Recovered::default() };
    let mut bench = Bench::new(setup(vec![route(LANE, "other/#", relay())]), recovered);
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    let back = LaneId(2);
    let routes = vec![route(LANE, "other/#", relay()), route(back, "#", relay())];
    let mut outputs = bench.on(Input::Reload(Box::new(setup(routes))));
    assert_eq!(loads(&outputs), [(back, Seq(0))]);
    outputs.extend(bench.post(1));
    assert!(publications(&outputs).is_empty(), "what came earlier goes first");
    let batch = commits(&outputs)[0];
    assert!(matches!(&batch.ops[..], [Op::Insert { lane, .. }] if *lane == back));
    let outputs = bench.on(Input::Loaded {
        lane: back,
        messages: vec![stored(3), stored(5)],
        damaged: 0,
        note: None,
        upto: Some(Seq(5)),
    });
    let sent: Vec<_> = publications(&outputs).iter().map(|p| (p.message.id.seq, p.resend)).collect();
    assert_eq!(sent, [(Seq(3), true), (Seq(5), true)]);
    bench.on(Input::Committed { batch: batch.id });
    let outputs = bench.on(Input::Loaded {
        lane: back,
        messages: vec![stored(21)],
        damaged: 0,
        note: None,
        upto: Some(Seq(21)),
    });
    assert_eq!(publications(&outputs).len(), 1);
    let lane = bench.engine.stats().lanes[1].clone();
    assert_eq!((lane.waiting, lane.on_disk), (3, 3));
}

#[test]
fn a_new_route_of_a_reload_soon_relays_without_the_disk() {
    let mut bench = Bench::new(setup(Vec::new()), Recovered { last: Seq(20), ..Recovered::default() });
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    bench.on(Input::Reload(Box::new(setup(vec![route(LANE, "#", relay())]))));
    bench.on(Input::Loaded { lane: LANE, messages: Vec::new(), damaged: 0, note: None, upto: None });
    let outputs = bench.post(1);
    assert_eq!((publications(&outputs).len(), commits(&outputs).len()), (1, 0));
}

#[test]
fn counters_that_damage_has_thrown_off_heal_when_the_backlog_ends_and_devices_may_go_on() {
    let full = Limits::default().spool_bytes;
    let backlog = LaneState { lane: LANE, last: Seq(9), rows: 9, bytes: full };
    let recovered =
        Recovered { lanes: vec![backlog], last: Seq(9), records: Vec::new(), ..Recovered::default() };
    let mut bench = Bench::new(setup(vec![route(LANE, "#", relay())]), recovered);
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    assert!(bench.engine.stats().holding);
    bench.on(Input::Loaded {
        lane: LANE,
        messages: vec![stored(2)],
        damaged: 8,
        note: None,
        upto: Some(Seq(9)),
    });
    let stats = bench.engine.stats();
    assert_eq!((stats.lanes[0].waiting, stats.lanes[0].on_disk), (1, 1));
    assert_eq!(stats.lanes[0].on_disk_bytes, stored(2).footprint() as u64);
    assert!(!stats.holding, "a counter must not hold devices for ever");
}

#[test]
fn a_backlog_whose_counter_is_damaged_is_delivered_all_the_same() {
    let backlog = LaneState { lane: LANE, last: Seq(9), rows: 0, bytes: 0 };
    let recovered =
        Recovered { lanes: vec![backlog], last: Seq(9), records: Vec::new(), ..Recovered::default() };
    let mut bench = Bench::new(setup(vec![route(LANE, "#", relay())]), recovered);
    assert_eq!(loads(&bench.on(Input::UpstreamUp { upstream: UPSTREAM })), [(LANE, Seq(0))]);
}

#[test]
fn rows_whose_removal_is_under_way_count_as_delivered_rows_that_a_crash_would_send_again() {
    let mut limits = Limits { forgets_waiting: 4, lane_memory_messages: 8, ..Limits::default() };
    limits.commit_ops = 4;
    let backlog = LaneState { lane: LANE, last: Seq(1_000), rows: 1_000, bytes: 200_000 };
    let recovered =
        Recovered { lanes: vec![backlog], last: Seq(1_000), records: Vec::new(), ..Recovered::default() };
    let suspects = 8 + 2 * 4 + 4;
    let mut bench = Bench::new(Setup { limits, ..setup(vec![route(LANE, "#", relay())]) }, recovered);
    let mut outputs = bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    // The upstream confirms all it gets and loads work; the first removal takes its time, the next one for ever.
    let (mut delivered, mut removals) = (0, Vec::new());
    for commits_done in 0..2 {
        while !outputs.is_empty() {
            let mut next = Vec::new();
            for output in outputs {
                match output {
                    Output::Publish(publication) => {
                        delivered += 1;
                        next.extend(bench.on(confirm(&publication)));
                    }
                    Output::Load { after, messages, .. } => {
                        let page: Vec<_> = (after.0 + 1..=1_000).take(messages).map(stored).collect();
                        let upto = page.last().map(|message| message.id.seq);
                        next.extend(bench.on(Input::Loaded {
                            lane: LANE,
                            messages: page,
                            damaged: 0,
                            note: None,
                            upto,
                        }));
                    }
                    Output::Commit(batch) => removals.push(batch),
                    _ => {}
                }
            }
            outputs = next;
        }
        if commits_done == 0 {
            let removal = removals.remove(0);
            delivered -= removal.ops.len();
            outputs = bench.on(Input::Committed { batch: removal.id });
        }
    }
    assert!(
        delivered <= suspects,
        "{delivered} delivered rows stand in the store, {suspects} would be marked"
    );
}

/// CONNECT of client "a" to a session that lasts (MQTT 3.1.1).
const CONNECT: &[u8] = b"\x10\x0D\x00\x04MQTT\x04\x00\x00\x3C\x00\x01a";

#[test]
fn a_message_that_is_committed_at_once_takes_along_what_its_device_sent_before() {
    let mut bench = Bench::new(setup(vec![route(LANE, "#", relay())]), Recovered::default());
    bench.on(Input::UpstreamUp { upstream: UPSTREAM });
    bench.mqtt(CONNECT);
    // QoS 1 is relayed, QoS 2 is committed with its record.
    let relayed = bench.mqtt(b"\x32\x06\x00\x01t\x00\x011");
    assert_eq!((publications(&relayed).len(), commits(&relayed).len()), (1, 0));
    let outputs = bench.mqtt(b"\x34\x06\x00\x01t\x00\x022");
    let inserts: Vec<_> = commits(&outputs)
        .iter()
        .flat_map(|batch| &batch.ops)
        .filter_map(|op| match op {
            Op::Insert { message, .. } => Some(message.payload.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(inserts, ["1", "2"], "a crash now must not turn them round");
}

#[test]
fn devices_hold_back_in_steps_the_busy_ones_first() {
    let limits = Limits { unsafe_bytes: 8_000, ..Limits::default() };
    let mut bench =
        Bench::new(Setup { limits, ..setup(vec![route(LANE, "#", relay())]) }, Recovered::default());
    bench.mqtt(CONNECT);
    let publish = |id: u8| [&[0x32, 0x45, 0x00, 0x01, b't', 0, id][..], &[b'x'; 64][..]].concat();
    let (mut batch, mut unread) = (None, 0);
    for id in 1..=100 {
        let outputs = bench.mqtt(&publish(id));
        batch = batch.or(commits(&outputs).first().map(|batch| batch.id));
        unread += outputs.iter().filter(|o| matches!(o, Output::Reading { on: false, .. })).count();
    }
    let stats = bench.engine.stats();
    assert_eq!((unread, stats.holds), (1, 1), "who sends much is not read");
    assert!((6_000..8_000).contains(&stats.unsafe_bytes), "{}", stats.unsafe_bytes);
    while let Some(done) = batch {
        batch = commits(&bench.on(Input::Committed { batch: done })).first().map(|batch| batch.id);
    }
    assert!(!bench.engine.stats().holding);
}

#[test]
fn records_that_cannot_be_stored_hold_devices_too() {
    let limits = Limits { unsafe_bytes: 1_000, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..setup(Vec::new()) }, Recovered::default());
    bench.mqtt(CONNECT);
    let mut batch = None;
    // No route takes the messages: only their packet ids are stored, or would be.
    for id in 1..=400_u16 {
        let [high, low] = id.to_be_bytes();
        let outputs = bench.mqtt(&[0x34, 0x05, 0x00, 0x01, b't', high, low]);
        batch = commits(&outputs).first().map(|batch| batch.id).or(batch);
        if id % 30 == 0 {
            bench.on(Input::Closed { conn: ConnId(1) });
            bench.mqtt(CONNECT);
        }
    }
    let stats = bench.engine.stats();
    assert!(stats.holding, "{} packet ids wait for the store", stats.accepted);
    assert!(stats.accepted < 300, "{}", stats.accepted);
    // The store works again.
    while let Some(done) = batch {
        let outputs = bench.on(Input::Committed { batch: done });
        batch = commits(&outputs).first().map(|batch| batch.id);
    }
    assert!(!bench.engine.stats().holding);
}

#[test]
fn what_was_salvaged_is_handed_over_when_it_is_complete_and_bears_both_marks() {
    let salvaged = LaneId(9);
    let own = RouteSetup { filter: None, salvaged: true, ..route(salvaged, "#", Durability::Disk) };
    let mut bench = Bench::new(
        setup(vec![route(LANE, "#", relay()), own]),
        Recovered { last: Seq(90), ..Recovered::default() },
    );
    assert_eq!(loads(&bench.on(Input::UpstreamUp { upstream: UPSTREAM })), [], "nothing is known of it yet");
    let state = LaneState { lane: salvaged, last: Seq(7), rows: 1, bytes: 200 };
    assert_eq!(loads(&bench.on(Input::Salvaged { lanes: vec![state] })), [(salvaged, Seq(0))]);
    let whole = stored(7);
    let outputs = bench.on(Input::Loaded {
        lane: salvaged,
        messages: vec![whole],
        damaged: 0,
        note: None,
        upto: Some(Seq(7)),
    });
    let found = publications(&outputs);
    assert_eq!(found.len(), 1);
    assert!(found[0].salvaged && found[0].resend && found[0].message.id.seq == Seq(7));
    // A live message takes no part in it.
    let outputs = bench.post(1);
    assert!(!publications(&outputs)[0].salvaged && !publications(&outputs)[0].resend);
}

#[test]
fn what_is_given_up_in_a_full_store_does_not_wait_behind_what_finds_no_room_there() {
    let mut bench = Bench::new(setup(vec![route(LANE, "#", Durability::Disk)]), Recovered::default());
    let full = |batch: &Batch| Input::CommitFailed { batch: batch.id, fault: StoreFault::Full };
    let first = commits(&bench.post(1))[0].clone();
    bench.post(2);
    bench.on(full(&first));
    let message = Some(Arc::new(stored(3)));
    let letter = Letter { id: LetterId(9), route: "r".into(), lane: Some(LANE), message };
    let outputs = bench.on(Input::Purge { letters: vec![letter] });
    assert!(commits(&outputs).is_empty(), "the store is left alone for a while");
    bench.wait(Limits::default().commit_retry_after);
    let outputs = bench.on(Input::Tick);
    let batch = commits(&outputs)[0].clone();
    assert!(
        matches!(&batch.ops[..], [Op::Purge { letter: LetterId(9) }, Op::Put { .. }]),
        "alone, and with the ledger's entry: {:?}",
        batch.ops
    );
    let outputs = bench.on(Input::Committed { batch: batch.id });
    let inserts = commits(&outputs)[0].ops.iter().filter(|op| matches!(op, Op::Insert { .. }));
    assert_eq!(inserts.count(), 2, "then what waited");
}
