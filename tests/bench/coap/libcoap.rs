//! libcoap's example server as a peer, on a port of its own.

use super::peers::{Peers, Target};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;

/// It answers its first request within so long after it was started.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Between two requests while it starts.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A server that ends with this.
pub(crate) struct Libcoap {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Libcoap {
    pub(crate) fn start() -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let child = Command::new("coap-server-notls")
            .args(["-A", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                io::Error::other(format!("coap-server-notls: {error}; install Debian's libcoap3-bin"))
            })?;
        let server = Self { address, child };
        let up = wait_for(START_WITHIN, || {
            let mut peer = Peers::new(address, 1, Target::PutExampleData).ok()?;
            peer.send(1, ASK_EVERY).ok().filter(|seen| seen.answered == 1)
        });
        up.map(|_| server).ok_or_else(|| io::Error::other("coap-server-notls does not answer"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Libcoap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
