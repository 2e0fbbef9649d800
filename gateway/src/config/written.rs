//! Turns the tables that the operator wrote into the configuration as meant, with every default.
//! The tables of upstreams, routes and limits are read beside this file.

use super::certificates::Surroundings;
use super::coap::{self, Coap};
use super::environment::Environment;
use super::mistake::quoted;
use super::mqtt::{self, Mqtt};
use super::read::{Report, Section, Span};
use super::value::{self, Wrong, address, wrong};
use super::{CoapDtls, Config, Site, devices, full, limits, resources, routes, schema, serial, upstreams};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tidegate_engine::event::{Anonymous, DeviceSetup, WhenFull};
use tidegate_engine::id::GatewayId;
use toml::Spanned;
use toml::de::DeTable;

/// Addresses of one protocol's listener: more are a slip of the pen.
const LISTEN_ADDRESSES: usize = 16;
const ADMIN_DEFAULT: &str = "127.0.0.1:8080";
/// Below `gateway.data_dir`'s base when neither the operator nor systemd names a place.
const DATA_DIR_DEFAULT: &str = "tidegate-data";
/// The id of a gateway whose host has no name of its own.
const ID_DEFAULT: &str = "tidegate";

pub(super) const ANONYMOUS: &[(&str, Anonymous)] = &[
    ("never", Anonymous::Never),
    ("loopback", Anonymous::Loopback),
    ("insecure-everywhere", Anonymous::Everywhere),
];

/// Reads the whole document. `None` when something is so wrong that there is nothing to return;
/// what is wrong stands in the report.
pub(super) fn config(
    report: &Report<'_>,
    document: &Spanned<DeTable<'_>>,
    base: &Path,
    environment: &Environment,
) -> Option<Config> {
    let root =
        Section::new(report, &schema::ROOT, String::new(), Some(document.get_ref()), Some(document.span()));

    let site = gateway(&root.section(&schema::GATEWAY), base, environment);
    let data_dir = site.as_ref().map(|site| site.data_dir.clone()).unwrap_or_default();

    let at = Surroundings { base, environment };
    let mqtt = mqtt::mqtt(&root, at);
    let coap = coap::coap(&root, at);
    let admin_listen = listeners(&root, &mqtt, &coap);
    let mut limits = limits::limits(&root.section(&schema::LIMITS));
    limits.sys_interval = mqtt.sys_interval.unwrap_or(limits.sys_interval);
    let asks_for_certificates = mqtt.streams.asks_for_certificates || coap.asks_for_certificates();
    let (devices, keys) = devices::devices(&root, at, &limits, asks_for_certificates);
    if keys.is_empty() {
        coap.without_keys(report);
    }
    let anonymous = anonymous(&root, &mqtt, &coap, admin_listen.as_ref(), &devices, !keys.is_empty());
    let serial = serial::serial(&root, &limits);
    let when_full = spool(&root, &mut limits);

    let upstreams = upstreams::upstreams(&root, base, &data_dir, environment);
    let routes = routes::routes(&root, &upstreams, &limits, when_full, base);
    let upstreams = upstreams.into_iter().map(|(_, _, upstream)| upstream).collect::<Option<Vec<_>>>();

    let plain = |listen: Vec<Listener>| listen.into_iter().map(|listener| listener.address).collect();
    Some(Config {
        gateway: site?.gateway,
        data_dir,
        mqtt: mqtt.streams.meant(),
        coap_listen: plain(coap.udp),
        when_full,
        coap_dtls: coap.dtls.map(|(listen, tls)| CoapDtls { listen: plain(listen), tls }),
        coap_multicast: coap.multicast,
        coap_streams: coap.streams.meant(),
        coap_resources: resources::resources(&root),
        serial,
        admin_listen: admin_listen.map(|listener| listener.address),
        anonymous,
        devices,
        keys,
        upstreams: upstreams?,
        routes: routes?,
        limits,
        warnings: Vec::new(),
    })
}

/// A path, relative to `base`.
pub(super) fn path(base: &Path) -> impl Fn(&toml::de::DeValue<'_>) -> Result<PathBuf, Wrong> {
    move |value| {
        let text = value::text(value)?;
        if text.is_empty() || text.contains('\0') {
            return wrong("this is not a path", "write a path, or leave the key out");
        }
        Ok(base.join(text))
    }
}

/// `[gateway]`, as far as it says which one and where.
fn gateway(section: &Section<'_>, base: &Path, environment: &Environment) -> Option<Site> {
    let data_dir = match section.get("data_dir", path(base)) {
        Some(dir) => dir.into_inner(),
        None => environment.state.clone().unwrap_or_else(|| base.join(DATA_DIR_DEFAULT)),
    };
    Some(Site { gateway: gateway_id(section, environment)?, data_dir })
}

