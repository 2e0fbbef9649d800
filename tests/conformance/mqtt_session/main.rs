//! What the MQTT sessions promise, rule by rule: bytes in, bytes and requests out, on a clock that the test turns.
//! Nothing here knows how they do it; the engine around them is played by `world`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is a finding")]

mod world;

mod access;
mod aliases;
mod chaos;
mod connecting;
mod delivering;
mod ending;
mod giving_up;
mod keeping;
mod overload;
mod owners;
mod publishing;
mod retaining;
mod rights;
mod sessions;
mod sharing;
mod subscribing;
mod system;
