//! The power-cut proof: the real engine, devices and links of the simulation over the real store, and that over SQLite on a
//! medium in memory that records every write, size, sync and change of a directory, with what the world is told in between. Every
//! prefix of the record is then a moment at which the power may have been cut: the store and the engine start from what such a
//! cut can leave, and everything that was acknowledged before must be there. `cut` says what a cut can leave.

pub mod campaign;
mod content;
pub mod corrupt;
mod cut;
mod extents;
mod files;
mod ledger;
mod medium;
mod real;
mod recover;
mod vfs;

pub(crate) use ledger::Mark;
pub use medium::Lie;
pub(crate) use real::{Ledger, Real};
