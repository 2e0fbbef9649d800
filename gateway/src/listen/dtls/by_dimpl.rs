//! DTLS 1.2 by `dimpl`: pre-shared keys (`TLS_PSK_WITH_AES_128_CCM_8`) and ECDSA certificates. The cookie is checked before there is
//! an association; dimpl, which checks it inside one, is told the first hello again and given the answer.

use super::association::{Association, Event, Identity, Make, Refusal};
use super::hello::{COOKIE_BYTES, Hello};
use super::keys::{Asked, Keys, PresharedKey};
use super::lean;
use crate::tls;
use bytes::Bytes;
use dimpl::crypto::{CryptoProvider, Dtls12CipherSuite, HashAlgorithm, HmacProvider, rust_crypto};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate, Error, Output, SecurityError};
use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tidegate_engine::id::DeviceId;
use tidegate_engine::session::certificates::Certificates;

/// From the cookie to the end of the handshake: three flights over a slow link, each of them lost twice.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A lost flight is repeated after so long, and then at twice the time (RFC 6347, 4.2.4.1).
const FLIGHT_TIMEOUT: Duration = Duration::from_secs(1);
/// Records that wait to be read or sent: a device has a few on the way at a time.
const QUEUE_RECORDS: usize = 16;
/// The largest datagram of a handshake: what IPv6 carries everywhere (1,280 bytes), less its headers.
const MTU_BYTES: usize = 1_232;

/// With pre-shared keys: the one that every device that speaks CoAP must have (RFC 7252, 9.1.3.1).
const PSK_SUITES: [Dtls12CipherSuite; 1] = [Dtls12CipherSuite::PSK_AES128_CCM_8];
/// With certificates. dimpl has no ECDHE with CCM, which RFC 7252, 9.1.3.3 asks for.
const CERTIFICATE_SUITES: [Dtls12CipherSuite; 3] = [
    Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
    Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
    Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
];

thread_local! {
    /// The cookie of the hello that is being told, verified before. One datagram is told at a time.
    static VERIFIED: Cell<Option<[u8; COOKIE_BYTES]>> = const { Cell::new(None) };
}

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(rust_crypto::default_provider);

/// HMAC, but for the cookie of a hello that was verified before there was an association: dimpl makes cookies, and nothing
/// else in DTLS 1.2, with `hmac_sha256`.
#[derive(Debug)]
struct CookieGiven;

impl HmacProvider for CookieGiven {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match VERIFIED.take() {
            Some(cookie) => Ok(cookie),
            None => PROVIDER.hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        PROVIDER.hmac_provider.hmac(hash, key, data, out)
    }
}

/// Our certificate, and whose we take for which device's.
#[derive(Clone)]
pub(super) struct Certified {
    pub(super) tls: tls::Certified,
    pub(super) devices: Arc<Certificates>,
}

impl Certified {
    /// The device that shows a certificate (DER).
    fn device(&self, certificate: &[u8]) -> Result<DeviceId, String> {
        let names = self.tls.judge(certificate)?;
        self.devices.device(&names).ok_or_else(|| {
            format!("it names {:?}, which is no device's id, or a device's that has another one", names.name)
        })
    }
}

/// Makes associations.
pub(super) struct Maker {
    keys: Arc<Keys>,
    psk: Arc<Config>,
    certified: Option<(Arc<Config>, DtlsCertificate, Arc<Certified>)>,
}

impl Maker {
    /// With these keys, and with our certificate if there is one.
    pub(super) fn new(keys: &[PresharedKey], certified: Option<Certified>) -> Result<Self, Error> {
        let config = || {
            Config::builder()
                .mtu(MTU_BYTES)
                .max_queue_rx(QUEUE_RECORDS)
                .max_queue_tx(QUEUE_RECORDS)
                .flight_start_rto(FLIGHT_TIMEOUT)
                .handshake_timeout(HANDSHAKE_TIMEOUT)
                .dtls13_cipher_suites(&[])
                .with_crypto_provider(CryptoProvider {
                    cipher_suites: lean::suites(),
                    hmac_provider: &CookieGiven,
                    ..PROVIDER.clone()
                })
        };
        let keys = Arc::new(Keys::new(keys));
        let psk = config().dtls12_cipher_suites(&PSK_SUITES).with_psk_server(None, Arc::clone(&keys) as _);
        let certified = certified.map(|certified| {
            let config = config()
                .dtls12_cipher_suites(&CERTIFICATE_SUITES)
                .require_client_certificate(certified.tls.asks());
            let (certificate, private_key) = certified.tls.own();
            let own =
                DtlsCertificate { certificate: certificate.to_vec(), private_key: private_key.to_vec() };
            Ok::<_, Error>((Arc::new(config.build()?), own, Arc::new(certified)))
        });
        Ok(Self { keys, psk: Arc::new(psk.build()?), certified: certified.transpose()? })
    }
}

