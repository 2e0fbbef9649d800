//! What AMQP 0-9-1 promises beside the contract, against a real RabbitMQ: properties, returns, nacks, pauses, refusals of one
//! message, faults of set-up, and addresses that do not work.

use crate::contract::Place;
use lapin::options::ExchangeDeleteOptions;
use lapin::types::AMQPValue;
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;
use tidegate::config::{self, UpstreamKind};
use tidegate_engine::event::{Input, Outcome, Publication};
use tidegate_engine::id::UpstreamId;
use tidegate_engine::message::Properties;
use tidegate_tests::publications::{Driven, SOON, message, publication};
use tidegate_tests::rabbit::{Consumer, PASSWORD, Rabbit, Received, Setup, USER};

/// The broker refuses larger messages, as every broker does somewhere.
pub(crate) const MAX_MESSAGE_BYTES: usize = 100_000;

fn setup() -> Setup {
    Setup { plugins: Vec::new(), config: format!("max_message_size = {MAX_MESSAGE_BYTES}") }
}

/// For tests that leave the broker as it is; each has exchanges and queues of its own. Ended by its watcher.
pub(crate) fn shared() -> &'static Rabbit {
    static SHARED: OnceLock<Rabbit> = OnceLock::new();
    SHARED.get_or_init(|| Rabbit::start(&setup()))
}

pub(crate) fn amqp(urls: &[String], exchange: &str, declare: bool) -> config::Amqp {
    config::Amqp {
        urls: urls.to_vec(),
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        exchange: config::Exchange {
            name: exchange.to_owned(),
            kind: "topic".to_owned(),
            durable: true,
            declare,
        },
        heartbeat: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        reconnect_max: Duration::from_secs(1),
    }
}

fn driven(rabbit: &Rabbit, exchange: &str) -> Driven {
    Driven::start(UpstreamKind::Amqp(amqp(&[rabbit.url()], exchange, true)))
}

/// A node of its own: for tests that stop it.
pub(crate) struct Broker {
    rabbit: Rabbit,
    consumer: Consumer,
}

impl Broker {
    pub(crate) fn own() -> Self {
        let rabbit = Rabbit::start(&setup());
        rabbit.exchange("telemetry");
        // A classic queue: after a kill -9 a quorum queue of one node has no leader for minutes in Debian 12's RabbitMQ.
        rabbit.queue("all", "telemetry", "#", &[]);
        let consumer = rabbit.consume("all");
        Self { rabbit, consumer }
    }
}

impl Place for Broker {
    fn kind(&self) -> UpstreamKind {
        UpstreamKind::Amqp(amqp(&[self.rabbit.url()], "telemetry", true))
    }

    fn arrived(&mut self, last: u64) -> Vec<String> {
        let last = format!("reading {last}");
        let is_last = |received: &Received| received.body == last.as_bytes();
        let received = self.consumer.wait(SOON, |received| received.iter().any(is_last)).unwrap();
        let mut seen = BTreeSet::new();
        received
            .into_iter()
            .filter(|r| seen.insert(r.id.clone()))
            .map(|r| String::from_utf8(r.body).unwrap())
            .collect()
    }

    fn spoil(&mut self) {
        self.rabbit.kill();
    }

    fn mend(&mut self) {
        self.rabbit.start_again();
    }
}

fn readings(range: std::ops::Range<u64>, key: &str) -> Vec<Publication> {
    range.map(|seq| publication(message(seq), key)).collect()
}

