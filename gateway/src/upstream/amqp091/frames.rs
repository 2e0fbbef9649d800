//! One connection's bytes as AMQP frames: what came in, cut and parsed; what is to go out, gathered and written.
//! Knows framing and nothing of what frames mean. The codec is `amq-protocol`'s, but for publications, which
//! `envelope` writes by itself.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection, constants};
use bytes::{Buf, BufMut, BytesMut};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest frame, all its bytes counted, that is asked for and taken: a board has little memory, and larger bodies
/// travel in several frames.
pub(super) const FRAME_BYTES: u32 = 32 << 10;

/// What surrounds a frame's payload: type, channel, size, end (AMQP 0-9-1, 4.2.3).
pub(super) const FRAME_OVERHEAD_BYTES: usize = 8;

/// The last byte of every frame.
pub(super) const FRAME_END: u8 = constants::FRAME_END;

/// Frames written and not sent yet, above which nothing more is taken on.
const UNSENT_BYTES: usize = 64 << 10;

/// Read at once: the confirms of a full window many times over.
const READ_BYTES: usize = 8 << 10;

/// A byte stream, plain or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The methods that a broker has reason to send to a publisher, class and method. No other is parsed: it cannot be obeyed, and
/// tables, which the codec parses by recursion without a bound, come only in those. Without connection.start, which
/// [`Frames::next`] knows by its number.
const EXPECTED_METHODS: &[(u16, u16)] = &[
    (10, 30), // connection: tune, open-ok, close, close-ok, blocked, unblocked
    (10, 41),
    (10, 50),
    (10, 51),
    (10, 60),
    (10, 61),
    (20, 11), // channel: open-ok, flow, close
    (20, 20),
    (20, 40),
    (40, 11), // exchange.declare-ok
    (60, 50), // basic: return, ack, nack
    (60, 80),
    (60, 120),
    (85, 11), // confirm.select-ok
];

/// connection.start.
const START: (u16, u16) = (10, 10);

/// A frame from the broker.
pub(super) enum Frame {
    Method {
        channel: u16,
        method: AMQPClass,
    },
    /// The properties of a message, of which one is wanted; empty when it has none.
    Header {
        message_id: String,
    },
    /// Part of a body; its bytes are those of a message that came back, and nobody wants them.
    Body,
    Heartbeat,
}

impl fmt::Display for Frame {
    /// For the log: short, and nothing of what the other side chose.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method { channel, method } => {
                let (class, method) = (method.get_amqp_class_id(), method.get_amqp_method_id());
                write!(f, "method {class}.{method} on channel {channel}")
            }
            Self::Header { .. } | Self::Body => f.write_str("a message"),
            Self::Heartbeat => f.write_str("a heartbeat"),
        }
    }
}

/// A connection's bytes in both directions.
pub(super) struct Frames {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
    scratch: Box<[u8; READ_BYTES]>,
}

