//! What a seed decides before anything happens: the topology, the bounds, the devices, and which faults may come.
//! Each seed allows some faults and forbids the others, so that rare ones are not always drowned by frequent ones.

use super::observer_device::{self, Watching};
use super::oracle::MANY_EXCHANGES;
use super::secured_device::gateways_context;
use fastrand::Rng;
use std::num::NonZeroU32;
use std::ops::Range;
use tidegate_engine::event::{
    Anonymous, DeviceSetup, Drain, Durability, Keep, Order, Policy, RouteSetup, Senml, Setup, UpstreamSetup,
    WhenFull,
};
use tidegate_engine::id::{DeviceId, GatewayId, LaneId, UpstreamId};
use tidegate_engine::limits::Limits;
use tidegate_engine::time::Duration;
use tidegate_engine::topic::Filter;

/// One millisecond on the virtual clock.
pub(crate) const MS: u64 = 1_000;
/// One second on the virtual clock.
pub(crate) const SECOND: u64 = 1_000 * MS;

/// For what came later than the kept seeds: with this none of them has any of it.
const SALT: u64 = 651;

/// The same, for devices on CoAP streams.
const STREAM_SALT: u64 = 1;

/// The same, for routes that discard what there is no room for.
const POLICY_SALT: u64 = 1;

/// The same, for routes that have live messages go ahead or whose messages expire, and for upstreams with a drain limit.
const ORDER_SALT: u64 = 1;

/// The kinds of readings, the last level of a topic.
pub(crate) const READINGS: [&str; 3] = ["temperature", "humidity", "alarm"];

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// No fault at all: the gateway must then be at its best, not only correct.
    pub(crate) calm: bool,
    /// Until when faults come, in virtual microseconds.
    pub(crate) horizon: u64,
    /// The configuration at the first start; its epoch is set at each start.
    pub(crate) setup: Setup,
    /// The devices.
    pub(crate) devices: Vec<DevicePlan>,
    /// What may go wrong.
    pub(crate) faults: Faults,
    /// Routes may have live messages go ahead of a backlog.
    pub(crate) orders: bool,
    /// A commit's time on a healthy medium.
    pub(crate) commit_time: Range<u64>,
    /// The number that the store gives its first lane.
    pub(crate) first_lane: u16,
}

/// One device.
#[derive(Clone, Debug)]
pub(crate) struct DevicePlan {
    /// Which protocol it speaks.
    pub(crate) protocol: Protocol,
    /// Messages that it has to send.
    pub(crate) messages: u32,
    /// When it begins, at the earliest.
    pub(crate) begins: u64,
    /// Between two of them.
    pub(crate) interval: Range<u64>,
    /// The sizes of their payloads, in bytes.
    pub(crate) payload: Range<usize>,
    /// It wants its messages retained (MQTT only).
    pub(crate) retains: bool,
}

/// How a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// MQTT.
    Mqtt {
        /// MQTT 5, or 3.1.1.
        five: bool,
        /// A new session with every connection.
        clean: bool,
        /// The quality of its messages; `None` is a mixture.
        qos: Option<u8>,
        /// Messages that it leaves unacknowledged at the most.
        window: u16,
        /// Its keep-alive, in seconds.
        keep_alive: u16,
        /// Its packet ids begin anew after this one.
        packet_ids: u16,
        /// It subscribes to the others' messages with this quality.
        subscribes: Option<u8>,
    },
    /// CoAP.
    Coap {
        /// Confirmable; `None` is a mixture.
        confirmable: Option<bool>,
        /// Each message in blocks.
        blocks: bool,
        /// Each message protected with OSCORE.
        secured: bool,
    },
    /// CoAP: it observes what another device publishes, and publishes nothing.
    Observer(Watching),
    /// CoAP over TCP.
    Stream {
        /// Tokens that it has, and so requests at a time.
        tokens: u8,
    },
}

