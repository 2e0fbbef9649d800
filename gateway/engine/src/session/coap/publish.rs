//! Messages from devices: a request that publishes is taken once, whole, within the rights and rates of its device.

use super::access::Who;
use super::exchange::{Full, New, State};
use super::peer::Origin;
use super::reply::Reply;
use super::request::{self, Options, Queries};
use super::upload::{self, Step};
use super::{Awaited, Coap, Receipt, content};
use crate::event::Action;
use crate::id::DeviceId;
use crate::message::{Qos, Source};
use crate::mutant::Mutant;
use crate::resource::{DEVICE, Kind as ResourceKind, Resource};
use crate::session::{Incoming, LastValues, Receipt as AnyReceipt, Request};
use crate::time::{Duration, Now};
use crate::topic::Topic;
use bytes::Bytes;
use std::hash::{DefaultHasher, Hasher};
use tidegate_wire::coap::{Block, Code, Kind, Message, OptionNumber};

/// How long safety may take before the request is acknowledged without an answer: half of the two seconds
/// after which a device sends again (RFC 7252, 4.8: ACK_TIMEOUT).
const PIGGYBACK_WITHIN: Duration = Duration::from_secs(1);

/// The longest that a device may listen for a command with one request.
const LISTEN_MAX: Duration = Duration::from_secs(120);

/// A request for a resource.
pub(super) struct Call<'a> {
    pub(super) now: Now,
    pub(super) origin: &'a Origin,
    pub(super) message: &'a Message<'a>,
    pub(super) datagram: &'a Bytes,
    pub(super) options: &'a Options,
    pub(super) path: &'a [&'a [u8]],
    pub(super) values: &'a dyn LastValues,
}

impl Call<'_> {
    /// The device that the path names; a refusal when that is no name.
    pub(super) fn device_in_path(&self, resource: &Resource) -> Result<Option<DeviceId>, Reply> {
        let bad = || Reply::refusal(Code::BAD_REQUEST, "the path's device is no device id");
        match resource.variable(self.path, DEVICE) {
            Some([name]) => {
                let name = core::str::from_utf8(name).map_err(|_| bad())?;
                DeviceId::new(name).map(Some).map_err(|_| bad())
            }
            _ => Ok(None),
        }
    }
}

/// What a request wants published.
struct Publish {
    who: Who,
    topic: Topic,
    queries: Queries,
    retain: bool,
    /// The answer, when it is more than 2.04.
    reply: Option<Box<Reply>>,
    body: Bytes,
    /// The command that it answers.
    answers: Option<Box<str>>,
}

impl Coap {
    /// POST, PUT or DELETE on a resource that leads to a topic.
    pub(super) fn publish(&mut self, call: &Call<'_>, resource: &Resource) {
        let &Call { now, origin, message, .. } = call;
        self.stats.received += 1;
        let fingerprint = fingerprint(call.datagram);
        // On a stream nothing comes twice.
        if !origin.is_stream()
            && !self.planted.is(Mutant::CoapNoDedupe)
            && let Some(key) =
                self.exchanges.find(now.instant, origin.address, message.message_id(), fingerprint)
        {
            self.stats.repeated += 1;
            return self.repeated(key);
        }
        match self.read_publish(call, resource) {
            Ok(Some(publish)) => self.take(call, resource, publish, fingerprint),
            Ok(None) => {}
            Err(reply) => {
                self.refuse(now.instant, origin, message, &reply);
            }
        }
    }

