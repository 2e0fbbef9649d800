//! The gateway's shell around the engine: sockets, disk, upstreams, configuration, the command line.

pub mod admin;
pub mod cli;
pub mod config;
pub mod inbox;
pub mod store;
pub mod upstream;
