//! What devices meet when they connect over TLS: our certificate and key, whose certificates we believe, which are revoked.
//! Turns the contents of PEM files into rustls's configuration, and says what is wrong with them; and says whom a device's
//! certificate names. Reads no file and knows no socket.

use ring::digest::{Context, SHA256, digest};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use tidegate_engine::event::Certificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

/// Certificates in one file: more are a slip of the pen.
const CERTIFICATES: usize = 256;

/// Before a certificate runs out the operator is warned for so long, in seconds: two weeks leave time for a visit to the site.
const WARN_BEFORE_SECONDS: i64 = 14 * 86_400;

/// The longest name in a certificate that a device is known by, in bytes: a common name has 64 characters at the most
/// (RFC 5280, ub-common-name), a URI more.
const NAME_BYTES: usize = 255;

/// Tickets for resumption that a TLS 1.3 client gets: one connection at a time needs one.
const TICKETS: usize = 1;

/// The content of a PEM file, and what the file is called in reports.
#[derive(Clone)]
pub(crate) struct Pem {
    pub(crate) shown: String,
    pub(crate) bytes: Vec<u8>,
}

/// What is wrong with a file, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) right: String,
}

fn fault<T>(what: impl Into<String>, right: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { what: what.into(), right: right.into() })
}

/// Our certificate with the intermediate ones that lead to its authority.
pub(crate) struct Chain {
    shown: String,
    certificates: Vec<CertificateDer<'static>>,
    not_before: i64,
    not_after: ASN1Time,
}

/// Whose certificates we believe.
pub(crate) struct Authorities {
    shown: String,
    roots: RootCertStore,
    digest: Vec<u8>,
}

/// Our side of TLS, checked and ready for handshakes.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    about: String,
    certified: Certified,
    digest: [u8; 32],
}

/// What a protocol other than TLS takes from here: our certificate with its key, and the judge of the peers' ones.
#[derive(Clone)]
pub(crate) struct Certified {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
    judge: Option<Arc<dyn ClientCertVerifier>>,
    clock: Arc<NotBefore>,
}

impl Certified {
    /// Our own certificate, without those that lead to its authority, and its private key (DER).
    pub(crate) fn own(&self) -> (&[u8], &[u8]) {
        (&self.certificate, self.key.secret_der())
    }

    /// Whether a peer without a verified certificate is turned away.
    pub(crate) fn asks(&self) -> bool {
        self.judge.is_some()
    }

    /// Whom a peer's certificate names, when one of the authorities has issued it and has not revoked it.
    ///
    /// # Errors
    /// Why it is not accepted, in words for the log.
    pub(crate) fn judge(&self, certificate: &[u8]) -> Result<Certificate, String> {
        let certificate = CertificateDer::from(certificate);
        let judge = self.judge.as_ref().ok_or_else(|| "nobody asked for it".to_owned())?;
        self.verify(&**judge, &certificate, &[])?;
        named(&certificate)
    }

    /// Whether a certificate that was accepted once, with those that lead to its authority behind it, would be accepted now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn still_accepts(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        match (chain.split_first(), &self.judge) {
            (Some((own, others)), Some(judge)) => self.verify(&**judge, own, others),
            _ => Err("devices are not asked for one any more".to_owned()),
        }
    }

    fn verify(
        &self,
        judge: &dyn ClientCertVerifier,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), String> {
        let now = self.clock.current_time().unwrap_or_else(UnixTime::now);
        judge.verify_client_cert(own, others, now).map(drop).map_err(|error| error.to_string())
    }
}

impl Tls {
    /// What protocols other than TLS take from it.
    pub(crate) fn certified(&self) -> &Certified {
        &self.certified
    }

    /// For handshakes.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Which files, and until when they are good, in a line for the operator.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Whether a peer without a verified certificate is turned away (`client_ca`).
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.certified.asks()
    }
}

