//! The judge of OSCORE's one promise that cannot be taken back (RFC 8613, 5.2 and 12.1): under one key no nonce protects two
//! messages, whatever crashes, reboots and losses come between. It compares ciphertexts and opens none.

use super::oracle::{Held, Violation};
use super::tap::Coap;
use std::collections::{BTreeMap, BTreeSet};

/// Requests with this token from this port of a device.
type Asked = (u16, u16, Vec<u8>);

/// Everything that went under the keys of the devices' contexts.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    /// By device, whether the gateway sent it, and the sender's number: the ciphertext.
    used: BTreeMap<(u16, bool, u64), Vec<u8>>,
    /// The numbers that came in with a token, over all lives of the gateway.
    asked: BTreeMap<Asked, BTreeSet<u64>>,
    /// The answers without a number: each takes the nonce of a request of its own.
    answers: BTreeMap<Asked, BTreeSet<Vec<u8>>>,
}

impl Nonces {
    /// A device sends a protected request.
    pub(crate) fn sent(&mut self, device: u16, message: &Coap) -> Held {
        match message.number() {
            Some(number) => self.takes(device, false, number, message),
            None => Err(Violation(format!("d{device} sends a protected request without a number"))),
        }
    }

    /// The engine is about to get a protected request.
    pub(crate) fn received(&mut self, device: u16, port: u16, message: &Coap) {
        let asked = self.asked.entry((device, port, message.token.clone())).or_default();
        asked.extend(message.number());
    }

    /// A protected answer leaves the engine.
    pub(crate) fn answered(&mut self, device: u16, port: u16, message: &Coap) -> Held {
        if let Some(number) = message.number() {
            return self.takes(device, true, number, message);
        }
        let place = (device, port, message.token.clone());
        let answers = self.answers.entry(place.clone()).or_default();
        answers.insert(message.payload.clone());
        let (answers, requests) = (answers.len(), self.asked.get(&place).map_or(0, BTreeSet::len));
        if answers > requests {
            return Err(Violation(format!(
                "OSCORE: d{device} gets {answers} answers under the nonces of {requests} requests"
            )));
        }
        Ok(())
    }

    /// Messages so far that took a number.
    pub(crate) fn count(&self) -> u64 {
        self.used.len() as u64
    }

    fn takes(&mut self, device: u16, gateway: bool, number: u64, message: &Coap) -> Held {
        let before = self.used.entry((device, gateway, number)).or_insert_with(|| message.payload.clone());
        if *before == message.payload {
            return Ok(());
        }
        let who = if gateway { "the gateway" } else { "the device" };
        Err(Violation(format!("OSCORE: {who} of d{device}'s key uses number {number} for two messages")))
    }
}
