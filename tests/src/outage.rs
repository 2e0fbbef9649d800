//! Campaigns: a fleet publishes while the broker or the gateway is taken away again and again; then the ledger is
//! compared. Every acknowledged message must have arrived, in its device's order, unaltered, repeated only with the mark.

use crate::fleet::{Fleet, Plan};
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::rabbit::{Consumer, PASSWORD, Rabbit, USER};
use crate::wait::wait_for;
use std::fmt;
use std::time::{Duration, Instant};

/// The longest that a fleet may wait for acknowledgements, and a consumer for messages: devices and gateway retry
/// within seconds, and one broker's boot takes up to a minute on a busy machine.
const WITHIN: Duration = Duration::from_secs(300);

/// How the broker goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// In an orderly way.
    Stop,
    /// By SIGKILL.
    Kill,
    /// It stays, and blocks publishers for want of memory.
    Block,
    /// It stays, and does not move (SIGSTOP).
    Freeze,
}

/// How long a fleet has to come back.
const REUNITED_WITHIN: Duration = Duration::from_secs(2);

/// What a campaign showed.
#[derive(Debug)]
pub struct Outcome {
    /// What arrived.
    pub ledger: Ledger,
    /// Connections that devices made beyond their first.
    pub reconnects: usize,
    /// Acknowledgements out of order.
    pub disordered: usize,
    /// Messages acknowledged while the broker was away.
    pub acknowledged_meanwhile: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The longest time from starting a killed gateway until it listened.
    pub slowest_start: Duration,
}

impl Outcome {
    /// Whether the promises held.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.ledger.is_sound() && self.disordered == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; acknowledged while the broker was away {}, acknowledgements out of order {}, reconnects {}, \
             slowest start {:.2} s, {:.1} s in all",
            self.ledger,
            self.acknowledged_meanwhile,
            self.disordered,
            self.reconnects,
            self.slowest_start.as_secs_f64(),
            self.elapsed.as_secs_f64()
        )
    }
}

/// The configuration of a gateway with a broker behind it.
#[must_use]
pub fn configuration(gateway: &Gateway, broker: &Rabbit, durability: &str) -> String {
    let password = gateway.folder().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).expect("a password file");
    format!(
        "[upstream.cloud]\nkind = \"amqp\"\nurls = [\"{}\"]\nusername = \"{USER}\"\npassword_file = {password:?}\n\
         reconnect_max = \"1 s\"\nconnect_timeout = \"5 s\"\nheartbeat = \"2 s\"\n\
         [[route]]\ntopic = \"#\"\ndurability = \"{durability}\"\n\
         [limits]\nconnections_per_address = 4000\nconfirm_timeout = \"10 s\"\n",
        broker.url()
    )
}

/// A broker with a queue for everything, a gateway in front of it, and a consumer behind it.
#[derive(Debug)]
pub struct Scene {
    /// The gateway.
    pub gateway: Gateway,
    /// The consumer of everything.
    pub consumer: Consumer,
    /// The broker. Dropped last.
    pub broker: Rabbit,
}

impl Scene {
    /// Sets everything up and running. The gateway waits for the queue: a message that finds none is a fault of its own.
    #[must_use]
    pub fn new(durability: &str) -> Self {
        Self::with_route(durability, "")
    }

    /// The same with more keys of its route.
    #[must_use]
    pub fn with_route(durability: &str, keys: &str) -> Self {
        let broker = Rabbit::start(&crate::rabbit::Setup::default());
        broker.exchange("telemetry");
        broker.queue("all", "telemetry", "#", &[]);
        let consumer = broker.consume("all");
        let mut gateway = Gateway::prepare("");
        let route = format!("durability = \"{durability}\"\n");
        let text = configuration(&gateway, &broker, durability);
        gateway.configure(&text.replace(&route, &format!("{route}{keys}\n")));
        gateway.start_again();
        Self { gateway, consumer, broker }
    }

    /// A plan for this gateway.
    #[must_use]
    pub fn plan(&self, devices: usize, messages: usize) -> Plan {
        Plan {
            address: self.gateway.mqtt,
            devices,
            messages_each: messages.div_ceil(devices),
            window: 10,
            payload_bytes: 128,
        }
    }

    /// Takes the broker away once for each of `faults`, while the fleet goes on publishing.
    ///
    /// # Panics
    /// When acknowledgements stop coming.
    pub fn broker_outages(&mut self, plan: &Plan, faults: &[Fault]) -> Outcome {
        let began = Instant::now();
        let fleet = Fleet::start(plan.clone());
        // An equal part of the messages before each outage, during each, and after the last.
        let part = plan.messages() / (2 * faults.len() + 1);
        let mut meanwhile = 0;
        for (index, fault) in faults.iter().enumerate() {
            let before = (2 * index + 1) * part;
            fleet.allow(before);
            // In the thick of it, not in the pause after: the last part is still under way.
            self.acknowledged(&fleet, before - part / 4);
            self.take_away(*fault);
            let at = fleet.acknowledged();
            fleet.allow(before + part);
            self.acknowledged(&fleet, before + part);
            meanwhile += fleet.acknowledged() - at;
            self.give_back(*fault);
        }
        self.finish(plan, &fleet, began, meanwhile, Duration::ZERO)
    }

