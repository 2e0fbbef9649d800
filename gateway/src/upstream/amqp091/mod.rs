//! AMQP 0-9-1: the thread, its orders, and making the link again for as long as anybody wants it.
//! What happens on a link stands in `link`, how one is made in `connect`, what a message looks like in `envelope`, which travel
//! together in `packer` and what they look like then in `bundle`, what awaits its confirm in `unconfirmed`, and the bytes in `frames`.
//!
//! The codec is lapin's (`amq-protocol`); lapin itself has a thread, a channel and a promise between a message and its confirm, which cost
//! two thirds of all the processor time that the gateway spent on a message. One task that writes frames and reads confirms needs a sixth of it, and
//! hears of returns and confirms in the order in which the broker says them.
//!
//! This connection only publishes. Commands will come in on a connection of their own, because a broker that is short of
//! memory blocks connections that publish and must not stop commands with them.

mod bundle;
mod connect;
mod envelope;
mod frames;
mod link;
mod packer;
mod unconfirmed;

use super::backoff::Backoff;
use super::{StartError, Upstream};
use crate::config;
use crate::inbox::Inbox;
use connect::{Fault, Link, Url};
use futures_util::FutureExt;
use link::{End, Report, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::event::{Input, Publication};
use tidegate_engine::id::{GatewayId, UpstreamId};
use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

/// Orders beyond the window's publications (each order has at least one): the marks of [`Upstream::up_seen`].
const ORDERS_BESIDE_THE_WINDOW: usize = 16;

/// A link that held for so long counts as sound: the next fault begins with short waits again.
const SOUND_AFTER: Duration = Duration::from_secs(10);

/// The same fault is logged again at this distance, not at every attempt.
const SAME_FAULT_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// What the driver wants of the thread.
#[derive(Debug)]
enum Order {
    Publish(Vec<Publication>),
    /// The engine is about to hear of the link with this number.
    UpSeen(u64),
}

/// The driver's end.
#[derive(Debug)]
pub(super) struct Amqp091 {
    orders: mpsc::Sender<Order>,
    reset: Arc<Notify>,
    /// How many links the engine has heard of.
    ups_seen: u64,
}

impl Amqp091 {
    pub(super) fn start(
        id: UpstreamId,
        name: &str,
        window: usize,
        config: &config::Amqp,
        gateway: &GatewayId,
        inbox: Inbox,
    ) -> Result<Self, StartError> {
        let urls = config
            .urls
            .iter()
            .map(|url| {
                Url::parse(url, config).map_err(|reason| StartError::Url {
                    upstream: name.to_owned(),
                    url: url.clone(),
                    reason,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (sender, orders) = mpsc::channel(window.saturating_add(ORDERS_BESIDE_THE_WINDOW));
        let reset = Arc::new(Notify::new());
        let worker = Worker {
            id,
            name: name.to_owned(),
            window,
            urls,
            config: config.clone(),
            gateway: gateway.clone(),
            orders,
            reset: reset.clone(),
            inbox,
        };
        let thread = |source| StartError::Thread { upstream: name.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(thread)?;
        std::thread::Builder::new()
            .name(format!("amqp {name}"))
            .spawn(move || {
                runtime.block_on(worker.run());
                // A name server that does not answer must not hold up the end.
                runtime.shutdown_background();
            })
            .map_err(thread)?;
        Ok(Self { orders: sender, reset, ups_seen: 0 })
    }

    fn order(&self, order: Order) {
        // Closed: the gateway is ending. Full: somebody broke the window; what is dropped here must not stay
        // unsettled, and a new link is the contract's way to say so.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.orders.try_send(order) {
            error!("more was handed over than the window allows; making a new link");
            self.reset.notify_one();
        }
    }
}

impl Upstream for Amqp091 {
    fn publish(&mut self, publications: Vec<Publication>) {
        if !publications.is_empty() {
            self.order(Order::Publish(publications));
        }
    }

    fn up_seen(&mut self) {
        self.ups_seen += 1;
        self.order(Order::UpSeen(self.ups_seen));
    }

    fn reset(&mut self) {
        self.reset.notify_one();
    }
}

/// The thread's end.
struct Worker {
    id: UpstreamId,
    name: String,
    window: usize,
    urls: Vec<Url>,
    config: config::Amqp,
    gateway: GatewayId,
    orders: mpsc::Receiver<Order>,
    reset: Arc<Notify>,
    inbox: Inbox,
}

impl Worker {
    /// Makes links until the driver's end is dropped.
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.config.reconnect_max);
        let mut log = FaultLog::default();
        let mut ups = 0;
        while let Some((link, place)) = self.link(&mut backoff, &mut log).await {
            info!(upstream = self.name, "connected to the broker at {place}");
            let began = Instant::now();
            ups += 1;
            // A wish for a new link from before this one was made is fulfilled.
            let _ = self.reset.notified().now_or_never();
            if self.inbox.send(Input::UpstreamUp { upstream: self.id }).await.is_err() {
                return;
            }
            let report = Report { upstream: self.id, name: &self.name, inbox: &self.inbox };
            let session = Session::new(report, &self.config, &self.gateway, self.window, link, ups);
            let end = session.run(&mut self.orders, &self.reset).await;
            if matches!(end, End::Stopped)
                || self.inbox.send(Input::UpstreamDown { upstream: self.id }).await.is_err()
            {
                return;
            }
            match end {
                End::Stopped => {}
                End::Lost(why) => warn!(upstream = self.name, "lost the broker at {place}: {why}"),
                End::SetUp(why) => log.say(&self.name, &why),
            }
            if began.elapsed() >= SOUND_AFTER {
                backoff.reset();
                log = FaultLog::default();
            }
            // Never at once: a fault that meets every new link must not become a busy loop.
            if !self.pause(backoff.next()).await {
                return;
            }
        }
    }

    /// Tries the URLs in turn, with a pause after each round, until there is a link; `None` when nobody wants one any more.
    async fn link(&mut self, backoff: &mut Backoff, log: &mut FaultLog) -> Option<(Link, String)> {
        loop {
            for index in 0..self.urls.len() {
                let url = self.urls.get(index)?.clone();
                let attempt = connect::connect(&url, &self.config);
                tokio::pin!(attempt);
                let outcome = loop {
                    tokio::select! {
                        outcome = &mut attempt => break outcome,
                        order = self.orders.recv() => drop(order?),
                    }
                };
                match outcome {
                    Ok(link) => return Some((link, url.place())),
                    Err(Fault(why)) => log.say(&self.name, &why),
                }
            }
            if !self.pause(backoff.next()).await {
                return None;
            }
        }
    }

    /// Waits, and drops what is handed over meanwhile; false when the driver's end is gone.
    async fn pause(&mut self, wait: Duration) -> bool {
        let pause = tokio::time::sleep(wait);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                order = self.orders.recv() => if order.is_none() { return false },
            }
        }
    }
}

/// Says each fault when it is new, and again from time to time: attempts may be many and an operator's disk is small.
#[derive(Default)]
struct FaultLog(Vec<(String, Instant)>);

/// Faults remembered; with several URLs each may have its own.
const FAULTS_REMEMBERED: usize = 16;

impl FaultLog {
    fn say(&mut self, upstream: &str, why: &str) {
        self.0.retain(|(_, at)| at.elapsed() < SAME_FAULT_LOGGED_EVERY);
        if self.0.iter().any(|(said, _)| said == why) || self.0.len() >= FAULTS_REMEMBERED {
            return;
        }
        error!(upstream, "{why}. Trying again; messages wait here until then");
        self.0.push((why.to_owned(), Instant::now()));
    }
}
