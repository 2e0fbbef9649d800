//! The whole engine as the server: what it takes, what it says to what it does not take, and what it keeps over restarts.
//! Devices are the firmware's, or a session of the crate where more than publishing is asked.

mod attacks;

use crate::{BUFFER, message, parameters, view};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_engine::Engine;
use tidegate_engine::event::{
    Anonymous, DeviceSetup, Drain, Durability, Endpoint, Input, Notice, Op, Output, Policy, Proof, RecordKey,
    RecordKind, Recovered, RouteSetup, Senml, Setup, UpstreamSetup, Via,
};
use tidegate_engine::id::{DeviceId, GatewayId, LaneId, UpstreamId};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::Message as Taken;
use tidegate_engine::resource::Resource;
use tidegate_engine::time::{Instant, Now};
use tidegate_engine::topic::Filter;
use tidegate_node::coap::secured::Secured;
use tidegate_node::coap::{Event, Publication, Publisher};
use tidegate_oscore::{Context, Exchange, Observation, Parameters, Replay, Sequence, Session};
use tidegate_wire::coap::{Block, Code, Header, Kind, Message, OptionNumber, Token, Writer};

fn context(own: &[u8], other: &[u8]) -> Context {
    let (secret, salt) = parameters();
    Context::derive(&Parameters {
        master_secret: &secret,
        master_salt: &salt,
        id_context: None,
        sender_id: own,
        recipient_id: other,
    })
    .unwrap()
}

fn setup(epoch: u64) -> Setup {
    let id = DeviceId::new("boiler-3").unwrap();
    Setup {
        gateway: GatewayId::new("g").unwrap(),
        epoch,
        seed: 7,
        limits: Limits::default(),
        anonymous: Anonymous::Everywhere,
        devices: vec![DeviceSetup {
            publish: vec![Filter::new("sensors/boiler-3/#").unwrap()],
            subscribe: vec![Filter::new("sensors/boiler-3/#").unwrap()],
            secret: None,
            certificate: None,
            psk: false,
            oscore: Some(Arc::new(context(&[1], &[0x5A]))),
            id,
        }],
        resources: Resource::shipped(),
        upstreams: vec![UpstreamSetup { name: "u".to_owned(), window: 16, drain: Drain::default() }],
        routes: vec![RouteSetup {
            lane: LaneId(1),
            name: "r".to_owned(),
            filter: Some(Filter::new("#").unwrap()),
            upstream: UpstreamId(0),
            routing_key: None,
            durability: Durability::Disk,
            priority: 5,
            senml: Senml::Untouched,
            packing: None,
            policy: Policy::default(),
            salvaged: false,
        }],
    }
}

/// A gateway with a store that survives it.
struct Gateway {
    engine: Engine,
    epoch: u64,
    now: u64,
    /// Commits are carried out.
    store_works: bool,
    records: BTreeMap<RecordKey, Bytes>,
    taken: Vec<Arc<Taken>>,
    sent: Vec<(Endpoint, Bytes)>,
    notices: Vec<Notice>,
    puts: usize,
}

impl Gateway {
    fn new() -> Self {
        let engine = Engine::new(setup(1), Recovered::default(), Now::default());
        let mut gateway = Self {
            engine,
            epoch: 1,
            now: 0,
            store_works: true,
            records: BTreeMap::new(),
            taken: Vec::new(),
            sent: Vec::new(),
            notices: Vec::new(),
            puts: 0,
        };
        gateway.run();
        gateway
    }

    /// The power fails.
    fn restart(&mut self) {
        self.restart_with(setup(self.epoch + 1));
    }

    fn restart_with(&mut self, setup: Setup) {
        self.epoch += 1;
        let records = self.records.clone().into_iter().collect();
        let recovered = Recovered { records, ..Recovered::default() };
        self.engine = Engine::new(setup, recovered, at(self.now));
        self.run();
    }

    fn reload(&mut self, setup: Setup) {
        self.engine.handle(at(self.now), Input::Reload(Box::new(setup)));
        self.run();
    }

    /// The keys whose numbers are stored.
    fn reservations(&self) -> Vec<&[u8]> {
        let all = self.records.keys().filter(|key| key.kind == RecordKind::OscoreSequence);
        all.map(|key| &key.key[..]).collect()
    }