    /// Kills the gateway so many times with SIGKILL, at any moment, while the fleet goes on publishing.
    ///
    /// # Panics
    /// When acknowledgements stop coming, or the gateway does not start again.
    pub fn gateway_kills(&mut self, plan: &Plan, kills: usize) -> Outcome {
        let began = Instant::now();
        let fleet = Fleet::start(plan.clone());
        let part = plan.messages() / (kills + 1);
        let mut slowest = Duration::ZERO;
        for kill in 1..=kills {
            // The whole fleet is there again before it may go on: a kill that meets few devices shows little. Devices
            // that have sent everything stay away.
            let there = || (fleet.reconnects() >= (kill - 1) * plan.devices).then_some(());
            let _ = wait_for(REUNITED_WITHIN, there);
            fleet.allow(kill * part + part / 2);
            self.acknowledged(&fleet, (kill - 1) * part + fastrand::usize(1..=part.max(1)));
            self.gateway.kill();
            slowest = slowest.max(self.gateway.start_again());
        }
        self.finish(plan, &fleet, began, 0, slowest)
    }

    /// Takes the broker away and kills the gateway while it is away, and again when it is back: so many rounds, the
    /// fault of each by the seed.
    ///
    /// # Panics
    /// When acknowledgements stop coming, or the gateway does not start again.
    pub fn both_fail(&mut self, plan: &Plan, rounds: usize, seed: u64) -> Outcome {
        let mut chance = fastrand::Rng::with_seed(seed);
        let began = Instant::now();
        let fleet = Fleet::start(plan.clone());
        let part = plan.messages() / (3 * rounds + 1);
        let mut slowest = Duration::ZERO;
        let mut meanwhile = 0;
        let mut count = 0;
        for _ in 0..rounds {
            let fault = [Fault::Stop, Fault::Kill, Fault::Block, Fault::Freeze][chance.usize(..4)];
            let mut some = |fleet: &Fleet| {
                count += part;
                fleet.allow(count + part / 2);
                count - part + chance.usize(1..=part.max(1))
            };
            self.acknowledged(&fleet, some(&fleet));
            self.take_away(fault);
            let at = fleet.acknowledged();
            self.acknowledged(&fleet, some(&fleet));
            self.gateway.kill();
            slowest = slowest.max(self.gateway.start_again());
            self.acknowledged(&fleet, some(&fleet));
            meanwhile += fleet.acknowledged() - at;
            self.give_back(fault);
            self.gateway.kill();
            slowest = slowest.max(self.gateway.start_again());
        }
        self.finish(plan, &fleet, began, meanwhile, slowest)
    }

    fn take_away(&mut self, fault: Fault) {
        match fault {
            Fault::Stop => self.broker.stop(),
            Fault::Kill => self.broker.kill(),
            Fault::Block => self.broker.block(true),
            Fault::Freeze => self.broker.freeze(true),
        }
    }

    fn give_back(&mut self, fault: Fault) {
        match fault {
            Fault::Stop | Fault::Kill => self.broker.start_again(),
            Fault::Block => self.broker.block(false),
            Fault::Freeze => self.broker.freeze(false),
        }
    }

    fn acknowledged(&self, fleet: &Fleet, count: usize) {
        if wait_for(WITHIN, || (fleet.acknowledged() >= count).then_some(())).is_none() {
            panic!(
                "{} messages were acknowledged and then no more for {WITHIN:?}, {count} should be; the gateway's log:\n{}",
                fleet.acknowledged(),
                self.gateway.log()
            );
        }
    }

    fn finish(
        &self,
        plan: &Plan,
        fleet: &Fleet,
        began: Instant,
        acknowledged_meanwhile: usize,
        slowest_start: Duration,
    ) -> Outcome {
        fleet.allow(plan.messages());
        self.acknowledged(fleet, plan.messages());
        let mut ledger = Ledger::new(plan);
        let mut read = 0;
        let mut enter = |ledger: &mut Ledger| {
            let more = self.consumer.from(read);
            read += more.len();
            more.iter().for_each(|received| ledger.enter(received));
            more.len()
        };
        let _ = wait_for(WITHIN, || {
            enter(&mut ledger);
            (ledger.missing() == 0).then_some(())
        });
        // What is still in the queue, or in the gateway, can only be repetitions; they count as well.
        let _ = wait_for(WITHIN, || {
            let quiet = enter(&mut ledger) == 0 && self.broker.depth("all") == 0;
            (quiet && enter(&mut ledger) == 0).then_some(())
        });
        Outcome {
            ledger,
            reconnects: fleet.reconnects(),
            disordered: fleet.disordered(),
            acknowledged_meanwhile,
            elapsed: began.elapsed(),
            slowest_start,
        }
    }
}
