//! A device: an application that makes readings at its own pace and keeps each until it may forget it, on top of the
//! real node code. Decides when to dial and when to send again, as firmware would; touches the world only by [`Act`]s.

use super::block_device::BlockDevice;
use super::mqtt_device::MqttDevice;
use super::observer_device::ObserverDevice;
use super::payload::{self, Key};
use super::plan::{DevicePlan, MS, Protocol, READINGS, SECOND};
use super::secured_device::SecuredDevice;
use super::stream_device::StreamDevice;
use bytes::Bytes;
use fastrand::Rng;
use std::collections::VecDeque;
use tidegate_engine::topic::Topic;
use tidegate_node::coap::{self, Publication, Publisher};

/// The largest CoAP message that a device makes, in bytes.
const COAP_BUFFER_BYTES: usize = 1_152;

/// What a device does to the world.
#[derive(Debug)]
pub(crate) enum Act {
    /// Its application has made a message.
    Made { key: Key, topic: Topic, qos: u8 },
    /// It can no longer promise that this message comes once.
    Excused { number: u32 },
    /// Its application gets a message.
    Got(Key),
    /// The gateway has treated it as it must not.
    Complain(&'static str),
    /// It opens a connection.
    Dial,
    /// It writes to its connection.
    Write(Bytes),
    /// It closes its connection, or gives the attempt up.
    HangUp,
    /// It sends a datagram.
    Datagram(Bytes),
    /// It sends a datagram that nobody on the way can read, with this message if it carries one, confirmable or not.
    Protected { bytes: Bytes, what: Option<(u32, bool)> },
    /// It is told that a message that it protected is safe.
    Acknowledged { number: u32 },
    /// Its application sees the value that it observes, or that there is none; `answers` with the answer to its request.
    Shown { key: Option<Key>, answers: bool },
}

/// A message that the application keeps.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) number: u32,
    pub(crate) topic: Topic,
    pub(crate) qos: u8,
    pub(crate) payload: Vec<u8>,
}

impl Reading {
    /// What a CoAP device of this index hands to its node.
    pub(crate) fn as_publication<T>(&self, index: u16, publish: impl FnOnce(&Publication<'_>) -> T) -> T {
        let name = format!("d{index}");
        let path = ["t", "sensors", &name, self.topic.levels().last().unwrap_or_default()];
        publish(&match self.qos {
            0 => Publication::non_confirmable(&path, &self.payload),
            _ => Publication::confirmable(&path, &self.payload),
        })
    }
}

/// The application: makes readings and keeps them.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) index: u16,
    plan: DevicePlan,
    made: u32,
    next_at: u64,
    /// Made and not handed to the protocol, in order.
    pub(crate) waiting: VecDeque<Reading>,
    pub(crate) acts: VecDeque<Act>,
}

impl Application {
    fn make(&mut self, now: u64, rng: &mut Rng) {
        while self.made < self.plan.messages && self.next_at <= now {
            let key = Key { device: self.index, number: self.made };
            let reading = READINGS[rng.usize(..READINGS.len())];
            let Ok(topic) = Topic::new(&format!("sensors/d{}/{reading}", self.index)) else { return };
            let qos = match self.plan.protocol {
                Protocol::Mqtt { qos, .. } => qos.unwrap_or_else(|| rng.u8(..3)),
                Protocol::Coap { confirmable, .. } => confirmable.unwrap_or_else(|| rng.bool()).into(),
                Protocol::Observer(_) => 0,
                Protocol::Stream { .. } => 1,
            };
            let payload = payload::write(key, rng.usize(self.plan.payload.clone()));
            self.acts.push_back(Act::Made { key, topic: topic.clone(), qos });
            self.waiting.push_back(Reading { number: key.number, topic, qos, payload });
            self.made += 1;
            self.next_at = now + rng.u64(self.plan.interval.clone());
        }
    }

    /// Its messages are to be retained.
    pub(crate) fn retains(&self) -> bool {
        self.plan.retains
    }

    fn all_made(&self) -> bool {
        self.made == self.plan.messages
    }
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) application: Application,
    speaker: Speaker,
    /// Until when it is rebooting; it wakes by itself.
    asleep_until: Option<u64>,
}