/// What may go wrong, and how often. A mean of zero or a chance of zero means never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Steps of the engine (inputs and outputs) between two crashes, on average.
    pub(crate) crash_steps: u64,
    /// Time between two clean stops, on average.
    pub(crate) stop: u64,
    /// Time between two reloads, on average.
    pub(crate) reload: u64,
    /// Time between two jumps of the wall clock, on average.
    pub(crate) clock: u64,
    /// Time between two spells of the disk, on average.
    pub(crate) disk: u64,
    /// Such spells may be: full, failing, stalling.
    pub(crate) disk_full: bool,
    /// See `disk_full`.
    pub(crate) disk_failing: bool,
    /// See `disk_full`.
    pub(crate) disk_stall: bool,
    /// Time between two damaged rows, on average.
    pub(crate) damage: u64,
    /// Time between two breaks of a stream link, on average.
    pub(crate) cut: u64,
    /// Breaks of which the gateway hears nothing, in percent.
    pub(crate) half_open: u8,
    /// Time between two stalls of a device's reading, on average.
    pub(crate) slow_reader: u64,
    /// Datagrams lost, in percent.
    pub(crate) loss: u8,
    /// Datagrams doubled, in percent.
    pub(crate) doubled: u8,
    /// The longest delay of a datagram.
    pub(crate) delay: u64,
    /// Time between two changes of an upstream's mood, on average.
    pub(crate) mood: u64,
    /// Messages that an upstream will never take, in per mille.
    pub(crate) poison: u16,
    /// Time between two reboots of a device, on average.
    pub(crate) reboot: u64,
    /// Reboots that lose the device's own state, in percent.
    pub(crate) amnesia: u8,
}

impl Plan {
    /// Decides everything from a seed.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let calm = rng.u8(..10) == 0;
        let horizon = rng.u64(2 * SECOND..20 * SECOND);
        let upstreams = rng.u16(1..=2);
        let routes = rng.u16(1..=3);
        let limits = limits(rng, calm);
        let setup = Setup {
            gateway: gateway_id(),
            epoch: 0,
            seed: rng.u64(..),
            anonymous: Anonymous::Everywhere,
            devices: Vec::new(),
            resources: tidegate_engine::resource::Resource::shipped(),
            upstreams: (0..upstreams)
                .map(|i| UpstreamSetup {
                    name: format!("u{i}"),
                    window: if calm { 64 } else { window(rng, limits.upstream_window) },
                    drain: Drain::default(),
                })
                .collect(),
            routes: (0..routes).map(|i| route(rng, i, upstreams, routes, calm)).collect(),
            limits,
        };
        let faults = if calm { Faults { delay: 20 * MS, ..Faults::default() } } else { faults(rng, horizon) };
        let many = rng.usize(1..=4);
        let mut devices: Vec<_> = (0..many).map(|_| device(rng, calm)).collect();
        let mut setup = setup;
        // By numbers of their own, under a salt that leaves the kept seeds what they are.
        let mut own = Rng::with_seed(rng.clone().u64(..) ^ SALT);
        secure(&mut own, &mut devices, &mut setup.devices);
        devices.extend(observer(&mut own, &devices, &faults, horizon));
        let mut own = Rng::with_seed(rng.clone().u64(..) ^ STREAM_SALT);
        if own.u8(..4) == 0 {
            let protocol = Protocol::Stream { tokens: own.u8(1..=6) };
            devices.push(DevicePlan { protocol, retains: false, ..device(&mut own, calm) });
        }
        // By numbers of their own, as the above.
        let mut own = Rng::with_seed(rng.clone().u64(..) ^ POLICY_SALT);
        if !calm && own.u8(..3) == 0 {
            setup.limits.spool_bytes = own.u64(3_000..20_000);
            setup.routes.iter_mut().for_each(|route| route.policy = policy(&mut own));
        }
        let mut own = Rng::with_seed(rng.clone().u64(..) ^ ORDER_SALT);
        let orders = own.u8(..3) == 0;
        if orders {
            setup.routes.iter_mut().for_each(|route| route.policy.order = order(&mut own));
            if own.bool() {
                setup.upstreams.iter_mut().for_each(|upstream| upstream.drain = drain(&mut own));
            }
        }
        if orders && !calm && own.bool() {
            setup.limits.ages_every = Duration::from_millis(own.u64(50..500));
            for route in &mut setup.routes {
                let time = Duration::from_millis(own.u64(200..5_000));
                route.policy.expires_after = own.bool().then_some(time);
            }
        }
        let slow_medium = !calm && rng.u8(..3) == 0;
        if orders && !calm && !slow_medium && own.bool() {
            // So little is suspected after a crash that what went ahead of a backlog is behind it.
            setup.limits.commit_ops = own.usize(3..=8);
            setup.limits.forgets_waiting = own.usize(1..=3);
            setup.limits.lane_memory_messages = own.usize(1..=4);
        }
        let commit_time = if slow_medium { 20 * MS..400 * MS } else { 500..6 * MS };
        Self { calm, horizon, setup, devices, faults, orders, commit_time, first_lane: 0 }
    }

    /// For the real store under power cuts: short, busy, often cut; the medium itself is sound.
    pub(crate) fn for_power_cuts(&mut self, rng: &mut Rng) {
        self.calm = false;
        // Their judge knows no ledger.
        self.setup.routes.iter_mut().for_each(|route| route.policy = Policy::default());
        self.setup.upstreams.iter_mut().for_each(|upstream| upstream.drain = Drain::default());
        self.orders = false;
        self.horizon = rng.u64(SECOND / 2..3 * SECOND);
        self.first_lane = 1;
        for (lane, route) in (1..).zip(&mut self.setup.routes) {
            route.lane = LaneId(lane);
            route.routing_key = Some(format!("r{lane}.{{device}}.{{topic}}"));
        }
        // Observers write nothing, and how long they wait was planned for other faults.
        self.devices.retain(|device| !matches!(device.protocol, Protocol::Observer(_)));
        for device in &mut self.devices {
            device.messages = rng.u32(8..40);
            device.interval = 0..rng.u64(MS..60 * MS);
            device.begins = 0;
        }
        let faults = &mut self.faults;
        faults.crash_steps = rng.u64(60..400);
        (faults.disk, faults.damage, faults.reload) = (0, 0, 0);
        if faults.mood == 0 || faults.mood > SECOND {
            faults.mood = rng.u64(100 * MS..SECOND);
        }
        if faults.delay == 0 {
            faults.delay = 20 * MS;
        }
    }
}

