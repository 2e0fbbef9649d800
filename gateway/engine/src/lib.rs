//! Tidegate's decisions. Sans-IO: [`Engine::handle`] takes a fact and the time, [`Engine::poll_output`] gives
//! orders, [`Engine::poll_timeout`] says when time alone will matter. No clock, socket, file, thread or randomness
//! of its own: the same inputs give the same outputs, which is what the simulation in `tests/` rests on.
//!
//! The parts do not know one another; this file passes values between them: `session` speaks the devices' protocols,
//! `router` finds a message's routes, `spool` decides where a message is safe and gives each route its `lane`, which keeps
//! the order, `delivery` keeps the upstreams' windows, `journal` gathers commits, `receipts` remembers who waits for what.

mod delivery;
pub mod encoding;
pub mod event;
pub mod id;
mod journal;
mod lane;
pub mod limits;
pub mod message;
pub mod mutant;
mod receipts;
mod router;
pub mod session;
mod spool;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod time;
pub mod topic;

use delivery::{Delivery, Flight, Refusal};
use event::{Input, LaneState, Notice, Op, Outcome, Output, Publication, Recovered, Setup, StoreFault};
use id::{BatchId, MessageId, Seq, Tag, UpstreamId};
use journal::{Item, Journal};
use lane::Ticket;
use message::Message;
use mutant::{Mutant, Planted};
use receipts::Receipts;
use router::{Router, routing_key};
use session::coap::Coap;
use session::mqtt::Mqtt;
use session::{Claim, Incoming, Receipt, Request};
use spool::{Consequence, Row, Save, Spool, Way};
use stats::Stats;
use std::collections::VecDeque;
use std::sync::Arc;
use time::{Instant, Now};

