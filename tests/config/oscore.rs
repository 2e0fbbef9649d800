//! What is said of devices' OSCORE contexts whose secrets can be read; the mistakes before that are golden files.

use super::surroundings;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tidegate::config::{Config, Mistakes, Severity, parse};
use tidegate_oscore::{Context, Parameters};

const SECRET: &str = "000102030405060708090a0b0c0d0e0f";

fn secret(folder: &Path, name: &str, text: &str, mode: u32) {
    std::fs::write(folder.join(name), text).unwrap();
    std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn with(folder: &Path, devices: &str) -> Result<Config, Mistakes> {
    secret(folder, "a.oscore", &format!("{SECRET}\n"), 0o600);
    secret(folder, "b.oscore", &SECRET.to_uppercase().replace("0F", "1F"), 0o600);
    secret(folder, "open.oscore", SECRET, 0o644);
    secret(folder, "short.oscore", "0001020304050607\n", 0o600);
    secret(folder, "digits.oscore", &SECRET.replace("0f", "0g"), 0o600);
    parse(devices, Some(&folder.join("tidegate.toml")), &surroundings())
}

fn mistakes(devices: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    with(folder.path(), devices).unwrap_err().0.iter().map(|mistake| mistake.what.clone()).collect()
}

#[test]
fn a_context_is_the_gateways_end_of_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = with(
        folder.path(),
        "[device.a]\noscore = { device_id = \"a1\", secret_file = \"a.oscore\" }\n\
         [device.b.oscore]\ndevice_id = \"A1\"\ngateway_id = \"\"\nid_context = \"37cb\"\nsalt = \"9e7c\"\nsecret_file = \"b.oscore\"\n",
    )
    .unwrap();
    assert_eq!(config.warnings, []);
    let mut bytes: [u8; 16] = core::array::from_fn(|at| u8::try_from(at).unwrap());
    let a = Context::derive(&Parameters {
        master_secret: &bytes,
        sender_id: &[1],
        recipient_id: &[0xA1],
        ..Parameters::default()
    });
    bytes[15] = 0x1F;
    let b = Context::derive(&Parameters {
        master_secret: &bytes,
        master_salt: &[0x9E, 0x7C],
        id_context: Some(&[0x37, 0xCB]),
        sender_id: &[],
        recipient_id: &[0xA1],
    });
    let found: Vec<_> = config.devices.iter().map(|device| device.oscore.as_deref().cloned()).collect();
    assert_eq!(found, [a.ok(), b.ok()]);
    assert!(config.devices.iter().all(|device| device.has_credentials()));
    assert!(!format!("{config:?}").to_lowercase().contains("0102"), "no secret shows");
}

#[test]
fn a_secret_that_all_may_read_is_taken_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let devices = "[device.a]\noscore = { device_id = \"a1\", secret_file = \"open.oscore\" }\n";
    let config = with(folder.path(), devices).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.right.starts_with("chmod 0600"), "{warning}");
}

#[test]
fn a_coap_listener_for_other_hosts_asks_for_contexts() {
    let folder = tempfile::tempdir().unwrap();
    let device = "[device.a]\noscore = { device_id = \"a1\", secret_file = \"a.oscore\" }\n";
    let listener = "[coap]\nlisten = [\"0.0.0.0:5683\"]\n[access]\nanonymous = \"never\"\n";
    assert_eq!(with(folder.path(), &format!("{listener}{device}")).unwrap().warnings, []);
    assert!(with(folder.path(), listener).is_err());
}

#[test]
fn what_would_break_a_key_or_hide_a_device_is_refused() {
    let device = |name: &str, id: &str, file: &str| {
        format!("[device.{name}]\noscore = {{ device_id = \"{id}\", secret_file = \"{file}\" }}\n")
    };
    let two = |id: &str, file: &str| device("a", "a1", "a.oscore") + &device("b", id, file);
    assert_eq!(mistakes(&two("a2", "a.oscore")), ["`a` has the same secret, with the same `gateway_id`"]);
    assert_eq!(mistakes(&two("a1", "b.oscore")), ["`a` has the same OSCORE id"]);
    assert_eq!(mistakes(&device("a", "01", "a.oscore")), ["both ends have the same id"]);
    for file in ["short.oscore", "digits.oscore"] {
        let [mistake] = &mistakes(&device("a", "a1", file))[..] else { panic!("{file}") };
        assert!(mistake.ends_with("does not hold an OSCORE secret"), "{mistake}");
    }
}
