//! The tables of a protocol's stream listeners: in the clear, over TLS, over WebSocket and over both, and for whom a load balancer
//! may speak. MQTT and CoAP have the same ones under names of their own.

use super::certificates::{Surroundings, tls};
use super::mistake::quoted;
use super::network::{Network, NotANetwork};
use super::read::Section;
use super::schema::Table;
use super::value::{self, Wrong, wrong};
use super::written::{Listener, listen};
use super::{Secure, Streams, WebSocket};
use toml::de::DeValue;

/// Load balancers, and web pages, that one gateway knows: more are a slip of the pen.
const NAMED: usize = 64;

/// What a table is called, where its addresses stand, and which it has when it names none.
pub(super) struct Names {
    pub(super) table: &'static Table,
    pub(super) key: &'static str,
    pub(super) default: &'static str,
}

/// The tables of a protocol, beside the one for listeners in the clear.
pub(super) struct Tables {
    pub(super) tls: Names,
    pub(super) websocket: Names,
    pub(super) websocket_tls: Names,
}

/// What the tables say.
pub(super) struct Written {
    /// The listeners, as addresses with their places.
    plain: Vec<Listener>,
    tls: Option<(Vec<Listener>, Secure)>,
    websocket: Vec<Listener>,
    secure_websocket: Option<(Vec<Listener>, Secure)>,
    origins: Vec<String>,
    proxies: Vec<Network>,
    /// Some listener asks devices for a certificate, as far as is written: also when it cannot be read.
    pub(super) asks_for_certificates: bool,
}

impl Written {
    /// Every address.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let secure = [&self.tls, &self.secure_websocket].into_iter().flatten().flat_map(|(listen, _)| listen);
        self.plain.iter().chain(&self.websocket).chain(secure)
    }

    /// As meant.
    pub(super) fn meant(self) -> Streams {
        let addresses = |listen: Vec<Listener>| listen.into_iter().map(|listener| listener.address).collect();
        Streams {
            listen: addresses(self.plain),
            tls: self.tls.map(|(_, secure)| secure),
            websocket: WebSocket {
                listen: addresses(self.websocket),
                origins: self.origins,
                tls: self.secure_websocket.map(|(_, secure)| secure),
            },
            proxies: self.proxies,
        }
    }
}

/// Reads the tables in `section`, the protocol's own; `plain` are its listeners in the clear. What is wrong with a table leaves it
/// out and is reported.
pub(super) fn streams(
    section: &Section<'_>,
    plain: Vec<Listener>,
    tables: &Tables,
    at: Surroundings<'_>,
) -> Written {
    let tls_section = section.section(tables.tls.table);
    let websocket = section.section(tables.websocket.table);
    let websocket_tls = websocket.section(tables.websocket_tls.table);

    let secure = |section: &Section<'_>, other: Option<&Section<'_>>, names: &Names| {
        section.span.as_ref()?;
        let mut listeners = listen(section, names.key, Some(names.default));
        let tls = tls(section, other, at);
        // When the certificates are wrong that alone shall be reported, and not the address as well.
        let certified = section.at("client_ca").is_some();
        for listener in &mut listeners {
            (listener.certified, listener.encrypted) = (certified, true);
        }
        let addresses = listeners.iter().map(|listener| listener.address).collect();
        Some((listeners, tls.map(|tls| Secure { listen: addresses, tls })))
    };
    let known = |read: Option<(Vec<Listener>, Option<Secure>)>| {
        let (listeners, secure) = read?;
        Some((listeners, secure?))
    };
    let certificate_of_tls = tls_section.at("certificate").is_some().then_some(&tls_section);
    Written {
        plain,
        tls: known(secure(&tls_section, None, &tables.tls)),
        secure_websocket: known(secure(&websocket_tls, certificate_of_tls, &tables.websocket_tls)),
        // A table that is there only for the one inside it listens nowhere by itself.
        websocket: match (&websocket.span, &websocket_tls.span) {
            (Some(_), None) => listen(&websocket, tables.websocket.key, Some(tables.websocket.default)),
            (Some(_), Some(_)) => listen(&websocket, tables.websocket.key, None),
            (None, _) => Vec::new(),
        },
        asks_for_certificates: [&tls_section, &websocket_tls]
            .iter()
            .any(|section| section.at("client_ca").is_some()),
        origins: unplaced(websocket.list("origins", NAMED, origin)),
        proxies: unplaced(section.list("proxy_protocol", NAMED, network)),
    }
}

fn unplaced<T>(written: Option<Vec<toml::Spanned<T>>>) -> Vec<T> {
    written.into_iter().flatten().map(toml::Spanned::into_inner).collect()
}

/// A web page's origin as browsers send it (RFC 6454, 7): `SCHEME://HOST` or `SCHEME://HOST:PORT`, `null`, or `*` for all.
fn origin(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = value::name(value)?;
    let host = text.split_once("://").map(|(_, host)| host).unwrap_or_default();
    if matches!(text.as_str(), "*" | "null") || !(host.is_empty() || host.contains(['/', '*', ' '])) {
        return Ok(text);
    }
    wrong(
        format!("{} is not the origin of a web page", quoted(&text)),
        "write it as its browser sends it, without a path: \"https://dashboard.example\" or \"http://192.0.2.1:3000\"",
    )
}

fn network(value: &DeValue<'_>) -> Result<Network, Wrong> {
    let text = value::text(value)?;
    text.parse().or_else(|error: NotANetwork| {
        wrong(
            format!("{} is no network: {error}", quoted(&text)),
            "write the load balancer's address, \"192.0.2.10\", or its network, \"192.0.2.0/28\"",
        )
    })
}
