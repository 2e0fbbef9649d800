//! The shell as an operator meets it: the first minutes, bad surroundings, signals, health and metrics. Real processes,
//! real sockets; what the gateway decides is proved elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::uninterrupted::uninterrupted;
use tidegate_tests::wait::wait_for;

/// For what takes moments, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn succeeds(command: &mut Command) {
    let output =
        command.output().expect("mosquitto-clients and libcoap3-bin are installed (tests/run does it)");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn publish_mqtt(gateway: &Gateway, topic: &str, payload: &str) -> Command {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &gateway.mqtt.port().to_string(), "-i", "boiler-3", "-q", "1"]);
    command.args(["-t", topic, "-m", payload]);
    command
}

fn get_with_host(address: SocketAddr, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_first_two_lines_each_bring_a_message_upstream() {
    let gateway = Gateway::start("");
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
    let uri = format!("coap://{}/t/sensors/boiler-3/temperature", gateway.coap);
    succeeds(Command::new("coap-client-notls").args(["-m", "post", "-e", "21.6", &uri]));

    let lines = gateway.upstream_lines();
    let payloads: Vec<_> = lines.iter().map(|line| line["payload"].as_str().unwrap_or_default()).collect();
    assert_eq!(
        payloads,
        ["21.5", "21.6"],
        "each acknowledgement means that the message is upstream or on the disk"
    );
    assert!(lines.iter().all(|line| line["topic"] == "sensors/boiler-3/temperature"));
}

#[test]
fn a_taken_port_stops_the_start_and_is_named() {
    let mut gateway = Gateway::prepare("");
    let _taken = TcpListener::bind(gateway.mqtt).unwrap();
    gateway.spawn();
    assert_eq!(gateway.ended(SOON).unwrap().code(), Some(1));
    let log = gateway.log();
    assert!(
        log.contains(&gateway.mqtt.to_string()) && log.contains("mqtt.listen") && log.contains("ss -lntup"),
        "{log}"
    );
}

#[test]
fn a_directory_with_something_else_in_it_stops_the_start_and_is_left_alone() {
    let mut gateway = Gateway::prepare("");
    std::fs::create_dir(gateway.data()).unwrap();
    std::fs::write(gateway.data().join("thesis.tex"), "years of work").unwrap();
    gateway.spawn();
    assert_eq!(gateway.ended(SOON).unwrap().code(), Some(1));
    let log = gateway.log();
    assert!(log.contains(gateway.data().to_str().unwrap()) && log.contains("thesis.tex"), "{log}");
    let left: Vec<_> = std::fs::read_dir(gateway.data()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["thesis.tex"]);
}

#[test]
fn a_second_gateway_on_the_same_data_names_the_first() {
    let gateway = Gateway::start("");
    let second = Command::new(tidegate_tests::gateway::binary())
        .args(["run", "--config"])
        .arg(gateway.config())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let log = String::from_utf8_lossy(&second.stderr);
    assert!(log.contains(&format!("process {}", gateway.pid())), "{log}");
    assert_eq!(gateway.get("/health").0, 200);
}

#[test]
fn a_broker_that_cannot_be_found_does_not_stop_the_start() {
    let gateway =
        Gateway::start("[upstream.cloud]\nkind = \"amqp\"\nurls = [\"amqp://no-such-host.invalid\"]\n");
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
    let (code, health) = gateway.get("/health");
    assert_eq!(code, 200, "messages are taken: {health}");
    assert!(health.contains("upstream cloud is not connected"), "{health}");
    assert!((gateway.metric("tidegate_route_on_disk_messages") - 1.0).abs() < f64::EPSILON);
    let said = wait_for(SOON, || gateway.log().contains("no-such-host.invalid").then_some(()));
    assert!(said.is_some(), "{}", gateway.log());
}

#[test]
fn sigterm_under_load_ends_within_five_seconds_and_loses_nothing_acknowledged() {
    let route = |durability: &str| {
        format!("[[route]]\ntopic = \"#\"\nupstream = \"file\"\ndurability = \"{durability}\"\n")
    };
    for durability in ["disk", "relay"] {
        let mut gateway = Gateway::start(&route(durability));
        let acknowledged = AtomicUsize::new(0);
        let (acked, status, took) = std::thread::scope(|scope| {
            let devices: Vec<_> = (0..8)
                .map(|number| {
                    let (address, acknowledged) = (gateway.mqtt, &acknowledged);
                    scope.spawn(move || publish_until_the_end(address, number, acknowledged))
                })
                .collect();
            wait_for(SOON, || (acknowledged.load(Ordering::Relaxed) > 2_000).then_some(())).expect("a load");
            let (status, took) = gateway.stop();
            let acked: BTreeSet<_> = devices.into_iter().flat_map(|device| device.join().unwrap()).collect();
            (acked, status, took)
        });
        assert_eq!(status.code(), Some(0), "{}", gateway.log());
        assert!(took < Duration::from_secs(5), "{took:?}");

        gateway.start_again();
        let drained =
            wait_for(SOON, || (gateway.metric("tidegate_route_waiting_messages") == 0.0).then_some(()));
        assert!(drained.is_some());
        let arrived: BTreeSet<_> = gateway
            .upstream_lines()
            .iter()
            .filter_map(|line| line["payload"].as_str().map(str::to_owned))
            .collect();
        let lost: Vec<_> = acked.difference(&arrived).collect();
        assert!(
            lost.is_empty(),
            "{durability}: {} of {} lost, among them {:?}",
            lost.len(),
            acked.len(),
            lost[0]
        );
    }
}

/// Publishes at QoS 1, ten at a time, until the connection ends; gives the payloads that were acknowledged.
fn publish_until_the_end(address: SocketAddr, number: u16, acknowledged: &AtomicUsize) -> Vec<String> {
    const WINDOW: u16 = 10;
    let mut stream = TcpStream::connect(address).unwrap();
    let id = format!("load-{number}");
    let connect = [
        &[0x10, 12 + u8::try_from(id.len()).unwrap(), 0, 4][..],
        b"MQTT",
        &[4, 2, 0, 60, 0],
        &[id.len() as u8],
        id.as_bytes(),
    ]
    .concat();
    stream.write_all(&connect).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);

    let topic = format!("sensors/{id}/count");
    let mut acked = Vec::new();
    for round in 0.. {
        let payload = |packet: u16| format!("{id} {round} {packet}");
        let mut packets = Vec::new();
        for packet in 1..=WINDOW {
            let body = [
                &[0, topic.len() as u8][..],
                topic.as_bytes(),
                &packet.to_be_bytes(),
                payload(packet).as_bytes(),
            ]
            .concat();
            packets.extend_from_slice(&[0x32, u8::try_from(body.len()).unwrap()]);
            packets.extend_from_slice(&body);
        }
        if stream.write_all(&packets).is_err() {
            return acked;
        }
        for _ in 1..=WINDOW {
            let mut puback = [0; 4];
            if stream.read_exact(&mut puback).is_err() {
                return acked;
            }
            assert_eq!(puback[..2], [0x40, 2]);
            acked.push(payload(u16::from_be_bytes([puback[2], puback[3]])));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    acked
}

#[test]
fn a_bad_file_at_sighup_changes_nothing_and_a_good_one_is_taken_over() {
    let gateway = Gateway::start("");
    let logs = |text: &str| wait_for(SOON, || gateway.log().contains(text).then_some(()));

    gateway.configure("[mqtt.tsl]\nlisten = []\n[spool]\nmax_size = \"one gigabyte\"\n");
    gateway.signal(Signal::HUP);
    assert!(logs("the configuration was not reloaded").is_some(), "{}", gateway.log());
    let log = gateway.log();
    assert!(log.contains("tsl") && log.contains("one gigabyte"), "every mistake: {log}");
    let (code, health) = gateway.get("/health");
    assert!(code == 200 && health.contains("tidegate check"), "{health}");
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));

    gateway.configure("[[route]]\nname = \"only-sensors\"\ntopic = \"sensors/#\"\nupstream = \"file\"\n");
    gateway.signal(Signal::HUP);
    assert!(logs("the configuration was reloaded").is_some(), "{}", gateway.log());
    assert!(!gateway.get("/health").1.contains("tidegate check"));
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.6"));
    let (_, metrics) = gateway.get("/metrics");
    assert!(
        metrics.contains("tidegate_route_delivered_messages_total{route=\"only-sensors\"} 1"),
        "{metrics}"
    );
}

