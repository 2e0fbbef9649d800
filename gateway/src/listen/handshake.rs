//! What lies between an accepted connection and MQTT or CoAP: a load balancer's header, TLS, WebSocket. Each connection goes
//! through those that its listener asks for, within one time-out, and only so many at once. What can change at a reload is looked
//! up for each.

use super::admission::{Admission, Permit, Refusal};
use super::stream::Revoked;
use super::websocket::{self, Offer, Origins, Refused, upgrade};
use super::{accept, proxy, socket};
use crate::access::audit::Audit;
use crate::config::{Config, Network, Secure, Streams};
use crate::connection::{Entrance, Newcomer};
use crate::logging::{Pass, Throttle};
use crate::tls::{self, Tls};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tidegate_engine::event::{Certificate, Peer, StreamPeer};
use tidegate_engine::id::DeviceId;
use tidegate_engine::session::certificates::Certificates;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The devices' protocol.
    pub protocol: Protocol,
    /// What lies beneath it.
    pub transport: Transport,
}

/// A protocol of devices on streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT.
    Mqtt,
    /// CoAP (RFC 8323).
    Coap,
}

/// What lies between TCP and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nothing.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket,
}

impl Spoken {
    /// For the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.protocol, self.transport) {
            (Protocol::Mqtt, Transport::Tcp) => "MQTT over TCP",
            (Protocol::Mqtt, Transport::Tls) => "MQTT over TLS",
            (Protocol::Mqtt, Transport::WebSocket) => "MQTT over WebSocket",
            (Protocol::Mqtt, Transport::SecureWebSocket) => "MQTT over secure WebSocket",
            (Protocol::Coap, Transport::Tcp) => "CoAP over TCP",
            (Protocol::Coap, Transport::Tls) => "CoAP over TLS",
            (Protocol::Coap, Transport::WebSocket) => "CoAP over WebSocket",
            (Protocol::Coap, Transport::SecureWebSocket) => "CoAP over secure WebSocket",
        }
    }
}

impl Protocol {
    /// Somebody of whom nothing is known but where it is.
    pub(super) fn stranger(self, address: SocketAddr) -> Newcomer {
        match self {
            Self::Mqtt => Newcomer::Mqtt(Peer::at(address)),
            Self::Coap => Newcomer::Coap(StreamPeer { address, device: None }),
        }
    }

    /// What is said of it to WebSocket's clients.
    fn offer(self) -> &'static Offer {
        match self {
            Self::Mqtt => &websocket::MQTT,
            Self::Coap => &websocket::COAP,
        }
    }
}

/// What every listener for streams shares.
#[derive(Debug)]
pub struct Door {
    /// Where connections go.
    pub(super) entrance: Entrance,
    /// How many there may be.
    pub(super) admission: Arc<Admission>,
    audit: Audit,
    settings: watch::Sender<Arc<Settings>>,
    turns: Semaphore,
    sums: Semaphore,
    failures: Mutex<Throttle>,
}

/// What the configuration says about handshakes.
#[derive(Debug)]
struct Settings {
    timeout: Duration,
    turns: usize,
    mqtt: Means,
    coap: Means,
    /// Whose certificates are known.
    devices: Certificates,
    /// The longest CoAP message, in bytes.
    coap_message_bytes: usize,
}

/// What one protocol's handshakes are done with.
#[derive(Debug)]
struct Means {
    proxies: Vec<Network>,
    origins: Origins,
    tls: Option<Arc<ServerConfig>>,
    websocket_tls: Option<Arc<ServerConfig>>,
    /// Who judges devices' certificates.
    judge: Option<Tls>,
    websocket_judge: Option<Tls>,
}

impl Means {
    fn of(streams: &Streams) -> Self {
        let tls = |secure: &Option<Secure>| secure.as_ref().map(|s| Arc::clone(s.tls.config()));
        let judge = |secure: &Option<Secure>| secure.as_ref().map(|s| s.tls.clone());
        Self {
            proxies: streams.proxies.clone(),
            origins: Origins::new(&streams.websocket.origins),
            tls: tls(&streams.tls),
            websocket_tls: tls(&streams.websocket.tls),
            judge: judge(&streams.tls),
            websocket_judge: judge(&streams.websocket.tls),
        }
    }

