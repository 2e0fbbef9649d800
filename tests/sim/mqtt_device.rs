//! An MQTT device: the node's publisher, and the loop around it that firmware would have: dial, send again after a
//! pause that grows, hand over as many readings as its window allows. A subscriber does both.

use super::device::{Act, Application, Reading};
use super::payload;
use super::plan::{MS, Protocol, SECOND};
use bytes::Bytes;
use fastrand::Rng;
use std::collections::BTreeMap;
use tidegate_node::mqtt::{Config, Event, Message, Publisher, Qos, Session, Version};

/// Messages that a node keeps until they are acknowledged.
const SLOTS: usize = 20;
/// Bytes of them.
const OUTBOX_BYTES: usize = 8_192;
/// The largest packet that a node takes.
const RECEIVE_BYTES: usize = 1_536;
/// What a node gives to its transport at once.
const WRITE_BYTES: usize = 1_024;
/// What the readings' numbers do not reach: the token of the subscription.
const SUBSCRIPTION: u32 = u32::MAX;
/// The longest pause before it dials again.
const LONGEST_PAUSE: u64 = 2 * SECOND;

type Node = Publisher<'static, SLOTS, OUTBOX_BYTES, RECEIVE_BYTES>;

/// Client ids live as long as the program, as they do in firmware.
const NAMES: [&str; 8] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"];

/// An MQTT device.
#[derive(Debug)]
pub(crate) struct MqttDevice {
    config: Config<'static>,
    node: Box<Node>,
    link: Link,
    /// Handed to the node and not acknowledged, by number: the application keeps what it may have to say again.
    under_way: BTreeMap<u32, Reading>,
    window: usize,
    subscribes: Option<Qos>,
    /// It has a session that the gateway must remember: it knows a subscription or a QoS 2 message of it.
    has_session: bool,
    pause: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It dials at that time.
    Down {
        dial_at: u64,
    },
    Dialling,
    Open,
}

