//! Devices that keep to the protocol over connections that break, takeovers, and a gateway that is killed: every message
//! arrives, QoS 2 exactly once, acknowledged only when safe and in order. And bytes that keep to nothing.
//! A failing seed is named in the panic.

use crate::world::{Client, Hello, World, encode, message};
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use tidegate_engine::mutant::Mutant;
use tidegate_engine::session::Hold;
use tidegate_engine::time::Duration;
use tidegate_wire::mqtt::{self, Ack, Packet, PacketId, Publish, Qos, Subscription, Version};

const SEEDS: u64 = 100;
/// Messages of one device in flight.
const WINDOW: usize = 8;

#[derive(Clone, Copy)]
struct Flight {
    number: u32,
    qos: Qos,
    packet_id: u16,
    released: bool,
    sent: bool,
}

struct Device {
    name: String,
    version: Version,
    client: Option<Client>,
    /// CONNACK has come.
    welcome: bool,
    flights: Vec<Flight>,
    last_id: u16,
    /// PUBLISHes of this connection that are not answered, in order.
    unanswered: VecDeque<u16>,
}

struct Chaos {
    rng: Rng,
    world: World,
    devices: Vec<Device>,
    last_number: u32,
    /// How often each message became safe.
    safe: BTreeMap<u32, usize>,
    sent: BTreeMap<u32, Qos>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let versions = [Version::V3_1_1, Version::V5, Version::V5];
        let device = |(number, version): (usize, &Version)| Device {
            name: format!("d{number}"),
            version: *version,
            client: None,
            welcome: false,
            flights: Vec::new(),
            last_id: 0,
            unanswered: VecDeque::new(),
        };
        Self {
            rng: Rng::with_seed(seed),
            // On a clock that stands still nobody could come back so often.
            world: World::limited(|limits| limits.takeovers_per_minute = u32::MAX),
            devices: versions.iter().enumerate().map(device).collect(),
            last_number: 0,
            safe: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let which = self.rng.usize(..self.devices.len());
        match self.rng.u32(..1_000) {
            0..=39 => self.connect(which),
            40..=59 => self.lose(which),
            60..=62 => self.crash(),
            63..=399 => self.publish(which),
            _ => self.commit_one(),
        }
        self.listen();
    }

    /// Connects; a connection that is still there is taken over, and breaks.
    fn connect(&mut self, which: usize) {
        let device = &mut self.devices[which];
        let old = device.client.take();
        let hello = Hello::lasting(device.version, &device.name).bytes();
        let client = Client { conn: self.world.open(), version: device.version };
        device.client = Some(client);
        device.welcome = false;
        device.unanswered.clear();
        self.cut(which, &hello);
        if let Some(old) = old {
            self.world.gone(old);
        }
    }

    fn lose(&mut self, which: usize) {
        if let Some(client) = self.devices[which].client.take() {
            self.world.gone(client);
        }
    }

    fn crash(&mut self) {
        self.world.restart();
        for device in &mut self.devices {
            device.client = None;
        }
    }