#[derive(Debug)]
enum Speaker {
    Mqtt(Box<MqttDevice>),
    Coap(Box<CoapDevice>),
    Blocks(Box<BlockDevice>),
    Secured(Box<SecuredDevice>),
    Observer(Box<ObserverDevice>),
    Stream(Box<StreamDevice>),
}

impl Device {
    pub(crate) fn new(index: u16, plan: &DevicePlan, rng: &mut Rng) -> Self {
        let speaker = match plan.protocol {
            Protocol::Mqtt { .. } => Speaker::Mqtt(Box::new(MqttDevice::new(index, plan.protocol))),
            Protocol::Observer(watching) => {
                Speaker::Observer(Box::new(ObserverDevice::new(plan.begins, watching, rng)))
            }
            Protocol::Stream { tokens } => Speaker::Stream(Box::new(StreamDevice::new(tokens))),
            Protocol::Coap { secured: true, .. } => {
                Speaker::Secured(Box::new(SecuredDevice::new(index, rng)))
            }
            Protocol::Coap { blocks: true, .. } => Speaker::Blocks(Box::new(BlockDevice::new(rng))),
            Protocol::Coap { .. } => Speaker::Coap(Box::new(CoapDevice::new(rng))),
        };
        let application = Application {
            index,
            plan: plan.clone(),
            made: 0,
            next_at: plan.begins + rng.u64(..300 * MS),
            waiting: VecDeque::new(),
            acts: VecDeque::new(),
        };
        Self { application, speaker, asleep_until: None }
    }

    /// Messages made.
    pub(crate) fn made(&self) -> u64 {
        self.application.made.into()
    }

    /// Everything that it had to say has been said and acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.application.all_made()
            && self.application.waiting.is_empty()
            && match &self.speaker {
                Speaker::Mqtt(mqtt) => mqtt.is_idle(),
                Speaker::Coap(coap) => coap.current.is_none(),
                Speaker::Blocks(blocks) => blocks.is_idle(),
                Speaker::Secured(secured) => secured.is_idle(),
                Speaker::Observer(observer) => observer.is_idle(),
                Speaker::Stream(stream) => stream.is_idle(),
            }
    }

    /// Does what is due.
    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng) {
        if self.asleep_until.is_some_and(|until| now < until) {
            return;
        }
        self.asleep_until = None;
        self.application.make(now, rng);
        match &mut self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.run(now, rng, &mut self.application),
            Speaker::Coap(coap) => coap.run(now, &mut self.application),
            Speaker::Blocks(blocks) => blocks.run(now, rng, &mut self.application),
            Speaker::Secured(secured) => secured.run(now, rng, &mut self.application),
            Speaker::Observer(observer) => observer.run(now, rng, &mut self.application),
            Speaker::Stream(stream) => stream.run(now, rng, &mut self.application),
        }
    }

    /// What it does to the world, one after the other.
    pub(crate) fn next_act(&mut self) -> Option<Act> {
        self.application.acts.pop_front()
    }

    /// When it wants to run again.
    pub(crate) fn timeout(&self) -> Option<u64> {
        if self.asleep_until.is_some() {
            return self.asleep_until;
        }
        let speaker = match &self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.timeout(),
            Speaker::Coap(coap) => coap.publisher.poll_timeout(),
            Speaker::Blocks(blocks) => blocks.timeout(),
            Speaker::Secured(secured) => secured.timeout(),
            Speaker::Observer(observer) => observer.timeout(),
            Speaker::Stream(stream) => stream.timeout(!self.application.waiting.is_empty()),
        };
        let make = (!self.application.all_made()).then_some(self.application.next_at);
        [speaker, make].into_iter().flatten().min()
    }

    /// Its connection is open.
    pub(crate) fn opened(&mut self, now: u64) {
        match &mut self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.opened(now),
            Speaker::Stream(stream) => stream.opened(),
            _ => {}
        }
    }

    /// Its connection is gone, or did not come about.
    pub(crate) fn closed(&mut self, now: u64, rng: &mut Rng) {
        match &mut self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.closed(now, rng),
            Speaker::Stream(stream) => stream.closed(now, rng, &mut self.application),
            _ => {}
        }
    }

    /// Bytes came on its connection.
    pub(crate) fn bytes(&mut self, now: u64, bytes: &[u8]) {
        match &mut self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.bytes(now, bytes, &mut self.application),
            Speaker::Stream(stream) => stream.bytes(now, bytes, &mut self.application),
            _ => {}
        }
    }

    /// A datagram came.
    pub(crate) fn datagram(&mut self, now: u64, rng: &mut Rng, bytes: &[u8]) {
        match &mut self.speaker {
            Speaker::Coap(coap) => coap.publisher.handle_datagram(now, bytes),
            Speaker::Secured(secured) => secured.datagram(now, bytes),
            Speaker::Observer(observer) if self.asleep_until.is_none() => {
                observer.datagram(now, rng, bytes, &mut self.application);
            }
            // While it sleeps it hears nothing.
            Speaker::Blocks(blocks) if self.asleep_until.is_none() => {
                blocks.datagram(now, rng, bytes, &mut self.application);
            }
            _ => {}
        }
    }

    /// It reboots. With amnesia everything is lost that was made and not acknowledged.
    pub(crate) fn reboot(&mut self, now: u64, rng: &mut Rng, amnesia: bool) {
        self.asleep_until = Some(now + rng.u64(10 * MS..2 * SECOND));
        let application = &mut self.application;
        if amnesia {
            application.waiting.clear();
        }
        match &mut self.speaker {
            Speaker::Mqtt(mqtt) => mqtt.reboot(now, rng, amnesia, application),
            Speaker::Stream(stream) => stream.reboot(now, rng, amnesia, application),
            Speaker::Coap(coap) => {
                let kept = coap.current.take().filter(|_| !amnesia);
                **coap = CoapDevice::new(rng);
                if let Some((_, reading)) = kept {
                    application.waiting.push_front(reading);
                }
            }
            Speaker::Blocks(blocks) => {
                let kept = blocks.take().filter(|_| !amnesia);
                **blocks = BlockDevice::new(rng);
                if let Some(reading) = kept {
                    application.waiting.push_front(reading);
                }
            }
            Speaker::Secured(secured) => {
                if let Some(reading) = secured.reboot(rng).filter(|_| !amnesia) {
                    application.waiting.push_front(reading);
                }
            }
            Speaker::Observer(observer) => {
                let awake = self.asleep_until.unwrap_or(now);
                **observer = ObserverDevice::new(awake, observer.watching(), rng);
            }
        }
    }
}

