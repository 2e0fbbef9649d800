//! What a configuration means: the defaults, where relative paths lead, where passwords come from.

use super::surroundings;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate::config::{Amqp, Config, Environment, Mistakes, Severity, UpstreamKind, load, parse};
use tidegate_engine::event::{Anonymous, Durability, Senml};
use tidegate_engine::limits::Limits;

fn meant(source: &str) -> Config {
    parse(source, Some(Path::new("/etc/tidegate/tidegate.toml")), &surroundings()).unwrap()
}

fn amqp(config: &Config) -> &Amqp {
    match &config.upstreams[0].kind {
        UpstreamKind::Amqp(amqp) => amqp,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_file_the_gateway_listens_on_loopback_and_writes_to_a_file() {
    let config = parse("", None, &surroundings()).unwrap();
    assert_eq!(config.gateway.as_str(), "gw-1");
    assert_eq!(config.data_dir, PathBuf::from("tidegate-data"));
    assert_eq!(config.mqtt.listen, ["127.0.0.1:1883".parse().unwrap()]);
    assert_eq!(config.coap_listen, ["127.0.0.1:5683".parse().unwrap()]);
    assert_eq!(config.admin_listen, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(config.anonymous, Anonymous::Loopback);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.warnings, []);
    let [upstream] = &config.upstreams[..] else { panic!("{:?}", config.upstreams) };
    assert_eq!(upstream.name, "file");
    let UpstreamKind::File(file) = &upstream.kind else { panic!("{upstream:?}") };
    assert_eq!(file.path, PathBuf::from("tidegate-data/upstream/messages.jsonl"));
    let [route] = &config.routes[..] else { panic!("{:?}", config.routes) };
    assert_eq!((route.name.as_str(), route.filter.as_str(), route.upstream), ("file:#", "#", 0));
    assert_eq!(route.durability, Durability::Relay { spill_after: Duration::from_millis(250) });
}

#[test]
fn the_whole_example_of_what_is_built_is_understood() {
    let config = meant(
        r##"
        [gateway]
        id = "site-a"
        data_dir = "/var/lib/tidegate"
        [mqtt]
        listen = ["0.0.0.0:1883"]
        [coap]
        listen = []
        [admin]
        listen = ""
        [access]
        anonymous = "insecure-everywhere"
        [spool]
        max_size = "2 GiB"
        retain = "0 s"
        when_full = "refuse"
        [limits]
        packet_size = "4 KiB"
        receive_maximum = 10
        [upstream.cloud]
        kind = "amqp"
        urls = ["amqps://rabbit-1.example", "amqps://rabbit-2.example:5671/plant%2fa"]
        window = 512
        heartbeat = "5 s"
        exchange = { name = "", declare = false }
        [upstream.local]
        kind = "file"
        path = "out.jsonl"
        [[route]]
        topic = "sensors/+/temperature"
        upstream = "cloud"
        routing_key = "{device}.temperature"
        durability = "disk"
        priority = 7
        senml = "resolve"
        [[route]]
        name = "rest"
        topic = "#"
        upstream = "local"
        spill_after = "1 s"
        "##,
    );
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/tidegate"));
    assert_eq!(config.mqtt.listen, ["0.0.0.0:1883".parse().unwrap()]);
    assert!(config.coap_listen.is_empty());
    assert_eq!(config.admin_listen, None);
    assert_eq!(config.anonymous, Anonymous::Everywhere);
    assert_eq!(config.limits.spool_bytes, 2 << 30);
    assert_eq!(config.limits.packet_bytes, 4 << 10);
    assert_eq!(config.limits.packet_bytes_unauthenticated, 4 << 10);
    assert_eq!(config.limits.receive_maximum, 10);
    assert_eq!(config.upstreams.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["cloud", "local"]);
    assert_eq!(config.upstreams[0].window, 512);
    assert_eq!(amqp(&config).urls.len(), 2);
    assert_eq!(amqp(&config).heartbeat, Duration::from_secs(5));
    assert_eq!(amqp(&config).exchange.name, "");
    let UpstreamKind::File(file) = &config.upstreams[1].kind else { panic!() };
    assert_eq!(file.path, PathBuf::from("/etc/tidegate/out.jsonl"));
    assert_eq!(config.routes[0].name, "cloud:sensors/+/temperature");
    assert_eq!(config.routes[0].durability, Durability::Disk);
    assert_eq!(config.routes[0].priority, 7);
    assert_eq!(config.routes[0].senml, Senml::Resolve);
    assert_eq!((config.routes[1].name.as_str(), config.routes[1].upstream), ("rest", 1));
}

#[test]
fn the_data_folder_is_where_systemd_made_it_unless_the_operator_says_otherwise() {
    let environment = Environment { state: Some("/var/lib/tidegate".into()), ..surroundings() };
    let file = Some(Path::new("/etc/tidegate/tidegate.toml"));
    assert_eq!(parse("", file, &environment).unwrap().data_dir, PathBuf::from("/var/lib/tidegate"));
    let written = parse("gateway.data_dir = \"data\"", file, &environment).unwrap();
    assert_eq!(written.data_dir, PathBuf::from("/etc/tidegate/data"));
}

fn with_password(folder: &Path, content: &[u8], mode: u32) -> Result<Config, Mistakes> {
    let path = folder.join("cloud.password");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let source = "[upstream.cloud]\nkind = \"amqp\"\nusername = \"a\"\npassword_file = \"cloud.password\"\n";
    parse(source, Some(&folder.join("tidegate.toml")), &surroundings())
}

#[test]
fn a_password_comes_from_its_file_without_the_line_break_and_never_shows() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_password(folder.path(), b"hunter2 \n", 0o600).unwrap();
    assert_eq!(amqp(&config).password, "hunter2 ");
    assert_eq!(config.warnings, []);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_password_that_all_may_read_is_taken_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_password(folder.path(), b"hunter2", 0o644).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.right.starts_with("chmod 0600"), "{warning}");
}

