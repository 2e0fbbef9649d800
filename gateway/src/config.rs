//! The configuration as meant: checked, complete, every default filled in. What the operator wrote, with its
//! line and column, stands in `config/`; nothing outside that folder sees it.

mod batches;
mod certificates;
mod coap;
mod devices;
mod environment;
mod file;
mod full;
mod limits;
mod mistake;
mod mqtt;
mod network;
mod order;
mod oscore;
mod psk;
mod read;
mod resources;
mod routes;
mod schema;
mod secret;
mod serial;
mod streams;
mod upstreams;
mod value;
mod written;

pub use environment::Environment;
pub use mistake::{Mistake, Mistakes, Place, Severity};
pub use network::{Network, NotANetwork};
pub(crate) use value::{show_duration, show_size};

use crate::listen::dtls::PresharedKey;
use crate::listen::serial::Line;
use crate::tls::Tls;
use read::Report;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::event::{Anonymous, DeviceSetup, Drain, Durability, Packing, Policy, Senml, WhenFull};
use tidegate_engine::id::GatewayId;
use tidegate_engine::limits::Limits;
use tidegate_engine::resource::Resource;
use tidegate_engine::topic::Filter;
use toml::de::DeTable;

/// Everything that `run` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `gateway.id`.
    pub gateway: GatewayId,
    /// `gateway.data_dir`.
    pub data_dir: PathBuf,
    /// `mqtt`.
    pub mqtt: Streams,
    /// `coap.listen` (UDP).
    pub coap_listen: Vec<SocketAddr>,
    /// `coap.multicast`: interfaces on which devices may look for the gateway.
    pub coap_multicast: Vec<String>,
    /// `coap.tcp`, `coap.tls` and `coap.websocket`.
    pub coap_streams: Streams,
    /// `[[coap.resource]]`, and behind them the shipped ones.
    pub coap_resources: Vec<Resource>,
    /// `coap.dtls`.
    pub coap_dtls: Option<CoapDtls>,
    /// `[[serial]]`.
    pub serial: Vec<Line>,
    /// `admin.listen`; `None` when the operator wrote an empty text.
    pub admin_listen: Option<SocketAddr>,
    /// `access.anonymous`.
    pub anonymous: Anonymous,
    /// `device.ID`, inline and in the files of `gateway.devices`, in the order of their ids.
    pub devices: Vec<DeviceSetup>,
    /// The pre-shared keys of those that have one.
    pub keys: Vec<PresharedKey>,
    /// `upstream.NAME`, in the order of their names.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`, in the operator's order; without any, one that takes everything to the only upstream.
    pub routes: Vec<Route>,
    /// `spool.when_full`: for routes that say nothing, and for what is left of those that are gone.
    pub when_full: WhenFull,
    /// The engine's bounds, with `spool.max_size` in `spool_bytes`.
    pub limits: Limits,
    /// What should be looked at and does not stop the start; for the log.
    pub warnings: Vec<Mistake>,
}

/// The largest configuration that is read, in bytes: room for ten thousand routes.
const CONFIG_BYTES: u64 = 1 << 20;

/// Reads the configuration of this process: from `file`, or the defaults without one. Relative paths in a file
/// are relative to the file; without a file, to the working directory.
///
/// # Errors
/// [`Mistakes`]: everything that is wrong, not just the first thing.
pub fn load(file: Option<&Path>) -> Result<Config, Mistakes> {
    parse(&source(file)?, file, &Environment::of_process())
}

/// Reads where the gateway's admin port is and nothing else, so that whoever may not read the passwords can still ask
/// how the gateway is. `None` when it is switched off.
///
/// # Errors
/// [`Mistakes`] when the file cannot be read, is not TOML, or has no proper address there.
pub fn admin_listen(file: Option<&Path>) -> Result<Option<SocketAddr>, Mistakes> {
    let source = source(file)?;
    let report = Report::new(file, &source);
    let address = document(&report, &source).and_then(|document| written::admin_listen(&report, &document));
    match address {
        Some(address) => Ok(address),
        None => Err(Mistakes(report.into_found())),
    }
}

