//! CoAP over DTLS as devices in the field speak it: libcoap's clients on two TLS libraries, with keys and with certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidegate_tests::certificates::{Authority, DEVICE, SERVER, Wish};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;

const SOON: Duration = Duration::from_secs(30);

/// As libcoap's clients take it, and as the configuration does.
const KEY: &str = "0123456789abcdef";
const KEY_HEX: &str = "30313233343536373839616263646566";

fn configuration(port: u16, rest: &str) -> String {
    format!(
        "[coap.dtls]\nlisten = [\"127.0.0.1:{port}\"]\n{rest}\n[device.boiler-3]\npsk = \"{KEY_HEX}\"\n\
         [device.pump-1]\npsk = \"{KEY_HEX}\"\npsk_identity = \"Client_identity\"\n"
    )
}

/// What a client printed.
fn client(program: &str, arguments: &[&str], url: &str) -> String {
    let output = Command::new(program)
        .args(["-B", "5", "-v", "6"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("tests/run installs libcoap3-bin");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn posts(program: &str, arguments: &[&str], port: u16, topic: &str, payload: &str) -> String {
    let mut all = vec!["-m", "post", "-e", payload];
    all.extend(arguments);
    client(program, &all, &format!("coaps://127.0.0.1:{port}/t/{topic}"))
}

/// Waits until the upstream has this payload, and gives whose it was.
fn device_of(gateway: &Gateway, payload: &str) -> Option<String> {
    wait_for(SOON, || {
        let lines = gateway.upstream_lines();
        let line = lines.iter().find(|line| line["payload"] == payload)?;
        Some(line["device"].as_str().unwrap().to_owned())
    })
}

#[test]
fn a_device_with_a_key_publishes_and_is_who_its_key_says() {
    let port = free_port();
    let mut gateway = Gateway::start(&configuration(port, ""));
    for program in ["coap-client-gnutls", "coap-client-openssl"] {
        let printed = posts(program, &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", program);
        assert!(printed.contains("2.04"), "{program}: {printed}\n{}", gateway.log());
        assert_eq!(device_of(&gateway, program).as_deref(), Some("boiler-3"));
        // By another identity than its id, too.
        let payload = format!("{program} pump");
        posts(program, &["-u", "Client_identity", "-k", KEY], port, "sensors/pump-1/t", &payload);
        assert_eq!(device_of(&gateway, &payload).as_deref(), Some("pump-1"));
    }
    assert!(gateway.metric("tidegate_dtls_handshakes_total") >= 8.0, "a cookie and an end for each");
    // After a restart devices begin anew, and are known.
    gateway.stop();
    gateway.start_again();
    posts("coap-client-gnutls", &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", "again");
    assert_eq!(device_of(&gateway, "again").as_deref(), Some("boiler-3"));
}

#[test]
fn a_path_does_not_override_a_proved_identity_and_nobody_else_speaks_for_a_device_with_a_key() {
    let port = free_port();
    let gateway = Gateway::start(&configuration(port, ""));
    let printed =
        posts("coap-client-gnutls", &["-u", "boiler-3", "-k", KEY], port, "sensors/pump-1/t", "forged");
    assert!(printed.contains("4.03"), "{printed}");
    let url = format!("coap://{}/t/sensors/boiler-3/t", gateway.coap);
    // This host's programs may publish where they like, but not as the device.
    client("coap-client-notls", &["-m", "post", "-e", "unproved"], &url);
    assert_eq!(device_of(&gateway, "unproved").as_deref(), Some("127.0.0.1"));
    posts("coap-client-gnutls", &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", "genuine");
    assert_eq!(device_of(&gateway, "genuine").as_deref(), Some("boiler-3"));
    assert_eq!(device_of_now(&gateway, "forged"), None);
}

fn device_of_now(gateway: &Gateway, payload: &str) -> Option<String> {
    let lines = gateway.upstream_lines();
    lines.iter().find(|line| line["payload"] == payload).map(|line| line["device"].to_string())
}

#[test]
fn who_is_refused_stands_in_the_log_in_words_that_an_operator_can_act_on() {
    let port = free_port();
    let gateway = Gateway::start(&configuration(port, ""));
    for (identity, key, words) in [
        (
            "boiler-3",
            "fedcba9876543210",
            "its pre-shared key is not the one that stands here for \"boiler-3\"",
        ),
        ("no\nbody", KEY, "no device has the PSK identity \"no\\nbody\""),
    ] {
        let printed =
            posts("coap-client-gnutls", &["-u", identity, "-k", key], port, "sensors/boiler-3/t", "x");
        assert!(!printed.contains("2.04"), "{printed}");
        let said = wait_for(SOON, || gateway.log().contains(words).then_some(()));
        assert!(said.is_some(), "{words}\n{}", gateway.log());
    }
    assert!(gateway.metric("tidegate_dtls_handshakes_total") >= 4.0);
    assert_eq!(device_of_now(&gateway, "x"), None);
}

#[test]
fn devices_come_with_certificates_and_only_with_those_of_their_authority() {
    let port = free_port();
    let mut gateway = Gateway::prepare("");
    let folder = gateway.folder().to_owned();
    let (ours, others) = (Authority::new(&folder, "ca"), Authority::new(&folder, "other"));
    ours.issue("server", SERVER);
    ours.issue("boiler-3", DEVICE);
    ours.issue("fan-9", Wish { subject: "/CN=fan-9", ..DEVICE });
    others.issue("stranger", DEVICE);
    gateway.configure(&configuration(
        port,
        "certificate = \"server.crt\"\nkey = \"server.key\"\nclient_ca = \"ca.crt\"\n",
    ));
    gateway.start_again();
    let arguments = |name: &str, ca: &str| -> Vec<String> {
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let of = |flag: &str, name: &str| [flag.to_owned(), file(name)];
        [of("-c", &format!("{name}.crt")), of("-j", &format!("{name}.key")), of("-R", ca)].concat()
    };
    for (program, name) in [("coap-client-openssl", "boiler-3"), ("coap-client-gnutls", "fan-9")] {
        let given = arguments(name, "ca.crt");
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let printed = posts(program, &given, port, &format!("sensors/{name}/t"), name);
        assert!(printed.contains("2.04"), "{program}: {printed}\n{}", gateway.log());
        assert_eq!(device_of(&gateway, name).as_deref(), Some(name));
    }
    let given = arguments("stranger", "ca.crt");
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let printed = posts("coap-client-openssl", &given, port, "sensors/boiler-3/t", "stranger");
    assert!(!printed.contains("2.04"), "{printed}");
    assert!(gateway.log().contains("its certificate is not accepted"), "{}", gateway.log());
    // Devices with keys come in as well.
    posts("coap-client-openssl", &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", "by key");
    assert_eq!(device_of(&gateway, "by key").as_deref(), Some("boiler-3"));
    assert!(Path::new(&folder).exists());
}

#[test]
fn a_reload_takes_a_removed_device_out_at_once() {
    let port = free_port();
    let gateway = Gateway::start(&configuration(port, ""));
    let mut observer = Command::new("coap-client-gnutls")
        .args(["-s", "60", "-B", "60", "-u", "boiler-3", "-k", KEY, "-m", "get"])
        .arg(format!("coaps://127.0.0.1:{port}/command"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let there = wait_for(SOON, || (gateway.metric("tidegate_dtls_associations") >= 1.0).then_some(()));
    gateway.configure(&format!(
        "[coap.dtls]\nlisten = [\"127.0.0.1:{port}\"]\n[device.pump-1]\npsk = \"{KEY_HEX}\"\n"
    ));
    gateway.signal(rustix::process::Signal::HUP);
    let gone = wait_for(SOON, || (gateway.metric("tidegate_dtls_associations") < 1.0).then_some(()));
    let _ = observer.kill();
    let _ = observer.wait();
    assert!(there.is_some() && gone.is_some(), "{}", gateway.log());
    posts("coap-client-gnutls", &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", "too late");
    assert_eq!(device_of_now(&gateway, "too late"), None);
}

#[test]
fn a_client_without_extended_master_secret_is_refused_and_the_operator_is_told_what_to_switch_on() {
    let port = free_port();
    let gateway = Gateway::start(&configuration(port, ""));
    // What mbedTLS leaves out by default, OpenSSL leaves out when it is told to.
    let settings = gateway.folder().join("openssl.cnf");
    std::fs::write(
        &settings,
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = here\n[here]\nOptions = -ExtendedMasterSecret\n",
    )
    .unwrap();
    let output = Command::new("coap-client-openssl")
        .env("OPENSSL_CONF", &settings)
        .args(["-B", "5", "-v", "6", "-m", "post", "-e", "x", "-u", "boiler-3", "-k", KEY])
        .arg(format!("coaps://127.0.0.1:{port}/t/sensors/boiler-3/t"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!printed.contains("2.04"), "{printed}");
    let words =
        "it does not offer the Extended Master Secret (RFC 7627); switch it on in the device's TLS library";
    let said = wait_for(SOON, || gateway.log().contains(words).then_some(()));
    assert!(said.is_some(), "{printed}\n{}", gateway.log());
    assert!(gateway.metric("tidegate_dtls_handshakes_total{result=\"refused\"}") >= 1.0);
    assert_eq!(device_of_now(&gateway, "x"), None);
    // The same client with it gets in.
    posts("coap-client-openssl", &["-u", "boiler-3", "-k", KEY], port, "sensors/boiler-3/t", "with it");
    assert_eq!(device_of(&gateway, "with it").as_deref(), Some("boiler-3"));
}
