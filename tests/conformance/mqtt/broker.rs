//! A whole engine between clients that a test plays and a disk and an upstream that work at once, unless a test says
//! otherwise. Bytes in, bytes out, on a clock that the test turns; nothing here looks into the engine.

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tidegate_engine::Engine;
use tidegate_engine::event::{
    Anonymous, Batch, Drain, Durability, Input, LaneState, Notice, Op, Outcome, Output, Peer, Policy,
    Publication, RecordKey, Recovered, RouteSetup, Senml, Setup, UpstreamSetup,
};
use tidegate_engine::id::{ConnId, GatewayId, LaneId, Seq, UpstreamId};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::Message;
use tidegate_engine::stats::ProtocolStats;
use tidegate_engine::time::{Duration, Now, Stamp};
use tidegate_engine::topic::Filter;
pub(crate) use tidegate_tests::mqtt::{ALL_VERSIONS, Client, Hello, encode, message, welcome, will};
use tidegate_wire::mqtt::{
    self, Ack, Disconnect, Filters, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode,
    Subscribe, Subscription, Subscriptions, Unsubscribe, Version,
};

/// The two versions that have a table of statements.
pub(crate) const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

const LANE: LaneId = LaneId(1);
const UPSTREAM: UpstreamId = UpstreamId(0);

/// A gateway with one route that takes everything, on loopback, without credentials.
pub(crate) fn setup() -> Setup {
    Setup {
        gateway: GatewayId::new("gw").unwrap(),
        epoch: 7,
        seed: 1,
        limits: Limits::default(),
        anonymous: Anonymous::Loopback,
        devices: Vec::new(),
        resources: tidegate_engine::resource::Resource::shipped(),
        upstreams: vec![UpstreamSetup { name: "up".to_owned(), window: 100, drain: Drain::default() }],
        routes: vec![RouteSetup {
            lane: LANE,
            name: "all".to_owned(),
            filter: Some(Filter::new("#").unwrap()),
            upstream: UPSTREAM,
            routing_key: None,
            durability: Durability::Disk,
            priority: 1,
            senml: Senml::Untouched,
            packing: None,
            policy: Policy::default(),
            salvaged: false,
        }],
    }
}

/// What the gateway has sent on a connection and whether it has ended it.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    closed: bool,
    reading: bool,
}

/// The gateway's process with its disk.
pub(crate) struct Broker {
    pub(crate) engine: Engine,
    pub(crate) setup: Setup,
    pub(crate) now: Now,
    pub(crate) records: BTreeMap<RecordKey, Bytes>,
    rows: BTreeMap<(LaneId, Seq), Arc<Message>>,
    /// What the upstream was handed, repetitions included.
    pub(crate) upstream: Vec<Publication>,
    pub(crate) notices: Vec<Notice>,
    /// Whether the disk carries out commits; those that wait are done as soon as it works again.
    pub(crate) disk_works: bool,
    waiting: VecDeque<Batch>,
    /// Whether the clients read what is sent to them.
    pub(crate) clients_read: bool,
    lines: BTreeMap<ConnId, Line>,
    last_conn: u64,
}

