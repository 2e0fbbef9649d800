//! Devices on serial lines: opens ports and opens them again when they come back, frames in and out. What a CoAP message or a line
//! of text means is the engine's business.

mod framing;
mod rs485;

use crate::inbox::{DriverGone, Inbox};
use crate::logging::{Pass, Throttle};
use bytes::Bytes;
use framing::{Deframer, Found, frame};
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_engine::event::{Endpoint, Input, Via};
use tidegate_engine::id::DeviceId;
use tidegate_engine::topic::Topic;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_serial::{DataBits, FlowControl, SerialPortBuilderExt, SerialStream};

pub use tokio_serial::{Parity, StopBits};

/// A port that is not there is looked for so often: an adapter is plugged in by hand.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A port that was open for so long works; one that is lost before may be lost again and again.
const SETTLED: Duration = Duration::from_secs(30);

/// Messages that wait for one port. A line of 9,600 baud takes a second for 1 KiB: what waits longer than CoAP's patience is
/// better dropped here and repeated by whoever needs it.
const WAITING: usize = 8;

/// A port takes what is written to it within so long, or is opened again: at 300 baud a message of 1 KiB takes 35 s.
const WRITE_WITHIN: Duration = Duration::from_secs(60);

/// When nothing has come for so long since a port was opened, no line was under way: within one boards do not pause so long.
const SILENT: Duration = Duration::from_secs(1);

/// Bytes read at a time.
const READ_BYTES: usize = 1_024;

/// A serial line and what is at its other end (`[[serial]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `port`: a device file; best one below /dev/serial/by-id, whose name stays when adapters are plugged in in another order.
    pub port: PathBuf,
    /// `baud`, in bits per second.
    pub baud: u32,
    /// `parity`.
    pub parity: Parity,
    /// `stop_bits`.
    pub stop_bits: StopBits,
    /// `rs485`: half duplex, the transmitter switched by RTS.
    pub rs485: bool,
    /// `framing`.
    pub framing: Framing,
    /// `device`: who is at the other end; nothing on the line is asked to prove it.
    pub device: DeviceId,
}

/// How messages are told apart on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// CoAP and diagnostics in slipmux (draft-bormann-t2trg-slipmux).
    Slipmux,
    /// Each line of text is a message under this name (`topic`).
    Lines(Topic),
}

/// What came over a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A CoAP message.
    Coap(Bytes),
    /// A line of text, without its end.
    Text(Bytes),
}

/// What one port counts. Counters only grow; gauges say what is now.
#[derive(Debug, Default)]
pub struct Counts {
    /// Gauge: whether it is open.
    pub open: AtomicBool,
    /// Counter: frames, or lines, that came.
    pub received: AtomicU64,
    /// Counter: frames that were damaged, too long or of no known kind.
    pub damaged: AtomicU64,
    /// Counter: messages that were written.
    pub sent: AtomicU64,
}

/// The way to a port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    messages: mpsc::Sender<Bytes>,
    /// What the port counts.
    pub counts: Arc<Counts>,
}

impl Outbox {
    /// Sends a CoAP message now, or not at all. False when it was not sent: the port is away, or too much waits for it.
    pub fn send(&self, message: &[u8]) -> bool {
        self.counts.open.load(Ordering::Relaxed)
            && self.messages.try_send(Bytes::copy_from_slice(message)).is_ok()
    }
}

/// The end of an outbox at the port.
#[derive(Debug)]
pub struct Inlet {
    messages: mpsc::Receiver<Bytes>,
    counts: Arc<Counts>,
}

/// The two ends of a port's queue.
#[must_use]
pub fn outbox() -> (Outbox, Inlet) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let counts = Arc::<Counts>::default();
    (Outbox { messages: sender, counts: Arc::clone(&counts) }, Inlet { messages: receiver, counts })
}

/// Keeps a port open and reports what comes, as socket `number`; dropping the future ends it. `longest`: of a message, in bytes.
pub async fn serve(line: Line, mut inlet: Inlet, number: u16, longest: usize, inbox: Inbox) {
    let report = Report { number, inbox };
    let mut missing = None;
    let mut trouble = Trouble::default();
    loop {
        match open(&line) {
            Ok(stream) => {
                if trouble.is_news() {
                    tracing::info!(port = %line.port.display(), device = %line.device, "a serial line is open");
                }
                missing = None;
                let began = Instant::now();
                inlet.counts.open.store(true, Ordering::Relaxed);
                let ended = talk(&line, stream, &mut inlet, longest, &report).await;
                inlet.counts.open.store(false, Ordering::Relaxed);
                // What waits was meant for what was there before.
                while inlet.messages.try_recv().is_ok() {}
                match ended {
                    End::Unheard => return,
                    End::Lost(reason) if trouble.lost(began.elapsed(), &reason) => {
                        tracing::warn!(port = %line.port.display(), device = %line.device, "a serial line is lost: {reason}");
                    }
                    End::Lost(_) => {}
                }
            }
            Err(reason) => {
                let reason = reason.to_string();
                if missing.as_ref() != Some(&reason) {
                    tracing::warn!(
                        port = %line.port.display(),
                        device = %line.device,
                        "a serial line cannot be opened: {reason}; trying again every second"
                    );
                    missing = Some(reason);
                }
            }
        }
        sleep(OPEN_AGAIN).await;
    }
}

/// What was said of a port that is lost as soon as it is open: a gadget without a host, a terminal that hung up. Once is enough.
#[derive(Debug, Default)]
struct Trouble {
    reason: Option<String>,
}

impl Trouble {
    /// Whether it is worth a word that the port is open.
    fn is_news(&self) -> bool {
        self.reason.is_none()
    }

