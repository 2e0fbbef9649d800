//! The MQTT codec against the specifications' bytes, malformed packets, random packets and rumqttc's codec.
//! Owns no behaviour of sessions: one packet at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

mod differential;
mod golden;
mod malformed;
mod packets;
mod random;

use tidegate_tests::mqtt::bytes;
use tidegate_wire::mqtt::{EncodeError, Packet, Version, encode};

fn encoded(version: Version, packet: &Packet<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut buffer = vec![0; 200_000];
    encode(version, packet, &mut buffer).map(|size| buffer[..size].to_vec())
}