    /// CoAP has a name in TLS's negotiation of protocols (RFC 8323, 8.2); who names none is not asked to.
    fn of_coap(streams: &Streams) -> Self {
        let mut means = Self::of(streams);
        if let Some(tls) = &mut means.tls {
            Arc::make_mut(tls).alpn_protocols = vec![b"coap".to_vec()];
        }
        means
    }
}

impl Settings {
    fn of(config: &Config) -> Self {
        Self {
            timeout: config.limits.handshake_timeout,
            turns: config.limits.handshakes,
            mqtt: Means::of(&config.mqtt),
            coap: Means::of_coap(&config.coap_streams),
            devices: Certificates::new(&config.devices),
            coap_message_bytes: config.limits.coap_message_bytes,
        }
    }

    fn means(&self, protocol: Protocol) -> &Means {
        match protocol {
            Protocol::Mqtt => &self.mqtt,
            Protocol::Coap => &self.coap,
        }
    }

    /// Who has come.
    fn newcomer(&self, protocol: Protocol, peer: Peer) -> Result<Newcomer, Failure> {
        match protocol {
            // Its CONNECT says as which device.
            Protocol::Mqtt => Ok(Newcomer::Mqtt(peer)),
            Protocol::Coap => {
                let device = peer.certificate.as_deref().map(|certificate| self.device(certificate));
                Ok(Newcomer::Coap(StreamPeer { address: peer.address, device: device.transpose()? }))
            }
        }
    }

    /// Whether somebody who has come with a certificate could still come with it.
    fn still_accepts(&self, spoken: Spoken, shown: &Shown, who: &Newcomer) -> Result<(), String> {
        let means = self.means(spoken.protocol);
        let judge = match spoken.transport {
            Transport::SecureWebSocket => &means.websocket_judge,
            _ => &means.judge,
        };
        // A listener that is not configured any more goes on as it is until the next start.
        if let Some(judge) = judge {
            judge.certified().still_accepts(&shown.chain)?;
        }
        match who {
            Newcomer::Coap(StreamPeer { device, .. })
                if self.devices.device(&shown.certificate) != *device =>
            {
                Err("it is another device's, or nobody's".to_owned())
            }
            // MQTT's sessions look at that themselves.
            _ => Ok(()),
        }
    }

    fn device(&self, certificate: &Certificate) -> Result<DeviceId, Failure> {
        self.devices.device(certificate).ok_or_else(|| {
            let name = &certificate.name;
            Failure::Certificate(format!(
                "it names {name:?}, which is no device's id, or a device's that has another one"
            ))
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Proxy(#[from] proxy::Malformed),
    #[error("the PROXY header speaks for {0}, which only a load balancer on this host can")]
    Loopback(IpAddr),
    #[error("connection refused: {0}")]
    Admission(#[from] Refusal),
    #[error("this listener has no certificate any more; restart the gateway")]
    NoCertificate,
    #[error("no TLS: {0}{hint}", hint = hint(.0))]
    Tls(io::Error),
    #[error("the device's certificate cannot be used: {0}")]
    Certificate(String),
    #[error("no WebSocket: {0}")]
    WebSocket(#[from] Refused),
    #[error("the handshake took longer than limits.handshake_timeout")]
    Late,
}

impl Failure {
    /// Whether a device could not prove who it is.
    fn is_about_access(&self) -> bool {
        use rustls::Error;
        match self {
            Self::Certificate(_) => true,
            Self::Tls(error) => matches!(
                error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()),
                Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented)
            ),
            _ => false,
        }
    }
}

/// What the operator may not see at once in rustls's words.
fn hint(error: &io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => "; the peer does not seem to speak TLS",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; its authority is not in `client_ca`, or its certificate does not come with the intermediate ones"
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)) => {
            "; `client_crl` has no list of its authority"
        }
        Some(Error::NoCertificatesPresented) => {
            "; this listener asks devices for a certificate (`client_ca`)"
        }
        _ => "",
    }
}

impl Door {
    /// A door into `entrance`.
    #[must_use]
    pub fn new(entrance: Entrance, admission: Arc<Admission>, audit: Audit, config: &Config) -> Arc<Self> {
        Arc::new(Self {
            entrance,
            admission,
            audit,
            settings: watch::Sender::new(Arc::new(Settings::of(config))),
            turns: Semaphore::new(config.limits.handshakes),
            sums: Semaphore::new(1),
            failures: Mutex::new(Throttle::new()),
        })
    }

