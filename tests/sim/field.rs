//! The devices' side of the world: their links to the gateway, stream and datagram, and what happens to these.
//! The taps on them stand in `witness`.

use super::device::Act;
use super::gateway::{address, endpoint};
use super::link::Stream;
use super::oracle::{Held, Violation};
use super::payload::Key;
use super::plan::{MS, Protocol, SECOND};
use super::tap::{FrameTap, MqttTap};
use super::world::{Event, World};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use tidegate_engine::event::{Endpoint, Input, Peer, StreamPeer, Via};
use tidegate_engine::id::ConnId;

/// The shell ends a connection after so long, sent or not.
const CLOSE_WITHIN: u64 = SECOND;

/// A stream connection with its taps.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: Stream,
    pub(super) up: MqttTap,
    pub(super) down: MqttTap,
    /// QoS 1 and QoS 2 packet ids as they came in, not acknowledged yet.
    pub(super) pubacks: VecDeque<u16>,
    pub(super) pubrecs: VecDeque<u16>,
    /// The message that each packet id carried last.
    pub(super) carried: BTreeMap<u16, Key>,
    /// It is CoAP's: its own taps.
    pub(super) coap: Option<CoapTaps>,
    /// The engine has been told that it is closed, or is gone itself.
    forgotten: bool,
}

/// The taps on a CoAP stream.
#[derive(Debug, Default)]
pub(crate) struct CoapTaps {
    pub(super) up: FrameTap,
    pub(super) down: FrameTap,
    /// The messages that each token asked for and that were not answered, the last one last, with the times at which they came.
    pub(super) asked: BTreeMap<Vec<u8>, Vec<(u64, Key)>>,
    /// Requests so far: each is one by itself, and those that are refused come again behind later ones.
    pub(super) requests: u16,
}

/// What the world knows of a device's place in the network.
#[derive(Debug)]
pub(crate) struct Port {
    /// The port of its datagrams.
    port: u16,
    /// Its connection.
    conn: Option<u64>,
    attempt: u64,
    wake_at: Option<u64>,
    /// QoS 2: the message that each packet id carried last, over all connections.
    pub(super) releasing: BTreeMap<u16, Key>,
    /// CoAP: the message of each token, by port; and whether it was confirmable: a NON's answer promises nothing.
    pub(super) tokens: BTreeMap<(u16, Vec<u8>), (Key, bool)>,
    /// OSCORE: the message in each ciphertext.
    pub(super) sealed: BTreeMap<Vec<u8>, Key>,
}

impl Port {
    pub(crate) fn new(index: u16) -> Self {
        Self {
            port: 20_000 + 100 * index,
            conn: None,
            attempt: 0,
            wake_at: None,
            releasing: BTreeMap::new(),
            tokens: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }
}

/// Devices.
impl World {
    pub(crate) fn wake_at(&mut self, device: usize, at: u64) {
        if let Some(port) = self.ports.get_mut(device)
            && port.wake_at != Some(at)
        {
            port.wake_at = Some(at);
            self.clock.at(at, Event::Wake { device, at });
        }
    }

    pub(crate) fn wake(&mut self, device: usize, at: u64) -> Held {
        if let Some(port) = self.ports.get_mut(device)
            && port.wake_at == Some(at)
        {
            port.wake_at = None;
            self.run_device(device)?;
        }
        Ok(())
    }

    /// Lets a device do what it has to do, and does that to the world.
    fn run_device(&mut self, index: usize) -> Held {
        let now = self.clock.now();
        let Some(device) = self.devices.get_mut(index) else { return Ok(()) };
        device.run(now, &mut self.rng);
        while let Some(act) = self.devices.get_mut(index).and_then(super::device::Device::next_act) {
            self.act(index, act)?;
        }
        if let Some(at) = self.devices.get(index).and_then(super::device::Device::timeout) {
            self.wake_at(index, at.max(now));
        }
        Ok(())
    }