/// Whether DTLS can sign with this private key (DER): ECDSA with P-256 or P-384.
pub(crate) fn can_sign_with(private_key: &[u8]) -> bool {
    PROVIDER.key_provider.load_private_key(private_key).is_ok()
}

impl Make for Maker {
    fn make(&self, now: Instant, hello: &Hello<'_>) -> Result<Box<dyn Association>, Refusal> {
        let psk = !self.keys.is_empty();
        let (dtls, certified) = hello
            .suites()
            .find_map(|suite| match Dtls12CipherSuite::from_u16(suite) {
                suite if psk && PSK_SUITES.contains(&suite) => {
                    Some((Dtls::new_12_psk(Arc::clone(&self.psk), now), None))
                }
                suite if CERTIFICATE_SUITES.contains(&suite) => {
                    self.certified.as_ref().map(|(config, own, certified)| {
                        let dtls = Dtls::new_12(Arc::clone(config), own.clone(), now);
                        (dtls, Some(Arc::clone(certified)))
                    })
                }
                _ => None,
            })
            .ok_or_else(|| self.no_suite(hello))?;
        let mut association =
            DimplAssociation { dtls, keys: Arc::clone(&self.keys), certified, said: Some(Box::default()) };
        // The exchange that took place without it: what it says to that was said already.
        association.tell(now, &hello.without_cookie())?;
        association.discard();
        VERIFIED.set(hello.cookie.try_into().ok());
        let told = association.tell(now, hello.datagram);
        VERIFIED.set(None);
        told?;
        Ok(Box::new(association))
    }

    fn still_knows(&self, identity: &Identity) -> bool {
        let certified = self.certified.as_ref().map(|(_, _, certified)| certified);
        match identity {
            Identity::Key(key) => self.keys.has(key),
            Identity::Certificate { device, der } => {
                certified.is_some_and(|certified| certified.device(der).as_ref() == Ok(device))
            }
            Identity::Nobody => certified.is_some_and(|certified| !certified.tls.asks()),
        }
    }
}

impl Maker {
    fn no_suite(&self, hello: &Hello<'_>) -> Refusal {
        let mut wanted = Vec::new();
        if !self.keys.is_empty() {
            wanted.push("TLS_PSK_WITH_AES_128_CCM_8 (pre-shared key)");
        }
        if self.certified.is_some() {
            wanted.push("ECDHE_ECDSA with AES-GCM (certificate)");
        }
        let offered: Vec<String> =
            hello.suites().take(SUITES_SHOWN).map(|suite| format!("{suite:04x}")).collect();
        if wanted.is_empty() {
            return Refusal(
                "no device has a pre-shared key (`psk`), and there is no certificate under [coap.dtls]"
                    .to_owned(),
            );
        }
        Refusal(format!(
            "it offers the cipher suites {} and needs {}: set one of these on the device",
            offered.join(" "),
            wanted.join(" or ")
        ))
    }
}

/// Suites of a client that are shown in the log.
const SUITES_SHOWN: usize = 16;

/// An association by dimpl. There are thousands, most of them silent: what only a handshake needs stands apart, so that this fits
/// a size of which the allocator has one.
pub(super) struct DimplAssociation {
    dtls: Dtls,
    keys: Arc<Keys>,
    /// What it is with certificates.
    certified: Option<Arc<Certified>>,
    /// What the peer has said of itself, until the handshake is done.
    said: Option<Box<Said>>,
}

/// Who the peer says that it is.
#[derive(Default)]
struct Said {
    /// The pre-shared key that it asked for.
    asked: Option<Asked>,
    /// Its certificate.
    certificate: Option<Identity>,
}

const _: () = assert!(size_of::<DimplAssociation>() <= 3_584, "it no longer fits that size");

impl DimplAssociation {
    fn tell(&mut self, now: Instant, datagram: &[u8]) -> Result<(), Refusal> {
        self.dtls.handle_timeout(now).map_err(|error| self.refusal(&error))?;
        self.keys.take_asked();
        let told = self.dtls.handle_packet(datagram);
        if let (Some(said), Some(asked)) = (&mut self.said, self.keys.take_asked()) {
            said.asked = Some(asked);
        }
        told.map_err(|error| self.refusal(&error))
    }

