//! Tidegate's decisions. Sans-IO: [`Engine::handle`] takes a fact and the time, [`Engine::poll_output`] gives
//! orders, [`Engine::poll_timeout`] says when time alone will matter. No clock, socket, file, thread or randomness
//! of its own: the same inputs give the same outputs, which is what the simulation in `tests/` rests on.
//!
//! The parts do not know one another; this file and `accepting`, `storing`, `forwarding` and `losing` pass values between them:
//! `session` speaks the devices' protocols, `router` finds a message's routes, `spool` decides where a message is safe and
//! gives each route its `lane`, which keeps the order, `delivery` keeps the upstreams' windows, `journal` gathers commits,
//! `receipts` remembers who waits for what, `ledger` what was lost, `caution` what lives died of.

mod accepting;
mod caution;
mod dead;
mod delivery;
mod drain;
pub mod encoding;
pub mod event;
mod forwarding;
pub mod id;
mod journal;
mod lane;
pub mod ledger;
pub mod limits;
mod losing;
pub mod message;
pub mod mutant;
mod receipts;
pub mod resource;
mod router;
pub mod session;
mod spool;
pub mod stats;
mod storing;
#[cfg(test)]
mod tests;
mod thinning;
pub mod time;
pub mod topic;

use caution::Caution;
use delivery::Delivery;
use event::{Input, LaneState, Loss, Notice, Op, Output, Recovered, Setup, StoreFault};
use id::{MessageId, Seq, UpstreamId};
use journal::{Item, Journal};
use lane::Ticket;
use ledger::Ledger;
use mutant::{Mutant, Planted};
use receipts::Receipts;
use router::Router;
use session::Hold;
use session::coap::Coap;
use session::mqtt::Mqtt;
use spool::{Row, Save, Spool};
use stats::Stats;
use std::collections::VecDeque;
use time::{Duration, Instant, Now};

/// Whom to tell that a change is durable.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// A message stands in its lane.
    Saved(Row),
    /// A message is a dead letter.
    Buried(Row),
    /// A dead letter stands in its lane again.
    Requeued,
    /// The mark on what is handed over next is made.
    Marked(MessageId),
    /// Something that a receipt waits for.
    Ticket(Ticket),
    /// What the ledger of losses had to write.
    Losses,
    /// The tombstone of this id is durable.
    Sealed(MessageId),
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    setup: Setup,
    now: Now,
    last: Seq,
    mqtt: Mqtt,
    coap: Coap,
    router: Router,
    spool: Spool,
    delivery: Delivery,
    journal: Journal<Waiter>,
    receipts: Receipts,
    caution: Caution,
    ledger: Ledger,
    /// What takes effect together with the ledger's next change.
    with_losses: Vec<Op>,
    /// Who waits until the ledger's next change is durable.
    after_losses: Vec<Ticket>,
    /// The same for the changes that are ordered, in their order.
    losses_ordered: VecDeque<Vec<Ticket>>,
    /// For each upstream its lanes, gathered by priority, the higher first.
    lanes_of: Vec<(UpstreamId, Vec<Vec<usize>>)>,
    /// Whose turn is next among lanes of equal priority.
    turn: usize,
    outputs: VecDeque<Output>,
    saves: Vec<Save>,
    /// Bytes of dead letters whose way back into their lanes is being committed.
    requeuing_bytes: usize,
    /// Dead letters of which something was ordered.
    taken: dead::Taken,
    /// A fact has come that `turn_over` has not worked on yet.
    stirred: bool,
    hold: Hold,
    /// It holds because the spool is full.
    held_by_disk: bool,
    /// Room was made a moment ago.
    room_rests: bool,
    stopping: Stopping,
    store_fault: Option<StoreFault>,
    planted: Planted,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Asked,
    Said,
}

impl Engine {
    /// Makes an engine from the configuration and what the store holds. It begins with ordering what it needs.
    #[must_use]
    pub fn new(setup: Setup, recovered: Recovered, now: Now) -> Self {
        let planted = Planted::default();
        let mut engine = Self {
            now,
            last: recovered.last,
            mqtt: Mqtt::new(&setup, planted, &recovered.records, now),
            coap: Coap::new(&setup, planted, &recovered.records, now),
            router: Router::new(setup.routes.clone()),
            spool: Spool::new(
                &setup.routes,
                &recovered.lanes,
                &recovered.records,
                &setup.limits,
                planted,
                now.instant,
            ),
            delivery: Delivery::new(&setup.upstreams, &setup.limits, planted),
            journal: Journal::new(&setup.limits),
            receipts: Receipts::default(),
            caution: Caution::new(&recovered, setup.limits.careful_messages),
            ledger: Ledger::new(&setup.limits, &recovered.records, now.instant),
            with_losses: Vec::new(),
            after_losses: Vec::new(),
            losses_ordered: VecDeque::new(),
            lanes_of: Vec::new(),
            turn: 0,
            outputs: VecDeque::new(),
            saves: Vec::new(),
            requeuing_bytes: 0,
            taken: dead::Taken::default(),
            stirred: true,
            hold: Hold::Nobody,
            held_by_disk: false,
            room_rests: false,
            stopping: Stopping::No,
            store_fault: None,
            planted,
            stats: Stats::default(),
            // The sessions have taken over what they need of each device.
            setup: Setup { devices: Vec::new(), ..setup },
        };
        engine.gather_lanes();
        if let Some(op) = engine.caution.leftover(&recovered) {
            engine.journal.push(Item::new(op, None));
        }
        if engine.caution.is_careful() {
            let lives = recovered.bad_lives;
            engine.outputs.push_back(Output::Notice(Notice::Careful { lives }));
        }
        engine
    }

