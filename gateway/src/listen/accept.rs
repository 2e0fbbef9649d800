//! Accepts stream connections, whatever is spoken on them, bounds them, and hands them over to the driver. It does not look into
//! them. TLS and WebSocket take an accepted connection on through their handshakes, and end in [`converse`].

use super::admission::Permit;
use super::handshake::{Door, Spoken, Transport, shake};
use super::{BindError, socket, stream};
use crate::connection::{Entrance, Newcomer};
use crate::logging::{Pass, Throttle};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// The wait after the kernel had no descriptor or memory for a connection: it stays in the kernel's queue meanwhile.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Takes an address, which stands under `key` in the configuration. Must run inside the runtime.
///
/// # Errors
/// [`BindError`] when the address cannot be had.
pub fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    socket::bind_tcp(key, address)
}

/// Accepts for ever. Nothing that a peer or the kernel does ends the loop; dropping the future does.
pub async fn serve(listener: TcpListener, spoken: Spoken, door: Arc<Door>) {
    let mut failures = Throttle::new();
    let mut refusals = Throttle::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(Pass { suppressed }) = failures.allow(Instant::now()) {
                    tracing::warn!(%error, suppressed, "a connection could not be accepted; if this lasts, raise the limit of open files");
                }
                if !of_one_connection(&error) {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
                continue;
            }
        };
        let proxied = door.speaks_for_others(spoken.protocol, peer.ip());
        let admitted =
            if proxied { door.admission.admit_for_another() } else { door.admission.admit(peer.ip()) };
        match admitted {
            Ok(permit) if spoken.transport == Transport::Tcp && !proxied => {
                socket::prepare(&stream);
                plain(stream, spoken.protocol.stranger(peer), &door.entrance, permit).await;
            }
            Ok(permit) => {
                tokio::spawn(shake(stream, peer, spoken, permit, proxied, Arc::clone(&door)));
            }
            Err(refusal) => {
                if let Some(Pass { suppressed }) = refusals.allow(Instant::now()) {
                    tracing::warn!(%peer, suppressed, "connection refused: {refusal}");
                }
            }
        }
    }
}

/// Whether the failure concerned only the connection that was to be accepted (accept(2): treat them like a retry).
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Hands a plain connection over to the driver; waits while many wait for it.
pub(super) async fn plain(stream: TcpStream, who: Newcomer, entrance: &Entrance, permit: Permit) {
    match stream.into_std() {
        // When the driver is gone the connection ends with it.
        Ok(stream) => drop(entrance.adopt(who, stream, permit).await),
        Err(error) => tracing::debug!(%error, "an accepted connection could not be taken over"),
    }
}

/// Carries a wrapped stream's bytes to its end, whatever lies beneath.
pub(super) async fn converse(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Send + 'static,
    who: Newcomer,
    entrance: Entrance,
    permit: Permit,
    revoked: Option<stream::Revoked>,
) {
    if let Ok((conn, gate)) = entrance.open(who, writer).await {
        stream::read(reader, conn, &gate, entrance.inbox(), revoked).await;
    }
    drop(permit);
}
