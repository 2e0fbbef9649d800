//! A real RabbitMQ (Debian's) as a private node: own data folder, name, ports, cookie and epmd, on loopback only. Nothing of the
//! system's own broker is touched. A watcher ends every process of the node when the test ends, even when it is killed.

use crate::batches::apart;
use crate::ports::free_port;
use crate::wait::wait_for;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// The broker's user.
pub const USER: &str = "site-a";
/// Its password.
pub const PASSWORD: &str = "a broker's password";

/// How often `rabbitmqctl` is tried.
const CTL_TRIES: usize = 3;

/// Debian's start scripts without the wrapper that changes to the user `rabbitmq` and to the system's folders.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// A node boots in 5 s on a quiet machine.
const BOOT_WITHIN: Duration = Duration::from_secs(120);

/// What differs from a plain node.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Plugins to enable.
    pub plugins: Vec<&'static str>,
    /// More lines for `rabbitmq.conf`.
    pub config: String,
}

/// A private node.
#[derive(Debug)]
pub struct Rabbit {
    directory: TempDir,
    name: String,
    /// The AMQP port.
    pub port: u16,
    /// The port of the MQTT plugin, if it is enabled.
    pub mqtt_port: u16,
    epmd_port: u16,
    dist_port: u16,
    watcher: Option<Child>,
}

