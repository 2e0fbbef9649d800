//! CoAP over UDP: datagrams in and out. The driver reads and writes the sockets itself. A datagram that cannot be sent is
//! counted and forgotten, as CoAP repeats what matters. No failure of a datagram ends anything. And where CoAP goes that has
//! more around it: DTLS, serial lines.

use super::{BindError, dtls, multicast, serial, socket};
use crate::logging::{Pass, Throttle};
use bytes::Bytes;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;
use tidegate_engine::event::{Endpoint, Via};

/// Datagrams that wait to leave together: the answers to a commit. More leave as soon as they are so many.
const GATHERED_DATAGRAMS: usize = 1_024;

/// Where CoAP goes that a task of its own receives.
#[derive(Debug)]
pub enum Outlet {
    /// An address on which DTLS is spoken.
    Dtls(Arc<dtls::Server>),
    /// A serial line.
    Serial(serial::Outbox),
}

/// The datagram sockets, and the outlets behind them, as [`Endpoint::socket`] numbers them.
#[derive(Debug)]
pub struct Sockets {
    /// Those of `coap.listen`, and behind them those of multicast groups.
    sockets: Vec<Bound>,
    outlets: Vec<Outlet>,
    /// Where every datagram is read into.
    scratch: Box<[u8]>,
    /// To be sent with the next [`flush`](Self::flush).
    gathered: Vec<(Endpoint, Bytes)>,
    failures: Throttle,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// They have left.
    pub sent: u64,
    /// They could not leave at once and are gone.
    pub unsent: u64,
}

/// A datagram socket.
#[derive(Debug)]
struct Bound {
    socket: UdpSocket,
    /// It is a multicast group's: the number of the one from which answers go (RFC 7252, 8).
    answers: Option<u16>,
}

