//! The gateway's process: starts from the disk, drives the engine as the real driver does, carries out its orders with
//! the models, and dies between any two steps. The store's worker stands in `storage`, the upstream links in `uplink`.

use super::disk::Condition;
use super::faults::draw_mean;
use super::oracle::{Held, Violation};
use super::plan::{MS, SECOND};
use super::show;
use super::world::{Event, World};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tidegate_engine::Engine;
use tidegate_engine::event::{Batch, Endpoint, Input, LossReason, Notice, Output, Setup, StoreFault};
use tidegate_engine::id::{BatchId, LaneId, Seq, UpstreamId};
use tidegate_engine::time::{Instant, Now, Stamp};

/// Facts that the driver works on before it polls.
const MOST_FACTS: usize = 64;
/// What a device writes at once at the most, with the message's footprint on top.
const LARGEST_PIECE_BYTES: u64 = 1_400;
/// Orders that one waking of the driver may bring.
const MOST_ORDERS: usize = 100_000;
/// Timers that may fire at one moment before it is called an endless loop.
const MOST_TICKS: u32 = 1_000;
/// SIGTERM promises an end within 5 s when the disk works.
const STOP_WITHIN: u64 = 5 * SECOND;

/// An order to the store.
#[derive(Debug)]
pub(super) enum Job {
    Commit(Arc<Batch>),
    Load { lane: LaneId, after: Seq, messages: usize, bytes: usize },
}

/// What the store's worker is at.
#[derive(Debug)]
pub(super) enum Work {
    /// A transaction is written; synced or not yet.
    Commit {
        batch: BatchId,
    },
    Failed {
        batch: BatchId,
        fault: StoreFault,
    },
    Load {
        lane: LaneId,
        after: Seq,
        messages: usize,
        bytes: usize,
    },
}

/// A fact in the inbox.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) input: Input,
    /// For `UpstreamUp`: which connection.
    pub(crate) connection: u64,
}

/// The process.
#[derive(Debug)]
pub(crate) struct Gateway {
    engine: Option<Engine>,
    /// Counts starts and deaths: what was meant for another life is void.
    pub(crate) life: u64,
    pub(crate) setup: Setup,
    inbox: VecDeque<Fact>,
    woken: bool,
    /// Where the monotonic clock of this life began, and with which value.
    booted: (u64, u64),
    armed: Option<u64>,
    ticks_at: (u64, u32),
    steps_left: u64,
    stop_asked: Option<u64>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) work: Option<Work>,
    next_connection: u64,
    pub(crate) wall: Stamp,
    /// The disk or the medium was not well since the stop was asked for.
    pub(crate) disk_unwell: bool,
}

impl Gateway {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            engine: None,
            life: 0,
            setup,
            inbox: VecDeque::new(),
            woken: false,
            booted: (0, 0),
            armed: None,
            ticks_at: (0, 0),
            steps_left: u64::MAX,
            stop_asked: None,
            jobs: VecDeque::new(),
            work: None,
            next_connection: 0,
            wall: Stamp { unix_ms: 0, synchronised: false },
            disk_unwell: false,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    /// It takes new connections.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_running() && self.stop_asked.is_none()
    }

    pub(crate) fn next_connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection
    }

    fn now(&self, now: u64) -> Now {
        let (began, value) = self.booted;
        let wall = Stamp { unix_ms: self.wall.unix_ms + (now / 1_000).cast_signed(), ..self.wall };
        Now { instant: Instant(value + now - began), wall }
    }

    /// What it still has to do.
    pub(crate) fn unrest(&self) -> Option<String> {
        let Some(engine) = &self.engine else { return Some("the gateway is not running".into()) };
        if !self.inbox.is_empty() || !self.jobs.is_empty() || self.work.is_some() {
            return Some("the driver and the store are busy".into());
        }
        let stats = engine.stats();
        if let Some(lane) = stats.lanes.iter().find(|lane| lane.waiting > 0 || lane.on_disk > 0) {
            return Some(format!(
                "lane {} has {} waiting, {} on the disk",
                lane.name, lane.waiting, lane.on_disk
            ));
        }
        if let Some(upstream) = stats.upstreams.iter().find(|upstream| upstream.in_flight > 0) {
            return Some(format!("{} messages are under way to {}", upstream.in_flight, upstream.name));
        }
        if stats.mqtt.queued > 0 {
            return Some(format!("{} messages wait for subscribers", stats.mqtt.queued));
        }
        if stats.losses.entries > 0 {
            return Some(format!("{} lost messages are not told of", stats.losses.untold));
        }
        (stats.holding).then(|| "devices are told to hold".into())
    }

    /// What it must not have when everything is quiet.
    pub(crate) fn leftover(&self) -> Option<String> {
        let stats = self.engine.as_ref()?.stats();
        let lost = stats.mqtt.queued_bytes;
        if lost > 0 && stats.mqtt.peers == 0 {
            return Some(format!("{lost} bytes count as waiting for subscribers"));
        }
        if stats.unsafe_bytes > 0 {
            return Some(format!("{} bytes count as not safe", stats.unsafe_bytes));
        }
        stats
            .lanes
            .iter()
            .find(|lane| lane.on_disk_bytes > 0)
            .map(|lane| format!("{lane:?} counts bytes on the disk"))
    }
}