    fn publish(&mut self, which: usize) {
        let device = &mut self.devices[which];
        if !device.welcome || device.client.is_none() || device.flights.len() >= WINDOW {
            return;
        }
        self.last_number += 1;
        device.last_id = device.last_id % 20 + 1;
        while device.flights.iter().any(|flight| flight.packet_id == device.last_id) {
            device.last_id = device.last_id % 20 + 1;
        }
        let qos = if self.rng.bool() { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        self.sent.insert(self.last_number, qos);
        device.flights.push(Flight {
            number: self.last_number,
            qos,
            packet_id: device.last_id,
            released: false,
            sent: false,
        });
        self.send(which, device_last(&self.devices[which]));
    }

    fn send(&mut self, which: usize, index: usize) {
        let device = &mut self.devices[which];
        let flight = &mut device.flights[index];
        let bytes = if flight.released {
            let packet_id = PacketId::new(flight.packet_id).unwrap();
            encode(device.version, &Packet::PubRel(Ack::success(packet_id)))
        } else {
            device.unanswered.push_back(flight.packet_id);
            let payload = flight.number.to_be_bytes();
            let publish =
                Publish { dup: flight.sent, payload: &payload, ..message("t", flight.qos, flight.packet_id) };
            flight.sent = true;
            encode(device.version, &Packet::Publish(publish))
        };
        self.cut(which, &bytes);
    }

    /// Sends bytes in pieces.
    fn cut(&mut self, which: usize, mut bytes: &[u8]) {
        let Some(client) = self.devices[which].client else { return };
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.rng.usize(1..=bytes.len()));
            self.world.bytes(client.conn, piece);
            bytes = rest;
        }
    }

    /// Something becomes safe: what has a record, and changes of records, in the order in which they were asked; the
    /// rest in any order.
    fn commit_one(&mut self) {
        let world = &mut self.world;
        let first_record =
            world.published.iter().find(|(incoming, ..)| incoming.record.is_some()).map(|p| p.2);
        let first_change = world.changes.front().map(|change| change.2);
        if first_change.is_some()
            && (first_record.is_none() || first_change < first_record)
            && self.rng.bool()
        {
            world.change();
            world.settle();
            return;
        }
        if world.published.is_empty() {
            return;
        }
        let place = self.rng.usize(..world.published.len());
        let (incoming, _, order) = &world.published[place];
        let in_order = first_record == Some(*order) && first_change.is_none_or(|change| change > *order);
        if incoming.record.is_none() || in_order {
            let number = u32::from_be_bytes(incoming.payload[..].try_into().unwrap());
            *self.safe.entry(number).or_default() += 1;
            world.safe(place);
        }
    }

    /// The devices take what was sent to them.
    fn listen(&mut self) {
        for which in 0..self.devices.len() {
            let Some(client) = self.devices[which].client else { continue };
            for frame in self.world.frames(client.conn) {
                self.hear(which, &frame);
            }
            assert!(!self.world.is_closed(client), "a device that keeps to the protocol is not closed");
        }
    }

    fn hear(&mut self, which: usize, frame: &[u8]) {
        let device = &mut self.devices[which];
        let packet = mqtt::decode(device.version, frame).unwrap();
        match packet {
            Packet::ConnAck(ack) => {
                device.welcome = true;
                if !ack.session_present {
                    // The server knows nothing: what was not answered is sent as new.
                    for flight in &mut device.flights {
                        assert!(!flight.released, "a session with a released packet id must be there");
                        flight.sent = false;
                    }
                }
                for index in 0..self.devices[which].flights.len() {
                    self.send(which, index);
                }
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                let packet_id = ack.packet_id.get();
                assert_eq!(device.unanswered.pop_front(), Some(packet_id), "in the order of sending");
                let index = device.flights.iter().position(|flight| flight.packet_id == packet_id).unwrap();
                assert!(self.safe.contains_key(&device.flights[index].number), "acknowledged, so it is safe");
                if matches!(packet, Packet::PubAck(_)) {
                    device.flights.remove(index);
                } else {
                    device.flights[index].released = true;
                    self.send(which, index);
                }
            }
            Packet::PubComp(ack) => {
                device.flights.retain(|flight| flight.packet_id != ack.packet_id.get());
            }
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self) {
        for which in 0..self.devices.len() {
            self.connect(which);
        }
        for _ in 0..20_000 {
            self.listen();
            self.commit_one();
            if self.devices.iter().all(|device| device.flights.is_empty()) {
                break;
            }
        }
        for (number, qos) in &self.sent {
            let times = self.safe.get(number).copied().unwrap_or(0);
            assert!(times >= 1, "message {number} is lost");
            assert!(times == 1 || *qos == Qos::AtLeastOnce, "message {number} of QoS 2 came {times} times");
        }
        for which in 0..self.devices.len() {
            self.lose(which);
        }
        self.world.all_safe();
        self.world.pass(Duration::from_secs(8 * 86_400));
        self.world.all_safe();
        assert!(self.world.store.is_empty(), "{:?}", self.world.store);
        assert_eq!(self.world.mqtt.stats().sessions, 0);
        assert_eq!(self.world.mqtt.timeout(), None);
    }
}

fn device_last(device: &Device) -> usize {
    device.flights.len() - 1
}