    /// Throws away what it has to say.
    fn discard(&mut self) {
        let mut buffer = [0; MTU_BYTES];
        while !matches!(self.dtls.poll_output(&mut buffer), Output::Timeout(_)) {}
    }

    /// Whose certificate this is, if its authority vouches for it. dimpl has seen that the peer holds its key, and shows the
    /// first one of a chain only: devices' certificates must come from the authority itself.
    fn judge(&self, certificate: &[u8]) -> Result<DeviceId, Refusal> {
        let judge = self.certified.as_ref().filter(|certified| certified.tls.asks());
        let judge = judge.ok_or_else(|| Refusal("it sent a certificate, unasked".to_owned()))?;
        judge
            .device(certificate)
            .map_err(|error| Refusal(format!("its certificate is not accepted: {error}")))
    }

    /// What went wrong, in the operator's words.
    fn refusal(&self, error: &Error) -> Refusal {
        let key = self.said.as_ref().and_then(|said| said.asked.as_ref()).map(|asked| match asked {
            Asked::Known(key) => format!(
                "its pre-shared key is not the one that stands here for {:?} (`psk`), or it went away in the middle",
                key.device.as_str()
            ),
            Asked::Unknown(identity) => format!(
                "no device has the PSK identity {:?} (`psk_identity`, by default the device's id)",
                String::from_utf8_lossy(&identity[..identity.len().min(IDENTITY_SHOWN_BYTES)])
            ),
        });
        Refusal(match error {
            Error::SecurityError(SecurityError::ExtendedMasterSecretNotNegotiated) => {
                "it does not offer the Extended Master Secret (RFC 7627); switch it on in the device's TLS library (mbedTLS: \
                 MBEDTLS_SSL_EXTENDED_MASTER_SECRET)"
                    .to_owned()
            }
            Error::Timeout(_) => key.unwrap_or_else(|| "it went away in the middle of the handshake".to_owned()),
            Error::SecurityError(SecurityError::FatalAlert { description }) => {
                format!("it ended the handshake with alert {description}{}", match description {
                    42 | 43 | 45 | 46 | 48 => ": it does not accept our certificate; give it the authority's",
                    20 | 51 => ": its pre-shared key is not the one that stands here",
                    _ => "",
                })
            }
            other => key.unwrap_or_else(|| other.to_string()),
        })
    }
}

/// Of an identity in the log.
const IDENTITY_SHOWN_BYTES: usize = 64;

impl Association for DimplAssociation {
    fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<(), Refusal> {
        self.tell(now, datagram)
    }

    fn tick(&mut self, now: Instant) -> Result<(), Refusal> {
        self.dtls.handle_timeout(now).map_err(|error| self.refusal(&error))
    }

    fn send(&mut self, plain: &[u8]) -> Result<(), Refusal> {
        self.dtls.send_application_data(plain).map(drop).map_err(|error| self.refusal(&error))
    }

    fn close(&mut self) {
        // An association that is gone already needs no goodbye.
        let _ = self.dtls.close();
    }

    fn poll<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Event<'a>, Refusal> {
        Ok(match self.dtls.poll_output(buffer) {
            Output::Packet(datagram) => Event::Datagram(datagram),
            Output::ApplicationData(plain) => Event::Plain(plain),
            Output::CloseNotify => Event::Closed,
            Output::Timeout(until) => Event::Wait(until),
            Output::PeerCert(certificate) => {
                let device = self.judge(certificate)?;
                if let Some(said) = &mut self.said {
                    said.certificate =
                        Some(Identity::Certificate { device, der: Bytes::copy_from_slice(certificate) });
                }
                Event::Nothing
            }
            Output::Connected => Event::Established(match self.said.take().map(|said| *said) {
                Some(Said { asked: Some(Asked::Known(key)), certificate: None }) => Identity::Key(key),
                Some(Said { asked: None, certificate: Some(certificate) }) => certificate,
                Some(Said { asked: None, certificate: None })
                    if self.certified.as_ref().is_some_and(|certified| !certified.tls.asks()) =>
                {
                    Identity::Nobody
                }
                _ => return Err(Refusal("it did not say who it is".to_owned())),
            }),
            _ => Event::Nothing,
        })
    }
}
