//! DTLS: floods of hellos from addresses that are not the sender's, handshakes that are broken off or odd, records that come again
//! or from elsewhere, and identities that are none. Handshakes are written by hand up to where they are encrypted; an honest
//! device beside them is libcoap's client.

use super::{ATTACKER, Arena, Case, FORGED, SOON, Setting};
use crate::wait::wait_for;
use fastrand::Rng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The key of the device `boiler-3`: as text for libcoap, as digits for the configuration.
const KEY: &str = "0123456789abcdef";
const KEY_HEX: &str = "30313233343536373839616263646566";

/// Content types, and types of handshake messages (RFC 5246, A.1 and A.4).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const CLIENT_KEY_EXCHANGE: u8 = 16;

/// What a fragment of a handshake message carries here, in bytes.
const FRAGMENT_BYTES: usize = 1_100;

fn setting(arena: &Arena) -> Setting {
    Setting::of(&format!(
        "[coap.dtls]\nlisten = [\"{}\"]\n[device.boiler-3]\npsk = \"{KEY_HEX}\"\n",
        arena.second
    ))
}

/// The honest device's client, with the gateway behind `port`.
fn client(port: u16, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("coap-client-openssl");
    command.args(["-u", "boiler-3", "-k", KEY, "-v", "6"]).args(arguments);
    command.arg(format!("coaps://127.0.0.1:{port}{path}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Publishes over DTLS, and gives what the client printed.
fn posts(arena: &Arena, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["-B", "20", "-m", "post", "-e", "1"].iter().chain(arguments).copied().collect();
    let output =
        client(arena.second.port(), "/t/sensors/boiler-3/t", &all).output().expect("libcoap's client");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// An honest device gets in and is acknowledged.
fn honest(arena: &Arena, arguments: &[&str]) {
    let printed = posts(arena, arguments);
    assert!(printed.contains("2.04"), "{printed}\n{}", arena.gateway.log());
}

/// A record (RFC 6347, 4.1).
fn record(kind: u8, epoch: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short record").to_be_bytes();
    let head = [kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, sequence, length[0], length[1]];
    [&head, body].concat()
}

/// A handshake message, or a piece of one (RFC 6347, 4.2.2).
fn handshake(kind: u8, message: u8, whole: usize, offset: usize, piece: &[u8]) -> Vec<u8> {
    let three = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
    let (whole, offset, length) = (three(whole), three(offset), three(piece.len()));
    [&[kind][..], &whole[1..], &[0, message], &offset[1..], &length[1..], piece].concat()
}

/// What a hello says: `TLS_PSK_WITH_AES_128_CCM_8` and the Extended Master Secret.
fn hello_body(random: &[u8; 32], session: &[u8], cookie: &[u8]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).expect("short")], bytes].concat();
    let rest = [0, 2, 0xC0, 0xA8, 1, 0, 0, 4, 0, 23, 0, 0];
    [&[0xfe, 0xfd], &random[..], &short(session), &short(cookie), &rest].concat()
}

fn hello(random: &[u8; 32], session: &[u8], cookie: &[u8]) -> Vec<u8> {
    let body = hello_body(random, session, cookie);
    let message = u8::from(!cookie.is_empty());
    record(HANDSHAKE, 0, message, &handshake(CLIENT_HELLO, message, body.len(), 0, &body))
}

fn socket_at(address: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).expect("an address of this host");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    socket
}

/// Says hello until a cookie comes, and gives it.
fn cookie(socket: &UdpSocket, arena: &Arena, random: &[u8; 32], session: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let first = hello(random, session, &[]);
    wait_for(SOON, || {
        socket.send_to(&first, arena.second).expect("sent");
        let (count, _) = socket.recv_from(&mut buffer).ok()?;
        // HelloVerifyRequest: record, message, version, and the cookie with its length.
        let cookie = buffer.get(28..count).filter(|_| buffer[0] == HANDSHAKE && buffer[13] == 3)?;
        assert!(count <= first.len(), "a cookie's datagram amplifies nothing");
        Some(cookie.to_vec())
    })
    .expect("a cookie")
}

/// Begins a handshake; the gateway has answered it, or refused to.
fn begun(socket: &UdpSocket, arena: &Arena, rng: &mut Rng, session: &[u8]) -> [u8; 32] {
    let mut random = [0; 32];
    rng.fill(&mut random);
    let cookie = cookie(socket, arena, &random, session);
    socket.send_to(&hello(&random, session, &cookie), arena.second).expect("sent");
    random
}

pub(super) const C15: Case = Case {
    id: "C15",
    name: "DTLS hellos from a hundred thousand addresses that are not the sender's",
    setting,
    attack: |arena| Box::pin(async move { hellos(arena) }),
    counted: &[("tidegate_dtls_handshakes_total{result=\"cookie\"}", 99_000.0)],
    audited: &[],
};

