//! Dead letters as an operator meets them: listed, shown and exported with the gateway or without it, sent again after the fix
//! under their own ids, or given up. Real processes, a real broker, the real command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::process::{Command, Output};
use std::time::Duration;
use tidegate_tests::gateway::{Gateway, binary};
use tidegate_tests::outage::configuration;
use tidegate_tests::rabbit::{Rabbit, Setup};
use tidegate_tests::wait::wait_for;

/// For what takes moments, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn publish(gateway: &Gateway, topic: &str, payload: &str) {
    let port = gateway.mqtt.port().to_string();
    let output = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-i", "boiler-3", "-q", "1", "-t", topic, "-m", payload])
        .output()
        .expect("tests/run installs mosquitto-clients");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn dead(gateway: &Gateway, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("dead").args(args).arg("--config").arg(gateway.config());
    command.output().expect("the gateway's binary")
}

#[track_caller]
fn says(gateway: &Gateway, args: &[&str]) -> String {
    let output = dead(gateway, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {out}{err}\n{}", gateway.log());
    out.into_owned()
}

#[track_caller]
fn fails(gateway: &Gateway, args: &[&str], because: &str) {
    let output = dead(gateway, args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && err.contains(because), "{args:?}: {err}\n{}", gateway.log());
}

fn letters(gateway: &Gateway) -> Vec<Value> {
    serde_json::from_str(&says(gateway, &["list", "--json"])).unwrap()
}

#[track_caller]
fn waits_for_letters(gateway: &Gateway, count: usize) -> Vec<Value> {
    wait_for(SOON, || Some(letters(gateway)).filter(|letters| letters.len() == count))
        .unwrap_or_else(|| panic!("{count} dead letters should be there\n{}", gateway.log()))
}

#[test]
fn a_returned_message_arrives_under_its_own_id_after_the_binding_is_mended_and_another_is_given_up() {
    let broker = Rabbit::start(&Setup::default());
    broker.exchange("telemetry");
    let mut gateway = Gateway::prepare("");
    let text = configuration(&gateway, &broker, "relay");
    gateway.configure(&format!("{text}upstream_attempts = 2\n"));
    gateway.start_again();
    publish(&gateway, "sensors/boiler-3/a", "71.5");
    publish(&gateway, "sensors/boiler-3/b", "71.6");

    let found = waits_for_letters(&gateway, 2);
    for (letter, payload) in found.iter().zip(["71.5", "71.6"]) {
        assert_eq!(letter["payload"], payload);
        assert_eq!(letter["attempts"], 2);
        assert_eq!(letter["device"], "boiler-3");
        for text in [&letter["reason"], &letter["first_reason"]] {
            assert!(text.as_str().unwrap().contains("returned as unroutable"), "{letter}");
        }
        assert!(letter["buried"].as_i64() >= letter["first_refused"].as_i64(), "{letter}");
    }
    let table = says(&gateway, &["list", "--topic", "sensors/+/a", "--since", "1 h"]);
    assert!(table.contains("returned as unroutable") && table.contains("sensors/boiler-3/a"), "{table}");
    assert!(!table.contains("sensors/boiler-3/b"), "{table}");
    assert_eq!(says(&gateway, &["list", "--device", "boiler-4"]), "no dead letters\n");
    let number = |letter: &Value| letter["letter"].as_u64().unwrap().to_string();
    let (first, second) = (number(&found[0]), number(&found[1]));
    let shown = says(&gateway, &["show", &first]);
    assert!(shown.contains("71.5") && shown.contains("after 2 refusals"), "{shown}");
    let exported = says(&gateway, &["export"]);
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported, found);

    broker.queue("all", "telemetry", "#", &[]);
    assert_eq!(says(&gateway, &["requeue", &first]), "1 letter sent again\n");
    let received = broker.consume("all").take(1);
    assert_eq!(found[0]["id"], received[0].id.as_str());
    assert_eq!(received[0].body, b"71.5");
    assert!(received[0].resend(), "its consumer must know that it may have it");
    assert_eq!(waits_for_letters(&gateway, 1)[0]["id"], found[1]["id"]);

    assert_eq!(says(&gateway, &["purge", &second]), "1 letter gone\n");
    assert_eq!(says(&gateway, &["list"]), "no dead letters\n");
    fails(&gateway, &["requeue", &first, &second], "there is no such dead letter");
    fails(&gateway, &["purge"], "--all");
}

