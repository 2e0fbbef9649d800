//! Where the configuration is the weak spot: a reload that cannot be done, options that would open a door, certificates that
//! should not let anybody in.

use super::access::reload;
use super::{Arena, Case, SOON, Setting};
use crate::certificates::{Authority, BAD, DEVICE, SERVER};
use crate::mqtt::Hello;
use crate::tls::{BOTH, secured};
use crate::wait::wait_for;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use tidegate_wire::mqtt::Version;

fn anonymous(arena: &Arena, who: &str) -> Setting {
    Setting::of(&format!("[access]\nanonymous = \"{who}\"\n{}", arena.device("sensor", "")))
}

pub(super) const A08: Case = Case {
    id: "A08",
    name: "a reload while no file can be opened (CVE-2017-7652)",
    setting: |arena| anonymous(arena, "never"),
    attack: |arena| Box::pin(exhausted(arena)),
    counted: &[("tidegate_reloads_total{result=\"problem\"}", 1.0)],
    audited: &[("configuration", 1)],
};

async fn exhausted(arena: &Arena) {
    let stranger = Hello::new(Version::V5, "stranger");
    arena.configure(&anonymous(arena, "never"));
    reload(arena, "in force");
    assert_eq!(arena.greet(&stranger).await.1, Some(0x87));
    arena.configure(&anonymous(arena, "loopback"));
    let pid = Pid::from_raw(arena.gateway.pid().cast_signed());
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, none).expect("a limit");
    // Its metrics cannot be asked either; the audit log is open.
    let lines = || arena.audit().matches("\"configuration\"").count();
    let written = lines();
    arena.gateway.signal(Signal::HUP);
    let read = wait_for(SOON, || (lines() > written).then_some(()));
    prlimit(pid, Resource::Nofile, before).expect("the limit as it was");
    assert!(read.is_some(), "{}", arena.gateway.log());
    assert_eq!(arena.greet(&stranger).await.1, Some(0x87), "the old configuration is in force");
    let hello = Hello::new(Version::V5, "sensor").proving("sensor", arena.password());
    assert_eq!(arena.greet(&hello).await.1, Some(0));
}

pub(super) const A09: Case = Case {
    id: "A09",
    name: "options that could open a port to all the world (Mosquitto 2.0.12, #2283)",
    setting: |arena| {
        Authority::new(arena.gateway.folder(), "ca").issue("server", SERVER);
        Setting::default()
    },
    attack: |arena| {
        Box::pin(async move {
            let port = arena.second.port();
            let files = "certificate = \"server.crt\"\nkey = \"server.key\"\n";
            for rest in [
                format!("[mqtt.websocket]\nlisten = [\"0.0.0.0:{port}\"]\n"),
                format!("[mqtt.tls]\nlisten = [\"0.0.0.0:{port}\"]\n"),
                format!("[mqtt.tls]\nlisten = [\"0.0.0.0:{port}\"]\n{files}client_ca = \"missing.crt\"\n"),
            ] {
                arena.configure(&Setting::of(&rest));
                let read = tidegate::config::load(Some(&arena.gateway.config()));
                assert!(read.is_err(), "`check` and `run` take {rest}");
                reload(arena, "problem");
                assert!(TcpStream::connect(arena.second).is_err(), "nothing listens there");
            }
            // Options of TLS without an address: this host and no other.
            arena.configure(&Setting::of(&format!("[mqtt.tls]\n{files}")));
            let read = tidegate::config::load(Some(&arena.gateway.config())).expect("a configuration");
            let listen = read.mqtt.tls.expect("TLS").listen;
            assert!(!listen.is_empty() && listen.iter().all(|address| address.ip().is_loopback()));
            arena.configure(&Setting::default());
        })
    },
    counted: &[("tidegate_reloads_total{result=\"problem\"}", 3.0)],
    audited: &[("configuration", 3)],
};

pub(super) const A10: Case = Case {
    id: "A10",
    name: "certificates of another authority, expired, revoked, for something else, or with odd names",
    setting: |arena| {
        issue(arena);
        Setting::of(&format!(
            "[mqtt.tls]\nlisten = [\"{}\"]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n\
             client_ca = \"devices.crt\"\nclient_crl = \"devices.crl\"\n",
            arena.second
        ))
    },
    attack: |arena| {
        Box::pin(async move {
            assert_eq!(greeted(arena, Some("good")).expect("it is let in"), 0);
            for _ in 0..3 {
                for bad in BAD.map(Some).into_iter().chain([None]) {
                    assert!(greeted(arena, bad).is_err(), "{bad:?} is refused");
                }
            }
        })
    },
    counted: &[("tidegate_handshakes_failed_total", 33.0)],
    audited: &[("sign-in refused", 33)],
};

fn issue(arena: &Arena) {
    let folder = arena.gateway.folder();
    Authority::new(folder, "ca").issue("server", SERVER);
    let devices = Authority::new(folder, "devices");
    devices.issue("good", DEVICE);
    devices.issue_bad();
}

/// Says CONNECT behind a handshake, and gives what CONNACK says.
fn greeted(arena: &Arena, own: Option<&str>) -> io::Result<u8> {
    let mut stream = secured(arena.second, arena.gateway.folder(), BOTH, own)?;
    stream.write_all(&Hello::new(Version::V3_1_1, "boiler-3").bytes())?;
    stream.flush()?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    Ok(connack[3])
}
