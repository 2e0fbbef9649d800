//! What the engine is told once, and again at a reload: the configuration as it sees it. Every bound stands in
//! [`Limits`]; nothing of what happens at run time belongs here.

use super::packing::Packing;
use super::policy::Policy;
use crate::id::{DeviceId, GatewayId, LaneId, UpstreamId};
use crate::limits::Limits;
use crate::resource::Resource;
use crate::time::Duration;
use crate::topic::Filter;
use bytes::Bytes;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use tidegate_oscore::Context;

/// What the engine is told once, and again at a reload.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This gateway.
    pub gateway: GatewayId,
    /// This life of the gateway: higher than, or at least different from, every earlier one's (P4).
    pub epoch: u64,
    /// A random number, for tokens and message ids that an attacker must not guess. From the shell, as the engine has none.
    pub seed: u64,
    /// Every bound.
    pub limits: Limits,
    /// Who may come without credentials.
    pub anonymous: Anonymous,
    /// The devices that are configured.
    pub devices: Vec<DeviceSetup>,
    /// The resources of the CoAP server; the first one that takes a path has it.
    pub resources: Vec<Resource>,
    /// The upstreams; [`UpstreamId`] is the index.
    pub upstreams: Vec<UpstreamSetup>,
    /// The routes, in the operator's order.
    pub routes: Vec<RouteSetup>,
}

/// Who may come without credentials (`access.anonymous`, P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nobody.
    Never,
    /// Peers on the loopback interface.
    Loopback,
    /// Everybody, because the operator wrote `insecure-everywhere`.
    Everywhere,
}

/// A configured device: how it proves who it is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSetup {
    /// Its id: its MQTT user name, its client identifier, and what its messages are named after.
    pub id: DeviceId,
    /// The topics that it may publish under.
    pub publish: Vec<Filter>,
    /// The topics that it may read.
    pub subscribe: Vec<Filter>,
    /// What its password is verified against.
    pub secret: Option<Arc<Secret>>,
    /// SHA-256 of its certificate (DER). With it no other certificate will do; without it a verified one that names the
    /// device does.
    pub certificate: Option<[u8; 32]>,
    /// The gateway's end of its OSCORE context (RFC 8613): the keys that its CoAP messages are protected with.
    pub oscore: Option<Arc<Context>>,
    /// It has a key that it shares with the gateway (DTLS); the shell knows it.
    pub psk: bool,
}

impl DeviceSetup {
    /// Whether it can prove who it is: nobody else is then taken for it.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        self.secret.is_some() || self.certificate.is_some() || self.oscore.is_some() || self.psk
    }
}

/// What a password is verified against. The engine hands it back to the shell, which knows how; it cannot read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// A hash in the PHC string format.
    pub hash: String,
    /// Verifying it is made to take long: one at a time, elsewhere, and guesses are counted for the device.
    pub slow: bool,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the hash: this may reach a log.
        f.debug_struct("Secret").field("slow", &self.slow).finish_non_exhaustive()
    }
}

/// A password as a client sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Bytes);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// An upstream as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSetup {
    /// Its name in the configuration.
    pub name: String,
    /// Messages handed over and not settled at the most.
    pub window: usize,
    /// How fast a backlog may leave.
    pub drain: Drain,
}

/// How fast what has piled up may leave, on a link that costs by the byte or must keep room for others; `None`: as fast as the upstream
/// takes it. It counts what came while the upstream was away, what an earlier life of the gateway has left and what is read from the disk, not
/// what is relayed. Of what is not used within a second nothing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Messages a second.
    pub messages_per_second: Option<NonZeroU32>,
    /// Bytes a second, of [`Message::footprint`](crate::message::Message::footprint), which is about what AMQP needs for a message.
    pub bytes_per_second: Option<NonZeroU32>,
}

/// A route: which topics go where, and how they are kept safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSetup {
    /// What it has waiting; given by the store for the route's name.
    pub lane: LaneId,
    /// Its name, for logs and `explain`.
    pub name: String,
    /// The topics that it takes. `None` for a route that is no longer configured and only drains.
    pub filter: Option<Filter>,
    /// Where it leads.
    pub upstream: UpstreamId,
    /// The routing key: a template over `{device}` and `{topic}`; `None` is the topic with `/` as `.`.
    pub routing_key: Option<String>,
    /// Which way to safety.
    pub durability: Durability,
    /// Higher goes first among the routes of one upstream.
    pub priority: u8,
    /// What becomes of SenML on its way out.
    pub senml: Senml,
    /// How its messages travel together; `None`: each by itself.
    pub packing: Option<Arc<Packing>>,
    /// What it may take of the spool, and what becomes of it when that is full.
    pub policy: Policy,
    /// Its lane holds what was salvaged from a damaged store. Whether an upstream has it already, nobody knows.
    pub salvaged: bool,
}

/// What a route does with SenML (RFC 8428). The shell does it, which knows JSON and CBOR; the engine says where. What is kept is
/// always the message as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Senml {
    /// Nothing: it leaves as it came.
    #[default]
    Untouched,
    /// Its records leave resolved (4.6). What is no SenML is refused for good.
    Resolve,
}

/// The two ways to safety (`durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Forward at once and acknowledge on the upstream's confirm; commit when that takes longer than `spill_after`,
    /// when the upstream is down, or when the route has a backlog on the disk.
    Relay {
        /// How long the upstream has before the message is committed.
        spill_after: Duration,
    },
    /// Commit, acknowledge, forward.
    Disk,
}