/// Whom to tell that a change is durable.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// A message stands in its lane.
    Saved(Row),
    /// A message is a dead letter.
    Buried(Row),
    /// Something that a receipt waits for.
    Ticket(Ticket),
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
    /// For each upstream its lanes, gathered by priority, the higher first.
    lanes_of: Vec<(UpstreamId, Vec<Vec<usize>>)>,
    /// Whose turn is next among lanes of equal priority.
    turn: usize,
    outputs: VecDeque<Output>,
    saves: Vec<Save>,
    /// A fact has come that `turn_over` has not worked on yet.
    stirred: bool,
    holding: bool,
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
            coap: Coap::new(&setup, planted),
            router: Router::new(setup.routes.clone()),
            spool: Spool::new(&setup.routes, &recovered.lanes, &setup.limits, planted),
            delivery: Delivery::new(&setup.upstreams, &setup.limits, planted),
            journal: Journal::new(&setup.limits),
            receipts: Receipts::default(),
            lanes_of: Vec::new(),
            turn: 0,
            outputs: VecDeque::new(),
            saves: Vec::new(),
            stirred: true,
            holding: false,
            stopping: Stopping::No,
            store_fault: None,
            planted,
            stats: Stats::default(),
            setup,
        };
        engine.gather_lanes();
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
            Input::Received { conn, bytes } => self.mqtt.received(now, conn, bytes),
            Input::Sent { conn, count } => self.mqtt.sent(now, conn, count),
            Input::Closed { conn } => self.mqtt.closed(now, conn),
            Input::Datagram { endpoint, bytes } => self.coap.datagram(now, endpoint, bytes),
            Input::Committed { batch } => self.committed(batch),
            Input::CommitFailed { batch, .. } if self.planted.is(Mutant::FailedCommitIsDone) => {
                self.committed(batch);
            }
            Input::CommitFailed { batch, fault } => self.commit_failed(batch, fault),
            Input::Loaded { lane, messages, damaged, upto } => {
                if damaged > 0 {
                    self.outputs.push_back(Output::Notice(Notice::Damaged { lane, rows: damaged }));
                }
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
            Input::UpstreamUp { upstream } => self.delivery.up(upstream),
            Input::UpstreamDown { upstream } => self.upstream_down(upstream),
            Input::UpstreamBlocked { upstream, blocked } => {
                self.delivery.blocked(now.instant, upstream, blocked);
                if blocked {
                    self.saves.extend(self.spool.spill_upstream(upstream));
                }
            }
            Input::Settled { upstream, tag, outcome } => self.settled(upstream, tag, outcome),
            Input::Verified { conn, genuine } => self.mqtt.verified(now, conn, genuine),
            Input::Reload(setup) => self.reload(*setup),
            Input::Stop => {
                self.stopping = Stopping::Asked;
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
            self.stirred = !self.outputs.is_empty();
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
            self.journal.timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            mqtt: self.mqtt.stats(),
            coap: self.coap.stats(),
            unsafe_bytes: self.spool.unsafe_bytes() as u64,
            holding: self.holding,
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
        self.check_holding();
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
        self.coap.reload(&setup);
        self.router = Router::new(setup.routes.clone());
        // A lane that is new here may have been in the store all along, left there by a route that was not configured at
        // the start. Whatever it holds stands below the last number: a look there finds it, or nothing.
        let last = self.last;
        let stored = |lane| Some(LaneState { lane, last, rows: 0, bytes: 0 });
        self.spool.configure(&setup.routes, &setup.limits, stored);
        self.delivery.configure(&setup.upstreams, &setup.limits);
        self.journal.set_limits(&setup.limits);
        self.setup = setup;
        self.gather_lanes();
    }

    /// Devices are told to hold while too much is not safe, or the spool is full; with some distance between the two
    /// thresholds, so that it does not flutter.
    fn check_holding(&mut self) {
        let limits = &self.setup.limits;
        let memory = self.spool.unsafe_bytes() + self.journal.record_bytes();
        let disk = self.spool.disk_bytes();
        let (holding, reason) = if self.holding {
            let eased =
                memory <= limits.unsafe_bytes / 2 && disk <= limits.spool_bytes - limits.spool_bytes / 8;
            (!eased, "messages can be made safe again")
        } else if disk >= limits.spool_bytes {
            (true, "the spool is full (spool.max_size); it drains when the upstream takes messages")
        } else {
            (memory >= limits.unsafe_bytes, "messages come in faster than they can be made safe")
        };
        if holding != self.holding {
            self.holding = holding;
            self.mqtt.hold(self.now, holding);
            self.coap.hold(holding);
            self.outputs.push_back(Output::Notice(Notice::Holding { on: holding, reason }));
        }
    }
}

/// Devices: what they send becomes a message, what is safe becomes an acknowledgement.
impl Engine {
    fn serve_sessions(&mut self) {
        while let Some(request) = self.mqtt.poll().or_else(|| self.coap.poll()) {
            match request {
                Request::Output(output) => self.outputs.push_back(output),
                Request::Publish { incoming, receipt } => self.accept(incoming, receipt),
                Request::Record { op, receipt } => {
                    let waiter = receipt.map(|receipt| Waiter::Ticket(self.receipts.open(receipt, 1)));
                    self.journal.push(Item::new(op, waiter));
                }
                Request::Settled { claim, committed } => self.count(Some(Ticket(claim.0)), committed),
            }
        }
    }

