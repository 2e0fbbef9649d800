//! `[coap]` and the tables in it: where CoAP is spoken, and beneath what.

use super::certificates::{Surroundings, tls};
use super::mistake::quoted;
use super::read::{Report, Section, Span};
use super::schema;
use super::streams::{self, Names, Tables};
use super::value::{self, Wrong, wrong};
use super::written::{Listener, listen};
use crate::listen::dtls;
use crate::tls::Tls;
use toml::de::DeValue;

const UDP_DEFAULT: &str = "127.0.0.1:5683";
const DTLS_DEFAULT: &str = "127.0.0.1:5684";
/// Network interfaces of one gateway: more are a slip of the pen.
const INTERFACES: usize = 16;
/// The longest name of a network interface (Linux: IFNAMSIZ without its end).
const INTERFACE_BYTES: usize = 15;
/// The interface on which this host reaches itself.
const LOOPBACK: &str = "lo";
/// Ports of TCP are not those of UDP.
const TCP_DEFAULT: &str = "127.0.0.1:5683";

const TABLES: Tables = Tables {
    tls: Names { table: &schema::COAP_TLS, key: "coap.tls.listen", default: "127.0.0.1:5684" },
    websocket: Names {
        table: &schema::COAP_WEBSOCKET,
        key: "coap.websocket.listen",
        default: "127.0.0.1:8085",
    },
    websocket_tls: Names {
        table: &schema::COAP_WEBSOCKET_TLS,
        key: "coap.websocket.tls.listen",
        default: "127.0.0.1:8086",
    },
};

/// What the tables say.
pub(super) struct Coap {
    /// The listeners, as addresses with their places.
    pub(super) udp: Vec<Listener>,
    pub(super) dtls: Option<(Vec<Listener>, Option<Tls>)>,
    pub(super) streams: streams::Written,
    /// Network interfaces on which groups are joined.
    pub(super) multicast: Vec<String>,
    /// Where the table of DTLS stands that names no certificate.
    keys_only: Option<Span>,
}

impl Coap {
    /// Every address on which datagrams come.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &Listener> {
        self.udp.iter().chain(self.dtls.iter().flat_map(|(listen, _)| listen))
    }

    /// Whether devices are asked for certificates anywhere.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.streams.asks_for_certificates
            || self.dtls.iter().any(|(_, tls)| tls.as_ref().is_some_and(Tls::asks_for_certificates))
    }

    /// Warns when no device has a pre-shared key and nothing else would do.
    pub(super) fn without_keys(&self, report: &Report<'_>) {
        if let Some(span) = &self.keys_only {
            report.warning(
                Some(span.clone()),
                "nobody can speak DTLS with this gateway: no device has a pre-shared key, and there is no certificate here",
                "give devices keys (`psk` under [device.ID]; `tidegate device add ID --psk` makes one), or name `certificate`, `key` \
                 and `client_ca` here",
            );
        }
    }
}

/// Reads the tables. What is wrong with a table leaves it out and is reported.
pub(super) fn coap(root: &Section<'_>, at: Surroundings<'_>) -> Coap {
    let section = root.section(&schema::COAP);
    let udp = listen(&section, "coap.listen", Some(UDP_DEFAULT));
    let multicast = multicast(&section, &udp);
    let tcp = section.section(&schema::COAP_TCP);
    let tcp = listen(&tcp, "coap.tcp.listen", tcp.span.is_some().then_some(TCP_DEFAULT));
    let streams = streams::streams(&section, tcp, &TABLES, at);
    let section = section.section(&schema::COAP_DTLS);
    let dtls = section.span.as_ref().and_then(|_| {
        let mut listeners = listen(&section, "coap.dtls.listen", Some(DTLS_DEFAULT));
        let certificates = ["certificate", "key", "client_ca", "client_crl"];
        let tls = if certificates.iter().any(|key| section.at(key).is_some()) {
            Some(certified(&section, at)?)
        } else {
            None
        };
        // Without certificates nobody gets in who has no key.
        let certified = tls.as_ref().is_none_or(Tls::asks_for_certificates);
        for listener in &mut listeners {
            (listener.certified, listener.encrypted) = (certified, true);
        }
        Some((listeners, tls))
    });
    let keys_only = section.span.clone().filter(|_| dtls.as_ref().is_some_and(|(_, tls)| tls.is_none()));
    Coap { udp, dtls, streams, multicast, keys_only }
}

/// The interfaces on which devices may look for the gateway.
fn multicast(section: &Section<'_>, udp: &[Listener]) -> Vec<String> {
    let Some(written) = section.list("multicast", INTERFACES, interface) else { return Vec::new() };
    let local = |listener: &Listener| listener.address.ip().is_loopback();
    for interface in &written {
        if interface.get_ref() != LOOPBACK && udp.iter().all(local) {
            section.report.error(
                Some(interface.span()),
                format!("nobody on {} could be answered: CoAP over UDP listens on no address of this host's there", interface.get_ref()),
                "add that address to `listen` under [coap], or leave the interface out",
            );
        }
    }
    written.into_iter().map(toml::Spanned::into_inner).collect()
}

/// The name of a network interface (Linux: dev_valid_name).
fn interface(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = value::text(value)?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    if text.is_empty() || text.len() > INTERFACE_BYTES || text.contains(odd) {
        return wrong(
            format!("{} is not the name of a network interface", quoted(&text)),
            "write it as `ip link` shows it, like \"eth0\"",
        );
    }
    Ok(text)
}

fn certified(section: &Section<'_>, at: Surroundings<'_>) -> Option<Tls> {
    let tls = tls(section, None, at)?;
    if !dtls::can_sign_with(tls.certified().own().1) {
        section.report.error(
            section.at("key"),
            "DTLS cannot sign with this key",
            "use a certificate with an ECDSA key (P-256 or P-384): \
             openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key",
        );
        return None;
    }
    Some(tls)
}
