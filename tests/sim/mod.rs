//! The deterministic simulation: the real node code and the real engine on a virtual clock, against links that lose and
//! break, a disk that forgets what was not synced, brokers that confirm late or never, and crashes between any two
//! steps. Everything follows from one seed. `oracle` says which promises are checked, and how.

mod block_device;
pub mod campaign;
mod clock;
mod coverage;
mod device;
pub mod disk;
mod faults;
mod field;
mod gateway;
mod link;
mod losses;
mod mqtt_device;
mod nonces;
mod observer_device;
mod observing;
mod operator;
pub(crate) mod oracle;
pub(crate) mod payload;
mod plan;
pub(crate) mod retained;
mod secured_device;
mod show;
mod storage;
mod stream_device;
mod subscribers;
mod tap;
mod trace;
mod uplink;
mod upstream;
mod witness;
pub(crate) mod world;
