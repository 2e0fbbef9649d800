//! CoAP over TCP, TLS and WebSocket (RFC 8323): libcoap's clients, with OpenSSL, with GnuTLS and without either, its newer one that
//! speaks WebSocket, and aiocoap; and streams that lie, stall or flood, beside an honest one.

use crate::{PATIENCE, mqtt_publish, read, said, upstream};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::certificates::{Authority, DEVICE, SERVER, Wish};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;
use tidegate_tests::tls::{BOTH, secured};
use tidegate_tests::uninterrupted::uninterrupted;
use tidegate_tests::wait::wait_for;
use tidegate_wire::coap::stream::{self, Frame};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// A gateway with every kind of listener.
struct Listening {
    gateway: Gateway,
    tcp: SocketAddr,
    tls: SocketAddr,
    websocket: SocketAddr,
    secure_websocket: SocketAddr,
}

/// `tls` stands in `[coap.tls]`, `rest` behind all.
fn listening(tls: &str, rest: &str) -> Listening {
    let mut gateway = Gateway::prepare("");
    let [tcp, secure, websocket, secure_websocket] =
        [(); 4].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    Authority::new(gateway.folder(), "ca").issue("server", SERVER);
    let devices = Authority::new(gateway.folder(), "devices");
    devices.issue("boiler-3", DEVICE);
    devices.issue("honest", Wish { subject: "/CN=honest", ..DEVICE });
    devices.revoke(&[]);
    gateway.configure(&format!(
        "[coap.tcp]\nlisten = [\"{tcp}\"]\n\
         [coap.tls]\nlisten = [\"{secure}\"]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n{tls}\n\
         [coap.websocket]\nlisten = [\"{websocket}\"]\n[coap.websocket.tls]\nlisten = [\"{secure_websocket}\"]\n{rest}"
    ));
    gateway.start_again();
    Listening { gateway, tcp, tls: secure, websocket, secure_websocket }
}

/// libcoap 4.3.4 with its libraries, which speaks WebSocket and OSCORE.
fn newer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trixie/coap-client")
}

fn client(program: impl AsRef<Path>, url: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).arg(url).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(program: impl AsRef<Path>, url: &str, folder: &Path, arguments: &[&str]) -> String {
    said(&client(program, url, folder, arguments).output().expect("tests/run packages installs it"))
}

/// The end of what was said: logs of transfers are long.
fn end(log: &str) -> &str {
    let mut from = log.len().saturating_sub(2_000);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}