/// The process's life.
impl World {
    pub(crate) fn start(&mut self) -> Held {
        if self.gateway.is_running() {
            return Ok(());
        }
        let now = self.clock.now();
        let gateway = &mut self.gateway;
        gateway.life += 1;
        gateway.setup.seed = self.rng.u64(..);
        gateway.booted = (now, self.rng.u64(..10 * SECOND));
        gateway.armed = None;
        gateway.stop_asked = None;
        gateway.woken = false;
        gateway.disk_unwell = false;
        let mean = if self.healed { 0 } else { self.plan.faults.crash_steps };
        gateway.steps_left = draw_mean(&mut self.rng, mean).unwrap_or(u64::MAX);
        let upstream = |id: UpstreamId| format!("u{}", id.0);
        let routes: Vec<_> =
            gateway.setup.routes.iter().map(|route| (route.name.clone(), upstream(route.upstream))).collect();
        let routes: Vec<_> = routes.iter().map(|(route, upstream)| (&**route, &**upstream)).collect();
        let opened = match &mut self.real {
            Some(real) => real.open(&mut self.disk, &routes)?,
            None => self.disk.open(&routes),
        };
        gateway.setup.epoch = opened.epoch;
        for (route, lane) in gateway.setup.routes.iter_mut().zip(opened.lanes.ids) {
            route.lane = lane;
        }
        self.trace.say(now, || format!("== start, epoch {}", opened.epoch));
        let mut recovered = opened.recovered;
        if self.deadly == 0 {
            // Lives here are short; only where something else than chance ends them are they careful.
            recovered.bad_lives = 0;
        }
        self.oracle.configured(&self.gateway.setup);
        for (lane, message) in self.disk.waiting() {
            self.oracle.recovered(lane, message)?;
        }
        self.oracle.found_records(&recovered.records)?;
        self.coverage.retained_found += super::retained::count(&recovered.records);
        for letter in self.disk.dead() {
            self.oracle.found_dead(letter.lane, &letter.message);
        }
        let at = self.gateway.now(now);
        let mut engine = Engine::new(self.gateway.setup.clone(), recovered, at);
        if let Some(mutant) = self.mutant {
            engine.plant(mutant);
        }
        self.gateway.engine = Some(engine);
        for upstream in (0..).take(self.brokers.len()) {
            self.try_connecting(upstream);
        }
        self.wake_driver();
        Ok(())
    }