    fn run(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::SendTo { endpoint, bytes } => self.sent.push((endpoint, bytes)),
                Output::Notice(notice) => self.notices.push(notice),
                Output::Commit(batch) if self.store_works => {
                    for op in batch.ops {
                        match op {
                            Op::Insert { message, .. } => self.taken.push(message),
                            Op::Put { key, value } => {
                                self.puts += usize::from(key.kind == RecordKind::OscoreSequence);
                                self.records.insert(key, value);
                            }
                            Op::Remove { key } => {
                                self.records.remove(&key);
                            }
                            _ => {}
                        }
                    }
                    self.engine.handle(at(self.now), Input::Committed { batch: batch.id });
                }
                _ => {}
            }
        }
    }

    fn datagram(&mut self, port: u16, bytes: &[u8]) -> Vec<Bytes> {
        self.sent.clear();
        let bytes = Bytes::copy_from_slice(bytes);
        let input = Input::Datagram { endpoint: endpoint(port), via: Via::Open, bytes };
        self.engine.handle(at(self.now), input);
        self.run();
        std::mem::take(&mut self.sent).into_iter().map(|(_, bytes)| bytes).collect()
    }

    fn payloads(&self) -> Vec<&[u8]> {
        self.taken.iter().map(|message| &message.payload[..]).collect()
    }
}

fn at(micros: u64) -> Now {
    Now { instant: Instant(micros), ..Now::default() }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { socket: 0, peer: format!("192.0.2.1:{port}").parse().unwrap(), association: 0 }
}

// ------------------------------------------------------------------------------------- the firmware's device

type Device = Secured<[u8; 128], [u8; 256]>;

fn device() -> Device {
    let session = Session::new(context(&[0x5A], &[1]), Sequence::reserved(0, 10_000), Replay::fresh());
    Secured::new(Publisher::new([0; 128], 7), session, [0; 256])
}

const PATH: [&str; 4] = ["t", "sensors", "boiler-3", "t"];

/// Publishes and lets the two talk until nothing is left to say.
fn publish(device: &mut Device, gateway: &mut Gateway, payload: &[u8]) -> Option<Event> {
    device.publish(gateway.now, &Publication::confirmable(&PATH, payload)).unwrap();
    for _ in 0..4 {
        let Some(datagram) = device.poll_transmit(gateway.now).map(<[u8]>::to_vec) else { break };
        for answer in gateway.datagram(5_000, &datagram) {
            device.handle_datagram(gateway.now, &answer);
        }
    }
    device.poll_event()
}

#[test]
fn a_reading_is_taken_in_its_devices_name_and_acknowledged_when_it_is_safe() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    let done = publish(&mut device, &mut gateway, b"71.5");
    assert!(matches!(done, Some(Event::Acknowledged { .. })), "{done:?}");
    let [message] = &gateway.taken[..] else { panic!("{:?}", gateway.taken) };
    assert_eq!((message.device.as_str(), message.topic.as_str()), ("boiler-3", "sensors/boiler-3/t"));
    assert_eq!(&message.payload[..], b"71.5");
    let proofs = gateway
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::SignedIn { proof: Proof::Oscore, .. }));
    assert_eq!(proofs.count(), 1);
    assert!(publish(&mut device, &mut gateway, b"71.6").is_some());
    assert_eq!(gateway.payloads(), [b"71.5", b"71.6"]);
    assert_eq!(gateway.puts, 1, "one reservation is enough for both");
}

#[test]
fn each_life_of_the_gateway_asks_once_and_a_recorded_request_is_never_taken_again() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    publish(&mut device, &mut gateway, b"1");
    device.publish(0, &Publication::confirmable(&PATH, b"2")).unwrap();
    let recorded = device.poll_transmit(0).unwrap().to_vec();
    for answer in gateway.datagram(5_000, &recorded) {
        device.handle_datagram(0, &answer);
    }
    assert!(device.poll_event().is_some());
    for life in 0..3 {
        gateway.restart();
        let [challenge] = &gateway.datagram(6_000, &recorded)[..] else { panic!("life {life}") };
        assert!(
            view(challenge)
                .option(OptionNumber::OSCORE)
                .is_some_and(|value| value.first().is_some_and(|flags| flags & 7 != 0))
        );
        assert!(publish(&mut device, &mut gateway, b"3").is_some());
        let [refused] = &gateway.datagram(6_000, &recorded)[..] else { panic!("life {life}") };
        assert_eq!(
            (view(refused).code(), view(refused).payload()),
            (Code::UNAUTHORIZED, &b"Replay detected"[..])
        );
    }
    assert_eq!(gateway.payloads(), [b"1", b"2", b"3", b"3", b"3"]);
}