/// What every transport must do, with this client of libcoap's. `large`: how many bytes go in blocks of 1,024.
fn tour(program: impl AsRef<Path>, listening: &Listening, base: &str, large: usize, more: &[&str]) {
    let (gateway, folder) = (&listening.gateway, listening.gateway.folder());
    let run = |path: &str, arguments: &[&str]| {
        run(program.as_ref(), &format!("{base}{path}"), folder, &[more, arguments].concat())
    };
    let log = run("/t/sensors/boiler-3/x", &["-m", "post", "-e", "21.5", "-v", "7"]);
    assert!(log.contains("2.04"), "{}", end(&log));
    let log = run("/t/sensors/boiler-3/x", &["-m", "put", "-N", "-e", "21.6", "-v", "7"]);
    assert!(log.contains("2.04"), "{}", end(&log));
    assert_eq!(upstream(gateway, "sensors/boiler-3/x").len(), 2, "acknowledged, so it is there");
    assert!(run("/.well-known/core", &[]).contains("</ps>;rt=core.ps;obs"));
    assert!(run("/t/sensors/boiler-3/none", &["-v", "6"]).contains("4.04"));

    let (sent, received) = (folder.join("sent"), folder.join("received"));
    for (block, length) in [("16", 2_000), ("1024", large)] {
        let body: Vec<u8> = (0..length).map(|n| b'a' + u8::try_from(n * 7 % 23).unwrap()).collect();
        std::fs::write(&sent, &body).unwrap();
        let path = format!("/t/sensors/boiler-3/{length}");
        let log = run(&format!("{path}?retain=1"), &["-m", "put", "-b", block, "-f", "sent", "-v", "6"]);
        assert!(log.contains("2.04"), "{block}: {}", end(&log));
        run(&path, &["-b", block, "-o", "received"]);
        assert!(std::fs::read(&received).unwrap_or_default() == body, "{block}: another body");
        std::fs::remove_file(&received).unwrap();
    }
    std::fs::write(&sent, vec![b'x'; (1 << 20) + 1]).unwrap();
    let log = run("/t/sensors/boiler-3/beyond", &["-m", "post", "-b", "1024", "-f", "sent", "-v", "6"]);
    assert!(log.contains("4.13"), "{}", end(&log));
    assert!(upstream(gateway, "sensors/boiler-3/beyond").is_empty());

    // It pings every second between notifications.
    let arguments = [more, &["-s", "120", "-w", "-K", "1", "-o", "seen"]].concat();
    let observer = client(program.as_ref(), &format!("{base}/command"), folder, &arguments).spawn().unwrap();
    let _observer = crate::Running(observer);
    wait_for(PATIENCE, || (gateway.metric("tidegate_subscriptions") > 0.0).then_some(()))
        .expect("it observes");
    for value in ["one", "two", "three"] {
        mqtt_publish(gateway, &["-t", "commands/boiler-3/say", "-m", value]);
        wait_for(PATIENCE, || read(&folder.join("seen")).contains(value).then_some(())).expect(value);
    }
}

/// What the certificate of a device is asked for in, and whose topics are the tour's.
const CERTIFIED: &str = "client_ca = \"devices.crt\"";

#[test]
fn libcoap_makes_its_tour_over_tcp() {
    // Nobody here proves to be boiler-3; on this host its word is enough for reading its commands.
    let listening = listening(
        "",
        "[[coap.resource]]\npath = \"/command\"\nkind = \"topic\"\ntopic = \"commands/boiler-3/say\"\n",
    );
    tour("coap-client-notls", &listening, &format!("coap+tcp://{}", listening.tcp), 1 << 20, &[]);
}

#[test]
fn libcoap_makes_its_tour_over_tls_with_a_certificate_and_not_without_one() {
    let listening = listening(
        CERTIFIED,
        "[device.boiler-3]\nsubscribe = [\"sensors/{device}/#\", \"commands/{device}/#\"]\n",
    );
    let base = format!("coaps+tcp://localhost:{}", listening.tls.port());
    for program in ["coap-client-openssl", "coap-client-gnutls"] {
        let own = ["-c", "boiler-3.crt", "-j", "boiler-3.key", "-R", "ca.crt"];
        let log = run(
            program,
            &format!("{base}/telemetry"),
            listening.gateway.folder(),
            &[&own[..], &["-m", "post", "-e", program, "-v", "7"]].concat(),
        );
        assert!(log.contains("2.04"), "{program}: {}", end(&log));
        let log = run(
            program,
            &format!("{base}/telemetry"),
            listening.gateway.folder(),
            &["-R", "ca.crt", "-m", "post", "-e", "nobody", "-B", "5", "-v", "7"],
        );
        assert!(!log.contains("2.04"), "{program}: {}", end(&log));
    }
    let arrived = upstream(&listening.gateway, "sensors/boiler-3/telemetry");
    assert_eq!(arrived.into_keys().collect::<Vec<_>>(), ["coap-client-gnutls", "coap-client-openssl"]);
    let audit = read(&listening.gateway.data().join("audit.jsonl"));
    assert!(audit.contains("boiler-3") && audit.contains("certificate"), "{audit}");
    tour(
        "coap-client-openssl",
        &listening,
        &base,
        1 << 20,
        &["-c", "boiler-3.crt", "-j", "boiler-3.key", "-R", "ca.crt"],
    );
}