/// Runs a test for many seeds and names the one that fails.
fn seeds(test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words =
                words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            panic!("seed {seed}: {words}");
        }
    }
}

fn run(seed: u64, mutant: Option<Mutant>) {
    let mut chaos = Chaos::new(seed);
    if let Some(mutant) = mutant {
        chaos.world.plant(mutant);
    }
    for _ in 0..2_000 {
        chaos.step();
    }
    assert!(chaos.safe.len() > 20, "enough happened: {}", chaos.safe.len());
    chaos.finish();
}

#[test]
fn planted_defects_are_seen() {
    for mutant in [Mutant::Qos2Forgotten, Mutant::Qos2NeverReleased, Mutant::AcksReordered] {
        let seen = (0..20).any(|seed| std::panic::catch_unwind(|| run(seed, Some(mutant))).is_err());
        assert!(seen, "{mutant:?}");
    }
}

#[test]
fn every_message_arrives_and_qos_2_exactly_once_whatever_breaks() {
    seeds(|seed| run(seed, None));
}

#[test]
fn bytes_that_keep_to_nothing_do_no_harm() {
    seeds(|seed| {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::limited(|limits| limits.outgoing_bytes = 2_000);
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..200 {
            if clients.len() < 3 || rng.u32(..20) == 0 {
                let version = [Version::V3_1, Version::V3_1_1, Version::V5][rng.usize(..3)];
                let client = Client { conn: world.open(), version };
                let name = ["a", "b"][rng.usize(..2)];
                let hello =
                    if rng.bool() { Hello::new(version, name) } else { Hello::lasting(version, name) };
                world.bytes(client.conn, &hello.bytes());
                clients.push(client);
            }
            let which = rng.usize(..clients.len());
            let client = clients[which];
            let mut bytes = any_packet(&mut rng, client.version);
            if rng.u32(..4) == 0 {
                let place = rng.usize(..bytes.len());
                bytes[place] = rng.u8(..);
            }
            world.bytes(client.conn, &bytes);
            match rng.u32(..12) {
                0 => {
                    world.gone(client);
                    clients.swap_remove(which);
                }
                1 => world.all_safe(),
                2 => {
                    let hold = [Hold::Nobody, Hold::Busy, Hold::All][rng.usize(..3)];
                    world.mqtt.hold(world.now, hold);
                    world.settle();
                }
                3 => world.clients_read = rng.bool(),
                4 if !world.published.is_empty() => {
                    let incoming = world.published.pop_back().unwrap().0;
                    world.deliver(&incoming);
                }
                5 => world.pass(Duration::from_secs(rng.u64(..50))),
                _ => {}
            }
        }
        for client in clients {
            world.gone(client);
        }
        world.pass(Duration::from_secs(8 * 86_400));
        world.all_safe();
        let stats = world.mqtt.stats();
        assert_eq!((stats.peers, stats.sessions, stats.subscriptions), (0, 0, 0));
        assert!(world.store.is_empty(), "{:?}", world.store);
        assert_eq!(world.mqtt.timeout(), None);
    });
}

fn any_packet(rng: &mut Rng, version: Version) -> Vec<u8> {
    let id = rng.u16(1..6);
    let packet_id = PacketId::new(id).unwrap();
    let wishes = [Subscription::new(["t", "#", "t/+"][rng.usize(..3)], Qos::ExactlyOnce)];
    let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][rng.usize(..3)];
    let packet = match rng.u32(..9) {
        0..=2 => {
            let id = if qos == Qos::AtMostOnce { 0 } else { id };
            Packet::Publish(message(["t", "t/x"][rng.usize(..2)], qos, id))
        }
        3 => Packet::PubRel(Ack::success(packet_id)),
        4 => Packet::PubAck(Ack::success(packet_id)),
        5 => Packet::PubRec(Ack::success(packet_id)),
        6 => Packet::PubComp(Ack::success(packet_id)),
        7 => Packet::PingReq,
        _ => Packet::Subscribe(mqtt::Subscribe {
            packet_id,
            properties: mqtt::Properties::EMPTY,
            subscriptions: mqtt::Subscriptions::new(&wishes),
        }),
    };
    encode(version, &packet)
}
