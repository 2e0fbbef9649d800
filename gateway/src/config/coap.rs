//! `[coap]` and the tables in it: where CoAP is spoken, and beneath what.

use super::certificates::{Surroundings, tls};
use super::read::{Report, Section, Span};
use super::schema;
use super::written::{Listener, listen};
use crate::listen::dtls;
use crate::tls::Tls;

const UDP_DEFAULT: &str = "127.0.0.1:5683";
const DTLS_DEFAULT: &str = "127.0.0.1:5684";

/// What the tables say.
pub(super) struct Coap {
    /// The listeners, as addresses with their places.
    pub(super) udp: Vec<Listener>,
    pub(super) dtls: Option<(Vec<Listener>, Option<Tls>)>,
    /// Where the table of DTLS stands that names no certificate.
    keys_only: Option<Span>,
}

impl Coap {
    /// Every address.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.udp.iter().chain(self.dtls.iter().flat_map(|(listen, _)| listen))
    }

    /// Whether devices are asked for certificates anywhere.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.dtls.iter().any(|(_, tls)| tls.as_ref().is_some_and(Tls::asks_for_certificates))
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
    Coap { udp, dtls, keys_only }
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
