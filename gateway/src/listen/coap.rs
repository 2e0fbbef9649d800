//! CoAP over UDP: datagrams in and out. The driver reads and writes the sockets itself. A datagram that cannot be sent is
//! counted and forgotten, as CoAP repeats what matters. No failure of a datagram ends anything. And where CoAP goes that has
//! more around it: DTLS, serial lines.

use super::{BindError, dtls, multicast, serial, socket};
use crate::logging::{Pass, Throttle};
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;
use tidegate_engine::event::{Endpoint, Via};

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
    failures: Throttle,
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

    /// Sends a datagram now, or not at all. False when it was not sent.
    #[must_use]
    pub fn send(&self, endpoint: Endpoint, bytes: &[u8]) -> bool {
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