    fn accept(&mut self, incoming: Incoming, receipt: Option<Receipt>) {
        self.stats.accepted += 1;
        self.last = self.last.next();
        let message = Arc::new(Message {
            id: MessageId { epoch: self.setup.epoch, seq: self.last },
            device: incoming.device,
            topic: incoming.topic,
            payload: incoming.payload,
            received: self.now.wall,
            qos: incoming.qos,
            retain: incoming.retain,
            duplicate: incoming.duplicate,
            source: incoming.source,
            properties: incoming.properties,
        });
        let receipt = match receipt {
            Some(receipt) if self.planted.is(Mutant::AckOnEnqueue) => {
                self.answer(receipt);
                None
            }
            other => other,
        };
        let ticket = receipt.map(|receipt| self.receipts.open(receipt, 1));
        let claim = ticket.map(|ticket| Claim(ticket.0));
        let delivered =
            self.mqtt.deliver(self.now, &message, incoming.client.as_ref(), claim, incoming.record.is_some());
        let routes = self.router.routes(&message.topic);
        if routes.is_empty() {
            self.stats.unrouted += 1;
        }
        let retained = if message.retain { self.mqtt.retain(self.now, &message) } else { None };
        let awaited = !self.planted.is(Mutant::RetainedNotAwaited);
        let records = usize::from(incoming.record.is_some()) + usize::from(retained.is_some() && awaited);
        let outstanding = delivered.claimed as usize + routes.len() + records;
        let ticket = ticket.and_then(|ticket| self.expect(ticket, outstanding));
        let mut saves = std::mem::take(&mut self.saves);
        for &route in routes.iter() {
            let Some(route) = self.router.route(route) else { continue };
            let Some(lane) = self.spool.index(route.lane) else { continue };
            let way = if incoming.record.is_some() {
                Way::DiskFirst
            } else if self.delivery.is_ready(route.upstream) && self.stopping == Stopping::No {
                Way::Relay
            } else {
                Way::Disk
            };
            self.spool.admit(self.now.instant, lane, &message, ticket, way, &mut saves);
        }
        self.saves = saves;
        // In one transaction with the message itself: a repetition after a crash is recognised, or all is gone.
        let joined = incoming.record.is_some();
        self.order_saves(joined);
        for (op, receipt) in delivered.records {
            let waiter = Some(Waiter::Ticket(self.receipts.open(receipt, 1)));
            self.journal.push(Item { op, waiter, joined });
        }
        let waiter = || ticket.map(Waiter::Ticket);
        if let Some(op) = retained {
            self.journal.push(Item { op, waiter: waiter().filter(|_| awaited), joined });
        }
        if let Some(op) = incoming.record {
            self.journal.push(Item::new(op, waiter()));
        }
    }

    /// Says of a ticket that was opened for one thing how many it is to wait for; nothing to wait for is answered at once.
    fn expect(&mut self, ticket: Ticket, outstanding: usize) -> Option<Ticket> {
        match outstanding.checked_sub(1) {
            Some(more) => {
                self.receipts.expect(ticket, u32::try_from(more).unwrap_or(u32::MAX));
                Some(ticket)
            }
            None => {
                if let Some(complete) = self.receipts.count(ticket, false) {
                    self.answer(complete.receipt);
                }
                None
            }
        }
    }

    /// Something that a receipt waits for is safe.
    fn count(&mut self, ticket: Option<Ticket>, by_commit: bool) {
        let Some(complete) = ticket.and_then(|ticket| self.receipts.count(ticket, by_commit)) else { return };
        if complete.committed {
            self.stats.safe_on_disk += 1;
        } else {
            self.stats.safe_upstream += 1;
        }
        self.answer(complete.receipt);
    }

    fn answer(&mut self, receipt: Receipt) {
        match receipt {
            Receipt::Mqtt(receipt) => self.mqtt.safe(self.now, receipt),
            Receipt::Coap(receipt) => self.coap.safe(self.now, receipt),
        }
    }
}

/// The store: what is ordered, and what its answers mean.
impl Engine {
    fn order_saves(&mut self, joined: bool) {
        for save in self.saves.drain(..) {
            let waiter = match save.op {
                Op::Bury { .. } => Waiter::Buried(save.row),
                _ => Waiter::Saved(save.row),
            };
            self.journal.push(Item { op: save.op, waiter: Some(waiter), joined });
        }
    }

    fn order_commit(&mut self) {
        let spool = &mut self.spool;
        let flush = self.stopping == Stopping::Asked;
        let batch = self.journal.next_batch(self.now.instant, flush, |op| spool.wants(op));
        if let Some(batch) = batch {
            self.outputs.push_back(Output::Commit(batch));
            #[cfg(feature = "mutants")]
            self.acknowledge_ordered();
        }
    }

