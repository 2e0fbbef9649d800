//! Those who begin and do not go on: packets and handshakes that stop in the middle, or never were any.

use super::{ATTACKER, Arena, Case, SOON, Setting};
use crate::certificates::{Authority, SERVER};
use crate::link::Link;
use crate::mqtt::Hello;
use crate::uninterrupted::Uninterrupted;
use std::process::Command;
use std::time::Duration;
use tidegate_wire::mqtt::Version;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

/// What M04 sends: the header of a PUBLISH of 4,096 bytes, and three of them.
const BEGUN: [u8; 6] = [0x32, 0x80, 0x20, 0, 10, b'b'];

/// A device with a keep-alive of one second: what is cut off is cut off soon.
fn brief(id: &str) -> Hello<'_> {
    Hello { keep_alive: 1, ..Hello::new(Version::V3_1_1, id) }
}

pub(super) const M04: Case = Case {
    id: "M04",
    name: "a PUBLISH of 4,096 bytes that stops after three, over TCP and WebSocket (CVE-2026-25627)",
    setting: |arena| Setting::of(&format!("[mqtt.websocket]\nlisten = [\"{}\"]\n", arena.second)),
    attack: |arena| {
        Box::pin(async move {
            let before = arena.strangers();
            let mut stopped = Vec::new();
            for number in 0..100 {
                let mut link = arena.connect(&brief(&format!("stops-{number}"))).await;
                link.write(&BEGUN).await.expect("they are taken");
                if number % 2 == 0 {
                    link.close_writing().await.expect("its end is taken");
                }
                stopped.push(link);
            }
            let sockets: Vec<_> = (0..50).map(|number| half_way(arena, number)).collect();
            for mut link in stopped {
                assert!(link.closed(SOON).await);
            }
            for socket in sockets {
                assert!(cut_off(socket));
            }
            assert!(arena.strangers() <= before, "nothing of them is kept");
        })
    },
    counted: &[("tidegate_refusals_total{reason=\"keep alive timeout\"}", 100.0)],
    audited: &[],
};

type Socket = tungstenite::WebSocket<Uninterrupted<std::net::TcpStream>>;

fn half_way(arena: &Arena, number: usize) -> Socket {
    let mut request = format!("ws://{}/mqtt", arena.second).into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().expect("a header"));
    let stream = std::net::TcpStream::connect(arena.second).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    let (mut socket, _) = tungstenite::client(request, Uninterrupted(stream)).expect("a WebSocket");
    let hello = brief(&format!("socket-{number}")).bytes();
    socket.send(Message::binary(hello)).expect("it is taken");
    assert_eq!(socket.read().expect("CONNACK").into_data().as_ref(), [0x20, 2, 0, 0]);
    socket.send(Message::binary(BEGUN.to_vec())).expect("it is taken");
    socket
}

fn cut_off(mut socket: Socket) -> bool {
    loop {
        match socket.read() {
            Ok(Message::Close(_)) => return true,
            Ok(_) => {}
            // The time-out.
            Err(tungstenite::Error::Io(error)) => return error.kind() != std::io::ErrorKind::WouldBlock,
            Err(_) => return true,
        }
    }
}

pub(super) const M25: Case = Case {
    id: "M25",
    name: "TLS handshakes that stall or are garbage (RUSTSEC-2024-0336, RUSTSEC-2024-0399)",
    setting: |arena| {
        let folder = arena.gateway.folder();
        Authority::new(folder, "ca").issue("server", SERVER);
        Setting::of(&format!(
            "[limits]\nhandshake_timeout = \"1 s\"\n\
             [mqtt.tls]\nlisten = [\"{}\"]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n",
            arena.second
        ))
    },
    attack: |arena| Box::pin(handshakes(arena)),
    counted: &[("tidegate_handshakes_failed_total", 1_000.0)],
    audited: &[],
};

async fn handshakes(arena: &Arena) {
    let mut chance = fastrand::Rng::with_seed(25);
    for number in 0..5_000 {
        let Ok(mut link) = Link::open_from(ATTACKER, arena.second, Version::V5).await else { continue };
        let mut garbage: Vec<u8> = (0..chance.usize(1..600)).map(|_| chance.u8(..)).collect();
        if number % 2 == 0 {
            // The outside of a ClientHello, so that the garbage is looked at.
            let length = u16::try_from(garbage.len()).expect("short").to_be_bytes();
            garbage.splice(0..0, [0x16, 3, 1, length[0], length[1]]);
        }
        let _ = link.write(&garbage).await; // It may be refused at its first bytes.
    }
    // Some stay in the middle of a handshake; an honest client behind them waits for a turn, and gets it.
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut link = Link::open_from(ATTACKER, arena.second, Version::V5).await.expect("a connection");
        let _ = link.write(&[0x16, 3, 1, 2, 0, 1]).await; // As above.
        stalled.push(link);
    }
    let mut command = tokio::process::Command::from(Command::new("mosquitto_pub"));
    command.args(["-h", "localhost", "-p", &arena.second.port().to_string(), "--cafile", "ca.crt"]);
    command.args(["-q", "1", "-i", "honest", "-t", "flood/honest", "-m", "1"]);
    command.current_dir(arena.gateway.folder());
    let output = tokio::time::timeout(2 * SOON, command.output()).await.expect("in time").expect("a client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for mut link in stalled {
        assert!(link.closed(SOON).await, "a stalled handshake is cut off");
    }
    let trickles = Duration::from_millis(100);
    let mut link = Link::open_from(ATTACKER, arena.second, Version::V5).await.expect("a connection");
    for _ in 0..100 {
        if link.write(&[0x16]).await.is_err() || link.closed(trickles).await {
            return;
        }
    }
    panic!("a handshake of one byte in {trickles:?} was waited for");
}
