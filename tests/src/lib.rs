//! What the tests share: contracts that several implementations are held to, servers to test against, clients to test
//! with, ledgers to compare. Test code: it panics where the world is not as a test needs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod attacks;
pub mod batches;
pub mod certificates;
pub mod fleet;
pub mod gateway;
pub mod ledger;
pub mod link;
pub mod mqtt;
pub mod outage;
pub mod ports;
pub mod property;
pub mod publications;
pub mod rabbit;
pub mod sessions;
pub mod statements;
pub mod steadfast;
pub mod store_contract;
pub mod store_history;
pub mod tls;
pub mod uninterrupted;
pub mod wait;

#[path = "../powercut/mod.rs"]
pub mod powercut;

#[path = "../sim/mod.rs"]
pub mod sim;
