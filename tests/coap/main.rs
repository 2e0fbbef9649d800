//! Real CoAP clients against the gateway as a process: libcoap's, as Debian ships it, and aiocoap. CON and NON, blocks of 16 and 1,024
//! bytes both ways, Observe, commands, a lossy link, and MQTT clients in the same topic space. `streams` does it over TCP, TLS and
//! WebSocket, `multicast` looks for the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be

mod libcoap;
mod multicast;
mod streams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::wait::wait_for;

/// The longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that is ended when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(gateway: &Gateway, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("coap-client-notls");
    command.args(arguments).arg(format!("coap://{}{path}", gateway.coap));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the client says, its log included.
fn run(gateway: &Gateway, path: &str, arguments: &[&str]) -> String {
    said(&client(gateway, path, arguments).output().expect("libcoap3-bin is installed by tests/run packages"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn mqtt_publish(gateway: &Gateway, arguments: &[&str]) {
    let output = Command::new("mosquitto_pub")
        .args(["-p", &gateway.mqtt.port().to_string(), "-q", "1", "-i", "publisher"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// A Python that has aiocoap: the one that `tests/run` makes, or what TIDEGATE_PYTHON names.
fn python() -> PathBuf {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    std::env::var_os("TIDEGATE_PYTHON").map_or_else(made, Into::into)
}

/// How often each payload has arrived upstream on a topic.
fn upstream(gateway: &Gateway, topic: &str) -> BTreeMap<String, usize> {
    let mut payloads = BTreeMap::new();
    for line in gateway.upstream_lines() {
        if line["topic"] == topic {
            *payloads.entry(line["payload"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    payloads
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn what_libcoap_sends_arrives_and_a_con_is_answered() {
    let gateway = Gateway::start("");
    let log = run(&gateway, "/t/sensors/a/x", &["-m", "post", "-e", "con", "-v", "7"]);
    assert!(log.contains("2.04"), "{log}");
    let log = run(&gateway, "/ps/sensors/a/x", &["-m", "put", "-N", "-e", "non", "-v", "7", "-B", "2"]);
    assert!(log.contains("2.04"), "{log}");
    wait_for(PATIENCE, || (upstream(&gateway, "sensors/a/x").len() == 2).then_some(())).unwrap();
    let list = run(&gateway, "/.well-known/core", &[]);
    assert!(list.contains("</ps>;rt=core.ps;obs"), "{list}");
    let list = run(&gateway, "/.well-known/core?rt=core.*", &["-b", "16"]);
    assert_eq!(list.trim(), "</ps>;rt=core.ps;obs");
    assert!(run(&gateway, "/t/sensors/a/none", &[]).contains("4.04"));
    assert!(run(&gateway, "/t/sensors/a/x", &["-m", "fetch", "-e", "x"]).contains("4.05"));
}

#[test]
fn bodies_go_both_ways_in_blocks_and_none_beyond_the_limit() {
    let gateway = Gateway::start("");
    let folder = tempfile::tempdir().unwrap();
    let (sent, received) = (folder.path().join("sent"), folder.path().join("received"));
    for (block, length, topic) in
        [("16", 3_000_usize, "small"), ("1024", 1 << 20, "large"), ("64", 10_001, "odd")]
    {
        let body: Vec<u8> = (0..length).map(|n| b'a' + u8::try_from(n * 7 % 23).unwrap()).collect();
        std::fs::write(&sent, &body).unwrap();
        let path = format!("/ps/sensors/blocks/{topic}?retain=1");
        let file = sent.to_str().unwrap();
        let log = run(&gateway, &path, &["-m", "put", "-b", block, "-f", file, "-v", "6"]);
        assert!(log.contains("2.04"), "{block}: {}", &log[log.len().saturating_sub(2_000)..]);
        let path = format!("/ps/sensors/blocks/{topic}");
        run(&gateway, &path, &["-b", block, "-o", received.to_str().unwrap()]);
        assert_eq!(std::fs::read(&received).unwrap_or_default(), body, "{block}");
        std::fs::remove_file(&received).unwrap();
        let payloads = upstream(&gateway, &format!("sensors/blocks/{topic}"));
        assert_eq!(payloads.into_iter().collect::<Vec<_>>(), [(String::from_utf8(body).unwrap(), 1)]);
    }
    std::fs::write(&sent, vec![b'x'; (1 << 20) + 1]).unwrap();
    let file = sent.to_str().unwrap();
    let log = run(&gateway, "/t/sensors/blocks/beyond", &["-m", "post", "-b", "1024", "-f", file, "-v", "6"]);
    assert!(log.contains("4.13"), "{}", &log[log.len().saturating_sub(2_000)..]);
    assert!(upstream(&gateway, "sensors/blocks/beyond").is_empty());
}

#[test]
fn an_observer_sees_what_mqtt_clients_publish_and_they_see_what_coap_devices_do() {
    let gateway = Gateway::start("");
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    mqtt_publish(&gateway, &["-t", "news/all", "-m", "v0", "-r"]);
    let arguments = ["-s", "120", "-w", "-K", "1", "-o", seen.to_str().unwrap()];
    let _observer = Running(client(&gateway, "/ps/news/all", &arguments).spawn().unwrap());
    wait_for(PATIENCE, || read(&seen).contains("v0").then_some(())).expect("the value that was there");
    for value in ["v1", "v2", "v3"] {
        mqtt_publish(&gateway, &["-t", "news/all", "-m", value]);
        wait_for(PATIENCE, || read(&seen).contains(value).then_some(())).expect("what came");
    }
    // And the other way round.
    let heard = folder.path().join("heard");
    let subscriber = Command::new("mosquitto_sub")
        .args(["-p", &gateway.mqtt.port().to_string(), "-q", "1", "-t", "sensors/#", "-v"])
        .stdout(std::fs::File::create(&heard).unwrap())
        .spawn()
        .unwrap();
    let _subscriber = Running(subscriber);
    wait_for(PATIENCE, || {
        run(&gateway, "/t/sensors/pump/rpm", &["-m", "post", "-e", "900"]);
        read(&heard).contains("sensors/pump/rpm 900").then_some(())
    })
    .expect("what a CoAP device published");
}

#[test]
fn a_command_reaches_a_device_that_observes_and_one_that_listens() {
    let gateway = Gateway::start("");
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let arguments = ["-s", "120", "-w", "-o", seen.to_str().unwrap()];
    let _observer = Running(client(&gateway, "/command/t/pump-1", &arguments).spawn().unwrap());
    wait_for(PATIENCE, || (gateway.metric("tidegate_subscriptions") > 0.0).then_some(()))
        .expect("it observes");
    for value in ["one", "two", "three"] {
        mqtt_publish(&gateway, &["-t", "commands/pump-1/say", "-m", value]);
    }
    wait_for(PATIENCE, || {
        let seen = read(&seen);
        let places: Vec<_> = ["one", "two", "three"].iter().map(|value| seen.find(value)).collect();
        (places.iter().all(Option::is_some) && places.is_sorted()).then_some(())
    })
    .expect("every command, in order");

    let arguments = ["-m", "post", "-e", "on", "-v", "7"];
    let listener = client(&gateway, "/telemetry/t/pump-2?hono-ttd=60", &arguments).spawn().unwrap();
    let mut listener = Running(listener);
    wait_for(PATIENCE, || (!upstream(&gateway, "sensors/pump-2/telemetry").is_empty()).then_some(()))
        .expect("what it sent");
    mqtt_publish(&gateway, &["-t", "commands/pump-2/speed", "-m", "faster"]);
    wait_for(PATIENCE, || listener.0.try_wait().unwrap()).expect("it is answered");
    let mut log = String::new();
    std::io::Read::read_to_string(listener.0.stdout.as_mut().unwrap(), &mut log).unwrap();
    std::io::Read::read_to_string(listener.0.stderr.as_mut().unwrap(), &mut log).unwrap();
    assert!(log.contains("faster") && log.contains("hono-command=speed"), "{log}");
}

#[test]
fn over_a_link_that_loses_a_fifth_nothing_acknowledged_is_lost_or_doubled() {
    let gateway = Gateway::start("");
    let clients: Vec<(String, Running)> = (0..16)
        .map(|number| {
            let payload = format!("reading-{number}");
            let arguments = ["-m", "post", "-l", "20%", "-e", &payload, "-v", "7"];
            let child = client(&gateway, "/t/sensors/lossy/x", &arguments).spawn().unwrap();
            (payload, Running(child))
        })
        .collect();
    let mut acknowledged = Vec::new();
    for (payload, mut running) in clients {
        let mut log = String::new();
        std::io::Read::read_to_string(running.0.stdout.as_mut().unwrap(), &mut log).unwrap();
        std::io::Read::read_to_string(running.0.stderr.as_mut().unwrap(), &mut log).unwrap();
        if log.contains("2.04") {
            acknowledged.push(payload);
        }
    }
    assert!(acknowledged.len() >= 12, "{}", acknowledged.len());
    let arrived = wait_for(PATIENCE, || {
        let arrived = upstream(&gateway, "sensors/lossy/x");
        acknowledged.iter().all(|payload| arrived.contains_key(payload)).then_some(arrived)
    })
    .expect("everything acknowledged arrives");
    assert!(arrived.values().all(|times| *times == 1), "{arrived:?}");
}

/// What aiocoap says on its tour of the gateway at this URL.
fn aiocoap_tour(base: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python());
    command.arg(tests.join("coap/tour_aiocoap.py")).arg(base);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run packages installs it"));
    said(&output)
}

#[test]
fn aiocoap_makes_its_tour() {
    let gateway = Gateway::start("");
    let said = aiocoap_tour(&format!("coap://{}", gateway.coap));
    for step in ["con", "non", "discovery", "blocks", "conditions", "observe", "command"] {
        assert!(said.contains(&format!("ok {step}\n")), "{step}: {said}");
    }
}

#[test]
fn bodies_survive_a_link_that_loses_a_fifth() {
    let gateway = Gateway::start("");
    let folder = tempfile::tempdir().unwrap();
    let (sent, received) = (folder.path().join("sent"), folder.path().join("received"));
    let body: Vec<u8> = (0..9_000).map(|n| b'a' + u8::try_from(n % 25).unwrap()).collect();
    std::fs::write(&sent, &body).unwrap();
    // Each transfer may be given up by the client after four repetitions of one block: some are.
    let done = (0..5).any(|_| {
        let arguments = ["-m", "put", "-b", "1024", "-l", "20%", "-f", sent.to_str().unwrap(), "-v", "6"];
        run(&gateway, "/ps/sensors/lossy/body?retain=1", &arguments).contains("2.04")
    });
    assert!(done, "no upload came through");
    let arrived = upstream(&gateway, "sensors/lossy/body");
    assert!(arrived.keys().all(|payload| payload.as_bytes() == body), "never mixed, never with gaps");
    let fetched = (0..5).any(|_| {
        let _ = std::fs::remove_file(&received);
        run(
            &gateway,
            "/ps/sensors/lossy/body",
            &["-b", "512", "-l", "20%", "-o", received.to_str().unwrap()],
        );
        std::fs::read(&received).unwrap_or_default() == body
    });
    assert!(fetched, "no download came through");
}