#[test]
fn a_larger_spool_waits_for_a_restart() {
    let gateway = Gateway::start("");
    gateway.configure("[spool]\nmax_size = \"2 GiB\"\n");
    gateway.signal(Signal::HUP);
    let said = wait_for(SOON, || gateway.log().contains("needs a restart: spool.max_size").then_some(()));
    assert!(said.is_some(), "the store's file keeps the bound that it was opened with: {}", gateway.log());
}

#[test]
fn a_route_to_an_upstream_that_does_not_run_waits_for_a_restart() {
    let gateway = Gateway::start("");
    gateway.configure(
        "[upstream.file]\nkind = \"file\"\n[upstream.new]\nkind = \"file\"\npath = \"new.jsonl\"\n[[route]]\ntopic = \"#\"\nupstream = \"new\"\n",
    );
    gateway.signal(Signal::HUP);
    let said = wait_for(SOON, || gateway.log().contains("restart the gateway to use it").then_some(()));
    assert!(said.is_some(), "{}", gateway.log());
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
    assert_eq!(gateway.upstream_lines().len(), 1);
}

#[test]
fn the_metrics_are_what_a_scraper_reads() {
    let gateway = Gateway::start("");
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
    let (code, text) = gateway.get("/metrics");
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut announced = BTreeSet::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let name = comment.split(' ').nth(1).unwrap();
            assert!(name.starts_with("tidegate_"), "{line}");
            announced.insert(name.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        assert!(announced.contains(name.strip_suffix("_total").unwrap_or(name)), "{line}");
    }
    let is = |name: &str, value: f64| {
        assert!((gateway.metric(name) - value).abs() < f64::EPSILON, "{name}\n{text}")
    };
    is("tidegate_messages_accepted_total", 1.0);
    is("tidegate_upstream_up", 1.0);
    is("tidegate_ready", 1.0);
    assert!(gateway.metric("tidegate_process_resident_bytes") > 1e6);
}

