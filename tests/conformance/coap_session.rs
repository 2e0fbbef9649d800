//! The CoAP server of the engine against any bytes, and against the device's own publisher over a bad link.
//! Safety is played by a coin here; that it is real is the simulation's part.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

#[path = "coap_session/observer.rs"]
mod observer;

use bytes::Bytes;
use fastrand::Rng;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_engine::event::{Anonymous, Endpoint, Output, Setup, Via};
use tidegate_engine::id::{DeviceId, GatewayId, MessageId};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message as Value, Qos, Source};
use tidegate_engine::mutant::{Mutant, Planted};
use tidegate_engine::session::coap::{Coap, Receipt};
use tidegate_engine::session::{LastValue, LastValues, Receipt as AnyReceipt, Request};
use tidegate_engine::time::{Duration, Instant, Now, Stamp};
use tidegate_engine::topic::{Filter, Topic};
use tidegate_node::coap::{Event, Publication, Publisher};
use tidegate_tests::property::property;
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

fn setup(seed: u64, limits: Limits) -> Setup {
    Setup {
        gateway: GatewayId::new("g").unwrap(),
        epoch: 1,
        seed,
        limits,
        anonymous: Anonymous::Everywhere,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: Vec::new(),
        routes: Vec::new(),
    }
}

fn at(micros: u64) -> Now {
    Now { instant: Instant(micros), ..Now::default() }
}

fn device(number: u16) -> Endpoint {
    Endpoint { socket: 0, peer: format!("192.0.2.1:{}", 1_000 + number).parse().unwrap(), association: 0 }
}

/// Nothing is retained.
struct Nothing;

impl LastValues for Nothing {
    fn last(&self, _: Instant, _: &Topic) -> Option<LastValue> {
        None
    }

    fn first(&self, _: Instant, _: &Filter) -> Option<LastValue> {
        None
    }
}

// ------------------------------------------------------------------------------------------- any bytes

/// Everything that is asked for is retained, and long.
struct Everything;

impl LastValues for Everything {
    fn last(&self, _: Instant, topic: &Topic) -> Option<LastValue> {
        Some(LastValue { message: message(topic.clone(), 3_000), seconds_left: Some(60) })
    }

    fn first(&self, now: Instant, _: &Filter) -> Option<LastValue> {
        self.last(now, &Topic::new("commands/a/x").unwrap())
    }
}