impl Rabbit {
    /// Starts a node and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    #[must_use]
    pub fn start(setup: &Setup) -> Self {
        let directory =
            tempfile::Builder::new().prefix("tidegate-rabbit-").tempdir().expect("a folder for RabbitMQ");
        let port = free_port();
        let mut rabbit = Self {
            directory,
            name: format!("tidegate-{port}@localhost"),
            port,
            mqtt_port: free_port(),
            epmd_port: free_port(),
            dist_port: free_port(),
            watcher: None,
        };
        let mqtt = if setup.plugins.contains(&"rabbitmq_mqtt") {
            format!("mqtt.listeners.tcp.1 = 127.0.0.1:{}\n", rabbit.mqtt_port)
        } else {
            String::new()
        };
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\n\
             default_user = {USER}\n\
             default_pass = {PASSWORD}\n\
             disk_free_limit.absolute = 10MB\n\
             log.console = false\n\
             log.file.level = info\n\
             {mqtt}{}\n",
            setup.config
        );
        rabbit.write("rabbit.conf", &config);
        rabbit.write("plugins", &format!("[{}].\n", setup.plugins.join(",")));
        rabbit.start_again();
        rabbit
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("writing RabbitMQ's configuration");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path()) // the cookie's place
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_MNESIA_BASE", self.path("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_LOGS", self.path("log/rabbit.log"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbit.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.path("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("plugins"))
            .env("RABBITMQ_PID_FILE", self.path("pid"))
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "36000")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "39000")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the node again on the same data and ports, and waits until it takes connections.
    ///
    /// # Panics
    /// When it runs, or does not come up.
    pub fn start_again(&mut self) {
        assert!(self.watcher.is_none(), "RabbitMQ runs");
        let _ = std::fs::remove_file(self.path("pid"));
        // The watcher reads from a pipe that only this process writes to. When it ends, for whatever reason, so does the
        // whole process group. epmd runs in it too: the one that Erlang would start leaves the group.
        let script = format!(
            "epmd -port {} >epmd.log 2>&1 & {SCRIPTS}/rabbitmq-server >out.log 2>&1 & read _; rm -rf \"$HOME\"; kill -9 0",
            self.epmd_port
        );
        let watcher = self
            .command("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("starting RabbitMQ");
        self.watcher = Some(watcher);
        let up = wait_for(BOOT_WITHIN, || {
            let log = self.log();
            let life = log.rsplit("Starting RabbitMQ").next().unwrap_or("").to_owned();
            (log.contains("Starting RabbitMQ")
                && life.contains("Server startup complete")
                && std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok())
            .then_some(())
        });
        if up.is_none() {
            let out = std::fs::read_to_string(self.path("out.log")).unwrap_or_default();
            panic!("RabbitMQ did not start within {BOOT_WITHIN:?}:\n{out}\n{}", self.log());
        }
    }

    /// The node's log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log/rabbit.log")).unwrap_or_default()
    }

    fn group(&self) -> Pid {
        let watcher = self.watcher.as_ref().expect("RabbitMQ does not run");
        Pid::from_child(watcher)
    }

    /// The server's process.
    ///
    /// # Panics
    /// When it has written no pid file within a minute.
    #[must_use]
    pub fn pid(&self) -> Pid {
        wait_for(Duration::from_secs(60), || {
            let text = std::fs::read_to_string(self.path("pid")).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        })
        .expect("RabbitMQ's pid file")
    }

    /// Kills every process of the node at once.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        kill_process_group(self.group(), Signal::KILL).expect("killing RabbitMQ");
        self.reap();
    }

    /// Stops the node in an orderly way.
    ///
    /// # Panics
    /// When it does not run, or does not stop within a minute.
    pub fn stop(&mut self) {
        let pid = self.pid();
        kill_process(pid, Signal::TERM).expect("stopping RabbitMQ");
        wait_for(Duration::from_secs(60), || rustix::process::test_kill_process(pid).is_err().then_some(()))
            .expect("RabbitMQ did not stop");
        self.kill();
    }

    fn reap(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.wait();
        }
    }

    /// Holds the server's process still, or lets it go on: a broker that does not answer.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self, still: bool) {
        let signal = if still { Signal::STOP } else { Signal::CONT };
        kill_process(self.pid(), signal).expect("signalling RabbitMQ");
    }

    /// Runs `rabbitmqctl`; again when it fails, as it does now and then on a node that has just been held still.
    ///
    /// # Panics
    /// When it fails every time.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut said = String::new();
        for _ in 0..CTL_TRIES {
            let output = self
                .command(&format!("{SCRIPTS}/rabbitmqctl"))
                .args(["-q", "-n", &self.name])
                .args(arguments)
                .output()
                .expect("running rabbitmqctl");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                return text;
            }
            said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        panic!("rabbitmqctl {arguments:?}: {said}");
    }

    /// Makes the broker block publishers as if it were short of memory, or ends that.
    pub fn block(&self, on: bool) {
        self.ctl(&["set_vm_memory_high_watermark", if on { "0.000001" } else { "0.6" }]);
    }

    /// The URL, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// The URL, with user and password.
    #[must_use]
    pub fn url_with_credentials(&self) -> String {
        format!(
            "amqp://{USER}:{}@127.0.0.1:{}/%2f",
            PASSWORD.replace(' ', "%20").replace('\'', "%27"),
            self.port
        )
    }

    /// Does something on a channel of a connection of its own.
    ///
    /// # Panics
    /// When the broker does not let it.
    pub fn with_channel<T>(&self, work: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> T {
        runtime().block_on(async {
            let connection =
                Connection::connect(&self.url_with_credentials(), ConnectionProperties::default())
                    .await
                    .expect("connecting");
            let channel = connection.create_channel().await.expect("opening a channel");
            let done = work(&channel).await.expect("working on a channel");
            let _ = connection.close(200, "OK".into()).await;
            done
        })
    }

    /// Declares a durable topic exchange.
    pub fn exchange(&self, name: &str) {
        self.with_channel(async |channel| {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
        });
    }

    /// Declares a durable queue and binds it to an exchange, which must be there.
    pub fn queue(&self, name: &str, exchange: &str, key: &str, arguments: &[(&'static str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        self.with_channel(async |channel| {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.into(), options, table).await?;
            let options = QueueBindOptions::default();
            channel.queue_bind(name.into(), exchange.into(), key.into(), options, FieldTable::default()).await
        });
    }

    /// Messages that wait in a queue, ready to be consumed.
    #[must_use]
    pub fn depth(&self, queue: &str) -> u32 {
        self.with_channel(async |channel| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await
        })
        .message_count()
    }

    /// Collects what arrives in a queue, batches taken apart, through every restart of the broker, until it is dropped.
    #[must_use]
    pub fn consume(&self, queue: &str) -> Consumer {
        Consumer::start(self.url_with_credentials(), queue.to_owned(), None)
    }

    /// The same with a dictionary for compressed batches.
    #[must_use]
    pub fn consume_with(&self, queue: &str, dictionary: Vec<u8>) -> Consumer {
        Consumer::start(self.url_with_credentials(), queue.to_owned(), Some(dictionary))
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        if self.watcher.is_some() {
            let _ = kill_process_group(self.group(), Signal::KILL);
            self.reap();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What a consumer got.
#[derive(Clone, Debug)]
pub struct Received {
    /// `message-id`.
    pub id: String,
    /// The routing key.
    pub routing_key: String,
    /// The payload.
    pub body: Vec<u8>,
    /// Properties and headers.
    pub properties: BasicProperties,
    /// The broker delivers it again, because the consumer's acknowledgement did not arrive.
    pub redelivered: bool,
    /// The `message-id` of the batch that it came in.
    pub batch: Option<String>,
}

impl Received {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name).cloned()
    }

    /// A header that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        match self.header(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// Who sent it: from the header, or from the message id, `gateway/device/epoch/sequence`.
    #[must_use]
    pub fn device(&self) -> Option<String> {
        self.text("device").or_else(|| Some(self.id.split('/').nth(1)?.to_owned()))
    }

    /// Its topic: from the header, or from the routing key.
    #[must_use]
    pub fn topic(&self) -> String {
        self.text("topic").unwrap_or_else(|| self.routing_key.replace('.', "/"))
    }

    /// Whether the gateway marked it as possibly sent before.
    #[must_use]
    pub fn resend(&self) -> bool {
        self.header("x-resend") == Some(AMQPValue::Boolean(true))
    }
}

