//! Many field devices at once: MQTT 3.1.1, QoS 1, persistent sessions, a window each. A device keeps every message until it is
//! acknowledged, comes back when its connection breaks, and sends again what is open, marked DUP, as the standard asks.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_wire::mqtt::{self, Connect, Packet, PacketId, Properties, Publish, Qos, Version, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between two attempts of a device to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// A connection that says nothing for so long is given up, as a device in the field does.
const SILENCE: Duration = Duration::from_secs(20);

/// How often a device that may not send looks whether it may.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the devices do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The gateway.
    pub address: SocketAddr,
    /// How many devices.
    pub devices: usize,
    /// Messages of each.
    pub messages_each: usize,
    /// Messages of each that are under way at the most.
    pub window: usize,
    /// Bytes of a payload.
    pub payload_bytes: usize,
}

impl Plan {
    /// All messages of all devices.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.devices * self.messages_each
    }
}

/// What a device's message says: its origin, then bytes that depend on it, of every value.
#[must_use]
pub fn payload(device: usize, number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{device} {number} ").into_bytes();
    let mut noise = fastrand::Rng::with_seed((device as u64) << 32 | number as u64);
    payload.resize_with(bytes.max(payload.len()), || noise.u8(..));
    payload
}

/// The device and number in a payload of [`payload`].
#[must_use]
pub fn origin(payload: &[u8]) -> Option<(usize, usize)> {
    let mut parts = payload.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
    Some((number()?, number()?))
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    acknowledged: AtomicUsize,
    /// Messages that all devices together may have begun.
    allowed: AtomicUsize,
    begun: AtomicUsize,
    reconnects: AtomicUsize,
    disordered: AtomicUsize,
    end: AtomicBool,
}