/// The same of a document of which nothing else matters. `None` when it is wrong, which is reported.
pub(super) fn site(
    report: &Report<'_>,
    document: &Spanned<DeTable<'_>>,
    base: &Path,
    environment: &Environment,
) -> Option<Site> {
    let table = document.get_ref().get(schema::GATEWAY.path);
    let table = table.and_then(|value| value.get_ref().as_table());
    gateway(
        &Section::new(report, &schema::GATEWAY, schema::GATEWAY.path.to_owned(), table, None),
        base,
        environment,
    )
}

fn gateway_id(section: &Section<'_>, environment: &Environment) -> Option<GatewayId> {
    let written = section.get("id", |value| {
        let text = value::text(value)?;
        GatewayId::new(&text).or_else(|error| {
            wrong(format!("{} is not a gateway id", quoted(&text)), format!("{error}, like \"site-a\""))
        })
    });
    if let Some(id) = written {
        return Some(id.into_inner());
    }
    environment.gateway_id().or_else(|| {
        if section.at("id").is_none() {
            section.report.warning(
                section.span.clone(),
                format!("this host has no name, so the gateway is called `{ID_DEFAULT}`"),
                "give it an `id` under [gateway]: message ids of two gateways with one name can be alike",
            );
        }
        GatewayId::new(ID_DEFAULT).ok()
    })
}

/// An address to listen on; without a place when it is the default.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) key: &'static str,
    pub(super) address: SocketAddr,
    pub(super) span: Option<Span>,
    /// Nobody gets in there without a verified certificate.
    pub(super) certified: bool,
    /// TLS.
    pub(super) encrypted: bool,
}

/// The addresses of a table, or the default of one that is there and names none.
pub(super) fn listen(section: &Section<'_>, key: &'static str, default: Option<&str>) -> Vec<Listener> {
    let listener = |address, span| Listener { key, address, span, certified: false, encrypted: false };
    match section.list("listen", LISTEN_ADDRESSES, address) {
        Some(written) => written.into_iter().map(|at| listener(*at.get_ref(), Some(at.span()))).collect(),
        None => {
            let default = default.and_then(|default| default.parse().ok());
            default.map(|address| listener(address, None)).into_iter().collect()
        }
    }
}

/// The administrator's listener; no two may have one address.
fn listeners(root: &Section<'_>, mqtt: &Mqtt, coap: &Coap) -> Option<Listener> {
    let admin = admin(&root.section(&schema::ADMIN)).flatten();

    // TCP and UDP have ports of their own.
    let tcp: Vec<&Listener> =
        mqtt.streams.listeners().chain(coap.streams.listeners()).chain(&admin).collect();
    let udp: Vec<&Listener> = coap.datagrams().collect();
    for listeners in [tcp, udp] {
        for (i, listener) in listeners.iter().enumerate() {
            let other = listeners.iter().take(i).find(|other| collide(other.address, listener.address));
            if let Some(other) = other {
                root.report.error(
                    listener.span.clone().or_else(|| other.span.clone()),
                    format!(
                        "`{}` and `{}` both listen on port {}",
                        other.key,
                        listener.key,
                        other.address.port()
                    ),
                    "give each a port of its own, or leave one out",
                );
            }
        }
    }
    admin
}

/// Where the admin port is: `Some(None)` when it is switched off, `None` when it is wrong, which is reported.
fn admin(section: &Section<'_>) -> Option<Option<Listener>> {
    let key = "admin.listen";
    if section.at("listen").is_none() {
        return Some(
            ADMIN_DEFAULT
                .parse()
                .map(|address| Listener { key, address, span: None, certified: false, encrypted: false })
                .ok(),
        );
    }
    let written = section.get("listen", |value| match value.as_str() {
        Some("") => Ok(None),
        _ => address(value).map(Some),
    })?;
    let span = Some(written.span());
    Some(written.into_inner().map(|address| Listener {
        key,
        address,
        span,
        certified: false,
        encrypted: false,
    }))
}

/// [`admin`] of a document whose other keys do not matter.
pub(super) fn admin_listen(
    report: &Report<'_>,
    document: &Spanned<DeTable<'_>>,
) -> Option<Option<SocketAddr>> {
    let table = document.get_ref().get(schema::ADMIN.path);
    let table = table.and_then(|value| value.get_ref().as_table());
    let section = Section::new(report, &schema::ADMIN, schema::ADMIN.path.to_owned(), table, None);
    admin(&section).map(|listener| listener.map(|listener| listener.address))
}

