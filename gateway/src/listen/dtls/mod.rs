//! CoAP over DTLS: datagrams in and out, and who their senders are. Nothing is kept for a peer before its cookie has come
//! back; the protocol itself is behind [`association::Association`].

mod association;
mod by_dimpl;
mod cookie;
mod handshakes;
mod hello;
mod keys;
mod lean;
mod peers;
mod spared;
mod table;

pub use association::Identity;
use association::Refusal;
pub(crate) use by_dimpl::can_sign_with;
pub use keys::PresharedKey;
pub use peers::DtlsStats;

use super::{BindError, socket};
use crate::access::audit::Audit;
use crate::inbox::Inbox;
use crate::logging::{Pass, Throttle};
use crate::tls::Tls;
use bytes::Bytes;
use peers::{Bounds, Order, Peers};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::event::{DeviceSetup, Endpoint, Input, Via};
use tidegate_engine::limits::Limits;
use tidegate_engine::session::certificates::Certificates;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

/// The wait after the socket failed, so that a lasting failure does not take the processor.
const RECEIVE_AGAIN: Duration = Duration::from_millis(10);

/// The largest datagram that UDP carries: handshakes may come in large ones.
const DATAGRAM_BYTES: usize = 65_535;

/// One address on which DTLS is spoken.
#[derive(Debug)]
pub struct Server {
    socket: UdpSocket,
    peers: Peers,
    audit: Audit,
    /// Something was sent, and a timer is due earlier than before.
    changed: Notify,
}

/// Why DTLS is not spoken.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system has no randomness for cookies.
    #[error("DTLS cannot be set up: the kernel gives no random numbers")]
    Random,
    /// What it is to be spoken with; a mistake of ours, as the configuration was checked.
    #[error("DTLS cannot be set up ({0}); report this")]
    With(String),
}

impl Server {
    /// Speaks DTLS on `address`. Must run inside the runtime.
    ///
    /// # Errors
    /// [`SetUpError`] in words for the operator.
    pub fn bind(address: SocketAddr, with: &With<'_>, audit: Audit) -> Result<Self, SetUpError> {
        let key = "coap.dtls.listen";
        let socket = UdpSocket::from_std(socket::bind_udp(key, address)?).map_err(|source| BindError {
            key,
            address,
            source,
        })?;
        let now = Instant::now();
        let cookies = cookie::Cookies::new(now).ok_or(SetUpError::Random)?;
        let peers = Peers::new(cookies, with.maker()?, with.bounds());
        Ok(Self { socket, peers, audit, changed: Notify::new() })
    }

    /// Goes on with new keys, certificates and bounds.
    ///
    /// # Errors
    /// [`SetUpError`]; the old ones stay.
    pub fn reload(&self, with: &With<'_>) -> Result<(), SetUpError> {
        let maker = with.maker()?;
        self.perform(|out| self.peers.reload(Instant::now(), maker, with.bounds(), out), |_, _, _, _| {});
        Ok(())
    }

    /// What is counted.
    pub fn stats(&self) -> DtlsStats {
        self.peers.stats()
    }

    /// Its address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends to a peer now, or not at all. False when it was not sent.
    pub fn send(&self, peer: SocketAddr, association: u32, plain: &[u8]) -> bool {
        let mut sent = None;
        let now = Instant::now();
        self.perform(|out| sent = self.peers.send(now, peer, association, plain, out), |_, _, _, _| {});
        if sent == Some(true) {
            self.changed.notify_one();
        }
        sent.is_some()
    }

    /// Receives for ever, as socket `number`; dropping the future ends it.
    pub async fn serve(self: Arc<Self>, number: u16, inbox: Inbox) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut failures = Throttle::new();
        loop {
            let due = self.peers.due();
            let mut came = Vec::new();
            let mut keep = |peer, association, identity: &Identity, bytes| {
                let endpoint = Endpoint { socket: number, peer, association };
                let via = Via::Bound { device: identity.device().cloned() };
                came.push(Input::Datagram { endpoint, via, bytes });
            };
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((count, peer)) => {
                        let datagram = buffer.get(..count).unwrap_or_default();
                        self.perform(|out| self.peers.datagram(Instant::now(), peer, datagram, out), &mut keep);
                    }
                    Err(error) => {
                        if let Some(Pass { suppressed }) = failures.allow(Instant::now()) {
                            tracing::warn!(%error, suppressed, "a DTLS socket failed to receive; going on");
                        }
                        sleep(RECEIVE_AGAIN).await;
                    }
                },
                () = at(due) => self.perform(|out| self.peers.tick(Instant::now(), out), &mut keep),
                // Something was sent, and a timer is due earlier.
                () = self.changed.notified() => {}
            }
            if inbox.send_all(came).await.is_err() {
                return;
            }
        }
    }

    fn perform(
        &self,
        act: impl FnOnce(&mut Vec<Order>),
        mut report: impl FnMut(SocketAddr, u32, &Identity, Bytes),
    ) {
        let mut orders = Vec::new();
        act(&mut orders);
        for order in orders {
            match order {
                // What cannot be sent is lost, as on any bad link: handshakes and CoAP repeat what matters.
                Order::Send { peer, datagram } => drop(self.socket.try_send_to(&datagram, peer)),
                Order::Report { peer, association, identity, plain } => {
                    report(peer, association, &identity, plain);
                }
                Order::Note { peer, outcome } => self.note(peer, outcome),
            }
        }
    }

    /// Writes down who got in, and who did not.
    fn note(&self, peer: SocketAddr, outcome: Result<Identity, Refusal>) {
        match outcome {
            Ok(Identity::Key(key)) => self.audit.joined(peer, &key.device, "psk"),
            Ok(Identity::Certificate { device, .. }) => self.audit.joined(peer, &device, "certificate"),
            // Nobody was asked who it is, and nothing was decided.
            Ok(Identity::Nobody) => {}
            Err(Refusal(reason)) => self.audit.handshake_refused(peer, &reason),
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// What DTLS is spoken with.
#[derive(Debug)]
pub struct With<'a> {
    /// The devices, of which some may have certificates.
    pub devices: &'a [DeviceSetup],
    /// The devices' pre-shared keys.
    pub keys: &'a [PresharedKey],
    /// Our certificate and whose we believe.
    pub tls: Option<&'a Tls>,
    /// How many there may be.
    pub limits: &'a Limits,
}

impl With<'_> {
    fn maker(&self) -> Result<Box<dyn association::Make>, SetUpError> {
        let devices = Arc::new(Certificates::new(self.devices));
        let certified = self.tls.map(|tls| by_dimpl::Certified { tls: tls.certified().clone(), devices });
        let maker = by_dimpl::Maker::new(self.keys, certified)
            .map_err(|error| SetUpError::With(error.to_string()))?;
        Ok(Box::new(maker))
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            associations: self.limits.dtls_associations,
            handshakes: self.limits.handshakes,
            handshakes_per_address: u32::try_from(self.limits.connections_per_address).unwrap_or(u32::MAX),
            idle: self.limits.dtls_idle,
        }
    }
}

#[cfg(test)]
mod tests;
