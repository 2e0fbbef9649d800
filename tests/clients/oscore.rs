//! OSCORE with implementations that are not ours: aiocoap and libcoap as the device of the real gateway, over UDP and TCP, and over
//! a kill -9 and a restart of it; and the firmware's publisher as the client of an aiocoap server, over a kill and a restart of that one.

use super::python;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_node::coap::secured::Secured;
use tidegate_node::coap::{Event, Publication, Publisher};
use tidegate_oscore::{Context, Parameters, Replay, Sequence, Session};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f";

/// For an exchange on a busy machine, repetitions included.
const WITHIN: Duration = Duration::from_secs(60);

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// A folder with a context as aiocoap keeps it.
fn context(folder: &Path, sender: &str, recipient: &str) {
    let settings = format!(
        "{{\"sender-id_hex\": \"{sender}\", \"recipient-id_hex\": \"{recipient}\", \"secret_hex\": \"{SECRET}\"}}"
    );
    std::fs::write(folder.join("settings.json"), settings).unwrap();
}

fn spawn(script_name: &str, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = python();
    command.arg(script(script_name)).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run packages installs it"));
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

#[test]
fn aiocoap_makes_its_tour_with_oscore_over_a_restart_of_the_gateway() {
    aiocoap_tour("coap");
}

#[test]
fn aiocoap_makes_its_tour_with_oscore_over_tcp_and_a_restart_of_the_gateway() {
    aiocoap_tour("coap+tcp");
}

fn aiocoap_tour(scheme: &str) {
    let mut gateway = gateway();
    let folder = tempfile::tempdir().unwrap();
    context(folder.path(), "5a02", "01");
    let url = format!("{scheme}://{}", gateway.coap);
    let (mut tour, said) = spawn("tour_aiocoap.py", &[&url, folder.path().to_str().unwrap()]);
    let mut steps = Vec::new();
    for line in said.lines() {
        let line = line.unwrap();
        if line == "now restart" {
            gateway.kill();
            gateway.start_again();
            writeln!(tour.stdin.take().unwrap()).unwrap();
        } else {
            steps.push(line);
        }
    }
    let wanted =
        ["confirmable", "read", "rights", "non-confirmable", "blocks", "observe", "stranger", "restart"];
    assert!(
        tour.wait().unwrap().success() && steps == wanted.map(|step| format!("ok {step}")),
        "{steps:?}\nthe gateway's log:\n{}",
        gateway.log()
    );
    assert!(!gateway.log().contains(SECRET));
}

/// A gateway that lets in one device and nobody else.
fn gateway() -> Gateway {
    let mut gateway = Gateway::prepare("");
    // TCP's ports are apart from UDP's.
    gateway.configure(&format!(
        "[coap.tcp]\nlisten = [\"{}\"]\n\
         [access]\nanonymous = \"never\"\n[device.boiler-3]\nsubscribe = [\"sensors/boiler-3/#\"]\n\
         oscore = {{ device_id = \"5a02\", secret_file = \"boiler-3.oscore\" }}\n",
        gateway.coap
    ));
    let secret = gateway.folder().join("boiler-3.oscore");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    gateway.start_again();
    gateway
}

#[test]
fn libcoap_makes_its_tour_with_oscore_over_a_restart_of_the_gateway() {
    libcoap_tour("coap");
}

#[test]
fn libcoap_makes_its_tour_with_oscore_over_tcp_and_a_restart_of_the_gateway() {
    libcoap_tour("coap+tcp");
}

fn libcoap_tour(scheme: &str) {
    let mut gateway = gateway();
    let folder = tempfile::tempdir().unwrap();
    let (keys, numbers) = (folder.path().join("keys"), folder.path().join("numbers"));
    let written =
        format!("master_secret,hex,\"{SECRET}\"\nsender_id,hex,\"5a02\"\nrecipient_id,hex,\"01\"\n");
    std::fs::write(&keys, written).unwrap();
    let topic = format!("{scheme}://{}/t/sensors/boiler-3", gateway.coap);
    let ask = |args: &[&str], path: &str| {
        let mut command = Command::new(super::target().join("trixie/coap-client"));
        command.arg("-E").arg(format!("{},{}", keys.display(), numbers.display()));
        command.args(["-B", "30"]).args(args).arg(format!("{topic}/{path}"));
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run packages installs it"));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(ask(&["-m", "put", "-e", "71.5"], "t?retain=1"), "");
    assert_eq!(ask(&["-m", "get"], "t"), "71.5");
    let large = "q".repeat(3_000);
    assert_eq!(ask(&["-b", "64", "-m", "put", "-e", &large], "large?retain=1"), "");
    assert_eq!(ask(&["-b", "64", "-m", "get"], "large"), large);
    assert!(ask(&["-s", "1", "-m", "get"], "t").starts_with("71.5"), "observed for a second");
    gateway.kill();
    gateway.start_again();
    assert_eq!(ask(&["-m", "put", "-e", "71.6"], "t?retain=1"), "");
    assert_eq!(ask(&["-m", "get"], "t"), "71.6");
}

/// Publishes until it is acknowledged.
fn publish(device: &mut Secured<[u8; 128], [u8; 256]>, socket: &UdpSocket, payload: &[u8]) -> Event {
    let began = Instant::now();
    let micros = || u64::try_from(began.elapsed().as_micros()).unwrap();
    device.cancel();
    device.publish(micros(), &Publication::confirmable(&["t"], payload)).unwrap();
    let mut buffer = [0; 512];
    while began.elapsed() < WITHIN {
        while let Some(datagram) = device.poll_transmit(micros()) {
            // Nobody may be there at the moment.
            let _ = socket.send(datagram);
        }
        if let Some(event) = device.poll_event() {
            return event;
        }
        // A read that times out is the wait for the next repetition.
        if let Ok(length) = socket.recv(&mut buffer) {
            device.handle_datagram(micros(), &buffer[..length]);
        }
    }
    panic!("nothing became of it");
}

#[test]
fn the_firmware_publishes_to_an_aiocoap_server_over_a_restart_of_it() {
    let folder = tempfile::tempdir().unwrap();
    context(folder.path(), "01", "5a02");
    let port = free_port();
    let start = || {
        let port = port.to_string();
        let (server, said) = spawn("server_aiocoap.py", &[&port, folder.path().to_str().unwrap()]);
        let mut lines = said.lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        (server, lines)
    };
    let secret: Vec<u8> = (0..16).collect();
    let parameters = Parameters {
        master_secret: &secret,
        sender_id: &[0x5A, 2],
        recipient_id: &[1],
        ..Parameters::default()
    };
    let sequence = Sequence::reserved(0, 100);
    let session = Session::new(Context::derive(&parameters).unwrap(), sequence, Replay::fresh());
    let mut device = Secured::new(Publisher::new([0; 128], 7), session, [0; 256]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();

    let (mut server, mut lines) = start();
    for payload in ["21.5", "21.6"] {
        let event = publish(&mut device, &socket, payload.as_bytes());
        assert!(matches!(event, Event::Acknowledged { .. }), "{event:?}");
        assert_eq!(lines.next().unwrap().unwrap(), payload);
    }
    // Killed, it does not know which requests it has seen, and asks.
    server.kill().unwrap();
    server.wait().unwrap();
    let (mut server, mut lines) = start();
    let event = publish(&mut device, &socket, b"21.7");
    assert!(matches!(event, Event::Acknowledged { .. }), "{event:?}");
    assert_eq!(lines.next().unwrap().unwrap(), "21.7");
    drop(server.stdin.take());
    server.wait().unwrap();
}
