//! Mosquitto as a peer: its fastest, without persistence, on a port of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;

/// A server that ends with this.
pub(crate) struct Mosquitto {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Mosquitto {
    pub(crate) fn start() -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = std::env::temp_dir().join(format!("tidegate-bench-mosquitto-{}.conf", address.port()));
        std::fs::write(
            &config,
            format!("listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n", address.port()),
        )?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::other(format!("mosquitto: {error}; install Debian's package")))?;
        let server = Self { address, child };
        let up = wait_for(Duration::from_secs(10), || TcpStream::connect(address).ok());
        let _ = std::fs::remove_file(config);
        up.map(|_| server).ok_or_else(|| io::Error::other("mosquitto does not listen"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