#[test]
fn dead_letters_are_read_without_the_gateway_and_sent_again_by_it_when_their_route_is_there() {
    let route = |name: &str, senml: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\ntopic = \"packs/#\"\nsenml = \"{senml}\"\n[[route]]\ntopic = \"#\"\n"
        )
    };
    let mut gateway = Gateway::start(&route("packs", "resolve"));
    publish(&gateway, "packs/1", "no pack");
    publish(&gateway, "packs/2", "none either");
    let found = waits_for_letters(&gateway, 2);
    assert!(found.iter().all(|letter| letter["route"] == "packs"), "{found:?}");
    gateway.stop();
    assert_eq!(letters(&gateway), found, "also while the gateway does not run");
    fails(&gateway, &["requeue", "--all"], "only a running gateway");

    gateway.configure(&route("others", "resolve"));
    gateway.start_again();
    fails(&gateway, &["requeue", "--all"], "its route packs is no longer configured");
    assert_eq!(letters(&gateway), found);
    gateway.stop();

    gateway.configure(&route("packs", "untouched"));
    gateway.start_again();
    assert_eq!(says(&gateway, &["requeue", "--route", "packs"]), "2 letters sent again\n");
    let arrived = wait_for(SOON, || Some(gateway.upstream_lines()).filter(|lines| lines.len() == 2));
    let arrived = arrived.unwrap_or_else(|| panic!("{}", gateway.log()));
    for (line, letter) in arrived.iter().zip(&found) {
        assert_eq!(line["id"], letter["id"]);
        assert_eq!(line["resend"], true);
    }
    assert!(letters(&gateway).is_empty());
}

#[test]
fn what_waits_on_the_disk_is_listed_shown_and_exported_and_goes_on_waiting() {
    let mut gateway =
        Gateway::start("[upstream.cloud]\nkind = \"amqp\"\nurls = [\"amqp://no-such-host.invalid\"]\n");
    publish(&gateway, "sensors/boiler-3/a", "71.5");
    publish(&gateway, "sensors/boiler-3/b", "71.6");
    let spool = |gateway: &Gateway, args: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("spool").args(args).arg("--config").arg(gateway.config());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let look = |gateway: &Gateway| {
        let table = spool(gateway, &["list", "--topic", "sensors/+/b"]);
        assert!(table.contains("cloud:#") && table.contains("sensors/boiler-3/b"), "{table}");
        assert!(!table.contains("sensors/boiler-3/a"), "{table}");
        let found: Vec<Value> = serde_json::from_str(&spool(gateway, &["list", "--json"])).unwrap();
        let payloads: Vec<_> = found.iter().map(|message| message["payload"].as_str().unwrap()).collect();
        assert_eq!(payloads, ["71.5", "71.6"]);
        let exported = spool(gateway, &["export"]);
        let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(exported, found);
        let shown = spool(gateway, &["show", found[0]["id"].as_str().unwrap()]);
        assert!(shown.contains("71.5") && shown.contains("route     cloud:#"), "{shown}");
        assert_eq!(spool(gateway, &["list", "--device", "boiler-4"]), "nothing waits on the disk\n");
    };
    look(&gateway);
    gateway.stop();
    look(&gateway);
}

#[test]
fn another_users_orders_are_not_heard() {
    let gateway = Gateway::start("");
    // Only root can become somebody else to try.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    for path in [gateway.folder().to_path_buf(), gateway.data(), gateway.data().join("control")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let socket = gateway.data().join("control");
    let script = "import os, socket, sys\n\
         os.setgid(65534)\n\
         os.setuid(65534)\n\
         s = socket.socket(socket.AF_UNIX)\n\
         s.connect(sys.argv[1])\n\
         try:\n    \
             s.send(b'GET /status HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n    \
             print(s.recv(100))\n\
         except (BrokenPipeError, ConnectionResetError):\n    \
             print(b'')\n";
    let output = Command::new("python3").args(["-c", script]).arg(&socket).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "b''\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let warned = wait_for(SOON, || gateway.log().contains("may not give the gateway orders").then_some(()));
    assert!(warned.is_some(), "{}", gateway.log());
}