#[derive(Debug, Default)]
struct Collected {
    received: Mutex<Vec<Received>>,
    more: Condvar,
    end: AtomicBool,
    /// For compressed batches.
    dictionary: Option<Vec<u8>>,
}

/// Collects what arrives in a queue.
#[derive(Debug)]
pub struct Consumer {
    collected: Arc<Collected>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Consumer {
    fn start(url: String, queue: String, dictionary: Option<Vec<u8>>) -> Self {
        let collected = Arc::new(Collected { dictionary, ..Collected::default() });
        let sink = collected.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                while !sink.end.load(Ordering::Relaxed) {
                    // The broker is down from time to time: that is what is being tested.
                    let _ = consume(&url, &queue, &sink).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        Self { collected, thread: Some(thread) }
    }

    /// Waits until `enough` says so of everything that has arrived, and gives it; `Err` with what there is after `at_most`.
    ///
    /// # Errors
    /// What has arrived by then.
    pub fn wait(
        &self,
        at_most: Duration,
        mut enough: impl FnMut(&[Received]) -> bool,
    ) -> Result<Vec<Received>, Vec<Received>> {
        let received = self.collected.received.lock().unwrap_or_else(PoisonError::into_inner);
        let (received, timeout) = self
            .collected
            .more
            .wait_timeout_while(received, at_most, |received| !enough(received))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { Err(received.clone()) } else { Ok(received.clone()) }
    }

    /// Waits for so many deliveries.
    ///
    /// # Panics
    /// When they do not arrive.
    #[must_use]
    pub fn take(&self, count: usize) -> Vec<Received> {
        match self.wait(Duration::from_secs(60), |received| received.len() >= count) {
            Ok(received) => received,
            Err(received) => panic!("{count} messages should arrive, {} did", received.len()),
        }
    }

    /// The deliveries from the one with this index on.
    #[must_use]
    pub fn from(&self, index: usize) -> Vec<Received> {
        let received = self.collected.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.get(index..).unwrap_or_default().to_vec()
    }

    /// How many deliveries there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.collected.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.collected.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn consume(url: &str, queue: &str, sink: &Collected) -> lapin::Result<()> {
    const PREFETCH: u16 = 500;
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    // One acknowledgement for what has come while the last one was on its way.
    let mut unacknowledged = None;
    loop {
        let next = match deliveries.next().now_or_never() {
            Some(next) => Some(next),
            None => {
                if let Some(tag) = unacknowledged.take() {
                    channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
                }
                tokio::time::timeout(Duration::from_millis(100), deliveries.next()).await.ok()
            }
        };
        if sink.end.load(Ordering::Relaxed) {
            return connection.close(200, "OK".into()).await;
        }
        let delivery = match next {
            Some(Some(delivery)) => delivery?,
            Some(None) => return Ok(()),
            None => continue,
        };
        unacknowledged = Some(delivery.delivery_tag);
        let received = Received {
            id: delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default(),
            routing_key: delivery.routing_key.to_string(),
            body: delivery.data,
            properties: delivery.properties,
            redelivered: delivery.redelivered,
            batch: None,
        };
        let apart = apart(received, sink.dictionary.as_deref());
        sink.received.lock().unwrap_or_else(PoisonError::into_inner).extend(apart);
        sink.more.notify_all();
    }
}