fn gateway_id() -> GatewayId {
    GatewayId::new("site-a").unwrap_or_else(|e| unreachable!("a good id: {e}"))
}

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap_or_else(|e| unreachable!("a good filter: {e}"))
}

/// Small more often than large.
fn window(rng: &mut Rng, most: usize) -> usize {
    let wish = if rng.bool() { rng.usize(1..=4) } else { rng.usize(1..=32) };
    wish.min(most)
}

fn limits(rng: &mut Rng, calm: bool) -> Limits {
    let mut limits = Limits {
        confirm_timeout: Duration::from_millis(rng.u64(800..4_000)),
        upstream_attempts: rng.u8(2..=5),
        retry_after: Duration::from_millis(rng.u64(5..300)),
        forget_after: Duration::from_millis(rng.u64(10..800)),
        commit_retry_after: Duration::from_millis(rng.u64(20..600)),
        receive_maximum: rng.u16(1..=32),
        upstream_window: rng.usize(1..=32),
        tombstone_after: Duration::from_millis(500),
        ledger_entries: 6,
        coap_exchanges_per_peer: if rng.u8(..5) == 0 { rng.usize(2..=32) } else { MANY_EXCHANGES },
        ..Limits::default()
    };
    if calm {
        // An uplink with a window of one does not keep up.
        limits.upstream_window = 64;
        return limits;
    }
    if rng.bool() {
        limits.lane_memory_messages = rng.usize(1..=12);
    }
    if rng.u8(..4) == 0 {
        limits.lane_memory_bytes = rng.usize(1_500..8_000);
    }
    if rng.u8(..4) == 0 {
        limits.commit_ops = rng.usize(2..=16);
    }
    if rng.u8(..4) == 0 {
        limits.commit_bytes = rng.usize(2_000..8_000);
    }
    if rng.bool() {
        limits.forgets_waiting = rng.usize(1..=16);
    }
    limits.outgoing_spill_after = Duration::from_millis(rng.u64(5..300));
    if rng.u8(..10) == 0 {
        limits.outgoing_messages = rng.usize(2..=12);
    }
    if rng.u8(..10) == 0 {
        limits.outgoing_bytes_in_all = rng.usize(4_000..20_000);
    }
    if rng.u8(..4) == 0 {
        limits.unsafe_bytes = rng.usize(2_000..20_000);
    }
    if rng.u8(..4) == 0 {
        limits.spool_bytes = rng.u64(4_000..40_000);
    }
    limits
}

