//! The administrator's side, in HTTP: health, metrics and status on a port, on loopback unless the operator says otherwise, where
//! it only looks; and on a local socket, for those who run this host, what changes things as well.

mod bounded;
mod dead;
mod http;
pub mod local;
mod metrics;
mod process;
mod rates;
pub mod status;

pub use dead::{Letters, Moved, Stayed};
pub use status::Status;

use crate::driver::{Handle, Snapshot};
use crate::listen::admission::Admission;
use crate::listen::dtls::{self, DtlsStats};
use crate::store::sqlite::{Progress, Quarantined};
use rates::Rates;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use http::{bind, serve};

/// A driver that has not answered for so long does not turn: it is not alive.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What does not change while the gateway runs, and what is shared with others.
#[derive(Debug)]
pub struct About {
    /// The gateway's id.
    pub gateway: String,
    /// Which life this is.
    pub epoch: u64,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How salvaging from damaged databases goes.
    pub quarantined: Progress,
    /// Connections refused before they were opened are counted there.
    pub admission: Arc<Admission>,
    /// Where DTLS is spoken.
    pub dtls: Vec<Arc<dtls::Server>>,
}

/// Everything that can be looked at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    about: About,
    driver: Handle,
    started: Instant,
    rates: Mutex<Rates>,
    /// A configuration that was read again and could not be used, or needs a restart; in words.
    reload_problem: Mutex<Option<String>>,
    /// Configurations read again: those that came into force whole, and the others.
    reloads: [AtomicU64; 2],
}

/// One look at everything.
#[derive(Debug)]
struct View {
    status: Status,
    snapshot: Box<Snapshot>,
    connections_refused: u64,
    handshakes_failed: u64,
    dtls: DtlsStats,
    reloads: [u64; 2],
}

impl Admin {
    /// A view on a running driver.
    #[must_use]
    pub fn new(about: About, driver: Handle) -> Self {
        Self(Arc::new(Inner {
            about,
            driver,
            started: Instant::now(),
            rates: Mutex::default(),
            reload_problem: Mutex::default(),
            reloads: Default::default(),
        }))
    }

    /// The configuration was read again: says what is wrong with the one on the disk, or that nothing is.
    pub fn set_reload_problem(&self, problem: Option<String>) {
        let [whole, other] = &self.0.reloads;
        if problem.is_none() { whole } else { other }.fetch_add(1, Ordering::Relaxed);
        *self.0.reload_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Samples the rates for ever; dropping the future ends it.
    pub async fn sample(self) {
        let mut ticks = tokio::time::interval(rates::EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(snapshot) = self.0.driver.snapshot().await else {
                return;
            };
            let mut rates = self.0.rates.lock().unwrap_or_else(PoisonError::into_inner);
            rates.add(Instant::now(), &snapshot.stats);
        }
    }

    /// The status, or `None` when the driver does not answer.
    pub async fn status(&self) -> Option<Status> {
        self.view().await.map(|view| view.status)
    }

    async fn view(&self) -> Option<View> {
        let snapshot = tokio::time::timeout(ANSWER_WITHIN, self.0.driver.snapshot()).await.ok()??;
        let about = &self.0.about;
        let mut status = Status {
            gateway: about.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: about.epoch,
            uptime_seconds: self.0.started.elapsed().as_secs(),
            clock_synchronised: snapshot.driver.clock_synchronised,
            store: process::store(&about.data_dir),
            process: process::read(),
            ..Status::default()
        };
        status.fill(&snapshot.stats);
        status.store.fill(&about.quarantined.now());
        (status.messages.accepted_per_second, status.messages.confirmed_per_second) =
            self.0.rates.lock().unwrap_or_else(PoisonError::into_inner).per_second();
        status.ready = !snapshot.stats.holding && snapshot.driver.store_fault.is_none();
        status.problems = self.problems(&snapshot);
        Some(View {
            status,
            snapshot,
            connections_refused: about.admission.refused(),
            handshakes_failed: about.admission.failed_handshakes(),
            dtls: about.dtls.iter().map(|server| server.stats()).sum(),
            reloads: self.0.reloads.each_ref().map(|count| count.load(Ordering::Relaxed)),
        })
    }

    fn problems(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(fault) = &snapshot.driver.store_fault {
            problems.push(format!("the store cannot write: {fault}"));
        }
        if snapshot.stats.holding {
            problems.push("devices are told to hold: messages come faster than they can be made safe, or the spool is full".to_owned());
        }
        problems.extend(damage(&self.0.about.quarantined.now()));
        for upstream in &snapshot.stats.upstreams {
            if !upstream.up {
                problems
                    .push(format!("upstream {} is not connected; messages wait on the disk", upstream.name));
            } else if upstream.blocked {
                problems
                    .push(format!("upstream {} asks for a pause; messages wait on the disk", upstream.name));
            }
        }
        if let Some(problem) = &*self.0.reload_problem.lock().unwrap_or_else(PoisonError::into_inner) {
            problems.push(problem.clone());
        }
        problems
    }
}

/// What damage to the store has cost in this life, in words; nothing when there was none.
fn damage(quarantined: &Quarantined) -> Option<String> {
    if quarantined.waiting > 0 {
        return Some(format!(
            "the store was damaged: what is whole in {} old databases is being salvaged, {} messages so far; look at the kernel's log",
            quarantined.waiting, quarantined.salvaged
        ));
    }
    let report = quarantined.last.as_ref()?.join("report.txt");
    let unknown = if quarantined.unknown > 0 { " or more" } else { "" };
    Some(format!(
        "the store was damaged: {} messages are salvaged, {}{unknown} are lost; {} says more; look at the kernel's log, and replace the medium if it fails",
        quarantined.salvaged,
        quarantined.lost,
        report.display()
    ))
}
