//! `[mqtt]` and the tables in it: where MQTT is spoken, beneath what, and for whom a load balancer may speak.

use super::certificates::{Surroundings, tls};
use super::mistake::quoted;
use super::network::{Network, NotANetwork};
use super::read::Section;
use super::value::{self, Wrong, wrong};
use super::written::{Listener, listen};
use super::{Secure, schema};
use std::time::Duration;
use toml::de::DeValue;

const PLAIN_DEFAULT: &str = "127.0.0.1:1883";
const TLS_DEFAULT: &str = "127.0.0.1:8883";
const WEBSOCKET_DEFAULT: &str = "127.0.0.1:8083";
const SECURE_WEBSOCKET_DEFAULT: &str = "127.0.0.1:8084";
/// Load balancers, and web pages, that one gateway knows: more are a slip of the pen.
const NAMED: usize = 64;

/// Mosquitto's own upper end.
const SYS_INTERVAL_MOST: Duration = Duration::from_secs(65_535);

/// What the tables say.
pub(super) struct Mqtt {
    /// The listeners, as addresses with their places.
    pub(super) plain: Vec<Listener>,
    pub(super) tls: Option<(Vec<Listener>, Secure)>,
    pub(super) websocket: Vec<Listener>,
    pub(super) secure_websocket: Option<(Vec<Listener>, Secure)>,
    pub(super) origins: Vec<String>,
    pub(super) proxies: Vec<Network>,
    /// Some listener asks devices for a certificate, as far as is written: also when it cannot be read.
    pub(super) asks_for_certificates: bool,
    /// How often `$SYS` is published.
    pub(super) sys_interval: Option<Duration>,
}

impl Mqtt {
    /// Every address.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let secure = [&self.tls, &self.secure_websocket].into_iter().flatten().flat_map(|(listen, _)| listen);
        self.plain.iter().chain(&self.websocket).chain(secure)
    }
}

/// Reads the tables. What is wrong with a table leaves it out and is reported.
pub(super) fn mqtt(root: &Section<'_>, at: Surroundings<'_>) -> Mqtt {
    let section = root.section(&schema::MQTT);
    let tls_section = section.section(&schema::MQTT_TLS);
    let websocket = section.section(&schema::MQTT_WEBSOCKET);
    let websocket_tls = websocket.section(&schema::MQTT_WEBSOCKET_TLS);

    let secure = |section: &Section<'_>, other: Option<&Section<'_>>, key, default| {
        section.span.as_ref()?;
        let mut listeners = listen(section, key, Some(default));
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
    Mqtt {
        plain: listen(&section, "mqtt.listen", Some(PLAIN_DEFAULT)),
        tls: known(secure(&tls_section, None, "mqtt.tls.listen", TLS_DEFAULT)),
        secure_websocket: known(secure(
            &websocket_tls,
            certificate_of_tls,
            "mqtt.websocket.tls.listen",
            SECURE_WEBSOCKET_DEFAULT,
        )),
        // A table that is there only for the one inside it listens nowhere by itself.
        websocket: match (&websocket.span, &websocket_tls.span) {
            (Some(_), None) => listen(&websocket, "mqtt.websocket.listen", Some(WEBSOCKET_DEFAULT)),
            (Some(_), Some(_)) => listen(&websocket, "mqtt.websocket.listen", None),
            (None, _) => Vec::new(),
        },
        asks_for_certificates: [&tls_section, &websocket_tls]
            .iter()
            .any(|section| section.at("client_ca").is_some()),
        origins: plain(websocket.list("origins", NAMED, origin)),
        sys_interval: section
            .get("sys_interval", value::duration(Duration::ZERO..=SYS_INTERVAL_MOST))
            .map(toml::Spanned::into_inner),
        proxies: plain(section.list("proxy_protocol", NAMED, network)),
    }
}

fn plain<T>(written: Option<Vec<toml::Spanned<T>>>) -> Vec<T> {
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