    /// Takes over new certificates, origins, load balancers and bounds. Connections that there are stay as they are, but for those
    /// whose certificate would not be accepted any more.
    pub fn reload(&self, config: &Config) {
        let mut settings = Settings::of(config);
        self.settings.send_modify(|current| {
            if settings.turns > current.turns {
                self.turns.add_permits(settings.turns - current.turns);
            } else {
                // Of those in use none is taken away.
                settings.turns = current.turns - self.turns.forget_permits(current.turns - settings.turns);
            }
            *current = Arc::new(settings);
        });
    }

    /// Whether a connection from here begins with a PROXY header.
    pub(super) fn speaks_for_others(&self, protocol: Protocol, address: IpAddr) -> bool {
        self.settings.borrow().means(protocol).proxies.iter().any(|network| network.contains(address))
    }

    /// One of the handshakes that may be under way; waits for one to end. In the order of coming: a stalled one is cut off after
    /// its time, so that everyone's turn comes.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Drives what does TLS's sums: one step of one handshake in each turn of the event loop, so that a flood of handshakes does not
    /// keep those waiting who are connected.
    async fn by_and_by<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = Box::pin(handshake);
        loop {
            let sums = self.sums.acquire().await;
            yield_now().await; // Comes back when everybody else has had a turn.
            let step = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(sums);
            match step {
                Poll::Ready(done) => return done,
                // It has left its waker with what it waits for. Between its poll and this sleep nothing may be awaited: a wake-up
                // would be lost.
                Poll::Pending => woken().await,
            }
        }
    }

    fn failed(&self, peer: SocketAddr, spoken: Spoken, failure: &Failure) {
        self.admission.handshake_failed();
        if failure.is_about_access() {
            self.audit.handshake_refused(peer, &failure.to_string());
        }
        let pass = self.failures.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
        if let Some(Pass { suppressed }) = pass {
            tracing::warn!(%peer, listener = spoken.name(), suppressed, "no connection: {failure}");
        }
    }
}

/// Takes a connection through its handshakes, and opens it in a task of its own: what they need in memory ends here.
pub(super) async fn shake(
    stream: TcpStream,
    peer: SocketAddr,
    spoken: Spoken,
    permit: Permit,
    proxied: bool,
    door: Arc<Door>,
) {
    socket::prepare(&stream);
    let Some(turn) = door.turn().await else { return };
    let changes = door.settings.subscribe();
    let at_most = changes.borrow().timeout;
    let result = timeout(at_most, layers(stream, peer, spoken, permit, proxied, changes, &door)).await;
    drop(turn);
    match result {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => door.failed(peer, spoken, &failure),
        Err(_) => door.failed(peer, spoken, &Failure::Late),
    }
}