    /// The port was lost after it was open for so long. Whether that is worth a word.
    fn lost(&mut self, open: Duration, reason: &str) -> bool {
        let again = open < SETTLED && self.reason.as_deref() == Some(reason);
        self.reason = (open < SETTLED).then(|| reason.to_owned());
        !again
    }
}

/// Where what comes is reported.
struct Report {
    number: u16,
    inbox: Inbox,
}

impl Report {
    async fn report(&self, line: &Line, came: Came) -> Result<(), DriverGone> {
        let device = line.device.clone();
        let input = match (came, &line.framing) {
            (Came::Text(text), Framing::Lines(topic)) => Input::Line { device, topic: topic.clone(), text },
            (Came::Coap(bytes) | Came::Text(bytes), _) => {
                // A line has one other end; it has an address only because every endpoint has one.
                let peer = (Ipv6Addr::UNSPECIFIED, 0).into();
                let endpoint = Endpoint { socket: self.number, peer, association: 0 };
                Input::Datagram { endpoint, via: Via::Bound { device: Some(device) }, bytes }
            }
        };
        self.inbox.send(input).await
    }
}

/// Why a port is no longer talked to.
enum End {
    /// The driver has stopped.
    Unheard,
    /// It is gone, or does not take what is written to it.
    Lost(String),
}

fn open(line: &Line) -> io::Result<SerialStream> {
    let port = line.port.to_string_lossy();
    let stream = tokio_serial::new(port, line.baud)
        .data_bits(DataBits::Eight)
        .parity(line.parity)
        .stop_bits(line.stop_bits)
        .flow_control(FlowControl::None)
        .open_native_async()
        .map_err(|error| match error.kind() {
            tokio_serial::ErrorKind::Io(io::ErrorKind::PermissionDenied) => {
                io::Error::other("permission denied: put the gateway's user into the group `dialout`")
            }
            _ => io::Error::from(error),
        })?;
    if line.rs485 {
        rs485::enable(&stream)?;
    }
    Ok(stream)
}

async fn talk(line: &Line, stream: SerialStream, inlet: &mut Inlet, longest: usize, report: &Report) -> End {
    let (reader, writer) = tokio::io::split(stream);
    let counts = Arc::clone(&inlet.counts);
    tokio::select! {
        end = read(line, reader, &counts, longest, report) => end,
        end = write(writer, &mut inlet.messages, &counts) => end,
    }
}

async fn read(
    line: &Line,
    mut reader: ReadHalf<SerialStream>,
    counts: &Counts,
    longest: usize,
    report: &Report,
) -> End {
    let mut deframer = Deframer::new(&line.framing, longest);
    let mut buffer = [0; READ_BYTES];
    let (mut noise, mut words) = (Throttle::new(), Throttle::new());
    let mut first = None;
    if let Ok(read) = timeout(SILENT, reader.read(&mut buffer)).await {
        first = Some(read);
    } else {
        deframer.was_silent();
    }
    loop {
        let read = match first.take() {
            Some(read) => read,
            None => reader.read(&mut buffer).await,
        };
        let mut bytes = match read {
            Ok(0) => return End::Lost("it was closed at its other end".to_owned()),
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return End::Lost(error.to_string()),
        };
        while let Some(found) = deframer.next(&mut bytes) {
            let came = match found {
                Ok(Found::Came(came)) => came,
                Ok(Found::Words(text)) if text.is_empty() => continue,
                Ok(Found::Words(text)) => {
                    if let Some(Pass { suppressed }) = words.allow(Instant::now()) {
                        tracing::info!(device = %line.device, suppressed, "the device says {:?}", text);
                    }
                    continue;
                }
                Err(reason) => {
                    counts.damaged.fetch_add(1, Ordering::Relaxed);
                    if let Some(Pass { suppressed }) = noise.allow(Instant::now()) {
                        tracing::warn!(device = %line.device, suppressed, "from a serial line: {reason}");
                    }
                    continue;
                }
            };
            counts.received.fetch_add(1, Ordering::Relaxed);
            if report.report(line, came).await.is_err() {
                return End::Unheard;
            }
        }
    }
}

async fn write(
    mut writer: WriteHalf<SerialStream>,
    messages: &mut mpsc::Receiver<Bytes>,
    counts: &Counts,
) -> End {
    let mut framed = Vec::new();
    while let Some(message) = messages.recv().await {
        frame(&message, &mut framed);
        let written = async {
            writer.write_all(&framed).await?;
            writer.flush().await
        };
        match timeout(WRITE_WITHIN, written).await {
            Ok(Ok(())) => counts.sent.fetch_add(1, Ordering::Relaxed),
            Ok(Err(error)) => return End::Lost(error.to_string()),
            Err(_) => return End::Lost(format!("it has not taken a message within {WRITE_WITHIN:?}")),
        };
    }
    End::Unheard
}

#[cfg(test)]
mod tests {
    use super::{SETTLED, Trouble};
    use std::time::Duration;

    #[test]
    fn a_port_that_is_lost_as_soon_as_it_is_open_is_told_of_once() {
        let mut trouble = Trouble::default();
        let soon = Duration::from_millis(5);
        assert!(trouble.is_news() && trouble.lost(soon, "closed"));
        for _ in 0..1_000 {
            assert!(!trouble.is_news() && !trouble.lost(soon, "closed"));
        }
        assert!(trouble.lost(soon, "input/output error"), "something else");
        assert!(trouble.lost(SETTLED, "input/output error") && trouble.is_news(), "it worked for a while");
        assert!(trouble.lost(SETTLED, "closed") && trouble.is_news() && trouble.lost(SETTLED, "closed"));
    }
}
