//! The bytes that Tidegate's gateway and devices speak. `no_std`, no allocation, no state, no time:
//! views of what came in and writers into buffers that the caller owns. No input makes anything here panic.
#![no_std]
#![forbid(unsafe_code)]

pub mod coap;
pub mod mqtt;
pub mod slipmux;
