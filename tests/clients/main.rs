//! Tours of the real clients that are in the field: each connects, sends at every QoS, uses retained messages, a will, a session
//! that is taken up again, and with MQTT 5 shared subscriptions and every property; over TCP, TLS and WebSocket, against the
//! release gateway. The tours stand beside this file, one a client, with the same steps; each step's line is looked for here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be

mod oscore;
mod server;
mod tour_rumqttc;

use server::{Server, Transport};
use std::path::{Path, PathBuf};
use std::process::Command;

const EVERY_TRANSPORT: &[Transport] =
    &[Transport::Tcp, Transport::Tls, Transport::WebSocket, Transport::SecureWebSocket];

/// The steps that every tour takes, and those that need MQTT 5.
const STEPS: &[&str] = &["connect", "qos0", "qos1", "qos2", "retained", "will", "resume"];
const STEPS_OF_5: &[&str] = &["shared", "properties", "topic-alias"];

/// 3.1.1 and 5, as the protocol numbers them.
const VERSIONS: [u8; 2] = [4, 5];

/// What `tests/run` installs for the tours.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// A Python that has paho-mqtt and aiomqtt: the one that `tests/run` makes, or what TIDEGATE_PYTHON names.
fn python() -> Command {
    Command::new(
        std::env::var_os("TIDEGATE_PYTHON").map_or_else(|| target().join("venv/bin/python"), Into::into),
    )
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", target().join("clients/node_modules"));
    command
}

/// Makes a script's tour with each version over each transport and looks at every line.
fn tour(interpreter: impl Fn() -> Command, script: &str, transports: &[Transport]) {
    let server = Server::start();
    for &transport in transports {
        for version in VERSIONS {
            let url = server.url(transport).to_string();
            let name = format!("t{version}-{transport:?}");
            let mut command = interpreter();
            command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script))
                .args([&url, &version.to_string(), &name])
                .arg(server.authority());
            let output = command
                .output()
                .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run packages installs it"));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut wanted: Vec<_> = STEPS.iter().map(|step| format!("ok {step}")).collect();
            if version == 5 {
                wanted.extend(STEPS_OF_5.iter().map(|step| format!("ok {step}")));
            }
            assert!(
                output.status.success() && said.lines().eq(wanted.iter().map(String::as_str)),
                "{script}, version {version}, {url}:\n{said}{}\nthe server's log:\n{}",
                String::from_utf8_lossy(&output.stderr),
                server.log()
            );
        }
    }
}

#[test]
fn paho_makes_its_tour_over_every_transport() {
    tour(python, "tour_paho.py", EVERY_TRANSPORT);
}

#[test]
fn aiomqtt_makes_its_tour_over_every_transport() {
    tour(python, "tour_aiomqtt.py", EVERY_TRANSPORT);
}

#[test]
fn mqtt_js_makes_its_tour_over_every_transport() {
    tour(node, "tour_mqttjs.cjs", EVERY_TRANSPORT);
}

#[test]
fn the_mosquitto_clients_make_their_tour_over_tcp_and_tls_and_have_no_websocket() {
    tour(|| Command::new("bash"), "tour_mosquitto.sh", &[Transport::Tcp, Transport::Tls]);
}

#[test]
fn rumqttc_makes_its_tour_over_every_transport() {
    let server = Server::start();
    for &transport in EVERY_TRANSPORT {
        for version in VERSIONS {
            let url = server.url(transport);
            let name = format!("t{version}-{transport:?}");
            println!("version {version}, {url}");
            tour_rumqttc::go(&url, version, &name);
        }
    }
}