    fn act(&mut self, device: usize, act: Act) -> Held {
        let now = self.clock.now();
        self.trace.say(now, || format!("      d{device} {act:?}"));
        match act {
            Act::Made { key, topic, qos } => self.oracle.created(key, &topic, qos),
            Act::Excused { number } => {
                let records = self.oracle.records(device as u16);
                if let Some(record) = records.get_mut(number as usize) {
                    record.excused = true;
                }
            }
            Act::Got(key) => self.oracle.got(device as u16, key)?,
            Act::Complain(text) => {
                return Err(Violation(format!("d{device} complains: {text}")));
            }
            Act::Dial => {
                let Some(port) = self.ports.get_mut(device) else { return Ok(()) };
                port.attempt += 1;
                let attempt = port.attempt;
                let latency = self.rng.u64(100..20 * MS);
                self.clock.after(latency, Event::Dial { device, attempt });
            }
            Act::Write(bytes) => {
                self.trace.mix_bytes(&bytes);
                let Some(conn) = self.ports.get(device).and_then(|port| port.conn) else { return Ok(()) };
                let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
                for (at, bytes) in connection.stream.write(now, &mut self.rng, bytes) {
                    self.clock.at(at, Event::Up { conn, bytes });
                }
            }
            Act::HangUp => {
                let Some(port) = self.ports.get_mut(device) else { return Ok(()) };
                port.attempt += 1;
                let Some(conn) = port.conn.take() else { return Ok(()) };
                let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
                connection.stream.device_open = false;
                if !connection.stream.is_broken() {
                    let at = connection.stream.up_done().max(now) + self.rng.u64(..5 * MS);
                    self.clock.at(at, Event::EndGateway { conn });
                }
                self.drop_connection(conn);
            }
            Act::Shown { key, answers } => self.oracle.shown(device as u16, key, answers)?,
            Act::Acknowledged { number } => {
                self.coverage.acknowledged += 1;
                let key = Key { device: device as u16, number };
                self.oracle.acknowledged(key, "a protected 2.04")?;
            }
            Act::Protected { bytes, what } => {
                self.tap_sealed(device, &bytes, what)?;
                return self.act(device, Act::Datagram(bytes));
            }
            Act::Datagram(bytes) => {
                self.trace.mix_bytes(&bytes);
                let Some(port) = self.ports.get(device).map(|port| port.port) else { return Ok(()) };
                for at in self.datagram_times() {
                    self.clock.at(at, Event::In { device, port, bytes: bytes.clone() });
                }
            }
        }
        Ok(())
    }

    /// A device reboots. Its connection is gone; with amnesia all that it had not told anybody, too.
    pub(crate) fn reboot(&mut self, device: usize, amnesia: bool) -> Held {
        let now = self.clock.now();
        if let Some(conn) = self.ports.get_mut(device).and_then(|port| port.conn.take()) {
            self.cut(conn);
        }
        if let Some(port) = self.ports.get_mut(device) {
            port.attempt += 1;
            if self.rng.bool() {
                port.port += 1;
            }
        }
        if amnesia {
            self.oracle.subscribers.excuse(device as u16);
        }
        self.oracle.observing.rebooted(device as u16);
        if let Some(model) = self.devices.get_mut(device) {
            model.reboot(now, &mut self.rng, amnesia);
        }
        self.run_device(device)
    }

    /// When the copies of a datagram arrive: never, once or twice.
    fn datagram_times(&mut self) -> Vec<u64> {
        let faults = &self.plan.faults;
        if self.rng.u8(..100) < faults.loss {
            self.coverage.datagrams_lost += 1;
            return Vec::new();
        }
        let twice = self.rng.u8(..100) < faults.doubled;
        self.coverage.datagrams_doubled += u64::from(twice);
        let now = self.clock.now();
        (0..=u8::from(twice)).map(|_| now + self.rng.u64(100..faults.delay.max(200))).collect()
    }
}

/// Stream links.
impl World {
    pub(crate) fn dial(&mut self, device: usize, attempt: u64) -> Held {
        if self.ports.get(device).is_none_or(|port| port.attempt != attempt) {
            return Ok(());
        }
        let now = self.clock.now();
        if !self.gateway.is_listening() {
            if let Some(model) = self.devices.get_mut(device) {
                model.closed(now, &mut self.rng);
            }
            return self.run_device(device);
        }
        let taken_over =
            self.connections.values().any(|c| c.stream.device == device && c.stream.gateway_open);
        let conn = self.gateway.next_connection();
        let protocol = self.plan.devices.get(device).map(|plan| plan.protocol);
        let five = matches!(protocol, Some(Protocol::Mqtt { five: true, .. }));
        let coap = matches!(protocol, Some(Protocol::Stream { .. })).then(CoapTaps::default);
        let is_coap = coap.is_some();
        self.coverage.mqtt_takeovers += u64::from(taken_over && !is_coap);
        let connection = Connection {
            stream: Stream::new(device, self.rng.u64(100..30 * MS)),
            up: MqttTap::new(five),
            down: MqttTap::new(five),
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            carried: BTreeMap::new(),
            coap,
            forgotten: false,
        };
        self.connections.insert(conn, connection);
        let address = SocketAddr::new(address(device), 1_024 + (conn & 0x7fff) as u16);
        let conn_id = ConnId(conn);
        self.report(if is_coap {
            Input::CoapOpened { conn: conn_id, peer: StreamPeer { address, device: None } }
        } else {
            Input::Opened { conn: conn_id, peer: Peer::at(address) }
        });
        if let Some(port) = self.ports.get_mut(device) {
            port.conn = Some(conn);
        }
        if let Some(model) = self.devices.get_mut(device) {
            model.opened(now);
        }
        self.run_device(device)
    }

