//! What a reading costs on a link that is paid by the byte: sensors publish 64 bytes of JSON each, the gateway forwards them to RabbitMQ over
//! TLS, and a proxy between the two counts every byte both ways, confirms and heartbeats included. TCP's and IP's own headers come on
//! top; they are more where messages travel alone.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_tests::batches;
use tidegate_tests::certificates::{Authority, SERVER};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::Hello;
use tidegate_tests::ports::free_port;
use tidegate_tests::rabbit::{self, Rabbit};
use tidegate_wire::mqtt::{Packet, PacketId, Qos, Version};
use tokio::time::Instant;

/// Acknowledgements that are still to come may take so long at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A reading's length, in bytes.
const READING_BYTES: usize = 64;

/// A measurement.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wire {
    #[arg(long, default_value_t = 100)]
    devices: usize,
    /// Readings of each device.
    #[arg(long, default_value_t = 20)]
    readings: usize,
    /// Between two readings of a device, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    every: u64,
    /// Fewer readings, and those faster: shows that it runs.
    #[arg(long)]
    short: bool,
}

/// Ways to send the same readings: what it is called, and the keys of its route.
const CASES: &[(&str, &str)] = &[
    ("alone", ""),
    ("batches, json", "batch = { linger = \"1 s\" }"),
    ("batches, json, zstd", "batch = { linger = \"1 s\" }\ncompress = \"zstd\""),
    ("batches, senml, zstd", "batch = { linger = \"1 s\", format = \"senml\" }\ncompress = \"zstd\""),
    (
        "batches, length-prefixed, zstd",
        "batch = { linger = \"1 s\", format = \"length-prefixed\" }\ncompress = \"zstd\"",
    ),
    ("batches of 10, json, zstd", "batch = { max_messages = 10, linger = \"1 s\" }\ncompress = \"zstd\""),
    (
        "batches of 10, json, zstd, dictionary",
        "batch = { max_messages = 10, linger = \"1 s\" }\ncompress = \"zstd\"\ndictionary = \"readings.dict\"",
    ),
];

impl Wire {
    pub(crate) fn run(&self) -> io::Result<()> {
        let (every, readings) = if self.short { (100, 5) } else { (self.every, self.readings) };
        let folder = tempfile::tempdir()?;
        let (broker, port) = secure_broker(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        println!(
            "{} sensors, {readings} readings of {READING_BYTES} bytes each, one every {every} ms; bytes on the wire for each reading",
            self.devices
        );
        println!("{:<40} {:>8} {:>8} {:>8} {:>8}", "", "there", "back", "both", "fewer");
        let mut alone = None;
        for (name, keys) in CASES {
            let proxy = Proxy::start(port)?;
            let gateway = gateway(&broker, &proxy, keys, folder.path())?;
            let field = Field { gateway: &gateway, devices: self.devices, readings, every };
            let before = runtime.block_on(field.begin())?;
            let start = proxy.counted();
            runtime.block_on(field.publish(before))?;
            let end = proxy.counted();
            let each = |index: usize| (end[index] - start[index]) as f64 / (self.devices * readings) as f64;
            let (there, back) = (each(0), each(1));
            let alone = *alone.get_or_insert(there + back);
            println!(
                "{name:<40} {there:>8.1} {back:>8.1} {:>8.1} {:>7.1}x",
                there + back,
                alone / (there + back)
            );
        }
        Ok(())
    }
}

/// A broker that speaks TLS, and its port for that.
fn secure_broker(folder: &Path) -> (Rabbit, u16) {
    Authority::new(folder, "ca").issue("server", SERVER);
    let port = free_port();
    let file = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_none",
        file("ca.crt"),
        file("server.crt"),
        file("server.key")
    );
    let broker = Rabbit::start(&rabbit::Setup { config, ..rabbit::Setup::default() });
    broker.exchange("telemetry");
    broker.queue("wire", "telemetry", "#", &[]);
    (broker, port)
}

/// A gateway whose broker is behind the proxy.
fn gateway(broker: &Rabbit, proxy: &Proxy, keys: &str, folder: &Path) -> io::Result<Gateway> {
    let mut gateway = Gateway::prepare("");
    std::fs::write(gateway.folder().join("password"), rabbit::PASSWORD)?;
    if keys.contains("dictionary") {
        // Of other readings than those that are sent.
        let readings = (0..4_000).map(|n| (topic(n % 100), Sensor::new(1_000 + n % 100).nth(n / 100)));
        batches::dictionary(gateway.folder(), readings);
    }
    let key = if keys.is_empty() { "" } else { "routing_key = \"climate\"" };
    gateway.configure(&format!(
        "[limits]\nconnections_per_address = 4096\n\
         [upstream.cloud]\nkind = \"amqp\"\nurls = [\"amqps://localhost:{}\"]\nusername = \"{}\"\npassword_file = \"password\"\n\
         [[route]]\ntopic = \"sensors/+/climate\"\nspill_after = \"10 s\"\n{key}\n{keys}\n",
        proxy.port,
        rabbit::USER,
    ));
    gateway.environment("SSL_CERT_FILE", folder.join("ca.crt"));
    gateway.start_again();
    let up = tidegate_tests::wait::wait_for(PATIENCE, || {
        (gateway.metric("tidegate_upstream_up") >= 1.0).then_some(())
    });
    up.ok_or_else(|| io::Error::other(format!("no link to {}:\n{}", broker.url(), gateway.log())))?;
    Ok(gateway)
}

