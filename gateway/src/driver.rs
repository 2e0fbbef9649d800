//! The only caller of the engine: takes facts from the inbox, performs orders, arms one timer.
//! Whatever is at hand is handled before the first order is performed: commits group, and acknowledgements of one
//! connection leave in one write. It decides nothing.

mod notices;
mod outgoing;

use crate::clock::Clock;
use crate::connection::Connection;
use crate::listen::coap::Sockets;
use crate::store::writer::{Order, OrderError, Writer};
use crate::store::{Lanes, Store};
use crate::upstream::Upstream;
use notices::Notices;
use outgoing::{Fact, Outgoing};
use std::future::poll_fn;
use std::time::{Duration, Instant as StdInstant};
use tidegate_engine::Engine;
use tidegate_engine::event::{Input, Notice, Output, Publication, Setup, StoreFault};
use tidegate_engine::id::{ConnId, UpstreamId};
use tidegate_engine::stats::Stats;
use tidegate_engine::time::Now;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

/// Facts handled before orders are performed: all that the inbox holds. More would only delay the first
/// acknowledgement of the round.
const ROUND_INPUTS: usize = 1_024;

/// Questions and commands that may wait for the driver.
const ASKS: usize = 16;

/// With nothing else to do the driver looks after its timers this often; far enough apart to cost nothing.
const IDLE: Duration = Duration::from_secs(3_600);

/// After the engine has stopped: how long what was ordered (acknowledgements, DISCONNECT) has for leaving.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// What the driver is made of.
#[derive(Debug)]
pub struct Parts<S> {
    /// The engine.
    pub engine: Engine,
    /// The clock by which the engine was made.
    pub clock: Clock,
    /// What the engine was made from.
    pub setup: Setup,
    /// Facts.
    pub inbox: mpsc::Receiver<Input>,
    /// Connections on their way in.
    pub attached: mpsc::Receiver<Connection>,
    /// Datagram sockets.
    pub sockets: Sockets,
    /// The store's writer thread.
    pub store: Writer<S>,
}

/// What others may ask of the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Ask>);

/// What the driver and the engine count.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The engine's part.
    pub stats: Stats,
    /// The driver's part.
    pub driver: DriverStats,
}

/// What the driver counts. Counters only grow; gauges say what is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Gauge: stream connections, those on their way out included.
    pub connections: u64,
    /// Counter: turns of the loop.
    pub rounds: u64,
    /// Counter: facts handled.
    pub inputs: u64,
    /// Counter: bytes received on stream connections.
    pub received_bytes: u64,
    /// Counter: bytes sent on stream connections.
    pub sent_bytes: u64,
    /// Counter: datagrams sent.
    pub datagrams_sent: u64,
    /// Counter: datagrams that could not be sent at once and were dropped.
    pub datagrams_unsent: u64,
    /// Gauge: whether the wall clock was synchronised in the last round.
    pub clock_synchronised: bool,
    /// Why the store cannot write at the moment.
    pub store_fault: Option<String>,
}

enum Ask {
    Snapshot(oneshot::Sender<Box<Snapshot>>),
    Reload(Box<Setup>),
    Lanes { routes: Vec<(String, String)>, answer: oneshot::Sender<Result<Lanes, StoreFault>> },
    Stop,
}

impl Handle {
    /// What is counted now; `None` when the driver has stopped. The answer proves that the driver turns.
    pub async fn snapshot(&self) -> Option<Box<Snapshot>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Snapshot(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Gives the engine a new configuration.
    pub async fn reload(&self, setup: Setup) {
        let _ = self.0.send(Ask::Reload(Box::new(setup))).await; // A driver that has stopped needs none.
    }

    /// Gives each route, as a pair of its name and its upstream's, its lane.
    ///
    /// # Errors
    /// What the store says; `None` when the driver has stopped.
    pub async fn lanes(&self, routes: Vec<(String, String)>) -> Result<Lanes, Option<StoreFault>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Lanes { routes, answer }).await.map_err(|_| None)?;
        answered.await.map_err(|_| None)?.map_err(Some)
    }

    /// Makes everything safe and ends the driver.
    pub async fn stop(&self) {
        let _ = self.0.send(Ask::Stop).await; // A driver that has stopped is where it should be.
    }
}

/// The driver, before [`Driver::run`].
pub struct Driver<S> {
    parts: Parts<S>,
    upstreams: Vec<Box<dyn Upstream>>,
    asks: mpsc::Receiver<Ask>,
    outgoing: Outgoing,
    notices: Notices,
    stats: DriverStats,
    /// Publications of this round, for each upstream.
    publications: Vec<Vec<Publication>>,
    facts: Vec<Fact>,
    stopped: bool,
    failed: Option<OrderError>,
}