impl PartialEq for Tls {
    /// Whether both were made from the same contents.
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key: this may reach a log.
        f.debug_struct("Tls").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Reads our certificate. Warnings go to `warnings`; `now` is in seconds since 1970.
pub(crate) fn chain(pem: &Pem, now: i64, warnings: &mut Vec<Fault>) -> Result<Chain, Fault> {
    let shown = &pem.shown;
    let certificates = certificates(pem)?;
    let Some(leaf) = certificates.first() else {
        return no_certificate(pem);
    };
    let (version, not_before, not_after) = match X509Certificate::from_der(leaf) {
        Ok((_, leaf)) => (leaf.version(), leaf.validity().not_before, leaf.validity().not_after),
        Err(error) => {
            return fault(
                format!("the certificate in {shown} is damaged: {error}"),
                "have it issued again, or copy it again",
            );
        }
    };
    if version != X509Version::V3 {
        return fault(
            format!(
                "the certificate in {shown} is of X.509 version {}, which no current client accepts",
                version.0 + 1
            ),
            "have it issued with extensions (version 3); `openssl req -x509 -addext` and `openssl x509 -req -copy_extensions copy` do",
        );
    }
    let renew = || "have it renewed, put it there, and reload the gateway".to_owned();
    if not_after.timestamp() < now {
        let what = format!(
            "the certificate in {shown} expired on {}: devices that check it will not connect",
            day(not_after)
        );
        warnings.push(Fault { what, right: renew() });
    } else if not_after.timestamp() < now.saturating_add(WARN_BEFORE_SECONDS) {
        warnings.push(Fault {
            what: format!("the certificate in {shown} expires on {}", day(not_after)),
            right: renew(),
        });
    }
    if not_before.timestamp() > now {
        warnings.push(Fault {
            what: format!("the certificate in {shown} is good from {} only", day(not_before)),
            right: "see that this machine's clock is right, or wait".to_owned(),
        });
    }
    Ok(Chain { shown: shown.clone(), certificates, not_before: not_before.timestamp(), not_after })
}

/// Reads a private key.
pub(crate) fn key(pem: &Pem) -> Result<PrivateKeyDer<'static>, Fault> {
    let shown = &pem.shown;
    match PrivateKeyDer::from_pem_slice(&pem.bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if has(pem, "-----BEGIN ENCRYPTED PRIVATE KEY-----") => fault(
            format!(
                "the key in {shown} is encrypted, and nobody could type its passphrase after a power cut"
            ),
            format!("decrypt it: openssl pkey -in {shown} -out server.key; chmod 0600 server.key"),
        ),
        Err(pem::Error::NoItemsFound) if has(pem, "-----BEGIN CERTIFICATE-----") => fault(
            format!("{shown} holds a certificate and no private key"),
            "name the file with the private key here",
        ),
        Err(pem::Error::NoItemsFound) => fault(
            format!("there is no private key in {shown}"),
            "it begins with `-----BEGIN PRIVATE KEY-----` in PEM; convert others: openssl pkey -in FILE -out server.key",
        ),
        Err(error) => damaged(shown, &error),
    }
}

/// Reads the authorities that issue devices' certificates.
pub(crate) fn authorities(pem: &Pem) -> Result<Authorities, Fault> {
    let shown = &pem.shown;
    let mut roots = RootCertStore::empty();
    let mut contents = Context::new(&SHA256);
    let certificates = certificates(pem)?;
    if certificates.is_empty() {
        return no_certificate(pem);
    }
    for (at, certificate) in certificates.into_iter().enumerate() {
        contents.update(&certificate);
        if let Ok((_, parsed)) = X509Certificate::from_der(&certificate)
            && !parsed.is_ca()
        {
            return fault(
                format!("certificate {} in {shown} ({}) is not an authority's", at + 1, parsed.subject()),
                "name the file with the certificate of the authority that issues the devices' certificates (CA:TRUE)",
            );
        }
        if let Err(error) = roots.add(certificate) {
            return fault(
                format!("certificate {} in {shown} cannot be used: {error}", at + 1),
                "copy the authority's certificate again",
            );
        }
    }
    Ok(Authorities { shown: shown.clone(), roots, digest: contents.finish().as_ref().to_vec() })
}