fn message(topic: Topic, bytes: usize) -> Arc<Value> {
    Arc::new(Value {
        id: MessageId::default(),
        device: DeviceId::new("d").unwrap(),
        topic,
        payload: vec![b'x'; bytes].into(),
        received: Stamp::default(),
        qos: if bytes.is_multiple_of(2) { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        retain: bytes.is_multiple_of(5),
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    })
}

/// Something that happens to a server.
#[derive(Clone, Debug)]
enum Step {
    Publish(u8, usize),
    Datagram(u16, Vec<u8>),
    Safe(u8),
    Pass(u64),
    Hold(bool),
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![4 => 0_u16..=60, 1 => any::<u16>()];
    let segment = prop_oneof![4 => "(t|ps|a|[.]well-known|core|command|telemetry)".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..4)];
    let options = vec((number, vec(any::<u8>(), 0..4)), 0..2);
    (0_u8..=3, any::<u8>(), 0_u16..8, vec(segment, 0..5), options, vec(any::<u8>(), 0..3)).prop_map(
        |(kind, code, message_id, path, more, payload)| {
            let kind = [Kind::Confirmable, Kind::NonConfirmable, Kind::Acknowledgement, Kind::Reset]
                [usize::from(kind)];
            let code = if code < 200 { Code(code % 4) } else { Code(code) };
            let mut options: Vec<(u16, Vec<u8>)> =
                path.into_iter().map(|segment| (OptionNumber::URI_PATH.0, segment)).chain(more).collect();
            options.sort_by_key(|(number, _)| *number);
            let mut buffer = [0; 256];
            let mut writer = Writer::new(&mut buffer, Header { kind, code, message_id }, Token::EMPTY);
            for (number, value) in &options {
                writer = writer.option(OptionNumber(*number), value);
            }
            writer.payload(&payload).finish().unwrap().to_vec()
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![4 => requests(), 1 => vec(any::<u8>(), 0..32)];
    let step = prop_oneof![
        2 => (any::<u8>(), 0_usize..2_000).prop_map(|(topic, bytes)| Step::Publish(topic, bytes)),
        8 => (0_u16..6, bytes).prop_map(|(from, bytes)| Step::Datagram(from, bytes)),
        3 => any::<u8>().prop_map(Step::Safe),
        3 => (0_u64..=5_000_000).prop_map(Step::Pass),
        1 => (200_000_000_u64..=300_000_000).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Hold),
    ];
    vec(step, 0..120)
}

proptest! {
    #![proptest_config(property(1_000))]

    /// It stays within its bounds, answers with well-formed messages only, and in the end comes to rest and forgets.
    #[test]
    fn no_bytes_upset_the_server(seed in any::<u64>(), steps in steps()) {
        let limits = Limits {
            coap_peers: 4,
            coap_exchanges_per_peer: 3,
            coap_observers: 5,
            coap_observers_per_peer: 3,
            ..Limits::default()
        };
        let mut coap = Coap::new(&setup(seed, limits), Planted::default(), &[], at(0));
        let mut now = 0;
        let mut receipts: Vec<Receipt> = Vec::new();
        for step in steps {
            let mut request_bytes = usize::MAX;
            match step {
                Step::Datagram(from, bytes) => {
                    request_bytes = bytes.len();
                    coap.datagram(at(now), device(from), Via::Open, Bytes::from(bytes), &Everything);
                }
                Step::Publish(topic, bytes) => {
                    let topics = ["a", "a/a", "core", "commands/192.0.2.1/a", "t", "ps"];
                    let topic = Topic::new(topics[usize::from(topic) % topics.len()]).unwrap();
                    coap.deliver(at(now), &message(topic, bytes));
                }
                Step::Safe(which) if !receipts.is_empty() => {
                    let receipt = receipts.swap_remove(usize::from(which) % receipts.len());
                    coap.safe(at(now), receipt);
                }
                Step::Safe(_) => {}
                Step::Pass(time) => {
                    now += time;
                    coap.tick(at(now));
                }
                Step::Hold(on) => coap.hold(on),
            }
            gather(&mut coap, &mut receipts, request_bytes);
            assert!(coap.stats().peers <= 4 && coap.stats().subscriptions <= 5);
            assert!(receipts.len() <= 4 * 3, "no more in progress than fits: none was forgotten");
        }
        for receipt in receipts.drain(..) {
            coap.safe(at(now), receipt);
        }
        let mut ticks = 0;
        while let Some(due) = coap.timeout() {
            now = now.max(due.0);
            coap.tick(at(now));
            gather(&mut coap, &mut receipts, usize::MAX);
            ticks += 1;
            assert!(ticks < 1_000, "time alone brings it to rest");
        }
        assert!(coap.stats().peers <= coap.stats().subscriptions, "it remembers whom it may have to tell something");
    }
}

fn gather(coap: &mut Coap, receipts: &mut Vec<Receipt>, request_bytes: usize) {
    while let Some(request) = coap.poll() {
        match request {
            Request::Publish { incoming, receipt } => {
                let topic = incoming.topic.as_str();
                assert!(!topic.contains(['+', '#', '\0']) && !topic.starts_with('$'), "{topic:?}");
                if let Some(AnyReceipt::Coap(receipt)) = receipt {
                    receipts.push(receipt);
                }
            }
            Request::Output(Output::SendTo { bytes, .. }) => {
                assert!(Message::parse(&bytes).is_ok(), "{bytes:02x?}");
                assert!(
                    bytes.len() <= request_bytes.saturating_mul(3),
                    "{bytes:02x?} for {request_bytes} bytes"
                );
            }
            _ => {}
        }
    }
}

// ---------------------------------------------------------------------------------- the device's publisher

/// A link that loses, doubles, delays and so reorders datagrams.
#[derive(Default)]
struct Link {
    /// By time of arrival and a number that keeps the order of equals.
    under_way: BTreeMap<(u64, u64), Vec<u8>>,
    sent: u64,
}

impl Link {
    fn send(&mut self, rng: &mut Rng, now: u64, datagram: &[u8]) {
        let copies = match rng.u8(..) {
            0..=75 => 0,
            76..=100 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if rng.u8(..) < 40 { rng.u64(0..8_000_000) } else { rng.u64(1_000..50_000) };
            self.sent += 1;
            self.under_way.insert((now + delay, self.sent), datagram.to_vec());
        }
    }

    fn due(&self) -> Option<u64> {
        self.under_way.first_key_value().map(|((time, _), _)| *time)
    }

    fn receive(&mut self, now: u64) -> Option<Vec<u8>> {
        let due = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(due.remove())
    }
}

/// What came of one seed.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    timed_out: u64,
    repeated: u64,
    separate: u64,
    held: u64,
}

