//! What goes wrong and when: each kind of fault comes at random times with the mean that the plan gives it, until the
//! horizon; then everything is mended, and the gateway must come to rest with nothing lost.

use super::disk::Condition;
use super::oracle::Held;
use super::plan::{MS, SECOND, durability, order};
use super::upstream::{Turn, turn};
use super::world::{Event, World};
use fastrand::Rng;
use tidegate_engine::event::Input;
use tidegate_engine::id::UpstreamId;
use tidegate_engine::topic::Filter;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The gateway is asked to stop, and is started again.
    Stop,
    /// The configuration changes.
    Reload,
    /// The wall clock jumps, or is synchronised.
    Clock,
    /// The disk has a spell.
    Disk,
    /// The spell is over.
    DiskWell,
    /// A row is damaged.
    Damage,
    /// A stream link breaks.
    Cut,
    /// A device stops reading for a while.
    Slow,
    /// A broker's mood changes.
    Mood { upstream: u16 },
    /// A device reboots.
    Reboot,
}

/// A time (or a count) from 1 to twice the mean; `None` when the mean is zero: never.
pub(crate) fn draw_mean(rng: &mut Rng, mean: u64) -> Option<u64> {
    (mean > 0).then(|| rng.u64(1..=2 * mean))
}

impl World {
    fn mean(&self, fault: Fault) -> u64 {
        let faults = &self.plan.faults;
        match fault {
            Fault::Stop => faults.stop,
            Fault::Reload => faults.reload,
            Fault::Clock => faults.clock,
            Fault::Disk => faults.disk,
            Fault::DiskWell => 0,
            Fault::Damage => faults.damage,
            Fault::Cut => faults.cut,
            Fault::Slow => faults.slow_reader,
            Fault::Mood { .. } => faults.mood,
            Fault::Reboot => faults.reboot,
        }
    }

    pub(crate) fn schedule_faults(&mut self) {
        use Fault::{Clock, Cut, Damage, Disk, Reboot, Reload, Slow, Stop};
        for fault in [Stop, Reload, Clock, Disk, Damage, Cut, Slow, Reboot] {
            self.schedule(fault);
        }
        for upstream in (0..).take(self.brokers.len()) {
            self.schedule(Fault::Mood { upstream });
        }
    }

