//! CoAP over UDP: datagrams in. Their answers are sent by the driver through [`Sockets`]; one that cannot be sent
//! is counted and forgotten, as CoAP repeats what matters. No failure of a datagram ends the loop.

use super::{BindError, socket};
use crate::inbox::Inbox;
use crate::logging::{Pass, Throttle};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::event::{Endpoint, Input};
use tokio::net::UdpSocket;

/// The wait after the socket failed, so that a lasting failure does not take the processor.
const RECEIVE_AGAIN: Duration = Duration::from_millis(10);

/// The datagram sockets, as [`Endpoint::socket`] numbers them.
#[derive(Clone, Debug, Default)]
pub struct Sockets(Vec<Arc<UdpSocket>>);

impl Sockets {
    /// Takes all addresses (`coap.listen`). Must run inside the runtime.
    ///
    /// # Errors
    /// [`BindError`] for the first address that cannot be had.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| socket::bind_udp("coap.listen", *address).map(Arc::new);
        Ok(Self(addresses.iter().map(bind).collect::<Result<_, _>>()?))
    }

    /// Each socket with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (u16, Arc<UdpSocket>)> {
        (0..=u16::MAX).zip(self.0.iter().cloned())
    }

    /// Sends a datagram now, or not at all. False when it was not sent.
    pub fn send(&self, endpoint: Endpoint, bytes: &[u8]) -> bool {
        self.0
            .get(usize::from(endpoint.socket))
            .is_some_and(|socket| socket.try_send_to(bytes, endpoint.peer).is_ok())
    }
}

/// Receives for ever; dropping the future ends it. A datagram longer than `longest` bytes is cut to one byte more than that:
/// enough for the engine to see that it is too large, and to answer it.
pub async fn serve(number: u16, socket: Arc<UdpSocket>, inbox: Inbox, longest: usize) {
    let mut buffer = vec![0; longest.saturating_add(1)];
    let mut failures = Throttle::new();
    loop {
        let (count, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                if let Some(Pass { suppressed }) = failures.allow(Instant::now()) {
                    tracing::warn!(%error, suppressed, "a CoAP socket failed to receive; going on");
                }
                tokio::time::sleep(RECEIVE_AGAIN).await;
                continue;
            }
        };
        let endpoint = Endpoint { socket: number, peer };
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        if inbox.send(Input::Datagram { endpoint, bytes }).await.is_err() {
            return;
        }
    }
}
