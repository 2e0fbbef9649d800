//! Listeners: bytes in and out, and how many connections there may be. What the bytes mean is the engine's business.
//! Every transport ends in [`stream::read`] and [`Entrance`](crate::connection::Entrance), or in a numbered datagram socket.

pub mod accept;
pub mod admission;
pub mod coap;
pub mod dtls;
pub mod handshake;
mod multicast;
mod proxy;
pub mod serial;
mod socket;
mod stream;
mod websocket;

use std::io;
use std::net::SocketAddr;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {}", explain(.source, .address))]
pub struct BindError {
    /// The key of the configuration where the address stands.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

fn explain(error: &io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program has this port; `ss -lntup 'sport = :{}'` names it. Stop it, or choose another port",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address (yet); use one that `ip address` shows, or 0.0.0.0 for all".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one, or give the service that capability"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Takes the administrator's address.
pub(crate) fn bind_admin(address: SocketAddr) -> Result<tokio::net::TcpListener, BindError> {
    socket::bind_tcp("admin.listen", address)
}
