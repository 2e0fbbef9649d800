//! The taps on the devices' links: tell the oracle what is about to come in and which acknowledgement has gone out, and
//! hold the gateway to what it may say to a device that does nothing wrong.

use super::block_device::TOKEN_MARK;
use super::field::device_at;
use super::oracle::{Held, Violation};
use super::payload::Key;
use super::plan::Protocol;
use super::tap::{self, Packet};
use super::world::World;
use std::collections::VecDeque;
use tidegate_engine::event::Endpoint;

/// MQTT 5 reasons with which a gateway may end a well-behaved client's connection.
const FAIR_DISCONNECTS: [u8; 7] = [0x89, 0x8B, 0x8D, 0x8E, 0x96, 0x97, 0x98];
/// Codes with which it may refuse one: 3.1.1's "server unavailable", and MQTT 5's unavailable, busy, quota, rate.
const FAIR_REFUSALS: [u8; 5] = [0x03, 0x88, 0x89, 0x97, 0x9F];

impl World {
    /// Bytes that the engine is about to get.
    pub(crate) fn tap_up(&mut self, conn: u64, bytes: &[u8]) -> Held {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        if let Some(taps) = &mut connection.coap {
            taps.up.feed(bytes);
            return self.tap_asked(conn);
        }
        connection.up.feed(bytes);
        while let Some(packet) = connection.up.next() {
            match packet {
                Packet::Publish { pid, qos, dup, retain, topic, key: Some(key) } => {
                    self.coverage.mqtt_repeats += u64::from(dup);
                    if qos > 0 {
                        connection.carried.insert(pid, key);
                    }
                    match qos {
                        0 => {}
                        1 => connection.pubacks.push_back(pid),
                        _ => {
                            connection.pubrecs.push_back(pid);
                            if let Some(port) = self.ports.get_mut(connection.stream.device) {
                                port.releasing.insert(pid, key);
                            }
                        }
                    }
                    self.oracle.received(key, &topic, None)?;
                    if retain {
                        self.oracle.retains(key, &topic);
                    }
                }
                Packet::Publish { .. } | Packet::Broken => {
                    return Err(Violation(format!("a device sent what nobody can read: {packet:?}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes that have just left the engine.
    pub(super) fn tap_down(&mut self, conn: u64, bytes: &[u8]) -> Held {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        if let Some(taps) = &mut connection.coap {
            taps.down.feed(bytes);
            return self.tap_answered(conn);
        }
        connection.down.feed(bytes);
        let device = connection.stream.device;
        while let Some(packet) = connection.down.next() {
            let coverage = &mut self.coverage;
            match packet {
                Packet::Puback { code: 0x80.., .. } | Packet::Pubrec { code: 0x80.., .. } => {
                    return Err(Violation(format!("P7: {packet:?} to d{device}")));
                }
                Packet::Puback { pid, .. } => {
                    in_order(&mut connection.pubacks, pid, "PUBACK")?;
                    if let Some(key) = connection.carried.get(&pid) {
                        coverage.acknowledged += 1;
                        self.oracle.acknowledged(*key, "PUBACK")?;
                    }
                }
                Packet::Pubrec { pid, .. } => {
                    in_order(&mut connection.pubrecs, pid, "PUBREC")?;
                    if let Some(key) = connection.carried.get(&pid) {
                        coverage.acknowledged += 1;
                        self.oracle.acknowledged(*key, "PUBREC")?;
                    }
                }
                Packet::Pubcomp { pid, code: ..0x80 } => {
                    if let Some(key) = self.ports.get(device).and_then(|port| port.releasing.get(&pid)) {
                        self.oracle.acknowledged(*key, "PUBCOMP")?;
                    }
                }
                Packet::Connack { session_present, code: 0 } => {
                    coverage.mqtt_connects += 1;
                    coverage.mqtt_resumed += u64::from(session_present);
                }
                Packet::Connack { code, .. } if FAIR_REFUSALS.contains(&code) => {}
                Packet::Disconnect { code } if FAIR_DISCONNECTS.contains(&code) => {}
                Packet::Connack { .. } | Packet::Disconnect { .. } | Packet::Broken => {
                    return Err(Violation(format!(
                        "the gateway says {packet:?} to d{device}, which did nothing wrong"
                    )));
                }
                Packet::Publish { retain: true, .. } => coverage.retained_sent += 1,
                Packet::Suback => self.oracle.subscribers.granted(device as u16),
                Packet::Publish { dup: true, .. } => coverage.redelivered += 1,
                Packet::Pubrel { .. } => coverage.released += 1,
                Packet::Publish { key: None, .. } => {
                    return Err(Violation(format!("d{device} is told what nobody sent: {packet:?}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What a device asks for on a CoAP stream.
    fn tap_asked(&mut self, conn: u64) -> Held {
        let now = self.clock.now();
        let Some(taps) = self.connections.get_mut(&conn).and_then(|one| one.coap.as_mut()) else {
            return Ok(());
        };
        while let Some(message) = taps.up.next() {
            let (0x02, Some(key)) = (message.code, message.key) else { continue };
            taps.asked.entry(message.token).or_default().push((now, key));
            taps.requests = taps.requests.wrapping_add(1);
            let topic = message.path.strip_prefix("t/").unwrap_or(&message.path);
            self.oracle.received(key, topic, Some((conn as u16, taps.requests)))?;
        }
        Ok(())
    }

    /// What it is answered. An answer is for what was asked last under its token: that is what the device takes it for. What came
    /// at this very moment may have come too late: then it is for one before, as if it had been under way.
    fn tap_answered(&mut self, conn: u64) -> Held {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let device = connection.stream.device;
        let Some(taps) = &mut connection.coap else { return Ok(()) };
        while let Some(message) = taps.down.next() {
            let mut none = Vec::new();
            let asked = taps.asked.get_mut(&message.token).unwrap_or(&mut none);
            match message.code {
                0x44 => {
                    let Some(last) = asked.len().checked_sub(1) else {
                        return Err(Violation(format!("d{device} gets a 2.04 for nothing")));
                    };
                    let before = asked.iter().rposition(|(at, key)| *at < now && self.oracle.is_safe(*key));
                    let came_now = asked.get(last).is_some_and(|(at, _)| *at == now);
                    let (_, key) = asked.remove(before.filter(|_| came_now).unwrap_or(last));
                    self.coverage.acknowledged += 1;
                    self.coverage.stream_answers += 1;
                    self.oracle.acknowledged(key, "2.04 on a stream")?;
                }
                // At once, so of the last one.
                0xA3 | 0x9D => {
                    asked.pop();
                    self.coverage.coap_busy += 1;
                }
                // CSM, Ping, Pong, Release.
                0xE1..=0xE4 => {}
                code => {
                    return Err(Violation(format!("P7: d{device} gets {}.{:02}", code >> 5, code & 31)));
                }
            }
        }
        Ok(())
    }

    /// A datagram that the engine is about to get.
    pub(crate) fn tap_in(&mut self, endpoint: &Endpoint, bytes: &[u8]) -> Held {
        let (Some(device), Some(message)) = (device_at(*endpoint), tap::coap(bytes)) else { return Ok(()) };
        if message.oscore.is_some() {
            return self.tap_protected(device, endpoint, &message);
        }
        // The last block of a body says by its token which message is whole now.
        let key = match (message.more, &message.token[..]) {
            (None, _) => message.key,
            (Some(false), [TOKEN_MARK, a, b, c, d]) => {
                Some(Key { device: device as u16, number: u32::from_be_bytes([*a, *b, *c, *d]) })
            }
            (Some(_), _) => None,
        };
        if let (0x02 | 0x03, Some(key)) = (message.code, key) {
            let port = endpoint.peer.port();
            let topic = message.path.strip_prefix("t/").unwrap_or(&message.path);
            self.oracle.received(key, topic, Some((port, message.mid)))?;
            if let Some(place) = self.ports.get_mut(device) {
                place.tokens.insert((port, message.token), (key, message.kind == 0));
            }
        }
        Ok(())
    }

    /// A device sends a protected datagram with this message, confirmable or not.
    pub(super) fn tap_sealed(&mut self, device: usize, bytes: &[u8], what: Option<(u32, bool)>) -> Held {
        let Some(message) = tap::coap(bytes).filter(|message| message.oscore.is_some()) else {
            return Ok(());
        };
        if let (Some((number, _)), Some(port)) = (what, self.ports.get_mut(device)) {
            port.sealed.insert(message.payload.clone(), Key { device: device as u16, number });
        }
        self.oracle.nonces.sent(device as u16, &message)
    }

    /// A protected request that the engine is about to get.
    fn tap_protected(&mut self, device: usize, endpoint: &Endpoint, message: &tap::Coap) -> Held {
        let port = endpoint.peer.port();
        self.oracle.nonces.received(device as u16, port, message);
        let key = self.ports.get(device).and_then(|place| place.sealed.get(&message.payload)).copied();
        match key.and_then(|key| Some((key, self.oracle.topic(key)?))) {
            Some((key, topic)) => self.oracle.received(key, topic.as_str(), Some((port, message.mid))),
            None => Ok(()),
        }
    }

    /// A datagram that has just left the engine.
    pub(super) fn tap_out(&mut self, device: usize, port: u16, bytes: &[u8]) -> Held {
        let Some(message) = tap::coap(bytes) else {
            return Err(Violation(format!("d{device} gets a datagram that is not CoAP")));
        };
        if message.oscore.is_some() {
            self.coverage.oscore_answers += 1;
            self.coverage.oscore_numbers += u64::from(message.number().is_some());
            return self.oracle.nonces.answered(device as u16, port, &message);
        }
        if let Some(number) = message.observe {
            self.oracle.numbers(device as u16, &message.token, number)?;
        }
        let protocol = self.plan.devices.get(device).map(|plan| &plan.protocol);
        match message.code {
            0x45 if matches!(protocol, Some(Protocol::Observer(_))) => match message.observe {
                Some(number) if message.kind == 2 => {
                    self.oracle.listed(device as u16, (port, message.mid, number), message.key)?;
                }
                _ => self.coverage.notifications += u64::from(message.observe.is_some()),
            },
            // It has been here: a copy that came late.
            0x81 if matches!(protocol, Some(Protocol::Coap { secured: true, .. })) => {
                self.coverage.oscore_replays += 1;
            }
            0x44 => {
                let key = self.ports.get(device).and_then(|place| place.tokens.get(&(port, message.token)));
                match key {
                    Some((key, true)) => {
                        self.coverage.acknowledged += 1;
                        self.oracle.acknowledged(*key, "2.04")?;
                    }
                    Some((_, false)) => {}
                    None => return Err(Violation(format!("d{device} gets a 2.04 for nothing"))),
                }
            }
            0x5F => self.coverage.coap_blocks += 1,
            // After a crash, or when a copy of a block comes late.
            0x88 => self.coverage.coap_incomplete += 1,
            0xA3 | 0x9D => self.coverage.coap_busy += 1,
            0x00 if message.kind == 2 => self.coverage.coap_separate += 1,
            0x00 => {}
            code => {
                return Err(Violation(format!("P7: d{device} gets {}.{:02}", code >> 5, code & 31)));
            }
        }
        Ok(())
    }
}

/// Acknowledgements leave in the order of reception [MQTT-4.6.0-2, MQTT-4.6.0-3].
fn in_order(waiting: &mut VecDeque<u16>, pid: u16, what: &str) -> Held {
    match waiting.pop_front() {
        Some(front) if front == pid => Ok(()),
        front => Err(Violation(format!("P7: {what} {pid} leaves, and {front:?} came in first"))),
    }
}