/// Reads lists of revoked certificates. Warnings go to `warnings`; `now` is in seconds since 1970.
pub(crate) fn revocations(
    pem: &Pem,
    now: i64,
    warnings: &mut Vec<Fault>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Fault> {
    let shown = &pem.shown;
    let lists: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(&pem.bytes).take(CERTIFICATES).collect();
    let lists = match lists {
        Ok(lists) => lists,
        Err(error) => return damaged(shown, &error),
    };
    if lists.is_empty() {
        return fault(
            format!("there is no list of revoked certificates in {shown}"),
            "it begins with `-----BEGIN X509 CRL-----` in PEM; convert others: openssl crl -inform DER -in FILE -out devices.crl",
        );
    }
    for list in &lists {
        match CertificateRevocationList::from_der(list) {
            Ok((_, list)) if list.version() != Some(X509Version::V2) || list.crl_number().is_none() => {
                return fault(
                    format!("a list in {shown} is of version 1, or has no number"),
                    "have the authority issue it after RFC 5280; `openssl ca -gencrl` does with `crlnumber` and `crl_extensions`",
                );
            }
            Ok((_, list)) => {
                if let Some(next) = list.next_update().filter(|next| next.timestamp() < now) {
                    warnings.push(Fault {
                        what: format!("{shown} should have been renewed on {}: later revocations are not in it", day(next)),
                        right: "fetch the authority's current list and reload the gateway; until then the old one holds"
                            .to_owned(),
                    });
                }
            }
            Err(error) => {
                return fault(
                    format!("a list in {shown} is damaged: {error}"),
                    "fetch it again from the authority",
                );
            }
        }
    }
    Ok(lists)
}

/// Where [`assemble`] found what does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Certificate,
    Key,
    ClientCrl,
}

/// Puts everything together.
pub(crate) fn assemble(
    chain: Chain,
    key: PrivateKeyDer<'static>,
    key_shown: &str,
    authorities: Option<Authorities>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Tls, (Part, Fault)> {
    let at = |part| move |fault: Fault| (part, fault);
    let provider = Arc::new(provider::default_provider());

    let mut contents = Context::new(&SHA256);
    chain.certificates.iter().for_each(|certificate| contents.update(certificate));
    contents.update(key.secret_der());
    authorities.iter().for_each(|authorities| contents.update(&authorities.digest));
    revoked.iter().for_each(|list| contents.update(list));
    let contents = sha256(contents);

    let mut about = format!("{}, good until {}", chain.shown, day(chain.not_after));
    let judge = match authorities {
        None => None,
        Some(authorities) => {
            about += &format!("; devices need a certificate of {}", authorities.shown);
            Some(verifier(authorities.roots, revoked, &provider).map_err(|error| {
                (
                    Part::ClientCrl,
                    Fault { what: error, right: "name the authority's lists, as it issued them".to_owned() },
                )
            })?)
        }
    };
    let certified = Certified {
        certificate: chain.certificates.first().cloned().unwrap_or_else(|| CertificateDer::from_slice(&[])),
        key: Arc::new(key.clone_key()),
        judge: judge.clone(),
        clock: Arc::new(NotBefore(chain.not_before)),
    };
    let signing = provider.key_provider.load_private_key(key).or_else(|error| {
        fault(
            format!("the key in {key_shown} cannot be used: {error}"),
            "use an ECDSA key (P-256 or P-384), Ed25519, or RSA of 2048 bits at least",
        )
        .map_err(at(Part::Key))
    })?;
    let own = CertifiedKey::new(chain.certificates, signing);
    match own.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return fault(
                format!("the key in {key_shown} does not belong to the certificate in {}", chain.shown),
                "name the key that the certificate was requested with; in the certificate's file the gateway's own comes first",
            )
            .map_err(at(Part::Key));
        }
        Err(error) => {
            return fault(
                format!("the certificate in {} cannot be used: {error}", chain.shown),
                "have it issued again as a certificate for a server",
            )
            .map_err(at(Part::Certificate));
        }
    }
    let refused = |error: rustls::Error| {
        let what = format!("TLS cannot be set up with {}: {error}", chain.shown);
        (Part::Certificate, Fault { what, right: "report this".to_owned() })
    };
    let tickets = provider::Ticketer::new().map_err(refused)?;
    let clock = Arc::clone(&certified.clock) as Arc<dyn TimeProvider>;
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_client_cert_verifier(judge.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    // What a resumption needs is in the ticket: thousands of devices that come back after a power cut cost no memory here.
    // New files mean new keys for tickets, so a revoked certificate does not come back with an old one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = TICKETS;
    Ok(Tls { config: Arc::new(config), about, certified, digest: contents })
}

