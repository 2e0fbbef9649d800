//! The server that the tours visit: the gateway, or Mosquitto as the reference that shows whether a tour itself is right
//! (TIDEGATE_TOURS_AT=mosquitto). Each has every transport, on free ports of loopback, and is ended with the test.

use std::fmt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tidegate_tests::certificates::{Authority, SERVER};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::ports::free_port;
use tidegate_tests::wait::wait_for;

/// For a start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
}

/// Where a client connects.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    pub(crate) transport: Transport,
    /// A name where a certificate is for names.
    pub(crate) host: &'static str,
    pub(crate) port: u16,
    /// The authority's certificate, PEM.
    pub(crate) ca: Vec<u8>,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match self.transport {
            Transport::Tcp => ("mqtt", ""),
            Transport::Tls => ("mqtts", ""),
            Transport::WebSocket => ("ws", "/mqtt"),
            Transport::SecureWebSocket => ("wss", "/mqtt"),
        };
        write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
    }
}

enum Process {
    Gateway(Gateway),
    Mosquitto(Child),
}

/// A server that runs.
pub(crate) struct Server {
    folder: TempDir,
    process: Process,
    ports: [u16; 4],
}

impl Server {
    /// Starts the server that the environment names, the gateway if it names none.
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tidegate-tour-").tempdir().unwrap();
        Authority::new(folder.path(), "ca").issue("server", SERVER);
        let mut ports = [(); 4].map(|()| free_port());
        let process = if std::env::var("TIDEGATE_TOURS_AT").is_ok_and(|at| at == "mosquitto") {
            Process::Mosquitto(mosquitto(folder.path(), ports))
        } else {
            let gateway = gateway(folder.path(), ports);
            ports[0] = gateway.mqtt.port();
            Process::Gateway(gateway)
        };
        for port in ports {
            let open = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
            assert!(wait_for(START_WITHIN, open).is_some(), "nobody listens on {port}");
        }
        Self { folder, process, ports }
    }

    /// Where it listens for this transport.
    pub(crate) fn url(&self, transport: Transport) -> Url {
        let (index, host) = match transport {
            Transport::Tcp => (0, "127.0.0.1"),
            Transport::Tls => (1, "localhost"),
            Transport::WebSocket => (2, "127.0.0.1"),
            Transport::SecureWebSocket => (3, "localhost"),
        };
        let ca = std::fs::read(self.authority()).unwrap();
        Url { transport, host, port: self.ports[index], ca }
    }

    /// The file with the authority's certificate.
    pub(crate) fn authority(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        match &self.process {
            Process::Gateway(gateway) => gateway.log(),
            Process::Mosquitto(_) => {
                std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Mosquitto(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn gateway(folder: &Path, [_, tls, websocket, secure]: [u16; 4]) -> Gateway {
    let folder = folder.display();
    Gateway::start(&format!(
        "[mqtt.tls]\nlisten = [\"127.0.0.1:{tls}\"]\ncertificate = \"{folder}/server.crt\"\nkey = \"{folder}/server.key\"\n\
         [mqtt.websocket]\nlisten = [\"127.0.0.1:{websocket}\"]\n\
         [mqtt.websocket.tls]\nlisten = [\"127.0.0.1:{secure}\"]\n"
    ))
}

fn mosquitto(folder: &Path, [tcp, tls, websocket, secure]: [u16; 4]) -> Child {
    let at = folder.display();
    let keys = format!("certfile {at}/server.crt\nkeyfile {at}/server.key\n");
    let text = format!(
        "allow_anonymous true\nuser root\nlistener {tcp} 127.0.0.1\nlistener {tls} 127.0.0.1\n{keys}\
         listener {websocket} 127.0.0.1\nprotocol websockets\nlistener {secure} 127.0.0.1\nprotocol websockets\n{keys}"
    );
    std::fs::write(folder.join("mosquitto.conf"), text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    // Debian keeps servers where only root's PATH looks.
    let program = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
    Command::new(program)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
