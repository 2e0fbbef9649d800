//! One peer's end of DTLS on our side: what the table of peers needs of whoever implements the protocol.

use super::hello::Hello;
use super::keys::PresharedKey;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use tidegate_engine::id::DeviceId;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It holds this pre-shared key.
    Key(Arc<PresharedKey>),
    /// It holds the private key of a certificate that was verified.
    Certificate {
        /// Whose it is.
        device: DeviceId,
        /// The certificate itself (DER).
        der: Bytes,
    },
    /// It was not asked.
    Nobody,
}

impl Identity {
    /// The device, if it is one.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Key(key) => Some(&key.device),
            Self::Certificate { device, .. } => Some(device),
            Self::Nobody => None,
        }
    }
}

/// What an association has to say.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A datagram to be sent to the peer.
    Datagram(&'a [u8]),
    /// The handshake is done.
    Established(Identity),
    /// What the peer sent.
    Plain(&'a [u8]),
    /// The peer has ended it.
    Closed,
    /// Nothing to do, and perhaps more to say.
    Nothing,
    /// Nothing until then, unless a datagram comes.
    Wait(Instant),
}

/// Why there is no association, or no longer: in words for the log, what comes from the peer escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(pub(super) String);

/// A DTLS server's association with one peer; sans I/O, on the caller's clock.
pub(super) trait Association: Send {
    /// Takes a datagram of the peer's.
    fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<(), Refusal>;

    /// Looks after its timers.
    fn tick(&mut self, now: Instant) -> Result<(), Refusal>;

    /// Takes what shall be sent to the peer.
    fn send(&mut self, plain: &[u8]) -> Result<(), Refusal>;

    /// Says goodbye (close_notify).
    fn close(&mut self);

    /// What it has to say next; `Wait` ends the round. `buffer` holds any record (RFC 6347, 4.1).
    fn poll<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Event<'a>, Refusal>;
}

/// Makes associations of one kind.
pub(super) trait Make: Send {
    /// Begins one with the sender of a hello whose cookie was verified.
    fn make(&self, now: Instant, hello: &Hello<'_>) -> Result<Box<dyn Association>, Refusal>;

    /// Whether who proved this could prove it again.
    fn still_knows(&self, identity: &Identity) -> bool;
}
