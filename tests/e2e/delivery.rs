//! From every client to RabbitMQ, and back out of it unaltered; and what bad uplinks do to a real gateway: it says what is
//! wrong, goes on acknowledging, and delivers once it can. The long forms are `outage` (a command of this package).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidegate_tests::fleet::Fleet;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ledger::Ledger;
use tidegate_tests::outage::{Fault, Scene, configuration};
use tidegate_tests::rabbit::{PASSWORD, Rabbit, Setup, USER};
use tidegate_tests::wait::wait_for;

/// For what takes moments, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().expect("tests/run installs mosquitto-clients, libcoap3-bin and paho-mqtt");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A Python that has paho-mqtt: the one that `tests/run` makes, or what TIDEGATE_PYTHON names.
fn python() -> Command {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    Command::new(std::env::var_os("TIDEGATE_PYTHON").map_or(made, Into::into))
}

#[test]
fn every_client_brings_its_payload_unaltered_to_the_broker() {
    let scene = Scene::new("relay");
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    let file = scene.gateway.folder().join("payload");
    std::fs::write(&file, &bytes).unwrap();
    let mqtt = scene.gateway.mqtt.port().to_string();

    for (version, qos) in [("mqttv311", "1"), ("mqttv311", "2"), ("mqttv5", "1"), ("mqttv5", "2")] {
        let id = format!("mosquitto-{version}-{qos}");
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &mqtt, "-V", version, "-q", qos, "-i", &id]);
        command.args(["-t", &format!("sensors/{id}/a"), "-f", file.to_str().unwrap()]);
        if version == "mqttv5" {
            command.args(["-D", "publish", "content-type", "image/png"]);
            command.args(["-D", "publish", "user-property", "unit", "mm"]);
        }
        succeeds(&mut command);
    }

    for protocol in ["4", "5"] {
        let script = "import sys, paho.mqtt.client as mqtt\n\
             port, protocol, name, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]\n\
             client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)\n\
             client.connect('127.0.0.1', port)\n\
             client.loop_start()\n\
             for qos in (1, 2):\n    \
                 client.publish('sensors/%s/a' % name, open(path, 'rb').read(), qos).wait_for_publish(30)\n\
             client.disconnect()\n";
        let name = format!("paho-{protocol}");
        succeeds(python().args(["-c", script, &mqtt, protocol, &name, file.to_str().unwrap()]));
    }

    let coap = scene.gateway.coap;
    let small = scene.gateway.folder().join("small");
    std::fs::write(&small, &bytes[..900]).unwrap();
    for (method, path) in [("post", "t/sensors/anything/a"), ("put", "t/sensors/anything/b")] {
        let uri = format!("coap://{coap}/{path}");
        let mut command = Command::new("coap-client-notls");
        command.args([
            "-m",
            method,
            "-B",
            "20",
            "-t",
            "application/octet-stream",
            "-f",
            small.to_str().unwrap(),
            &uri,
        ]);
        succeeds(&mut command);
    }

    let received = scene.consumer.take(4 + 4 + 2);
    assert_eq!(received.len(), 10);
    for message in &received {
        let topic = message.topic();
        let device = message.device().unwrap();
        if topic.starts_with("sensors/anything") {
            assert!(message.body == bytes[..900], "{topic} by {device} differs");
        } else {
            assert!(message.body == bytes, "{topic} by {device} differs");
            assert_eq!(topic, format!("sensors/{device}/a"));
        }
        assert_eq!(message.routing_key, topic.replace('/', "."));
        assert!(!message.resend(), "{topic} was sent once");
        if device.starts_with("mosquitto-mqttv5") {
            assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "image/png");
            assert_eq!(message.text("mqtt.user.unit").as_deref(), Some("mm"));
        }
    }
}