impl Sockets {
    /// Takes all addresses (`coap.listen`), and multicast groups on `interfaces` (`coap.multicast`). A datagram longer than `longest` bytes is cut to one byte more than that: enough
    /// for the engine to see that it is too large, and to answer it.
    ///
    /// # Errors
    /// [`BindError`] for the first address that cannot be had.
    pub fn bind(addresses: &[SocketAddr], interfaces: &[String], longest: usize) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| socket::bind_udp("coap.listen", *address);
        let own = addresses.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let groups = multicast::join(&own, addresses, interfaces)?;
        let own = own.into_iter().map(|socket| Bound { socket, answers: None });
        let groups = groups.into_iter().map(|(socket, answers)| Bound { socket, answers: Some(answers) });
        Ok(Self {
            sockets: own.chain(groups).collect(),
            outlets: Vec::new(),
            scratch: vec![0; longest.saturating_add(1)].into_boxed_slice(),
            gathered: Vec::new(),
            failures: Throttle::new(),
        })
    }

    /// Each socket with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (u16, &UdpSocket)> {
        (0..=u16::MAX).zip(self.sockets.iter().map(|bound| &bound.socket))
    }

    /// Takes one more outlet and gives it its number. More than there are numbers are none.
    pub fn add(&mut self, outlet: Outlet) -> u16 {
        let number = self.sockets.len().saturating_add(self.outlets.len());
        self.outlets.push(outlet);
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// The next datagram that waits at a socket; `None` when none does, or when the socket failed: it will be heard of again
    /// with the next datagram.
    pub fn receive(&mut self, number: u16) -> Option<(Endpoint, Via, Bytes)> {
        let Bound { socket, answers } = self.sockets.get(usize::from(number))?;
        let (number, via) = answers.map_or((number, Via::Open), |answers| (answers, Via::Multicast));
        loop {
            match socket.recv_from(&mut self.scratch) {
                Ok((count, peer)) => {
                    let bytes = Bytes::copy_from_slice(self.scratch.get(..count).unwrap_or_default());
                    return Some((Endpoint { socket: number, peer, association: 0 }, via, bytes));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error);
                    return None;
                }
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if let Some(Pass { suppressed }) = self.failures.allow(Instant::now()) {
            tracing::warn!(%error, suppressed, "a CoAP socket failed to receive; going on");
        }
    }

    /// Takes a datagram that is to leave with the next [`flush`](Self::flush); false when that is due now, as enough wait.
    #[must_use]
    pub fn gather(&mut self, endpoint: Endpoint, bytes: Bytes) -> bool {
        self.gathered.push((endpoint, bytes));
        self.gathered.len() < GATHERED_DATAGRAMS
    }

    /// Sends what was gathered, in its order, each datagram now or not at all.
    pub fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        for group in self.gathered.chunk_by(|(a, _), (b, _)| a.socket == b.socket) {
            let sent = match group {
                [(endpoint, _), _, ..] if usize::from(endpoint.socket) < self.sockets.len() => {
                    self.send_all(endpoint.socket, group)
                }
                _ => group.iter().filter(|(endpoint, bytes)| self.send(*endpoint, bytes)).count(),
            };
            flushed.sent += sent as u64;
            flushed.unsent += (group.len() - sent) as u64;
        }
        self.gathered.clear();
        flushed
    }

    /// Sends datagrams from one socket with as few system calls as it takes, and tells how many have left.
    fn send_all(&self, number: u16, datagrams: &[(Endpoint, Bytes)]) -> usize {
        let Some(Bound { socket, .. }) = self.sockets.get(usize::from(number)) else { return 0 };
        let peers: Vec<SocketAddrAny> =
            datagrams.iter().map(|(endpoint, _)| endpoint.peer.as_any()).collect();
        let slices: Vec<[IoSlice<'_>; 1]> =
            datagrams.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let mut controls: Vec<_> = datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> = peers
            .iter()
            .zip(&slices)
            .zip(&mut controls)
            .map(|((peer, slice), control)| MMsgHdr::new_with_addr(peer, slice, control))
            .collect();
        let mut sent = 0;
        let mut left = &mut messages[..];
        while !left.is_empty() {
            // The kernel stops before the first one that cannot leave, and says why when asked again: that one is given up.
            let passed = match sendmmsg(socket, left, SendFlags::empty()) {
                Ok(count) => {
                    sent += count;
                    count.max(1)
                }
                Err(rustix::io::Errno::INTR) => 0,
                Err(_) => 1,
            };
            left = left.get_mut(passed..).unwrap_or_default();
        }
        sent
    }

    /// Sends a datagram now, or not at all. False when it was not sent.
    fn send(&self, endpoint: Endpoint, bytes: &[u8]) -> bool {
        let number = usize::from(endpoint.socket);
        match self.sockets.get(number) {
            Some(bound) => bound.socket.send_to(bytes, endpoint.peer).is_ok(),
            None => match self.outlets.get(number - self.sockets.len()) {
                Some(Outlet::Dtls(server)) => server.send(endpoint.peer, endpoint.association, bytes),
                Some(Outlet::Serial(outbox)) => outbox.send(bytes),
                None => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flushed, GATHERED_DATAGRAMS, Sockets};
    use bytes::Bytes;
    use std::net::{SocketAddr, UdpSocket};
    use tidegate_engine::event::Endpoint;

    /// Gathers one datagram for each of these ports.
    fn gather(sockets: &mut Sockets, ports: &[u16]) {
        for (number, port) in (0..).zip(ports) {
            let peer = SocketAddr::from(([127, 0, 0, 1], *port));
            let endpoint = Endpoint { socket: 0, peer, association: 0 };
            assert!(sockets.gather(endpoint, Bytes::from(vec![number])));
        }
    }

    #[test]
    fn what_was_gathered_leaves_in_its_order_and_what_cannot_leave_takes_nothing_with_it() {
        let mut sockets = Sockets::bind(&["127.0.0.1:0".parse().unwrap()], &[], 64).unwrap();
        let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [here, there] = [&one, &other].map(|socket| socket.local_addr().unwrap().port());
        // Nothing can be sent to port 0.
        gather(&mut sockets, &[0, here, there, 0, 0, here, 0]);
        assert_eq!(sockets.flush(), Flushed { sent: 3, unsent: 4 });
        assert_eq!(sockets.flush(), Flushed::default(), "once");
        let heard = |socket: &UdpSocket| {
            let mut byte = [0];
            socket.recv(&mut byte).unwrap();
            byte[0]
        };
        assert_eq!([heard(&one), heard(&one), heard(&other)], [1, 5, 2]);
    }

    #[test]
    fn a_socket_that_is_not_there_takes_nothing() {
        let mut sockets = Sockets::bind(&["127.0.0.1:0".parse().unwrap()], &[], 64).unwrap();
        let endpoint = Endpoint { socket: 7, peer: ([127, 0, 0, 1], 9).into(), association: 0 };
        for _ in 1..GATHERED_DATAGRAMS {
            assert!(sockets.gather(endpoint, Bytes::new()));
        }
        assert!(!sockets.gather(endpoint, Bytes::new()), "enough for once");
        let unsent = GATHERED_DATAGRAMS as u64;
        assert_eq!(sockets.flush(), Flushed { sent: 0, unsent });
    }
}
