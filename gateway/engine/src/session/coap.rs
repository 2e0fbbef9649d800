//! placeholder, replaced by the CoAP session

use super::Request;
use crate::event::{Endpoint, Setup};
use crate::mutant::Planted;
use crate::stats::ProtocolStats;
use crate::time::{Instant, Now};
use bytes::Bytes;

/// placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt;

/// placeholder
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Coap {}

#[allow(missing_docs, clippy::must_use_candidate)]
impl Coap {
    pub fn new(_setup: &Setup, _planted: Planted) -> Self {
        Self {}
    }
    pub fn plant(&mut self, _planted: Planted) {}
    pub fn datagram(&mut self, _now: Now, _endpoint: Endpoint, _bytes: Bytes) {}
    pub fn safe(&mut self, _now: Now, _receipt: Receipt) {}
    pub fn hold(&mut self, _on: bool) {}
    pub fn tick(&mut self, _now: Now) {}
    pub fn timeout(&self) -> Option<Instant> {
        None
    }
    pub fn stop(&mut self, _now: Now) {}
    pub fn reload(&mut self, _setup: &Setup) {}
    pub fn poll(&mut self) -> Option<Request> {
        None
    }
    pub fn stats(&self) -> ProtocolStats {
        ProtocolStats::default()
    }
}
