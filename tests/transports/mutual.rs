//! Mutual TLS: which certificates of devices let them in, and which do not.

use crate::tls::{BOTH, gateway, secured, table};
use crate::{arrived, greeted, logged, published};
use rustix::process::Signal;
use std::io::Read;
use tidegate_tests::certificates::{Authority, BAD, DEVICE, Wish};

const ONLY_CERTIFICATES: &str =
    "client_ca = \"devices.crt\"\nclient_crl = \"devices.crl\"\n[access]\nanonymous = \"never\"\n";

#[test]
fn only_a_certificate_in_order_lets_a_device_in() {
    let (gateway, address, _) = gateway(ONLY_CERTIFICATES, |folder| {
        let devices = Authority::new(folder, "devices");
        devices.issue("good", DEVICE);
        devices.issue(
            "named-by-dns",
            Wish {
                subject: "/O=plant",
                extensions: "subjectAltName=DNS:boiler-4\nextendedKeyUsage=clientAuth\n",
                ..DEVICE
            },
        );
        devices.issue_bad();
    });
    let folder = gateway.folder();
    let try_as = |own: Option<&str>, device: &str| {
        let mut stream = secured(address, folder, BOTH, own)?;
        let code = greeted(&mut stream, device)?;
        if code == 0 {
            published(&mut stream, &format!("sensors/{device}/temperature"), 1)?;
        }
        Ok::<u8, std::io::Error>(code)
    };
    let try_with = |own| try_as(own, "boiler-3");
    for (good, device) in [("good", "boiler-3"), ("named-by-dns", "boiler-4")] {
        assert_eq!(try_as(Some(good), device).unwrap(), 0, "{good}: {}", gateway.log());
    }
    assert_eq!(try_as(Some("good"), "boiler-4").unwrap(), 2, "another device's client identifier");
    assert!(try_with(None).is_err(), "no certificate");
    for bad in BAD {
        assert!(try_with(Some(bad)).is_err(), "{bad}");
    }
    arrived(&gateway, 2);
    assert!(gateway.metric("tidegate_handshakes_failed_total") >= 10.0);
}

#[test]
fn a_revocation_holds_from_the_reload_on_also_for_who_is_connected() {
    let (gateway, address, _) = gateway(ONLY_CERTIFICATES, |folder| {
        let devices = Authority::new(folder, "devices");
        devices.issue("stolen", DEVICE);
        devices.issue("good", Wish { subject: "/CN=boiler-4", ..DEVICE });
        devices.revoke(&[]);
    });
    let folder = gateway.folder();
    let mut stream = secured(address, folder, BOTH, Some("stolen")).unwrap();
    assert_eq!(greeted(&mut stream, "boiler-3").unwrap(), 0);
    let mut honest = secured(address, folder, BOTH, Some("good")).unwrap();
    assert_eq!(greeted(&mut honest, "boiler-4").unwrap(), 0);

    Authority::known(folder, "devices").revoke(&["stolen"]);
    gateway.signal(Signal::HUP);
    logged(&gateway, "the configuration was reloaded");
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "who is there goes");
    logged(&gateway, "its certificate is not accepted any more");
    assert!(published(&mut honest, "sensors/boiler-4/temperature", 1).is_ok());
    let refused =
        secured(address, folder, BOTH, Some("stolen")).and_then(|mut s| greeted(&mut s, "boiler-3"));
    assert!(refused.is_err());
}

#[test]
fn a_listener_for_other_hosts_needs_certificates_or_the_operators_word() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", tidegate_tests::certificates::SERVER);
    let file = folder.path().join("tidegate.toml");
    for (rest, well) in [
        ("", false),
        ("client_ca = \"ca.crt\"\n", true),
        ("[access]\nanonymous = \"insecure-everywhere\"\n", true),
    ] {
        std::fs::write(&file, table("0.0.0.0:8883".parse().unwrap(), rest)).unwrap();
        let checked = tidegate::config::load(Some(&file));
        assert_eq!(checked.is_ok(), well, "{rest}: {checked:?}");
    }
    // The same for secure WebSocket, which does not inherit `client_ca`: browsers have no certificates.
    let nested = "client_ca = \"ca.crt\"\n[mqtt.websocket.tls]\nlisten = [\"0.0.0.0:8084\"]\n";
    std::fs::write(&file, table("0.0.0.0:8883".parse().unwrap(), nested)).unwrap();
    let mistakes = tidegate::config::load(Some(&file)).unwrap_err();
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
    assert!(mistakes.0[0].what.contains("0.0.0.0:8084"), "{mistakes}");
}
