//! The one thread that writes: takes orders, carries them out in their order, reports what became of each to the driver.
//! It decides nothing, and gathers nothing: the engine makes the groups.

use super::{Lanes, Page, Salvage, Store};
use crate::inbox::{DriverGone, Inbox};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tidegate_engine::event::{Batch, Input, Letter, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tokio::sync::oneshot;

/// Orders that may wait. The engine has a commit and a load for each lane under way at the most.
const ORDERS_WAITING: usize = 2_048;

/// Without an order for so long the thread does what would have delayed one.
const IDLE_AFTER: Duration = Duration::from_millis(250);

/// An order to the store.
#[derive(Debug)]
pub enum Order {
    /// [`Output::Commit`](tidegate_engine::event::Output::Commit).
    Commit(Batch),
    /// [`Output::Load`](tidegate_engine::event::Output::Load).
    Load {
        /// Which lane.
        lane: LaneId,
        /// Above which sequence number.
        after: Seq,
        /// How many at the most.
        messages: usize,
        /// How many bytes of footprint at the most.
        bytes: usize,
    },
    /// Lanes for the routes of a new configuration, as pairs of a route's name and its upstream's.
    Lanes {
        /// The routes.
        routes: Vec<(String, String)>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Lanes, StoreFault>>,
    },
    /// A look at dead letters.
    Letters {
        /// Which.
        letters: Vec<LetterId>,
        /// How many bytes of footprint at the most, beyond the first.
        bytes: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Vec<Letter>, StoreFault>>,
    },
    /// Whether dead letters are there.
    LettersThere {
        /// Which.
        letters: Vec<LetterId>,
        /// Where the answer goes: those that are.
        answer: oneshot::Sender<Result<Vec<LetterId>, StoreFault>>,
    },
}

/// Why an order was not taken. The gateway must end: what it holds in memory cannot be made safe any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The thread has ended: it panicked. [`Writer::stop`] says why.
    #[error("the store's thread has ended")]
    Ended,
    /// More orders wait than the engine may have under way.
    #[error("{ORDERS_WAITING} orders wait for the store")]
    Overrun,
}

/// Why the store is not given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// The thread panicked, with this text.
    #[error("the store's thread panicked: {0}")]
    Panicked(String),
}

/// The thread, and the way to it.
#[derive(Debug)]
pub struct Writer<S> {
    orders: SyncSender<Order>,
    thread: JoinHandle<Result<S, StopError>>,
}

impl<S: Store + Send + 'static> Writer<S> {
    /// Starts the thread. It answers through `inbox`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(store: S, inbox: Inbox) -> std::io::Result<Self> {
        let (orders, waiting) = sync_channel(ORDERS_WAITING);
        let thread =
            thread::Builder::new().name("store".into()).spawn(move || run(store, &waiting, &inbox))?;
        Ok(Self { orders, thread })
    }

    /// Gives an order; never blocks.
    ///
    /// # Errors
    /// [`OrderError`], after which the gateway must end.
    pub fn order(&self, order: Order) -> Result<(), OrderError> {
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => OrderError::Overrun,
            TrySendError::Disconnected(_) => OrderError::Ended,
        })
    }

    /// Lets the thread finish what was ordered, and takes the store back. Blocks; the inbox must be read on meanwhile. When its
    /// reader has been dropped, what is still waiting is not carried out: nobody would hear that it is safe.
    ///
    /// # Errors
    /// [`StopError`] when the thread panicked.
    pub fn stop(self) -> Result<S, StopError> {
        drop(self.orders);
        self.thread.join().unwrap_or_else(|panic| Err(StopError::Panicked(words(&*panic))))
    }
}

fn run<S: Store>(mut store: S, orders: &Receiver<Order>, inbox: &Inbox) -> Result<S, StopError> {
    let mut unanswered = None;
    // A store that panicked is not used again: its state is unknown.
    match catch_unwind(AssertUnwindSafe(|| serve(&mut store, orders, inbox, &mut unanswered))) {
        Ok(()) => Ok(store),
        Err(panic) => {
            let text = words(&*panic);
            tracing::error!(panic = %text, "the store's thread panicked");
            // Nobody must wait in vain; the next order meets a closed channel.
            let waiting = orders.try_iter().filter_map(|order| Refusal::of(&order));
            for refusal in unanswered.into_iter().chain(waiting) {
                if inbox.send_blocking(refusal.input(&text)).is_err() {
                    break;
                }
            }
            Err(StopError::Panicked(text))
        }
    }
}