    /// Reads and checks the request. Nothing when a block of a body was taken and answered, or there is nothing to do.
    fn read_publish(&mut self, call: &Call<'_>, resource: &Resource) -> Result<Option<Publish>, Reply> {
        let &Call { now, origin, message, options, .. } = call;
        let limits = &self.limits;
        if call.datagram.len() > limits.coap_message_bytes && !origin.is_stream() {
            // Blocks would do (RFC 7959, 2.9.3).
            let block1 = Some(Block { number: 0, more: false, exponent: content::EXPONENT_MAX });
            return Err(Reply { block1, ..upload::too_large(limits) });
        }
        let claimed = options.size1.and_then(|size| usize::try_from(size).ok());
        if claimed.is_some_and(|claimed| claimed > limits.coap_body_bytes) {
            return Err(upload::too_large(limits));
        }
        let queries = request::queries(message)?;
        let named = call.device_in_path(resource)?;
        let who = match named {
            Some(named) => Some(self.who(origin, named)?),
            None if resource.names_device() => Some(self.access.who(origin, None)),
            None => None,
        };
        let device = who.as_ref().map_or("", |who| who.device.as_str());
        let topic = request::topic(resource, call.path, device, &self.limits)?;
        let who = who.unwrap_or_else(|| self.access.who(origin, Some(&topic)));
        if !who.may_publish(&topic) {
            return Err(self.denied(&who.device, Action::Publish, &topic));
        }
        if options.conditional {
            self.check_condition(call, &topic)?;
        }
        if options.block2.is_some_and(|block| block.number != 0) {
            return Err(Reply::refusal(Code::BAD_OPTION, "Block2: there is no such block"));
        }
        let (body, block1) = match options.block1 {
            None => (call.datagram.slice_ref(message.payload()), None),
            Some(_) if self.holding || self.stopping => {
                let seconds = self.hold_seconds();
                return Err(Reply::unavailable(Code::SERVICE_UNAVAILABLE, seconds));
            }
            Some(_) => {
                let wait = self.hold_seconds();
                match self.uploads.take(now.instant, origin, message, options, &self.limits, wait) {
                    Step::Whole(body, block) => (body, block),
                    Step::Reply(reply) if reply.code() == Code::CONTINUE => {
                        self.answer(now.instant, origin, message, &reply);
                        return Ok(None);
                    }
                    Step::Reply(reply) => return Err(reply),
                }
            }
        };
        let deletes = message.code() == Code::DELETE;
        let code = if deletes { Code::DELETED } else { Code::CHANGED };
        let reply = (deletes || block1.is_some()).then(|| Box::new(Reply { block1, ..Reply::of(code) }));
        let answers = match resource.kind() {
            ResourceKind::Answer => answered_command(call, resource, &who, &body),
            _ => None,
        };
        Ok(Some(Publish {
            retain: queries.retain || deletes,
            body: if deletes { Bytes::new() } else { body },
            who,
            topic,
            queries,
            reply,
            answers,
        }))
    }

