//! The only caller of the engine: takes facts from the inbox, performs orders, arms one timer.
//! Whatever is at hand is handled before the first order is performed: commits group, and acknowledgements of one
//! connection leave in one write. It decides nothing.

mod line;
mod lines;
mod notices;
mod poller;
mod writable;

use crate::access::audit::Audit;
use crate::access::verifier::Verifier;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::listen::coap::Sockets;
use crate::store::writer::{Order, OrderError, Writer};
use crate::store::{Lanes, Store};
use crate::upstream::Upstream;
use lines::{Fact, Lines, Taken};
use notices::Notices;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant as StdInstant};
use tidegate_engine::Engine;
use tidegate_engine::event::{Input, Notice, Output, Publication, Setup, StoreFault};
use tidegate_engine::id::UpstreamId;
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
    /// Verifies passwords.
    pub verifier: Verifier,
    /// Where matters of access are written down.
    pub audit: Audit,
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
    Audit(String),
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

    /// Writes down what became of a configuration that was read.
    pub async fn audit_configuration(&self, what: String) {
        let _ = self.0.send(Ask::Audit(what)).await; // A driver that has stopped writes nothing.
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
    lines: Lines,
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
#[derive(Default)]
struct Woken {
    /// Facts are in the inbox's buffer.
    inputs: bool,
    /// Connections can be read or written.
    lines: bool,
    ask: Option<Ask>,
    /// The timer went off.
    time: bool,
    /// Nobody can send any more.
    orphaned: bool,
}

impl<S: Store + Send + 'static> Driver<S> {
    /// A driver and the way to ask it. `upstreams` stand in the order of their numbers. Must run inside the runtime.
    ///
    /// # Errors
    /// When the kernel gives nothing to watch sockets with.
    pub fn new(parts: Parts<S>, upstreams: Vec<Box<dyn Upstream>>) -> io::Result<(Self, Handle)> {
        let (ask, asks) = mpsc::channel(ASKS);
        let mut notices = Notices::default();
        notices.learn(&parts.setup);
        let driver = Self {
            publications: upstreams.iter().map(|_| Vec::new()).collect(),
            parts,
            upstreams,
            asks,
            lines: Lines::new()?,
            notices,
            stats: DriverStats::default(),
            facts: Vec::new(),
            stopped: false,
            failed: None,
        };
        Ok((driver, Handle(ask)))
    }

    /// Drives until the engine has stopped. The inbox is gone then: nobody hears what is still reported.
    pub async fn run(mut self) -> Ended<S> {
        let mut inputs = Vec::new();
        let timer = sleep_until(TokioInstant::now() + IDLE);
        tokio::pin!(timer);

        // A new engine begins with ordering what it needs.
        let now = self.parts.clock.now();
        self.perform(now);
        while !self.stopped && self.failed.is_none() {
            self.arm(timer.as_mut());
            let woken = poll_fn(|cx| self.wait(cx, &mut inputs, timer.as_mut())).await;
            if woken.orphaned {
                break;
            }
            self.stats.rounds += 1;
            let now = self.parts.clock.now();
            if woken.inputs {
                self.attach();
                for input in inputs.drain(..) {
                    self.take(now, input);
                }
            }
            if woken.lines {
                self.lines.resume(&mut self.facts);
                self.read(now);
            }
            if let Some(ask) = woken.ask {
                self.answer(now, ask);
            }
            if self.parts.engine.poll_timeout().is_some_and(|at| at <= now.instant) {
                self.parts.engine.handle(now, Input::Tick);
            }
            self.lines.expire(StdInstant::now(), &mut self.facts);
            self.perform(now);
        }
        self.finish().await;
        Ended { store: self.parts.store, failure: self.failed }
    }

    /// Waits for any of the sources, and asks each: none is starved by those before it.
    fn wait(&mut self, cx: &mut Context<'_>, inputs: &mut Vec<Input>, timer: Pin<&mut Sleep>) -> Poll<Woken> {
        // Sockets may have something at all times: the runtime's other tasks get their turn.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let mut woken = Woken::default();
        if let Poll::Ready(count) = self.parts.inbox.poll_recv_many(cx, inputs, ROUND_INPUTS) {
            woken.inputs = count > 0;
            woken.orphaned = count == 0;
        }
        woken.lines = self.lines.poll(cx).is_ready();
        if let Poll::Ready(ask) = self.asks.poll_recv(cx) {
            woken.orphaned |= ask.is_none();
            woken.ask = ask;
        }
        woken.time = timer.poll(cx).is_ready();
        let Woken { inputs, lines, ref ask, time, orphaned } = woken;
        if inputs || lines || ask.is_some() || time || orphaned {
            coop.made_progress();
            return Poll::Ready(woken);
        }
        Poll::Pending
    }

    /// Reads every connection that has something, once.
    fn read(&mut self, now: Now) {
        for _ in 0..self.lines.readable() {
            match self.lines.read() {
                Some(Taken::Bytes(conn, bytes)) => {
                    self.stats.inputs += 1;
                    self.stats.received_bytes += bytes.len() as u64;
                    self.parts.engine.handle(now, Input::Received { conn, bytes });
                }
                Some(Taken::End(conn)) => {
                    self.stats.inputs += 1;
                    self.parts.engine.handle(now, Input::Closed { conn });
                }
                None => {}
            }
        }
    }

    /// Takes over connections: each was sent before its `Opened`.
    fn attach(&mut self) {
        while let Ok(connection) = self.parts.attached.try_recv() {
            self.lines.attach(connection);
        }
    }

    /// Hands one fact to the engine, unless it is of a connection that the engine believes closed.
    fn take(&mut self, now: Now, input: Input) {
        match &input {
            Input::Received { conn, bytes } => {
                if !self.lines.knows(*conn) {
                    return;
                }
                self.stats.received_bytes += bytes.len() as u64;
            }
            Input::Opened { conn, .. } if !self.lines.open(*conn) => return,
            Input::Closed { conn } if !self.lines.gone(*conn) => return,
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
                self.stats.connections = self.lines.len() as u64;
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
            Ask::Audit(what) => self.parts.audit.configured(&what),
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
            self.lines.flush(&mut self.facts);
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
                    Fact::Verified(conn, genuine) => Input::Verified { conn, genuine },
                };
                self.parts.engine.handle(now, input);
            }
        }
    }

    fn order(&mut self, output: Output) {
        match output {
            Output::Send { conn, bytes } => self.lines.send(conn, bytes),
            Output::Close { conn } => self.lines.close(conn, StdInstant::now()),
            Output::Reading { conn, on } => self.lines.reading(conn, on),
            Output::SendTo { endpoint, bytes } => {
                if self.parts.sockets.send(endpoint, &bytes) {
                    self.stats.datagrams_sent += 1;
                } else {
                    self.stats.datagrams_unsent += 1;
                }
            }
            Output::Verify { conn, secret, password } => {
                let answer = self.parts.verifier.verify(conn, secret, password);
                self.facts.extend(answer.map(|genuine| Fact::Verified(conn, genuine)));
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
                self.parts.audit.note(&notice);
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
    fn arm(&self, timer: Pin<&mut Sleep>) {
        let engine = self.parts.engine.poll_timeout().and_then(|at| self.parts.clock.std_instant(at));
        let next = [engine, self.lines.next_expiry()].into_iter().flatten().min();
        match next.map(TokioInstant::from_std) {
            Some(at) if at != timer.deadline() || timer.is_elapsed() => timer.reset(at),
            // A timer that was set for something that is no longer due wakes the driver once for nothing.
            None if timer.is_elapsed() => timer.reset(TokioInstant::now() + IDLE),
            _ => {}
        }
    }

    /// Lets what was ordered before `Stopped` leave.
    async fn finish(&mut self) {
        let end = TokioInstant::now() + LAST_BYTES;
        while !self.lines.idle() {
            let woken = poll_fn(|cx| self.lines.poll(cx));
            if tokio::time::timeout_at(end, woken).await.is_err() {
                return;
            }
            // What still comes is not heard; it is taken in so that the wait is for something new.
            for _ in 0..self.lines.readable() {
                self.lines.read();
            }
            self.lines.resume(&mut self.facts);
        }
    }
}