/// Stands between gateway and broker, and counts.
struct Proxy {
    port: u16,
    /// Towards the broker, and back.
    counted: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    fn start(to: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let counted = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let shared = Arc::clone(&counted);
        // It ends with the process; its connections end with the gateway's.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let ends = (near.try_clone(), far.try_clone());
                let (Ok(near_too), Ok(far_too)) = ends else { continue };
                for (index, from, to) in [(0, near, far), (1, far_too, near_too)] {
                    let counted = Arc::clone(&shared);
                    std::thread::spawn(move || pass(from, to, &counted[index]));
                }
            }
        });
        Ok(Self { port, counted })
    }

    fn counted(&self) -> [u64; 2] {
        [0, 1].map(|index| self.counted[index].load(Ordering::SeqCst))
    }
}

/// Passes bytes on as they come, until the connection ends.
fn pass(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut part = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut part) {
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&part[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn topic(device: usize) -> String {
    format!("sensors/climate-{device:03}/climate")
}

/// A sensor of a room's climate: each value wanders a little from reading to reading.
struct Sensor {
    chance: fastrand::Rng,
    /// In thousandths of a degree, hundredths of a percent, hundredths of a hectopascal, thousandths of a volt.
    values: [i64; 4],
    number: usize,
}

impl Sensor {
    fn new(seed: usize) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed as u64);
        let values = [
            chance.i64(17_000..25_000),
            chance.i64(3_500..6_000),
            chance.i64(100_500..102_500),
            chance.i64(3_300..4_100),
        ];
        Self { chance, values, number: 0 }
    }

    /// The next reading.
    fn next(&mut self) -> String {
        for (value, step) in self.values.iter_mut().zip([60, 25, 8, 2]) {
            *value += self.chance.i64(-step..=step);
        }
        self.values[0] = self.values[0].clamp(10_000, 40_000);
        self.values[1] = self.values[1].clamp(1_000, 9_900);
        self.values[2] = self.values[2].clamp(100_000, 105_000);
        self.values[3] = self.values[3].clamp(3_000, 4_200);
        self.number += 1;
        let [temperature, humidity, pressure, battery] = self.values;
        let reading = format!(
            "{{\"temp\":{}.{:03},\"hum\":{}.{:02},\"press\":{}.{:02},\"bat\":{}.{:03},\"n\":{:04}}}",
            temperature / 1_000,
            temperature % 1_000,
            humidity / 100,
            humidity % 100,
            pressure / 100,
            pressure % 100,
            battery / 1_000,
            battery % 1_000,
            1_000 + self.number % 9_000
        );
        debug_assert_eq!(reading.len(), READING_BYTES);
        reading
    }

    /// The reading with this number, from 0.
    fn nth(mut self, number: usize) -> String {
        for _ in 0..number {
            self.next();
        }
        self.next()
    }
}

/// The sensors of a run.
struct Field<'a> {
    gateway: &'a Gateway,
    devices: usize,
    readings: usize,
    every: u64,
}

/// A sensor and its connection.
struct Node {
    device: usize,
    link: Link,
    sensor: Sensor,
    sent: u16,
    acknowledged: u16,
}

impl Field<'_> {
    /// Connects all; the first sends a reading, so that everything is under way before it is counted.
    async fn begin(&self) -> io::Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for device in 0..self.devices {
            let id = format!("climate-{device:03}");
            let hello = Hello::new(Version::V3_1_1, &id);
            let (link, _) = Link::connect(self.gateway.mqtt, &hello).await?;
            nodes.push(Node { device, link, sensor: Sensor::new(device), sent: 0, acknowledged: 0 });
        }
        if let Some(first) = nodes.first_mut() {
            first.send().await?;
            first.hear(Instant::now() + PATIENCE, 1).await?;
        }
        Ok(nodes)
    }

    /// Every sensor sends its readings, each at its own moment of the interval, and hears them acknowledged.
    async fn publish(&self, nodes: Vec<Node>) -> io::Result<()> {
        let every = Duration::from_millis(self.every);
        let began = Instant::now();
        let local = tokio::task::LocalSet::new();
        let (devices, readings) = (self.devices, self.readings);
        let nodes: Vec<_> = nodes
            .into_iter()
            .map(|mut node| {
                local.spawn_local(async move {
                    let offset = every.mul_f64(node.device as f64 / devices as f64);
                    for reading in 0..readings {
                        let due = began + offset + every * u32::try_from(reading).unwrap_or(u32::MAX);
                        node.hear(due, u16::MAX).await?;
                        node.send().await?;
                    }
                    let all = node.sent;
                    node.hear(Instant::now() + PATIENCE, all).await?;
                    if node.acknowledged < all {
                        return Err(io::Error::other("readings were not acknowledged"));
                    }
                    Ok(())
                })
            })
            .collect();
        local
            .run_until(async {
                for node in nodes {
                    node.await.map_err(io::Error::other)??;
                }
                Ok(())
            })
            .await
    }
}

impl Node {
    async fn send(&mut self) -> io::Result<()> {
        self.sent += 1;
        let id = PacketId::new(self.sent).ok_or(io::ErrorKind::InvalidInput)?;
        let reading = self.sensor.next();
        self.link.put_publish(&topic(self.device), reading.as_bytes(), Qos::AtLeastOnce, id, false, false);
        self.link.flush().await
    }

    /// Takes acknowledgements until then, or until there are so many.
    async fn hear(&mut self, until: Instant, count: u16) -> io::Result<()> {
        while self.acknowledged < count {
            let left = until.saturating_duration_since(Instant::now());
            match self.link.next(left, |packet| matches!(packet, Packet::PubAck(_))).await? {
                Some(true) => self.acknowledged += 1,
                Some(false) => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }
}