    /// The process is gone: kill -9, a power cut, or the end of a clean stop.
    pub(crate) fn die(&mut self, clean: bool) -> Held {
        let now = self.clock.now();
        self.trace.say(now, || if clean { "== stopped".into() } else { "== CRASH".into() });
        self.take_stats();
        if !clean {
            self.coverage.crashes += 1;
            self.coverage.crashes_with_backlog += u64::from(self.disk.rows() > 0);
            if let Some(Work::Commit { .. }) = self.gateway.work {
                self.coverage.commits_torn += 1;
            }
        }
        match &mut self.real {
            Some(real) if clean => real.close(),
            None if clean => self.disk.close(),
            Some(real) => real.cut(&self.disk, &mut self.rng)?,
            None => self.disk.crash(self.rng.bool()),
        }
        self.see_forgotten()?;
        for upstream in 0..self.brokers.len() {
            let queued = self.brokers.get(upstream).map_or(0, |broker| broker.queue.len());
            let arrived = self.rng.usize(..=queued);
            self.break_upstream(upstream as u16, arrived)?;
        }
        self.oracle.crashed();
        let gateway = &mut self.gateway;
        gateway.life += 1;
        gateway.engine = None;
        gateway.inbox.clear();
        gateway.jobs.clear();
        gateway.work = None;
        self.break_all_streams();
        let pause =
            if self.rng.bool() { self.rng.u64(MS..50 * MS) } else { self.rng.u64(50 * MS..2 * SECOND) };
        self.clock.after(pause, Event::Start);
        Ok(())
    }

    /// Adds what this life of the engine counted.
    pub(crate) fn take_stats(&mut self) {
        let Some(engine) = &self.gateway.engine else { return };
        let stats = engine.stats();
        let coverage = &mut self.coverage;
        coverage.accepted += stats.accepted;
        coverage.safe_upstream += stats.safe_upstream;
        coverage.safe_on_disk += stats.safe_on_disk;
        coverage.subscribed += stats.mqtt.delivered;
        coverage.qos2_repeats += stats.mqtt.repeated;
        coverage.coap_repeats += stats.coap.repeated;
    }

    /// Counts a step; true when the process dies here.
    fn dies_here(&mut self) -> bool {
        self.oracle.step += 1;
        self.gateway.steps_left = self.gateway.steps_left.saturating_sub(1);
        self.gateway.steps_left == 0 && !self.healed
    }
}

/// The driver.
impl World {
    /// Reports a fact to the driver.
    pub(crate) fn report(&mut self, input: Input) {
        self.report_from(input, 0);
    }

    pub(super) fn report_from(&mut self, input: Input, connection: u64) {
        if self.gateway.is_running() {
            self.gateway.inbox.push_back(Fact { input, connection });
            self.wake_driver();
        }
    }

    fn wake_driver(&mut self) {
        if !self.gateway.woken {
            self.gateway.woken = true;
            let pause = if self.rng.u8(..20) == 0 { self.rng.u64(MS..8 * MS) } else { self.rng.u64(1..120) };
            self.clock.after(pause, Event::Run { life: self.gateway.life });
        }
    }

    pub(crate) fn tick(&mut self, at: u64) {
        if self.gateway.armed == Some(at) {
            self.gateway.armed = None;
            self.report(Input::Tick);
        }
    }

    /// Hands all facts at hand to the engine and carries out all its orders.
    pub(crate) fn run_driver(&mut self) -> Held {
        self.gateway.woken = false;
        let now = self.clock.now();
        for _ in 0..MOST_FACTS {
            let Some(fact) = self.gateway.inbox.pop_front() else { break };
            if self.dies_here() {
                return self.die(false);
            }
            self.trace.say(now, || format!("  > {}", show::input(&fact.input)));
            self.observe(&fact)?;
            let at = self.gateway.now(now);
            if let Some(engine) = &mut self.gateway.engine {
                engine.handle(at, fact.input);
            }
        }
        for orders in 0.. {
            if orders > MOST_ORDERS {
                return Err(Violation("liveness: the engine gives orders without end".into()));
            }
            if self.dies_here() {
                return self.die(false);
            }
            let Some(output) = self.gateway.engine.as_mut().and_then(Engine::poll_output) else { break };
            if self.perform(output)? {
                return self.die(true);
            }
            if !self.gateway.is_running() {
                return Ok(());
            }
        }
        if self.oracle.step.is_multiple_of(16) {
            self.check_bounds()?;
        }
        self.check_stop(now)?;
        if !self.gateway.inbox.is_empty() {
            self.wake_driver();
        }
        self.arm(now)
    }

