//! The campaign of sessions: local publishers send at QoS 1 and 2 to subscribers whose sessions are kept, and to retained
//! topics, while the gateway is killed again and again. Then the ledger is closed: nothing acknowledged is lost to any
//! subscriber, nothing of QoS 2 comes twice, sessions are there, retained values are the last acknowledged ones or later.

mod ledger;
mod publisher;
mod subscriber;

pub use ledger::Ledger;

use crate::gateway::Gateway;
use crate::wait::wait_for;
use ledger::Entries;
use publisher::Publisher;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subscriber::Subscriber;
use tidegate_wire::mqtt::Qos;

/// The longest that acknowledgements or deliveries may stay away: clients and gateway come back within seconds.
const WITHIN: Duration = Duration::from_secs(120);

/// How long a retained value that is not there may still be on its way.
const RETAINED_WITHIN: Duration = Duration::from_secs(10);

/// Retained topics of each keeper; every other one is published to at QoS 2.
const TOPICS_EACH: usize = 8;

/// What goes on while the gateway is killed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Publishers of what the subscribers get.
    pub publishers: usize,
    /// Messages of each of them; every other one at QoS 2.
    pub messages_each: usize,
    /// Publishers of the retained topics, with as many messages.
    pub keepers: usize,
    /// Subscribers of everything: by turns at QoS 1 and 2, with MQTT 3.1.1 and 5; the last of every four is often away.
    pub subscribers: usize,
    /// SIGKILLs.
    pub kills: usize,
}

/// What all parts of the campaign look at.
#[derive(Debug)]
pub(crate) struct Shared {
    plan: Plan,
    address: SocketAddr,
    /// Messages that may have been begun, the retained ones too.
    allowed: AtomicUsize,
    begun: AtomicUsize,
    acknowledged: AtomicUsize,
    reconnects: AtomicUsize,
    end: AtomicBool,
    entries: Mutex<Entries>,
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    fn messages(&self) -> usize {
        (self.plan.publishers + self.plan.keepers) * self.plan.messages_each
    }
}

/// The QoS of a publisher's message of this number.
fn qos(number: usize) -> Qos {
    if number.is_multiple_of(2) { Qos::AtLeastOnce } else { Qos::ExactlyOnce }
}

/// What a campaign showed.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that was compared.
    pub ledger: Ledger,
    /// Times that the gateway was killed.
    pub kills: usize,
    /// Connections that were made anew.
    pub reconnects: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The longest time from starting a killed gateway until it listened.
    pub slowest_start: Duration,
}

impl Outcome {
    /// Whether the promises held.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.ledger.is_sound()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills; {}; reconnects {}, slowest start {:.2} s, {:.1} s in all",
            self.kills,
            self.ledger,
            self.reconnects,
            self.slowest_start.as_secs_f64(),
            self.elapsed.as_secs_f64()
        )
    }
}

/// The gateway's configuration: room for what waits for a subscriber while everybody else goes on.
fn configuration() -> &'static str {
    "[limits]\nconnections_per_address = 4000\nsubscriber_messages = 60000\nsubscriber_size = \"64 MiB\"\nsubscribers_size = \"128 MiB\"\n"
}

/// Runs the campaign. Gives the gateway too, for its log.
///
/// # Panics
/// When acknowledgements stop coming, or the gateway does not start again.
#[must_use]
pub fn run(plan: &Plan) -> (Outcome, Gateway) {
    let began = Instant::now();
    let mut gateway = Gateway::start(configuration());
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        address: gateway.mqtt,
        allowed: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
        acknowledged: AtomicUsize::new(0),
        reconnects: AtomicUsize::new(0),
        end: AtomicBool::new(false),
        entries: Mutex::new(Entries::new(plan)),
    });
    let clients = clients(&shared);
    // Before every subscriber has its subscription there is nothing that could be lost to it.
    let subscribed = || (shared.entries().subscribed() == plan.subscribers).then_some(());
    assert!(wait_for(WITHIN, subscribed).is_some(), "not everybody could subscribe:\n{}", gateway.log());

    let part = shared.messages() / (plan.kills + 1);
    let mut slowest = Duration::ZERO;
    for kill in 1..=plan.kills {
        shared.allowed.fetch_max(kill * part + part / 2, Ordering::Relaxed);
        acknowledged(&shared, &gateway, (kill - 1) * part + fastrand::usize(1..=part.max(1)));
        gateway.kill();
        slowest = slowest.max(gateway.start_again());
        check_retained(&shared);
    }
    shared.allowed.fetch_max(shared.messages(), Ordering::Relaxed);
    acknowledged(&shared, &gateway, shared.messages());
    let _ = wait_for(WITHIN, || (shared.entries().missing() == 0).then_some(()));
    check_retained(&shared);
    // A repetition could only come while a subscriber's session is taken up again: once more, with nothing under way.
    gateway.kill();
    slowest = slowest.max(gateway.start_again());
    check_retained(&shared);
    let back = shared.entries().sessions_taken_up() + plan.subscribers;
    let _ = wait_for(WITHIN, || (shared.entries().sessions_taken_up() >= back).then_some(()));
    shared.end.store(true, Ordering::Relaxed);
    clients.join().expect("a client of the campaign failed");
    let ledger = shared.entries().close();
    let reconnects = shared.reconnects.load(Ordering::Relaxed);
    let kills = plan.kills + 1;
    (Outcome { ledger, kills, reconnects, elapsed: began.elapsed(), slowest_start: slowest }, gateway)
}

/// All clients but the one that looks at the retained values, in a thread of their own.
fn clients(shared: &Arc<Shared>) -> std::thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut all = Vec::new();
            for number in 0..shared.plan.subscribers {
                all.push(tokio::spawn(Subscriber::new(Arc::clone(&shared), number).run()));
            }
            for number in 0..shared.plan.publishers + shared.plan.keepers {
                all.push(tokio::spawn(Publisher::new(Arc::clone(&shared), number).run()));
            }
            for one in all {
                one.await.expect("a client panicked");
            }
        });
    })
}

fn acknowledged(shared: &Shared, gateway: &Gateway, count: usize) {
    let so_far = || shared.acknowledged.load(Ordering::Relaxed);
    if wait_for(WITHIN, || (so_far() >= count).then_some(())).is_none() {
        panic!(
            "{} messages were acknowledged and then no more for {WITHIN:?}, {count} should be; the gateway's log:\n{}",
            so_far(),
            gateway.log()
        );
    }
}

/// Looks at every retained value through a subscriber that has not been there before.
fn check_retained(shared: &Shared) {
    let acknowledged = shared.entries().retained_acknowledged();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let found = runtime.block_on(subscriber::retained(shared, &acknowledged, RETAINED_WITHIN));
    shared.entries().enter_retained(&acknowledged, &found);
}