fn qos(level: u8) -> Qos {
    match level {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

impl MqttDevice {
    pub(crate) fn new(index: u16, protocol: Protocol) -> Self {
        let Protocol::Mqtt { five, clean, window, keep_alive, subscribes, packet_ids, .. } = protocol else {
            unreachable!("an MQTT device speaks MQTT")
        };
        let name = NAMES.get(usize::from(index)).copied().unwrap_or("d");
        let version = if five { Version::V5 } else { Version::V3_1_1 };
        let session = if clean { Session::Clean } else { Session::Persistent { expiry_s: 86_400 } };
        let config = Config {
            keep_alive_s: keep_alive,
            session,
            response_timeout_us: 2 * SECOND,
            largest_packet_id: packet_ids,
            ..Config::new(version, name)
        };
        Self {
            node: Box::new(Node::new(config)),
            config,
            link: Link::Down { dial_at: 0 },
            under_way: BTreeMap::new(),
            window: usize::from(window).min(SLOTS - 1),
            subscribes: subscribes.map(qos),
            has_session: false,
            pause: 5 * MS,
        }
    }

    /// Nothing waits for an acknowledgement, in any sense.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.node.pending() == 0
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        match self.link {
            Link::Down { dial_at } => Some(dial_at),
            Link::Dialling => None,
            Link::Open => self.node.poll_timeout(),
        }
    }

    pub(crate) fn opened(&mut self, now: u64) {
        self.link = Link::Open;
        self.node.connect(now);
    }

    /// The transport is gone, or did not come about.
    pub(crate) fn closed(&mut self, now: u64, rng: &mut Rng) {
        self.node.connection_lost();
        self.hang_up(now, rng);
    }

    fn hang_up(&mut self, now: u64, rng: &mut Rng) {
        self.link = Link::Down { dial_at: now + rng.u64(..=self.pause) };
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }

    /// Bytes came. What does not fit is read when there is room again, as from a socket.
    pub(crate) fn bytes(&mut self, now: u64, mut bytes: &[u8], application: &mut Application) {
        while !bytes.is_empty() && self.link == Link::Open {
            let taken = self.node.handle_bytes(now, bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            let events = self.events(application);
            // Room in the node's replies comes only by sending them.
            let written = self.transmit(now, application);
            if taken == 0 && !events && !written {
                break;
            }
        }
    }

    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        if let Link::Down { dial_at } = self.link
            && dial_at <= now
        {
            self.link = Link::Dialling;
            application.acts.push_back(Act::Dial);
        }
        if self.link == Link::Open {
            self.node.handle_timeout(now);
        }
        loop {
            let events = self.events(application);
            self.hand_over(application);
            let written = self.transmit(now, application);
            if !events && !written {
                break;
            }
        }
        // The node has ended the connection: what it still had to say has been written.
        if self.link == Link::Open && self.node.poll_timeout().is_none() && !self.node.is_connected() {
            application.acts.push_back(Act::HangUp);
            self.hang_up(now, rng);
        }
    }

    /// Takes what has happened; true when something has.
    fn events(&mut self, application: &mut Application) -> bool {
        let mut any = false;
        let mut subscribe = false;
        let persistent = matches!(self.config.session, Session::Persistent { .. });
        while let Some(event) = self.node.poll_event() {
            any = true;
            match event {
                Event::Connected { session_present } => {
                    self.pause = 5 * MS;
                    subscribe = !session_present;
                    if self.has_session && !session_present {
                        application.acts.push_back(Act::Complain("its session is forgotten"));
                    }
                    if !persistent {
                        // What may have arrived comes again under a session that does not know it.
                        application
                            .acts
                            .extend(self.under_way.keys().map(|number| Act::Excused { number: *number }));
                    }
                }
                Event::Acknowledged { token } => {
                    // A session that has nothing to remember may be forgotten; this one has now.
                    let exactly_once = self.under_way.remove(&token).is_some_and(|reading| reading.qos == 2);
                    self.has_session |= exactly_once && persistent;
                }
                Event::Refused { .. } => application.acts.push_back(Act::Complain("its message is refused")),
                Event::Subscribed { reason, .. } if reason.is_failure() => {
                    application.acts.push_back(Act::Complain("its subscription is refused"));
                }
                Event::Subscribed { .. } => self.has_session |= persistent,
                // A retained message may come in its turn and once more for a subscription.
                Event::Message { retain: true, .. } => {}
                Event::Message { payload, .. } => match payload::read(payload) {
                    Some(key) => application.acts.push_back(Act::Got(key)),
                    None => application.acts.push_back(Act::Complain("it gets what nobody sent")),
                },
                Event::Disconnected { .. } => {}
            }
        }
        if let (true, Some(qos)) = (subscribe, self.subscribes) {
            // Without room now it goes without: nothing is promised about it.
            let _ = self.node.subscribe("sensors/#", qos, SUBSCRIPTION);
        }
        any
    }

    /// Gives the node as many readings as the window allows. What is not connected cannot keep QoS 0.
    fn hand_over(&mut self, application: &mut Application) {
        while self.under_way.len() < self.window
            && let Some(reading) = application.waiting.pop_front()
        {
            let kept = reading.qos > 0;
            let message = Message {
                retain: application.retains(),
                ..Message::new(reading.topic.as_str(), &reading.payload, qos(reading.qos))
            };
            match self.node.publish(&message, reading.number) {
                Ok(()) if kept => {
                    self.under_way.insert(reading.number, reading);
                }
                Err(_) if kept => {
                    application.waiting.push_front(reading);
                    break;
                }
                _ => {}
            }
        }
    }

    fn transmit(&mut self, now: u64, application: &mut Application) -> bool {
        let mut any = false;
        if self.link == Link::Open {
            let mut buffer = [0; WRITE_BYTES];
            loop {
                let count = self.node.poll_transmit(now, &mut buffer);
                let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
                application.acts.push_back(Act::Write(Bytes::copy_from_slice(bytes)));
                any = true;
            }
        }
        any
    }

    /// Power comes back. Without amnesia the device only slept: its memory is intact, its link is gone. With amnesia
    /// it begins anew: all that was made and not acknowledged is lost.
    pub(crate) fn reboot(&mut self, now: u64, rng: &mut Rng, amnesia: bool, application: &mut Application) {
        if amnesia {
            application.acts.extend(self.under_way.keys().map(|number| Act::Excused { number: *number }));
            self.under_way.clear();
            *self.node = Node::new(self.config);
            self.has_session = false;
        } else {
            self.node.connection_lost();
        }
        self.pause = 5 * MS;
        self.hang_up(now, rng);
    }
}
