//! Many histories, each cut at many moments: what was found, on several threads; and the mutants, each of which must be seen.

use super::Real;
use super::cut::{Manner, Sweep};
use super::ledger::{Hindsight, Ledger};
use super::medium::{Event, Image, Lie};
use super::recover::{self, Start};
use crate::sim::world::World;
use fastrand::Rng;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate::store::sqlite::Sizes;
use tidegate_engine::event::Setup;
use tidegate_engine::mutant::{Mutant, Planted};

/// Cuts of one history, about: more histories are worth more than more cuts of one.
const CUTS_OF_A_SEED: usize = 400;

/// One cut in so many is looked at by SQLite's own check, too.
const INSPECTED: usize = 4;

/// A defect that the proof must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// In the engine.
    Engine(Mutant),
    /// In the store.
    Store(Mutant),
    /// In the medium, or in whoever should have synced it.
    Medium(Lie),
}

impl Defect {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let engine = [
            Mutant::AckOnEnqueue,
            Mutant::AckBeforeCommit,
            Mutant::ForgetOnForward,
            Mutant::Qos2Forgotten,
            Mutant::RetainedNotAwaited,
            Mutant::CopyUnclaimed,
        ];
        let engine = engine.into_iter().map(Self::Engine);
        let store = Mutant::STORE.into_iter().map(Self::Store);
        engine.chain(store).chain(Lie::ALL.into_iter().map(Self::Medium)).collect()
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Engine(mutant) | Self::Store(mutant) => format!("{mutant:?}"),
            Self::Medium(lie) => format!("{lie:?}"),
        }
    }

    fn parts(this: Option<Self>) -> (Option<Mutant>, Planted, Option<Lie>) {
        match this {
            Some(Self::Engine(mutant)) => (Some(mutant), Planted::default(), None),
            Some(Self::Store(mutant)) => (None, Planted::with(mutant), None),
            Some(Self::Medium(lie)) => (None, Planted::default(), Some(lie)),
            None => (None, Planted::default(), None),
        }
    }
}

/// Something that a cut showed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The history.
    pub seed: u64,
    /// Which of its cuts; `None` when the history itself went wrong, at a cut that it lived through.
    pub cut: Option<usize>,
    /// What does not hold, in words: what was lost, or what is corrupt.
    pub broken: String,
}

impl Failure {
    /// Something acknowledged is not there, or not as it was committed.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        !self.broken.starts_with("corrupt")
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Histories.
    pub seeds: u64,
    /// Power cuts: moments and what was left, each started from.
    pub cuts: u64,
    /// Lives of the gateway within the histories.
    pub lives: u64,
    /// What was recorded of the media.
    pub events: u64,
    /// Acknowledged messages, over all cuts: each was looked for.
    pub checked: u64,
    /// Messages found in the store, over all cuts.
    pub found: u64,
    /// Cuts after which SQLite checked the file.
    pub inspected: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.cuts += other.cuts;
        self.lives += other.lives;
        self.events += other.events;
        self.checked += other.checked;
        self.found += other.found;
        self.inspected += other.inspected;
    }
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was counted.
    pub counts: Counts,
    /// What was broken, by seed.
    pub failures: Vec<Failure>,
}

/// A history that has been lived, and what is needed to cut it.
struct History {
    seed: u64,
    events: Vec<Event>,
    known: Hindsight,
    setup: Setup,
    sizes: Sizes,
    defect: Option<Defect>,
    /// What went wrong while it was lived.
    broken: Option<String>,
}

/// A cut: before which event, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    before: usize,
    manner: Manner,
}

impl History {
    fn live(seed: u64, defect: Option<Defect>) -> Self {
        let (engine, store, lie) = Defect::parts(defect);
        let real = Real::new(seed, store, lie);
        let (report, world) = World::run_on(seed, engine, real, false);
        let World { real, oracle, gateway, .. } = world;
        let real = real.unwrap_or_else(|| unreachable!("it was given one"));
        let events = std::mem::take(&mut real.mount.lock().events);
        let known = Hindsight {
            states: real.states,
            dead: real.dead,
            excused: oracle.excused(),
            forgetful: oracle.subscribers.forgetful(),
            receptions: oracle.receptions(),
        };
        Self {
            seed,
            events,
            known,
            setup: gateway.setup,
            sizes: real.sizes,
            defect,
            broken: report.violation.map(|violation| violation.0),
        }
    }

