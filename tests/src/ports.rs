//! Loopback ports that nobody uses. Taken below the range from which the kernel gives ports to outgoing connections, so
//! that a server can come back to its port after it was killed.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below `net.ipv4.ip_local_port_range` and above what services use.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port that is free for TCP and UDP on 127.0.0.1 at this moment.
///
/// # Panics
/// When a thousand tries find none.
#[must_use]
pub fn free_port() -> u16 {
    for _ in 0..1_000 {
        let port = fastrand::u16(RANGE);
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}
