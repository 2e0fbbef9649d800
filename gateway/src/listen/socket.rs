//! How sockets are made and set up, the same for every listener.

use super::BindError;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel completes before we accept them: a site's devices all come back at once after a power cut.
const BACKLOG: i32 = 1_024;

/// Asked for each datagram socket, in bytes: half a second of small datagrams at 50,000 a second. The kernel grants
/// at most `net.core.rmem_max`.
const DATAGRAM_RECEIVE_BYTES: usize = 4 << 20;

/// A connection that is silent for so long is probed by the kernel...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// ...so often...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// ...and given up after so many probes without an answer. MQTT's own keep-alive may be off (MQTT 5.0, 3.1.2.10).
const KEEPALIVE_PROBES: u32 = 4;
/// What was sent and is not acknowledged by the peer's kernel for so long ends the connection, in milliseconds: longer than a radio
/// link's usual gap, shorter than the 15 minutes of the kernel.
const UNACKNOWLEDGED_MS: u32 = 120_000;

pub(super) fn bind_tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let make = || -> io::Result<TcpListener> {
        let socket = make(address, Type::STREAM, Protocol::TCP)?;
        // A restarted gateway must get its port back while connections of its last life are in TIME-WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    make().map_err(|source| BindError { key, address, source })
}

pub(super) fn bind_udp(key: &'static str, address: SocketAddr) -> Result<UdpSocket, BindError> {
    bind_datagrams(address, false).map_err(|source| BindError { key, address, source })
}

/// As [`bind_udp`], at a port that another socket has which shares it, too.
pub(super) fn bind_udp_shared(key: &'static str, address: SocketAddr) -> Result<UdpSocket, BindError> {
    bind_datagrams(address, true).map_err(|source| BindError { key, address, source })
}

fn bind_datagrams(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = make(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_address(shared)?;
    socket.bind(&address.into())?;
    if let Err(error) = socket.set_recv_buffer_size(DATAGRAM_RECEIVE_BYTES) {
        tracing::debug!(%address, %error, "the receive buffer keeps its default size");
    }
    Ok(socket.into())
}

fn make(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Otherwise IPv4 peers appear as ::ffff:a.b.c.d, and 127.0.0.1 no longer looks like loopback to access rules.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Prepares an accepted connection. A failure costs comfort, not correctness: the connection stays.
pub(super) fn prepare(stream: &TcpStream) {
    let set = || -> io::Result<()> {
        // An acknowledgement must not wait for the one before it to be acknowledged by TCP.
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_keepalive(true)?;
        rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        rustix::net::sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "an accepted connection could not be set up in full");
    }
}