#[test]
fn a_web_page_of_somebody_else_does_not_reach_the_administrators_port() {
    let gateway = Gateway::start("");
    assert!(get_with_host(gateway.admin, "/status", "evil.example").starts_with("HTTP/1.1 421 "));
    let ours = get_with_host(gateway.admin, "/status", "localhost");
    assert!(ours.starts_with("HTTP/1.1 200 "), "{ours}");
    assert!(!ours.to_ascii_lowercase().contains("access-control-allow"), "{ours}");
}

#[test]
fn connections_beyond_the_bound_are_closed_and_the_others_live_on() {
    let gateway = Gateway::start("[limits]\nconnections = 3\n");
    // The harness has knocked at the door to see whether it is open.
    let empty = || wait_for(SOON, || (gateway.metric("tidegate_connections") < 1.0).then_some(()));
    assert!(empty().is_some());
    let held: Vec<_> = (0..3).map(|_| TcpStream::connect(gateway.mqtt).unwrap()).collect();
    let full = wait_for(SOON, || (gateway.metric("tidegate_connections") >= 3.0).then_some(()));
    assert!(full.is_some(), "{}", gateway.log());
    let mut refused = TcpStream::connect(gateway.mqtt).unwrap();
    refused.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(uninterrupted(|| refused.read(&mut [0; 1])).unwrap_or(0), 0, "closed before a byte is read");
    assert!(gateway.metric("tidegate_connections_refused_total") >= 1.0);
    drop(held);
    assert!(empty().is_some());
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
}

#[test]
fn systemd_hears_of_the_start_signs_of_life_a_reload_and_the_end() {
    let gateway = Gateway::prepare("");
    let socket = gateway.folder().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(SOON)).unwrap();
    let hears = |state: &str| {
        let mut buffer = [0; 4_096];
        loop {
            let count = uninterrupted(|| systemd.recv(&mut buffer))
                .unwrap_or_else(|error| panic!("no {state}: {error}"));
            let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if said.lines().any(|line| line == state) {
                return said;
            }
        }
    };
    let mut child = Command::new(tidegate_tests::gateway::binary())
        .args(["run", "--config"])
        .arg(gateway.config())
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    hears("READY=1");
    assert!(hears("WATCHDOG=1").contains("STATUS=0 connections"));
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).unwrap();
    assert!(hears("RELOADING=1").contains("MONOTONIC_USEC="));
    hears("READY=1");
    kill_process(pid, Signal::TERM).unwrap();
    hears("STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn running_out_of_file_descriptors_is_survived() {
    let gateway = Gateway::prepare("");
    let log = std::fs::File::create(gateway.folder().join("log")).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 48; exec \"$0\" run --config \"$1\""])
        .arg(tidegate_tests::gateway::binary())
        .arg(gateway.config())
        .stderr(log)
        .spawn()
        .unwrap();
    let first = wait_for(SOON, || TcpStream::connect(gateway.mqtt).ok()).expect("the gateway listens");
    let held: Vec<_> = (0..64).map(|_| TcpStream::connect(gateway.mqtt).unwrap()).collect();
    let said = wait_for(SOON, || gateway.log().contains("could not be accepted").then_some(()));
    assert!(said.is_some(), "{}", gateway.log());
    assert!(gateway.log().contains("raise LimitNOFILE"), "{}", gateway.log());
    drop((first, held));
    succeeds(&mut publish_mqtt(&gateway, "sensors/boiler-3/temperature", "21.5"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
