//! The configuration as meant: checked, complete, every default filled in. What the operator wrote, with its
//! line and column, stands in `config/`; nothing outside that folder sees it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_engine::event::{Anonymous, Durability};
use tidegate_engine::id::GatewayId;
use tidegate_engine::limits::Limits;
use tidegate_engine::topic::Filter;

/// Everything that `run` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `gateway.id`.
    pub gateway: GatewayId,
    /// `gateway.data_dir`.
    pub data_dir: PathBuf,
    /// `mqtt.listen`.
    pub mqtt_listen: Vec<SocketAddr>,
    /// `coap.listen` (UDP).
    pub coap_listen: Vec<SocketAddr>,
    /// `admin.listen`; `None` when the operator wrote an empty text.
    pub admin_listen: Option<SocketAddr>,
    /// `access.anonymous`.
    pub anonymous: Anonymous,
    /// `upstream.NAME`, in the order of their names.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`, in the operator's order; without any, one that takes everything to the only upstream.
    pub routes: Vec<Route>,
    /// The engine's bounds, with `spool.max_size` in `spool_bytes`.
    pub limits: Limits,
}

/// An upstream.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: UpstreamKind,
    /// `window`: messages handed over and not settled at the most.
    pub window: usize,
}

/// The kinds of upstream.
#[derive(Clone, Debug)]
pub enum UpstreamKind {
    /// `kind = "amqp"`: AMQP 0-9-1.
    Amqp(Amqp),
    /// `kind = "file"`: JSON Lines.
    File(File),
}

/// An AMQP 0-9-1 broker, or several of one cluster.
#[derive(Clone)]
pub struct Amqp {
    /// `urls`: tried in turn, beginning with the first. `amqp://` or `amqps://`, without credentials.
    pub urls: Vec<String>,
    /// `username`.
    pub username: String,
    /// The content of `password_file`, its last line break taken off.
    pub password: String,
    /// `exchange`.
    pub exchange: Exchange,
    /// `heartbeat`.
    pub heartbeat: Duration,
    /// `connect_timeout`: for one address, TCP to connection.open-ok.
    pub connect_timeout: Duration,
    /// `reconnect_max`: the longest wait between two attempts.
    pub reconnect_max: Duration,
}

impl std::fmt::Debug for Amqp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the password: this may reach a log.
        f.debug_struct("Amqp")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// The exchange that messages are published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `name`.
    pub name: String,
    /// `type`: "topic", "direct", "fanout", "headers" or a plug-in's.
    pub kind: String,
    /// `durable`.
    pub durable: bool,
    /// `declare`: declare it; otherwise check passively that it is there.
    pub declare: bool,
}

/// A JSON Lines file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// `path`.
    pub path: PathBuf,
    /// `max_size`: rotated when it would grow beyond so many bytes.
    pub max_size: u64,
    /// `keep`: how many rotated files stay.
    pub keep: usize,
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// `name`; by default `UPSTREAM:TOPIC`.
    pub name: String,
    /// `topic`.
    pub filter: Filter,
    /// `upstream`: the index in [`Config::upstreams`].
    pub upstream: usize,
    /// `routing_key`.
    pub routing_key: Option<String>,
    /// `durability` and `spill_after`.
    pub durability: Durability,
    /// `priority`.
    pub priority: u8,
}