    pub(crate) fn stream_up(&mut self, conn: u64, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(bytes) = connection.stream.arrive_up(bytes) {
            self.report(Input::Received { conn: ConnId(conn), bytes });
        }
    }

    pub(crate) fn stream_down(&mut self, conn: u64, bytes: Bytes) -> Held {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let arrived = connection.stream.arrive_down(bytes);
        let device = connection.stream.device;
        self.pump(conn);
        // A device that has rebooted does not read what came for its life before.
        let current = self.ports.get(device).is_some_and(|port| port.conn == Some(conn));
        let arrived = arrived.filter(|_| current);
        if let (Some(bytes), Some(model)) = (arrived, self.devices.get_mut(device)) {
            model.bytes(now, &bytes);
            self.run_device(device)?;
        }
        Ok(())
    }

    /// Moves bytes from the shell's buffer to the link.
    fn pump(&mut self, conn: u64) {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let pieces = connection.stream.pump(now, &mut self.rng);
        let count: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        let open = connection.stream.gateway_open;
        for (at, bytes) in pieces {
            self.clock.at(at, Event::Down { conn, bytes });
        }
        if count > 0 && open {
            self.report(Input::Sent { conn: ConnId(conn), count });
        }
    }

    pub(crate) fn send(&mut self, conn: u64, bytes: Bytes) -> Held {
        self.trace.mix_bytes(&bytes);
        self.tap_down(conn, &bytes)?;
        let limits = &self.gateway.setup.limits;
        let most = limits.outgoing_bytes + limits.packet_bytes;
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        connection.stream.send(bytes);
        if connection.stream.unsent_bytes > most {
            let bytes = connection.stream.unsent_bytes;
            return Err(Violation(format!("bounds: {bytes} bytes wait for one connection")));
        }
        self.pump(conn);
        Ok(())
    }

    pub(crate) fn close(&mut self, conn: u64) {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let stream = &mut connection.stream;
        stream.closing = true;
        let (gateway, device) = if stream.unsent_bytes == 0 {
            (now + self.rng.u64(..3 * MS), stream.down_done().max(now) + self.rng.u64(..10 * MS))
        } else {
            (now + CLOSE_WITHIN, now + CLOSE_WITHIN)
        };
        self.clock.at(gateway, Event::EndGateway { conn });
        if !connection.stream.is_broken() {
            self.clock.at(device.max(gateway), Event::EndDevice { conn });
        }
    }

    pub(crate) fn set_reading(&mut self, conn: u64, on: bool) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.stream.reading = on;
        if on {
            self.clock.after(self.rng.u64(1..200), Event::Read { conn });
        }
    }