/// A CoAP device: one message at a time.
#[derive(Debug)]
struct CoapDevice {
    publisher: Publisher<[u8; COAP_BUFFER_BYTES]>,
    /// Under way, with whether an answer is needed.
    current: Option<(bool, Reading)>,
}

impl CoapDevice {
    fn new(rng: &mut Rng) -> Self {
        Self { publisher: Publisher::new([0; COAP_BUFFER_BYTES], rng.u64(..)), current: None }
    }

    fn run(&mut self, now: u64, application: &mut Application) {
        loop {
            let datagram = self.publisher.poll_transmit(now).map(Bytes::copy_from_slice);
            let mut idle = datagram.is_none();
            if !idle {
                // A NON is forgotten when it has gone.
                self.current.take_if(|(confirmable, _)| !*confirmable);
            }
            application.acts.extend(datagram.map(Act::Datagram));
            // After sending, because it may have given up there.
            let event = self.publisher.poll_event();
            idle &= event.is_none();
            match event {
                // No answer: it may have arrived or not, so the application sends it again.
                Some(coap::Event::TimedOut { .. }) => {
                    if let Some((_, reading)) = self.current.take() {
                        application.waiting.push_front(reading);
                    }
                }
                Some(coap::Event::Acknowledged { .. } | coap::Event::Refused { .. }) => self.current = None,
                None => {}
            }
            if self.current.is_none()
                && self.publisher.is_ready()
                && let Some(reading) = application.waiting.pop_front()
            {
                self.publish(now, application.index, reading);
                idle = false;
            }
            if idle {
                break;
            }
        }
    }

    fn publish(&mut self, now: u64, index: u16, reading: Reading) {
        let published =
            reading.as_publication(index, |publication| self.publisher.publish(now, publication).is_ok());
        if published {
            self.current = Some((reading.qos > 0, reading));
        }
    }
}
