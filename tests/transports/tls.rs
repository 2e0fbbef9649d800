//! MQTT over TLS: versions, reload, and who stalls or talks garbage.

use crate::{SOON, arrived, closed, greeted, logged, published, somewhere, tcp};
use rustix::process::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_tests::certificates::{Authority, SERVER};
use tidegate_tests::gateway::Gateway;
pub(crate) use tidegate_tests::tls::{BOTH, Secured, secured};
use tidegate_tests::wait::wait_for;

/// A gateway with TLS at the second result, and the authority of its certificate. `rest` stands inside and behind `[mqtt.tls]`.
pub(crate) fn gateway(rest: &str, prepare: impl FnOnce(&Path)) -> (Gateway, SocketAddr, Authority) {
    let mut gateway = Gateway::prepare("");
    let address = somewhere();
    let authority = Authority::new(gateway.folder(), "ca");
    authority.issue("server", SERVER);
    prepare(gateway.folder());
    gateway.configure(&table(address, rest));
    gateway.start_again();
    (gateway, address, authority)
}

pub(crate) fn table(address: SocketAddr, rest: &str) -> String {
    format!(
        "[mqtt.tls]\nlisten = [\"{address}\"]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n{rest}"
    )
}

/// The certificate that the gateway shows.
fn shown(stream: &Secured) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn devices_publish_over_tls_1_2_and_1_3() {
    let (gateway, address, _) = gateway("", |_| {});
    for (versions, id) in [(&[&rustls::version::TLS12], "old"), (&[&rustls::version::TLS13], "new")] {
        let mut stream = secured(address, gateway.folder(), versions, None).unwrap();
        assert_eq!(greeted(&mut stream, id).unwrap(), 0);
        published(&mut stream, "sensors/boiler-3/temperature", 1).unwrap();
    }
    arrived(&gateway, 2);
}

#[test]
fn nothing_older_than_tls_1_2_is_spoken() {
    let (gateway, address, _) = gateway("", |_| {});
    for (version, works) in [("-tls1_1", false), ("-tls1_2", true)] {
        let status = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-CAfile", "ca.crt", version])
            .args(["-cipher", "ALL:@SECLEVEL=0", "-verify_return_error"])
            .current_dir(gateway.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.success(), works, "{version}");
    }
}

#[test]
fn a_new_certificate_is_taken_at_sighup_and_open_connections_stay() {
    let (gateway, address, authority) = gateway("", |_| {});
    let folder = gateway.folder();
    let mut old = secured(address, folder, BOTH, None).unwrap();
    assert_eq!(greeted(&mut old, "old").unwrap(), 0);

    authority.issue("server", SERVER);
    gateway.signal(Signal::HUP);
    logged(&gateway, "the configuration was reloaded");
    let mut new = secured(address, folder, BOTH, None).unwrap();
    assert_eq!(greeted(&mut new, "new").unwrap(), 0);
    assert_ne!(shown(&old), shown(&new));
    published(&mut old, "sensors/old", 1).unwrap();

    // A key that does not fit: everything stays as it is, and the log says what to do.
    authority.issue("another", SERVER);
    std::fs::copy(folder.join("another.key"), folder.join("server.key")).unwrap();
    gateway.signal(Signal::HUP);
    logged(&gateway, "does not belong to the certificate");
    assert!(gateway.get("/health").1.contains("tidegate check"));
    let third = secured(address, folder, BOTH, None).unwrap();
    assert_eq!(shown(&third), shown(&new));
    published(&mut old, "sensors/old", 2).unwrap();
    published(&mut new, "sensors/new", 1).unwrap();
}

#[test]
fn a_device_resumes_its_tls_session() {
    let (gateway, address, _) = gateway("", |_| {});
    let session = gateway.folder().join("session");
    for resumed in [false, true] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address.to_string(), "-tls1_2", "-sess_out"]).arg(&session);
        if resumed {
            command.arg("-sess_in").arg(&session);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.contains("Reused, TLSv1.2"), resumed, "{text}");
    }
}

#[test]
fn stalled_handshakes_are_closed_in_time_and_the_others_get_their_turn() {
    const STALLED: usize = 12;
    let (gateway, address, _) = gateway("[limits]\nhandshakes = 4\nhandshake_timeout = \"500 ms\"\n", |_| {});
    let began = Instant::now();
    let mut stalled: Vec<_> = (0..STALLED)
        .map(|number| {
            let mut stream = tcp(address);
            // Silence; and half a ClientHello.
            stream.write_all(if number % 2 == 0 { b"" } else { b"\x16\x03\x01\x02\x00\x01\x00" }).unwrap();
            stream
        })
        .collect();
    let mut legitimate = secured(address, gateway.folder(), BOTH, None).unwrap();
    assert_eq!(greeted(&mut legitimate, "legitimate").unwrap(), 0);
    // Three rounds of four stood before it.
    assert!(began.elapsed() >= Duration::from_millis(1_400), "{:?}", began.elapsed());
    for stream in &mut stalled {
        assert!(closed(stream));
    }
    logged(&gateway, "limits.handshake_timeout");
    assert!(gateway.metric("tidegate_handshakes_failed_total") >= STALLED as f64);
}

#[test]
fn a_thousand_garbage_hellos_leave_nothing_behind() {
    let (gateway, address, _) = gateway("", |_| {});
    let folder = gateway.folder().to_owned();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let mut neighbour = secured(address, &folder, BOTH, None).unwrap();
    assert_eq!(greeted(&mut neighbour, "neighbour").unwrap(), 0);
    published(&mut neighbour, "sensors/neighbour", 1).unwrap(); // Opens what is opened late.
    arrived(&gateway, 1);
    let resident = || gateway.metric("tidegate_process_resident_bytes");
    let (files_before, resident_before) = (files(), resident());
    let mut random = fastrand::Rng::with_seed(25);
    for round in 0..1_000 {
        let mut garbage: Vec<u8> = (0..random.usize(1..600)).map(|_| random.u8(..)).collect();
        if round % 2 == 0 {
            // What looks like a ClientHello from outside.
            let head = [&[0x16, 3, 1][..], &(garbage.len() as u16).to_be_bytes(), &[1]].concat();
            garbage.splice(..1, head);
        }
        let mut stream = tcp(address);
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(closed(&mut stream) || closed(&mut stream));
    }
    published(&mut neighbour, "sensors/neighbour", 2).unwrap();
    assert!(
        wait_for(SOON, || (files() <= files_before).then_some(())).is_some(),
        "{files_before} {}",
        files()
    );
    assert!(resident() - resident_before < f64::from(8 << 20), "{resident_before} {}", resident());
    assert!(gateway.metric("tidegate_handshakes_failed_total") >= 1_000.0);
}