#[test]
fn libcoap_makes_its_tour_over_websocket_and_secure_websocket() {
    let listening = listening(
        "",
        "[[coap.resource]]\npath = \"/command\"\nkind = \"topic\"\ntopic = \"commands/boiler-3/say\"\n",
    );
    let base = format!("coaps+ws://localhost:{}", listening.secure_websocket.port());
    let log = run(
        newer(),
        &format!("{base}/t/sensors/boiler-3/secure"),
        listening.gateway.folder(),
        &["-R", "ca.crt", "-m", "post", "-e", "secure", "-v", "7"],
    );
    assert!(log.contains("2.04"), "{}", end(&log));
    // It sends each message in two pieces, of which the second waits for TCP's acknowledgement: a large body takes minutes.
    tour(newer(), &listening, &format!("coap+ws://{}", listening.websocket), 50_000, &[]);
}

#[test]
fn aiocoap_makes_its_tour_over_tcp_and_websocket() {
    let listening = listening("", "");
    for base in [format!("coap+tcp://{}", listening.tcp), format!("coap+ws://{}", listening.websocket)] {
        let log = crate::aiocoap_tour(&base);
        for step in ["con", "non", "discovery", "blocks", "conditions", "observe", "command"] {
            assert!(log.contains(&format!("ok {step}\n")), "{base}: {step}: {log}");
        }
    }
}

#[test]
fn tls_agrees_on_coap_and_on_nothing_else() {
    let listening = listening("", "");
    let agreed = |protocol: &str| {
        let output = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &listening.tls.to_string(),
                "-CAfile",
                "ca.crt",
                "-alpn",
                protocol,
            ])
            .current_dir(listening.gateway.folder())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), said(&output))
    };
    let (well, log) = agreed("coap");
    assert!(well && log.contains("ALPN protocol: coap"), "{log}");
    let (well, log) = agreed("mqtt");
    assert!(!well, "{log}");
}

#[test]
fn a_renewed_certificate_is_taken_at_sighup_and_streams_stay() {
    let listening = listening("", "");
    let folder = listening.gateway.folder().to_owned();
    let mut old = Device::greeted(secured(listening.tls, &folder, BOTH, None).unwrap());
    let shown = |device: &Device<tidegate_tests::tls::Secured>| {
        device.stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    Authority::new(&folder, "ca").issue("server", SERVER);
    listening.gateway.signal(Signal::HUP);
    wait_for(PATIENCE, || listening.gateway.log().contains("the configuration was reloaded").then_some(()))
        .unwrap();
    let mut new = Device::greeted(secured(listening.tls, &folder, BOTH, None).unwrap());
    assert_ne!(shown(&old), shown(&new));
    assert_eq!(old.publish(1), Code::CHANGED);
    assert_eq!(new.publish(2), Code::CHANGED);
}

#[test]
fn a_device_whose_certificate_is_revoked_goes_at_the_reload_and_the_others_stay() {
    let certified = "client_ca = \"devices.crt\"\nclient_crl = \"devices.crl\"";
    let listening = listening(certified, "[device.honest]\npublish = [\"sensors/#\"]\n");
    let folder = listening.gateway.folder().to_owned();
    let device = |own| Device::greeted(secured(listening.tls, &folder, BOTH, Some(own)).unwrap());
    let (mut stolen, mut honest) = (device("boiler-3"), device("honest"));
    assert_eq!(honest.publish(1), Code::CHANGED);
    Authority::known(&folder, "devices").revoke(&["boiler-3"]);
    listening.gateway.signal(Signal::HUP);
    assert_eq!((stolen.hear(), stolen.hear()), (Some(stream::ABORT), None));
    assert_eq!(honest.publish(2), Code::CHANGED);
}

/// A device that speaks on a stream, bytes and all.
struct Device<S> {
    stream: S,
    received: Vec<u8>,
}

impl Device<TcpStream> {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, received: Vec::new() }
    }

    fn at(address: SocketAddr) -> Self {
        Self::greeted(Self::connect(address).stream)
    }

    /// Whether something has come, without waiting for it.
    fn is_answered(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let came = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).unwrap();
        came
    }
}

