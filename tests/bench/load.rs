//! Many devices on one thread, written to cost little itself: packets are made once, sent by the window, and
//! only acknowledgements are looked at.

use crate::ledger::{Latencies, STAMP_BYTES, Stamp};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_wire::coap;
use tidegate_wire::mqtt::{self, Connect, Packet, PacketId, Properties, Publish, Qos, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// The protocol that the devices speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// CoAP over UDP, CON POST to `/t/TOPIC`.
    Coap,
}

/// A load.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) target: SocketAddr,
    #[arg(long, value_enum, default_value = "mqtt")]
    pub(crate) protocol: Protocol,
    #[arg(long, default_value_t = 100)]
    pub(crate) devices: usize,
    /// Messages that a device has under way at the most.
    #[arg(long, default_value_t = 10)]
    pub(crate) window: usize,
    /// Messages of all devices together.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) messages: usize,
    /// Bytes of a payload, at least 16.
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
    /// Messages a second of all devices together (open loop); as fast as the window allows otherwise.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long)]
    pub(crate) username: Option<String>,
    #[arg(long)]
    pub(crate) password: Option<String>,
    /// Stop after so many seconds, finished or not.
    #[arg(long, default_value_t = 300)]
    pub(crate) limit: u64,
    /// Keep the connections open after the last acknowledgement until this is notified.
    #[arg(skip)]
    pub(crate) linger: Option<Arc<tokio::sync::Notify>>,
}

/// What the devices saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// How many of each device's messages were acknowledged: all below this number.
    pub(crate) acknowledged_of: Vec<usize>,
    pub(crate) acknowledged: usize,
    /// When the first message was sent, since the beginning of the run.
    pub(crate) first: Duration,
    /// From the first message to the last acknowledgement.
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
}

impl Load {
    fn of_device(&self, device: usize) -> usize {
        self.messages / self.devices + usize::from(device < self.messages % self.devices)
    }

    /// How long a device waits between two messages, in the open loop.
    fn period(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(self.devices as f64 / rate))
    }

    /// Runs the load to its end. `began` is the time that the stamps count from.
    pub(crate) async fn run(&self, began: Instant) -> io::Result<Outcome> {
        let ready = Arc::new(tokio::sync::Barrier::new(self.devices));
        let mut tasks = Vec::new();
        for device in 0..self.devices {
            let (load, ready) = (self.clone(), Arc::clone(&ready));
            tasks.push(tokio::spawn(async move {
                let (limit, protocol) = (Duration::from_secs(load.limit), load.protocol);
                let mut run = Device::new(load, device, began);
                let result = match protocol {
                    Protocol::Mqtt => tokio::time::timeout(limit, run.mqtt(&ready)).await,
                    Protocol::Coap => tokio::time::timeout(limit, run.coap(&ready)).await,
                };
                let result = result.unwrap_or_else(|_| Err(io::Error::other("not finished within --limit")));
                (run, result)
            }));
        }
        let mut outcome = Outcome { acknowledged_of: vec![0; self.devices], ..Outcome::default() };
        let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
        for (device, task) in tasks.into_iter().enumerate() {
            let (run, result) = task.await.map_err(io::Error::other)?;
            if let Err(error) = result {
                eprintln!("device {device}: {error}");
            }
            outcome.acknowledged_of[device] = run.acknowledged;
            outcome.acknowledged += run.acknowledged;
            outcome.latencies.append(run.latencies);
            first = first.min(run.first);
            last = last.max(run.last);
        }
        outcome.first = first;
        outcome.elapsed = last.saturating_sub(first);
        Ok(outcome)
    }
}

struct Device {
    load: Load,
    device: usize,
    began: Instant,
    quota: usize,
    sent: usize,
    acknowledged: usize,
    /// When each message under way was due, by its number modulo the window's next power of two.
    due: Vec<Duration>,
    first: Duration,
    last: Duration,
    latencies: Latencies,
    payload: Vec<u8>,
}