#[test]
fn what_is_acknowledged_survives_a_broker_that_stops_dies_freezes_and_blocks() {
    for durability in ["relay", "disk"] {
        let mut scene = Scene::new(durability);
        let plan = scene.plan(20, 9_000);
        let outcome = scene.broker_outages(&plan, &[Fault::Stop, Fault::Kill, Fault::Block, Fault::Freeze]);
        println!("{durability}: {outcome}");
        assert!(outcome.is_sound(), "{durability}: {outcome}\n{}", scene.gateway.log());
        assert!(outcome.acknowledged_meanwhile >= 3_000, "{durability}: {outcome}");
    }
}

#[test]
fn what_is_acknowledged_survives_a_gateway_that_is_killed_again_and_again() {
    for durability in ["relay", "disk"] {
        let mut scene = Scene::new(durability);
        let plan = scene.plan(20, 6_000);
        let outcome = scene.gateway_kills(&plan, 6);
        println!("{durability}: {outcome}");
        assert!(outcome.is_sound(), "{durability}: {outcome}\n{}", scene.gateway.log());
        // Who has sent everything stays away at the later kills: half of all is more than met by chance.
        assert!(outcome.reconnects >= 6 * plan.devices / 2, "{durability}: {outcome}");
    }
}

#[test]
fn what_is_acknowledged_survives_a_gateway_that_is_killed_while_its_broker_is_away() {
    let mut scene = Scene::new("relay");
    let plan = scene.plan(20, 9_000);
    let outcome = scene.both_fail(&plan, 3, 1);
    println!("{outcome}");
    assert!(outcome.is_sound(), "{outcome}\n{}", scene.gateway.log());
}

#[test]
fn a_gateway_killed_without_a_broker_delivers_its_backlog_in_order_later() {
    let mut scene = Scene::new("relay");
    scene.broker.stop();
    let plan = scene.plan(10, 2_000);
    let fleet = Fleet::start(plan.clone());
    fleet.allow(plan.messages());
    wait_for(SOON, || (fleet.acknowledged() > plan.messages() / 2).then_some(())).unwrap();
    scene.gateway.kill();
    scene.gateway.start_again();
    wait_for(SOON, || (fleet.acknowledged() == plan.messages()).then_some(())).unwrap();
    let (status, took) = scene.gateway.stop();
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    scene.broker.start_again();
    scene.gateway.start_again();
    let mut ledger = Ledger::new(&plan);
    let mut read = 0;
    let all = wait_for(SOON, || {
        let more = scene.consumer.from(read);
        read += more.len();
        more.iter().for_each(|received| ledger.enter(received));
        (ledger.missing() == 0).then_some(())
    });
    assert!(all.is_some() && ledger.is_sound(), "{ledger}\n{}", scene.gateway.log());
}

#[test]
fn a_broker_that_cannot_be_used_is_reported_and_does_not_keep_devices_waiting() {
    let broker = Rabbit::start(&Setup::default());
    let mut gateway = Gateway::prepare("");
    let password = gateway.folder().join("password");
    let good = configuration(&gateway, &broker, "relay");
    let cases = [
        (good.replace(&broker.url(), "amqp://no-such-host.invalid"), "cannot find the broker's host"),
        (good.clone(), "refuses user"),
    ];
    for (text, complaint) in cases {
        std::fs::write(&password, "not the password\n").unwrap();
        gateway.configure(&text);
        gateway.start_again();
        let port = gateway.mqtt.port().to_string();
        let mut publish = Command::new("mosquitto_pub");
        publish.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-i",
            "boiler-3",
            "-q",
            "1",
            "-t",
            "sensors/boiler-3/a",
            "-m",
            "1",
        ]);
        succeeds(&mut publish);
        let said = wait_for(SOON, || gateway.log().contains(complaint).then_some(()));
        assert!(said.is_some(), "{complaint:?} is not in\n{}", gateway.log());
        assert!(!gateway.log().contains("not the password") && !gateway.log().contains(PASSWORD));
        gateway.stop();
    }
    assert!(gateway.log().contains(USER));
    // Once it is right, both messages arrive.
    std::fs::write(&password, PASSWORD).unwrap();
    broker.exchange("telemetry");
    broker.queue("all", "telemetry", "#", &[]);
    gateway.start_again();
    assert_eq!(broker.consume("all").take(2).len(), 2);
}
