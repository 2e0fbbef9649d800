//! SenML from real clients to the file upstream: resolved where a route asks for it, untouched elsewhere, a dead letter where it is
//! none; acknowledged every time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::wait::wait_for;

const SOON: Duration = Duration::from_secs(60);

const CONFIGURATION: &str = "[[route]]\ntopic = \"senml/#\"\nsenml = \"resolve\"\n[[route]]\ntopic = \"#\"\n";

/// `[{-2: "boiler-3/", 0: "t", 1: "Cel", 2: 71.5, 6: -5}, {0: "p", 2: 3}]`
fn pack() -> Vec<u8> {
    let map = |fields: Vec<(i64, Cbor)>| {
        Cbor::Map(fields.into_iter().map(|(label, value)| (Cbor::from(label), value)).collect())
    };
    let mut bytes = Vec::new();
    let first = vec![
        (-2, Cbor::from("boiler-3/")),
        (0, Cbor::from("t")),
        (1, Cbor::from("Cel")),
        (2, Cbor::from(71.5)),
        (6, Cbor::from(-5)),
    ];
    let pack = Cbor::Array(vec![map(first), map(vec![(0, Cbor::from("p")), (2, Cbor::from(3))])]);
    ciborium::into_writer(&pack, &mut bytes).unwrap();
    bytes
}

/// Posts a file with a content format, and expects the 2.04.
fn posts(gateway: &Gateway, topic: &str, format: &str, body: &[u8]) {
    let file = gateway.folder().join("body");
    std::fs::write(&file, body).unwrap();
    let output = Command::new("coap-client-notls")
        .args(["-B", "10", "-v", "6", "-m", "post", "-t", format, "-f", file.to_str().unwrap()])
        .arg(format!("coap://{}/t/{topic}", gateway.coap))
        .output()
        .expect("tests/run installs libcoap3-bin");
    let printed =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("2.04"), "{printed}\n{}", gateway.log());
}

/// Publishes with QoS 1 over MQTT 5, and waits for the acknowledgement.
fn publishes(gateway: &Gateway, topic: &str, content_type: &str, body: &str) {
    let status = Command::new("mosquitto_pub")
        .args([
            "-p",
            &gateway.mqtt.port().to_string(),
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-i",
            "boiler-3",
            "-t",
            topic,
        ])
        .args(["-m", body, "-D", "publish", "content-type", content_type])
        .status()
        .expect("tests/run installs mosquitto-clients");
    assert!(status.success(), "{}", gateway.log());
}

/// The line upstream of the message on this topic.
fn line(gateway: &Gateway, topic: &str) -> Value {
    wait_for(SOON, || gateway.upstream_lines().into_iter().find(|line| line["topic"] == topic))
        .unwrap_or_else(|| panic!("{topic} did not arrive:\n{}", gateway.log()))
}

#[test]
fn senml_arrives_resolved_where_a_route_asks_for_it_and_untouched_elsewhere() {
    let gateway = Gateway::start(CONFIGURATION);
    posts(&gateway, "senml/a", "112", &pack());
    let arrived = line(&gateway, "senml/a");
    let seconds = arrived["received"].as_i64().unwrap() as f64 / 1_000.0;
    assert_eq!(arrived["content_type"], "application/senml+cbor");
    let payload = STANDARD.decode(arrived["payload_base64"].as_str().unwrap()).unwrap();
    let record = |fields: Vec<(i64, Cbor)>| {
        Cbor::Map(fields.into_iter().map(|(label, value)| (Cbor::from(label), value)).collect())
    };
    let records: Cbor = ciborium::from_reader(&payload[..]).unwrap();
    // A time at a full second is an integer.
    let time = |seconds: f64| match seconds.fract() == 0.0 {
        true => Cbor::from(seconds as i64),
        false => Cbor::from(seconds),
    };
    assert_eq!(
        records,
        Cbor::Array(vec![
            record(vec![
                (0, Cbor::from("boiler-3/t")),
                (1, Cbor::from("Cel")),
                (2, Cbor::from(71.5)),
                (6, time(seconds - 5.0))
            ]),
            record(vec![(0, Cbor::from("boiler-3/p")), (2, Cbor::from(3)), (6, time(seconds))]),
        ])
    );

    publishes(
        &gateway,
        "senml/b",
        "application/senml+json",
        r#"[{"bn":"b/","bt":1700000000,"n":"t","v":1},{"n":"p","t":-1,"v":2}]"#,
    );
    let arrived = line(&gateway, "senml/b");
    let records: Value = serde_json::from_str(arrived["payload"].as_str().unwrap()).unwrap();
    assert_eq!(records, json!([{"n":"b/p","v":2,"t":1_699_999_999}, {"n":"b/t","v":1,"t":1_700_000_000}]));
    assert_eq!(arrived["content_type"], "application/senml+json");

    posts(&gateway, "other/c", "112", &pack());
    let arrived = line(&gateway, "other/c");
    assert_eq!(STANDARD.decode(arrived["payload_base64"].as_str().unwrap()).unwrap(), pack());
    assert_eq!(arrived["content_type"], "application/senml+cbor");
}

#[test]
fn what_is_no_senml_is_acknowledged_and_becomes_a_dead_letter_with_its_reason_and_its_bytes() {
    let gateway = Gateway::start(CONFIGURATION);
    posts(&gateway, "senml/a", "112", b"\xa1 no pack");
    publishes(&gateway, "senml/b", "application/senml+json", "21.5");
    // What comes after it arrives.
    publishes(&gateway, "senml/c", "application/senml+json", r#"[{"n":"c","v":1}]"#);
    line(&gateway, "senml/c");
    let database = gateway.data().join("tidegate.db");
    let dead = wait_for(SOON, || {
        let database = Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        let mut rows = database.prepare("SELECT payload, reason FROM dead_letter ORDER BY rowid").ok()?;
        let rows =
            rows.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?))).ok()?;
        let rows: Vec<_> = rows.filter_map(Result::ok).collect();
        (rows.len() == 2).then_some(rows)
    })
    .unwrap_or_else(|| panic!("{}", gateway.log()));
    assert_eq!(dead[0].0, b"\xa1 no pack");
    assert_eq!(dead[1].0, b"21.5");
    for (_, reason) in dead {
        assert!(reason.contains("the route resolves SenML"), "{reason}");
    }
    assert_eq!(gateway.upstream_lines().len(), 1);
}
