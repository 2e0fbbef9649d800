//! Those who come in crowds: floods of connections, of handshakes, of takeovers of one client id, and of messages.

use crate::{SOON, withstands, withstands_with};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use tidegate_tests::certificates::{Authority, SERVER};
use tidegate_tests::fleet::{Fleet, Plan};
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::Hello;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;
use tidegate_wire::mqtt::{
    Packet, PacketId, Properties, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// Where the flood comes from; the honest come from 127.0.0.1.
const FLOODER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// Whom a load balancer at [`FLOODER`] speaks for: the bounds by address hold for addresses that are not this machine's own.
const PROXIED: [u8; 28] = [
    0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x21, 0x11, 0,
    12, // version 2, TCP over IPv4
    192, 0, 2, 66, 127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5B,
];

/// An honest client connects, publishes at QoS 1, and is acknowledged.
async fn honest(address: SocketAddr, id: &str) {
    let (mut link, _) = Link::connect(address, &Hello::new(Version::V3_1_1, id)).await.unwrap();
    let packet_id = PacketId::new(1).unwrap();
    link.put_publish("flood/honest", b"1", Qos::AtLeastOnce, packet_id, false, false);
    link.flush().await.unwrap();
    assert_eq!(link.next(SOON, |packet| packet.kind().name()).await.unwrap(), Some("PUBACK"));
}

#[test]
fn a_flood_of_connections_from_one_address_leaves_room_for_others() {
    let gateway = withstands_with("proxy_protocol = [\"127.0.0.66\"]", "", |address| async move {
        for round in 0..20 {
            let mut held = Vec::new();
            for _ in 0..200 {
                let mut link = Link::open_from(FLOODER, address, Version::V3_1_1).await.unwrap();
                let _ = link.write(&PROXIED).await;
                held.push(link);
            }
            honest(address, &format!("honest-{round}")).await;
        }
    });
    assert!(gateway.metric("tidegate_connections_refused_total") > 1_000.0, "and it is counted");
}

#[test]
fn connections_that_say_nothing_give_way_to_those_that_do() {
    withstands("[limits]\nconnect_timeout = \"5 min\"\n", |address| async move {
        let mut held = Vec::new();
        for round in 0..20 {
            for _ in 0..100 {
                held.push(Link::open(address, Version::V3_1_1).await.unwrap());
            }
            honest(address, &format!("honest-{round}")).await;
        }
        assert!(held[0].closed(SOON).await, "the oldest goes first");
    });
}

#[test]
fn a_flood_of_clients_that_connect_and_go_leaves_nothing_behind() {
    let gateway = withstands("", |address| {
        async move {
            for number in 0..10_000 {
                let id = format!("fleeting-{number}");
                let hello = Hello::new(Version::V5, &id);
                let Ok(mut link) = Link::open_from(FLOODER, address, hello.version).await else { continue };
                // Whether it is answered or refused is the gateway's to say; that it does is what counts.
                let _ = link.write(&hello.bytes()).await;
                let _ = link.next(SOON, |packet| packet.kind()).await;
            }
        }
    });
    let gone = || (gateway.metric("tidegate_sessions") == 0.0).then_some(());
    assert!(wait_for(SOON, gone).is_some(), "{} sessions are left", gateway.metric("tidegate_sessions"));
}

/// M25: RUSTSEC-2024-0336 and -0399 among others.
#[test]
fn handshakes_that_stall_or_are_garbage_leave_room_for_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path(), "ca").issue("server", SERVER);
    let (port, at) = (free_port(), folder.path().display().to_string());
    let configuration = format!(
        "[limits]\nhandshake_timeout = \"1 s\"\n\
         [mqtt.tls]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate = \"{at}/server.crt\"\nkey = \"{at}/server.key\"\n"
    );
    let gateway = withstands(&configuration, |_| async {
        let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut chance = fastrand::Rng::with_seed(25);
        for number in 0..5_000 {
            let Ok(mut link) = Link::open_from(FLOODER, tls, Version::V5).await else { continue };
            let mut garbage: Vec<u8> = (0..chance.usize(1..600)).map(|_| chance.u8(..)).collect();
            if number % 2 == 0 {
                // The outside of a ClientHello, so that the garbage is looked at.
                let length = u16::try_from(garbage.len()).unwrap().to_be_bytes();
                garbage.splice(0..0, [0x16, 3, 1, length[0], length[1]]);
            }
            let _ = link.write(&garbage).await;
        }
        // Some stay in the middle of a handshake; an honest client behind them waits for a turn, and gets it.
        let mut stalled = Vec::new();
        for _ in 0..40 {
            let mut link = Link::open_from(FLOODER, tls, Version::V5).await.unwrap();
            let _ = link.write(&[0x16, 3, 1, 2, 0, 1]).await;
            stalled.push(link);
        }
        let mut command = tokio::process::Command::from(Command::new("mosquitto_pub"));
        command.args(["-h", "localhost", "-p", &port.to_string(), "--cafile", &format!("{at}/ca.crt")]);
        command.args(["-q", "1", "-i", "honest", "-t", "flood/honest", "-m", "1"]);
        let output = tokio::time::timeout(SOON, command.output()).await.expect("in time").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for mut link in stalled {
            assert!(link.closed(SOON).await, "a stalled handshake is cut off");
        }
    });
    assert!(gateway.metric("tidegate_handshakes_failed_total") >= 40.0, "and it is counted");
}

