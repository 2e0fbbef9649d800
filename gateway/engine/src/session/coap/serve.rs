//! A request finds its resource: what may come at all, which method does what there, and what is read (RFC 7252, 5.8).

use super::access::Who;
use super::content::{self, Content, EXPONENT_MAX};
use super::observe::{New, Target};
use super::peer::Address;
use super::peer::Origin;
use super::publish::Call;
use super::reply::Reply;
use super::request::{self, Options};
use super::{Coap, DELAYED_MAX, discovery};
use crate::event::Action;
use crate::id::DeviceId;
use crate::message::Qos;
use crate::resource::{Kind as ResourceKind, Resource};
use crate::session::LastValues;
use crate::time::{Duration, Instant, Now};
use bytes::Bytes;
use tidegate_wire::coap::{Code, Kind, Message, content as format};

/// The longest that an answer to a multicast request waits, so that not all answer at once (RFC 7252, 8.2: DEFAULT_LEISURE).
const LEISURE_MS: u32 = 5_000;

/// After which time a device that asked for the time may ask again, while the gateway does not know it, in seconds.
const CLOCK_SECONDS: u32 = 60;

/// Why somebody without credentials is refused, for the operator.
pub(super) const NOT_ADMITTED: &str =
    "CoAP without credentials: access.anonymous does not allow this address";
pub(super) const NOT_PROVED: &str = "CoAP without credentials, in the name of a device that has some";

/// The value of Observe that takes a peer off the list (RFC 7641, 2).
const DEREGISTER: u32 = 1;

impl Coap {
    pub(super) fn request(
        &mut self,
        now: Now,
        origin: &Origin,
        message: &Message<'_>,
        datagram: &Bytes,
        values: &dyn LastValues,
    ) {
        // Where the gateway may be looked for it is found by those who have no way to show credentials to everybody.
        if !origin.multicast && !self.access.admits(origin) {
            let reply = self.unproved(origin, None, NOT_ADMITTED);
            return self.refuse(now.instant, origin, message, &reply);
        }
        let options = match request::options(message) {
            Ok(options) => options,
            // A NON with a critical option that is not understood is rejected, not answered (RFC 7252, 5.4.1).
            Err(reply)
                if reply.code() == Code::BAD_OPTION
                    && message.kind() == Kind::NonConfirmable
                    && !origin.is_stream() =>
            {
                self.stats.refused += 1;
                return;
            }
            Err(reply) => return self.refuse(now.instant, origin, message, &reply),
        };
        let path = request::path(message);
        let call = Call { now, origin, message, datagram, options: &options, path: &path, values };
        if let [b".well-known", b"core"] = path[..] {
            return self.discover(&call);
        }
        // Only the list of what there is may be asked for of everybody.
        if origin.multicast {
            self.stats.refused += 1;
            return;
        }
        let resources = std::mem::take(&mut self.resources);
        match resources.iter().find(|resource| resource.matches(&path)) {
            Some(resource) => self.at_resource(&call, resource),
            None => {
                let reply = Reply::refusal(Code::NOT_FOUND, "see /.well-known/core");
                self.refuse(now.instant, origin, message, &reply);
            }
        }
        self.resources = resources;
    }

    fn at_resource(&mut self, call: &Call<'_>, resource: &Resource) {
        let &Call { now, origin, message, .. } = call;
        let allowed = match (resource.kind(), message.code()) {
            (ResourceKind::Topic, Code::POST | Code::PUT | Code::DELETE)
            | (ResourceKind::Publish | ResourceKind::Answer, Code::POST | Code::PUT) => {
                return self.publish(call, resource);
            }
            (ResourceKind::Topic, Code::GET) => self.read_topic(call, resource),
            (ResourceKind::Command, Code::GET) => self.read_command(call, resource),
            (ResourceKind::Time, Code::GET) => Ok(time(now, call)),
            // FETCH, PATCH and iPATCH would need a language to say what is meant (RFC 8132), and none is spoken here.
            _ => Err(Reply::refusal(Code::METHOD_NOT_ALLOWED, "not this method")),
        };
        match allowed {
            Ok(reply) if reply.code().class() == 2 => self.answer(now.instant, origin, message, &reply),
            Ok(reply) | Err(reply) => self.refuse(now.instant, origin, message, &reply),
        }
    }

