//! What every handler of MQTT needs: the rules, what all sessions share, and where requests and counts go. Owns no connection
//! and no session.

use super::refusals::Refusals;
use super::retained::Retained;
use super::stencil::Stencil;
use super::sys::Sys;
use crate::event::{Action, Notice, Op, Output, Setup};
use crate::id::{ConnId, DeviceId};
use crate::limits::Limits;
use crate::mutant::Planted;
use crate::session::rate::Rates;
use crate::session::{Hold, Request};
use crate::time::{Instant, Now, Stamp};
use std::collections::VecDeque;
use std::net::IpAddr;

/// What every handler needs: the rules, and where requests and counts go.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) planted: Planted,
    pub(super) hold: Hold,
    pub(super) stopping: bool,
    pub(super) now: Instant,
    /// What the clock on the wall said last.
    pub(super) wall: Stamp,
    /// Bytes that wait for all subscribers, in queues and buffers.
    pub(super) queued_bytes: usize,
    /// Messages of QoS 1 and 2 that subscribers have not acknowledged.
    pub(super) queued: usize,
    pub(super) requests: VecDeque<Request>,
    /// Connections that have something to send.
    pub(super) dirty: VecDeque<ConnId>,
    pub(super) retained: Retained,
    pub(super) not_retained: u64,
    pub(super) sys: Sys,
    /// The message that is being handed out to several, as it was encoded.
    pub(super) stencil: Stencil,
    pub(super) packets_received: u64,
    pub(super) packets_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) payload_received: u64,
    pub(super) payload_sent: u64,
    pub(super) received: u64,
    pub(super) repeated: u64,
    pub(super) acknowledged: u64,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) refusals: Refusals,
    pub(super) sign_ins_refused: u64,
    pub(super) publishes_denied: u64,
    pub(super) subscriptions_denied: u64,
    /// How often each client identifier changes hands.
    pub(super) takeovers: Rates<DeviceId>,
    /// How often each comes with a will.
    pub(super) wills: Rates<Testator>,
}

/// Whose wills are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Testator {
    /// A device, or a client of this host.
    Device(DeviceId),
    /// All that come from an address and are nobody in particular.
    Address(IpAddr),
}

/// What is kept of a text of a peer's for the operator, in characters.
const QUOTED_CHARS: usize = 80;

/// A text of a peer's, for the operator: cut, and with everything escaped that is not plain.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect()
}

impl Shared {
    /// Nothing has happened.
    pub(super) fn new(setup: &Setup, planted: Planted, now: Now) -> Self {
        Self {
            limits: setup.limits.clone(),
            planted,
            hold: Hold::Nobody,
            stopping: false,
            now: now.instant,
            wall: now.wall,
            queued_bytes: 0,
            queued: 0,
            requests: VecDeque::new(),
            dirty: VecDeque::new(),
            retained: Retained::default(),
            not_retained: 0,
            sys: Sys::new(setup.gateway.as_str(), now.instant),
            stencil: Stencil::default(),
            packets_received: 0,
            packets_sent: 0,
            bytes_received: 0,
            bytes_sent: 0,
            payload_received: 0,
            payload_sent: 0,
            received: 0,
            repeated: 0,
            acknowledged: 0,
            delivered: 0,
            dropped: 0,
            refused: 0,
            refusals: Refusals::default(),
            sign_ins_refused: 0,
            publishes_denied: 0,
            subscriptions_denied: 0,
            takeovers: Rates::default(),
            wills: Rates::default(),
        }
    }

    /// Tells the operator what a device wanted and may not have.
    pub(super) fn denied(&mut self, device: &DeviceId, action: Action, topic: &str) {
        let notice = Notice::Denied { device: device.clone(), action, topic: quoted(topic) };
        self.output(Output::Notice(notice));
    }

    pub(super) fn output(&mut self, output: Output) {
        self.requests.push_back(Request::Output(output));
    }

    /// Orders a change of a record that nobody waits for.
    pub(super) fn change(&mut self, op: Op) {
        self.requests.push_back(Request::Record { op, receipt: None });
    }
}
