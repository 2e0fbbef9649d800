//! The world of one seed: it owns the clock and every model, moves events between them and asks the oracle at each
//! boundary. The gateway's own life stands in `gateway`, what goes wrong in `faults`, the devices' side in `field`.

use super::clock::Clock;
use super::coverage::Coverage;
use super::device::Device;
use super::disk::Disk;
use super::field::{Connection, Port};
use super::gateway::Gateway;
use super::operator::Operator;
use super::oracle::{Held, Oracle, Violation};
use super::plan::{MS, Plan, Protocol, SECOND};
use super::trace::Trace;
use super::upstream::Broker;
use crate::powercut::Real;
use bytes::Bytes;
use fastrand::Rng;
use std::collections::BTreeMap;
use tidegate_engine::event::Outcome;
use tidegate_engine::id::Tag;
use tidegate_engine::mutant::Mutant;

/// After the last fault everything must be quiet within so long. Generous: a CoAP exchange alone may take 93 s.
const SETTLING: u64 = 900 * SECOND;
/// How often it is looked whether everything is quiet.
const LOOK_EVERY: u64 = 50 * MS;
/// More events than any seed needs: an endless loop is a failure, not a hang.
const MOST_EVENTS: u64 = 3_000_000;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// The gateway's process starts.
    Start,
    /// The driver wakes and works on its inbox.
    Run { life: u64 },
    /// The engine's timer.
    Tick { life: u64, at: u64 },
    /// The store's transaction has reached the medium.
    Synced { life: u64 },
    /// The store says so, or answers a load.
    StoreDone { life: u64 },
    /// A message arrives at a broker.
    Arrive { upstream: u16, connection: u64 },
    /// A broker says what became of a message.
    Settle { upstream: u16, connection: u64, tag: Tag, outcome: Outcome },
    /// The gateway's client tries to connect to a broker.
    Connect { upstream: u16, life: u64 },
    /// The gateway's client notices that a broker's link is gone.
    Gone { upstream: u16, life: u64 },
    /// A broker's pause is over.
    Unblock { upstream: u16, connection: u64 },
    /// A device's connection reaches the gateway, or does not.
    Dial { device: usize, attempt: u64 },
    /// Bytes arrive at the gateway.
    Up { conn: u64, bytes: Bytes },
    /// The gateway reads what has piled up.
    Read { conn: u64 },
    /// Bytes arrive at a device.
    Down { conn: u64, bytes: Bytes },
    /// The gateway hears that a connection is gone.
    EndGateway { conn: u64 },
    /// The device hears that a connection is gone.
    EndDevice { conn: u64 },
    /// A datagram arrives at the gateway.
    In { device: usize, port: u16, bytes: Bytes },
    /// A datagram arrives at a device.
    Out { device: usize, port: u16, bytes: Bytes },
    /// A device's timer.
    Wake { device: usize, at: u64 },
    /// An operator looks after the dead letters.
    Operator,
    /// Something goes wrong.
    Fault(super::faults::Fault),
    /// Nothing goes wrong any more.
    Heal,
    /// Is everything quiet?
    Look,
}

/// What a seed came to.
#[derive(Debug)]
pub(crate) struct Report {
    /// The first broken promise.
    pub(crate) violation: Option<Violation>,
    pub(crate) coverage: Coverage,
    /// Equal for equal runs.
    pub(crate) hash: u64,
    /// Virtual microseconds from the last fault until everything was quiet.
    pub(crate) settled_in: u64,
    /// Events.
    pub(crate) events: u64,
    /// What happened, one line each, when asked for.
    pub(crate) lines: Vec<String>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) clock: Clock<Event>,
    pub(crate) plan: Plan,
    pub(crate) gateway: Gateway,
    pub(crate) disk: Disk,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) devices: Vec<Device>,
    /// Each device's datagram port.
    pub(crate) ports: Vec<Port>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) oracle: Oracle,
    pub(crate) operator: Operator,
    /// Messages that the gateway dies of when it hands them over, in per mille.
    pub(crate) deadly: u16,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) mutant: Option<Mutant>,
    /// The real store, on a medium whose power can be cut, when it is that which is to be proved.
    pub(crate) real: Option<Real>,
    /// No more faults.
    pub(crate) healed: bool,
    /// Until when the medium does not answer.
    pub(crate) stalled_until: u64,
    quiet: bool,
}