/// Reads which gateway it is and where its data is, and nothing else, for commands beside the gateway.
///
/// # Errors
/// [`Mistakes`] when the file cannot be read, is not TOML, or has no proper values there.
pub fn site(file: Option<&Path>) -> Result<Site, Mistakes> {
    let source = source(file)?;
    let report = Report::new(file, &source);
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let site = document(&report, &source)
        .and_then(|document| written::site(&report, &document, base, &Environment::of_process()));
    match site {
        Some(site) => Ok(site),
        None => Err(Mistakes(report.into_found())),
    }
}

/// Which gateway, and where its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// `gateway.id`.
    pub gateway: GatewayId,
    /// `gateway.data_dir`.
    pub data_dir: PathBuf,
}

/// The text of a configuration; without a file, the empty one.
fn source(file: Option<&Path>) -> Result<String, Mistakes> {
    let Some(file) = file else {
        return Ok(String::new());
    };
    let refused = |what: String, right: &str| {
        let report = Report::new(Some(file), "");
        report.error(None, what, right);
        Err(Mistakes(report.into_found()))
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file);
    if let Err(error) = opened.and_then(|file| file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes)) {
        return refused(
            format!("the configuration cannot be read: {error}"),
            "name a file that this user may read; without --config the gateway starts with its defaults",
        );
    }
    if bytes.len() as u64 > CONFIG_BYTES {
        return refused(
            "the configuration is too large".to_owned(),
            "it has 1 MiB at the most; is this the right file?",
        );
    }
    String::from_utf8(bytes).or_else(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        refused(format!("line {line} is not UTF-8"), "save the file as UTF-8 text")
    })
}

/// The tables of a text; `None` when it is not TOML, which is reported.
fn document<'a>(report: &Report<'_>, source: &'a str) -> Option<toml::Spanned<DeTable<'a>>> {
    let (document, faults) = DeTable::parse_recoverable(source);
    for fault in &faults {
        report.error(fault.span(), format!("this is not TOML: {}", fault.message()), "see https://toml.io");
    }
    faults.is_empty().then_some(document)
}

/// Reads a configuration's text, as it would stand in `file`, in the given surroundings.
///
/// # Errors
/// [`Mistakes`]: everything that is wrong. Faults of TOML itself stop before the meaning is looked at.
pub fn parse(source: &str, file: Option<&Path>, environment: &Environment) -> Result<Config, Mistakes> {
    let report = Report::new(file, source);
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let document = document(&report, source);
    let config = document.and_then(|document| written::config(&report, &document, base, environment));
    let found = report.into_found();
    match config {
        Some(config) if found.iter().all(|mistake| mistake.severity == Severity::Warning) => {
            Ok(Config { warnings: found, ..config })
        }
        _ => Err(Mistakes(found)),
    }
}

/// Where a protocol is spoken on stream connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// `listen`: over TCP in the clear.
    pub listen: Vec<SocketAddr>,
    /// `tls`.
    pub tls: Option<Secure>,
    /// `websocket`.
    pub websocket: WebSocket,
    /// `proxy_protocol`: whoever connects from here begins with a PROXY header, and is believed.
    pub proxies: Vec<Network>,
}

/// A listener with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secure {
    /// `listen`.
    pub listen: Vec<SocketAddr>,
    /// `certificate`, `key`, `client_ca` and `client_crl`, read and checked.
    pub tls: Tls,
}

/// CoAP over DTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoapDtls {
    /// `listen`.
    pub listen: Vec<SocketAddr>,
    /// `certificate`, `key`, `client_ca` and `client_crl`, read and checked; without them, pre-shared keys only.
    pub tls: Option<Tls>,
}

/// A protocol over WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebSocket {
    /// `listen`.
    pub listen: Vec<SocketAddr>,
    /// `origins`: web pages that may connect besides those of the gateway's own host.
    pub origins: Vec<String>,
    /// `tls`.
    pub tls: Option<Secure>,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: UpstreamKind,
    /// `window`: messages handed over and not settled at the most.
    pub window: usize,
    /// `drain_messages_per_second` and `drain_size_per_second`.
    pub drain: Drain,
}

/// The kinds of upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// `kind = "amqp"`: AMQP 0-9-1.
    Amqp(Amqp),
    /// `kind = "file"`: JSON Lines.
    File(File),
}

/// An AMQP 0-9-1 broker, or several of one cluster.
#[derive(Clone, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `senml`.
    pub senml: Senml,
    /// `batch`, `compress` and `dictionary`.
    pub packing: Option<Arc<Packing>>,
    /// `max_size`, `when_full` and `keep`.
    pub policy: Policy,
}
