//! Those who write badly: packets that claim more than they send, bytes that trickle, writers that stop in the middle.

use crate::{SOON, withstands};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::{Hello, encode, message};
use tidegate_tests::ports::free_port;
use tidegate_wire::mqtt::{Packet, Qos, Version};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

/// A remaining length of 256 MiB, the most that the encoding can say.
const CLAIM: [u8; 4] = [0xFF, 0xFF, 0xFF, 0x7F];

/// Short, so that the tests do not wait; no part of any promise.
const IMPATIENT: &str = "[limits]\nconnect_timeout = \"1 s\"\nconnections_per_address = 1000\n";

/// Between two bytes of somebody slow; less than every time-out.
const TRICKLE: Duration = Duration::from_millis(100);

async fn refused_at_once(address: SocketAddr, first: u8, count: usize) {
    for _ in 0..count {
        let mut link = Link::open(address, Version::V5).await.unwrap();
        link.write(&[&[first][..], &CLAIM].concat()).await.unwrap();
        assert!(link.closed(SOON).await, "nothing more is awaited");
    }
}

/// M02: Mosquitto CVE-2023-0809, CVE-2017-7651. The connect time-out is long here: it is not what closes.
#[test]
fn a_first_packet_that_is_no_connect_and_claims_256_mib_is_refused_at_its_header() {
    withstands("[limits]\nconnect_timeout = \"5 min\"\n", |address| refused_at_once(address, 0x30, 300));
}

/// M03.
#[test]
fn a_connect_that_claims_256_mib_is_refused_at_its_header() {
    withstands("[limits]\nconnect_timeout = \"5 min\"\n", |address| refused_at_once(address, 0x10, 300));
}

#[test]
fn a_connect_that_trickles_in_is_cut_off_in_time() {
    let gateway = withstands(IMPATIENT, |address| async move {
        let slow = (0..50).map(|number| tokio::spawn(trickle_a_connect(address, number)));
        for one in slow.collect::<Vec<_>>() {
            one.await.unwrap();
        }
    });
    assert!((gateway.metric("tidegate_sessions") - 0.0).abs() < f64::EPSILON, "and no session is left");
}

async fn trickle_a_connect(address: SocketAddr, number: usize) {
    let hello =
        Hello::new(Version::V3_1_1, &format!("slow-{number:04}-with-a-client-identifier-of-some-length"))
            .bytes();
    let mut link = Link::open(address, Version::V3_1_1).await.unwrap();
    for byte in hello {
        if link.write(&[byte]).await.is_err() || link.closed(TRICKLE).await {
            return;
        }
    }
    panic!("a CONNECT of one byte in {TRICKLE:?} was waited for");
}

/// A packet may take minutes on a slow link, so its bytes count as signs of life for a while (how long, is tested with the
/// sessions, on a virtual clock); when they stop, the keep-alive counts.
#[test]
fn packets_that_trickle_in_cost_nothing_and_silence_in_the_middle_of_one_is_cut_off() {
    let gateway = withstands(IMPATIENT, |address| async move {
        let slow = (0..50).map(|number| tokio::spawn(trickle_a_publish(address, number)));
        for one in slow.collect::<Vec<_>>() {
            one.await.unwrap();
        }
    });
    assert!((gateway.metric("tidegate_messages_unrouted_total") - 0.0).abs() < f64::EPSILON);
}

/// A device with a keep-alive of one second.
fn brief(id: &str) -> Hello<'_> {
    Hello { keep_alive: 1, ..Hello::new(Version::V3_1_1, id) }
}

async fn trickle_a_publish(address: SocketAddr, number: usize) {
    let id = format!("slow-{number}");
    let (mut link, _) = Link::connect(address, &brief(&id)).await.unwrap();
    let mut whole = message("slow/value", Qos::AtLeastOnce, 1);
    whole.payload = &[b'x'; 2_000];
    for byte in encode(Version::V3_1_1, &Packet::Publish(whole)).into_iter().take(20) {
        link.write(&[byte]).await.unwrap();
        assert!(!link.closed(TRICKLE).await, "it is slow, not silent");
    }
    assert!(link.closed(SOON).await);
}

/// What M04 sends: the header of a PUBLISH of 4,096 bytes, and three of them.
const BEGUN: [u8; 6] = [0x32, 0x80, 0x20, 0, 10, b'b'];

/// M04.
#[test]
fn a_publish_that_stops_in_the_middle_is_cut_off_and_nothing_of_it_is_kept() {
    let gateway = withstands(IMPATIENT, |address| async move {
        let mut stopped = Vec::new();
        for number in 0..100 {
            let id = format!("stops-{number}");
            let (mut link, _) = Link::connect(address, &brief(&id)).await.unwrap();
            link.write(&BEGUN).await.unwrap();
            if number % 2 == 0 {
                link.close_writing().await.unwrap();
            }
            stopped.push(link);
        }
        for mut link in stopped {
            assert!(link.closed(SOON).await);
        }
    });
    assert!((gateway.metric("tidegate_messages_unrouted_total") - 0.0).abs() < f64::EPSILON);
}

/// M04 over WebSocket: NanoMQ CVE-2026-25627.
#[test]
fn a_publish_that_stops_in_the_middle_over_websocket_is_cut_off_and_nothing_of_it_is_kept() {
    let port = free_port();
    let listen = format!("{IMPATIENT}[mqtt.websocket]\nlisten = [\"127.0.0.1:{port}\"]\n");
    let gateway = withstands(&listen, |_| async move {
        let half_way = |number: usize| {
            let mut request = format!("ws://127.0.0.1:{port}/mqtt").into_client_request().unwrap();
            request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let (mut socket, _) = tungstenite::client(request, stream).unwrap();
            socket.send(Message::binary(brief(&format!("stops-{number}")).bytes())).unwrap();
            assert_eq!(socket.read().unwrap().into_data().as_ref(), [0x20, 2, 0, 0]);
            socket.send(Message::binary(BEGUN.to_vec())).unwrap();
            socket
        };
        let stopped: Vec<_> = (0..50).map(half_way).collect();
        for mut socket in stopped {
            let cut_off = loop {
                match socket.read() {
                    Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => break true,
                    Ok(_) => {}
                    Err(tungstenite::Error::Io(error)) => {
                        break error.kind() != std::io::ErrorKind::WouldBlock;
                    }
                    Err(_) => break true,
                }
            };
            assert!(cut_off);
        }
    });
    assert!((gateway.metric("tidegate_messages_unrouted_total") - 0.0).abs() < f64::EPSILON);
}
