//! Who sends a request: where from, what is proved of it, and how much it may be sent before it has proved where it is.
//! Decides nothing about rights.

use super::oscore::ContextId;
use crate::event::{Endpoint, Via};
use crate::id::{ConnId, DeviceId};
use std::net::{IpAddr, SocketAddr};
use tidegate_oscore::MAX_EXPANSION_BYTES;

/// How many times the bytes of a request its answer may have. The source address of a datagram may be forged, and
/// then the answer hits somebody else (draft-irtf-t2trg-amplification-attacks; RFC 9175, 2.4).
const AMPLIFICATION_MAX: usize = 3;

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// In datagrams.
    Datagram(Endpoint),
    /// On a stream.
    Stream(ConnId),
}

/// Where answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Address {
    /// By datagrams: message ids, acknowledgements and repetitions are ours to keep (RFC 7252, 4).
    Datagram(Endpoint),
    /// Protected with a device's context: a peer of its own beside whoever else is there. What goes here goes protected or not at
    /// all.
    Protected(Place, ContextId),
    /// On a stream, which does all that (RFC 8323).
    Stream(ConnId),
}

impl Address {
    /// Whether it is on a stream: nothing comes twice there, and nothing is acknowledged.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Stream(_) | Self::Protected(Place::Stream(_), _))
    }
}

/// The sender of one request.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) address: Address,
    pub(super) peer: SocketAddr,
    /// Who it is, if that is proved.
    pub(super) device: Option<DeviceId>,
    /// The request came over a line or association of this peer alone.
    pub(super) bound: bool,
    pub(super) multicast: bool,
    /// The request's bytes.
    pub(super) bytes: usize,
    /// What it says of its place is true.
    pub(super) verified: bool,
    /// The longest message that it takes, in bytes, as far as it has said.
    pub(super) longest: usize,
}

impl Origin {
    pub(super) fn datagram(endpoint: Endpoint, via: Via, bytes: usize) -> Self {
        let multicast = via == Via::Multicast;
        let (bound, device) = match via {
            Via::Open | Via::Multicast => (false, None),
            Via::Bound { device } => (true, device),
        };
        let local = endpoint.peer.ip().to_canonical().is_loopback();
        Self {
            address: Address::Datagram(endpoint),
            peer: endpoint.peer,
            device,
            bound,
            multicast,
            bytes,
            // No other host can send from a loopback address: the kernel drops it (RFC 1122, 3.2.1.3).
            verified: bound || local,
            longest: usize::MAX,
        }
    }

    /// The same, of whom a context proves who it is. With it goes where it is: nobody else can make the request, and it counts
    /// once.
    pub(super) fn protected(self, place: Place, context: ContextId, device: DeviceId) -> Self {
        let address = Address::Protected(place, context);
        let longest = self.longest.saturating_sub(MAX_EXPANSION_BYTES);
        Self { address, device: Some(device), verified: true, longest, ..self }
    }

    /// The longest answer that it may be sent, in bytes.
    pub(super) fn room(&self) -> usize {
        let provable = if self.verified { usize::MAX } else { self.bytes.saturating_mul(AMPLIFICATION_MAX) };
        provable.min(self.longest)
    }

    /// Whether an answer could arrive and would not multiply.
    pub(super) fn is_answerable(&self) -> bool {
        if self.bound {
            return true;
        }
        let ip = self.peer.ip().to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        self.peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
    }

    pub(super) fn is_stream(&self) -> bool {
        self.address.is_stream()
    }
}
