//! Every normative statement of MQTT 5.0 and MQTT 3.1.1, on the whole engine: bytes in, bytes out. `MQTT-5.0.md` and
//! `MQTT-3.1.1.md` say which test holds which statement, and `table` that none is forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is a finding")]

mod broker;

mod acks;
mod attacks;
mod authentication;
mod connack;
mod connect;
mod ending;
mod expiry;
mod flow;
mod order;
mod packets;
mod passing_on;
mod publish;
mod quality;
mod retained;
mod shared;
mod subscribe;
mod table;
mod topics;
mod wills;
