//! What DTLS associations cost: the memory of a gateway that holds as many of them, each of a device with a key of its own that
//! has published over it, and what a request over one takes.

use crate::coap::peers::{Target, begin, request};
use crate::idle::raise_open_files;
use crate::process::{anonymous_mib, cpu, rss_mib};
use dimpl::crypto::Dtls12CipherSuite;
use dimpl::{Config, Dtls as Dimpl, Output, PskResolver};
use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;
use tidegate_wire::coap::Message;

/// A datagram that is not answered within this goes again.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// So often: on loopback only a full buffer loses datagrams.
const TRIES: usize = 10;

/// Longer than this neither the handshakes nor the requests may take: most of it is the devices' own work, on a machine that does
/// other things as well.
const WITHIN: Duration = Duration::from_secs(300);

/// The gateway gives back what it has free every ten seconds.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(12);

/// The largest datagram, and record.
const DATAGRAM_BYTES: usize = 2_048;

/// Files beside the associations' sockets.
const OTHER_FILES: u64 = 64;

/// Idle DTLS associations.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Dtls {
    #[arg(long, default_value_t = 10_000)]
    associations: usize,
    /// A tenth of them: to see that it works.
    #[arg(long)]
    short: bool,
}

/// All devices' keys have the same length as real ones.
const KEY: &[u8; 16] = b"0123456789abcdef";

#[derive(Debug)]
struct Key;

impl PskResolver for Key {
    fn resolve(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(KEY.to_vec())
    }
}

impl Dtls {
    pub(crate) fn run(&self) -> io::Result<()> {
        let count = if self.short { self.associations / 10 } else { self.associations };
        raise_open_files(count as u64 + OTHER_FILES)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut configuration = format!(
            "[coap.dtls]\nlisten = [\"{address}\"]\n[limits]\ncoap_peers = 16384\ndtls_associations = 16384\n"
        );
        for number in 0..count {
            let _ = write!(configuration, "[device.d-{number}]\npublish = [\"bench/#\"]\npsk = \"{key}\"\n");
        }
        let gateway = Gateway::start(&configuration);
        let pid = [gateway.pid()];
        let alone = rss_mib(&pid);
        let before = cpu(&pid);
        let mut devices = Vec::with_capacity(count);
        let began = Instant::now();
        for number in 0..count {
            in_time(began, number, count)?;
            devices.push(Device::connect(address, number)?);
        }
        let handshakes = cpu(&pid).saturating_sub(before);
        let begun = rss_mib(&pid);
        let before = cpu(&pid);
        let began = Instant::now();
        for (number, device) in devices.iter_mut().enumerate() {
            in_time(began, number, count)?;
            device.publish()?;
        }
        let requests = cpu(&pid).saturating_sub(before);
        let held = gateway.metric("tidegate_dtls_associations");
        if held < count as f64 {
            return Err(io::Error::other(format!("the gateway holds {held} of {count} associations")));
        }
        // What ten thousand handshakes in a row have left free goes back now and then.
        wait_for(GIVEN_BACK_WITHIN, || None::<()>);
        let (rss, own) = (rss_mib(&pid), anonymous_mib(&pid));
        let each = |cost: Duration| cost.as_secs_f64() * 1e6 / count as f64;
        println!("\n{count} DTLS associations (PSK, a device each), held: MiB of the process");
        println!(
            "Tidegate   {rss:>6.1}, {own:.1} without files ({alone:.1} without associations, {begun:.1} after the handshakes, {:.0} bytes each)",
            (rss - alone) * 1_024.0 * 1_024.0 / count as f64
        );
        println!(
            "processor time: {:.0} µs a handshake, {:.0} µs a request (one at a time)",
            each(handshakes),
            each(requests)
        );
        drop(devices);
        Ok(())
    }
}

/// An error when it has taken too long.
fn in_time(began: Instant, done: usize, count: usize) -> io::Result<()> {
    if began.elapsed() < WITHIN {
        return Ok(());
    }
    Err(io::Error::other(format!("{done} of {count} devices were served in {WITHIN:?}")))
}

/// A device with its end of an association.
struct Device {
    socket: UdpSocket,
    dtls: Dimpl,
    request: Vec<u8>,
    message_id: u16,
}

enum Heard {
    Connected,
    Plain(Vec<u8>),
    Nothing,
}

impl Device {
    fn connect(server: SocketAddr, number: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        let config = Config::builder()
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .with_psk_client(format!("d-{number}").into_bytes(), Arc::new(Key))
            .build()
            .map_err(io::Error::other)?;
        let mut dtls = Dimpl::new_12_psk(Arc::new(config), Instant::now());
        dtls.set_active(true);
        dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
        let request = request(Target::Post, number)?;
        let mut device = Self { socket, dtls, request, message_id: fastrand::u16(..) };
        device.until(|heard| matches!(heard, Heard::Connected))?;
        Ok(device)
    }

    /// Publishes once, and waits for its answer.
    fn publish(&mut self) -> io::Result<()> {
        self.message_id = self.message_id.wrapping_add(1);
        begin(&mut self.request, self.message_id);
        self.dtls.send_application_data(&self.request).map_err(io::Error::other)?;
        let token = self.message_id.to_be_bytes();
        self.until(|heard| match heard {
            Heard::Plain(plain) => Message::parse(plain)
                .is_ok_and(|answer| answer.token().as_bytes() == token && answer.code().class() == 2),
            _ => false,
        })
    }

    /// Sends and receives until something is heard.
    fn until(&mut self, wanted: impl Fn(&Heard) -> bool) -> io::Result<()> {
        let mut buffer = [0; DATAGRAM_BYTES];
        for _ in 0..TRIES {
            loop {
                while let Some(heard) = self.say(&mut buffer)? {
                    if wanted(&heard) {
                        // What follows must leave as well: the last flight, say.
                        while self.say(&mut buffer)?.is_some() {}
                        return Ok(());
                    }
                }
                match self.socket.recv(&mut buffer) {
                    Ok(count) => self.dtls.handle_packet(&buffer[..count]).map_err(io::Error::other)?,
                    Err(_) => break,
                }
            }
            self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
        }
        Err(io::Error::other("a device got no answer over DTLS"))
    }

    /// Does one thing that the association wants; nothing when it waits.
    fn say(&mut self, buffer: &mut [u8]) -> io::Result<Option<Heard>> {
        Ok(match self.dtls.poll_output(buffer) {
            Output::Packet(datagram) => {
                self.socket.send(datagram)?;
                Some(Heard::Nothing)
            }
            Output::Connected => Some(Heard::Connected),
            Output::ApplicationData(plain) => Some(Heard::Plain(plain.to_vec())),
            Output::Timeout(_) => None,
            _ => Some(Heard::Nothing),
        })
    }
}