    /// The mutant that takes an ordered commit for a done one.
    #[cfg(feature = "mutants")]
    fn acknowledge_ordered(&mut self) {
        if !self.planted.is(Mutant::AckBeforeCommit) {
            return;
        }
        let rows: Vec<_> = self
            .journal
            .running_waiters()
            .filter_map(|waiter| match waiter {
                Some(Waiter::Saved(row)) => Some(*row),
                _ => None,
            })
            .collect();
        for row in rows {
            let ticket = row.ticket.or_else(|| self.spool.take_ticket(row.lane, row.seq));
            self.count(ticket, true);
        }
        for waiter in self.journal.running_waiters() {
            if let Some(Waiter::Saved(row)) = waiter {
                row.ticket = None;
            }
        }
    }

    fn committed(&mut self, batch: BatchId) {
        let Some(items) = self.journal.committed(batch) else { return };
        self.stats.commits += 1;
        self.note_store(None);
        for item in items {
            match item.waiter {
                Some(Waiter::Saved(row)) => {
                    self.stats.committed_rows += 1;
                    let consequence = self.spool.saved(row);
                    self.follow(consequence, true);
                }
                Some(Waiter::Buried(row)) => {
                    let consequence = self.spool.buried(row);
                    self.follow(consequence, true);
                    if let Op::Bury { lane, message, reason } = item.op {
                        if self.delivery.through(self.now.instant, row.lane, &message.device, row.seq) {
                            self.spool.rewind(row.lane);
                        }
                        self.outputs.push_back(Output::Notice(Notice::Buried {
                            id: message.id,
                            lane,
                            reason,
                        }));
                    }
                }
                Some(Waiter::Ticket(ticket)) => self.count(Some(ticket), true),
                None => {}
            }
        }
    }

    fn commit_failed(&mut self, batch: BatchId, fault: StoreFault) {
        self.stats.commit_failures += 1;
        self.journal.failed(self.now.instant, batch, &fault);
        self.note_store(Some(fault));
    }

    /// Tells when the store begins to fail, fails otherwise than before, or works again.
    fn note_store(&mut self, fault: Option<StoreFault>) {
        if fault != self.store_fault {
            self.store_fault.clone_from(&fault);
            self.outputs.push_back(Output::Notice(Notice::Store(fault)));
        }
    }

    fn follow(&mut self, consequence: Consequence, by_commit: bool) {
        self.count(consequence.safe, by_commit);
        if let Some((lane, seq)) = consequence.forget {
            self.journal.forget(self.now.instant, lane, seq);
        }
    }

    fn order_pages(&mut self) {
        if self.stopping != Stopping::No {
            return;
        }
        for (upstream, lanes) in &self.lanes_of {
            if !self.delivery.is_ready(*upstream) {
                continue;
            }
            for &lane in lanes.iter().flatten() {
                if !self.journal.has_room_for_forgets() {
                    return;
                }
                if let Some(page) = self.spool.page(self.now.instant, lane) {
                    self.outputs.push_back(Output::Load {
                        lane: page.lane,
                        after: page.after,
                        messages: page.messages,
                        bytes: page.bytes,
                    });
                }
            }
        }
    }
}

/// The upstreams: what is handed over, and what their answers mean.
impl Engine {
    fn upstream_down(&mut self, upstream: UpstreamId) {
        let flights = self.delivery.down(upstream);
        for flight in flights {
            if self.planted.is(Mutant::NoResend) {
                let consequence = self.spool.confirmed(flight.lane, flight.seq);
                self.follow(Consequence { safe: None, ..consequence }, false);
            } else {
                self.spool.unsent(flight.lane, flight.seq, true);
            }
        }
        self.saves.extend(self.spool.spill_upstream(upstream));
    }

