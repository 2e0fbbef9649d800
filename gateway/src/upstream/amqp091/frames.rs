//! One connection's bytes as AMQP frames: what came in, cut and parsed; what is to go out, gathered and written.
//! Knows framing and nothing of what frames mean. The codec is `amq-protocol`'s, but for publications, which
//! `envelope` writes by itself.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, constants};
use bytes::{Buf, BufMut, BytesMut};
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

/// A frame from the broker.
#[derive(Debug)]
pub(super) enum Frame {
    Method {
        channel: u16,
        method: AMQPClass,
    },
    Header {
        header: Box<AMQPContentHeader>,
    },
    /// Part of a body; its bytes are those of a message that came back, and nobody wants them.
    Body,
    Heartbeat,
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

    /// Writes a heartbeat.
    ///
    /// # Errors
    /// As [`Frames::method`].
    pub(super) fn heartbeat(&mut self) -> io::Result<()> {
        self.write(&AMQPFrame::Heartbeat)
    }

    fn write(&mut self, frame: &AMQPFrame) -> io::Result<()> {
        let context = WriteContext::from(Vec::with_capacity(256));
        let written = gen_frame(frame)(context).map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.output.put_slice(&written.into_inner().0);
        Ok(())
    }

    /// Moves bytes: writes what waits, and ends when something came in, or when there is room again.
    /// Nothing is lost when this is dropped before it ends.
    ///
    /// # Errors
    /// When the connection has failed or was closed by the broker.
    pub(super) async fn turn(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_turn(context)).await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if full && self.has_room() => Poll::Ready(Ok(())),
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
        if kind == constants::FRAME_BODY && bytes.last() == Some(&FRAME_END) {
            return Ok(Some(Frame::Body));
        }
        let garbled = || "the other side sent what is no frame of AMQP 0-9-1".to_owned();
        match parse_frame(&bytes[..]) {
            Ok((_, AMQPFrame::Method(channel, method))) => Ok(Some(Frame::Method { channel, method })),
            Ok((_, AMQPFrame::Header(_, header))) => Ok(Some(Frame::Header { header: Box::new(header) })),
            Ok((_, AMQPFrame::Heartbeat)) => Ok(Some(Frame::Heartbeat)),
            Ok(_) | Err(_) => Err(garbled()),
        }
    }
}