impl<S: Read + Write> Device<S> {
    /// Says its CSM and hears the gateway's.
    fn greeted(stream: S) -> Self {
        let mut device = Self { stream, received: Vec::new() };
        device.say(&signal(stream::CSM));
        assert_eq!(device.hear(), Some(stream::CSM));
        device
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The code of the next frame; nothing when the gateway has closed.
    fn hear(&mut self) -> Option<Code> {
        loop {
            if let Ok(frame) = Frame::parse(&self.received, 1 << 20) {
                let (code, bytes) = (frame.code, frame.bytes);
                self.received.drain(..bytes);
                return Some(code);
            }
            let mut buffer = [0; 4_096];
            match uninterrupted(|| self.stream.read(&mut buffer)) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn publish(&mut self, token: u8) -> Code {
        self.say(&post(token, b"21.5"));
        self.hear().expect("an answer")
    }
}

fn framed(datagram: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; datagram.len() + 2];
    stream::write(&mut buffer, datagram).unwrap().to_vec()
}

fn signal(code: Code) -> Vec<u8> {
    framed(&[0x50, code.0, 0, 0])
}

fn post(token: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind: Kind::NonConfirmable, code: Code::POST, message_id: 0 };
    let mut buffer = vec![0; 200 + payload.len()];
    let mut writer = Writer::new(&mut buffer, header, Token::new(&[token]).unwrap());
    for segment in ["t", "sensors", "honest", "x"] {
        writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
    }
    let datagram = writer.payload(payload).finish().unwrap();
    assert!(Message::parse(datagram).is_ok());
    framed(datagram)
}

#[test]
fn the_address_that_a_load_balancer_names_is_what_counts() {
    let mut listening = listening("", "");
    let file = listening.gateway.folder().join("tidegate.toml");
    let text = read(&file).replace("[coap]\n", "[coap]\nproxy_protocol = [\"127.0.0.1\"]\n");
    std::fs::write(&file, text).unwrap();
    listening.gateway.kill();
    listening.gateway.start_again();
    let behind = |header: &[u8]| {
        let mut device = Device::connect(listening.tcp);
        device.say(header);
        device
    };
    let mut check = Device::greeted(behind(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").stream);
    assert_eq!(check.publish(1), Code::CHANGED);
    // For 192.0.2.7, which nobody knows.
    let mut stranger =
        behind(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\x12\x34\x16\x33");
    assert_eq!(stranger.hear(), Some(stream::ABORT));
    assert_eq!(stranger.hear(), None);
    wait_for(PATIENCE, || listening.gateway.log().contains("192.0.2.7:4660").then_some(()))
        .expect("in the log");
}

#[test]
fn streams_that_break_the_protocol_are_aborted_and_leave_nothing() {
    let listening = listening("", "[limits]\nconnect_timeout = \"1 s\"\n");
    let mut honest = Device::at(listening.tcp);
    assert_eq!(honest.publish(1), Code::CHANGED);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", listening.gateway.pid())).unwrap().count();
    let before = files();
    let mut random = fastrand::Rng::with_seed(8_323);
    for round in 0..200 {
        let mut device = Device::connect(listening.tcp);
        let greeted = round % 5 != 0;
        if greeted {
            device.say(&signal(stream::CSM));
        }
        let garbage: Vec<u8> = (0..random.usize(1..600)).map(|_| random.u8(..)).collect();
        let attack: &[u8] = match round % 5 {
            0 => &post(1, b"without a CSM"),
            1 => &[0xF0, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], // four gigabytes
            2 => &[0xE0, 0x10, 0x00, 0x01],             // more than the CSM allows
            3 => &[0x0F, 0x01],                         // a token of 15 bytes
            _ => &garbage,
        };
        let _ = device.stream.write_all(attack);
        if round % 5 == 4 {
            let _ = device.stream.shutdown(std::net::Shutdown::Write);
        }
        // The gateway's CSM, in the end an Abort, and the end.
        let heard: Vec<Code> = std::iter::from_fn(|| device.hear()).collect();
        assert_eq!(heard.first(), Some(&stream::CSM));
        assert!(round % 5 == 4 || heard.last() == Some(&stream::ABORT), "{round}: {heard:?}");
    }
    assert!(wait_for(PATIENCE, || (files() <= before).then_some(())).is_some(), "{before} {}", files());
    assert_eq!(honest.publish(2), Code::CHANGED);
}

#[test]
fn streams_that_say_nothing_or_little_are_given_up_and_hold_up_nobody() {
    let listening = listening("", "[limits]\nconnect_timeout = \"1 s\"\nconnections_unauthenticated = 16\n");
    let mut honest = Device::at(listening.tcp);
    // Until its CSM is read it is one of those that say nothing.
    assert_eq!(honest.publish(0), Code::CHANGED);
    let mut silent: Vec<Device<TcpStream>> = (0..40).map(|_| Device::connect(listening.tcp)).collect();
    // One byte at a time is slow, and well.
    for byte in post(7, b"21.5") {
        assert!(!honest.is_answered());
        honest.say(&[byte]);
    }
    assert_eq!(honest.hear(), Some(Code::CHANGED));
    let began = Instant::now();
    for device in &mut silent {
        let heard: Vec<Code> = std::iter::from_fn(|| device.hear()).collect();
        assert_eq!(heard, [stream::CSM, stream::ABORT]);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(honest.publish(1), Code::CHANGED);
}

#[test]
fn who_asks_without_reading_is_bounded_and_a_flood_of_connections_leaves_room() {
    let listening = listening("", "[limits]\nconnections = 64\n");
    let mut honest = Device::at(listening.tcp);
    assert_eq!(honest.publish(1), Code::CHANGED);
    let resident = || listening.gateway.metric("tidegate_process_resident_bytes");
    let before = resident();

    // Asks for the list of resources for as long as it is listened to, and reads nothing.
    let header = Header { kind: Kind::NonConfirmable, code: Code::GET, message_id: 0 };
    let mut buffer = [0; 64];
    let question = Writer::new(&mut buffer, header, Token::EMPTY)
        .option(OptionNumber::URI_PATH, b".well-known")
        .option(OptionNumber::URI_PATH, b"core")
        .finish()
        .unwrap();
    let questions = framed(question).repeat(1_000);
    for _ in 0..8 {
        let mut deaf = Device::at(listening.tcp);
        deaf.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let asked = (0..10_000)
            .take_while(|_| uninterrupted(|| deaf.stream.write(&questions)).is_ok_and(|count| count > 0))
            .count();
        assert!(asked < 10_000, "it was read for ever");
        assert_eq!(honest.publish(2), Code::CHANGED);
    }
    assert!(resident() - before < f64::from(16 << 20), "{before} {}", resident());

    let refused = || listening.gateway.metric("tidegate_connections_refused_total");
    let mut flood: Vec<Device<TcpStream>> = (0..200).map(|_| Device::connect(listening.tcp)).collect();
    wait_for(PATIENCE, || (refused() >= 100.0).then_some(())).expect("what is too much is refused");
    assert_eq!(honest.publish(3), Code::CHANGED);
    for device in &mut flood {
        let _ = device.stream.shutdown(std::net::Shutdown::Both);
    }
    let again = wait_for(PATIENCE, || {
        let mut device = Device::connect(listening.tcp);
        device.stream.write_all(&signal(stream::CSM)).ok()?;
        device.hear().filter(|code| *code == stream::CSM).map(|_| device)
    });
    assert_eq!(again.expect("there is room again").publish(4), Code::CHANGED);
}