    /// Arms the one timer.
    fn arm(&mut self, now: u64) -> Held {
        let Some(due) = self.gateway.engine.as_ref().and_then(Engine::poll_timeout) else {
            self.gateway.armed = None;
            return Ok(());
        };
        let (began, value) = self.gateway.booted;
        let at = (began + due.0.saturating_sub(value)).max(now);
        if at == now {
            let (last, count) = self.gateway.ticks_at;
            self.gateway.ticks_at = (now, if now < last + MS { count + 1 } else { 0 });
            if self.gateway.ticks_at.1 > MOST_TICKS {
                return Err(Violation(format!(
                    "liveness: the timer is due at once, {MOST_TICKS} times in a row"
                )));
            }
        }
        if self.gateway.armed.is_none_or(|armed| armed != at) {
            self.gateway.armed = Some(at);
            self.clock.at(at, Event::Tick { life: self.gateway.life, at });
        }
        Ok(())
    }

    /// Tells the oracle what the engine is about to learn.
    fn observe(&mut self, fact: &Fact) -> Held {
        match &fact.input {
            Input::Received { conn, bytes } => self.tap_up(conn.0, bytes)?,
            Input::Datagram { endpoint, bytes, .. } => self.tap_in(endpoint, bytes)?,
            Input::Committed { .. } => self.oracle.answered(true),
            Input::CommitFailed { .. } => self.oracle.answered(false),
            Input::UpstreamUp { upstream } => {
                if let Some(broker) = self.brokers.get_mut(usize::from(upstream.0)) {
                    broker.known = fact.connection;
                }
                self.oracle.up(*upstream);
            }
            Input::UpstreamDown { upstream } => self.oracle.down(*upstream),
            Input::UpstreamBlocked { upstream, blocked } => self.oracle.blocked(*upstream, *blocked),
            Input::Settled { upstream, tag, outcome } => self.oracle.settled(*upstream, *tag, outcome),
            Input::Reload(setup) => self.oracle.configured(setup),
            Input::Closed { conn } => self.forget_connection(conn.0),
            _ => {}
        }
        Ok(())
    }