impl Frames {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            input: BytesMut::new(),
            output: BytesMut::new(),
            scratch: Box::new([0; READ_BYTES]),
        }
    }

    /// Where frames are written, in whole.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether more may be written now.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < UNSENT_BYTES
    }

    /// Writes a method.
    ///
    /// # Errors
    /// When the codec cannot write it, which it says of no method that is well-formed.
    pub(super) fn method(&mut self, channel: u16, method: AMQPClass) -> io::Result<()> {
        self.write(&AMQPFrame::Method(channel, method))
    }

    /// Writes a heartbeat, unless something waits to be sent that says as much: a broker that does not read must not make it grow.
    ///
    /// # Errors
    /// As [`Frames::method`].
    pub(super) fn heartbeat(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            return Ok(());
        }
        self.write(&AMQPFrame::Heartbeat)
    }

    fn write(&mut self, frame: &AMQPFrame) -> io::Result<()> {
        let context = WriteContext::from(Vec::with_capacity(256));
        let written = gen_frame(frame)(context).map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.output.put_slice(&written.into_inner().0);
        Ok(())
    }

    /// Moves bytes: writes what waits, and ends when something came in (true), or when there is room again (false).
    /// Nothing is lost when this is dropped before it ends.
    ///
    /// # Errors
    /// When the connection has failed or was closed by the broker.
    pub(super) async fn turn(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_turn(context)).await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let full = !self.has_room();
        self.poll_write(context)?;
        let mut read = ReadBuf::new(&mut self.scratch[..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker closed the connection",
            ))),
            Poll::Ready(Ok(())) => {
                self.input.extend_from_slice(read.filled());
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if full && self.has_room() => Poll::Ready(Ok(false)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes as much as the stream takes; the task is woken when it takes more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.output.advance(count),
                Poll::Pending => return Ok(()),
            }
        }
        // TLS gathers records of its own.
        let _ = Pin::new(&mut self.stream).poll_flush(context)?;
        Ok(())
    }

    /// Waits until everything written is on its way.
    ///
    /// # Errors
    /// When the connection has failed.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            self.poll_write(context)?;
            if !self.output.is_empty() {
                return Poll::Pending;
            }
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next whole frame that has come in.
    ///
    /// # Errors
    /// In words, when the bytes are no frames.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        if self.input.starts_with(b"AMQP") {
            return Err("the other side does not speak AMQP 0-9-1".into()); // 4.2.2: it answers with what it speaks
        }
        let Some((head, _)) = self.input.split_first_chunk::<7>() else { return Ok(None) };
        let [kind, _, _, a, b, c, d] = *head;
        let size = u32::from_be_bytes([a, b, c, d]);
        if size > FRAME_BYTES {
            return Err(format!(
                "the other side sent a frame of {size} bytes; it does not speak AMQP 0-9-1, or not well"
            ));
        }
        let size = size as usize; // at most FRAME_BYTES
        if self.input.len() < size + FRAME_OVERHEAD_BYTES {
            return Ok(None);
        }
        let bytes = self.input.split_to(size + FRAME_OVERHEAD_BYTES);
        let frame = match bytes.get(7..7 + size) {
            Some(payload) if bytes.last() == Some(&FRAME_END) => parse(kind, payload, &bytes),
            _ => None,
        };
        frame
            .map(Some)
            .ok_or_else(|| "the other side sent what is no frame of AMQP 0-9-1 for a publisher".to_owned())
    }
}

/// A frame by its type, its payload, and all its bytes; nothing when it is none that may come.
fn parse(kind: u8, payload: &[u8], bytes: &[u8]) -> Option<Frame> {
    match kind {
        constants::FRAME_BODY => return Some(Frame::Body),
        constants::FRAME_HEADER => return message_id(payload).map(|message_id| Frame::Header { message_id }),
        constants::FRAME_METHOD => {
            let [a, b, c, d] = *payload.first_chunk()?;
            let number = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if number == START {
                // Nobody wants its tables.
                let method =
                    AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start::default()));
                return Some(Frame::Method { channel: 0, method });
            }
            if !EXPECTED_METHODS.contains(&number) {
                return None;
            }
        }
        _ => {}
    }
    match parse_frame(bytes) {
        Ok((_, AMQPFrame::Method(channel, method))) => Some(Frame::Method { channel, method }),
        Ok((_, AMQPFrame::Heartbeat)) => Some(Frame::Heartbeat),
        Ok(_) | Err(_) => None,
    }
}

/// The message id of a content header (AMQP 0-9-1, 4.2.6.1); empty when there is none.
fn message_id(header: &[u8]) -> Option<String> {
    let mut rest = header.get(12..)?; // class, weight, size of the body
    let flags = u16::from_be_bytes(*take(&mut rest, 2)?.first_chunk()?);
    // What stands before it: content type, content encoding, headers, delivery mode, priority, correlation id, reply-to, expiration.
    for property in (8..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        let length = match property {
            13 => u32::from_be_bytes(*take(&mut rest, 4)?.first_chunk()?) as usize,
            11 | 12 => 1,
            _ => take(&mut rest, 1)?.first().copied()?.into(),
        };
        take(&mut rest, length)?;
    }
    if flags & (1 << 7) == 0 {
        return Some(String::new());
    }
    let length = take(&mut rest, 1)?.first().copied()?;
    String::from_utf8(take(&mut rest, length.into())?.to_vec()).ok()
}

/// So many bytes from the front, when they are there.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}