async fn layers(
    mut stream: TcpStream,
    address: SocketAddr,
    spoken: Spoken,
    mut permit: Permit,
    proxied: bool,
    mut changes: watch::Receiver<Arc<Settings>>,
    door: &Arc<Door>,
) -> Result<(), Failure> {
    // What changes from here on is looked at when the handshakes are done.
    let settings = Arc::clone(&changes.borrow_and_update());
    let mut peer = Peer::at(address);
    if proxied {
        if let proxy::Header::For(client) = proxy::read(&mut stream).await? {
            // "This host" has rights of its own, and on another host it is another one.
            if client.ip().is_loopback() && !address.ip().to_canonical().is_loopback() {
                return Err(Failure::Loopback(client.ip()));
            }
            peer.address = client;
        }
        permit.comes_from(peer.address.ip())?;
    }
    let Spoken { protocol, transport } = spoken;
    let (means, offer) = (settings.means(protocol), protocol.offer());
    let longest = settings.coap_message_bytes;
    match transport {
        Transport::Tcp => {
            let who = settings.newcomer(protocol, peer)?;
            accept::plain(stream, who, &door.entrance, permit).await;
        }
        Transport::Tls => {
            let (stream, shown) = secure(stream, means.tls.as_ref(), door).await?;
            peer.certificate = shown.as_ref().map(|shown| Arc::clone(&shown.certificate));
            let who = settings.newcomer(protocol, peer)?;
            let revoked = shown.map(|shown| shown.revoked(changes, spoken, &who, door));
            let (reader, writer) = tokio::io::split(stream);
            open(reader, writer, who, permit, revoked, door);
        }
        Transport::WebSocket => {
            let who = settings.newcomer(protocol, peer)?;
            upgrade(&mut stream, offer, &means.origins, false).await?;
            let (reader, writer) = stream.into_split();
            let (reader, writer) = websocket::open(reader, writer, offer.carries(longest));
            open(reader, writer, who, permit, None, door);
        }
        Transport::SecureWebSocket => {
            let (mut stream, shown) = secure(stream, means.websocket_tls.as_ref(), door).await?;
            peer.certificate = shown.as_ref().map(|shown| Arc::clone(&shown.certificate));
            let who = settings.newcomer(protocol, peer)?;
            let revoked = shown.map(|shown| shown.revoked(changes, spoken, &who, door));
            upgrade(&mut stream, offer, &means.origins, true).await?;
            let (reader, writer) = tokio::io::split(stream);
            let (reader, writer) = websocket::open(reader, writer, offer.carries(longest));
            open(reader, writer, who, permit, revoked, door);
        }
    }
    Ok(())
}

/// Waits until something wakes the task.
async fn woken() {
    let mut asleep = false;
    poll_fn(|_| if std::mem::replace(&mut asleep, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

type Secured = (TlsStream<TcpStream>, Option<Shown>);

async fn secure(
    stream: TcpStream,
    config: Option<&Arc<ServerConfig>>,
    door: &Door,
) -> Result<Secured, Failure> {
    let acceptor = TlsAcceptor::from(Arc::clone(config.ok_or(Failure::NoCertificate)?));
    let stream = door.by_and_by(acceptor.accept(stream)).await.map_err(Failure::Tls)?;
    let shown = stream.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty());
    let shown = shown.map(|chain| Shown::new(chain).map_err(Failure::Certificate)).transpose()?;
    Ok((stream, shown))
}

fn open(
    reader: impl AsyncRead + Unpin + Send + 'static,
    writer: impl AsyncWrite + Send + 'static,
    who: Newcomer,
    permit: Permit,
    revoked: Option<Revoked>,
    door: &Arc<Door>,
) {
    tokio::spawn(accept::converse(reader, writer, who, door.entrance.clone(), permit, revoked));
}

/// The certificate by which somebody was let in.
struct Shown {
    certificate: Arc<Certificate>,
    /// With those behind it that lead to its authority.
    chain: Vec<CertificateDer<'static>>,
}

impl Shown {
    fn new(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let own = chain.first().ok_or_else(|| "there is none".to_owned())?;
        let certificate = Arc::new(tls::named(own)?);
        Ok(Self { certificate, chain: chain.iter().map(|one| one.clone().into_owned()).collect() })
    }

    /// Waits until a configuration accepts it no longer. They are looked at one after the other: there may be thousands.
    fn revoked(
        self,
        mut changes: watch::Receiver<Arc<Settings>>,
        spoken: Spoken,
        who: &Newcomer,
        door: &Arc<Door>,
    ) -> Revoked {
        let (who, door) = (who.clone(), Arc::clone(door));
        Box::pin(async move {
            while changes.changed().await.is_ok() {
                let settings = Arc::clone(&changes.borrow_and_update());
                let turn = door.sums.acquire().await;
                yield_now().await; // Comes back when everybody else has had a turn.
                let judged = settings.still_accepts(spoken, &self, &who);
                drop(turn);
                if let Err(reason) = judged {
                    let peer = who.address();
                    let reason = format!("its certificate is not accepted any more: {reason}");
                    door.audit.handshake_refused(peer, &reason);
                    tracing::info!(%peer, listener = spoken.name(), "a connection ends: {reason}");
                    return;
                }
            }
            // The listeners are gone, and the connection goes in its own way.
            std::future::pending().await
        })
    }
}