#[test]
fn properties_arrive_as_sent() {
    let rabbit = shared();
    rabbit.exchange("properties");
    rabbit.queue("properties", "properties", "#", &[]);
    let mut driven = driven(rabbit, "properties");
    driven.expect_up();
    let mut rich = message(2);
    rich.payload = (0..=255).cycle().take(90_000).collect::<Vec<u8>>().into(); // several frames
    rich.received.synchronised = false;
    rich.duplicate = true;
    rich.properties = Some(Box::new(Properties {
        utf8_payload: true,
        content_type: Some("application/cbor".into()),
        content_format: Some(11_542),
        response_topic: Some("answers/1".into()),
        correlation_data: Some("c-1".into()),
        expiry_seconds: Some(60),
        user: vec![("unit".into(), "°C".into()), ("tag".into(), "1".into()), ("tag".into(), "2".into())],
    }));
    let mut empty = message(3);
    empty.payload = bytes::Bytes::new();
    let mut again = publication(empty, "k");
    again.resend = true;
    let sent = rich.payload.clone();
    driven.publish(vec![
        publication(message(1), "sensors.boiler-3.temperature"),
        publication(rich, "k"),
        again,
    ]);
    driven.settled(3);
    let received = rabbit.consume("properties").take(3);
    let [plain, rich, again] = received.as_slice() else { panic!("{received:?}") };

    assert_eq!(plain.id, "site-a/boiler-3/7/1");
    assert_eq!(plain.routing_key, "sensors.boiler-3.temperature");
    assert_eq!(plain.body, b"reading 1");
    assert_eq!(*plain.properties.delivery_mode(), Some(2));
    assert_eq!(*plain.properties.timestamp(), Some(1_700_000_000));
    assert_eq!(plain.properties.app_id().as_ref().unwrap().as_str(), "tidegate");
    assert_eq!(*plain.properties.priority(), None);
    assert_eq!(plain.device().as_deref(), Some("boiler-3"));
    assert_eq!(plain.topic(), "sensors/boiler-3/temperature");
    assert_eq!(plain.text("clock"), None, "only a clock that is not to be believed is named");
    assert_eq!(plain.header("received"), Some(AMQPValue::LongLongInt(1_700_000_000_123)));
    assert_eq!(plain.header("qos"), None, "only another QoS than 1 is named");
    assert!(!plain.resend());

    assert!(rich.body == sent, "the payload of several frames differs");
    assert!(rich.resend(), "a duplicate that the gateway did not know is marked");
    assert_eq!(rich.text("clock").as_deref(), Some("unsynchronised"));
    assert_eq!(
        rich.text("topic").as_deref(),
        Some("sensors/boiler-3/temperature"),
        "the routing key does not tell it"
    );
    assert_eq!(rich.properties.content_type().as_ref().unwrap().as_str(), "application/cbor");
    assert_eq!(rich.properties.reply_to().as_ref().unwrap().as_str(), "answers/1");
    assert_eq!(rich.properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(rich.header("mqtt.utf8"), Some(AMQPValue::Boolean(true)));
    assert_eq!(rich.header("mqtt.expiry"), Some(AMQPValue::LongLongInt(60)));
    assert_eq!(rich.header("coap.content-format"), Some(AMQPValue::LongInt(11_542)));
    assert_eq!(rich.text("mqtt.user.unit").as_deref(), Some("°C"));
    let both = ["1", "2"].map(|v| AMQPValue::LongString(v.into()));
    assert_eq!(rich.header("mqtt.user.tag"), Some(AMQPValue::FieldArray(both.to_vec().into())));

    assert!(again.body.is_empty() && again.resend());
}

#[test]
fn exactly_the_unroutable_messages_are_returned() {
    let rabbit = shared();
    rabbit.exchange("partly");
    rabbit.queue("partly", "partly", "bound.#", &[]);
    let mut driven = driven(rabbit, "partly");
    driven.expect_up();
    // Ever other patterns, many at a time: confirms come in groups, and returns between them.
    let lost = |seq: u64| seq.is_multiple_of(7) || (500..520).contains(&seq) || seq == 999;
    for begin in (0..1_000).step_by(100) {
        driven.publish(
            (begin..begin + 100)
                .map(|seq| publication(message(seq), if lost(seq) { "nowhere" } else { "bound.k" }))
                .collect(),
        );
    }
    for (seq, outcome) in driven.settled(1_000) {
        match outcome {
            Outcome::Confirmed => assert!(!lost(seq), "{seq} reached no queue and was confirmed"),
            Outcome::Returned(why) => {
                assert!(lost(seq), "{seq} is in the queue and was returned");
                assert!(why.contains("nowhere") && why.contains("bind"), "{why}");
            }
            other => panic!("{seq}: {other:?}"),
        }
    }
    let arrived = rabbit.consume("partly").take((0..1_000).filter(|seq| !lost(*seq)).count());
    let seqs: Vec<u64> = arrived.iter().map(|r| r.id.rsplit('/').next().unwrap().parse().unwrap()).collect();
    assert!(seqs.is_sorted(), "out of order");
}

#[test]
fn a_full_queue_nacks() {
    let rabbit = shared();
    rabbit.exchange("full");
    let reject = AMQPValue::LongString("reject-publish".into());
    rabbit.queue("full", "full", "#", &[("x-max-length", AMQPValue::LongInt(3)), ("x-overflow", reject)]);
    let mut driven = driven(rabbit, "full");
    driven.expect_up();
    let mut nacked = 0;
    for seq in 0..10 {
        driven.publish(readings(seq..seq + 1, "k"));
        match driven.settled(1).as_slice() {
            [(_, Outcome::Confirmed)] => assert_eq!(nacked, 0, "{seq}"),
            [(_, Outcome::Nacked)] => nacked += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(nacked >= 6, "{nacked}");
    driven.publish((10..15).map(|seq| publication(message(seq), "k")).collect());
    assert!(driven.settled(5).iter().all(|(_, outcome)| *outcome == Outcome::Nacked));
}

/// A message that makes this broker close the channel (406): there is no consumer for a direct reply.
fn poisonous(seq: u64) -> Publication {
    let mut poison = message(seq);
    let response_topic = Some("amq.rabbitmq.reply-to".to_owned());
    poison.properties = Some(Box::new(Properties { response_topic, ..Properties::default() }));
    publication(poison, "k")
}

/// Too large for this broker (406), which it sees only when it has the whole of it.
fn oversized(seq: u64) -> Publication {
    let mut large = message(seq);
    large.payload = vec![b'x'; MAX_MESSAGE_BYTES + 1].into();
    publication(large, "k")
}

#[test]
fn a_message_that_closes_the_channel_is_found_and_refused_and_the_others_flow() {
    let rabbit = shared();
    rabbit.exchange("poison");
    rabbit.queue("poison", "poison", "#", &[]);
    let mut driven = driven(rabbit, "poison");
    driven.expect_up();
    let bad = [40, 41, 120, 199];
    let all: Vec<_> = (0..200)
        .map(|seq| match seq {
            40 | 120 => poisonous(seq),
            41 | 199 => oversized(seq),
            _ => publication(message(seq), "k"),
        })
        .collect();
    for batch in all.chunks(50) {
        driven.publish(batch.to_vec());
    }
    for (seq, outcome) in driven.settled(200) {
        match outcome {
            Outcome::Confirmed => assert!(!bad.contains(&seq), "{seq}"),
            Outcome::Refused(why) => {
                assert!(bad.contains(&seq), "{seq} was refused: {why}");
                assert!(why.starts_with("406 "), "{why}");
            }
            other => panic!("{seq}: {other:?}"),
        }
    }
    let received = rabbit.consume("poison");
    let last = |r: &[Received]| r.iter().any(|r| r.id.ends_with("/198"));
    let received = received.wait(SOON, last).unwrap();
    let mut first = BTreeSet::new();
    let mut order = Vec::new();
    for r in &received {
        let seq: u64 = r.id.rsplit('/').next().unwrap().parse().unwrap();
        if first.insert(seq) {
            order.push(seq);
        } else {
            assert!(r.resend(), "{seq} came twice without the mark");
        }
    }
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 196);
}

#[test]
fn an_exchange_that_is_gone_ends_the_link_and_refuses_nothing() {
    let rabbit = shared();
    rabbit.exchange("gone");
    let mut driven = Driven::start(UpstreamKind::Amqp(amqp(&[rabbit.url()], "gone", false)));
    driven.expect_up();
    rabbit.with_channel(async |channel| {
        channel.exchange_delete("gone".into(), ExchangeDeleteOptions::default()).await
    });
    driven.publish(readings(0..20, "k"));
    assert_eq!(driven.expect_down(), []);
    driven.expect_silence(Duration::from_millis(500));
    rabbit.exchange("gone");
    rabbit.queue("gone", "gone", "#", &[]);
    driven.expect_up();
    driven.publish(readings(20..30, "k"));
    assert!(driven.settled(10).iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
}

#[test]
fn a_user_without_permission_waits_until_it_has_it() {
    let rabbit = shared();
    rabbit.exchange("closed");
    rabbit.queue("closed", "closed", "#", &[]);
    rabbit.ctl(&["add_user", "stranger", "s"]);
    rabbit.ctl(&["set_permissions", "stranger", "^$", "^$", "^$"]);
    let mut settings = amqp(&[rabbit.url()], "closed", false);
    settings.username = "stranger".into();
    settings.password = "s".into();
    let mut driven = Driven::start(UpstreamKind::Amqp(settings));
    // A passive check needs no permission; the first message does.
    driven.expect_up();
    driven.publish(readings(0..5, "k"));
    assert_eq!(driven.expect_down(), []);
    rabbit.ctl(&["set_permissions", "stranger", "^$", "^closed$", "^$"]);
    driven.expect_up();
    driven.publish(readings(5..10, "k"));
    assert!(driven.settled(5).iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
    // One routing key that is not for it is the fault of that message.
    rabbit.ctl(&["set_topic_permissions", "stranger", "closed", "^open\\.", ".*"]);
    driven.publish(
        [readings(10..12, "open.a"), readings(12..13, "secret"), readings(13..20, "open.b")].concat(),
    );
    for (seq, outcome) in driven.settled(10) {
        match outcome {
            Outcome::Confirmed => assert_ne!(seq, 12),
            Outcome::Refused(why) => assert!(seq == 12 && why.contains("topic"), "{seq}: {why}"),
            other => panic!("{seq}: {other:?}"),
        }
    }
}

#[test]
fn a_wrong_password_waits_until_it_is_right() {
    let rabbit = shared();
    rabbit.ctl(&["add_user", "late", "other"]);
    rabbit.ctl(&["set_permissions", "late", ".*", ".*", ".*"]);
    let mut settings = amqp(&[rabbit.url()], "late", true);
    settings.username = "late".into();
    let mut driven = Driven::start(UpstreamKind::Amqp(settings));
    driven.expect_silence(Duration::from_secs(1));
    rabbit.ctl(&["change_password", "late", PASSWORD]);
    driven.expect_up();
}

#[test]
fn a_host_that_cannot_be_resolved_and_a_closed_port_do_not_keep_the_next_url_from_working() {
    let rabbit = shared();
    let closed = format!("amqp://127.0.0.1:{}", tidegate_tests::ports::free_port());
    let urls = ["amqp://no-such-host.invalid".to_owned(), closed, rabbit.url()];
    let mut driven = Driven::start(UpstreamKind::Amqp(amqp(&urls, "urls", true)));
    driven.expect_up();
}

#[test]
fn a_broker_that_accepts_and_says_nothing_is_given_up_and_its_connection_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    let mut settings = amqp(&[url], "silent", true);
    settings.connect_timeout = Duration::from_millis(200);
    let _driven = Driven::start(UpstreamKind::Amqp(settings));
    for _ in 0..3 {
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(SOON)).unwrap();
        let mut said = Vec::new();
        peer.read_to_end(&mut said).unwrap();
        assert!(said.starts_with(b"AMQP"));
    }
}

#[test]
fn a_broker_short_of_memory_pauses_and_nothing_is_lost() {
    let rabbit = Rabbit::start(&setup());
    rabbit.exchange("telemetry");
    rabbit.queue("all", "telemetry", "#", &[]);
    let mut driven = driven(&rabbit, "telemetry");
    driven.expect_up();
    driven.publish(readings(0..10, "k"));
    driven.settled(10);
    rabbit.block(true);
    // The broker tells a connection when it publishes.
    driven.publish(readings(10..20, "k"));
    let report = driven.next(SOON);
    assert!(
        matches!(report, Some(Input::UpstreamBlocked { upstream: UpstreamId(0), blocked: true })),
        "{report:?}"
    );
    driven.expect_silence(Duration::from_millis(500));
    rabbit.block(false);
    let report = driven.next(SOON);
    assert!(matches!(report, Some(Input::UpstreamBlocked { blocked: false, .. })), "{report:?}");
    assert!(driven.settled(10).iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
    assert_eq!(rabbit.depth("all"), 20);
}

#[test]
fn a_broker_that_stops_in_an_orderly_way_ends_the_link() {
    let mut rabbit = Rabbit::start(&setup());
    rabbit.exchange("telemetry");
    rabbit.queue("all", "telemetry", "#", &[]);
    let mut driven = driven(&rabbit, "telemetry");
    driven.expect_up();
    driven.publish(readings(0..200, "k"));
    let settled = driven.settled(200);
    assert!(settled.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
    rabbit.stop();
    assert_eq!(driven.expect_down(), []);
    rabbit.start_again();
    driven.expect_up();
    assert_eq!(rabbit.depth("all"), 200);
}
