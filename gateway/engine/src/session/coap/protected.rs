//! Protected requests on their way to the server and its messages on their way out. What OSCORE says of them stands in
//! `oscore`; what they ask for is the server's business, as of all others.

use super::oscore::{ContextId, Incoming};
use super::peer::{Address, Origin, Place};
use super::publish::fingerprint;
use super::reply::Reply;
use super::upload;
use super::{Awaited, Coap, Receipt};
use crate::event::{Endpoint, Notice, Output, Proof};
use crate::mutant::Mutant;
use crate::session::{LastValues, Receipt as AnyReceipt, Request};
use crate::time::Now;
use bytes::Bytes;
use tidegate_wire::coap::{Code, Kind, Message, OptionNumber};

/// Bytes of an unknown context's id that are shown to the operator.
const SHOWN_ID_BYTES: usize = 8;

impl Coap {
    /// Whether a request is to be opened first. Where no device has a context the option is one that nobody knows.
    pub(super) fn is_protected(&self, origin: &Origin, request: &Message<'_>) -> bool {
        self.oscore.is_used() && !origin.multicast && request.option(OptionNumber::OSCORE).is_some()
    }

    pub(super) fn protected_request(
        &mut self,
        now: Now,
        place: Place,
        origin: Origin,
        request: &Message<'_>,
        datagram: &Bytes,
        values: &dyn LastValues,
    ) {
        let outside = |number| request.option(number).is_some();
        if outside(OptionNumber::PROXY_URI) || outside(OptionNumber::PROXY_SCHEME) {
            let reply = Reply::refusal(Code::PROXYING_NOT_SUPPORTED, "this is no proxy");
            return self.refuse(now.instant, &origin, request, &reply);
        }
        // It was cut when it was read, so that nothing could be made of it.
        if datagram.len() > self.limits.coap_message_bytes {
            let reply = Reply { max_age: Some(0), ..upload::too_large(&self.limits) };
            return self.refuse(now.instant, &origin, request, &reply);
        }
        match self.oscore.open(now.instant, place, request, datagram, fingerprint) {
            Incoming::Request { context, device, datagram, signed_in } => {
                self.reserve(context);
                if let Place::Stream(conn) = place {
                    self.proved_on(now.instant, conn, context);
                }
                if signed_in {
                    let peer = origin.peer;
                    let (client, proof) = (device.clone(), Proof::Oscore);
                    let notice = Notice::SignedIn { device: device.clone(), client, peer, proof };
                    self.requests.push_back(Request::Output(Output::Notice(notice)));
                }
                let origin = origin.protected(place, context, device);
                // It was checked when it was opened.
                if let Ok(request) = Message::parse(&datagram) {
                    self.request(now, &origin, &request, &datagram, values);
                }
            }
            Incoming::Repeated { context, answer, fingerprint } => {
                self.stats.repeated += 1;
                let address = Address::Protected(place, context);
                let rode = answer.filter(|answer| {
                    Message::parse(answer).is_ok_and(|answer| answer.kind() == Kind::Acknowledgement)
                });
                if let Some(bytes) = rode {
                    self.send_at(place, bytes);
                } else if let Some(key) =
                    self.exchanges.find(now.instant, address, request.message_id(), fingerprint)
                {
                    self.repeated(key);
                }
            }
            Incoming::Challenged { context, answer } => {
                if let Some(bytes) = answer {
                    self.send_at(place, bytes);
                }
                self.reserve(context);
            }
            Incoming::Refused(refusal) => {
                let name = shown_id(request);
                let notice = Notice::SignInRefused { peer: origin.peer, name, reason: refusal.diagnostic() };
                self.requests.push_back(Request::Output(Output::Notice(notice)));
                let reply = Reply::refusal(refusal.code(), refusal.diagnostic());
                let reply = Reply { max_age: Some(0), ..reply };
                self.refuse(now.instant, &origin, request, &reply);
            }
        }
    }

    /// An ACK or RST, which says nothing of who it is: it is for whoever was sent a message with this id there.
    pub(super) fn heard_back(&mut self, now: Now, endpoint: Endpoint, message_id: u16, accepted: bool) {
        for address in self.exchanges.protected_at(endpoint) {
            self.acknowledged(now, address, message_id, accepted);
        }
        self.acknowledged(now, Address::Datagram(endpoint), message_id, accepted);
    }

    pub(super) fn send_protected(&mut self, place: Place, context: ContextId, plain: &Bytes) {
        match self.oscore.protect(context, place, plain) {
            Some(bytes) => {
                self.send_at(place, bytes);
            }
            None => self.stats.dropped += 1,
        }
        self.reserve(context);
    }

    /// Sends what is protected already, or says nothing of anybody's.
    fn send_at(&mut self, place: Place, bytes: Bytes) {
        match place {
            Place::Datagram(endpoint) => {
                self.requests.push_back(Request::Output(Output::SendTo { endpoint, bytes }));
            }
            Place::Stream(conn) => self.send_frame(conn, &bytes),
        }
    }

    /// Has numbers stored when it is time.
    fn reserve(&mut self, context: ContextId) {
        if let Some(op) = self.oscore.reserve(context) {
            let receipt = Some(AnyReceipt::Coap(Receipt(Awaited::Reserved(context))));
            self.requests.push_back(Request::Record { op, receipt });
            if self.planted.is(Mutant::NumbersNotAwaited) {
                self.reserved(context);
            }
        }
    }

    /// Has the reservations of keys that are no longer configured taken out of the store.
    pub(super) fn forget_unused_keys(&mut self) {
        for op in self.oscore.forget_unused() {
            self.requests.push_back(Request::Record { op, receipt: None });
        }
    }

    /// Numbers of a context are stored.
    pub(super) fn reserved(&mut self, context: ContextId) {
        if let Some((place, bytes)) = self.oscore.reserved(context) {
            self.send_at(place, bytes);
        }
    }
}

/// The id that a request names its context by, for the operator.
fn shown_id(request: &Message<'_>) -> String {
    let header =
        request.option(OptionNumber::OSCORE).and_then(|value| tidegate_oscore::Header::parse(value).ok());
    let kid = header.and_then(|header| header.kid).unwrap_or_default();
    let digits: String = kid.iter().take(SHOWN_ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("OSCORE id {digits}")
}