    fn settled(&mut self, upstream: UpstreamId, tag: Tag, outcome: Outcome) {
        let Some(flight) = self.delivery.settled(upstream, tag) else { return };
        let outcome = match outcome {
            Outcome::Returned(_) if self.planted.is(Mutant::ReturnedIsDelivered) => Outcome::Confirmed,
            outcome => outcome,
        };
        if let Some(stats) = self.delivery.stats_mut(upstream) {
            match outcome {
                Outcome::Confirmed => stats.confirmed += 1,
                Outcome::Returned(_) => stats.returned += 1,
                Outcome::Nacked => stats.nacked += 1,
                Outcome::Refused(_) => stats.refused += 1,
            }
        }
        match outcome {
            Outcome::Confirmed => self.confirmed(&flight),
            Outcome::Returned(text) => self.refused(&flight, || format!("returned as unroutable: {text}")),
            Outcome::Nacked => self.refused(&flight, || "refused by the upstream (nack)".to_owned()),
            Outcome::Refused(text) => self.bury(&flight, format!("refused for good: {text}")),
        }
    }

    fn confirmed(&mut self, flight: &Flight) {
        let consequence = self.spool.confirmed(flight.lane, flight.seq);
        self.follow(consequence, false);
        if self.delivery.through(self.now.instant, flight.lane, &flight.device, flight.seq) {
            self.spool.rewind(flight.lane);
        }
    }

    fn refused(&mut self, flight: &Flight, reason: impl FnOnce() -> String) {
        match self.delivery.refused(self.now.instant, flight) {
            Refusal::TryAgain => self.spool.unsent(flight.lane, flight.seq, false),
            Refusal::GiveUp => self.bury(flight, reason()),
        }
    }

    fn bury(&mut self, flight: &Flight, reason: String) {
        if let Some(save) = self.spool.bury(flight.lane, flight.seq, reason) {
            self.saves.push(save);
        }
    }

    /// Fills the windows: higher priorities first, equal ones in turn.
    fn hand_over(&mut self) {
        if self.stopping != Stopping::No {
            return;
        }
        for lane in self.delivery.retries_due(self.now.instant) {
            self.spool.rewind(lane);
        }
        // What is on the disk is safe: it goes on sparingly while devices wait for commits.
        let sparing = self.journal.is_behind();
        let lanes_of = std::mem::take(&mut self.lanes_of);
        for (upstream, lanes) in &lanes_of {
            if !self.delivery.may_refill(*upstream) {
                continue;
            }
            for equals in lanes {
                let mut idle = 0;
                while idle < equals.len() && self.delivery.has_room(*upstream, false) {
                    self.turn = self.turn.wrapping_add(1);
                    let lane = equals[self.turn % equals.len()];
                    let safe_too = self.delivery.has_room(*upstream, sparing);
                    idle = if self.hand_over_one(*upstream, lane, safe_too) { 0 } else { idle + 1 };
                }
            }
        }
        self.lanes_of = lanes_of;
    }

    /// Hands over the next message of a lane, unless it is safe already and `safe_too` does not let it go.
    fn hand_over_one(&mut self, upstream: UpstreamId, lane: usize, safe_too: bool) -> bool {
        let now = self.now.instant;
        let delivery = &self.delivery;
        let next = self
            .spool
            .next(lane, safe_too, |message| delivery.may_send(now, lane, &message.device, message.id.seq));
        let Some((message, resend)) = next else { return false };
        let seq = message.id.seq;
        let tag = self.delivery.sent(now, upstream, lane, seq, message.device.clone(), resend);
        let routing_key = routing_key(self.spool.routing_key(lane), &message);
        self.outputs.push_back(Output::Publish(Publication { upstream, tag, message, routing_key, resend }));
        if self.planted.is(Mutant::ForgetOnForward) {
            let consequence = self.spool.confirmed(lane, seq);
            self.follow(consequence, false);
        }
        true
    }
}
