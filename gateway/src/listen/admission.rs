//! How many stream connections there may be: in all, and from one address. Decided before a byte of the peer's is read.
//! (How many may stay without authentication is the engine's to count, as only it knows.)

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_engine::limits::Limits;

/// Counts connections and says whether one more may come.
#[derive(Debug)]
pub struct Admission(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    most: usize,
    most_per_address: usize,
    open: usize,
    refused: u64,
    failed_handshakes: u64,
    by_address: HashMap<Place, usize>,
}

/// Why a connection may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `limits.connections`.
    #[error("there are as many connections as the configuration allows (limits.connections)")]
    All,
    /// `limits.connections_per_address`.
    #[error(
        "this address has as many connections as the configuration allows (limits.connections_per_address)"
    )]
    Address,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    place: Option<Place>,
}

impl Admission {
    /// Counts from zero, with the bounds of `limits`.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Counts {
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            open: 0,
            refused: 0,
            failed_handshakes: 0,
            by_address: HashMap::new(),
        })))
    }

    /// Takes over new bounds. Connections that exceed them stay.
    pub fn set_limits(&self, limits: &Limits) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.most = limits.connections;
        counts.most_per_address = limits.connections_per_address;
    }

    /// Counter: connections refused.
    pub fn refused(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refused
    }

    /// Counter: handshakes (TLS, WebSocket, PROXY) that came to nothing.
    pub fn failed_handshakes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed_handshakes
    }

    /// Counts one of them.
    pub fn handshake_failed(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed_handshakes += 1;
    }

    /// Asks for one more connection.
    ///
    /// # Errors
    /// [`Refusal`] when a bound is reached.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Refusal> {
        let mut permit = self.admit_for_another()?;
        permit.comes_from(address)?;
        Ok(permit)
    }

    /// Asks for one more connection of a load balancer's, who will say from where it comes: until then it counts only among all.
    ///
    /// # Errors
    /// [`Refusal`] when there are as many as may be.
    pub fn admit_for_another(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.open >= counts.most {
            counts.refused += 1;
            return Err(Refusal::All);
        }
        counts.open += 1;
        drop(counts);
        Ok(Permit { admission: Arc::clone(self), place: None })
    }
}

impl Permit {
    /// Says from where the connection comes; once.
    ///
    /// # Errors
    /// [`Refusal`] when that address has as many as may be.
    pub fn comes_from(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let Some(place) = Place::of(address) else { return Ok(()) };
        let mut counts = self.admission.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = counts.most_per_address;
        let here = counts.by_address.entry(place).or_default();
        if *here >= most {
            counts.refused += 1;
            return Err(Refusal::Address);
        }
        *here += 1;
        self.place = Some(place);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.open = counts.open.saturating_sub(1);
        let Some(place) = self.place else { return };
        if let Some(count) = counts.by_address.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&place);
            }
        }
    }
}

/// What counts as one address, in a word, as every connection has one: for IPv6 a /64, which is what one customer or one
/// host gets and can fill at will; an IPv4 address stands in ::/8, where no IPv6 peer comes from (RFC 4291, 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(NonZeroU64);

impl Place {
    /// Loopback is not counted by address: there it is the machine's own programs (bridges, proxies, serial adapters).
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        let word = match address {
            _ if address.is_loopback() => return None,
            IpAddr::V4(v4) => 1 << 32 | u64::from(v4.to_bits()),
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).unwrap_or(u64::MAX),
        };
        Some(Self(NonZeroU64::new(word).unwrap_or(NonZeroU64::MIN)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Refusal};
    use std::net::IpAddr;
    use tidegate_engine::limits::Limits;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn admission(connections: usize, connections_per_address: usize) -> std::sync::Arc<Admission> {
        Admission::new(&Limits { connections, connections_per_address, ..Limits::default() })
    }

    #[test]
    fn a_bound_holds_until_a_connection_goes() {
        let admission = admission(2, 2);
        let first = admission.admit(address("192.0.2.1")).unwrap();
        let _second = admission.admit(address("192.0.2.2")).unwrap();
        assert_eq!(admission.admit(address("192.0.2.3")).unwrap_err(), Refusal::All);
        drop(first);
        let _third = admission.admit(address("192.0.2.3")).unwrap();
        assert_eq!(admission.refused(), 1);
    }

    #[test]
    fn one_address_does_not_take_every_place() {
        let admission = admission(10, 1);
        let _held = [
            admission.admit(address("2001:db8::1")).unwrap(),
            admission.admit(address("127.0.0.1")).unwrap(),
            admission.admit(address("127.0.0.1")).unwrap(),
        ];
        assert_eq!(admission.admit(address("2001:db8::2")).unwrap_err(), Refusal::Address);
        assert!(admission.admit(address("2001:db8:0:1::2")).is_ok());
    }
}