    fn schedule(&mut self, fault: Fault) {
        let mean = self.mean(fault);
        if let Some(after) = draw_mean(&mut self.rng, mean) {
            self.clock.after(after, Event::Fault(fault));
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) -> Held {
        if self.healed {
            return Ok(());
        }
        self.trace.say(self.clock.now(), || format!("-- {fault:?}"));
        match fault {
            Fault::Stop => self.stop(),
            Fault::Reload => self.reload(),
            Fault::Clock => self.jump(),
            Fault::Disk => self.disk_spell(),
            Fault::DiskWell => self.disk.condition = Condition::Healthy,
            Fault::Damage => self.damage(),
            Fault::Cut => self.cut_one(),
            Fault::Slow => self.slow_one(),
            Fault::Mood { upstream } => self.change_mood(upstream)?,
            Fault::Reboot => self.reboot_one()?,
        }
        self.schedule(fault);
        Ok(())
    }

    fn reload(&mut self) {
        self.coverage.reloads += 1;
        let rng = &mut self.rng;
        let setup = &mut self.gateway.setup;
        let relay = rng.bool();
        for route in &mut setup.routes {
            match rng.u8(..4) {
                0 => route.durability = durability(rng, relay),
                1 => route.priority = rng.u8(..3),
                2 if rng.bool() => route.filter = None,
                2 => route.filter = Filter::new("sensors/#").ok(),
                _ => {}
            }
        }
        if self.plan.orders {
            // By numbers of their own: the kept seeds stay what they are.
            let mut own = rng.clone();
            for route in &mut setup.routes {
                if own.u8(..3) == 0 {
                    route.policy.order = order(&mut own);
                }
            }
        }
        let most = setup.limits.upstream_window;
        for upstream in &mut setup.upstreams {
            upstream.window = rng.usize(1..=most);
        }
        let setup = Box::new(setup.clone());
        self.report(Input::Reload(setup));
    }

    fn jump(&mut self) {
        self.coverage.clock_jumps += 1;
        let wall = &mut self.gateway.wall;
        wall.unix_ms += self.rng.i64(-100_000_000..2_000_000_000);
        wall.synchronised = self.rng.bool();
    }

    fn disk_spell(&mut self) {
        let faults = &self.plan.faults;
        let (full, failing, stall) = (faults.disk_full, faults.disk_failing, faults.disk_stall);
        let now = self.clock.now();
        let time = self.rng.u64(50 * MS..4 * SECOND);
        match self.rng.u8(..3) {
            0 if full => self.disk.condition = Condition::Full,
            1 if failing => self.disk.condition = Condition::Failing,
            _ if stall => self.stalled_until = now + time,
            _ => return,
        }
        self.gateway.disk_unwell = true;
        self.clock.after(time, Event::Fault(Fault::DiskWell));
    }

    /// How long the medium does not answer yet.
    pub(crate) fn disk_stall(&self) -> u64 {
        self.stalled_until.saturating_sub(self.clock.now())
    }

    fn damage(&mut self) {
        let rows = usize::try_from(self.disk.rows()).unwrap_or(0);
        if rows > 0 {
            let index = self.rng.usize(..rows);
            if let Some((lane, message)) = self.disk.damage(index) {
                self.coverage.rows_damaged += 1;
                self.oracle.damaged(lane, &message);
            }
        }
    }

    fn change_mood(&mut self, upstream: u16) -> Held {
        let turn = turn(&mut self.rng);
        let now = self.clock.now();
        self.trace.say(now, || format!("    u{upstream}: {turn:?}"));
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return Ok(()) };
        match turn {
            Turn::Mood(mood) => broker.mood = mood,
            Turn::Blocked(time) if broker.is_up() && !broker.blocked => {
                broker.blocked = true;
                let connection = broker.connection;
                self.coverage.upstream_blocked += 1;
                self.clock.after(time, Event::Unblock { upstream, connection });
                self.report(Input::UpstreamBlocked { upstream: UpstreamId(upstream), blocked: true });
            }
            Turn::Blocked(_) => {}
            Turn::Away { pause, took } => {
                broker.away_until = now + pause;
                let queued = broker.queue.len();
                let arrived = if took { self.rng.usize(..=queued) } else { 0 };
                self.lose_upstream(upstream, arrived)?;
            }
        }
        Ok(())
    }

    pub(crate) fn unblock(&mut self, upstream: u16, connection: u64) {
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return };
        if broker.connection != connection || !broker.blocked {
            return;
        }
        broker.blocked = false;
        for _ in 0..broker.queue.len() {
            self.clock.after(self.rng.u64(..2 * MS), Event::Arrive { upstream, connection });
        }
        self.report(Input::UpstreamBlocked { upstream: UpstreamId(upstream), blocked: false });
    }

    fn reboot_one(&mut self) -> Held {
        let device = self.rng.usize(..self.devices.len());
        let amnesia = self.rng.u8(..100) < self.plan.faults.amnesia;
        self.coverage.reboots += 1;
        self.coverage.amnesias += u64::from(amnesia);
        self.reboot(device, amnesia)
    }

    /// Everything that was wrong is mended; what has happened has happened.
    pub(crate) fn heal_faults(&mut self) {
        self.disk.condition = Condition::Healthy;
        self.stalled_until = 0;
        self.plan.faults.loss = 0;
        self.plan.faults.doubled = 0;
        self.plan.faults.delay = 20 * MS;
        for upstream in (0..).take(self.brokers.len()) {
            let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { continue };
            broker.heal();
            let connection = broker.connection;
            self.unblock(upstream, connection);
        }
    }
}
