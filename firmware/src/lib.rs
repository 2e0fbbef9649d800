//! The device's side of Tidegate: sans-IO publishers that run on a microcontroller and in the tests alike.
//! `no_std`, no allocation: clock, socket, randomness and buffers are the caller's.
#![no_std]
#![forbid(unsafe_code)]

pub mod coap;
pub mod mqtt;
