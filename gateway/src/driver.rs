//! The only caller of the engine: a thread that sleeps in one epoll until a socket, another thread or the engine's time wakes
//! it, takes the facts and performs the orders. Whatever is at hand is handled before the first order is performed: commits
//! group, and acknowledgements of one connection leave in one write. It decides nothing.

mod bell;
mod line;
mod lines;
mod notices;
mod outgoing;
mod poller;
mod turns;
mod writable;

use crate::access::audit::Audit;
use crate::access::verifier::Verifier;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::listen::coap::{Flushed, Sockets};
use crate::memory;
use crate::store::writer::{Order, OrderError, Writer};
use crate::store::{Lanes, Store};
use crate::upstream::Upstream;
use bell::Bell;
use lines::{Fact, Lines, Taken};
use notices::Notices;
use poller::{Poller, Watched};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant as StdInstant};
use tidegate_engine::Engine;
use tidegate_engine::event::{Input, Letter, Notice, Output, Publication, Setup, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, UpstreamId};
use tidegate_engine::message::Message;
use tidegate_engine::stats::Stats;
use tidegate_engine::time::Now;
use tokio::sync::{mpsc, oneshot};

/// Facts handled before orders are performed: all that the inbox holds. More would only delay the first
/// acknowledgement of the round.
const ROUND_INPUTS: usize = 1_024;

/// Datagrams taken from one socket in a round: as many as make a worthwhile commit, and no more than keep connections waiting
/// for less than a millisecond.
const ROUND_DATAGRAMS: usize = 256;

/// How long a round reads connections before its orders are performed: a device with one small message waits for no more than
/// this, and a commit gathers hundreds of messages meanwhile.
const ROUND_READS: Duration = Duration::from_micros(500);

/// Questions and commands that may wait for the driver.
const ASKS: usize = 16;

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
    Order(Order),
    Operator(Input),
    GiveBack,
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
        self.0.send(Ask::Order(Order::Lanes { routes, answer })).await.map_err(|_| None)?;
        answered.await.map_err(|_| None)?.map_err(Some)
    }

    /// Looks at dead letters, behind everything that has been ordered from the store: at most `bytes` of footprint beyond the first.
    ///
    /// # Errors
    /// What the store says; `None` when the driver has stopped.
    pub async fn letters(
        &self,
        letters: Vec<LetterId>,
        bytes: usize,
    ) -> Result<Vec<Letter>, Option<StoreFault>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Order(Order::Letters { letters, bytes, answer })).await.map_err(|_| None)?;
        answered.await.map_err(|_| None)?.map_err(Some)
    }

    /// Which dead letters are there, behind everything that has been ordered from the store.
    ///
    /// # Errors
    /// What the store says; `None` when the driver has stopped.
    pub async fn letters_there(&self, letters: Vec<LetterId>) -> Result<Vec<LetterId>, Option<StoreFault>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Order(Order::LettersThere { letters, answer })).await.map_err(|_| None)?;
        answered.await.map_err(|_| None)?.map_err(Some)
    }

    /// Has dead letters sent again, each on its lane, as far as there is room; [`letters_there`](Self::letters_there) tells which are
    /// through.
    pub async fn requeue(&self, letters: Vec<(LetterId, LaneId, Arc<Message>)>) {
        let _ = self.0.send(Ask::Operator(Input::Requeue { letters })).await; // A driver that has stopped has them still.
    }

    /// Removes dead letters.
    pub async fn purge(&self, letters: Vec<Letter>) {
        let _ = self.0.send(Ask::Operator(Input::Purge { letters })).await; // As above.
    }

    /// Has the driver's thread give back the memory that it has free.
    pub(crate) async fn give_back_memory(&self) {
        let _ = self.0.send(Ask::GiveBack).await; // A driver that has stopped has given back everything.
    }

    /// Makes everything safe and ends the driver.
    pub async fn stop(&self) {
        let _ = self.0.send(Ask::Stop).await; // A driver that has stopped is where it should be.
    }
}