impl Device {
    fn new(load: Load, device: usize, began: Instant) -> Self {
        Self {
            device,
            began,
            quota: load.of_device(device),
            sent: 0,
            acknowledged: 0,
            due: vec![Duration::ZERO; load.window.next_power_of_two().max(1_024)],
            first: Duration::MAX,
            last: Duration::ZERO,
            latencies: Latencies::default(),
            payload: vec![b'x'; load.payload.max(STAMP_BYTES)],
            load,
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn topic(&self) -> String {
        format!("sensors/bench-{}/value", self.device)
    }

    /// The next message's number, its payload stamped.
    fn next(&mut self, due: Duration) -> usize {
        let number = self.sent;
        self.sent += 1;
        self.first = self.first.min(due);
        let slot = number % self.due.len();
        self.due[slot] = due;
        let stamp = Stamp { device: self.device as u32, number: number as u32, sent: due };
        stamp.write(&mut self.payload);
        number
    }

    fn acknowledge(&mut self, number: usize) {
        let now = self.elapsed();
        self.latencies.add(now.saturating_sub(self.due[number % self.due.len()]));
        self.acknowledged += 1;
        self.last = now;
    }

    async fn mqtt(&mut self, ready: &tokio::sync::Barrier) -> io::Result<()> {
        let id = format!("bench-{}", self.device);
        let login = (self.load.username.as_deref(), self.load.password.as_deref());
        let stream = TcpStream::connect(self.load.target).await?;
        let mut stream = greet(stream, &id, login, 0).await?;
        ready.wait().await;
        let topic = self.topic();
        let mut out = Vec::with_capacity(64 << 10);
        let mut packet = vec![0; self.payload.len() + topic.len() + 16];
        let mut input = bytes::BytesMut::with_capacity(16 << 10);
        let period = self.load.period();
        // Devices do not all send in the same instant.
        let offset = period.map(|period| period.mul_f64(self.device as f64 / self.load.devices as f64));
        let start = self.elapsed();
        // The runtime's timer is a millisecond coarse: what is late because of it is the generator's lateness, not the
        // server's. What is late because the window was full stays the server's.
        let mut timer_was_late = false;
        while self.acknowledged < self.quota {
            out.clear();
            while self.sent < self.quota && self.sent - self.acknowledged < self.load.window {
                let due = match (period, offset) {
                    (Some(period), Some(offset)) => {
                        let due = start + offset + period.mul_f64(self.sent as f64);
                        if due > self.elapsed() {
                            break;
                        }
                        if timer_was_late { self.elapsed() } else { due }
                    }
                    _ => self.elapsed(),
                };
                let number = self.next(due);
                let publish = Packet::Publish(Publish {
                    dup: false,
                    qos: Qos::AtLeastOnce,
                    retain: false,
                    topic: &topic,
                    packet_id: packet_id(number),
                    properties: Properties::EMPTY,
                    payload: &self.payload,
                });
                let size = mqtt::encode(Version::V3_1_1, &publish, &mut packet).map_err(encode_error)?;
                out.extend_from_slice(&packet[..size]);
            }
            if !out.is_empty() {
                stream.write_all(&out).await?;
            }
            let next_due = match (period, offset) {
                (Some(period), Some(offset)) if self.sent < self.quota => {
                    Some(start + offset + period.mul_f64(self.sent as f64))
                }
                _ => None,
            };
            let window_is_full = self.sent - self.acknowledged >= self.load.window;
            timer_was_late = false;
            let read = match next_due.map(|due| due.saturating_sub(self.elapsed())) {
                Some(Duration::ZERO) if !window_is_full => continue,
                Some(wait) if !window_is_full => {
                    match tokio::time::timeout(wait, stream.read_buf(&mut input)).await {
                        Ok(read) => read?,
                        Err(_) => {
                            timer_was_late = true;
                            continue;
                        }
                    }
                }
                Some(_) => stream.read_buf(&mut input).await?,
                None => stream.read_buf(&mut input).await?,
            };
            if read == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            while input.len() >= 4 {
                // The server sends nothing but PUBACKs to a client without subscriptions.
                let id = u16::from_be_bytes([input[2], input[3]]);
                let _ = input.split_to(4);
                // Acknowledgements may come out of order: the number is the one under way with this packet id.
                let number = number_of(id, self.acknowledged, self.sent)
                    .ok_or_else(|| io::Error::other(format!("PUBACK for {id}, which is not under way")))?;
                self.acknowledge(number);
            }
        }
        if let Some(linger) = &self.load.linger {
            linger.notified().await;
        }
        Ok(())
    }

    async fn coap(&mut self, ready: &tokio::sync::Barrier) -> io::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(self.load.target).await?;
        ready.wait().await;
        let topic = self.topic();
        let mut packet = vec![0; self.payload.len() + topic.len() + 64];
        let mut input = vec![0; 1_500];
        let (period, start) = (self.load.period(), self.elapsed());
        // One exchange at a time (NSTART 1, RFC 7252, 4.7): a window is as many sockets as devices.
        while self.sent < self.quota {
            let due =
                period.map_or_else(|| self.elapsed(), |period| start + period.mul_f64(self.sent as f64));
            tokio::time::sleep(due.saturating_sub(self.elapsed())).await;
            let number = self.next(due);
            let header = coap::Header {
                kind: coap::Kind::Confirmable,
                code: coap::Code::POST,
                message_id: number as u16,
            };
            let token = coap::Token::new(&(number as u32).to_be_bytes()).unwrap_or(coap::Token::EMPTY);
            let mut writer =
                coap::Writer::new(&mut packet, header, token).option(coap::OptionNumber::URI_PATH, b"t");
            for level in topic.split('/') {
                writer = writer.option(coap::OptionNumber::URI_PATH, level.as_bytes());
            }
            let request = writer
                .payload(&self.payload)
                .finish()
                .map_err(|error| io::Error::other(format!("the request does not fit: {error:?}")))?;
            let mut wait = Duration::from_secs(2);
            'answer: loop {
                socket.send(request).await?;
                let until = tokio::time::Instant::now() + wait;
                while let Ok(read) = tokio::time::timeout_at(until, socket.recv(&mut input)).await {
                    let read = read?;
                    let Ok(answer) = coap::Message::parse(&input[..read]) else { continue };
                    if answer.token() == token && answer.code() == coap::Code::CHANGED {
                        break 'answer;
                    }
                }
                wait *= 2;
            }
            self.acknowledge(number);
        }
        Ok(())
    }
}

