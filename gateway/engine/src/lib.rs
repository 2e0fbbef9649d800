//! Tidegate's decisions. Sans-IO: [`Engine::handle`] takes a fact and the time, [`Engine::poll_output`] gives
//! orders, [`Engine::poll_timeout`] says when time alone will matter. No clock, socket, file, thread or randomness
//! of its own: the same inputs give the same outputs, which is what the simulation in `tests/` rests on.
//!
//! The parts do not know one another; this file passes values between them:
//! `session` speaks the devices' protocols, `router` finds a message's lanes, `spool` decides where a message is
//! safe and keeps the lanes in order, `delivery` keeps the upstreams' windows, `journal` gathers commits.

pub mod event;
pub mod id;
pub mod limits;
pub mod message;
pub mod mutant;
pub mod session;
pub mod stats;
pub mod time;
pub mod topic;

use event::{Input, Output, Recovered, Setup};
use stats::Stats;
use time::{Instant, Now};

/// The engine.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Makes an engine from the configuration and what the store holds. It begins with ordering what it needs.
    #[must_use]
    pub fn new(_setup: Setup, _recovered: Recovered, _now: Now) -> Self {
        Self {}
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, _mutant: mutant::Mutant) {}

    /// Takes a fact.
    pub fn handle(&mut self, _now: Now, _input: Input) {}

    /// Gives the next order; call until `None` after handling all facts at hand: acknowledgements
    /// of one commit to one connection then leave in one write.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Input::Tick`] is due if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
