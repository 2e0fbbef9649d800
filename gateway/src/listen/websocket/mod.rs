//! MQTT over WebSocket (MQTT 5.0, 6; RFC 6455): the opening handshake, and a byte stream made of binary frames. No extensions.
//! A frame's payload passes through as it comes, so neither frames nor messages take memory, and MQTT's own bounds on packets
//! hold as they do over TCP [MQTT-6.0.0-2]. What the bytes mean is the engine's business.

mod frame;
mod stream;
mod upgrade;

pub(super) use stream::open;
pub(super) use upgrade::{Origins, Refused, upgrade};
