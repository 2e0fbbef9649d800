//! The gateway's shell around the engine: sockets, disk, upstreams, configuration, the command line.

pub mod access;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod driver;
pub mod inbox;
mod json;
pub mod listen;
pub mod logging;
mod memory;
pub mod notify;
mod priority;
mod restart;
mod run;
pub mod senml;
pub mod store;
pub mod tls;
pub mod upstream;
mod web;

pub use run::{RunError, run};