/// The routes of a seed overlap now and then: a message then has to be safe on each.
fn route(rng: &mut Rng, index: u16, upstreams: u16, routes: u16, calm: bool) -> RouteSetup {
    let relay = calm || rng.u8(..3) == 0;
    let patient = Durability::Relay { spill_after: Duration::from_millis(250) };
    // The general one last, as an operator would write them; sometimes there is none.
    let text = match index {
        _ if index + 1 == routes && rng.u8(..4) != 0 => "sensors/#",
        0 => "sensors/+/temperature",
        1 => "sensors/d1/+",
        _ => "sensors/+/humidity",
    };
    RouteSetup {
        lane: LaneId(index),
        name: format!("r{index}"),
        filter: Some(filter(text)),
        upstream: UpstreamId(rng.u16(..upstreams)),
        routing_key: Some(format!("r{index}.{{device}}.{{topic}}")),
        durability: if calm { patient } else { durability(rng, relay) },
        priority: rng.u8(..3),
        senml: Senml::Untouched,
        packing: None,
        policy: Policy::default(),
        salvaged: false,
    }
}

/// What a route may take, and what becomes of it then.
fn policy(rng: &mut Rng) -> Policy {
    let when_full = match rng.u8(..6) {
        0 => WhenFull::Refuse,
        1 | 2 => WhenFull::DropOldest,
        3 => WhenFull::DropNewest,
        4 => WhenFull::Thin(Keep::Every(rng.u32(2..4))),
        _ => WhenFull::Thin(Keep::OneIn(Duration::from_millis(rng.u64(100..2_000)))),
    };
    let bounded = when_full != WhenFull::Refuse && rng.bool();
    Policy { max_bytes: bounded.then(|| rng.u64(2_000..10_000)), when_full, ..Policy::default() }
}

/// The order of a route.
pub(crate) fn order(rng: &mut Rng) -> Order {
    match rng.u8(..4) {
        0 => Order::OldestFirst,
        1 => Order::Interleave(rng.u8(1..100)),
        _ => Order::LiveFirst,
    }
}

/// How fast a backlog may leave, slow enough to be felt and fast enough to come to an end.
fn drain(rng: &mut Rng) -> Drain {
    let which = rng.u8(1..4);
    let rate = |on: bool, rate: u32| if on { NonZeroU32::new(rate) } else { None };
    Drain {
        messages_per_second: rate(which & 1 > 0, rng.u32(3..20)),
        bytes_per_second: rate(which & 2 > 0, rng.u32(1_500..6_000)),
    }
}

/// A way to safety.
pub(crate) fn durability(rng: &mut Rng, relay: bool) -> Durability {
    if relay || rng.u8(..3) != 0 {
        let spill_after = Duration::from_millis(if rng.bool() { rng.u64(5..60) } else { 250 });
        Durability::Relay { spill_after }
    } else {
        Durability::Disk
    }
}

fn device(rng: &mut Rng, calm: bool) -> DevicePlan {
    let protocol = if rng.u8(..10) < 7 {
        Protocol::Mqtt {
            five: rng.bool(),
            clean: rng.u8(..3) == 0,
            // QoS 2 always writes.
            qos: match rng.u8(..8) {
                0..=3 => Some(1),
                _ if calm => Some(rng.u8(..=1)),
                4 | 5 => Some(2),
                6 => Some(0),
                _ => None,
            },
            window: if rng.bool() { rng.u16(1..=3) } else { rng.u16(4..=20) },
            keep_alive: rng.u16(1..=5),
            packet_ids: if rng.bool() { 24 } else { u16::MAX },
            subscribes: if !calm && rng.u8(..5) < 2 { Some(rng.u8(..3)) } else { None },
        }
    } else {
        let blocks = rng.clone().u8(..4) == 0;
        let confirmable = if rng.u8(..4) == 0 { None } else { Some(rng.u8(..5) != 0) };
        Protocol::Coap { confirmable: if blocks { Some(true) } else { confirmable }, blocks, secured: false }
    };
    let most = if rng.u8(..4) == 0 { 600 * MS } else { 60 * MS };
    DevicePlan {
        protocol,
        messages: if rng.u8(..8) == 0 { rng.u32(40..120) } else { rng.u32(3..40) },
        // Without faults the upstream is there before the first message.
        begins: if calm { 500 * MS } else { 0 },
        interval: 0..rng.u64(MS..most),
        payload: if rng.u8(..4) == 0 { 16..900 } else { 16..100 },
        // By numbers of its own: the kept seeds stay what they are. A retained message always writes.
        retains: !calm && rng.clone().u8(..5) == 0,
    }
}

