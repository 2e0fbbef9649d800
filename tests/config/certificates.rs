//! What an operator is told about certificates, keys and lists that are wrong: the file, the matter, and what would be right.

use super::surroundings;
use std::path::Path;
use tidegate::config::{Config, Environment, Mistakes, Severity, parse};
use tidegate_tests::certificates::{Authority, DEVICE, SERVER, Wish, openssl};

fn now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", SERVER);
    authority.issue("device", DEVICE);
    authority.revoke(&["device"]);
    folder
}

fn at(folder: &Path, keys: &str, now: i64) -> Result<Config, Mistakes> {
    let source = format!("[mqtt.tls]\n{keys}");
    let environment = Environment { now, ..surroundings() };
    parse(&source, Some(&folder.join("tidegate.toml")), &environment)
}

const WELL: &str = "certificate = \"server.crt\"\nkey = \"server.key\"\n";

#[test]
fn what_is_right_is_taken_without_a_word() {
    let folder = folder();
    let config =
        at(folder.path(), &format!("{WELL}client_ca = \"ca.crt\"\nclient_crl = \"ca.crl\"\n"), now())
            .unwrap();
    assert_eq!(config.warnings, []);
    let secure = config.mqtt.tls.unwrap();
    assert_eq!(secure.listen, ["127.0.0.1:8883".parse().unwrap()]);
    assert!(secure.tls.asks_for_certificates());
    let about = secure.tls.about();
    assert!(about.contains("server.crt, good until ") && about.contains("ca.crt"), "{about}");
    assert!(!format!("{secure:?}").contains("KEY"));
}

#[test]
fn the_same_files_mean_the_same_and_others_something_else() {
    let folder = folder();
    let read = || at(folder.path(), WELL, now()).unwrap();
    let before = read();
    assert_eq!(before, read());
    Authority::new(folder.path(), "other").issue("server", SERVER);
    assert_ne!(before, read());
}

#[test]
fn every_file_that_is_wrong_is_named_with_what_would_be_right() {
    let folder = folder();
    let path = folder.path();
    let write = |name: &str, content: &[u8]| std::fs::write(path.join(name), content).unwrap();
    let whole = std::fs::read(path.join("server.crt")).unwrap();
    write("cut.crt", &whole[..whole.len() - 40]);
    write("empty.crt", b"");
    write("der.crt", &[0x30, 0x82, 1, 2, 3]);
    openssl(path, "pkcs8 -topk8 -in server.key -passout pass:hunter2 -out encrypted.key");
    openssl(
        path,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.crt -subj /CN=x",
    );
    openssl(path, "genrsa -out small.key 1024");
    std::fs::create_dir(path.join("folder")).unwrap();
    for (keys, words) in [
        ("", &["TLS needs `certificate`", "TLS needs `key`"][..]),
        ("certificate = \"server.crt\"\n", &["TLS needs `key`"]),
        ("certificate = \"no.crt\"\nkey = \"no.key\"\n", &["no.crt cannot be read", "no.key cannot be read"]),
        ("certificate = \"folder\"\nkey = \"server.key\"\n", &["folder is not a file"]),
        ("certificate = \"cut.crt\"\nkey = \"server.key\"\n", &["cut.crt", "copy it again"]),
        ("certificate = \"empty.crt\"\nkey = \"server.key\"\n", &["there is no certificate in"]),
        ("certificate = \"der.crt\"\nkey = \"server.key\"\n", &["openssl x509 -inform DER"]),
        (
            "certificate = \"server.key\"\nkey = \"server.crt\"\n",
            &["a private key and no certificate", "a certificate and no private key"],
        ),
        ("certificate = \"server.crt\"\nkey = \"encrypted.key\"\n", &["is encrypted", "openssl pkey -in"]),
        ("certificate = \"server.crt\"\nkey = \"other.key\"\n", &["does not belong to the certificate in"]),
        ("certificate = \"server.crt\"\nkey = \"small.key\"\n", &["cannot be used"]),
    ] {
        let said = at(path, keys, now()).unwrap_err().to_string();
        for word in words {
            assert!(said.contains(word), "{keys}: {said}");
        }
        assert!(!said.contains("hunter2") && !said.contains("can be reached from other hosts"), "{said}");
    }
    for (keys, word) in [
        ("client_ca = \"device.crt\"\n", "is not an authority's"),
        ("client_ca = \"server.key\"\n", "a private key and no certificate"),
        ("client_ca = \"ca.crt\"\nclient_crl = \"ca.crt\"\n", "no list of revoked certificates"),
        ("client_crl = \"ca.crl\"\n", "without `client_ca`"),
    ] {
        let said = at(path, &format!("{WELL}{keys}"), now()).unwrap_err();
        assert_eq!(said.0.len(), 1, "{keys}: {said}");
        assert!(said.to_string().contains(word), "{keys}: {said}");
        assert_eq!(said.0[0].place.as_ref().unwrap().line, 3 + keys.lines().count(), "{said}");
    }
}

#[test]
fn what_runs_out_is_warned_of_and_taken() {
    let folder = folder();
    let day = 86_400;
    let warnings = |keys: &str, now: i64| {
        let config = at(folder.path(), &format!("{WELL}{keys}"), now).unwrap();
        assert!(config.warnings.iter().all(|warning| warning.severity == Severity::Warning));
        config.warnings.iter().map(|warning| warning.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(warnings("", now() + 70 * day), [""; 0]);
    for (keys, later, word) in [
        ("", 80 * day, "expires on"),
        ("", 91 * day, "expired on"),
        ("", -day, "is good from"),
        ("client_ca = \"ca.crt\"\nclient_crl = \"ca.crl\"\n", 40 * day, "should have been renewed on"),
    ] {
        let warnings = warnings(keys, now() + later);
        assert!(warnings.len() == 1 && warnings[0].contains(word), "{word}: {warnings:?}");
    }
}

#[test]
fn a_key_that_all_may_read_is_warned_of() {
    let folder = folder();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(folder.path().join("server.key"), open).unwrap();
    let config = at(folder.path(), WELL, now()).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].right.starts_with("chmod 0600"), "{}", config.warnings[0]);
}

#[test]
fn secure_websocket_has_the_certificate_of_tls_unless_it_has_its_own() {
    let folder = folder();
    let path = folder.path();
    let nested = |keys: &str| at(path, &format!("{WELL}[mqtt.websocket.tls]\n{keys}"), now());
    let config = nested("").unwrap();
    assert_eq!(config.mqtt.websocket.listen, []);
    let secure = config.mqtt.websocket.tls.unwrap();
    assert_eq!(secure.listen, ["127.0.0.1:8084".parse().unwrap()]);
    assert_eq!(secure.tls, config.mqtt.tls.unwrap().tls);
    Authority::new(path, "another").issue("web", Wish { subject: "/CN=web", ..SERVER });
    let config = nested("certificate = \"web.crt\"\nkey = \"web.key\"\n").unwrap();
    assert_ne!(config.mqtt.websocket.tls.unwrap().tls, config.mqtt.tls.unwrap().tls);
    assert!(nested("certificate = \"web.crt\"\n").is_err());
}
