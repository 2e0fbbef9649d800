//! JSON Lines in a file: the upstream of an installation that has none yet. One thread writes groups, syncs them to the
//! medium and only then confirms. How a line looks stands in `line`, what happens to the files in `journal`.

mod journal;
mod line;

use super::backoff::Backoff;
use super::{StartError, Upstream};
use crate::config;
use crate::inbox::{DriverGone, Inbox};
use journal::Journal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tidegate_engine::event::{Input, Outcome, Publication};
use tidegate_engine::id::{GatewayId, Tag, UpstreamId};
use tracing::{error, info};

/// A group is written and synced when it has grown to this, even if more is waiting. Bounds what a power cut can leave torn.
const GROUP_BYTES: usize = 1 << 20;

/// The longest wait between two attempts to open or write the file: somebody has made room, or mounted the medium.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Orders beyond the window's publications: the marks of [`Upstream::up_seen`] and wakes.
const ORDERS_BESIDE_THE_WINDOW: usize = 16;

/// What the driver wants of the thread.
#[derive(Debug)]
enum Order {
    Publish(Vec<Publication>),
    /// The engine is about to hear of the link with this number.
    UpSeen(u64),
    /// Look at `reset`.
    Wake,
}

/// The driver's end.
#[derive(Debug)]
pub(super) struct File {
    orders: SyncSender<Order>,
    reset: Arc<AtomicBool>,
    ups_seen: u64,
}

impl File {
    pub(super) fn start(
        id: UpstreamId,
        name: &str,
        window: usize,
        config: &config::File,
        gateway: &GatewayId,
        inbox: Inbox,
    ) -> Result<Self, StartError> {
        let (sender, orders) = sync_channel(window.saturating_add(ORDERS_BESIDE_THE_WINDOW));
        let reset = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            id,
            name: name.to_owned(),
            config: config.clone(),
            gateway: gateway.clone(),
            orders,
            reset: reset.clone(),
            inbox,
            ups: 0,
            ups_seen: 0,
        };
        std::thread::Builder::new()
            .name(format!("file {name}"))
            .spawn(move || worker.run())
            .map_err(|source| StartError::Thread { upstream: name.to_owned(), source })?;
        Ok(Self { orders: sender, reset, ups_seen: 0 })
    }

    fn order(&self, order: Order) {
        // Disconnected: the gateway is ending. Full: somebody broke the window; what is dropped here must not stay
        // unsettled, and a new link is the contract's way to say so.
        if let Err(TrySendError::Full(_)) = self.orders.try_send(order) {
            self.reset.store(true, Ordering::Release);
        }
    }
}

impl Upstream for File {
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
        self.reset.store(true, Ordering::Release);
        self.order(Order::Wake);
    }
}

/// Why the thread stops serving an open file.
enum End {
    /// Nobody wants it any more.
    Stopped,
    /// Writing failed, or a new beginning was asked for.
    Lost(String),
}

impl From<DriverGone> for End {
    fn from(_: DriverGone) -> Self {
        Self::Stopped
    }
}

/// The thread's end.
struct Worker {
    id: UpstreamId,
    name: String,
    config: config::File,
    gateway: GatewayId,
    orders: Receiver<Order>,
    reset: Arc<AtomicBool>,
    inbox: Inbox,
    /// How often `UpstreamUp` was reported, and how often the engine has heard of it.
    ups: u64,
    ups_seen: u64,
}

impl Worker {
    fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_MAX);
        let mut said = String::new();
        loop {
            match Journal::open(&self.config, GROUP_BYTES) {
                Ok(mut journal) => {
                    info!(upstream = self.name, "writing to {}", self.config.path.display());
                    self.reset.store(false, Ordering::Release);
                    self.ups += 1;
                    if self.inbox.send_blocking(Input::UpstreamUp { upstream: self.id }).is_err() {
                        return;
                    }
                    let End::Lost(why) = self.serve(&mut journal, &mut backoff) else { return };
                    if self.inbox.send_blocking(Input::UpstreamDown { upstream: self.id }).is_err() {
                        return;
                    }
                    said = self.complain(&why, &said);
                }
                Err(why) => said = self.complain(&why.to_string(), &said),
            }
            if !self.pause(backoff.next()) {
                return;
            }
        }
    }

    /// Logs a fault unless it is the one that was logged last.
    fn complain(&self, why: &str, said: &str) -> String {
        if why != said {
            error!(
                upstream = self.name,
                "cannot write {}: {why}. Messages wait here until it can be written",
                self.config.path.display()
            );
        }
        why.to_owned()
    }

    /// Writes group after group until the file fails or nobody wants more.
    fn serve(&mut self, journal: &mut Journal, backoff: &mut Backoff) -> End {
        let mut lines = Vec::new();
        let mut tags = Vec::new();
        let Err(end) = (|| -> Result<std::convert::Infallible, End> {
            loop {
                let first = self.orders.recv().map_err(|_| End::Stopped)?;
                self.take(first, &mut lines, &mut tags, journal)?;
                while let Ok(order) = self.orders.try_recv() {
                    self.take(order, &mut lines, &mut tags, journal)?;
                }
                self.write(journal, &mut lines, &mut tags)?;
                if self.reset.swap(false, Ordering::AcqRel) {
                    return Err(End::Lost("a new beginning was asked for".into()));
                }
                backoff.reset();
            }
        })();
        end
    }

    fn take(
        &mut self,
        order: Order,
        lines: &mut Vec<u8>,
        tags: &mut Vec<Tag>,
        journal: &mut Journal,
    ) -> Result<(), End> {
        match order {
            Order::UpSeen(ups) => self.ups_seen = ups,
            Order::Publish(publications) if self.ups_seen == self.ups => {
                for publication in publications {
                    line::append(lines, &self.gateway, &publication);
                    tags.push(publication.tag);
                    if lines.len() >= GROUP_BYTES {
                        self.write(journal, lines, tags)?;
                    }
                }
            }
            // Meant for the file as it was before the last fault.
            Order::Publish(_) | Order::Wake => {}
        }
        Ok(())
    }

    /// Makes a group safe and says so.
    fn write(&self, journal: &mut Journal, lines: &mut Vec<u8>, tags: &mut Vec<Tag>) -> Result<(), End> {
        if tags.is_empty() {
            return Ok(());
        }
        let written = journal.append(lines);
        lines.clear();
        written.map_err(|why| End::Lost(why.to_string()))?;
        for tag in tags.drain(..) {
            let outcome = Outcome::Confirmed;
            self.inbox.send_blocking(Input::Settled { upstream: self.id, tag, outcome })?;
        }
        Ok(())
    }

    /// Waits, and drops what is handed over meanwhile; false when the driver's end is gone.
    fn pause(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Order::UpSeen(ups)) => self.ups_seen = ups,
                Ok(Order::Publish(_) | Order::Wake) => {}
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}