fn hellos(arena: &Arena) {
    const SOURCES: u32 = 100_000;
    const BETWEEN_WAITS: u32 = 64;
    let mut rng = Rng::with_seed(15);
    let mut random = [0; 32];
    for number in 0..SOURCES {
        let [_, a, b, c] = number.to_be_bytes();
        let socket = socket_at(IpAddr::V4(Ipv4Addr::new(127, 1 + a, b, c)), 0);
        rng.fill(&mut random);
        // Some bring a cookie that nobody gave them.
        let forged: &[u8] = if number % 4 == 0 { &[0x5A; 32] } else { &[] };
        socket.send_to(&hello(&random, &[], forged), arena.second).expect("sent");
        // One of many waits for its answer, so that none is lost before the gateway: it is its work that is meant.
        if number % BETWEEN_WAITS == 0 {
            let _ = cookie(&socket, arena, &random, &[]);
        }
        if number % 25_000 == 0 {
            honest(arena, &[]);
        }
    }
    honest(arena, &[]);
}

pub(super) const C16: Case = Case {
    id: "C16",
    name: "DTLS handshakes that fail, stop or are odd (Californium CVE-2022-2576, CVE-2022-39368, CVE-2020-27222; libcoap CVE-2025-65499)",
    setting,
    attack: |arena| Box::pin(async move { odd_handshakes(arena) }),
    counted: &[
        ("tidegate_dtls_handshakes_total{result=\"refused\"}", 1.0),
        ("tidegate_dtls_strays_total", 50.0),
        ("tidegate_dtls_handshakes_total{result=\"established\"}", 6.0),
    ],
    audited: &[("sign-in refused", 1), ("sign-in", 6)],
};

/// Each kind of handshake comes from one address and port, from which the device then gets in.
fn odd_handshakes(arena: &Arena) {
    let mut rng = Rng::with_seed(16);
    let port = crate::ports::free_port().to_string();
    let there = ["-a", "127.0.0.66", "-p", &port];
    let number: u16 = port.parse().expect("a port");
    for kind in 0..6 {
        let socket = socket_at(ATTACKER, number);
        for _ in 0..10 {
            odd(kind, &socket, arena, &mut rng);
        }
        drop(socket);
        if kind == 0 {
            // It has another key: refused, whatever was there before.
            let wrong = ["-k", "fedcba9876543210", "-B", "5"];
            let printed = posts(arena, &[&there[..], &wrong].concat());
            assert!(!printed.contains("2.04"), "{printed}");
        }
        honest(arena, &there);
    }
}

fn odd(kind: u8, socket: &UdpSocket, arena: &Arena, rng: &mut Rng) {
    let send = |datagram: &[u8]| {
        socket.send_to(datagram, arena.second).expect("sent");
    };
    let mut garbage: Vec<u8> = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
    match kind {
        // It stops after the gateway's flight.
        0 => {
            begun(socket, arena, rng, &[]);
        }
        // The hello in pieces, one of them empty, overlapping, or beyond the end.
        1 => {
            let mut random = [0; 32];
            rng.fill(&mut random);
            let cookie = cookie(socket, arena, &random, &[]);
            let body = hello_body(&random, &[], &cookie);
            let pieces =
                [(0, &body[..20]), (20, &body[..0]), (10, &body[10..]), (body.len() + 7, &body[..9])];
            for (offset, piece) in pieces {
                send(&record(HANDSHAKE, 0, 1, &handshake(CLIENT_HELLO, 1, body.len(), offset, piece)));
            }
        }
        // A session to be taken up again that nobody has.
        2 => {
            begun(socket, arena, rng, &[0x77; 32]);
        }
        // The keys are changed before there are any, then what nobody can decrypt, and an alert in the clear.
        3 => {
            begun(socket, arena, rng, &[]);
            send(&record(CHANGE_CIPHER_SPEC, 0, 2, &[1]));
            send(&record(HANDSHAKE, 1, 0, &garbage));
            send(&record(APPLICATION_DATA, 1, 1, &garbage));
            send(&record(ALERT, 0, 3, &[2, 40]));
        }
        // Messages out of their order, with lengths that are not theirs.
        4 => {
            begun(socket, arena, rng, &[]);
            for message in [CLIENT_KEY_EXCHANGE, 20, 11, 15, 2, 14, 255] {
                send(&record(HANDSHAKE, 0, 2, &handshake(message, 9, 0xff_ffff, 0xff_0000, &garbage)));
                send(&record(HANDSHAKE, 0, 2, &handshake(message, 2, garbage.len() + 1, 0, &garbage)));
            }
        }
        // What only looks like a record.
        _ => {
            begun(socket, arena, rng, &[]);
            garbage.splice(0..0, [HANDSHAKE, 0xfe, 0xfd]);
            send(&garbage);
            send(&record(HANDSHAKE, 0, 2, &[]));
            send(&record(HANDSHAKE, 0, 2, &[CLIENT_HELLO]));
            send(&[]);
        }
    }
}