/// The driver.
struct Driver<S> {
    parts: Parts<S>,
    upstreams: Vec<Box<dyn Upstream>>,
    asks: mpsc::Receiver<Ask>,
    bell: Arc<Bell>,
    poller: Poller,
    lines: Lines,
    /// Datagram sockets that may have something to be read.
    datagrams: VecDeque<u16>,
    notices: Notices,
    stats: DriverStats,
    /// Publications of this round, for each upstream.
    publications: Vec<Vec<Publication>>,
    facts: Vec<Fact>,
    /// What became of publications that no upstream has seen.
    unfit: Vec<Input>,
    /// The engine was asked to stop.
    stopping: bool,
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

/// What other threads have for the driver, beside what stands in the buffer of facts.
#[derive(Default)]
struct Heard {
    /// Facts are in the buffer.
    inputs: bool,
    ask: Option<Ask>,
    /// Nobody can send any more.
    orphaned: bool,
}

impl Heard {
    fn something(&self) -> bool {
        self.inputs || self.ask.is_some() || self.orphaned
    }
}

/// Starts the driver on a thread of its own, and gives what comes of it, and the way to ask it. `upstreams` stand in the order of
/// their numbers.
///
/// # Errors
/// When the kernel gives nothing to watch sockets with, or no thread.
pub fn start<S: Store + Send + 'static>(
    parts: Parts<S>,
    upstreams: Vec<Box<dyn Upstream>>,
) -> io::Result<(oneshot::Receiver<Ended<S>>, Handle)> {
    let (ask, asks) = mpsc::channel(ASKS);
    let driver = Driver::new(parts, upstreams, asks)?;
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("driver".into()).spawn(move || {
        let _ = end.send(driver.run()); // Nobody waits for it when the gateway ends in a hurry.
    })?;
    Ok((ended, Handle(ask)))
}