    /// GET on a topic: what is retained, and with Observe what comes.
    fn read_topic(&mut self, call: &Call<'_>, resource: &Resource) -> Result<Reply, Reply> {
        let &Call { now, origin, .. } = call;
        let named = call.device_in_path(resource)?;
        let who = match named {
            Some(named) => Some(self.who(origin, named)?),
            None => None,
        };
        let device = match &who {
            Some(who) => who.device.as_str().to_owned(),
            None => origin.device.as_ref().map_or_else(String::new, |device| device.as_str().to_owned()),
        };
        let topic = request::topic(resource, call.path, &device, &self.limits)?;
        let who = match who {
            Some(who) => who,
            None => self.access.who(origin, Some(&topic)),
        };
        if !who.may_receive(&topic) {
            return Err(self.denied(&who.device, Action::Subscribe, &topic));
        }
        if call.options.conditional {
            self.check_condition(call, &topic)?;
        }
        let value = call.values.last(now.instant, &topic);
        let content = value.map(|value| Content::of(&value.message, value.seconds_left));
        let new = New { target: Target::Topic(topic), ..self.observation(call, &who) };
        self.give(call, content, new)
    }

    /// GET on the device's commands: one that is retained, and with Observe all that come.
    fn read_command(&mut self, call: &Call<'_>, resource: &Resource) -> Result<Reply, Reply> {
        let &Call { now, origin, .. } = call;
        let named = call.device_in_path(resource)?;
        let who = match named {
            Some(named) => self.who(origin, named)?,
            None => self.access.who(origin, None),
        };
        let value = Target::commands(&who.device).and_then(|filter| call.values.first(now.instant, &filter));
        let value = value.filter(|value| who.may_receive(&value.message.topic));
        let content = value.map(|value| super::notify::command_content(&value.message, who.device.as_str()));
        let new = New { target: Target::Commands(who.device.clone()), ..self.observation(call, &who) };
        self.give(call, content, new)
    }

    /// As whom a request is served whose path names a device.
    pub(super) fn who(&mut self, origin: &Origin, named: DeviceId) -> Result<Who, Reply> {
        match self.access.who_as(origin, &named) {
            Some(who) => Ok(who),
            None => Err(self.unproved(origin, Some(&named), NOT_PROVED)),
        }
    }

    /// What an observation by this request would be, of nothing yet.
    fn observation(&self, call: &Call<'_>, who: &Who) -> New {
        let queries = request::queries(call.message).unwrap_or_default();
        New {
            address: call.origin.address,
            token: call.message.token(),
            target: Target::Commands(who.device.clone()),
            device: who.device.clone(),
            proved: call.origin.device.is_some(),
            accept: call.options.accept,
            exponent: call.options.block2.map_or(EXPONENT_MAX, |block| block.exponent),
            resource: content::resource_key(call.message),
            room: call.origin.room(),
            confirmable: queries.qos.map(|qos| qos > Qos::AtMostOnce),
        }
    }