    /// Plants a deliberate defect. To be called before the first input.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, mutant: Mutant) {
        self.planted = Planted::with(mutant);
        self.mqtt.plant(self.planted);
        self.coap.plant(self.planted);
        self.spool.plant(self.planted);
        self.delivery.plant(self.planted);
        self.caution.plant(self.planted);
        if mutant == Mutant::IdsRestart {
            self.last = Seq(0);
            self.setup.epoch = 1;
        }
    }

    /// Takes a fact.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        self.stirred = true;
        match input {
            Input::Opened { conn, peer } => self.mqtt.opened(now, conn, peer),
            Input::CoapOpened { conn, peer } => self.coap.opened(now, conn, peer),
            Input::Revoked { conn } if self.coap.has(conn) => self.coap.revoked(conn),
            Input::Revoked { conn } => self.mqtt.revoked(now, conn),
            Input::Received { conn, bytes } if self.coap.has(conn) => {
                self.coap.received(now, conn, &bytes, &self.mqtt);
            }
            Input::Sent { conn, count } if self.coap.has(conn) => self.coap.sent(now, conn, count),
            Input::Closed { conn } if self.coap.has(conn) => self.coap.closed(now, conn),
            Input::Received { conn, bytes } => self.mqtt.received(now, conn, bytes),
            Input::Sent { conn, count } => self.mqtt.sent(now, conn, count),
            Input::Closed { conn } => self.mqtt.closed(now, conn),
            Input::Datagram { endpoint, via, bytes } => {
                self.coap.datagram(now, endpoint, via, bytes, &self.mqtt);
            }
            Input::Line { device, topic, text } => {
                self.stats.serial.received += 1;
                if self.hold == Hold::All {
                    // Nobody there can be told to hold.
                    self.stats.serial.dropped += 1;
                } else {
                    self.accept(session::serial::line(device, topic, text), None);
                }
            }
            Input::Committed { batch } => self.committed(batch),
            Input::CommitFailed { batch, .. } if self.planted.is(Mutant::FailedCommitIsDone) => {
                self.committed(batch);
            }
            Input::CommitFailed { batch, fault } => self.commit_failed(batch, fault),
            Input::Loaded { lane, messages, damaged, note, upto } => {
                self.lost(Loss::damage(lane, damaged), note.map(|key| Op::Remove { key }));
                if let Some(index) = self.spool.index(lane) {
                    self.spool.loaded(index, messages, damaged, upto);
                }
            }
            Input::LoadFailed { lane, fault } => {
                self.note_store(Some(fault));
                if let Some(index) = self.spool.index(lane) {
                    let retry_at = now.instant.after(self.setup.limits.commit_retry_after);
                    self.spool.load_failed(index, retry_at);
                }
            }
            Input::Lost { loss, note } => self.lost(loss, note.map(|key| Op::Remove { key })),
            Input::Requeue { letters } => self.requeue(letters),
            Input::Purge { letters } => self.purge(letters),
            Input::Salvaged { lanes } => lanes.into_iter().for_each(|state| self.spool.salvaged(state)),
            Input::UpstreamUp { upstream } => self.delivery.up(upstream),
            Input::UpstreamDown { upstream } => self.upstream_down(upstream),
            Input::UpstreamBlocked { upstream, blocked } => {
                self.delivery.blocked(now.instant, upstream, blocked);
                if blocked {
                    self.saves.extend(self.spool.spill_upstream(upstream));
                    self.caution.blocked(upstream);
                }
            }
            Input::Settled { upstream, tag, outcome } => self.settled(upstream, tag, outcome),
            Input::Verified { conn, genuine } => self.mqtt.verified(now, conn, genuine),
            Input::Reload(setup) => self.reload(*setup),
            Input::Stop => {
                self.stopping = Stopping::Asked;
                self.spool.note_ages(now.instant, Duration::ZERO, false);
                self.mqtt.stop(now);
                self.coap.stop(now);
            }
            Input::Tick => {
                self.mqtt.tick(now);
                self.coap.tick(now);
            }
        }
        self.order_saves(false);
    }

    /// Gives the next order; call until `None` after handling all facts at hand: acknowledgements
    /// of one commit to one connection then leave in one write.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if !std::mem::take(&mut self.stirred) {
                return None;
            }
            self.turn_over();
            // Work makes work (a receipt answered, a window freed): go on until a whole round gives nothing.
            self.stirred |= !self.outputs.is_empty();
        }
    }

    /// When [`Input::Tick`] is due if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.mqtt.timeout(),
            self.coap.timeout(),
            self.spool.timeout(self.now.instant),
            self.delivery.timeout(self.now.instant),
            self.journal.timeout(self.now.instant),
            self.ledger.timeout(self.now.instant),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the next commit, while one runs, has enough: who sends much can wait until it is ordered, or for some milliseconds,
    /// and nobody else then waits for long. What time changes of it, [`Engine::poll_timeout`] tells.
    #[must_use]
    pub fn has_enough(&self) -> bool {
        self.journal.has_enough(self.now.instant)
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            mqtt: self.mqtt.stats(),
            coap: self.coap.stats(),
            unsafe_bytes: self.spool.unsafe_bytes() as u64,
            holding: self.hold != Hold::Nobody,
            losses: self.ledger.stats(),
            lanes: self.spool.stats(),
            upstreams: self.delivery.stats(),
            ..self.stats.clone()
        }
    }

    /// One round of everything that the facts at hand have made possible.
    fn turn_over(&mut self) {
        let now = self.now.instant;
        self.serve_sessions();
        self.saves.extend(self.spool.spill_due(now));
        if self.stopping == Stopping::Asked {
            self.saves.extend(self.spool.spill_all());
        }
        self.order_saves(false);
        self.check_hold();
        self.spool.note_caught_up();
        self.spool.age(now);
        self.spool.note_ages(now, self.setup.limits.ages_every, self.journal.is_behind());
        self.write_notes();
        self.make_room();
        self.write_losses(false);
        self.tell_losses();
        self.order_commit();
        self.order_pages();
        for upstream in self.delivery.overdue(now) {
            self.outputs.push_back(Output::Reset { upstream });
        }
        self.hand_over();
        if self.stopping == Stopping::Asked && self.journal.is_idle() && self.receipts.is_empty() {
            self.stopping = Stopping::Said;
            self.outputs.push_back(Output::Stopped);
        }
    }

    fn gather_lanes(&mut self) {
        let upstreams = (0..=u16::MAX).map(UpstreamId).take(self.setup.upstreams.len());
        self.lanes_of = upstreams.map(|upstream| (upstream, self.spool.lanes_to(upstream))).collect();
    }

    fn reload(&mut self, setup: Setup) {
        // A life keeps its identity: what was accepted in it has it already.
        let setup = Setup { epoch: self.setup.epoch, gateway: self.setup.gateway.clone(), ..setup };
        self.mqtt.reload(self.now, &setup);
        self.coap.reload(self.now, &setup);
        self.router = Router::new(setup.routes.clone());
        // A lane that is new here may have been in the store all along, left there by a route that was not configured at
        // the start. Whatever it holds stands below the last number: a look there finds it, or nothing.
        let last = self.last;
        let stored = |lane| (Some(LaneState { lane, last, rows: 0, bytes: 0 }), None);
        self.spool.configure(&setup.routes, &setup.limits, (self.now.instant, last), stored);
        self.delivery.configure(&setup.upstreams, &setup.limits);
        self.journal.set_limits(&setup.limits);
        self.ledger.set_limits(&setup.limits);
        self.setup = Setup { devices: Vec::new(), ..setup };
        self.gather_lanes();
    }

    /// Devices are told to hold while too much is not safe, the busy ones first, or while the spool is full; with some distance
    /// between the thresholds, so that it does not flutter.
    fn check_hold(&mut self) {
        let limits = &self.setup.limits;
        let memory = self.spool.unsafe_bytes() + self.journal.record_bytes();
        let disk = self.spool.disk_bytes();
        let (full, busy) = (limits.unsafe_bytes, limits.unsafe_bytes - limits.unsafe_bytes / 4);
        let hold_at = self.spool.hold_at();
        // Where messages are discarded, that ends just below the bound.
        let room = if hold_at > limits.spool_bytes { limits.spool_bytes } else { hold_at - hold_at / 8 };
        self.held_by_disk = disk >= hold_at || self.held_by_disk && disk > room;
        let (hold, reason) = if self.held_by_disk {
            (Hold::All, "the spool is full (spool.max_size); it drains when the upstream takes messages")
        } else if memory >= full || self.hold == Hold::All && memory > busy {
            (Hold::All, "messages come in faster than they can be made safe")
        } else if memory >= busy || self.hold != Hold::Nobody && memory > limits.unsafe_bytes / 2 {
            (Hold::Busy, "messages come in faster than they can be made safe")
        } else {
            (Hold::Nobody, "messages can be made safe again")
        };
        if hold == self.hold {
            return;
        }
        let (held, holds) = (self.hold != Hold::Nobody, hold != Hold::Nobody);
        self.hold = hold;
        self.mqtt.hold(self.now, hold);
        self.coap.hold(hold == Hold::All);
        if held != holds {
            self.stats.holds += u64::from(holds);
            self.outputs.push_back(Output::Notice(Notice::Holding { on: holds, reason }));
        }
    }
}