impl Broker {
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
        let mut broker = Self {
            engine: Engine::new(setup.clone(), Recovered::default(), now),
            setup,
            now,
            records: BTreeMap::new(),
            rows: BTreeMap::new(),
            upstream: Vec::new(),
            notices: Vec::new(),
            disk_works: true,
            waiting: VecDeque::new(),
            clients_read: true,
            lines: BTreeMap::new(),
            last_conn: 0,
        };
        broker.tell(Input::UpstreamUp { upstream: UPSTREAM });
        broker
    }

    /// A kill -9 and a new start: only what was committed is left, and every connection is gone.
    pub(crate) fn restart(&mut self) {
        self.waiting.clear();
        self.lines.clear();
        self.setup.epoch += 1;
        let bytes = self.rows.values().map(|message| message.footprint() as u64).sum();
        let last = self.rows.keys().map(|(_, seq)| *seq).max().unwrap_or_default();
        let lane = LaneState { lane: LANE, last, rows: self.rows.len() as u64, bytes };
        let recovered = Recovered {
            lanes: if self.rows.is_empty() { Vec::new() } else { vec![lane] },
            last,
            records: self.records.clone().into_iter().collect(),
            bad_lives: 0,
        };
        self.engine = Engine::new(self.setup.clone(), recovered, self.now);
        self.tell(Input::UpstreamUp { upstream: UPSTREAM });
    }

    // ------------------------------------------------------------------------------------------ clients

    pub(crate) fn open(&mut self) -> ConnId {
        self.open_from("127.0.0.1:50000")
    }

    pub(crate) fn open_from(&mut self, address: &str) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.lines.insert(conn, Line { reading: true, ..Line::default() });
        self.tell(Input::Opened {
            conn,
            peer: Peer { address: address.parse().unwrap(), certificate: None },
        });
        conn
    }

    pub(crate) fn bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.tell(Input::Received { conn, bytes: Bytes::copy_from_slice(bytes) });
    }

    /// Bytes on a connection of their own, seen as a client of this version.
    pub(crate) fn raw(&mut self, version: Version, bytes: &[u8]) -> Client {
        let client = Client { conn: self.open(), version };
        self.bytes(client.conn, bytes);
        client
    }

    /// Connects without looking at the answer.
    pub(crate) fn greet(&mut self, hello: &Hello<'_>) -> Client {
        self.raw(hello.version, &hello.bytes())
    }

    /// Connects, and is accepted with a session that is there or not.
    pub(crate) fn connect(&mut self, hello: &Hello<'_>, present: bool) -> Client {
        let client = self.greet(hello);
        assert_eq!(self.said(client), [welcome(hello.version, present)]);
        client
    }

    /// A client with a clean session.
    pub(crate) fn client(&mut self, version: Version, id: &str) -> Client {
        self.connect(&Hello::new(version, id), false)
    }

    pub(crate) fn send(&mut self, client: Client, packet: &Packet<'_>) {
        self.bytes(client.conn, &encode(client.version, packet));
    }

    pub(crate) fn publish(&mut self, client: Client, publish: Publish<'_>) {
        self.send(client, &Packet::Publish(publish));
    }

    pub(crate) fn subscribe(&mut self, client: Client, id: u16, wishes: &[Subscription<'_>]) {
        self.subscribe_with(client, id, &[], wishes);
    }

    pub(crate) fn subscribe_with(
        &mut self,
        client: Client,
        id: u16,
        properties: &[Property<'_>],
        wishes: &[Subscription<'_>],
    ) {
        self.send(
            client,
            &Packet::Subscribe(Subscribe {
                packet_id: packet_id(id),
                properties: Properties::new(properties),
                subscriptions: Subscriptions::new(wishes),
            }),
        );
    }

    /// Subscribes to one filter, and it is granted.
    pub(crate) fn subscribed(&mut self, client: Client, filter: &str, qos: Qos) {
        self.subscribe(client, 100, &[Subscription::new(filter, qos)]);
        assert_eq!(self.said(client), [format!("SUBACK 100 [{}]", qos as u8)]);
    }

    pub(crate) fn unsubscribe(&mut self, client: Client, id: u16, filters: &[&str]) {
        let filters = Filters::new(filters);
        let properties = Properties::EMPTY;
        self.send(
            client,
            &Packet::Unsubscribe(Unsubscribe { packet_id: packet_id(id), properties, filters }),
        );
    }

    pub(crate) fn puback(&mut self, client: Client, id: u16) {
        self.send(client, &Packet::PubAck(Ack::success(packet_id(id))));
    }

    pub(crate) fn pubrec(&mut self, client: Client, id: u16) {
        self.send(client, &Packet::PubRec(Ack::success(packet_id(id))));
    }

    pub(crate) fn pubrel(&mut self, client: Client, id: u16) {
        self.send(client, &Packet::PubRel(Ack::success(packet_id(id))));
    }

    pub(crate) fn pubcomp(&mut self, client: Client, id: u16) {
        self.send(client, &Packet::PubComp(Ack::success(packet_id(id))));
    }

    pub(crate) fn disconnect(&mut self, client: Client, reason: ReasonCode, properties: &[Property<'_>]) {
        let disconnect = Disconnect { reason, properties: Properties::new(properties) };
        self.send(client, &Packet::Disconnect(disconnect));
    }

    /// The connection breaks.
    pub(crate) fn gone(&mut self, client: Client) {
        if !self.is_closed(client) {
            self.line(client.conn).closed = true;
            self.tell(Input::Closed { conn: client.conn });
        }
    }

    /// Nobody looks at this client any more.
    pub(crate) fn forget(&mut self, client: Client) {
        self.lines.remove(&client.conn);
    }

    /// The packets that a client has been sent since the last time it looked.
    pub(crate) fn frames(&mut self, client: Client) -> Vec<Vec<u8>> {
        let bytes = std::mem::take(&mut self.line(client.conn).bytes);
        let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let frame = mqtt::frame(rest).unwrap().expect("whole packets");
            let (packet, behind) = rest.split_at(frame.total_bytes());
            frames.push(packet.to_vec());
            rest = behind;
        }
        frames
    }

    /// The same, in short words.
    pub(crate) fn said(&mut self, client: Client) -> Vec<String> {
        self.frames(client).iter().map(|frame| tidegate_tests::mqtt::words(client.version, frame)).collect()
    }

    /// Closed, and nothing but this was said before.
    #[track_caller]
    pub(crate) fn ended(&mut self, client: Client, last_words: &[&str]) {
        assert_eq!(self.said(client), last_words, "{:?}", client.version);
        assert!(self.is_closed(client), "{:?}", client.version);
    }

    /// Closed for this reason, in the words of the client's version.
    #[track_caller]
    pub(crate) fn ended_for(&mut self, client: Client, reason: u8) {
        let disconnect = format!("DISCONNECT 0x{reason:02X}");
        let words: &[&str] = if client.version.is_v5() { &[&disconnect] } else { &[] };
        self.ended(client, words);
    }

    pub(crate) fn is_closed(&self, client: Client) -> bool {
        self.lines.get(&client.conn).is_none_or(|line| line.closed)
    }

    pub(crate) fn is_read(&self, client: Client) -> bool {
        self.lines.get(&client.conn).is_some_and(|line| line.reading)
    }

    pub(crate) fn stats(&self) -> ProtocolStats {
        self.engine.stats().mqtt
    }

    /// The topics of what reached the upstream.
    pub(crate) fn topics(&self) -> Vec<&str> {
        self.upstream.iter().map(|publication| publication.message.topic.as_str()).collect()
    }

    // ------------------------------------------------------------------------------------- the world around

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.instant.after(time);
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now.instant = due.max(self.now.instant);
            self.tell(Input::Tick);
        }
        self.now.instant = end;
        self.tell(Input::Tick);
    }

    /// The disk works again: what waited is committed.
    pub(crate) fn disk_recovers(&mut self) {
        self.disk_works = true;
        while let Some(batch) = self.waiting.pop_front() {
            self.commit(batch);
        }
    }

    pub(crate) fn tell(&mut self, input: Input) {
        let mut facts = VecDeque::from([input]);
        while let Some(fact) = facts.pop_front() {
            self.engine.handle(self.now, fact);
            while let Some(order) = self.engine.poll_output() {
                self.carry_out(order, &mut facts);
            }
        }
    }

    fn carry_out(&mut self, order: Output, facts: &mut VecDeque<Input>) {
        match order {
            Output::Send { conn, bytes } => {
                let reads = self.clients_read;
                let Some(line) = self.lines.get_mut(&conn) else { return };
                assert!(!line.closed, "nothing is sent after the close");
                line.bytes.extend_from_slice(&bytes);
                if reads {
                    facts.push_back(Input::Sent { conn, count: bytes.len() });
                }
            }
            Output::Close { conn } => {
                self.line(conn).closed = true;
                facts.push_back(Input::Closed { conn });
            }
            Output::Reading { conn, on } => self.line(conn).reading = on,
            Output::Commit(batch) if self.disk_works => facts.push_back(self.store(batch)),
            Output::Commit(batch) => self.waiting.push_back(batch),
            Output::Load { lane, after, messages, .. } => {
                let above = (lane, after.next())..=(lane, Seq(u64::MAX));
                let messages: Vec<Message> = self
                    .rows
                    .range(above)
                    .take(messages)
                    .map(|(_, message)| Message::clone(message))
                    .collect();
                let upto = messages.last().map(|message| message.id.seq);
                facts.push_back(Input::Loaded { lane, messages, damaged: 0, note: None, upto });
            }
            Output::Publish(publication) => {
                let Publication { upstream, tag, .. } = publication;
                self.upstream.push(publication);
                facts.push_back(Input::Settled { upstream, tag, outcome: Outcome::Confirmed });
            }
            Output::Notice(notice) => self.notices.push(notice),
            // No device here has a password.
            Output::Stopped | Output::SendTo { .. } | Output::Verify { .. } => {}
            Output::Reset { .. } => panic!("the upstream settles at once"),
        }
    }

    fn commit(&mut self, batch: Batch) {
        let committed = self.store(batch);
        self.tell(committed);
    }

    fn store(&mut self, batch: Batch) -> Input {
        for op in batch.ops {
            match op {
                Op::Insert { lane, message } => drop(self.rows.insert((lane, message.id.seq), message)),
                Op::Forget { lane, seq } => drop(self.rows.remove(&(lane, seq))),
                Op::Bury { lane, message, .. } => drop(self.rows.remove(&(lane, message.id.seq))),
                // Nobody asks for these here.
                Op::Requeue { .. } | Op::Purge { .. } => {}
                Op::Put { key, value } => drop(self.records.insert(key, value)),
                Op::Remove { key } => drop(self.records.remove(&key)),
            }
        }
        Input::Committed { batch: batch.id }
    }

    fn line(&mut self, conn: ConnId) -> &mut Line {
        self.lines.entry(conn).or_default()
    }
}

/// A packet id that is not zero.
pub(crate) fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// The properties of a packet, in their order; none where it has no place for them.
pub(crate) fn properties<'a>(version: Version, frame: &'a [u8]) -> Vec<Property<'a>> {
    let list = match mqtt::decode(version, frame).unwrap() {
        Packet::ConnAck(ack) => ack.properties,
        Packet::Publish(publish) => publish.properties,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties
        }
        Packet::SubAck(ack) => ack.properties,
        Packet::UnsubAck(ack) => ack.properties,
        Packet::Disconnect(disconnect) => disconnect.properties,
        _ => Properties::EMPTY,
    };
    list.iter().collect()
}

/// Whether a packet carries a Reason String that says something.
pub(crate) fn has_reason_string(version: Version, frame: &[u8]) -> bool {
    properties(version, frame)
        .iter()
        .any(|property| matches!(property, Property::ReasonString(text) if text.contains(' ')))
}