    /// Gives out what is there, whole or in blocks, and puts the peer on the list of observers or takes it off.
    fn give(&mut self, call: &Call<'_>, content: Option<Content>, new: New) -> Result<Reply, Reply> {
        let &Call { now, origin, message, options, .. } = call;
        let (address, token, resource) = (origin.address, message.token(), new.resource);
        let first = options.block2.is_none_or(|block| block.number == 0);
        // A later block is of what the transfer began with; Observe means nothing there (RFC 7959, 2.6).
        let snapshot = if first { None } else { self.snapshots.get(now.instant, address, resource) };
        let wanted = first && options.observe == Some(0);
        if first && options.observe == Some(DEREGISTER) {
            self.unobserve(now.instant, address, token);
        }
        let content = match snapshot.or(content) {
            Some(content) => content,
            // There is nothing yet; who waits for it may.
            None if wanted => Content { format: options.accept, ..Content::default() },
            None => return Err(Reply::refusal(Code::NOT_FOUND, "nothing is retained here")),
        };
        let mut reply = content::answer(origin, message, options, &content, wanted);
        if reply.code().class() == 2 && wanted {
            reply.observe = self.observe(now.instant, new);
        }
        match reply.block2 {
            Some(block) if block.more && block.number == 0 => {
                self.snapshots.keep(now.instant, address, resource, &content, &self.limits);
            }
            Some(block) if !block.more => self.snapshots.forget(address, resource),
            _ => {}
        }
        Ok(self.ask_for_proof(now.instant, origin, message, reply))
    }

    /// Asks a peer whose place is not proved to prove it, if it was sent less than there is and that fits.
    fn ask_for_proof(&self, now: Instant, origin: &Origin, request: &Message<'_>, reply: Reply) -> Reply {
        let cut = reply.code() == Code::UNAUTHORIZED || reply.block2.is_some_and(|block| block.more);
        if origin.verified || origin.multicast || !cut {
            return reply;
        }
        let asking = Reply { echo: Some(self.echo.value(now, origin.address)), ..reply.clone() };
        let written = asking.write(Kind::Acknowledgement, 0, request.token(), usize::MAX);
        if written.is_some_and(|bytes| bytes.len() <= origin.room()) { asking } else { reply }
    }

    /// GET on `/.well-known/core`.
    fn discover(&mut self, call: &Call<'_>) {
        let &Call { now, origin, message, options, .. } = call;
        if message.code() != Code::GET {
            let reply = Reply::refusal(Code::METHOD_NOT_ALLOWED, "GET only");
            return self.refuse(now.instant, origin, message, &reply);
        }
        let content = discovery::content(&self.links, message);
        // Of those who were all asked only they answer that have something (RFC 7252, 8.2; RFC 6690, 4.1).
        if origin.multicast && content.payload.is_empty() {
            return;
        }
        // The whole list is the same for everybody, so that a block needs no snapshot.
        let reply = content::answer(origin, message, options, &content, false);
        let reply = self.ask_for_proof(now.instant, origin, message, reply);
        if reply.code().class() == 2 {
            self.answer(now.instant, origin, message, &reply);
        } else {
            self.refuse(now.instant, origin, message, &reply);
        }
    }

    /// Has an answer wait for a moment of its own.
    pub(super) fn delay(&mut self, now: Instant, address: Address, bytes: Option<Bytes>) {
        let Some(bytes) = bytes.filter(|_| self.delayed.len() < DELAYED_MAX) else { return };
        let at = now.after(Duration::from_millis(self.prng.up_to(LEISURE_MS).into()));
        self.delayed_count += 1;
        self.delayed.insert((at, self.delayed_count), (address, bytes));
    }
}

/// The time, as seconds since 1970 with three decimals; or when to come again, while the gateway does not know it (P5).
fn time(now: Now, call: &Call<'_>) -> Reply {
    if !now.wall.synchronised {
        return Reply::unavailable(Code::SERVICE_UNAVAILABLE, CLOCK_SECONDS);
    }
    let (seconds, millis) = (now.wall.unix_ms.div_euclid(1_000), now.wall.unix_ms.rem_euclid(1_000));
    let content = Content {
        payload: Bytes::from(format!("{seconds}.{millis:03}")),
        format: Some(format::TEXT),
        max_age: Some(0),
        ..Content::default()
    };
    let options = Options { accept: call.options.accept, ..Options::default() };
    content::answer(call.origin, call.message, &options, &content, false)
}
