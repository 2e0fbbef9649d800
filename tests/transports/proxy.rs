//! The PROXY protocol: a load balancer that is believed, one that is not, and what is no header.

use crate::tls::{secured, table};
use crate::{closed, greeted, logged, published, somewhere, tcp};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use tidegate_tests::certificates::{Authority, SERVER};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::uninterrupted::Uninterrupted;

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header that speaks for a client.
fn speaking_for(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, addresses) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [0; 16]].concat()),
    };
    let ports = [client.port().to_be_bytes(), 1_883_u16.to_be_bytes()].concat();
    let length = (addresses.len() + 4) as u8;
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], &addresses, &ports].concat()
}

fn gateway(proxies: &str, rest: &str) -> Gateway {
    let mut gateway = Gateway::prepare("");
    gateway.configure_with(&format!("proxy_protocol = [{proxies}]"), rest);
    gateway.start_again();
    gateway
}

fn behind(gateway: &Gateway, header: &[u8]) -> Uninterrupted<TcpStream> {
    let mut stream = tcp(gateway.mqtt);
    stream.write_all(header).unwrap();
    stream
}

#[test]
fn the_clients_address_is_what_counts() {
    let gateway = gateway("\"127.0.0.0/8\"", "[limits]\nconnections_per_address = 1\n");
    // The load balancer's health check is this host, and may come without credentials.
    let mut check = behind(&gateway, LOCAL);
    assert_eq!(greeted(&mut check, "check").unwrap(), 0);
    published(&mut check, "sensors/check", 1).unwrap();
    // A device behind it is not this host: not authorised (MQTT 3.1.1, 3.2.2.3).
    let mut first = behind(&gateway, &speaking_for("192.0.2.7:4660"));
    assert_eq!(greeted(&mut first, "first").unwrap(), 5);
    logged(&gateway, "192.0.2.7:4660");
    // One address has one place, however many the load balancer has.
    let held = behind(&gateway, &speaking_for("192.0.2.8:1"));
    let held_too = behind(&gateway, &speaking_for("[2001:db8::8]:1"));
    let refused_before = gateway.metric("tidegate_connections_refused_total");
    let counted = || (gateway.metric("tidegate_connections_refused_total") > refused_before).then_some(());
    let refused = tidegate_tests::wait::wait_for(crate::SOON, || {
        // The one that is held may not have been heard yet.
        drop(behind(&gateway, &speaking_for("192.0.2.8:2")));
        counted()
    });
    assert!(refused.is_some(), "{}", gateway.log());
    drop((held, held_too));
}

#[test]
fn without_a_header_that_is_understood_nobody_gets_in() {
    let gateway = gateway("\"127.0.0.1\"", "[limits]\nhandshake_timeout = \"500 ms\"\n");
    let version_1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n".to_vec();
    let unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec(), vec![0; 216]].concat();
    let half = LOCAL[..10].to_vec();
    // "This host" behind a load balancer on this host may be itself.
    assert_eq!(greeted(&mut behind(&gateway, &speaking_for("127.0.0.1:9")), "here").unwrap(), 0);
    for bytes in [crate::connect("bare"), version_1, unix, half, Vec::new()] {
        let mut stream = behind(&gateway, &bytes);
        assert!(closed(&mut stream), "{bytes:?}");
    }
    logged(&gateway, "send-proxy-v2");
    logged(&gateway, "limits.handshake_timeout");
}

#[test]
fn a_header_from_somebody_else_is_not_believed() {
    let gateway = gateway("\"192.0.2.10\"", "");
    let mut stream = behind(&gateway, &speaking_for("203.0.113.1:1"));
    assert!(closed(&mut stream), "it is no MQTT");
    assert_eq!(greeted(&mut tcp(gateway.mqtt), "direct").unwrap(), 0);
    assert!(!gateway.log().contains("203.0.113.1"));
}

#[test]
fn tls_comes_behind_the_header() {
    let mut gateway = Gateway::prepare("");
    let address = somewhere();
    Authority::new(gateway.folder(), "ca").issue("server", SERVER);
    gateway.configure_with("proxy_protocol = [\"127.0.0.1\"]", &table(address, ""));
    gateway.start_again();
    // A load balancer in front of it that speaks for nobody.
    let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let front_address = front.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (device, _) = front.accept().unwrap();
            let mut gateway = tcp(address);
            gateway.write_all(LOCAL).unwrap();
            let (mut from_device, mut to_gateway) =
                (device.try_clone().unwrap(), gateway.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_device, &mut to_gateway));
            let _ = std::io::copy(&mut gateway, &mut &device);
        });
        let mut stream = secured(front_address, gateway.folder(), crate::tls::BOTH, None).unwrap();
        assert_eq!(greeted(&mut stream, "behind").unwrap(), 0);
        published(&mut stream, "sensors/behind", 1).unwrap();
        drop(stream);
        gateway.kill();
    });
}
