//! Multicast groups of CoAP (RFC 7252, 8 and 12.8): a socket for each, apart from the listeners, so that what was sent to everybody
//! is known by where it came. Answers go from a listener, never from a group's address. What is answered is the engine's business.

use super::{BindError, socket};
use socket2::{InterfaceIndexOrAddress, SockRef};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

/// All CoAP Nodes over IPv4.
const ALL_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 187);

/// All CoAP Nodes over IPv6: of the link, and of the site.
const ALL_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfd), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xfd)];

/// The key of the configuration.
const KEY: &str = "coap.multicast";

/// Joins the groups on these interfaces, at the ports of the listeners. Gives each group's socket with the number of the listener
/// that answers.
///
/// # Errors
/// [`BindError`] for the first group that cannot be joined.
pub(super) fn join(
    listeners: &[UdpSocket],
    addresses: &[SocketAddr],
    interfaces: &[String],
) -> Result<Vec<(UdpSocket, u16)>, BindError> {
    if interfaces.is_empty() {
        return Ok(Vec::new());
    }
    // A listener for all addresses and a group share a port: only while both say so, and never with other programs.
    for (listener, address) in listeners.iter().zip(addresses) {
        share(listener, *address, true).map_err(|source| BindError {
            key: KEY,
            address: *address,
            source,
        })?;
    }
    let groups = answering(addresses).map(|(number, address)| groups(address, interfaces, number));
    let joined: Vec<_> = groups.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    for (listener, address) in listeners.iter().zip(addresses) {
        share(listener, *address, false).map_err(|source| BindError {
            key: KEY,
            address: *address,
            source,
        })?;
    }
    Ok(joined)
}

fn share(listener: &UdpSocket, address: SocketAddr, shared: bool) -> io::Result<()> {
    let listener = SockRef::from(listener);
    listener.set_reuse_address(shared)?;
    // What the groups get is not for the listener as well.
    match address {
        SocketAddr::V4(_) => listener.set_multicast_all_v4(false),
        SocketAddr::V6(_) => listener.set_multicast_all_v6(false),
    }
}

/// For each port and family the listener that answers, with its number: one for all addresses, else one that other hosts can reach,
/// else the first.
fn answering(addresses: &[SocketAddr]) -> impl Iterator<Item = (u16, SocketAddr)> {
    let same =
        |one: &SocketAddr, other: &SocketAddr| (one.port(), one.is_ipv4()) == (other.port(), other.is_ipv4());
    let rank = |address: &SocketAddr| (!address.ip().is_unspecified(), address.ip().is_loopback());
    let best = move |(number, address): &(u16, SocketAddr)| {
        let others = (0..=u16::MAX).zip(addresses).filter(|(_, other)| same(address, other));
        others
            .min_by_key(|(other, address)| (rank(address), *other))
            .is_some_and(|(other, _)| other == *number)
    };
    (0..=u16::MAX).zip(addresses.iter().copied()).filter(best)
}

/// The sockets for the groups at a listener's port.
fn groups(
    listener: SocketAddr,
    interfaces: &[String],
    number: u16,
) -> Result<Vec<(UdpSocket, u16)>, BindError> {
    let port = listener.port();
    let mut joined = Vec::new();
    let mut take = |address: SocketAddr, interfaces: &[String]| {
        let fault = |source| BindError { key: KEY, address, source };
        let group = socket::bind_udp_shared(KEY, address)?;
        for interface in interfaces {
            enter(&group, address.ip(), interface).map_err(fault)?;
        }
        SockRef::from(&group).set_reuse_address(false).map_err(fault)?;
        joined.push((group, number));
        Ok(())
    };
    match listener {
        SocketAddr::V4(_) => take(SocketAddr::new(ALL_V4.into(), port), interfaces)?,
        SocketAddr::V6(_) => {
            for interface in interfaces {
                // A group of the link is another one on each link.
                for group in ALL_V6 {
                    let unscoped = SocketAddr::new(group.into(), port);
                    let index = index(interface).map_err(|source| BindError {
                        key: KEY,
                        address: unscoped,
                        source,
                    })?;
                    let address = SocketAddrV6::new(group, port, 0, index);
                    take(address.into(), std::slice::from_ref(interface))?;
                }
            }
        }
    }
    Ok(joined)
}

fn enter(group: &UdpSocket, address: IpAddr, interface: &str) -> io::Result<()> {
    let (socket, index) = (SockRef::from(group), index(interface)?);
    match address {
        IpAddr::V4(address) => {
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4_n(&address, &InterfaceIndexOrAddress::Index(index))
        }
        IpAddr::V6(address) => {
            socket.set_multicast_all_v6(false)?;
            socket.join_multicast_v6(&address, index)
        }
    }
}

fn index(interface: &str) -> io::Result<u32> {
    let any = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    rustix::net::netdevice::name_to_index(&any, interface).map_err(|error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("there is no network interface {interface} (yet); `ip link` names them"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{answering, join};
    use crate::listen::socket;

    #[test]
    fn one_listener_of_each_port_and_family_answers_and_the_one_for_all_addresses_first() {
        let addresses = [
            "127.0.0.1:5683",
            "192.0.2.1:5683",
            "0.0.0.0:5683",
            "192.0.2.1:5700",
            "127.0.0.1:5700",
            "[::1]:5683",
        ];
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let numbers: Vec<u16> = answering(&addresses).map(|(number, _)| number).collect();
        assert_eq!(numbers, [2, 3, 5]);
    }

    #[test]
    fn no_other_program_gets_the_port_when_the_groups_are_joined() {
        let any = "0.0.0.0:0".parse().unwrap();
        let listener = socket::bind_udp("coap.listen", any).unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = [listener];
        let groups = join(&listeners, &[address], &["lo".to_owned()]).unwrap();
        assert_eq!(groups.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [0]);
        for taken in [address, groups[0].0.local_addr().unwrap()] {
            assert!(socket::bind_udp_shared("coap.listen", taken).is_err(), "{taken}");
        }
        drop(groups);
        let error = join(&listeners, &[address], &["none0".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no network interface none0"), "{error}");
    }
}
