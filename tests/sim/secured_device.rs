//! A device whose CoAP messages are protected with OSCORE: the node's code, with a flash that takes its time to store sequence
//! numbers and loses what it is writing when the power goes.

use super::device::{Act, Application, Reading};
use super::plan::{MS, SECOND};
use bytes::Bytes;
use fastrand::Rng;
use std::sync::Arc;
use tidegate_node::coap::secured::Secured;
use tidegate_node::coap::{Event, PublishError, Publisher};
use tidegate_oscore::{Context, MAX_EXPANSION_BYTES, Parameters, Replay, Sequence, Session};

/// The largest CoAP message that it makes, in bytes, and the largest that it sends.
const PLAIN_BYTES: usize = 1_152;
const SEALED_BYTES: usize = PLAIN_BYTES + MAX_EXPANSION_BYTES;

/// Numbers reserved with one write: few, so that many seeds run out of them.
const RESERVE_STEP: u64 = 8;

/// The gateway's id in all contexts.
const GATEWAY: &[u8] = &[0x9A];

/// The two ends of a device's context.
fn context(index: u16, gateways: bool) -> Arc<Context> {
    let [high, low] = index.to_be_bytes();
    let secret = [0x5E, high, low, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
    let (sender_id, recipient_id) = if gateways { (GATEWAY, &[low][..]) } else { (&[low][..], GATEWAY) };
    let parameters = Parameters { master_secret: &secret, sender_id, recipient_id, ..Parameters::default() };
    Arc::new(Context::derive(&parameters).unwrap_or_else(|error| unreachable!("good parameters: {error}")))
}

/// The gateway's end.
pub(crate) fn gateways_context(index: u16) -> Arc<Context> {
    context(index, true)
}

/// The device's side.
#[derive(Debug)]
pub(crate) struct SecuredDevice {
    index: u16,
    node: Box<Secured<[u8; PLAIN_BYTES], [u8; SEALED_BYTES]>>,
    /// Under way, with whether an answer is needed.
    current: Option<(bool, Reading)>,
    /// Up to where the flash says that numbers may have been used.
    flash: u64,
    /// What is being written there, and when it is safe.
    writing: Option<(u64, u64)>,
}

impl SecuredDevice {
    pub(crate) fn new(index: u16, rng: &mut Rng) -> Self {
        Self { index, node: node(index, 0, rng), current: None, flash: 0, writing: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        [self.node.poll_timeout(), self.writing.map(|(_, safe)| safe)].into_iter().flatten().min()
    }

    /// The power is gone and comes back; what stands in the flash stays. Gives what was under way.
    pub(crate) fn reboot(&mut self, rng: &mut Rng) -> Option<Reading> {
        // What was being written may have reached the flash, or not.
        if let Some((upto, _)) = self.writing.take().filter(|_| rng.bool()) {
            self.flash = upto;
        }
        self.node = node(self.index, self.flash, rng);
        self.current.take().map(|(_, reading)| reading)
    }

    pub(crate) fn datagram(&mut self, now: u64, bytes: &[u8]) {
        self.node.handle_datagram(now, bytes);
    }

    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        if let Some((upto, _)) = self.writing.take_if(|(_, safe)| *safe <= now) {
            self.flash = upto;
            self.node.stored(upto);
        }
        loop {
            if self.writing.is_none()
                && let Some(upto) = self.node.to_reserve(RESERVE_STEP)
            {
                // A worn flash, or one that is being erased, takes long.
                let takes = if rng.bool() { 150 * MS } else { SECOND };
                self.writing = Some((upto, now + rng.u64(MS..takes)));
            }
            let datagram = self.node.poll_transmit(now).map(Bytes::copy_from_slice);
            let mut idle = datagram.is_none();
            if let Some(bytes) = datagram {
                application.acts.push_back(Act::Protected { bytes, what: self.under_way() });
                // A NON is forgotten when it has gone.
                self.current.take_if(|(confirmable, _)| !*confirmable);
            }
            let event = self.node.poll_event();
            idle &= event.is_none();
            match event {
                // No answer: it may have arrived or not, so the application sends it again.
                Some(Event::TimedOut { .. }) => {
                    if let Some((_, reading)) = self.current.take() {
                        application.waiting.push_front(reading);
                    }
                }
                Some(Event::Acknowledged { .. }) => {
                    let acknowledged = self.current.take().map(|(_, reading)| reading.number);
                    application.acts.extend(acknowledged.map(|number| Act::Acknowledged { number }));
                }
                Some(Event::Refused { .. }) if self.current.is_some() => {
                    application.acts.push_back(Act::Complain("its protected message is refused"));
                    self.current = None;
                }
                Some(Event::Refused { .. }) | None => {}
            }
            if self.current.is_none()
                && self.node.is_ready()
                && let Some(reading) = application.waiting.pop_front()
            {
                idle &= !self.publish(now, reading, application);
            }
            if idle {
                break;
            }
        }
    }

    /// The message that its next datagram carries, and whether it is confirmable.
    fn under_way(&self) -> Option<(u32, bool)> {
        self.current.as_ref().map(|(confirmable, reading)| (reading.number, *confirmable))
    }

    /// False when it has to wait for numbers.
    fn publish(&mut self, now: u64, reading: Reading, application: &mut Application) -> bool {
        match reading.as_publication(self.index, |publication| self.node.publish(now, publication)) {
            Ok(_) => {
                self.current = Some((reading.qos > 0, reading));
                true
            }
            Err(PublishError::NoNumber | PublishError::Busy) => {
                application.waiting.push_front(reading);
                false
            }
            Err(PublishError::TooLarge | PublishError::Path) => {
                application.acts.push_back(Act::Complain("its own message does not fit"));
                false
            }
        }
    }
}

/// A node as it starts with what its flash says.
fn node(index: u16, flash: u64, rng: &mut Rng) -> Box<Secured<[u8; PLAIN_BYTES], [u8; SEALED_BYTES]>> {
    let session = Session::new((*context(index, false)).clone(), Sequence::resume(flash), Replay::fresh());
    Box::new(Secured::new(Publisher::new([0; PLAIN_BYTES], rng.u64(..)), session, [0; SEALED_BYTES]))
}
