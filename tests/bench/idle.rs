//! What connections cost that say nothing: the memory of Tidegate and of Mosquitto with as many of them, side by side.

use crate::load::greet;
use crate::local::servers;
use crate::process::{anonymous_mib, rss_mib};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpSocket;

/// From one loopback address come at most so many connections: the kernel gives about 28,000 ports.
const PER_ADDRESS: usize = 4_096;

/// Seconds: nobody needs to say anything while the memory is read.
const KEEP_ALIVE_S: u16 = 600;

/// Files beside the connections.
const OTHER_FILES: u64 = 64;

/// Idle connections beside Mosquitto.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Idle {
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
}

impl Idle {
    pub(crate) fn run(&self) -> io::Result<()> {
        raise_open_files(self.connections as u64 + OTHER_FILES)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (servers, _running) = servers()?;
        println!("\n{} idle connections, CONNECTed: MiB of the process", self.connections);
        let (mut with, mut own) = ([0.0; 2], [0.0; 2]);
        for ((server, with), own) in servers.iter().zip(&mut with).zip(&mut own) {
            let alone = rss_mib(&[server.pid]);
            let open = runtime.block_on(self.connect(server.address))?;
            *with = rss_mib(&[server.pid]);
            *own = anonymous_mib(&[server.pid]);
            let each = (*with - alone) * 1_024.0 * 1_024.0 / self.connections as f64;
            println!(
                "{:<10} {with:>6.1}, {own:.1} without files ({alone:.1} without connections, {each:.0} bytes each)",
                server.name
            );
            drop(open);
        }
        println!(
            "Tidegate: {:.2} × Mosquitto's memory, {:.2} × without files",
            with[0] / with[1],
            own[0] / own[1]
        );
        Ok(())
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<Vec<tokio::net::TcpStream>> {
        let mut open = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            let socket = TcpSocket::new_v4()?;
            let last = u8::try_from(2 + number / PER_ADDRESS).map_err(io::Error::other)?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
            let stream = socket.connect(target).await?;
            open.push(greet(stream, &format!("idle-{number}"), (None, None), KEEP_ALIVE_S).await?);
        }
        Ok(open)
    }
}

/// Makes room for so many files, for the servers as well, which inherit it.
pub(crate) fn raise_open_files(wanted: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .map_err(|error| io::Error::other(format!("{wanted} open files: {error}; raise the hard limit")))
}