fn play(seed: u64, planted: Planted, tally: &mut Tally) {
    let mut rng = Rng::with_seed(seed);
    let mut coap = Coap::new(&setup(rng.u64(..), Limits::default()), planted, &[], at(0));
    let mut publisher = Publisher::new([0; 128], rng.u64(..));
    let (mut up, mut down) = (Link::default(), Link::default());
    let mut now = 0;
    let mut pending: BTreeMap<(u64, u64), (Receipt, Vec<u8>)> = BTreeMap::new();
    let (mut published, mut safe) = (BTreeSet::new(), BTreeSet::new());
    let mut count = 0_u64;
    let mut current = Vec::new();
    let mut hold_until = None;
    loop {
        while let Some(datagram) = up.receive(now) {
            coap.datagram(at(now), device(1), Via::Open, Bytes::from(datagram), &Nothing);
        }
        while let Some(entry) = pending.first_entry().filter(|entry| entry.key().0 <= now) {
            let (receipt, payload) = entry.remove();
            safe.insert(payload);
            coap.safe(at(now), receipt);
        }
        coap.tick(at(now));
        if hold_until.is_some_and(|until| until <= now) {
            hold_until = None;
            coap.hold(false);
        }
        while let Some(request) = coap.poll() {
            match request {
                Request::Publish { incoming, receipt: Some(AnyReceipt::Coap(receipt)) } => {
                    let payload = incoming.payload.to_vec();
                    assert!(published.insert(payload.clone()), "seed {seed}: published twice: {payload:?}");
                    let takes = if rng.u8(..) < 60 { rng.u64(0..20_000_000) } else { rng.u64(0..300_000) };
                    let order = u64::try_from(pending.len()).unwrap() + now * 64;
                    pending.insert((now + takes, order), (receipt, payload));
                }
                Request::Output(Output::SendTo { endpoint, bytes }) => {
                    assert_eq!(endpoint, device(1));
                    let message = Message::parse(&bytes).unwrap();
                    tally.separate += u64::from(message.kind() == Kind::Confirmable);
                    tally.held += u64::from(message.code() == Code::SERVICE_UNAVAILABLE);
                    down.send(&mut rng, now, &bytes);
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(datagram) = down.receive(now) {
            publisher.handle_datagram(now, &datagram);
        }
        match publisher.poll_event() {
            Some(Event::Acknowledged { .. }) => {
                assert!(safe.contains(&current), "seed {seed}: acknowledged and not safe: {current:?}");
                tally.acknowledged += 1;
            }
            Some(Event::TimedOut { .. }) => tally.timed_out += 1,
            Some(event) => panic!("seed {seed}: {event:?}"),
            None => {}
        }
        if publisher.is_ready() {
            if count == 20 {
                break;
            }
            count += 1;
            current = count.to_string().into_bytes();
            publisher.publish(now, &Publication::confirmable(&["t", "sensors", "a"], &current)).unwrap();
            if rng.u8(..) < 12 {
                coap.hold(true);
                hold_until = Some(now + rng.u64(0..8_000_000));
            }
        }
        while let Some(datagram) = publisher.poll_transmit(now) {
            up.send(&mut rng, now, datagram);
        }
        let next = [
            up.due(),
            down.due(),
            pending.keys().next().map(|(time, _)| *time),
            coap.timeout().map(|due| due.0),
            publisher.poll_timeout(),
            hold_until,
        ];
        let next = next.into_iter().flatten().min().unwrap_or(now);
        now = next.max(now + 1);
        assert!(
            now < u64::try_from(Duration::from_secs(86_400).as_micros()).unwrap(),
            "seed {seed}: it hangs"
        );
    }
    tally.repeated += coap.stats().repeated;
}

#[test]
fn over_a_bad_link_every_acknowledged_message_is_safe_and_none_is_taken_twice() {
    let mut tally = Tally::default();
    for seed in 0..1_000 {
        play(seed, Planted::default(), &mut tally);
    }
    // Enough happened to say so.
    assert!(tally.acknowledged > 15_000, "{tally:?}");
    assert!(
        tally.timed_out > 10 && tally.repeated > 2_000 && tally.separate > 2_000 && tally.held > 100,
        "{tally:?}"
    );
}

#[test]
#[should_panic(expected = "published twice")]
fn a_server_without_deduplication_is_found_out() {
    for seed in 0..100 {
        play(seed, Planted::with(Mutant::CoapNoDedupe), &mut Tally::default());
    }
}