fn verifier(
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    // A list that is out of date still holds (it was warned of): otherwise a gateway without an uplink would one day turn every
    // device away. With lists, a certificate of an authority that has none is refused.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .only_check_end_entity_revocation()
        .build()
        .map_err(|error| format!("the devices' certificates cannot be checked: {error}"))
}

/// The system's time, but never before our own certificate was issued: a board without a battery boots in the past, and devices'
/// certificates must not seem "not yet valid" until the clock is set (P5).
#[derive(Debug)]
struct NotBefore(i64);

impl TimeProvider for NotBefore {
    fn current_time(&self) -> Option<UnixTime> {
        let issued =
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0.try_into().unwrap_or(0)));
        Some(UnixTime::now().max(issued))
    }
}

/// Whom a certificate names that rustls has verified.
///
/// # Errors
/// Why it names nobody, in words for the log; text from the certificate in it is escaped.
pub(crate) fn named(certificate: &CertificateDer<'_>) -> Result<Certificate, String> {
    let fingerprint = digest(&SHA256, certificate);
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| format!("it is damaged: {error}"))?;
    let alternatives =
        parsed.subject_alternative_name().map_err(|error| format!("its alternative names: {error}"))?;
    let mut alternative = None;
    for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) if name.contains('*') => {
                return Err(format!("its name {name:?} stands for many, and a device is one"));
            }
            GeneralName::DNSName(name) | GeneralName::URI(name) => {
                alternative.get_or_insert(*name);
            }
            _ => {}
        }
    }
    let mut common = parsed.subject().iter_common_name();
    let name = match (common.next(), common.next(), alternative) {
        (Some(_), Some(_), _) => return Err("it has two common names".to_owned()),
        (Some(name), None, _) => name.as_str().map_err(|_| "its common name is not text".to_owned())?,
        (None, _, Some(name)) => name,
        (None, _, None) => {
            return Err("it names nobody: it has no common name, DNS name or URI".to_owned());
        }
    };
    if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!(
            "its name {:?} cannot be a device's",
            name.chars().take(NAME_BYTES).collect::<String>()
        ));
    }
    let fingerprint = fingerprint.as_ref().try_into().map_err(|_| "it has no fingerprint".to_owned())?;
    Ok(Certificate { name: name.to_owned(), fingerprint })
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem.bytes).take(CERTIFICATES + 1).collect();
    match certificates {
        Ok(certificates) if certificates.len() > CERTIFICATES => fault(
            format!("there are more than {CERTIFICATES} certificates in {}", pem.shown),
            "leave in it only those that are needed",
        ),
        Ok(certificates) => Ok(certificates),
        Err(error) => damaged(&pem.shown, &error),
    }
}

fn no_certificate<T>(pem: &Pem) -> Result<T, Fault> {
    let shown = &pem.shown;
    if has(pem, "PRIVATE KEY-----") {
        return fault(
            format!("{shown} holds a private key and no certificate"),
            "name the file with the certificate here",
        );
    }
    fault(
        format!("there is no certificate in {shown}"),
        "it begins with `-----BEGIN CERTIFICATE-----` in PEM; convert others: openssl x509 -inform DER -in FILE -out server.crt",
    )
}

fn damaged<T>(shown: &str, error: &pem::Error) -> Result<T, Fault> {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a section has no end line: the file seems cut off".to_owned()
        }
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is broken".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between the lines is not base64".to_owned(),
        other => other.to_string(),
    };
    fault(format!("{shown} is not PEM in order: {what}"), "copy it again")
}

fn has(pem: &Pem, text: &str) -> bool {
    pem.bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn sha256(contents: Context) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.iter_mut().zip(contents.finish().as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

/// The day, as 2026-11-21.
fn day(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}