/// How the driver ended.
#[derive(Debug)]
pub struct Ended<S> {
    /// The store's thread, to be stopped.
    pub store: Writer<S>,
    /// The store takes no orders any more: nothing can be made safe, so the gateway must end.
    pub failure: Option<OrderError>,
}

/// Why the driver woke.
enum Woken {
    Inputs,
    Writable,
    Ask(Ask),
    Time,
    /// Nobody can send any more.
    Orphaned,
}

impl<S: Store + Send + 'static> Driver<S> {
    /// A driver and the way to ask it. `upstreams` stand in the order of their numbers.
    #[must_use]
    pub fn new(parts: Parts<S>, upstreams: Vec<Box<dyn Upstream>>) -> (Self, Handle) {
        let (ask, asks) = mpsc::channel(ASKS);
        let mut notices = Notices::default();
        notices.learn(&parts.setup);
        let driver = Self {
            publications: upstreams.iter().map(|_| Vec::new()).collect(),
            parts,
            upstreams,
            asks,
            outgoing: Outgoing::new(),
            notices,
            stats: DriverStats::default(),
            facts: Vec::new(),
            stopped: false,
            failed: None,
        };
        (driver, Handle(ask))
    }

    /// Drives until the engine has stopped. The inbox is gone then: nobody hears what is still reported.
    pub async fn run(mut self) -> Ended<S> {
        let mut inputs = Vec::with_capacity(ROUND_INPUTS);
        let mut ready: Vec<ConnId> = Vec::new();
        let writable = self.outgoing.writable();
        let timer = sleep_until(TokioInstant::now() + IDLE);
        tokio::pin!(timer);

        // A new engine begins with ordering what it needs.
        let now = self.parts.clock.now();
        self.perform(now);
        while !self.stopped && self.failed.is_none() {
            self.arm(timer.as_mut());
            let woken = tokio::select! {
                biased;
                count = self.parts.inbox.recv_many(&mut inputs, ROUND_INPUTS) => {
                    if count == 0 { Woken::Orphaned } else { Woken::Inputs }
                }
                () = poll_fn(|cx| writable.poll(cx, &mut ready)) => Woken::Writable,
                ask = self.asks.recv() => ask.map_or(Woken::Orphaned, Woken::Ask),
                () = timer.as_mut() => Woken::Time,
            };
            self.stats.rounds += 1;
            let now = self.parts.clock.now();
            match woken {
                Woken::Inputs => {
                    self.attach();
                    for input in inputs.drain(..) {
                        self.take(now, input);
                    }
                    // Under a steady load the inbox is never empty, and a `select` in order would hear nothing else.
                    self.resume(&mut ready);
                    while let Ok(ask) = self.asks.try_recv() {
                        self.answer(now, ask);
                    }
                }
                Woken::Writable => self.outgoing.resume(&mut ready, &mut self.facts),
                Woken::Ask(ask) => self.answer(now, ask),
                Woken::Time => {}
                Woken::Orphaned => break,
            }
            if self.parts.engine.poll_timeout().is_some_and(|at| at <= now.instant) {
                self.parts.engine.handle(now, Input::Tick);
            }
            self.outgoing.expire(StdInstant::now(), &mut self.facts);
            self.perform(now);
        }
        self.finish(&mut ready).await;
        Ended { store: self.parts.store, failure: self.failed }
    }

    /// Takes over connections: each was sent before its `Opened`.
    fn attach(&mut self) {
        while let Ok(connection) = self.parts.attached.try_recv() {
            self.outgoing.attach(connection);
        }
    }

    fn resume(&mut self, ready: &mut Vec<ConnId>) {
        self.outgoing.take_writable(ready);
        self.outgoing.resume(ready, &mut self.facts);
    }

    /// Hands one fact to the engine, unless it is of a connection that the engine believes closed.
    fn take(&mut self, now: Now, input: Input) {
        match &input {
            Input::Received { conn, bytes } => {
                if !self.outgoing.knows(*conn) {
                    return;
                }
                self.stats.received_bytes += bytes.len() as u64;
            }
            Input::Opened { conn, .. } if !self.outgoing.knows(*conn) => return,
            Input::Closed { conn } if !self.outgoing.gone(*conn) => return,
            Input::UpstreamUp { upstream } => {
                // See `Upstream::up_seen`: what the engine has ordered so far was meant for the old link.
                self.perform(now);
                if let Some(upstream) = self.upstream(*upstream) {
                    upstream.up_seen();
                }
            }
            _ => {}
        }
        self.stats.inputs += 1;
        self.parts.engine.handle(now, input);
    }

    fn answer(&mut self, now: Now, ask: Ask) {
        match ask {
            Ask::Snapshot(answer) => {
                self.stats.connections = self.outgoing.len() as u64;
                self.stats.clock_synchronised = now.wall.synchronised;
                let _ = answer.send(Box::new(Snapshot {
                    stats: self.parts.engine.stats(),
                    driver: self.stats.clone(),
                })); // Whoever asked may have gone.
            }
            Ask::Reload(setup) => {
                self.notices.learn(&setup);
                self.parts.engine.handle(now, Input::Reload(setup));
            }
            Ask::Lanes { routes, answer } => self.order_store(Order::Lanes { routes, answer }),
            Ask::Stop => self.parts.engine.handle(now, Input::Stop),
        }
    }

    /// Performs orders until there are none, and reports what became of them.
    fn perform(&mut self, now: Now) {
        loop {
            while let Some(output) = self.parts.engine.poll_output() {
                self.order(output);
            }
            // Acknowledgements first: somebody waits for them; waking an upstream's thread may cost our turn.
            self.outgoing.flush(&mut self.facts);
            for (upstream, publications) in self.upstreams.iter_mut().zip(&mut self.publications) {
                if !publications.is_empty() {
                    upstream.publish(std::mem::take(publications));
                }
            }
            if self.facts.is_empty() {
                return;
            }
            for fact in self.facts.drain(..) {
                let input = match fact {
                    Fact::Sent(conn, count) => {
                        self.stats.sent_bytes += count as u64;
                        Input::Sent { conn, count }
                    }
                    Fact::Closed(conn) => Input::Closed { conn },
                };
                self.parts.engine.handle(now, input);
            }
        }
    }

    fn order(&mut self, output: Output) {
        match output {
            Output::Send { conn, bytes } => self.outgoing.send(conn, bytes),
            Output::Close { conn } => self.outgoing.close(conn, StdInstant::now()),
            Output::Reading { conn, on } => self.outgoing.reading(conn, on),
            Output::SendTo { endpoint, bytes } => {
                if self.parts.sockets.send(endpoint, &bytes) {
                    self.stats.datagrams_sent += 1;
                } else {
                    self.stats.datagrams_unsent += 1;
                }
            }
            Output::Commit(batch) => self.order_store(Order::Commit(batch)),
            Output::Load { lane, after, messages, bytes } => {
                self.order_store(Order::Load { lane, after, messages, bytes })
            }
            Output::Publish(publication) => {
                if let Some(waiting) = self.publications.get_mut(usize::from(publication.upstream.0)) {
                    waiting.push(publication);
                }
            }
            Output::Reset { upstream } => {
                if let Some(upstream) = self.upstream(upstream) {
                    upstream.reset();
                }
            }
            Output::Notice(notice) => {
                if let Notice::Store(fault) = &notice {
                    self.stats.store_fault = fault.as_ref().map(|fault| match fault {
                        StoreFault::Full => "it is full".to_owned(),
                        StoreFault::Failed(why) => why.clone(),
                    });
                }
                self.notices.log(&notice);
            }
            Output::Stopped => self.stopped = true,
        }
    }

    fn order_store(&mut self, order: Order) {
        if let Err(error) = self.parts.store.order(order) {
            self.failed = Some(error);
        }
    }

    fn upstream(&mut self, id: UpstreamId) -> Option<&mut Box<dyn Upstream>> {
        self.upstreams.get_mut(usize::from(id.0))
    }

    /// Sets the one timer to whatever comes first.
    fn arm(&self, timer: std::pin::Pin<&mut Sleep>) {
        let engine = self.parts.engine.poll_timeout().and_then(|at| self.parts.clock.std_instant(at));
        let next = [engine, self.outgoing.next_expiry()].into_iter().flatten().min();
        match next.map(TokioInstant::from_std) {
            Some(at) if at != timer.deadline() || timer.is_elapsed() => timer.reset(at),
            // A timer that was set for something that is no longer due wakes the driver once for nothing.
            None if timer.is_elapsed() => timer.reset(TokioInstant::now() + IDLE),
            _ => {}
        }
    }

    /// Lets what was ordered before `Stopped` leave.
    async fn finish(&mut self, ready: &mut Vec<ConnId>) {
        let end = TokioInstant::now() + LAST_BYTES;
        let writable = self.outgoing.writable();
        while !self.outgoing.idle() {
            let woken = poll_fn(|cx| writable.poll(cx, ready));
            if tokio::time::timeout_at(end, woken).await.is_err() {
                return;
            }
            self.outgoing.resume(ready, &mut self.facts);
            self.facts.clear(); // The engine has stopped.
        }
    }
}