/// Gives some of the CoAP devices a context.
fn secure(rng: &mut Rng, devices: &mut [DevicePlan], setups: &mut Vec<DeviceSetup>) {
    for (index, device) in (0..).zip(devices) {
        let Protocol::Coap { blocks: false, secured, .. } = &mut device.protocol else { continue };
        let (Ok(id), true) = (DeviceId::new(&format!("d{index}")), rng.u8(..3) == 0) else { continue };
        *secured = true;
        setups.push(DeviceSetup {
            publish: vec![filter(&format!("sensors/{id}/#"))],
            subscribe: Vec::new(),
            secret: None,
            certificate: None,
            oscore: Some(gateways_context(index)),
            psk: false,
            id,
        });
    }
}

/// A device that observes what another publishes. What devices with credentials publish is not for everybody.
fn observer(rng: &mut Rng, devices: &[DevicePlan], faults: &Faults, horizon: u64) -> Option<DevicePlan> {
    if rng.u8(..3) != 0 {
        return None;
    }
    let open = |device: &DevicePlan| !matches!(device.protocol, Protocol::Coap { secured: true, .. });
    let open: Vec<u16> =
        (0..).zip(devices).filter(|(_, device)| open(device)).map(|(index, _)| index).collect();
    let restarts = faults.crash_steps > 0 || faults.stop > 0;
    let patience = restarts.then(|| observer_device::patience(rng));
    let watching = Watching {
        of: rng.choice(open)?,
        reading: READINGS[rng.usize(..READINGS.len())],
        confirmed: rng.bool(),
        patience,
        until: horizon + 2 * patience.unwrap_or(0),
        // A clock that is set back makes numbers begin lower than they were.
        new_token: faults.clock > 0 || rng.u8(..3) == 0,
    };
    Some(DevicePlan {
        protocol: Protocol::Observer(watching),
        messages: 0,
        begins: 0,
        interval: 0..1,
        payload: 16..17,
        retains: false,
    })
}

fn faults(rng: &mut Rng, horizon: u64) -> Faults {
    let mut mean = |chance: u8, low: u64, high: u64| -> u64 {
        if rng.u8(..100) < chance { rng.u64(low..high.max(low + 1)) } else { 0 }
    };
    let mut faults = Faults {
        crash_steps: mean(50, 30, 1_500),
        stop: mean(15, SECOND, horizon),
        reload: mean(20, SECOND / 2, horizon),
        clock: mean(20, SECOND / 2, horizon),
        disk: mean(35, SECOND / 4, horizon / 2),
        damage: mean(6, SECOND, horizon),
        cut: mean(55, SECOND / 10, horizon / 2),
        half_open: 0,
        slow_reader: mean(20, SECOND / 2, horizon / 2),
        mood: mean(70, SECOND / 5, horizon / 2),
        reboot: mean(30, SECOND / 2, horizon),
        ..Faults::default()
    };
    faults.half_open = if rng.bool() { 25 } else { 0 };
    faults.disk_full = rng.bool();
    faults.disk_failing = rng.bool();
    faults.disk_stall = rng.bool();
    if rng.u8(..10) < 7 {
        faults.loss = rng.u8(..40);
        faults.doubled = rng.u8(..25);
    }
    faults.delay = if rng.u8(..3) == 0 { rng.u64(20 * MS..3 * SECOND) } else { 20 * MS };
    faults.poison = if rng.u8(..5) == 0 { rng.u16(10..150) } else { 0 };
    faults.amnesia = if rng.bool() { rng.u8(..100) } else { 0 };
    faults
}
