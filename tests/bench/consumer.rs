//! The other end: takes everything from a queue of the broker and writes down what it saw. lapin sets the queue up; what
//! arrives is read from a socket as frames, because on two cores whatever the measuring costs is taken from what is measured.

use crate::ledger::Received;
use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::constants::FRAME_BODY;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use amq_protocol::types::{FieldTable, LongString};
use amq_protocol::uri::AMQPUri;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A frame's head and its end.
const HEAD_BYTES: usize = 7;
const END_BYTES: usize = 1;

/// Read at once.
const READ_BYTES: usize = 64 << 10;

/// What is bound to what, and read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Queue {
    /// The broker, with user and password: amqp://guest:guest@127.0.0.1:5672
    #[arg(long)]
    pub(crate) amqp: Option<String>,
    #[arg(long, default_value = "amq.topic")]
    pub(crate) exchange: String,
    #[arg(long, default_value = "bench")]
    pub(crate) queue: String,
}

/// What the consumer has seen so far.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) received: Received,
    /// Since the beginning of the run.
    pub(crate) last: Duration,
}

/// A consumer that runs on a thread of its own until it is dropped.
pub(crate) struct Consumer {
    seen: Arc<Mutex<Seen>>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Declares the queue, empties it and begins to consume; `None` without a broker.
    pub(crate) fn consume(&self, devices: usize, began: Instant) -> io::Result<Option<Consumer>> {
        let Some(url) = self.amqp.as_deref() else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.set_up(url)).map_err(io::Error::other)?;
        let mut frames = Frames::open(url)?;
        frames.consume(&self.queue)?;
        let seen = Arc::new(Mutex::new(Seen { received: Received::new(devices), last: Duration::ZERO }));
        let stream = frames.stream.try_clone()?;
        let shared = Arc::clone(&seen);
        // It ends with its connection; what is missing then shows in the counts.
        let thread = std::thread::spawn(move || drop(frames.count(began, &shared)));
        Ok(Some(Consumer { seen, stream, thread: Some(thread) }))
    }

    async fn set_up(&self, url: &str) -> lapin::Result<()> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let (queue, exchange) = (self.queue.as_str(), self.exchange.as_str());
        if !exchange.starts_with("amq.") {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let none = FieldTable::default();
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none).await?;
        }
        let none = FieldTable::default;
        channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), none()).await?;
        channel
            .queue_bind(queue.into(), exchange.into(), "#".into(), QueueBindOptions::default(), none())
            .await?;
        channel.queue_purge(queue.into(), Default::default()).await?;
        connection.close(200, "OK".into()).await
    }
}

/// A connection that only takes messages.
struct Frames {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Frames {
    /// Connects and opens a channel.
    fn open(url: &str) -> io::Result<Self> {
        let uri: AMQPUri = url.parse().map_err(io::Error::other)?;
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port))?;
        let mut frames = Self { stream, input: Vec::new() };
        frames.stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let user = uri.authority.userinfo;
        let start_ok = connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: LongString::from(format!("\0{}\0{}", user.username, user.password)),
            locale: "en_US".into(),
        };
        frames.answer(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)))?;
        frames.skip()?; // tune
        // No heartbeat: a run is short, and nothing is written during it.
        let tune_ok = connection::TuneOk { channel_max: 1, frame_max: 128 << 10, heartbeat: 0 };
        frames.write(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)))?;
        let virtual_host = if uri.vhost.is_empty() { "/" } else { uri.vhost.as_str() }.into();
        let open = connection::Open { virtual_host };
        frames.write(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)))?;
        frames.answer(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))?;
        frames.skip()?; // channel.open-ok
        Ok(frames)
    }

    fn consume(&mut self, queue: &str) -> io::Result<()> {
        let consume = basic::Consume {
            queue: queue.into(),
            consumer_tag: "".into(),
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: true,
            arguments: FieldTable::default(),
        };
        self.write(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
    }

    /// Waits for the broker's word, whatever it is, and answers it.
    fn answer(&mut self, channel: u16, method: AMQPClass) -> io::Result<()> {
        self.skip()?;
        self.write(channel, method)
    }

    fn write(&mut self, channel: u16, method: AMQPClass) -> io::Result<()> {
        let frame = AMQPFrame::Method(channel, method);
        let written = gen_frame(&frame)(WriteContext::from(Vec::new())).map_err(io::Error::other)?;
        self.stream.write_all(&written.into_inner().0)
    }

    /// Reads one frame and throws it away.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            if let Some(length) = frame_bytes(&self.input) {
                self.input.drain(..length);
                return Ok(());
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut part = [0; READ_BYTES];
        match self.stream.read(&mut part)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.input.extend_from_slice(&part[..count]);
                Ok(())
            }
        }
    }

    /// Counts messages until the connection ends. Each is so small that its body is one frame.
    fn count(mut self, began: Instant, seen: &Mutex<Seen>) -> io::Result<()> {
        loop {
            let mut rest = &self.input[..];
            {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                while let Some(length) = frame_bytes(rest) {
                    let (frame, after) = rest.split_at(length);
                    if frame[0] == FRAME_BODY {
                        seen.received.count(&frame[HEAD_BYTES..length - END_BYTES]);
                        seen.last = began.elapsed();
                    }
                    rest = after;
                }
            }
            let done = self.input.len() - rest.len();
            self.input.drain(..done);
            self.read()?;
        }
    }
}

/// How long the first frame is, if the whole of it is there.
fn frame_bytes(input: &[u8]) -> Option<usize> {
    let size = u32::from_be_bytes(input.get(3..HEAD_BYTES)?.try_into().ok()?);
    let length = HEAD_BYTES + size as usize + END_BYTES;
    (input.len() >= length).then_some(length)
}

impl Consumer {
    /// Waits until `distinct` messages have come, or nothing has come for `quiet`; gives what was seen.
    pub(crate) fn wait(&self, distinct: u64, quiet: Duration) -> (Received, Duration) {
        let mut progress = (0, Instant::now());
        loop {
            {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.received.all != progress.0 {
                    progress = (seen.received.all, Instant::now());
                }
                if seen.received.distinct >= distinct || progress.1.elapsed() > quiet {
                    return (seen.received.clone(), seen.last);
                }
            }
            // A poll, ended by the counts above: there is no event to wait for in another process's queue.
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
