//! Attacks on a gateway that have happened to others, as a table: what each needs, what it does, and where the gateway must
//! have counted it and written it down. `tests/attacks` holds every one to the rule; `bench attacks` measures what it costs
//! those beside it. Nothing here judges the gateway beyond what an attack itself must meet.

mod access;
mod bystander;
mod crowds;
mod datagrams;
mod floods;
mod guessing;
mod packets;
mod settings;
mod stalling;

pub use bystander::{Bystander, PREFIX};

use crate::gateway::Gateway;
use crate::link::Link;
use crate::mqtt::Hello;
use crate::ports::free_port;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;
use tidegate_wire::mqtt::{Packet, Version};

/// For what takes moments, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(30);

/// Where attacks come from that an address matters to. As load balancer it may speak for others: bounds by address do not
/// hold for addresses of this host.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// What an attacker would like to read in the audit log: a line of its own.
pub const FORGED: &str = "\n{\"event\":\"sign-in\",\"device\":\"forged\"}\n\u{1B}[2J";

/// What an attack does, on the attacker's runtime.
pub type Attack = for<'a> fn(&'a Arena) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One attack.
#[derive(Clone, Copy)]
pub struct Case {
    /// M.. on MQTT, A.. on access, C.. on DTLS, F.. what is like them.
    pub id: &'static str,
    /// What it is, in words.
    pub name: &'static str,
    /// What the gateway is configured with.
    pub setting: fn(&Arena) -> Setting,
    /// What it does. May be done several times.
    pub attack: Attack,
    /// Metrics that must have grown by at least so much.
    pub counted: &'static [(&'static str, f64)],
    /// Events in the audit log of which there must be at least so many more.
    pub audited: &'static [(&'static str, usize)],
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.id, self.name)
    }
}

/// A gateway's configuration beside its listeners.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Keys of `[mqtt]`.
    pub mqtt: String,
    /// Everything else.
    pub rest: String,
}

impl Setting {
    /// Tables and nothing in `[mqtt]`.
    #[must_use]
    pub fn of(rest: &str) -> Self {
        Self { mqtt: String::new(), rest: rest.to_owned() }
    }

    /// The defaults.
    #[must_use]
    pub fn plain(_: &Arena) -> Self {
        Self::default()
    }
}

/// All of them.
pub const CASES: &[Case] = &[
    packets::M02,
    packets::M03,
    stalling::M04,
    packets::M07,
    packets::M09,
    packets::M12,
    packets::M13,
    packets::M14,
    packets::M15,
    packets::M17,
    packets::M18,
    packets::M20,
    stalling::M25,
    packets::M26,
    crowds::M28,
    crowds::M29,
    crowds::M30,
    crowds::M32,
    access::A01,
    access::A02,
    access::A03,
    access::A05,
    access::A06,
    settings::A08,
    settings::A09,
    settings::A10,
    guessing::A11,
    datagrams::C15,
    datagrams::C16,
    datagrams::C17,
    datagrams::C18,
    floods::F01,
    floods::F02,
    floods::F03,
    floods::F04,
    floods::F05,
];

/// A gateway that is attacked.
#[derive(Debug)]
pub struct Arena {
    /// The process.
    pub gateway: Gateway,
    /// Where a case that needs a second listener has it.
    pub second: SocketAddr,
    token: String,
    hash: String,
}

impl Arena {
    /// Prepares a gateway for a case, and starts it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(case: &Case) -> Self {
        let (token, hash) = tidegate::access::password::token().expect("a token");
        let second = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut arena = Self { gateway: Gateway::prepare(""), second, token, hash };
        arena.configure(&(case.setting)(&arena));
        arena.gateway.start_again();
        arena
    }

    /// Writes the configuration: the bystander's device and route are always in it, and nothing else goes upstream.
    pub fn configure(&self, setting: &Setting) {
        let rest = format!(
            "{}\n[[route]]\ntopic = \"{PREFIX}/#\"\n[device.{PREFIX}]\npublish = [\"{PREFIX}/#\"]\npassword_hash = \"{}\"\n",
            setting.rest, self.hash
        );
        self.gateway.configure_with(&setting.mqtt, &rest);
    }

    /// An honest device beside the attack.
    #[must_use]
    pub fn bystander(&self) -> Bystander {
        Bystander::start(self.gateway.mqtt, &self.token)
    }

    /// A device that is configured: its table, and the password that fits. The secret is the bystander's: what it is does not
    /// matter, and making one takes time.
    #[must_use]
    pub fn device(&self, id: &str, rights: &str) -> String {
        format!("[device.{id}]\npassword_hash = \"{}\"\n{rights}\n", self.hash)
    }

    /// The password of every device of [`Arena::device`].
    #[must_use]
    pub fn password(&self) -> &str {
        &self.token
    }

    /// A connection on which nothing has been said.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn open(&self, version: Version) -> io::Result<Link> {
        Link::open_from(ATTACKER, self.gateway.mqtt, version).await
    }

    /// A connection with an accepted CONNECT.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(&self, hello: &Hello<'_>) -> Link {
        let (link, answer) = self.greet(hello).await;
        assert_eq!(answer, Some(0), "{} is let in", hello.id);
        link
    }

    /// Says CONNECT, and gives what CONNACK says; `None` when none comes before the end.
    ///
    /// # Panics
    /// When there is no connection, and when nothing comes at all.
    pub async fn greet(&self, hello: &Hello<'_>) -> (Link, Option<u8>) {
        let mut link = self.open(hello.version).await.expect("a connection");
        let answer = greet(&mut link, hello).await;
        (link, answer)
    }

    /// The processor time that the gateway has used.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        Duration::from_secs_f64(self.gateway.metric("tidegate_process_cpu_seconds_total"))
    }

    /// What stands in the audit log.
    #[must_use]
    pub fn audit(&self) -> String {
        std::fs::read_to_string(self.gateway.data().join("audit.jsonl")).unwrap_or_default()
    }

    /// Messages that were accepted and are not the bystander's.
    #[must_use]
    pub fn strangers(&self) -> f64 {
        self.gateway.metric("tidegate_messages_unrouted_total")
    }
}

/// Says CONNECT on an open connection, and gives what CONNACK says.
async fn greet(link: &mut Link, hello: &Hello<'_>) -> Option<u8> {
    if link.write(&hello.bytes()).await.is_err() {
        return None;
    }
    let answer = link.next(SOON, |packet| match packet {
        Packet::ConnAck(answer) => answer.reason.0,
        other => panic!("{other:?} before CONNACK"),
    });
    match answer.await {
        Ok(None) => panic!("neither CONNACK nor the end came"),
        answer => answer.ok().flatten(),
    }
}

/// The PROXY header (version 2) that speaks for a client at an address.
fn speaking_for(client: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C".to_vec();
    header.extend(client.octets());
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5B]);
    header
}

/// What makes [`ATTACKER`] a load balancer.
const LOAD_BALANCER: &str = "proxy_protocol = [\"127.0.0.66\"]";