/// With this none of the kept seeds has a message that the gateway dies of.
const DEADLY_SALT: u64 = 1_001;

/// One seed in five has some.
fn deadly(seed: u64) -> u16 {
    let mut rng = Rng::with_seed(seed ^ DEADLY_SALT);
    if rng.u8(..5) == 0 { rng.u16(5..40) } else { 0 }
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>, real: Option<Real>, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
        let mut plan = Plan::new(&mut rng);
        if real.is_some() {
            plan.for_power_cuts(&mut rng);
        }
        plan.setup.limits.careful_messages = usize::try_from(seed % 64).unwrap_or(0) + 1;
        let devices: Vec<Device> =
            (0..).zip(&plan.devices).map(|(index, plan)| Device::new(index, plan, &mut rng)).collect();
        let brokers = plan.setup.upstreams.iter().map(|_| Broker::new(plan.faults.poison)).collect();
        let mut oracle = Oracle::new(plan.setup.clone(), devices.len());
        oracle.ledger = real.as_ref().map(Real::ledger);
        let mut world = Self {
            clock: Clock::new(),
            gateway: Gateway::new(plan.setup.clone()),
            disk: Disk::with_lanes_from(plan.first_lane),
            brokers,
            ports: (0..).take(devices.len()).map(Port::new).collect(),
            connections: BTreeMap::new(),
            oracle,
            // Whoever is there only for the simulation's own disk: power cuts come later.
            operator: Operator::new(seed),
            deadly: deadly(seed),
            devices,
            coverage: Coverage::default(),
            trace: Trace::new(traced),
            mutant,
            real,
            healed: false,
            stalled_until: 0,
            quiet: false,
            rng,
            plan,
        };
        for (device, plan) in (0..).zip(&world.plan.devices) {
            if let Protocol::Mqtt { clean: false, subscribes: Some(qos), .. } = plan.protocol {
                world.oracle.subscribers.add(device, qos);
            }
            if let Protocol::Observer(watching) = &plan.protocol {
                let topic = format!("sensors/d{}/{}", watching.of, watching.reading);
                world.oracle.observing.add(device, topic, watching.confirmed, !watching.new_token);
            }
        }
        world.coverage.calm += u64::from(world.plan.calm);
        if traced {
            let lines = format!("{:#?}", world.plan);
            lines.lines().for_each(|line| world.trace.say(0, || line.to_owned()));
        }
        world.clock.at(0, Event::Start);
        world.clock.at(world.plan.horizon, Event::Heal);
        world.schedule_faults();
        if world.plan.calm || world.real.is_some() {
            world.deadly = 0;
        } else {
            world.schedule_operator();
        }
        for device in 0..world.devices.len() {
            let at = world.rng.u64(..200 * MS);
            world.wake_at(device, at);
        }
        world
    }

    /// Lives one seed through.
    pub(crate) fn run(seed: u64, mutant: Option<Mutant>, traced: bool) -> Report {
        let mut world = Self::new(seed, mutant, None, traced);
        world.live()
    }

    /// Lives one seed through on a real store; the world is left as it is in the end.
    pub(crate) fn run_on(seed: u64, mutant: Option<Mutant>, real: Real, traced: bool) -> (Report, Self) {
        let mut world = Self::new(seed, mutant, Some(real), traced);
        let report = world.live();
        (report, world)
    }

    fn live(&mut self) -> Report {
        let world = self;
        let mut events = 0;
        let result = loop {
            events += 1;
            if events > MOST_EVENTS {
                break Err(Violation(format!("liveness: more than {MOST_EVENTS} events")));
            }
            let Some(event) = world.clock.next() else {
                break Err(Violation("liveness: nothing left to do".into()));
            };
            match world.happen(event) {
                Ok(()) if world.quiet => break world.finish(),
                Ok(()) => {}
                Err(violation) => break Err(violation),
            }
        };
        world.take_stats();
        if let Err(Violation(text)) = &result {
            world.trace.say(world.clock.now(), || format!("VIOLATION {text}"));
        }
        Report {
            violation: result.err(),
            hash: world.trace.hash(),
            settled_in: world.clock.now().saturating_sub(world.plan.horizon),
            events,
            lines: std::mem::take(&mut world.trace).into_lines(),
            coverage: std::mem::take(&mut world.coverage),
        }
    }

    fn happen(&mut self, event: Event) -> Held {
        self.trace.mix(self.clock.now());
        self.oracle.now = self.clock.now();
        match event {
            Event::Start => self.start()?,
            Event::Run { life } if life == self.gateway.life => self.run_driver()?,
            Event::Tick { life, at } if life == self.gateway.life => self.tick(at),
            Event::Synced { life } if life == self.gateway.life => self.store_synced()?,
            Event::StoreDone { life } if life == self.gateway.life => self.store_done()?,
            Event::Arrive { upstream, connection } => self.arrive(upstream, connection)?,
            Event::Settle { upstream, connection, tag, outcome } => {
                self.settle(upstream, connection, tag, outcome);
            }
            Event::Connect { upstream, life } if life == self.gateway.life => self.connect(upstream),
            Event::Gone { upstream, life } if life == self.gateway.life => self.report_gone(upstream),
            Event::Unblock { upstream, connection } => self.unblock(upstream, connection),
            Event::Dial { device, attempt } => self.dial(device, attempt)?,
            Event::Up { conn, bytes } => self.stream_up(conn, bytes),
            Event::Read { conn } => self.read_on(conn),
            Event::Down { conn, bytes } => self.stream_down(conn, bytes)?,
            Event::EndGateway { conn } => self.end_gateway(conn),
            Event::EndDevice { conn } => self.end_device(conn)?,
            Event::In { device, port, bytes } => self.datagram_in(device, port, bytes),
            Event::Out { device, port, bytes } => self.datagram_out(device, port, &bytes)?,
            Event::Wake { device, at } => self.wake(device, at)?,
            Event::Operator => self.operate(),
            Event::Fault(fault) => self.fault(fault)?,
            Event::Heal => self.heal(),
            Event::Look => self.look()?,
            // Meant for a life of the gateway that is over.
            Event::Run { .. }
            | Event::Tick { .. }
            | Event::Synced { .. }
            | Event::StoreDone { .. }
            | Event::Connect { .. }
            | Event::Gone { .. } => {}
        }
        Ok(())
    }

    /// What is not quiet yet; `None` when everything is.
    fn unrest(&self) -> Option<String> {
        if let Some(owed) = self.oracle.owed() {
            return Some(owed);
        }
        if let Some(device) = self.devices.iter().position(|device| !device.is_done()) {
            return Some(format!("d{device} is not done"));
        }
        if self.disk.rows() > 0 {
            return Some(format!("{} rows stand on the disk", self.disk.rows()));
        }
        self.gateway.unrest()
    }

    fn look(&mut self) -> Held {
        let Some(unrest) = self.unrest() else {
            self.quiet = true;
            return Ok(());
        };
        if self.clock.now() > self.plan.horizon + SETTLING {
            return Err(Violation(format!(
                "liveness: {} s after the last fault {unrest}",
                SETTLING / SECOND
            )));
        }
        self.clock.after(LOOK_EVERY, Event::Look);
        Ok(())
    }

    fn heal(&mut self) {
        self.trace.say(self.clock.now(), || "-- nothing goes wrong any more".into());
        self.healed = true;
        self.heal_faults();
        self.clock.after(LOOK_EVERY, Event::Look);
    }

    fn finish(&mut self) -> Held {
        self.check_bounds()?;
        self.oracle.finish()?;
        if self.plan.calm && self.disk.inserted > 0 {
            let rows = self.disk.inserted;
            return Err(Violation(format!("P6: {rows} rows were written while the uplink kept up")));
        }
        if let Some(text) = self.gateway.leftover() {
            return Err(Violation(format!("at the end {text}")));
        }
        self.coverage.messages += self.devices.iter().map(Device::made).sum::<u64>();
        self.coverage.subscribed_for_good += self.oracle.subscribers.count();
        self.coverage.observed += self.oracle.observing.count;
        self.coverage.observed_anew += self.oracle.observing.anew;
        self.coverage.oscore_nonces += self.oracle.nonces.count();
        self.coverage.arrived += self.oracle.arrivals;
        self.coverage.tombstones += self.oracle.losses.told();
        self.coverage.live += self.oracle.live;
        self.coverage.duplicated += self.oracle.duplicates;
        self.coverage.inverted += self.oracle.excused_inversions;
        self.coverage.written_rows += self.disk.inserted;
        Ok(())
    }
}
