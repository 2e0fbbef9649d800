//! The real gateway as a process of its own: own data folder, free ports on loopback, ended when the test ends.
//! The binary is the release build (`cargo build --release -p tidegate`), or what TIDEGATE_BIN names; `tests/run` names one
//! that no other build writes over, as `cargo test --workspace` does with target/release/tidegate.

use crate::ports::free_port;
use crate::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest that a start may take on a busy machine; not what it should take.
const START_WITHIN: Duration = Duration::from_secs(60);

/// The gateway's binary.
#[must_use]
pub fn binary() -> PathBuf {
    std::env::var_os("TIDEGATE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tidegate"),
        PathBuf::from,
    )
}

/// A gateway that runs, or ran.
#[derive(Debug)]
pub struct Gateway {
    directory: TempDir,
    /// MQTT.
    pub mqtt: SocketAddr,
    /// CoAP over UDP.
    pub coap: SocketAddr,
    /// Health, metrics, status.
    pub admin: SocketAddr,
    environment: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
}

impl Gateway {
    /// Prepares a gateway with this configuration behind the listeners: upstreams, routes, limits.
    ///
    /// # Panics
    /// When its folder cannot be made.
    #[must_use]
    pub fn prepare(rest: &str) -> Self {
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let gateway = Self {
            directory: tempfile::Builder::new()
                .prefix("tidegate-test-")
                .tempdir()
                .expect("a folder for the gateway"),
            mqtt: address(),
            coap: address(),
            admin: address(),
            environment: Vec::new(),
            child: None,
        };
        gateway.configure(rest);
        gateway
    }

    /// Prepares a gateway and starts it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(rest: &str) -> Self {
        let mut gateway = Self::prepare(rest);
        gateway.start_again();
        gateway
    }

    /// Gives its next lives a variable of the environment.
    pub fn environment(&mut self, name: &'static str, value: PathBuf) {
        self.environment.push((name, value));
    }

    /// Writes its configuration anew.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, rest: &str) {
        self.configure_with("", rest);
    }

    /// The same, with more keys of `[mqtt]`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure_with(&self, mqtt: &str, rest: &str) {
        let text = format!(
            "[gateway]\nid = \"test-site\"\ndata_dir = {:?}\n[mqtt]\nlisten = [\"{}\"]\n{mqtt}\n[coap]\nlisten = [\"{}\"]\n\
             [admin]\nlisten = \"{}\"\n{rest}\n",
            self.data(),
            self.mqtt,
            self.coap,
            self.admin
        );
        std::fs::write(self.config(), text).expect("the gateway's configuration");
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("tidegate.toml")
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A place beside its configuration, for password files and the like.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// What it has written to its standard error, all lives together.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Panics
    /// When it runs already, or the binary cannot be started.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the gateway runs");
        let log =
            std::fs::OpenOptions::new().append(true).create(true).open(self.directory.path().join("log"));
        let child = Command::new(binary())
            .args(["run", "--config"])
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the gateway's log"))
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; build it: cargo build --release -p tidegate", binary().display())
            });
        self.child = Some(child);
    }

    /// Starts it (again), on the same data, and waits until it listens. Gives how long that took.
    ///
    /// # Panics
    /// When it runs already or does not come up; its log is in the message.
    pub fn start_again(&mut self) -> Duration {
        let began = Instant::now();
        self.spawn();
        let up = wait_for(START_WITHIN, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Some(Err(status));
            }
            TcpStream::connect(self.mqtt).ok().map(|_| Ok(()))
        });
        match up {
            Some(Ok(())) => began.elapsed(),
            Some(Err(status)) => panic!("the gateway ended with {status}:\n{}", self.log()),
            None => panic!("the gateway does not listen after {START_WITHIN:?}:\n{}", self.log()),
        }
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the gateway does not run").id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the gateway does not run");
        kill_process(Pid::from_child(child), signal).expect("signalling the gateway");
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let mut child = self.child.take().expect("the gateway does not run");
        child.wait().expect("the gateway's end");
    }

    /// Stops it with SIGTERM and gives its exit status and how long it took.
    ///
    /// # Panics
    /// When it does not run, or does not end within a minute.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal(Signal::TERM);
        let status = self.ended(Duration::from_secs(60)).expect("the gateway did not stop");
        (status, began.elapsed())
    }

    /// Waits for its end.
    pub fn ended(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = wait_for(at_most, || child.try_wait().ok().flatten())?;
        self.child = None;
        Some(status)
    }

    /// Asks its admin port; gives the status code and the body.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> (u16, String) {
        // It listens a moment after the devices' ports.
        let mut stream =
            wait_for(START_WITHIN, || TcpStream::connect(self.admin).ok()).expect("the admin port");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin)
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an HTTP status");
        (code, body.to_owned())
    }

    /// One metric's value, summed over its labels; the name as it stands in the metrics.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The lines of the file upstream in its default place.
    #[must_use]
    pub fn upstream_lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.data().join("upstream/messages.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
