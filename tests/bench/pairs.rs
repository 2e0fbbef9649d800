//! Local traffic: publishers, and for each of them subscribers to its topic, on one thread, written to cost little
//! itself. The loop is closed by what the subscribers have got, at QoS 0 as well, so that a server is neither idle nor
//! made to drop. Times count from the publisher's write to the subscriber's read.

use crate::ledger::{Latencies, STAMP_BYTES, Stamp};
use crate::load::{encode_error, greet, number_of, packet_id};
use bytes::{Buf, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_wire::mqtt::{
    self, Packet, PacketId, Properties, Publish, Qos, Subscribe, Subscription, Subscriptions, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Read from one connection at a time, in bytes.
const READ_BYTES: usize = 16 << 10;

/// Publishers and their subscribers.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    pub(crate) target: SocketAddr,
    pub(crate) publishers: usize,
    /// Subscribers of each publisher's topic.
    pub(crate) subscribers: usize,
    pub(crate) qos: Qos,
    /// Messages that a publisher has under way at the most: not acknowledged, or not at every subscriber.
    pub(crate) window: usize,
    /// Messages published, of all publishers together.
    pub(crate) messages: usize,
    pub(crate) payload_bytes: usize,
    /// What has not arrived after so long is lost.
    pub(crate) limit: Duration,
}

/// What the subscribers saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) delivered: usize,
    /// Messages that did not arrive, or not in their order.
    pub(crate) lost: usize,
    /// From the first message to the last arrival.
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
}

/// Connected, and nothing sent yet.
pub(crate) struct Connected {
    pairs: Pairs,
    publishers: Vec<TcpStream>,
    subscribers: Vec<Vec<TcpStream>>,
}

/// What a publisher and its subscribers know of one another.
#[derive(Default)]
struct Topic {
    delivered: AtomicUsize,
    stirred: Notify,
}

impl Pairs {
    fn topic(publisher: usize) -> String {
        format!("local/{publisher}/value")
    }

    fn of_publisher(&self, publisher: usize) -> usize {
        self.messages / self.publishers + usize::from(publisher < self.messages % self.publishers)
    }

    /// Connects everyone, one after the other: how a server takes a storm is not what is measured here.
    pub(crate) async fn connect(self) -> io::Result<Connected> {
        let mut connected = Connected { publishers: Vec::new(), subscribers: Vec::new(), pairs: self };
        let pairs = &connected.pairs;
        for publisher in 0..pairs.publishers {
            let mut subscribers = Vec::new();
            for subscriber in 0..pairs.subscribers {
                let stream = TcpStream::connect(pairs.target).await?;
                let id = format!("local-sub-{publisher}-{subscriber}");
                let mut stream = greet(stream, &id, (None, None), 0).await?;
                subscribe(&mut stream, &[&Pairs::topic(publisher)], pairs.qos).await?;
                subscribers.push(stream);
            }
            connected.subscribers.push(subscribers);
            let stream = TcpStream::connect(pairs.target).await?;
            let id = format!("local-pub-{publisher}");
            connected.publishers.push(greet(stream, &id, (None, None), 0).await?);
        }
        Ok(connected)
    }
}

/// Subscribes and waits for the SUBACK.
pub(crate) async fn subscribe(stream: &mut TcpStream, filters: &[&str], qos: Qos) -> io::Result<()> {
    let wishes: Vec<_> = filters.iter().map(|filter| Subscription::new(filter, qos)).collect();
    let Some(packet_id) = PacketId::new(1) else { return Ok(()) };
    let packet = Packet::Subscribe(Subscribe {
        packet_id,
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&wishes),
    });
    let size = mqtt::encoded_len(Version::V3_1_1, &packet).map_err(encode_error)?;
    let mut buffer = vec![0; size];
    mqtt::encode(Version::V3_1_1, &packet, &mut buffer).map_err(encode_error)?;
    stream.write_all(&buffer).await?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let mut codes = vec![0; usize::from(head[1])];
    stream.read_exact(&mut codes).await?;
    if head[0] != 0x90 || codes.iter().skip(2).any(|code| *code >= 0x80) {
        return Err(io::Error::other(format!("SUBACK says {codes:?}")));
    }
    Ok(())
}

impl Connected {
    /// Publishes everything and waits until it has arrived. Gives the connections back, still open.
    pub(crate) async fn run(self) -> io::Result<(Delivered, impl Drop + use<>)> {
        let Self { pairs, publishers, subscribers } = self;
        let (began, mut subscribing, mut publishing) = (Instant::now(), Vec::new(), Vec::new());
        for (number, (publisher, subscribers)) in publishers.into_iter().zip(subscribers).enumerate() {
            let topic = Arc::new(Topic::default());
            let quota = pairs.of_publisher(number);
            for stream in subscribers {
                let mut run = Subscriber {
                    stream,
                    topic: Arc::clone(&topic),
                    began,
                    quota,
                    next: 0,
                    delivered: Delivered::default(),
                };
                let limit = pairs.limit;
                subscribing.push(tokio::spawn(async move {
                    let result = tokio::time::timeout(limit, run.run()).await;
                    (run, result)
                }));
            }
            let mut run = Publisher { stream: publisher, topic, began, quota, number, pairs: pairs.clone() };
            publishing.push(tokio::spawn(async move {
                let result = tokio::time::timeout(run.pairs.limit, run.run()).await;
                (run, result)
            }));
        }
        let (mut all, mut open) = (Delivered::default(), Open(Vec::new()));
        for task in publishing {
            let (run, result) = task.await.map_err(io::Error::other)?;
            if let Ok(Err(error)) = result {
                eprintln!("publisher {}: {error}", run.number);
            }
            open.0.push(run.stream);
        }
        for task in subscribing {
            let (run, result) = task.await.map_err(io::Error::other)?;
            if let Ok(Err(error)) = result {
                eprintln!("a subscriber: {error}");
            }
            all.delivered += run.delivered.delivered;
            all.lost += run.delivered.lost + (run.quota - run.next);
            all.elapsed = all.elapsed.max(run.delivered.elapsed);
            all.latencies.append(run.delivered.latencies);
            open.0.push(run.stream);
        }
        Ok((all, open))
    }
}