/// Whether the second address cannot be bound because of the first. Port 0 is a free one of the kernel's choice.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// P8: a listener that other hosts can reach needs authentication, or the operator's word.
fn anonymous(
    root: &Section<'_>,
    mqtt: &Mqtt,
    coap: &Coap,
    admin: Option<&Listener>,
    devices: &[DeviceSetup],
    keys: bool,
) -> Anonymous {
    let section = root.section(&schema::ACCESS);
    let written = section.get("anonymous", value::word(ANONYMOUS));
    let anonymous = written.as_ref().map_or(Anonymous::Loopback, |at| *at.get_ref());
    let remote = |listener: &&Listener| !listener.address.ip().to_canonical().is_loopback();

    let unencrypted = section.get_or("unencrypted", Anonymous::Loopback, value::word(&ANONYMOUS[1..]));
    let passwords = devices.iter().any(|device| device.secret.is_some());
    let contexts = devices.iter().any(|device| device.oscore.is_some());
    let mut listeners = mqtt.streams.listeners().chain(coap.streams.listeners()).chain(coap.datagrams());
    let certificates = listeners.any(|listener| listener.certified);

    if anonymous != Anonymous::Everywhere {
        let datagrams = coap.datagrams().map(|listener| {
            (listener, "speak DTLS there, with keys or certificates of the devices ([coap.dtls])")
        });
        let streams = coap.streams.listeners().map(|listener| {
            (listener, "speak TLS there and ask for certificates (`client_ca` under [coap.tls])")
        });
        let open = |(listener, _): &(&Listener, _)| remote(listener) && !listener.certified && !contexts;
        for (listener, instead) in datagrams.chain(streams).filter(open) {
            root.report.error(
                listener.span.clone(),
                format!("{} can be reached from other hosts, and nothing asks who comes", listener.address),
                format!(
                    "listen on 127.0.0.1; or {instead}; or give devices OSCORE contexts (`oscore` under [device.ID]), without which \
                     nobody from elsewhere comes in then; or, on a network that you trust, write \
                     `anonymous = \"insecure-everywhere\"` under [access]"
                ),
            );
        }
        for listener in mqtt.streams.listeners().filter(remote).filter(|listener| !listener.certified) {
            if !passwords {
                root.report.error(
                    listener.span.clone(),
                    format!("{} can be reached from other hosts, and nothing asks who comes", listener.address),
                    "listen on 127.0.0.1; or give devices passwords (`password_hash` under [device.ID]) or ask for certificates \
                     there (`client_ca` under [mqtt.tls]); or, on a network that you trust, write \
                     `anonymous = \"insecure-everywhere\"` under [access]",
                );
            } else if !listener.encrypted && unencrypted != Anonymous::Everywhere {
                root.report.error(
                    listener.span.clone(),
                    format!("{} can be reached from other hosts, and passwords go there in the clear", listener.address),
                    "listen on 127.0.0.1, and for other hosts under [mqtt.tls]; or, on a network that you trust, write \
                     `unencrypted = \"insecure-everywhere\"` under [access]",
                );
            }
        }
    }
    if anonymous == Anonymous::Never
        && !certificates
        && !passwords
        && !contexts
        && !keys
        && let Some(at) = written
    {
        root.report.warning(
            Some(at.span()),
            "no device can connect: none has a password or an OSCORE context, and no listener asks for certificates",
            "give devices credentials, or write \"loopback\" to let in devices and programs on this host",
        );
    }

    // The page shows topics and device names, and its words stay apart from the devices':
    // who opens the gateway to devices has not opened its inside.
    let section = root.section(&schema::ADMIN);
    let open = section.get_or("anonymous", Anonymous::Loopback, value::word(&ANONYMOUS[1..]));
    if open != Anonymous::Everywhere
        && let Some(listener) = admin.filter(remote)
    {
        root.report.error(
            listener.span.clone(),
            format!("{} can be reached from other hosts, and nothing asks who comes", listener.address),
            "listen on 127.0.0.1; or, on a network that you trust, write `anonymous = \"insecure-everywhere\"` \
             under [admin]",
        );
    }
    anonymous
}

/// The spool's bound, and what is discarded when it is reached.
fn spool(root: &Section<'_>, limits: &mut tidegate_engine::limits::Limits) -> WhenFull {
    let section = root.section(&schema::SPOOL);
    // The lower end: SQLite's own pages and a group of commits must fit. The upper: 48-bit sizes in reports.
    limits.spool_bytes = section.get_or("max_size", limits.spool_bytes, value::size(1 << 20..=1 << 44));
    section.get("retain", |value| {
        let longest = std::time::Duration::from_secs(u64::MAX / 1_000);
        match value::duration(std::time::Duration::ZERO..=longest)(value)? {
            std::time::Duration::ZERO => Ok(()),
            _ => wrong(
                "keeping delivered messages is not supported yet by this version",
                "write \"0 s\", or leave it out",
            ),
        }
    });
    full::when_full(&section, WhenFull::Refuse)
}