    /// Takes a message: remembers its exchange, and asks that it be made safe.
    fn take(&mut self, call: &Call<'_>, resource: &Resource, publish: Publish, fingerprint: u64) {
        let &Call { now, origin, message, options, .. } = call;
        let confirmable = message.kind() == Kind::Confirmable
            || origin.is_stream() && !self.planted.is(Mutant::StreamNotConfirmable);
        let rate = self.limits.coap_requests_per_second;
        let paid =
            self.exchanges.pays(now.instant, origin.address, Duration::from_secs(1) / rate.max(1), rate);
        let refusal = if self.holding || self.stopping {
            Some(Code::SERVICE_UNAVAILABLE)
        } else if !paid {
            Some(Code::TOO_MANY_REQUESTS)
        } else {
            None
        };
        if refusal.is_some() && !confirmable {
            self.stats.dropped += 1;
            return;
        }
        let known = publish.answers.as_ref().is_some_and(|command| self.answered.contains(command));
        if known && refusal.is_none() {
            // Its answer is safe; it is not reported twice.
            let reply = publish.reply.map_or_else(Reply::changed, |reply| *reply);
            return self.answer(now.instant, origin, message, &reply);
        }
        let seconds = self.hold_seconds();
        let (state, due) = match (confirmable, refusal) {
            (false, _) => (State::Silent, None),
            (true, Some(code)) => (State::Refused(code, seconds), None),
            (true, None) if origin.is_stream() => (State::Pending, None),
            (true, None) => (State::Pending, Some(now.instant.after(PIGGYBACK_WITHIN))),
        };
        let room = self.exchanges.reply_bytes() <= self.limits.coap_reply_bytes;
        let new = New {
            message_id: message.message_id(),
            fingerprint,
            token: message.token(),
            state,
            due,
            reply: publish.reply.clone().filter(|_| confirmable && room),
            first_message_id: self.prng.message_id(),
        };
        let key = match self.exchanges.open(now.instant, origin.address, new) {
            Ok(key) => key,
            Err(_) if !confirmable => {
                self.stats.dropped += 1;
                return;
            }
            Err(Full::Peer) => return self.put_off(now.instant, origin, message, Code::TOO_MANY_REQUESTS),
            Err(Full::Table) => return self.put_off(now.instant, origin, message, Code::SERVICE_UNAVAILABLE),
        };
        if let State::Refused(code, seconds) = state {
            return self.refuse(now.instant, origin, message, &Reply::unavailable(code, seconds));
        }
        if let Some(seconds) = publish.queries.ttd_seconds.filter(|seconds| *seconds > 0)
            && confirmable
            && resource.kind() == ResourceKind::Publish
            && self.listeners.len() < self.limits.coap_observers
        {
            let until = now.instant.after(Duration::from_secs(seconds.into()).min(LISTEN_MAX));
            self.listeners.insert(key, publish.who.device.clone(), origin.device.is_some(), until);
        }
        if let Some(command) = publish.answers.filter(|_| confirmable) {
            self.answering.insert(key, command);
        }
        let by_kind = if confirmable { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        self.requests.push_back(Request::Publish {
            incoming: Incoming {
                client: None,
                device: publish.who.device,
                topic: publish.topic,
                payload: publish.body,
                qos: publish.queries.qos.unwrap_or(by_kind),
                retain: publish.retain,
                duplicate: false,
                source: Source::Coap,
                properties: request::properties(options.content_format, &publish.queries),
                record: None,
            },
            receipt: confirmable.then_some(AnyReceipt::Coap(Receipt(Awaited::Exchange(key)))),
        });
        if !confirmable {
            self.stats.acknowledged += 1;
            let reply = publish.reply.map_or_else(Reply::changed, |reply| *reply);
            self.answer(now.instant, origin, message, &reply);
        }
    }
}

impl Coap {
    /// If-Match and If-None-Match, held against what is retained (RFC 7252, 5.10.8), or will be with what was taken just now.
    pub(super) fn check_condition(&self, call: &Call<'_>, topic: &Topic) -> Result<(), Reply> {
        let on_its_way = self.requests.iter().rev().find_map(|request| match request {
            Request::Publish { incoming, .. } if incoming.retain && incoming.topic == *topic => {
                Some(!incoming.payload.is_empty())
            }
            _ => None,
        });
        // What is on its way has no tag yet: none that the device knows can be its.
        let (there, tag) = match on_its_way {
            Some(there) => (there, None),
            None => {
                let value = call.values.last(call.now.instant, topic);
                (value.is_some(), value.map(|value| content::etag(&value.message)))
            }
        };
        let mut wanted = call.message.options_of(OptionNumber::IF_MATCH).peekable();
        let is_it = |known: &[u8]| if known.is_empty() { there } else { tag.is_some_and(|tag| tag == known) };
        let matches = wanted.peek().is_none() || wanted.any(is_it);
        let none = call.message.option(OptionNumber::IF_NONE_MATCH).is_none() || !there;
        if matches && none {
            return Ok(());
        }
        Err(Reply::refusal(Code::PRECONDITION_FAILED, "the topic's value is another one"))
    }
}

/// The command that a request answers, by device and id, and what it answers: something else is another answer.
fn answered_command(call: &Call<'_>, resource: &Resource, who: &Who, body: &[u8]) -> Option<Box<str>> {
    let [id] = resource.variable(call.path, "id")? else { return None };
    let mut hasher = DefaultHasher::new();
    for query in call.message.options_of(OptionNumber::URI_QUERY) {
        hasher.write_usize(query.len());
        hasher.write(query);
    }
    hasher.write(body);
    Some(format!("{}/{}/{:x}", who.device, core::str::from_utf8(id).ok()?, hasher.finish()).into())
}

/// A repetition is equal byte for byte; what differs is another message, whatever its message id says.
pub(super) fn fingerprint(datagram: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(datagram);
    hasher.finish()
}