/// Carries out orders until there will be no more, or nobody is there to hear of them.
fn serve<S: Store>(store: &mut S, orders: &Receiver<Order>, inbox: &Inbox, unanswered: &mut Option<Refusal>) {
    let mut rests = false;
    let mut salvage = Turns::new();
    loop {
        let order = match salvage.wait() {
            Some(wait) => orders.recv_timeout(wait),
            None if rests => orders.recv().map_err(RecvTimeoutError::from),
            None => orders.recv_timeout(IDLE_AFTER),
        };
        match order {
            Ok(order) => {
                *unanswered = Refusal::of(&order);
                if carry_out(store, order, inbox).is_err() {
                    return;
                }
                *unanswered = None;
                store.upkeep(false);
                rests = false;
                salvage.disturbed = true;
            }
            Err(RecvTimeoutError::Timeout) if salvage.over => rests = !store.upkeep(true),
            Err(RecvTimeoutError::Timeout) => {
                let told = salvage.take(store);
                store.upkeep(false);
                if told.into_iter().any(|input| inbox.send_blocking(input).is_err()) {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// While orders come, salvaging rests for so many times as long as its last step took.
const SALVAGE_RESTS: u32 = 4;

/// How long a store that cannot go on salvaging is left alone.
const SALVAGE_AGAIN: Duration = Duration::from_millis(500);

/// When the next step of salvaging comes.
#[derive(Debug)]
struct Turns {
    over: bool,
    /// An order has come since the last step.
    disturbed: bool,
    next: Instant,
}

impl Turns {
    fn new() -> Self {
        Self { over: false, disturbed: false, next: Instant::now() }
    }

    /// How long an order is waited for before the next step; `None` when there is none to come.
    fn wait(&self) -> Option<Duration> {
        (!self.over).then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Takes the step; gives what the engine is to be told of it.
    fn take<S: Store>(&mut self, store: &mut S) -> Vec<Input> {
        let began = Instant::now();
        let done = store.salvage();
        let rests = if std::mem::take(&mut self.disturbed) { SALVAGE_RESTS } else { 0 };
        self.next = Instant::now() + began.elapsed() * rests;
        match done {
            Salvage::More => {}
            Salvage::Later => self.next += SALVAGE_AGAIN,
            Salvage::Nothing => self.over = true,
            Salvage::Lost(losses) => {
                let told = losses.into_iter().map(|(loss, note)| Input::Lost { loss, note: Some(note) });
                return told.collect();
            }
            Salvage::Done(lanes) => {
                self.over = true;
                return vec![Input::Salvaged { lanes }];
            }
        }
        Vec::new()
    }
}

fn carry_out<S: Store>(store: &mut S, order: Order, inbox: &Inbox) -> Result<(), DriverGone> {
    let input = match order {
        Order::Commit(Batch { id: batch, ops }) => match store.commit(&ops) {
            Ok(()) => Input::Committed { batch },
            Err(fault) => Input::CommitFailed { batch, fault },
        },
        Order::Load { lane, after, messages, bytes } => match store.load(lane, after, messages, bytes) {
            Ok(page) => {
                let Page { messages, damaged, note, upto } = page;
                Input::Loaded { lane, messages, damaged, note, upto }
            }
            Err(fault) => Input::LoadFailed { lane, fault },
        },
        Order::Lanes { routes, answer } => {
            let routes: Vec<_> =
                routes.iter().map(|(route, upstream)| (route.as_str(), upstream.as_str())).collect();
            // Whoever asked may have given up.
            let _ = answer.send(store.lanes(&routes));
            return Ok(());
        }
        Order::Letters { letters, bytes, answer } => {
            let _ = answer.send(store.letters(&letters, bytes));
            return Ok(());
        }
        Order::LettersThere { letters, answer } => {
            let _ = answer.send(store.letters_there(&letters));
            return Ok(());
        }
    };
    inbox.send_blocking(input)
}

/// What is said to an order that nobody will carry out.
enum Refusal {
    Commit(tidegate_engine::id::BatchId),
    Load(LaneId),
}

impl Refusal {
    fn of(order: &Order) -> Option<Self> {
        match order {
            Order::Commit(batch) => Some(Self::Commit(batch.id)),
            Order::Load { lane, .. } => Some(Self::Load(*lane)),
            // Dropping the sender says it.
            Order::Lanes { .. } | Order::Letters { .. } | Order::LettersThere { .. } => None,
        }
    }

    fn input(self, panic: &str) -> Input {
        let fault = StoreFault::Failed(format!("the store's thread panicked: {panic}"));
        match self {
            Self::Commit(batch) => Input::CommitFailed { batch, fault },
            Self::Load(lane) => Input::LoadFailed { lane, fault },
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a text").to_owned()
}