/// Connections that are to stay open until the server's costs have been read.
struct Open(Vec<TcpStream>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.clear();
    }
}

struct Publisher {
    stream: TcpStream,
    topic: Arc<Topic>,
    began: Instant,
    quota: usize,
    number: usize,
    pairs: Pairs,
}

impl Publisher {
    async fn run(&mut self) -> io::Result<()> {
        let name = Pairs::topic(self.number);
        let mut payload = vec![b'x'; self.pairs.payload_bytes.max(STAMP_BYTES)];
        let mut packet = vec![0; payload.len() + name.len() + 16];
        let (mut out, mut input) = (Vec::new(), BytesMut::with_capacity(READ_BYTES));
        let acknowledged_qos = self.pairs.qos != Qos::AtMostOnce;
        let (mut sent, mut acknowledged) = (0, 0);
        let (window, fan) = (self.pairs.window, self.pairs.subscribers);
        loop {
            out.clear();
            let delivered = self.topic.delivered.load(Ordering::Relaxed);
            let now = self.began.elapsed();
            while sent < self.quota
                && sent * fan < delivered + window * fan
                && (!acknowledged_qos || sent - acknowledged < window)
            {
                let stamp = Stamp { device: self.number as u32, number: sent as u32, sent: now };
                stamp.write(&mut payload);
                let publish = Packet::Publish(Publish {
                    dup: false,
                    qos: self.pairs.qos,
                    retain: false,
                    topic: &name,
                    packet_id: packet_id(sent).filter(|_| acknowledged_qos),
                    properties: Properties::EMPTY,
                    payload: &payload,
                });
                let size = mqtt::encode(Version::V3_1_1, &publish, &mut packet).map_err(encode_error)?;
                out.extend_from_slice(&packet[..size]);
                sent += 1;
            }
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
            }
            let finished = sent == self.quota && delivered == sent * fan;
            if finished && (!acknowledged_qos || acknowledged == sent) {
                return Ok(());
            }
            if !acknowledged_qos {
                self.topic.stirred.notified().await;
                continue;
            }
            tokio::select! {
                read = self.stream.read_buf(&mut input) => if read? == 0 {
                    return Err(io::ErrorKind::ConnectionReset.into());
                },
                () = self.topic.stirred.notified() => {}
            }
            while input.len() >= 4 {
                let id = u16::from_be_bytes([input[2], input[3]]);
                input.advance(4);
                number_of(id, acknowledged, sent)
                    .ok_or_else(|| io::Error::other(format!("PUBACK for {id}, which is not under way")))?;
                acknowledged += 1;
            }
        }
    }
}

struct Subscriber {
    stream: TcpStream,
    topic: Arc<Topic>,
    began: Instant,
    quota: usize,
    /// The number of the message that comes next.
    next: usize,
    delivered: Delivered,
}

impl Subscriber {
    async fn run(&mut self) -> io::Result<()> {
        let (mut out, mut input) = (Vec::new(), BytesMut::with_capacity(READ_BYTES));
        while self.next < self.quota {
            if self.stream.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let now = self.began.elapsed();
            let before = self.delivered.delivered;
            out.clear();
            while let Some(frame) =
                mqtt::frame(&input).map_err(|error| io::Error::other(format!("{error:?}")))?
            {
                let size = frame.total_bytes();
                let Some(body) = input.get(frame.header_bytes..size) else { break };
                let packet = mqtt::decode_body(Version::V3_1_1, frame.first, body)
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
                if let Packet::Publish(publish) = packet {
                    self.take(publish.payload, now);
                    if let Some(id) = publish.packet_id {
                        out.extend_from_slice(&mqtt::short_ack(mqtt::Kind::PubAck, id));
                    }
                }
                input.advance(size);
            }
            input.reserve(READ_BYTES);
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
            }
            if self.delivered.delivered > before {
                self.delivered.elapsed = now;
                self.topic.delivered.fetch_add(self.delivered.delivered - before, Ordering::Relaxed);
                self.topic.stirred.notify_one();
            }
        }
        Ok(())
    }

    fn take(&mut self, payload: &[u8], now: Duration) {
        let Some(stamp) = Stamp::read(payload) else { return };
        let number = stamp.number as usize;
        self.delivered.delivered += 1;
        self.delivered.latencies.add(now.saturating_sub(stamp.sent));
        if number >= self.next {
            self.delivered.lost += number - self.next;
            self.next = number + 1;
        }
    }
}