/// Becomes a client of the server at the other end: MQTT 3.1.1, a clean session.
pub(crate) async fn greet(
    mut stream: TcpStream,
    client_id: &str,
    (username, password): (Option<&str>, Option<&str>),
    keep_alive_s: u16,
) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let connect = Packet::Connect(Connect {
        version: Version::V3_1_1,
        clean_start: true,
        keep_alive: keep_alive_s,
        properties: Properties::EMPTY,
        client_id,
        will: None,
        username,
        password: password.map(str::as_bytes),
    });
    let mut buffer = vec![0; 1_024];
    let size = mqtt::encode(Version::V3_1_1, &connect, &mut buffer).map_err(encode_error)?;
    stream.write_all(&buffer[..size]).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack[3] != 0 {
        return Err(io::Error::other(format!("CONNACK says {}", connack[3])));
    }
    Ok(stream)
}

pub(crate) fn encode_error(error: mqtt::EncodeError) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// Packet ids 1 to 65,535, over and over.
pub(crate) fn packet_id(number: usize) -> Option<PacketId> {
    PacketId::new(u16::try_from(number % 65_535 + 1).unwrap_or(1))
}

/// The message under way that has this packet id.
pub(crate) fn number_of(id: u16, acknowledged: usize, sent: usize) -> Option<usize> {
    let residue = usize::from(id).checked_sub(1)?;
    let base = sent - sent % 65_535;
    [base.checked_add(residue), base.checked_sub(65_535).map(|base| base + residue)]
        .into_iter()
        .flatten()
        .find(|&number| number < sent && number + 65_535 > acknowledged)
}
