//! What lies beneath MQTT, with real clients against the real process: TLS, mutual TLS, WebSocket, PROXY headers, and whoever
//! stalls or lies in any of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

mod mutual;
mod proxy;
mod tls;
mod websocket;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::mqtt::{Hello, encode, message};
use tidegate_tests::ports::free_port;
use tidegate_tests::uninterrupted::Uninterrupted;
use tidegate_tests::wait::wait_for;
use tidegate_wire::mqtt::{Packet, Qos, Version};

/// More than anything here should take.
const SOON: Duration = Duration::from_secs(20);

fn somewhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

fn tcp(address: SocketAddr) -> Uninterrupted<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    Uninterrupted(stream)
}

/// A CONNECT of MQTT 3.1.1.
fn connect(id: &str) -> Vec<u8> {
    Hello::new(Version::V3_1_1, id).bytes()
}

/// A PUBLISH at QoS 1 with the payload "21.5".
fn publish(topic: &str, packet: u16) -> Vec<u8> {
    encode(Version::V3_1_1, &Packet::Publish(message(topic, Qos::AtLeastOnce, packet)))
}

/// Says CONNECT and gives the code of the CONNACK.
fn greeted(stream: &mut (impl Read + Write), id: &str) -> io::Result<u8> {
    stream.write_all(&connect(id))?;
    stream.flush()?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    assert_eq!(connack[..2], [0x20, 2]);
    Ok(connack[3])
}

/// Publishes at QoS 1 and waits for the PUBACK.
fn published(stream: &mut (impl Read + Write), topic: &str, packet: u16) -> io::Result<()> {
    stream.write_all(&publish(topic, packet))?;
    stream.flush()?;
    let mut puback = [0; 4];
    stream.read_exact(&mut puback)?;
    assert_eq!(puback[..2], [0x40, 2]);
    Ok(())
}

/// Whether the other side has closed, or does so soon.
fn closed(stream: &mut Uninterrupted<TcpStream>) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn logged(gateway: &Gateway, text: &str) {
    let said = wait_for(SOON, || gateway.log().contains(text).then_some(()));
    assert!(said.is_some(), "no {text:?} in: {}", gateway.log());
}

/// Waits until so many messages are upstream.
fn arrived(gateway: &Gateway, messages: usize) {
    let there = wait_for(SOON, || (gateway.upstream_lines().len() >= messages).then_some(()));
    assert!(there.is_some());
    assert_eq!(gateway.upstream_lines().len(), messages);
}
