//! A network of addresses, written `192.0.2.0/24`, or one address alone. Parses on construction.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network. No bit of the address is set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANetwork {
    /// No address stands before the `/`.
    #[error("this is not an address or a network")]
    Address,
    /// The number behind the `/` is none, or larger than the address has bits.
    #[error("the number behind the `/` must be from 0 to {0}")]
    Prefix(u8),
    /// Bits behind the prefix are set.
    #[error("the address has bits behind its prefix")]
    Bits,
}

impl Network {
    /// Whether an address belongs to it. An IPv4 address in IPv6's clothes counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                behind(u128::from(own.to_bits() ^ other.to_bits()), 32, self.prefix) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                behind(own.to_bits() ^ other.to_bits(), 128, self.prefix) == 0
            }
            _ => false,
        }
    }
}

/// The bits of the prefix, of a number of `width` bits.
fn behind(bits: u128, width: u8, prefix: u8) -> u128 {
    bits.checked_shr(u32::from(width.saturating_sub(prefix))).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork::Address)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(str::parse) {
            None => width,
            Some(Ok(prefix)) if prefix <= width => prefix,
            Some(_) => return Err(NotANetwork::Prefix(width)),
        };
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let rest = 1_u128.checked_shl(u32::from(width - prefix)).map_or(u128::MAX, |bit| bit - 1);
        if bits & rest != 0 {
            return Err(NotANetwork::Bits);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        write!(f, "{}", self.address)?;
        if self.prefix < width { write!(f, "/{}", self.prefix) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, NotANetwork};

    #[test]
    fn a_network_contains_its_addresses() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("::1", "::1", "::2"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.to_string(), network);
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_apart() {
        for (text, wrong) in [
            ("", NotANetwork::Address),
            ("proxy.example", NotANetwork::Address),
            ("192.0.2.1:80", NotANetwork::Address),
            ("192.0.2.0/33", NotANetwork::Prefix(32)),
            ("192.0.2.0/-1", NotANetwork::Prefix(32)),
            ("2001:db8::/129", NotANetwork::Prefix(128)),
            ("192.0.2.1/24", NotANetwork::Bits),
            ("::1/0", NotANetwork::Bits),
        ] {
            assert_eq!(text.parse::<Network>(), Err(wrong), "{text}");
        }
    }
}