    /// The cuts to be made, in the order of their moments.
    fn cuts(&self) -> Vec<Cut> {
        let mut sweep = Sweep::default();
        let mut cuts = Vec::new();
        let mut changed = true;
        for before in 0..=self.events.len() {
            let next = self.events.get(before);
            let cut = |manner| Cut { before, manner };
            if !sweep.is_unsynced() {
                // Everything that could be there is; the latest such moment knows the most.
                if changed && !matches!(next, Some(Event::Mark(_))) {
                    cuts.push(cut(Manner::Kept));
                    changed = false;
                }
            } else if changed {
                cuts.extend([Manner::Kept, Manner::Parted, Manner::Torn].map(cut));
                changed = false;
            }
            // What was not synced may be lost until it is: the last moment of that knows the most.
            if sweep.is_unsynced() && matches!(next, None | Some(Event::Sync { .. } | Event::SyncDir { .. }))
            {
                cuts.push(cut(Manner::Dropped));
            }
            // What the world has been told changes what must be there.
            changed |= next.is_some_and(|event| sweep.step(event) || matches!(event, Event::Mark(_)));
        }
        let mut rng = Rng::with_seed(self.seed);
        let most = cuts.len();
        cuts.retain(|_| rng.usize(..most) < CUTS_OF_A_SEED);
        cuts
    }

    fn image(&self, sweep: &Sweep, cut: Cut, number: usize) -> Image {
        let mut rng = Rng::with_seed(self.seed ^ (number as u64) << 32);
        sweep.cut(cut.manner, &mut rng)
    }

    /// Makes the cuts, or one of them.
    fn cut(&self, only: Option<usize>, outcome: &mut Outcome, most_failures: usize) {
        let (engine, store, _) = Defect::parts(self.defect);
        let start = Start { setup: &self.setup, sizes: self.sizes, store, engine };
        let mut sweep = Sweep::default();
        let mut ledger = Ledger::default();
        let mut at = 0;
        for (number, cut) in self.cuts().into_iter().enumerate() {
            for event in &self.events[at..cut.before] {
                sweep.step(event);
                if let Event::Mark(mark) = event {
                    ledger.note(mark);
                }
            }
            at = cut.before;
            if only.is_some_and(|only| only != number) {
                continue;
            }
            let inspects = number.is_multiple_of(INSPECTED);
            let counts = &mut outcome.counts;
            counts.cuts += 1;
            counts.checked += ledger.acknowledged();
            counts.inspected += u64::from(inspects);
            let started = recover::start(self.image(&sweep, cut, number), &start, inspects);
            let checked = started.and_then(|found| {
                counts.found += found.rows.len() as u64;
                ledger.check(&found, &self.known)
            });
            if let Err(broken) = checked {
                outcome.failures.push(Failure { seed: self.seed, cut: Some(number), broken });
                if outcome.failures.len() >= most_failures {
                    return;
                }
            }
        }
    }
}

/// Lives one history and makes its cuts, or one of them. A panic of the code under test is a failure, too.
#[must_use]
pub fn seed(seed: u64, only: Option<usize>, defect: Option<Defect>, most_failures: usize) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| {
        let history = History::live(seed, defect);
        let mut outcome = Outcome::default();
        let reborn = history.events.iter().filter(|event| matches!(event, Event::Reborn(_))).count();
        outcome.counts.seeds = 1;
        outcome.counts.lives = reborn as u64 + 1;
        outcome.counts.events = history.events.len() as u64;
        if let Some(broken) = &history.broken {
            outcome.failures.push(Failure { seed, cut: None, broken: broken.clone() });
        }
        history.cut(only, &mut outcome, most_failures);
        outcome
    }))
    .unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        let broken = format!("corrupt: panic: {text}");
        Outcome { failures: vec![Failure { seed, cut: None, broken }], ..Outcome::default() }
    })
}

/// Lives histories from `from` on, to before `to` at the most, until `cuts` cuts have been made.
#[must_use]
pub fn run(
    from: u64,
    to: Option<u64>,
    cuts: u64,
    threads: usize,
    most_failures: usize,
    told: impl Fn(&Counts) + Sync,
) -> Outcome {
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if to.is_some_and(|to| number >= to) {
                        break;
                    }
                    let outcome = seed(number, None, None, most_failures);
                    let Ok(mut total) = total.lock() else { break };
                    total.counts += outcome.counts;
                    total.failures.extend(outcome.failures);
                    told(&total.counts);
                    let done = total.counts.cuts >= cuts || total.failures.len() >= most_failures;
                    enough.fetch_or(done, Ordering::Relaxed);
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.failures.sort_by_key(|failure| (failure.seed, failure.cut));
    total
}

/// Plants a defect and lives `seeds` histories: what was counted, and every cut that showed it. What a history sees of it while
/// it is lived does not count: that is the simulation's.
#[must_use]
pub fn hunt(defect: Defect, seeds: u64, most_failures: usize) -> Outcome {
    let mut total = Outcome::default();
    for number in 0..seeds {
        let outcome = seed(number, None, Some(defect), usize::MAX);
        total.counts += outcome.counts;
        total.failures.extend(outcome.failures.into_iter().filter(|failure| failure.cut.is_some()));
        if total.failures.len() >= most_failures {
            break;
        }
    }
    total
}
