//! MQTT (MQTT 5.0, 6) and CoAP (RFC 8323, 4) over WebSocket (RFC 6455): the opening handshake, and a byte stream made of binary
//! frames. No extensions. MQTT's payload passes through as it comes, so that neither frames nor messages take memory, and its own
//! bounds on packets hold as they do over TCP [MQTT-6.0.0-2]; CoAP's messages are held until they are whole. What the bytes mean is
//! the engine's business.

mod frame;
mod messages;
mod stream;
mod upgrade;

pub(super) use stream::{Carries, open};
pub(super) use upgrade::{Origins, Refused, upgrade};

use tidegate_wire::coap::stream::HEAD_BYTES_MAX;

/// What is offered to clients.
#[derive(Debug)]
pub(super) struct Offer {
    /// The protocol's name, for those who do not know whom they ask.
    name: &'static str,
    /// Its names among WebSocket's subprotocols, the standard's first.
    subprotocols: &'static [&'static str],
    /// The only path at which it is spoken; without one at any.
    path: Option<&'static str>,
    /// The key of the configuration with the web pages that may connect.
    origins: &'static str,
    /// Each of its messages fills one of WebSocket's.
    by_message: bool,
}

/// [MQTT-6.0.0-3]; the second name is that of 3.1's clients.
pub(super) static MQTT: Offer = Offer {
    name: "MQTT",
    subprotocols: &["mqtt", "mqttv3.1"],
    path: None,
    origins: "mqtt.websocket.origins",
    by_message: false,
};

/// RFC 8323, 4.1 and 8.3.
pub(super) static COAP: Offer = Offer {
    name: "CoAP",
    subprotocols: &["coap"],
    path: Some("/.well-known/coap"),
    origins: "coap.websocket.origins",
    by_message: true,
};

impl Offer {
    /// What its frames carry; `longest` is CoAP's longest message, in bytes.
    pub(super) fn carries(&self, longest: usize) -> Carries {
        if self.by_message { Carries::Messages(longest + HEAD_BYTES_MAX) } else { Carries::Bytes }
    }
}