/// Publishes, and holds every answer to a number that no answer had before.
fn answered_anew(device: &mut Device, gateway: &mut Gateway, used: &mut std::collections::BTreeSet<Vec<u8>>) {
    device.publish(0, &Publication::confirmable(&PATH, b"1")).unwrap();
    let datagram = device.poll_transmit(0).unwrap().to_vec();
    for answer in gateway.datagram(5_000, &datagram) {
        let value = view(&answer).option(OptionNumber::OSCORE).unwrap().to_vec();
        assert!(used.insert(value), "twice");
    }
    device.cancel();
}

#[test]
fn a_restart_never_uses_a_number_again() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..5 {
        answered_anew(&mut device, &mut gateway, &mut used);
        gateway.restart();
    }
    assert_eq!(used.len(), 5);
}

#[test]
fn keys_that_leave_the_configuration_leave_one_number_behind_and_never_use_one_again() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    let nobody = |epoch| Setup { devices: Vec::new(), ..setup(epoch) };
    let mut used = std::collections::BTreeSet::new();
    for round in 0..6 {
        answered_anew(&mut device, &mut gateway, &mut used);
        let keys = gateway.reservations().iter().filter(|key| key.len() == 16).count();
        assert_eq!(keys, 1, "{:?}", gateway.reservations());
        let epoch = gateway.epoch;
        // At a reload, and while the gateway is off.
        if round % 2 == 0 {
            gateway.reload(nobody(epoch))
        } else {
            gateway.restart_with(nobody(epoch + 1))
        }
        assert_eq!(gateway.reservations(), [b""], "round {round}");
        if round % 3 == 0 {
            gateway.reload(setup(epoch))
        } else {
            gateway.restart()
        }
        if round == 4 {
            assert_eq!(gateway.reservations(), [b""], "another device begins above it as well");
            let other = |device: &mut DeviceSetup| device.oscore = Some(Arc::new(context(&[2], &[0x5A])));
            let mut moved = setup(epoch);
            moved.devices.iter_mut().for_each(other);
            gateway.reload(moved);
            gateway.reload(setup(epoch));
        }
    }
    assert_eq!(used.len(), 6);
}

#[test]
fn a_request_from_before_its_device_left_is_not_new_when_it_comes_back_in_the_same_life() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    device.publish(0, &Publication::confirmable(&PATH, b"1")).unwrap();
    let mut recorded = Vec::new();
    while let Some(datagram) = device.poll_transmit(0).map(<[u8]>::to_vec) {
        for answer in gateway.datagram(5_000, &datagram) {
            device.handle_datagram(0, &answer);
        }
        recorded.push(datagram);
    }
    assert!(recorded.len() >= 2, "the request, and with the answer to the challenge");
    let epoch = gateway.epoch;
    gateway.reload(Setup { devices: Vec::new(), ..setup(epoch) });
    gateway.reload(setup(epoch));
    for datagram in recorded {
        gateway.datagram(6_000, &datagram);
    }
    assert_eq!(gateway.payloads(), [b"1"]);
}

#[test]
fn nothing_is_encrypted_before_its_number_is_stored() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    gateway.store_works = false;
    device.publish(0, &Publication::confirmable(&PATH, b"1")).unwrap();
    let datagram = device.poll_transmit(0).unwrap().to_vec();
    assert!(gateway.datagram(5_000, &datagram).is_empty());
    assert!(gateway.datagram(5_000, &datagram).is_empty(), "nor to the repetition");
    gateway.restart();
    gateway.store_works = true;
    assert_eq!(gateway.datagram(5_000, &datagram).len(), 1);
}