impl<S: Store + Send + 'static> Driver<S> {
    fn new(
        mut parts: Parts<S>,
        upstreams: Vec<Box<dyn Upstream>>,
        asks: mpsc::Receiver<Ask>,
    ) -> io::Result<Self> {
        let mut notices = Notices::default();
        notices.learn(&parts.setup);
        // There may be thousands, and the engine has them.
        parts.setup.devices = Vec::new();
        let bell = Arc::new(Bell::new()?);
        let poller = Poller::new(&bell)?;
        for (number, socket) in parts.sockets.numbered() {
            poller.watch(socket, Watched::Datagrams(number))?;
        }
        Ok(Self {
            publications: upstreams.iter().map(|_| Vec::new()).collect(),
            parts,
            upstreams,
            asks,
            lines: Lines::new(&bell),
            bell,
            poller,
            datagrams: VecDeque::new(),
            notices,
            stats: DriverStats::default(),
            facts: Vec::new(),
            unfit: Vec::new(),
            stopping: false,
            stopped: false,
            failed: None,
        })
    }

    /// Drives until the engine has stopped. The inbox is gone then: nobody hears what is still reported.
    fn run(mut self) -> Ended<S> {
        let mut inputs = Vec::new();
        let waker = Waker::from(Arc::clone(&self.bell));
        let mut cx = Context::from_waker(&waker);

        // A new engine begins with ordering what it needs.
        let now = self.parts.clock.now();
        self.perform(now);
        while !self.stopped && self.failed.is_none() {
            let heard = self.wait(&mut cx, &mut inputs);
            if heard.orphaned {
                break;
            }
            self.stats.rounds += 1;
            let now = self.parts.clock.now();
            if heard.inputs {
                self.attach();
                for input in inputs.drain(..) {
                    self.take(now, input);
                }
            }
            self.lines.resume(&mut self.facts);
            self.read(now);
            self.receive(now);
            if let Some(ask) = heard.ask {
                self.answer(now, ask);
            }
            if self.parts.engine.poll_timeout().is_some_and(|at| at <= now.instant) {
                self.parts.engine.handle(now, Input::Tick);
            }
            self.lines.expire(StdInstant::now(), &mut self.facts);
            self.perform(now);
        }
        self.finish();
        Ended { store: self.parts.store, failure: self.failed }
    }

    /// Sleeps until any of the sources has something, and asks each: none is starved by those before it.
    fn wait(&mut self, cx: &mut Context<'_>, inputs: &mut Vec<Input>) -> Heard {
        self.bell.listen();
        let heard = self.hear(cx, inputs);
        let sparing = self.parts.engine.has_enough();
        let at_once = heard.something() || self.lines.stirred(sparing) || !self.datagrams.is_empty();
        let longest = if at_once { Some(Duration::ZERO) } else { self.until_due() };
        let rang = self.sleep(longest);
        if rang && !heard.something() { self.hear(cx, inputs) } else { heard }
    }

    /// Takes what other threads have sent, and has them ring for what they send later.
    fn hear(&mut self, cx: &mut Context<'_>, inputs: &mut Vec<Input>) -> Heard {
        let mut heard = Heard::default();
        if let Poll::Ready(count) = self.parts.inbox.poll_recv_many(cx, inputs, ROUND_INPUTS) {
            heard.inputs = count > 0;
            heard.orphaned = count == 0;
        }
        if let Poll::Ready(ask) = self.asks.poll_recv(cx) {
            heard.orphaned |= ask.is_none();
            heard.ask = ask;
        }
        heard
    }

    /// How long nothing is due; `None` for ever.
    fn until_due(&self) -> Option<Duration> {
        let engine = self.parts.engine.poll_timeout().and_then(|at| self.parts.clock.std_instant(at));
        let next = [engine, self.lines.next_expiry()].into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(StdInstant::now()))
    }

    /// Sleeps until a socket or the bell wakes it; true for the bell.
    fn sleep(&mut self, longest: Option<Duration>) -> bool {
        let mut rang = false;
        self.poller.wait(longest, |happened| match happened.what {
            Watched::Line(conn) => self.lines.happened(conn, happened),
            Watched::Datagrams(number) if self.datagrams.contains(&number) => {}
            Watched::Datagrams(number) => self.datagrams.push_back(number),
            Watched::Bell => rang = true,
        });
        self.bell.ignore();
        rang
    }

    /// Reads every datagram socket that has something, up to a bound.
    fn receive(&mut self, now: Now) {
        if self.stopping {
            self.datagrams.clear(); // Nobody new.
        }
        for _ in 0..self.datagrams.len() {
            let Some(number) = self.datagrams.pop_front() else { return };
            let mut left = ROUND_DATAGRAMS;
            while left > 0
                && let Some((endpoint, via, bytes)) = self.parts.sockets.receive(number)
            {
                left -= 1;
                self.stats.inputs += 1;
                self.parts.engine.handle(now, Input::Datagram { endpoint, via, bytes });
            }
            if left == 0 {
                self.datagrams.push_back(number);
            }
        }
    }

    /// Reads every connection that has something, once, as far as the time of a round goes; those who send much only while the
    /// engine has not enough for a commit.
    fn read(&mut self, now: Now) {
        let began = StdInstant::now();
        for _ in 0..self.lines.readable(false) {
            let sparing = self.parts.engine.has_enough();
            if self.lines.readable(sparing) == 0 {
                return;
            }
            match self.lines.read(sparing) {
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
            if began.elapsed() >= ROUND_READS {
                return;
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
                self.lines.heard(*conn);
            }
            Input::Opened { conn, .. } | Input::CoapOpened { conn, .. }
                if !self.lines.open(*conn, &self.poller) =>
            {
                return;
            }
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
            Ask::GiveBack => memory::give_back(),
            Ask::Order(order) => self.order_store(order),
            Ask::Operator(input) => self.parts.engine.handle(now, input),
            Ask::Stop => {
                self.stopping = true;
                self.parts.engine.handle(now, Input::Stop);
            }
        }
    }

    /// Performs orders until there are none, and reports what became of them.
    fn perform(&mut self, now: Now) {
        loop {
            while let Some(output) = self.parts.engine.poll_output() {
                self.order(output);
            }
            // The store has its next order by now, and works while the answers to its last one leave. Then acknowledgements first:
            // somebody waits for them; waking an upstream's thread may cost our turn.
            self.flush_datagrams();
            self.lines.flush(&mut self.facts);
            for (upstream, publications) in self.upstreams.iter_mut().zip(&mut self.publications) {
                if !publications.is_empty() {
                    upstream.publish(std::mem::take(publications));
                }
            }
            if self.facts.is_empty() && self.unfit.is_empty() {
                return;
            }
            for settled in self.unfit.drain(..) {
                self.parts.engine.handle(now, settled);
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
                if !self.parts.sockets.gather(endpoint, bytes) {
                    self.flush_datagrams();
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
                let upstream = usize::from(publication.upstream.0);
                match outgoing::prepared(publication, &self.parts.setup.limits) {
                    Ok(publication) => {
                        if let Some(waiting) = self.publications.get_mut(upstream) {
                            waiting.push(publication);
                        }
                    }
                    Err(settled) => self.unfit.push(settled),
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

    fn flush_datagrams(&mut self) {
        let Flushed { sent, unsent } = self.parts.sockets.flush();
        self.stats.datagrams_sent += sent;
        self.stats.datagrams_unsent += unsent;
    }

    fn order_store(&mut self, order: Order) {
        if let Err(error) = self.parts.store.order(order) {
            self.failed = Some(error);
        }
    }

    fn upstream(&mut self, id: UpstreamId) -> Option<&mut Box<dyn Upstream>> {
        self.upstreams.get_mut(usize::from(id.0))
    }

    /// Lets what was ordered before `Stopped` leave.
    fn finish(&mut self) {
        let end = StdInstant::now() + LAST_BYTES;
        while !self.lines.idle() {
            let left = end.saturating_duration_since(StdInstant::now());
            if left.is_zero() {
                return;
            }
            self.bell.listen();
            let longest = if self.lines.stirred(false) { Duration::ZERO } else { left };
            self.sleep(Some(longest));
            // What still comes is not heard; it is taken in so that the wait is for something new.
            for _ in 0..self.lines.readable(false) {
                self.lines.read(false);
            }
            self.lines.resume(&mut self.facts);
        }
    }
}
