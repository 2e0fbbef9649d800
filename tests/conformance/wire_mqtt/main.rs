//! The MQTT codec against the specifications' bytes, malformed packets, random packets and rumqttc's codec.
//! Owns no behaviour of sessions: one packet at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

mod differential;
mod golden;
mod malformed;
mod packets;
mod random;

use tidegate_wire::mqtt::{EncodeError, Packet, Version, encode};

/// Bytes from hexadecimal digits; spaces are for the eye, and `'text'` stands for its bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u32> = part.chars().filter_map(|c| c.to_digit(16)).collect();
        out.extend(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()));
    }
    out
}

fn encoded(version: Version, packet: &Packet<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut buffer = vec![0; 200_000];
    encode(version, packet, &mut buffer).map(|size| buffer[..size].to_vec())
}