/// Clients that fight for one identifier, and what each manages before the next one takes over.
const FIGHTERS: usize = 8;
const ROUNDS: usize = 100;

/// M30: NanoMQ CVE-2026-22040, CVE-2025-59946. What was acknowledged in between is kept: it goes upstream with the bystander's.
#[test]
fn a_storm_of_takeovers_breaks_nothing_and_loses_nothing_acknowledged() {
    let acknowledged = std::cell::RefCell::new(Vec::new());
    let gateway = withstands("[limits]\nconnections_per_address = 1000\n", |address| {
        let acknowledged = &acknowledged;
        async move {
            let fighters = (0..FIGHTERS).map(|number| tokio::spawn(fight(address, number)));
            for fighter in fighters.collect::<Vec<_>>() {
                let its = fighter.await.unwrap();
                acknowledged.borrow_mut().extend(its);
            }
        }
    });
    let arrived: std::collections::BTreeSet<_> = gateway
        .upstream_lines()
        .iter()
        .filter_map(|line| Some(line["payload"].as_str()?.to_owned()))
        .collect();
    let acknowledged = acknowledged.into_inner();
    println!("{} acknowledged in the storm", acknowledged.len());
    let lost: Vec<_> = acknowledged.iter().filter(|payload| !arrived.contains(*payload)).collect();
    assert!(acknowledged.len() >= ROUNDS && lost.is_empty(), "lost: {lost:?}");
}

async fn fight(address: SocketAddr, number: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let hello =
            Hello::lasting(if number.is_multiple_of(2) { Version::V5 } else { Version::V3_1_1 }, "crown");
        // Now and then it leaves the others a moment, on a connection of its own on which it says nothing.
        let mut quiet = Link::open(address, hello.version).await.unwrap();
        quiet.closed(Duration::from_millis(fastrand::u64(0..40))).await;
        let Ok((mut link, _)) = Link::connect(address, &hello).await else { continue };
        let filter = format!("crown/{}", round % 4);
        let subscriptions = [Subscription::new(&filter, Qos::ExactlyOnce)];
        link.put(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(7).unwrap(),
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&subscriptions),
        }));
        let payload = format!("fighter {number} round {round}");
        let id = PacketId::new(u16::try_from(number * ROUNDS + round + 1).unwrap()).unwrap();
        let topic = format!("{}/crown", crate::bystander::PREFIX);
        link.put_publish(&topic, payload.as_bytes(), Qos::AtLeastOnce, id, false, false);
        link.put_publish(
            &filter,
            b"to itself",
            Qos::ExactlyOnce,
            PacketId::new(40_000).unwrap(),
            false,
            false,
        );
        if link.flush().await.is_err() {
            continue;
        }
        // Until its own acknowledgement comes, or the next one takes over.
        let read = |packet: Packet<'_>| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id);
        while let Ok(Some(mine)) = link.next(Duration::from_secs(2), read).await {
            if mine {
                acknowledged.push(payload);
                break;
            }
        }
    }
    acknowledged
}

/// M32, short: as many devices as one address may bring, each with a full window for ever.
#[test]
fn an_overload_is_served_within_bounds_and_what_is_acknowledged_is_there() {
    let gateway = withstands("", |address| async move {
        let plan = Plan { address, devices: 60, messages_each: 15_000, window: 32, payload_bytes: 128 };
        let fleet = Fleet::start(plan.clone());
        fleet.allow(plan.messages());
        let all = wait_for(4 * SOON, || (fleet.acknowledged() == plan.messages()).then_some(()));
        assert!(all.is_some(), "{} of {} acknowledged", fleet.acknowledged(), plan.messages());
        assert_eq!((fleet.disordered(), fleet.reconnects()), (0, 0), "in order, and nobody was sent away");
    });
    assert!(gateway.metric("tidegate_ready") > 0.0);
}
