//! libcoap's clients, each on the same tour: as Debian ships them without security and with DTLS on two TLS libraries, and 4.3.4
//! with OSCORE (`tests/run packages` fetches it). Whoever they are, what they publish arrives once and what they read is right.

use super::{PATIENCE, Running, mqtt_publish, read, upstream};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;

/// What the devices prove themselves with; libcoap takes the key as text, the configuration as digits.
const KEY: &str = "0123456789abcdef";
const KEY_HEX: &str = "30313233343536373839616263646566";
const SECRET: &str = "000102030405060708090a0b0c0d0e0f";

/// The largest body that the gateway takes here.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long observers are watched, in real time.
const OBSERVED_FOR: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Gnutls,
    Openssl,
    Oscore,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Plain, Self::Gnutls, Self::Openssl, Self::Oscore];

    fn device(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gnutls => "by-gnutls",
            Self::Openssl => "by-openssl",
            Self::Oscore => "by-oscore",
        }
    }
}

/// A gateway that every client can speak to.
struct Place {
    gateway: Gateway,
    dtls: u16,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let mut place =
            Self { gateway: Gateway::prepare(""), dtls: free_port(), folder: tempfile::tempdir().unwrap() };
        let secret = place.gateway.folder().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let dtls = |kind: Kind| {
            format!(
                "[device.{}]\npsk = \"{KEY_HEX}\"\nsubscribe = [\"sensors/#\", \"news/#\"]\n",
                kind.device()
            )
        };
        place.gateway.configure(&format!(
            "[coap.dtls]\nlisten = [\"127.0.0.1:{}\"]\n{}{}[device.by-oscore]\nsubscribe = [\"sensors/#\", \"news/#\"]\n\
             oscore = {{ device_id = \"5a02\", secret_file = \"secret\" }}\n",
            place.dtls,
            dtls(Kind::Gnutls),
            dtls(Kind::Openssl),
        ));
        let keys =
            format!("master_secret,hex,\"{SECRET}\"\nsender_id,hex,\"5a02\"\nrecipient_id,hex,\"01\"\n");
        std::fs::write(place.folder.path().join("keys"), keys).unwrap();
        place.gateway.start_again();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, kind: Kind, path: &str, arguments: &[&str]) -> Command {
        let (program, identity, url) = match kind {
            Kind::Plain => {
                (PathBuf::from("coap-client-notls"), vec![], format!("coap://{}", self.gateway.coap))
            }
            Kind::Gnutls | Kind::Openssl => {
                let library = if kind == Kind::Gnutls { "gnutls" } else { "openssl" };
                let identity = ["-u", kind.device(), "-k", KEY].map(str::to_owned).to_vec();
                let program = format!("coap-client-{library}").into();
                (program, identity, format!("coaps://127.0.0.1:{}", self.dtls))
            }
            Kind::Oscore => {
                let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trixie/coap-client");
                let (keys, numbers) = (self.file("keys"), self.file("numbers"));
                let context = format!("{},{}", keys.display(), numbers.display());
                (target, vec!["-E".to_owned(), context], format!("coap://{}", self.gateway.coap))
            }
        };
        let mut command = Command::new(program);
        command.args(identity).args(arguments).arg(format!("{url}{path}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What the client says, its log included.
    fn run(&self, kind: Kind, path: &str, arguments: &[&str]) -> String {
        let mut command = self.client(kind, path, arguments);
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run packages installs it"));
        super::said(&output)
    }

    /// How often each payload has arrived upstream under the device's name on a topic of its own.
    fn arrived(&self, kind: Kind, topic: &str, payload: &str) -> usize {
        let topic = format!("sensors/{}/{topic}", kind.device());
        upstream(&self.gateway, &topic).get(payload).copied().unwrap_or(0)
    }

    fn arrives_once(&self, kind: Kind, topic: &str, payload: &str, log: &str) {
        let arrived = wait_for(PATIENCE, || (self.arrived(kind, topic, payload) > 0).then_some(()));
        let log = &log[log.len().saturating_sub(2_000)..];
        assert!(arrived.is_some(), "{kind:?} {topic}: {log}\nthe gateway's log:\n{}", self.gateway.log());
        assert_eq!(self.arrived(kind, topic, payload), 1, "{kind:?} {topic}");
    }
}

fn body(length: usize) -> String {
    (0..length).map(|n| char::from(b'a' + u8::try_from(n * 7 % 23).unwrap())).collect()
}

fn tour(kind: Kind) {
    let place = Place::new();
    let path = |topic: &str| format!("/t/sensors/{}/{topic}", kind.device());

    let log = place.run(kind, &path("con"), &["-B", "30", "-m", "post", "-e", "con", "-v", "7"]);
    place.arrives_once(kind, "con", "con", &log);
    let log = place.run(kind, &path("non"), &["-B", "3", "-m", "put", "-N", "-e", "non", "-v", "7"]);
    place.arrives_once(kind, "non", "non", &log);

    // Blocks both ways, the largest body included.
    let (sent, received) = (place.file("sent"), place.file("received"));
    let (from, to) = (sent.to_str().unwrap(), received.to_str().unwrap());
    for (block, length) in [("16", 3_000), ("1024", BODY_BYTES_MAX)] {
        let body = body(length);
        std::fs::write(&sent, &body).unwrap();
        let topic = format!("blocks-{block}");
        let arguments = ["-B", "120", "-b", block, "-m", "put", "-f", from, "-v", "6"];
        let log = place.run(kind, &(path(&topic) + "?retain=1"), &arguments);
        place.arrives_once(kind, &topic, &body, &log);
        let log = place.run(kind, &path(&topic), &["-B", "120", "-b", block, "-o", to, "-v", "6"]);
        let whole = std::fs::read_to_string(&received).unwrap_or_default();
        let _ = std::fs::remove_file(&received);
        let log = &log[log.len().saturating_sub(2_000)..];
        assert!(whole == body, "{kind:?} {block}: {} of {length} bytes: {log}", whole.len());
    }
    std::fs::write(&sent, vec![b'x'; BODY_BYTES_MAX + 1]).unwrap();
    let arguments = ["-B", "60", "-b", "1024", "-m", "post", "-f", from, "-v", "6"];
    let log = place.run(kind, &path("beyond"), &arguments);
    assert!(log.contains("4.13"), "{kind:?}: {}", &log[log.len().saturating_sub(2_000)..]);
    let topic = format!("sensors/{}/beyond", kind.device());
    assert!(upstream(&place.gateway, &topic).is_empty());

    // A fifth of what the client sends is lost; one after the other, as their numbers are one row.
    let count = 5;
    for number in 0..count {
        let payload = format!("lossy-{number}");
        let log = place.run(
            kind,
            &path("lossy"),
            &["-B", "90", "-l", "20%", "-m", "post", "-e", &payload, "-v", "7"],
        );
        if log.contains("2.04") {
            place.arrives_once(kind, "lossy", &payload, &log);
        }
    }
    let arrived = upstream(&place.gateway, &format!("sensors/{}/lossy", kind.device()));
    assert!(arrived.len() * 2 > count && arrived.values().all(|times| *times == 1), "{kind:?}: {arrived:?}");

    // libcoap 4.3.4 with OSCORE would encrypt its pings, and fails.
    if kind == Kind::Oscore {
        return;
    }
    // A ping (RFC 7252, 4.3) a second while it observes: each is answered with RST.
    let log = place.run(kind, &path("con"), &["-s", "4", "-K", "1", "-B", "10", "-v", "7"]);
    assert!(log.contains("RST"), "{kind:?}: {}", &log[log.len().saturating_sub(3_000)..]);
}

#[test]
fn libcoap_makes_its_tour() {
    tour(Kind::Plain);
}

#[test]
fn libcoap_makes_its_tour_with_gnutls() {
    tour(Kind::Gnutls);
}

#[test]
fn libcoap_makes_its_tour_with_openssl() {
    tour(Kind::Openssl);
}

#[test]
fn libcoap_makes_its_tour_with_oscore() {
    tour(Kind::Oscore);
}

/// An observer that is asked to end, so that it writes down which numbers it has used.
struct Observer(Child);

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        if wait_for(Duration::from_secs(10), || self.0.try_wait().ok().flatten()).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The values in what an observer has written, in its order.
fn values(text: &str) -> Vec<u32> {
    text.split(';').filter_map(|value| value.trim().strip_prefix('v')?.parse().ok()).collect()
}

#[test]
fn observers_see_the_last_value_for_a_minute_over_restarts_of_the_gateway() {
    let mut place = Place::new();
    let aiocoap_sees = place.file("aiocoap");
    let mut aiocoap = Command::new(super::python());
    aiocoap.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("coap/observe_aiocoap.py"));
    aiocoap.arg(format!("coap://{}/t/news/all", place.gateway.coap));
    aiocoap.stdout(std::fs::File::create(&aiocoap_sees).unwrap());
    // Unlike libcoap's clients it makes its observation anew by itself.
    let aiocoap = Running(aiocoap.spawn().expect("tests/run packages installs it"));
    let began = Instant::now();
    let (mut number, mut lives) = (0, 0);
    while began.elapsed() < OBSERVED_FOR || lives < 3 {
        let seen = |kind: Kind| place.file(&format!("{}-{lives}", kind.device()));
        let observers = Kind::ALL.map(|kind| {
            let file = seen(kind);
            let arguments = ["-s", "300", "-w", "-B", "300", "-o", file.to_str().unwrap()];
            let mut command = place.client(kind, "/t/news/all", &arguments);
            Observer(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        });
        for _ in 0..4 {
            number += 1;
            mqtt_publish(&place.gateway, &["-t", "news/all", "-r", "-m", &format!("v{number:04};")]);
            for file in Kind::ALL.map(seen).iter().chain([&aiocoap_sees]) {
                let told = wait_for(PATIENCE, || {
                    values(&read(file)).last().is_some_and(|v| *v == number).then_some(())
                });
                assert!(told.is_some(), "{} has {:?}, not {number}", file.display(), read(file));
            }
        }
        for file in Kind::ALL.map(seen).iter().chain([&aiocoap_sees]) {
            assert!(values(&read(file)).is_sorted(), "never backwards: {:?}", read(file));
        }
        lives += 1;
        place.gateway.kill();
        drop(observers);
        place.gateway.start_again();
    }
    println!("{number} values over {lives} lives of the gateway");
    drop(aiocoap);
}