/// Devices at work, on a thread of their own.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts the devices; none sends before it is [allowed](Self::allow).
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            plan,
            acknowledged: AtomicUsize::new(0),
            allowed: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            reconnects: AtomicUsize::new(0),
            disordered: AtomicUsize::new(0),
            end: AtomicBool::new(false),
        });
        let ours = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut devices: Vec<_> = (0..ours.plan.devices)
                    .map(|number| tokio::spawn(Device::new(ours.clone(), number).run()))
                    .collect();
                for device in devices.drain(..) {
                    device.await.expect("a device panicked");
                }
            });
        });
        Self { shared, thread: Some(thread) }
    }

    /// Lets all devices together begin so many messages in all.
    pub fn allow(&self, messages: usize) {
        self.shared.allowed.fetch_max(messages, Ordering::Relaxed);
    }

    /// Messages acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Connections beyond each device's first.
    #[must_use]
    pub fn reconnects(&self) -> usize {
        self.shared.reconnects.load(Ordering::Relaxed).saturating_sub(self.shared.plan.devices)
    }

    /// Acknowledgements that came in another order than the messages [MQTT-4.6.0-2].
    #[must_use]
    pub fn disordered(&self) -> usize {
        self.shared.disordered.load(Ordering::Relaxed)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Device {
    shared: Arc<Shared>,
    number: usize,
    /// Begun and not acknowledged, oldest first, with their packet ids.
    open: VecDeque<(PacketId, usize)>,
    next: usize,
    next_id: u16,
}

impl Device {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self { shared, number, open: VecDeque::new(), next: 0, next_id: 1 }
    }

    fn done(&self) -> bool {
        self.shared.end.load(Ordering::Relaxed)
            || (self.next == self.shared.plan.messages_each && self.open.is_empty())
    }

    async fn run(mut self) {
        while !self.done() {
            self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
            // The gateway is killed from time to time: that is what is being tested.
            let _ = self.connection().await;
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn connection(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.shared.plan.address).await?;
        stream.set_nodelay(true)?;
        let mut out = Vec::new();
        let client_id = format!("device-{}", self.number);
        append(
            &mut out,
            &Packet::Connect(Connect {
                version: Version::V3_1_1,
                clean_start: false,
                keep_alive: 60,
                properties: Properties::EMPTY,
                client_id: &client_id,
                will: None,
                username: None,
                password: None,
            }),
        )?;
        stream.write_all(&out).await?;
        let mut input = Vec::new();
        let mut chunk = vec![0; 4_096];
        loop {
            let read = tokio::time::timeout(SILENCE, stream.read(&mut chunk)).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(chunk.get(..read).unwrap_or_default());
            if let Some(accepted) = self.take_packet(&mut input)? {
                if !accepted {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                break;
            }
        }
        out.clear();
        for index in 0..self.open.len() {
            let (id, number) = self.open[index];
            self.append_publish(&mut out, id, number, true)?;
        }
        let mut heard = tokio::time::Instant::now();
        while !self.done() {
            while self.next < self.shared.plan.messages_each
                && self.open.len() < self.shared.plan.window
                && self.may_begin()
            {
                let id = PacketId::new(self.next_id).ok_or_else(|| io::Error::other("packet id"))?;
                self.next_id = self.next_id.checked_add(1).unwrap_or(1);
                self.append_publish(&mut out, id, self.next, false)?;
                self.open.push_back((id, self.next));
                self.next += 1;
            }
            if !out.is_empty() {
                stream.write_all(&out).await?;
                out.clear();
            }
            if self.open.is_empty() {
                heard = tokio::time::Instant::now();
            }
            match tokio::time::timeout(LOOK_EVERY, stream.read(&mut chunk)).await {
                Ok(read) => match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => {
                        heard = tokio::time::Instant::now();
                        input.extend_from_slice(chunk.get(..read).unwrap_or_default());
                        while self.take_packet(&mut input)?.is_some() {}
                    }
                },
                Err(_) if heard.elapsed() > SILENCE => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn may_begin(&self) -> bool {
        begin_one(&self.shared.begun, &self.shared.allowed)
    }

    fn append_publish(&self, out: &mut Vec<u8>, id: PacketId, number: usize, dup: bool) -> io::Result<()> {
        let topic = format!("sensors/device-{}/value", self.number);
        let payload = payload(self.number, number, self.shared.plan.payload_bytes);
        append(
            out,
            &Packet::Publish(Publish {
                dup,
                qos: Qos::AtLeastOnce,
                retain: false,
                topic: &topic,
                packet_id: Some(id),
                properties: Properties::EMPTY,
                payload: &payload,
            }),
        )
    }

    /// Takes a packet from the front of the input, if there is a whole one: whether it is anything but a refusal.
    fn take_packet(&mut self, input: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let wrong = |what: &dyn std::fmt::Debug| io::Error::other(format!("from the gateway: {what:?}"));
        let Some(frame) = frame(input).map_err(|error| wrong(&error))? else { return Ok(None) };
        let Some(packet) = input.get(..frame.total_bytes()) else { return Ok(None) };
        let accepted = match mqtt::decode(Version::V3_1_1, packet).map_err(|error| wrong(&error))? {
            Packet::ConnAck(answer) => answer.reason == mqtt::ReasonCode::SUCCESS,
            Packet::PubAck(ack) => {
                let Some(position) = self.open.iter().position(|(id, _)| *id == ack.packet_id) else {
                    return Err(wrong(&ack));
                };
                if position > 0 {
                    self.shared.disordered.fetch_add(1, Ordering::Relaxed);
                }
                self.open.remove(position);
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                true
            }
            other => return Err(wrong(&other)),
        };
        input.drain(..frame.total_bytes());
        Ok(Some(accepted))
    }
}

fn append(out: &mut Vec<u8>, packet: &Packet<'_>) -> io::Result<()> {
    let size = mqtt::encoded_len(Version::V3_1_1, packet).map_err(io::Error::other)?;
    let begin = out.len();
    out.resize(begin + size, 0);
    mqtt::encode(Version::V3_1_1, packet, &mut out[begin..]).map_err(io::Error::other)?;
    Ok(())
}

/// Whether one more of the messages that a campaign allows may be begun; counts it if so.
pub(crate) fn begin_one(begun: &AtomicUsize, allowed: &AtomicUsize) -> bool {
    let may = begun.fetch_add(1, Ordering::Relaxed) < allowed.load(Ordering::Relaxed);
    if !may {
        begun.fetch_sub(1, Ordering::Relaxed);
    }
    may
}
