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
pub mod time;
pub mod topic;