pub(super) const C17: Case = Case {
    id: "C17",
    name: "DTLS records that come again, and from other addresses",
    setting,
    attack: |arena| Box::pin(async move { replays(arena) }),
    counted: &[("tidegate_dtls_strays_total", 1_000.0)],
    audited: &[],
};

/// Carries datagrams between a client and the gateway, and keeps what the client sent.
struct Tap {
    front: u16,
    back: UdpSocket,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    end: Arc<AtomicBool>,
}

impl Tap {
    fn new(gateway: SocketAddr) -> Self {
        let front = socket_at(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let back = socket_at(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        back.connect(gateway).expect("a route");
        let (heard, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let port = front.local_addr().expect("an address").port();
        let tap = Self {
            front: port,
            back: back.try_clone().expect("a handle"),
            heard: heard.clone(),
            end: end.clone(),
        };
        let client = Arc::new(Mutex::new(None));
        let (down, its_client, its_end) = (front.try_clone().expect("a handle"), client.clone(), end.clone());
        let answers = back.try_clone().expect("a handle");
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !its_end.load(Ordering::Relaxed) {
                let Ok(count) = answers.recv(&mut buffer) else { continue };
                if let Some(client) = *its_client.lock().expect("an address") {
                    let _ = down.send_to(&buffer[..count], client);
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !end.load(Ordering::Relaxed) {
                let Ok((count, from)) = front.recv_from(&mut buffer) else { continue };
                *client.lock().expect("an address") = Some(from);
                heard.lock().expect("what was heard").push(buffer[..count].to_vec());
                let _ = back.send(&buffer[..count]);
            }
        });
        tap
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("what was heard").clone()
    }

    /// All that was heard once more, from the client's address.
    fn replay(&self) {
        for datagram in self.heard() {
            let _ = self.back.send(&datagram);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn replays(arena: &Arena) {
    let before = arena.strangers();
    let tap = Tap::new(arena.second);
    let post = ["-B", "20", "-m", "post", "-e", "once"];
    let output = client(tap.front, "/t/sensors/boiler-3/t", &post).output().expect("libcoap's client");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(printed.contains("2.04"), "{printed}");

    // An association that lives, beside the replays of the one before and its own.
    let file = arena.gateway.folder().join("commands");
    let observe = ["-s", "120", "-w", "-B", "120", "-o", file.to_str().expect("a path")];
    let tap_of_observer = Tap::new(arena.second);
    let command = client(tap_of_observer.front, "/command", &observe)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _observer = Running(command.expect("libcoap's client"));
    let observes = || (arena.gateway.metric("tidegate_subscriptions") >= 1.0).then_some(());
    wait_for(SOON, observes).expect("it observes");
    let hijackers: Vec<UdpSocket> =
        (1..=100).map(|last| socket_at(IpAddr::V4(Ipv4Addr::new(127, 9, 9, last)), 0)).collect();
    for _ in 0..20 {
        tap.replay();
        tap_of_observer.replay();
        for (hijacker, datagram) in hijackers.iter().zip(tap_of_observer.heard().iter().cycle()) {
            hijacker.send_to(datagram, arena.second).expect("sent");
        }
    }
    // Sent with nothing but what was heard: epoch 1 and numbers far ahead, from the client's own address and from elsewhere.
    for datagram in tap_of_observer.heard().iter().filter(|datagram| datagram[0] == APPLICATION_DATA) {
        let mut ahead = datagram.clone();
        ahead[8] = 1;
        let _ = tap_of_observer.back.send(&ahead);
        for hijacker in hijackers.iter().cycle().take(2_000) {
            hijacker.send_to(&ahead, arena.second).expect("sent");
        }
    }
    // The device is still there and is spoken to, nobody else is.
    let port = arena.gateway.mqtt.port().to_string();
    let topic = ["-t", "commands/boiler-3/say", "-m", "still-here"];
    let sent =
        Command::new("mosquitto_pub").args(["-p", &port, "-q", "1"]).args(topic).status().expect("a client");
    assert!(sent.success());
    let told = || std::fs::read_to_string(&file).unwrap_or_default().contains("still-here").then_some(());
    assert!(wait_for(SOON, told).is_some(), "{}", arena.gateway.log());
    let mut buffer = [0; 4_096];
    for hijacker in &hijackers {
        hijacker.set_nonblocking(true).expect("a mode");
        while let Ok(count) = hijacker.recv(&mut buffer) {
            assert!(
                count > 13 && buffer[0] == HANDSHAKE && buffer[13] == 3,
                "nothing but cookies goes elsewhere"
            );
        }
    }
    assert!(
        (arena.strangers() - before - 2.0).abs() < 0.5,
        "one reading and one command: {}",
        arena.strangers() - before
    );
}

pub(super) const C18: Case = Case {
    id: "C18",
    name: "PSK identities of 64 KB, of any bytes, and unknown ones",
    setting,
    attack: |arena| Box::pin(async move { identities(arena) }),
    counted: &[("tidegate_dtls_handshakes_total{result=\"refused\"}", 5.0)],
    audited: &[("sign-in refused", 5)],
};

fn identities(arena: &Arena) {
    let mut rng = Rng::with_seed(18);
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = vec![b'x'; usize::from(u16::MAX)];
    // The first is the only one that there is; its key is not known here.
    let wanted: [&[u8]; 6] = [b"boiler-3", b"no-such-device", FORGED.as_bytes(), &every_byte, b"", &long];
    let sockets: Vec<UdpSocket> = wanted.iter().map(|_| socket_at(ATTACKER, 0)).collect();
    for (socket, identity) in sockets.iter().zip(wanted) {
        begun(socket, arena, &mut rng, &[]);
        answered(socket);
        let length = u16::try_from(identity.len()).expect("64 KB at the most").to_be_bytes();
        let body = [&length, identity].concat();
        for (number, piece) in (0..).zip(body.chunks(FRAGMENT_BYTES)) {
            let offset = number * FRAGMENT_BYTES;
            let message = handshake(CLIENT_KEY_EXCHANGE, 2, body.len(), offset, piece);
            socket
                .send_to(
                    &record(HANDSHAKE, 0, u8::try_from(2 + number).expect("few"), &message),
                    arena.second,
                )
                .expect("sent");
        }
    }
    // When a later hello is answered, the key exchanges have been read: whether the identity is known shows in nothing.
    let barrier = socket_at(ATTACKER, 0);
    cookie(&barrier, arena, &[1; 32], &[]);
    let told: Vec<Vec<Vec<u8>>> = sockets.iter().map(waiting).collect();
    assert_eq!(told[0], told[1], "known and unknown");
    for socket in &sockets {
        let finished: Vec<u8> = (0..40).map(|_| rng.u8(..)).collect();
        socket.send_to(&record(CHANGE_CIPHER_SPEC, 0, 70, &[1]), arena.second).expect("sent");
        socket.send_to(&record(HANDSHAKE, 1, 0, &finished), arena.second).expect("sent");
    }
    // In the end the same alert for each, whatever was wrong; a handshake may take its 30 s to be given up.
    let began = Instant::now();
    let alerts: Vec<Vec<u8>> =
        sockets.iter().zip(&told).map(|(socket, told)| alert(socket, told, began)).collect();
    assert!(alerts.iter().all(|alert| *alert == alerts[0]), "{alerts:?}");
    honest(arena, &[]);
    let log = arena.gateway.log();
    assert!(!log.contains("dimpl"), "what peers do wrong is said by the listener alone, at a bounded rate");
    assert!(
        !log.lines().any(|line| line.starts_with("{\"event\"")),
        "what a peer calls itself writes no lines"
    );
    assert!(
        !log.contains('\u{1B}') && !log.contains(&"x".repeat(1_000)),
        "nor does it command a terminal, or fill the log"
    );
}

/// Waits until the gateway's flight has come.
fn answered(socket: &UdpSocket) {
    let mut buffer = [0; 4_096];
    let came = wait_for(SOON, || socket.recv(&mut buffer).ok().filter(|_| buffer[13] == 2));
    assert!(came.is_some(), "ServerHello");
    waiting(socket);
}

/// What has come and was not read, but for what is sent again.
fn waiting(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut buffer = [0; 4_096];
    socket.set_nonblocking(true).expect("a mode");
    let mut came = Vec::new();
    while let Ok(count) = socket.recv(&mut buffer) {
        if buffer[0] != HANDSHAKE {
            came.push(buffer[..count].to_vec());
        }
    }
    socket.set_nonblocking(false).expect("a mode");
    came
}

/// The alert that has come already, or comes in the end.
fn alert(socket: &UdpSocket, told: &[Vec<u8>], began: Instant) -> Vec<u8> {
    if let Some(alert) = told.iter().find(|datagram| datagram[0] == ALERT) {
        return alert.clone();
    }
    let mut buffer = [0; 4_096];
    while began.elapsed() < 3 * SOON {
        match socket.recv(&mut buffer) {
            Ok(count) if buffer[0] == ALERT => return buffer[..count].to_vec(),
            _ => {}
        }
    }
    panic!("no alert, but {told:?}");
}