    /// The shell reads what has piled up, one piece after the other, as long as it may.
    pub(crate) fn read_on(&mut self, conn: u64) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(bytes) = connection.stream.read_held() {
            self.report(Input::Received { conn: ConnId(conn), bytes });
            self.clock.after(self.rng.u64(1..200), Event::Read { conn });
        }
    }

    pub(crate) fn end_gateway(&mut self, conn: u64) {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !std::mem::take(&mut connection.stream.gateway_open) {
            return;
        }
        connection.stream.forget_unsent();
        if connection.stream.device_open && !connection.stream.is_broken() {
            let at = connection.stream.down_done().max(now) + self.rng.u64(..10 * MS);
            self.clock.at(at, Event::EndDevice { conn });
        }
        self.report(Input::Closed { conn: ConnId(conn) });
    }

    pub(crate) fn end_device(&mut self, conn: u64) -> Held {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let device = connection.stream.device;
        if !std::mem::take(&mut connection.stream.device_open) {
            return Ok(());
        }
        if connection.stream.gateway_open {
            self.clock.after(self.rng.u64(..5 * MS), Event::EndGateway { conn });
        }
        self.drop_connection(conn);
        let Some(port) = self.ports.get_mut(device) else { return Ok(()) };
        if port.conn == Some(conn) {
            port.conn = None;
            if let Some(model) = self.devices.get_mut(device) {
                model.closed(now, &mut self.rng);
            }
            self.run_device(device)?;
        }
        Ok(())
    }

    /// The engine has handled the end of a connection.
    pub(crate) fn forget_connection(&mut self, conn: u64) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.forgotten = true;
        }
        self.drop_connection(conn);
    }

    fn drop_connection(&mut self, conn: u64) {
        if self.connections.get(&conn).is_some_and(|c| c.forgotten && !c.stream.device_open) {
            self.connections.remove(&conn);
        }
    }

    /// A link breaks. Both ends hear of it, each in its time; the gateway sometimes not at all.
    fn cut(&mut self, conn: u64) {
        let now = self.clock.now();
        let half_open = !self.healed && self.rng.u8(..100) < self.plan.faults.half_open;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let (up, down) = connection.stream.break_off(now, &mut self.rng);
        let late = if self.rng.bool() { 10 * MS } else { 3 * SECOND };
        self.clock.at(down + self.rng.u64(..late), Event::EndDevice { conn });
        if half_open {
            self.coverage.half_open += 1;
        } else {
            self.clock.at(up + self.rng.u64(..late), Event::EndGateway { conn });
        }
    }

    pub(crate) fn cut_one(&mut self) {
        let open: Vec<u64> = self.ports.iter().filter_map(|port| port.conn).collect();
        if let Some(conn) = self.rng.choice(open) {
            self.coverage.cuts += 1;
            self.cut(conn);
        }
    }

    pub(crate) fn slow_one(&mut self) {
        let open: Vec<u64> = self.ports.iter().filter_map(|port| port.conn).collect();
        let until = self.clock.now() + self.rng.u64(100 * MS..4 * SECOND);
        if let Some(connection) = self.rng.choice(open).and_then(|conn| self.connections.get_mut(&conn)) {
            self.coverage.slow_readers += 1;
            connection.stream.stalled_until = until;
        }
    }

    /// The gateway's process is gone, and with it its ends of all links.
    pub(crate) fn break_all_streams(&mut self) {
        let now = self.clock.now();
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for conn in open {
            if let Some(connection) = self.connections.get_mut(&conn) {
                connection.forgotten = true;
                connection.stream.gateway_open = false;
                let (_, down) = connection.stream.break_off(now, &mut self.rng);
                self.clock.at(down + self.rng.u64(..100 * MS), Event::EndDevice { conn });
            }
            self.drop_connection(conn);
        }
    }
}

/// Datagrams.
impl World {
    pub(crate) fn datagram_in(&mut self, device: usize, port: u16, bytes: Bytes) {
        self.report(Input::Datagram { endpoint: endpoint(device, port), via: Via::Open, bytes });
    }

    pub(crate) fn send_to(&mut self, endpoint: Endpoint, bytes: Bytes) -> Held {
        self.trace.mix_bytes(&bytes);
        let Some(device) = device_at(endpoint) else { return Ok(()) };
        self.tap_out(device, endpoint.peer.port(), &bytes)?;
        for at in self.datagram_times() {
            let port = endpoint.peer.port();
            self.clock.at(at, Event::Out { device, port, bytes: bytes.clone() });
        }
        Ok(())
    }

    pub(crate) fn datagram_out(&mut self, device: usize, port: u16, bytes: &[u8]) -> Held {
        let now = self.clock.now();
        if self.ports.get(device).is_some_and(|place| place.port == port)
            && let Some(model) = self.devices.get_mut(device)
        {
            model.datagram(now, &mut self.rng, bytes);
            self.run_device(device)?;
        }
        Ok(())
    }
}

pub(super) fn device_at(endpoint: Endpoint) -> Option<usize> {
    match endpoint.peer.ip() {
        IpAddr::V4(v4) => v4.octets().last().map(|last| usize::from(*last)),
        IpAddr::V6(_) => None,
    }
}
