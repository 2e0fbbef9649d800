//! Devices with credentials against the real process: how they come in, how a reload takes effect, what stands in the audit log
//! and in the metrics afterwards, and that a configuration that cannot be read changes nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tidegate::access::password;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::mqtt::Hello;
use tidegate_tests::uninterrupted::uninterrupted;
use tidegate_tests::wait::wait_for;
use tidegate_wire::mqtt::Version;

/// More than anything here should take.
const SOON: Duration = Duration::from_secs(30);

/// "hunter2" with 64 KiB and one pass.
const CHOSEN: &str =
    "$argon2id$v=19$m=64,t=1,p=1$c29tZSBzYWx0IGhlcmU$L7xoins35Zxujf2h44+A9MrPs+uMD4EcSd6TRn8OKkg";

/// Connects, and gives the code of the CONNACK with the connection.
fn connected(gateway: &Gateway, hello: &Hello<'_>) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(gateway.mqtt).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&hello.bytes()).unwrap();
    let mut connack = [0; 4];
    match stream.read_exact(&mut connack) {
        Ok(()) => (connack[3], stream),
        Err(error) => panic!("no CONNACK: {error}"),
    }
}

fn audited(gateway: &Gateway) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(gateway.data().join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn logged(gateway: &Gateway, text: &str, times: usize) {
    let said = wait_for(SOON, || (gateway.log().matches(text).count() >= times).then_some(()));
    assert!(said.is_some(), "no {text:?} in: {}", gateway.log());
}

fn device(gateway: &Gateway, id: &str, hash: &str) {
    let folder = gateway.folder().join("devices");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("[device.{id}]\npassword_hash = \"{hash}\"\n");
    std::fs::write(folder.join(format!("{id}.toml")), text).unwrap();
}

#[test]
fn devices_come_in_with_their_credentials_and_a_reload_takes_them_away() {
    let mut gateway = Gateway::prepare("");
    let (token, hash) = password::token().unwrap();
    device(&gateway, "sensor", &hash);
    device(&gateway, "person", CHOSEN);
    gateway.configure("[access]\nanonymous = \"never\"");
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let text = text.replace("[gateway]\n", "[gateway]\ndevices = \"devices/*.toml\"\n");
    std::fs::write(gateway.config(), text).unwrap();
    gateway.start_again();

    let version = Version::V3_1_1;
    let sensor = Hello::new(version, "sensor").proving("sensor", &token);
    let (code, mut open) = connected(&gateway, &sensor);
    assert_eq!(code, 0, "{}", gateway.log());
    assert_eq!(connected(&gateway, &Hello::new(version, "person@desk").proving("person", "hunter2")).0, 0);
    assert_eq!(connected(&gateway, &Hello::new(version, "person").proving("sensor", &token)).0, 2);
    for (name, secret) in [("person", "hunter3"), ("sensor", "hunter2"), ("no\u{202e}body\"}", "hunter2")] {
        assert_eq!(connected(&gateway, &Hello::new(version, "x").proving(name, secret)).0, 5, "{name}");
    }
    assert_eq!(connected(&gateway, &Hello::new(version, "x")).0, 5);

    // No descriptor is free when the configuration is to be read: the old one stays in force, to the letter.
    let pid = Pid::from_raw(gateway.pid().cast_signed()).unwrap();
    let before = prlimit(
        Some(pid),
        Resource::Nofile,
        Rlimit { current: Some(0), maximum: getrlimit(Resource::Nofile).maximum },
    )
    .unwrap();
    gateway.signal(Signal::HUP);
    logged(&gateway, "the configuration was not reloaded", 1);
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    assert_eq!(connected(&gateway, &Hello::new(version, "x")).0, 5);
    assert_eq!(connected(&gateway, &Hello::new(version, "sensor@2").proving("sensor", &token)).0, 0);

    // Nor with a device that cannot be read.
    let sensor_file = gateway.folder().join("devices/sensor.toml");
    let hidden = gateway.folder().join("sensor");
    std::fs::create_dir(gateway.folder().join("devices/broken.toml")).unwrap();
    std::fs::rename(&sensor_file, &hidden).unwrap();
    gateway.signal(Signal::HUP);
    logged(&gateway, "the configuration was not reloaded", 2);
    std::fs::remove_dir(gateway.folder().join("devices/broken.toml")).unwrap();
    gateway.signal(Signal::HUP);
    logged(&gateway, "the configuration was reloaded", 1);
    // The device is gone, and so is its connection.
    assert_eq!(uninterrupted(|| open.read(&mut [0; 16])).unwrap(), 0);
    assert_eq!(connected(&gateway, &sensor).0, 5);

    assert!(gateway.metric("tidegate_sign_ins_refused_total{protocol=\"mqtt\"}") >= 6.0);
    let events = wait_for(SOON, || {
        let events = audited(&gateway);
        let count = |what: &str| events.iter().filter(|event| event["event"] == what).count();
        (count("sign-in") == 3 && count("sign-in refused") == 7 && count("configuration") == 4)
            .then(|| events.clone())
    });
    let events = events.unwrap_or_else(|| panic!("{:#?}", audited(&gateway)));
    let log = format!("{events:?}{}", gateway.log());
    assert!(!log.contains(&token) && !log.contains("hunter") && !log.contains(&hash), "no secret in: {log}");
    assert!(!log.contains('\u{202e}'), "what a peer calls itself is escaped");
}