    /// Carries out an order; true when the process ends.
    fn perform(&mut self, output: Output) -> Result<bool, Violation> {
        let now = self.clock.now();
        self.trace.say(now, || format!("  < {}", show::output(&output)));
        match output {
            Output::Send { conn, bytes } => self.send(conn.0, bytes)?,
            Output::Close { conn } => self.close(conn.0),
            Output::Reading { conn, on } => self.set_reading(conn.0, on),
            Output::SendTo { endpoint, bytes } => self.send_to(endpoint, bytes)?,
            Output::Commit(batch) => {
                let batch = Arc::new(batch);
                self.oracle.ordered(&batch)?;
                self.trace.mix(batch.ops.len() as u64);
                self.gateway.jobs.push_back(Job::Commit(batch));
                self.work_store();
            }
            Output::Load { lane, after, messages, bytes } => {
                let limits = &self.gateway.setup.limits;
                if messages > limits.lane_memory_messages.max(1) || bytes > limits.lane_memory_bytes {
                    return Err(Violation(format!("bounds: a load of {messages} messages, {bytes} bytes")));
                }
                self.coverage.loads += 1;
                self.gateway.jobs.push_back(Job::Load { lane, after, messages, bytes });
                self.work_store();
            }
            Output::Publish(publication) => self.hand_over(publication)?,
            Output::Reset { upstream } => {
                self.coverage.upstream_resets += 1;
                let arrived = self.brokers.get(usize::from(upstream.0)).map_or(0, |b| b.queue.len());
                let arrived = self.rng.usize(..=arrived);
                self.lose_upstream(upstream.0, arrived)?;
            }
            // The devices here have no passwords.
            Output::Verify { .. } => {}
            Output::Notice(notice) => self.note(&notice)?,
            Output::Stopped => {
                self.coverage.stops += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn note(&mut self, notice: &Notice) -> Held {
        match notice {
            Notice::Buried { reason, .. } => {
                self.coverage.buried += 1;
                self.coverage.given_up += u64::from(reason.starts_with("the gateway ended"));
            }
            Notice::Requeued { .. } => self.coverage.requeued += 1,
            Notice::Lost { reason: LossReason::DroppedOldest, messages, .. } => {
                self.coverage.dropped_oldest += messages;
            }
            Notice::Lost { reason: LossReason::DroppedNewest, messages, .. } => {
                self.coverage.dropped_newest += messages;
            }
            Notice::Lost { reason: LossReason::Expired, messages, .. } => self.coverage.expired += messages,
            Notice::Lost { reason: LossReason::Thinned, messages, .. } => self.coverage.thinned += messages,
            Notice::Holding { on: true, .. } => self.coverage.holds += 1,
            Notice::SubscriberOverrun { client, .. } => {
                self.coverage.overruns += 1;
                if let Some(device) = client.as_str().strip_prefix('d').and_then(|text| text.parse().ok()) {
                    self.oracle.subscribers.excuse(device);
                }
            }
            Notice::SessionLost { client, reason } => {
                return Err(Violation(format!("the session of {client} is lost: {reason}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// What must hold at any moment.
    pub(crate) fn check_bounds(&mut self) -> Held {
        let Some(engine) = &self.gateway.engine else { return Ok(()) };
        let stats = engine.stats();
        let limits = &self.gateway.setup.limits;
        // Above the bound devices are told to hold. What they have under way by then may still come in, and the engine
        // looks when the driver polls it: after all facts at hand.
        let facts = MOST_FACTS as u64 * LARGEST_PIECE_BYTES;
        let lanes = lanes_of_a_message(&self.gateway.setup);
        let under_way = lanes
            * (facts + self.devices.len() as u64 * u64::from(limits.receive_maximum) * LARGEST_PIECE_BYTES);
        if stats.unsafe_bytes > limits.unsafe_bytes as u64 + under_way {
            return Err(Violation(format!("bounds: {} bytes are not safe", stats.unsafe_bytes)));
        }
        // What is sent stands in a buffer, too, until it has left.
        let most = 2 * limits.outgoing_bytes_in_all as u64 + facts;
        if stats.mqtt.queued_bytes > most {
            return Err(Violation(format!("bounds: {} bytes wait for subscribers", stats.mqtt.queued_bytes)));
        }
        // Where room is made by discarding, devices are told to hold only an eighth above it.
        let spool = limits.spool_bytes.saturating_add(limits.spool_bytes / 8);
        let most = spool.saturating_add(limits.unsafe_bytes as u64 + under_way);
        if self.disk.bytes() > most {
            return Err(Violation(format!("bounds: {} bytes on the disk", self.disk.bytes())));
        }
        Ok(())
    }

    /// A stop is asked for.
    pub(crate) fn stop(&mut self) {
        if self.gateway.is_listening() {
            self.gateway.stop_asked = Some(self.clock.now());
            // So many commits as a full queue may need take longer than that on a slow card.
            let slow = self.plan.commit_time.end > 50 * MS;
            self.gateway.disk_unwell = slow || self.disk.condition != Condition::Healthy;
            self.report(Input::Stop);
        }
    }

    fn check_stop(&self, now: u64) -> Held {
        match self.gateway.stop_asked {
            Some(asked) if now > asked + STOP_WITHIN && !self.gateway.disk_unwell => {
                Err(Violation("liveness: a stop was asked for 5 s ago, and the disk works".into()))
            }
            _ => Ok(()),
        }
    }
}

/// A message counts once on each lane that takes it: at most one an upstream.
fn lanes_of_a_message(setup: &Setup) -> u64 {
    setup.upstreams.len().min(setup.routes.len()) as u64
}

/// Where a device's datagrams come from.
pub(crate) fn endpoint(device: usize, port: u16) -> Endpoint {
    Endpoint { socket: 0, peer: SocketAddr::new(address(device), port), association: 0 }
}

/// A device's address.
pub(crate) fn address(device: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, (device & 0xff) as u8))
}