#[test]
fn a_repetition_gets_the_same_answer_and_is_not_taken_twice() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    publish(&mut device, &mut gateway, b"1");
    device.publish(0, &Publication::confirmable(&PATH, b"2")).unwrap();
    let datagram = device.poll_transmit(0).unwrap().to_vec();
    let first = gateway.datagram(5_000, &datagram);
    assert_eq!(first.len(), 1);
    assert_eq!(gateway.datagram(5_000, &datagram), first);
    assert_eq!(gateway.payloads(), [b"1", b"2"]);
    // From elsewhere it is no repetition of anything.
    let [refused] = &gateway.datagram(5_001, &datagram)[..] else { panic!() };
    assert_eq!(view(refused).payload(), b"Replay detected");
}

#[test]
fn what_cannot_be_opened_is_refused_in_the_clear_with_max_age_0() {
    let mut gateway = Gateway::new();
    let option = OptionNumber::OSCORE.0;
    type Case = (&'static [u8], &'static [u8], Code, &'static [u8]);
    let cases: [Case; 4] = [
        (&[0xE9, 1, 0x5A], b"123456789", Code::BAD_OPTION, b"Failed to decode COSE"),
        (&[9, 1, 0x5A], b"", Code::BAD_OPTION, b"Failed to decode COSE"),
        (&[9, 1, 0x5B], b"123456789", Code::UNAUTHORIZED, b"Security context not found"),
        (&[9, 1, 0x5A], b"123456789", Code::BAD_REQUEST, b"Decryption failed"),
    ];
    for (value, payload, code, text) in cases {
        let answers = gateway.datagram(5_000, &message(Code::POST, &[(option, value)], payload));
        let [answer] = &answers[..] else { panic!("{value:?}") };
        let answer = view(answer);
        assert_eq!((answer.code(), answer.payload()), (code, text));
        assert_eq!(answer.option_uint(OptionNumber::MAX_AGE), Some(0));
        assert_eq!(answer.option(option_oscore()), None);
    }
    let refused = gateway.notices.iter().filter(|notice| matches!(notice, Notice::SignInRefused { .. }));
    assert_eq!(refused.count(), 4);
    let through_a_proxy = message(Code::POST, &[(option, &[9, 1, 0x5A]), (39, b"coap")], b"123456789");
    let answers = gateway.datagram(5_000, &through_a_proxy);
    assert_eq!(view(&answers[0]).code(), Code::PROXYING_NOT_SUPPORTED);
}

fn option_oscore() -> OptionNumber {
    OptionNumber::OSCORE
}

#[test]
fn nobody_without_the_key_is_taken_for_the_device() {
    let mut gateway = Gateway::new();
    // In the clear, in its name.
    let path: Vec<(u16, &[u8])> = [&b"telemetry"[..], b"t", b"boiler-3"].map(|level| (11, level)).to_vec();
    let answers = gateway.datagram(5_000, &message(Code::POST, &path, b"1"));
    assert_eq!(view(&answers[0]).code(), Code::UNAUTHORIZED);
    let topic: Vec<(u16, &[u8])> = PATH.map(|level| (11, level.as_bytes())).to_vec();
    gateway.datagram(5_000, &message(Code::POST, &topic, b"1"));
    assert!(gateway.taken.iter().all(|message| message.device.as_str() != "boiler-3"));
}

#[test]
fn a_protected_device_keeps_to_its_rights_whatever_its_path_says() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    publish(&mut device, &mut gateway, b"1");
    for path in [&["t", "sensors", "boiler-4", "t"][..], &["telemetry", "t", "boiler-4"]] {
        device.publish(0, &Publication::confirmable(path, b"2")).unwrap();
        let datagram = device.poll_transmit(0).unwrap().to_vec();
        for answer in gateway.datagram(5_000, &datagram) {
            assert_eq!(view(&answer).code(), Code::CHANGED, "outside everything looks the same");
            device.handle_datagram(0, &answer);
        }
        match device.poll_event() {
            Some(Event::Refused { code, .. }) => assert_eq!(code, Code::FORBIDDEN),
            Some(Event::Acknowledged { .. }) => {
                assert_eq!(gateway.taken.last().unwrap().device.as_str(), "boiler-3");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_context_stays_over_a_reload_and_goes_with_its_device() {
    let (mut device, mut gateway) = (device(), Gateway::new());
    publish(&mut device, &mut gateway, b"1");
    gateway.engine.handle(at(0), Input::Reload(Box::new(setup(1))));
    gateway.run();
    device.publish(0, &Publication::confirmable(&PATH, b"2")).unwrap();
    let datagram = device.poll_transmit(0).unwrap().to_vec();
    let answers = gateway.datagram(5_000, &datagram);
    assert!(
        view(&answers[0]).option(OptionNumber::OSCORE) == Some(b""),
        "no challenge, and under the request's nonce"
    );
    device.handle_datagram(0, &answers[0]);
    assert!(device.poll_event().is_some());
    let mut other = setup(1);
    other.devices[0].oscore = Some(Arc::new(context(&[1], &[0x77])));
    gateway.engine.handle(at(0), Input::Reload(Box::new(other)));
    gateway.run();
    device.publish(0, &Publication::confirmable(&PATH, b"3")).unwrap();
    let datagram = device.poll_transmit(0).unwrap().to_vec();
    let answers = gateway.datagram(5_000, &datagram);
    assert_eq!(view(&answers[0]).payload(), b"Security context not found");
    assert_eq!(gateway.payloads(), [b"1", b"2"]);
}

// --------------------------------------------------------------------------------------- observing, in blocks

/// A client that does what it is told, with any request.
struct Client {
    session: Session,
    message_id: u16,
    echo: Option<Vec<u8>>,
}

impl Client {
    fn new() -> Self {
        let session = Session::new(context(&[0x5A], &[1]), Sequence::reserved(0, 10_000), Replay::fresh());
        Self { session, message_id: 0, echo: None }
    }

    fn request(
        &mut self,
        code: Code,
        token: u8,
        options: &[(u16, &[u8])],
        payload: &[u8],
    ) -> (Vec<u8>, Exchange) {
        self.message_id += 1;
        let header = Header { kind: Kind::Confirmable, code, message_id: self.message_id };
        let mut plain = [0; BUFFER];
        let mut writer = Writer::new(&mut plain, header, Token::new(&[token]).unwrap());
        for (number, value) in options {
            writer = writer.option(OptionNumber(*number), value);
        }
        let plain = writer.payload(payload).finish().unwrap();
        let mut sealed = [0; BUFFER];
        let echo = self.echo.take();
        let (sealed, exchange) =
            self.session.protect_request_with(&view(plain), echo.as_deref(), &mut sealed).unwrap();
        (sealed.to_vec(), exchange)
    }

    /// Sends a request, answers the challenge if there is one, and gives the opened answer.
    fn ask(
        &mut self,
        gateway: &mut Gateway,
        code: Code,
        token: u8,
        options: &[(u16, &[u8])],
        payload: &[u8],
        mut observation: Option<&mut Observation>,
    ) -> (Vec<u8>, Exchange) {
        loop {
            let (sealed, exchange) = self.request(code, token, options, payload);
            let answers = gateway.datagram(5_000, &sealed);
            let [answer] = &answers[..] else { panic!("{answers:?}") };
            let opened = self.open(&exchange, observation.as_deref_mut(), answer);
            match view(&opened).option(OptionNumber::ECHO) {
                Some(value) => {
                    self.echo = Some(value.to_vec());
                    if let Some(observation) = observation.as_deref_mut() {
                        *observation = Observation::default();
                    }
                }
                None => return (opened, exchange),
            }
        }
    }

    fn open(&self, exchange: &Exchange, observation: Option<&mut Observation>, answer: &[u8]) -> Vec<u8> {
        let mut buffer = [0; BUFFER];
        self.session.open_response(exchange, observation, &view(answer), &mut buffer).unwrap().to_vec()
    }
}

const TOPIC: [(u16, &[u8]); 4] = [(11, b"t"), (11, b"sensors"), (11, b"boiler-3"), (11, b"t")];

#[test]
fn an_observer_gets_protected_notifications_in_order_and_ends_it_by_an_rst() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    let mut observation = Observation::default();
    let mut options = vec![(6, &b""[..])];
    options.extend(TOPIC);
    let (registered, observing) =
        client.ask(&mut gateway, Code::GET, 1, &options, b"", Some(&mut observation));
    assert_eq!(view(&registered).option(OptionNumber::OBSERVE), Some(&b""[..]));
    let mut last = None;
    for value in [b"1", b"2"] {
        let (sealed, exchange) = client.request(Code::POST, 2, &TOPIC, value);
        let mut answers = gateway.datagram(5_000, &sealed);
        gateway.now += 10_000_000;
        gateway.engine.handle(at(gateway.now), Input::Tick);
        gateway.run();
        answers.extend(std::mem::take(&mut gateway.sent).into_iter().map(|(_, bytes)| bytes));
        let (mut acknowledged, mut notified) = (false, false);
        for answer in answers.into_iter().filter(|answer| view(answer).code() != Code::EMPTY) {
            if view(&answer).token() == Token::new(&[2]).unwrap() {
                acknowledged = view(&client.open(&exchange, None, &answer)).code() == Code::CHANGED;
            } else {
                assert_eq!(view(&answer).code(), Code::CONTENT);
                let mut buffer = [0; BUFFER];
                let opened = client.session.open_response(
                    &observing,
                    Some(&mut observation),
                    &view(&answer),
                    &mut buffer,
                );
                // One that goes again is the very same, and counts once.
                if let Ok(opened) = opened {
                    assert!(!notified);
                    notified = view(opened).payload() == value;
                    if view(&answer).kind() == Kind::Confirmable && value == b"1" {
                        gateway.datagram(5_000, &empty(Kind::Acknowledgement, view(&answer).message_id()));
                    }
                }
                last = Some(answer);
            }
        }
        assert!(acknowledged && notified, "{value:?}");
    }
    gateway.datagram(5_000, &empty(Kind::Reset, view(&last.unwrap()).message_id()));
    assert_eq!(gateway.engine.stats().coap.subscriptions, 0);
}

fn empty(kind: Kind, message_id: u16) -> Vec<u8> {
    let header = Header { kind, code: Code::EMPTY, message_id };
    Writer::new(&mut [0; 4], header, Token::EMPTY).finish().unwrap().to_vec()
}

#[test]
fn a_body_comes_and_goes_in_blocks_inside() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    let body: Vec<u8> = (0..100_u8).collect();
    let chunks: Vec<&[u8]> = body.chunks(16).collect();
    for (number, chunk) in (0..).zip(&chunks) {
        let more = usize::try_from(number).unwrap() + 1 < chunks.len();
        let block = [u8::try_from(Block { number, more, exponent: 0 }.to_uint()).unwrap()];
        let mut options = TOPIC.to_vec();
        options.push((15, b"retain=1"));
        options.push((27, &block));
        let (answer, _) = client.ask(&mut gateway, Code::POST, 9, &options, chunk, None);
        let expected = if more { Code::CONTINUE } else { Code::CHANGED };
        assert_eq!(view(&answer).code(), expected, "block {number}");
    }
    assert_eq!(gateway.payloads(), [&body[..]]);
    let mut got = Vec::new();
    loop {
        let number = u32::try_from(got.len() / 16).unwrap();
        let block = [u8::try_from(Block { number, more: false, exponent: 0 }.to_uint()).unwrap()];
        let mut options = TOPIC.to_vec();
        options.push((23, &block));
        let (answer, _) = client.ask(&mut gateway, Code::GET, 10, &options, b"", None);
        got.extend_from_slice(view(&answer).payload());
        let block = view(&answer).option(OptionNumber::BLOCK2).and_then(Block::parse).unwrap();
        if !block.more {
            break;
        }
    }
    assert_eq!(got, body);
}

#[test]
fn an_answer_that_takes_long_comes_protected_in_a_message_of_its_own() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    client.ask(&mut gateway, Code::POST, 1, &TOPIC, b"1", None);
    gateway.store_works = false;
    let (sealed, exchange) = client.request(Code::POST, 2, &TOPIC, b"2");
    assert!(gateway.datagram(5_000, &sealed).is_empty());
    gateway.now += 1_100_000;
    gateway.engine.handle(at(gateway.now), Input::Tick);
    gateway.run();
    let [(_, acknowledgement)] = &gateway.sent[..] else { panic!("{:?}", gateway.sent) };
    assert_eq!(Message::parse(acknowledgement).unwrap().code(), Code::EMPTY);
    assert_eq!(gateway.datagram(5_000, &sealed).len(), 1, "the same to the repetition");
    let batch = tidegate_engine::id::BatchId(3);
    gateway.engine.handle(at(gateway.now), Input::Committed { batch });
    gateway.run();
    let (_, answer) = gateway.sent.last().unwrap().clone();
    assert_eq!(view(&answer).kind(), Kind::Confirmable);
    assert_eq!(view(&client.open(&exchange, None, &answer)).code(), Code::CHANGED);
}
