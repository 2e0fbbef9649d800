//! The rest of the engine and the clients, as far as MQTT sessions see them: everything asked for is written down, and
//! nothing becomes safe or durable before a test says so.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidegate_engine::event::{Anonymous, Notice, Op, Output, Peer, RecordKey, Setup};
use tidegate_engine::id::{ConnId, GatewayId, MessageId, Seq};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::Message;
use tidegate_engine::mutant::{Mutant, Planted};
use tidegate_engine::session::mqtt::{Delivered, Mqtt};
use tidegate_engine::session::{Claim, Incoming, Receipt, Request};
use tidegate_engine::time::{Duration, Now, Stamp};
use tidegate_tests::mqtt::words;
pub(crate) use tidegate_tests::mqtt::{ALL_VERSIONS, Client, Hello, encode, message, welcome, will};
use tidegate_wire::mqtt::{
    self, Disconnect, Filters, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, Subscribe,
    Subscription, Subscriptions, Unsubscribe,
};

pub(crate) fn setup() -> Setup {
    Setup {
        gateway: GatewayId::new("gw").unwrap(),
        epoch: 7,
        seed: 1,
        limits: Limits::default(),
        anonymous: Anonymous::Loopback,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: Vec::new(),
        routes: Vec::new(),
    }
}

pub(crate) struct World {
    pub(crate) mqtt: Mqtt,
    pub(crate) setup: Setup,
    pub(crate) now: Now,
    /// What was published and is not safe, in order, with its place among all requests.
    pub(crate) published: VecDeque<(Incoming, Option<Receipt>, u64)>,
    /// Changes of records that are not durable, likewise.
    pub(crate) changes: VecDeque<(Op, Option<Receipt>, u64)>,
    pub(crate) store: BTreeMap<RecordKey, Bytes>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) closed: BTreeSet<ConnId>,
    pub(crate) reading: BTreeMap<ConnId, bool>,
    /// What a client that was welcomed was told, the CONNACK included.
    pub(crate) last_said: Vec<String>,
    /// Claims that were settled, and whether by a commit.
    pub(crate) settled: Vec<(Claim, bool)>,
    /// Writes to each connection.
    pub(crate) writes: BTreeMap<ConnId, usize>,
    /// Whether the clients read what is sent to them.
    pub(crate) clients_read: bool,
    /// Slow verifications of passwords that are not answered, and their answers.
    pub(crate) asked: VecDeque<(ConnId, bool)>,
    streams: BTreeMap<ConnId, Vec<u8>>,
    last_conn: u64,
    last_seq: u64,
    requests: u64,
    planted: Planted,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(setup())
    }

    pub(crate) fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut setup = setup();
        change(&mut setup.limits);
        Self::with(setup)
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let now = Now { wall: Stamp { unix_ms: 1_000, synchronised: true }, ..Now::default() };
        let mut world = Self {
            mqtt: Mqtt::new(&setup, Planted::default(), &[], now),
            setup,
            now,
            published: VecDeque::new(),
            changes: VecDeque::new(),
            store: BTreeMap::new(),
            notices: Vec::new(),
            closed: BTreeSet::new(),
            reading: BTreeMap::new(),
            last_said: Vec::new(),
            settled: Vec::new(),
            writes: BTreeMap::new(),
            clients_read: true,
            asked: VecDeque::new(),
            streams: BTreeMap::new(),
            last_conn: 0,
            last_seq: 0,
            requests: 0,
            planted: Planted::default(),
        };
        world.settle();
        world
    }

    pub(crate) fn plant(&mut self, mutant: Mutant) {
        self.planted = Planted::with(mutant);
        self.mqtt.plant(self.planted);
    }

    /// A kill -9 and a new start: only what was durable is left.
    pub(crate) fn restart(&mut self) {
        let records: Vec<_> = self.store.clone().into_iter().collect();
        self.mqtt = Mqtt::new(&self.setup, self.planted, &records, self.now);
        self.published.clear();
        self.changes.clear();
        self.streams.clear();
        self.settle();
    }

    // ------------------------------------------------------------------------------------------ clients

    pub(crate) fn open(&mut self) -> ConnId {
        self.open_from("127.0.0.1:50000")
    }

    pub(crate) fn open_from(&mut self, address: &str) -> ConnId {
        self.open_as(Peer::at(address.parse().unwrap()))
    }

    pub(crate) fn open_as(&mut self, peer: Peer) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.mqtt.opened(self.now, conn, peer);
        self.settle();
        conn
    }

    /// Connects from an address without looking at the answer.
    pub(crate) fn greet_from(&mut self, address: &str, hello: &Hello<'_>) -> Client {
        let client = Client { conn: self.open_from(address), version: hello.version };
        self.bytes(client.conn, &hello.bytes());
        client
    }

    /// The first slow verification is done.
    pub(crate) fn verified(&mut self) {
        let (conn, genuine) = self.asked.pop_front().expect("a password to verify");
        self.mqtt.verified(self.now, conn, genuine);
        self.settle();
    }

    /// The configuration changes.
    pub(crate) fn reload(&mut self, setup: &Setup) {
        self.setup = setup.clone();
        self.mqtt.reload(self.now, setup);
        self.settle();
    }

    pub(crate) fn bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.mqtt.received(self.now, conn, Bytes::copy_from_slice(bytes));
        self.settle();
    }

    /// Connects without looking at the answer.
    pub(crate) fn greet(&mut self, hello: &Hello<'_>) -> Client {
        let client = Client { conn: self.open(), version: hello.version };
        self.bytes(client.conn, &hello.bytes());
        client
    }

    /// Connects, and is accepted with a session that is there or not.
    /// CONNACK may wait until the store knows its will or its session's new expiry.
    pub(crate) fn connect(&mut self, hello: &Hello<'_>, present: bool) -> Client {
        let client = self.greet(hello);
        if !self.streams.contains_key(&client.conn) {
            self.durable();
        }
        self.welcomed(client, present);
        client
    }

    /// The client has just been accepted with a session that is there or not.
    pub(crate) fn welcomed(&mut self, client: Client, present: bool) {
        let said = self.said(client);
        assert_eq!(said.first().map(String::as_str), Some(welcome(client.version, present)), "{said:?}");
        self.last_said = said;
    }

    pub(crate) fn send(&mut self, client: Client, packet: &Packet<'_>) {
        self.bytes(client.conn, &encode(client.version, packet));
    }

    pub(crate) fn publish(&mut self, client: Client, publish: Publish<'_>) {
        self.send(client, &Packet::Publish(publish));
    }

    pub(crate) fn subscribe(&mut self, client: Client, id: u16, wishes: &[Subscription<'_>]) {
        let packet_id = PacketId::new(id).unwrap();
        let subscriptions = Subscriptions::new(wishes);
        self.send(
            client,
            &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, subscriptions }),
        );
    }

    /// Subscribes to one filter, and it is granted and durable.
    pub(crate) fn subscribed(&mut self, client: Client, filter: &str, qos: Qos) {
        self.subscribe(client, 100, &[Subscription::new(filter, qos)]);
        self.durable();
        assert_eq!(self.said(client), [format!("SUBACK 100 [{}]", qos as u8)]);
    }

    pub(crate) fn unsubscribe(&mut self, client: Client, id: u16, filters: &[&str]) {
        let packet_id = PacketId::new(id).unwrap();
        let filters = Filters::new(filters);
        self.send(
            client,
            &Packet::Unsubscribe(Unsubscribe { packet_id, properties: Properties::EMPTY, filters }),
        );
    }

    pub(crate) fn disconnect(&mut self, client: Client, reason: ReasonCode, properties: &[Property<'_>]) {
        let disconnect = Disconnect { reason, properties: Properties::new(properties) };
        self.send(client, &Packet::Disconnect(disconnect));
        self.gone(client);
    }

    /// The connection breaks.
    pub(crate) fn gone(&mut self, client: Client) {
        self.mqtt.closed(self.now, client.conn);
        self.settle();
    }

    /// The packets that a client has been sent since the last time it looked.
    pub(crate) fn frames(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        let mut bytes = self.streams.remove(&conn).unwrap_or_default();
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let frame = mqtt::frame(&bytes).unwrap().expect("whole packets");
            let rest = bytes.split_off(frame.total_bytes());
            frames.push(std::mem::replace(&mut bytes, rest));
        }
        frames
    }

    /// The same, in short words.
    pub(crate) fn said(&mut self, client: Client) -> Vec<String> {
        self.frames(client.conn).iter().map(|frame| words(client.version, frame)).collect()
    }

    pub(crate) fn is_closed(&self, client: Client) -> bool {
        self.closed.contains(&client.conn)
    }

    // ------------------------------------------------------------------------------------- the engine

    /// Carries out what is asked, but makes nothing safe.
    pub(crate) fn settle(&mut self) {
        while let Some(request) = self.mqtt.poll() {
            match request {
                Request::Publish { incoming, receipt } => {
                    self.requests += 1;
                    self.published.push_back((incoming, receipt, self.requests));
                }
                Request::Record { op, receipt } => {
                    self.requests += 1;
                    self.changes.push_back((op, receipt, self.requests));
                }
                Request::Settled { claim, committed } => self.settled.push((claim, committed)),
                Request::Output(Output::Send { conn, bytes }) => {
                    assert!(!self.closed.contains(&conn), "nothing is sent after the close");
                    *self.writes.entry(conn).or_default() += 1;
                    self.streams.entry(conn).or_default().extend_from_slice(&bytes);
                    if self.clients_read {
                        self.mqtt.sent(self.now, conn, bytes.len());
                    }
                }
                Request::Output(Output::Close { conn }) => {
                    self.closed.insert(conn);
                }
                Request::Output(Output::Reading { conn, on }) => {
                    self.reading.insert(conn, on);
                }
                Request::Output(Output::Notice(notice)) => self.notices.push(notice),
                Request::Output(Output::Verify { conn, secret, password }) => {
                    let genuine = secret.hash.as_bytes() == &password.0[..];
                    if secret.slow {
                        self.asked.push_back((conn, genuine));
                    } else {
                        self.mqtt.verified(self.now, conn, genuine);
                    }
                }
                Request::Output(other) => panic!("not a session's business: {other:?}"),
            }
        }
    }

    /// The message of this place among those that are not safe becomes safe, together with its record.
    pub(crate) fn safe(&mut self, place: usize) {
        let (incoming, receipt, _) = self.published.remove(place).unwrap();
        self.apply(incoming.record);
        self.answer(receipt);
        self.settle();
    }

    fn apply(&mut self, op: Option<Op>) {
        match op {
            Some(Op::Put { key, value }) => drop(self.store.insert(key, value)),
            Some(Op::Remove { key }) => drop(self.store.remove(&key)),
            Some(other) => panic!("not a session's business: {other:?}"),
            None => {}
        }
    }

    /// Every change asked so far becomes durable.
    pub(crate) fn durable(&mut self) {
        while !self.changes.is_empty() {
            self.change();
        }
        self.settle();
    }

    /// The first of them does.
    pub(crate) fn change(&mut self) {
        let Some((op, receipt, _)) = self.changes.pop_front() else { return };
        self.apply(Some(op));
        self.answer(receipt);
    }

    /// Everything becomes safe and durable, in the order in which it was asked.
    pub(crate) fn all_safe(&mut self) {
        loop {
            let published = self.published.front().map(|(.., place)| *place);
            let changed = self.changes.front().map(|(.., place)| *place);
            match (published, changed) {
                (None, None) => break,
                (Some(published), changed) if changed.is_none_or(|changed| published < changed) => {
                    self.safe(0)
                }
                _ => self.change(),
            }
            self.settle();
        }
    }

    /// Everything at hand becomes safe in one commit: requests are looked at afterwards only.
    pub(crate) fn commit(&mut self) {
        for (incoming, receipt, _) in std::mem::take(&mut self.published) {
            self.apply(incoming.record);
            self.answer(receipt);
        }
        self.settle();
    }

    fn answer(&mut self, receipt: Option<Receipt>) {
        match receipt {
            Some(Receipt::Mqtt(receipt)) => self.mqtt.safe(self.now, receipt),
            Some(Receipt::Coap(_)) => panic!("not MQTT's"),
            None => {}
        }
    }

    /// A message reaches the local subscribers; nobody waits for their copies.
    pub(crate) fn deliver(&mut self, incoming: &Incoming) -> usize {
        self.deliver_for(incoming, None).taken
    }

    /// The same, for somebody who does. The records of the copies are among the changes.
    pub(crate) fn deliver_for(&mut self, incoming: &Incoming, claim: Option<Claim>) -> Delivered {
        self.last_seq += 1;
        let message = Message {
            id: MessageId { epoch: self.setup.epoch, seq: Seq(self.last_seq) },
            device: incoming.device.clone(),
            topic: incoming.topic.clone(),
            payload: incoming.payload.clone(),
            received: self.now.wall,
            qos: incoming.qos,
            retain: incoming.retain,
            duplicate: incoming.duplicate,
            source: incoming.source,
            properties: incoming.properties.clone(),
        };
        let message = Arc::new(message);
        let keep = incoming.record.is_some();
        let mut delivered = self.mqtt.deliver(self.now, &message, incoming.client.as_ref(), claim, keep);
        for (op, receipt) in delivered.records.drain(..) {
            self.requests += 1;
            self.changes.push_back((op, Some(receipt), self.requests));
        }
        let retained = if message.retain { self.mqtt.retain(self.now, &message) } else { None };
        if let Some(op) = retained {
            self.requests += 1;
            self.changes.push_back((op, None, self.requests));
        }
        self.settle();
        delivered
    }

    /// A client publishes a message to be retained; it becomes safe and durable.
    pub(crate) fn retain(&mut self, from: Client, publish: Publish<'_>) {
        self.relay(from, Publish { retain: true, ..publish });
        self.durable();
        self.said(from);
    }

    /// A client publishes, it becomes safe, is delivered, and the acknowledgement is looked away from.
    pub(crate) fn relay(&mut self, from: Client, publish: Publish<'_>) -> usize {
        self.publish(from, publish);
        let (incoming, receipt, _) = self.published.pop_front().expect("it was accepted");
        let count = self.deliver(&incoming);
        self.answer(receipt);
        self.settle();
        count
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.instant.after(time);
        while let Some(due) = self.mqtt.timeout().filter(|due| *due <= end) {
            self.now.instant = due.max(self.now.instant);
            self.mqtt.tick(self.now);
            self.settle();
            assert!(self.mqtt.timeout().is_none_or(|next| next > self.now.instant), "what is due is done");
        }
        self.now.instant = end;
    }
}