#[test]
fn what_is_no_password_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"\n", b"a\nb\n", b"\xff\xfe", &[b'x'; 5_000], b"a\0b"] {
        let mistakes = with_password(folder.path(), content, 0o600).unwrap_err();
        assert_eq!(mistakes.0.len(), 1, "{mistakes}");
        assert_eq!(mistakes.0[0].place.as_ref().unwrap().line, 4);
    }
}

#[test]
fn a_password_that_systemd_hands_over_is_found_by_its_name() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("cloud.password"), "from systemd\n").unwrap();
    let environment = Environment { credentials: Some(credentials.path().to_owned()), ..surroundings() };
    let source = "[upstream.cloud]\nkind = \"amqp\"\nusername = \"a\"\npassword_file = \"cloud.password\"\n";
    let config = parse(source, Some(Path::new("/nowhere/tidegate.toml")), &environment).unwrap();
    assert_eq!(amqp(&config).password, "from systemd");
}

#[test]
fn the_account_of_a_fresh_broker_is_the_default() {
    let config = meant("[upstream.cloud]\nkind = \"amqp\"\n");
    assert_eq!((amqp(&config).username.as_str(), amqp(&config).password.as_str()), ("guest", "guest"));
    assert_eq!(amqp(&config).urls, ["amqp://127.0.0.1:5672"]);
}

#[test]
fn a_password_in_the_clear_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p"), "x").unwrap();
    std::fs::set_permissions(folder.path().join("p"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let warnings = |url: &str| {
        let source = format!(
            "[upstream.a]\nkind = \"amqp\"\nusername = \"a\"\npassword_file = \"p\"\nurls = [\"{url}\"]\n"
        );
        parse(&source, Some(&folder.path().join("t.toml")), &surroundings()).unwrap().warnings.len()
    };
    assert_eq!(warnings("amqp://rabbit.example"), 1);
    assert_eq!(warnings("amqp://192.0.2.1:5672/v"), 1);
    for safe in ["amqps://rabbit.example", "amqp://127.0.0.1:5672", "amqp://[::1]:5672", "amqp://localhost/v"]
    {
        assert_eq!(warnings(safe), 0, "{safe}");
    }
}

#[test]
fn a_host_without_a_name_is_warned_of() {
    let environment = Environment { host: "localhost".to_owned(), ..Environment::default() };
    let config = parse("", None, &environment).unwrap();
    assert_eq!(config.gateway.as_str(), "tidegate");
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(parse("gateway.id = \"a\"", None, &environment).unwrap().warnings, []);
}

#[test]
fn a_file_that_cannot_be_read_is_told_from_one_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.toml");
    assert!(load(Some(&path)).unwrap_err().to_string().contains("No such file"));
    assert!(load(Some(folder.path())).unwrap_err().to_string().contains("directory"));
    std::fs::write(&path, b"[gateway]\nid = \"\xff\"\n").unwrap();
    assert!(load(Some(&path)).unwrap_err().to_string().contains("line 2 is not UTF-8"));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(load(Some(&path)).unwrap_err().to_string().contains("too large"));
}

#[test]
fn no_text_makes_the_reader_stumble() {
    // A whole configuration with any single byte changed, doubled or taken out: an answer, whatever it is.
    let source = include_str!("mistakes/routes.toml").to_owned() + include_str!("mistakes/amqp.toml");
    let mut random = fastrand::Rng::with_seed(7);
    for at in 0..source.len() {
        let mut bytes = source.clone().into_bytes();
        match random.u8(..3) {
            0 => bytes[at] = random.u8(..),
            1 => bytes.insert(at, b"[]{}\"'=.#\n,\\"[random.usize(..12)]),
            _ => drop(bytes.remove(at)),
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(mistakes) = parse(&text, None, &surroundings()) {
            assert!(!mistakes.0.is_empty());
            assert!(!mistakes.to_string().is_empty());
        }
    }
}
