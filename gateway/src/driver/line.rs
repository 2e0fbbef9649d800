//! One stream connection as the driver holds it: the socket, or the writing side of a wrapped stream (TLS, WebSocket),
//! and what waits to be written. A line that is silent owns no buffer. It decides nothing.

use crate::connection::{Gate, Mode};
use crate::listen::admission::Permit;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// The backstop behind the engine's own count of what it sent (`outgoing_bytes` and acknowledgements): a connection
/// with more in its queue, in bytes, is taken for broken.
const QUEUE_BYTES: usize = 8 << 20;

/// Pieces written with one system call.
const SLICES: usize = 16;

/// Where the bytes go.
pub(super) enum Side {
    /// A plain socket, which the driver reads as well.
    Socket(Socket),
    /// A wrapped stream: a task reads it, and hears through the gate whether to.
    Stream { stream: Pin<Box<dyn AsyncWrite + Send>>, gate: Arc<Gate>, waker: Waker },
}

/// A plain socket. The poller tells of changes only: what is left is remembered here.
pub(super) struct Socket {
    stream: TcpStream,
    _permit: Permit,
    /// Whether the engine wants to hear more.
    reading: bool,
    /// There may be something to read.
    pub(super) readable: bool,
    /// The peer has ended its side: reading goes on until that is seen.
    pub(super) ended: bool,
    /// It stands in the list of those to be read.
    pub(super) listed: bool,
}

/// What reading gave.
pub(super) enum Reading {
    Bytes(Bytes),
    /// Nothing at the moment.
    Nothing,
    /// The end, or a failure.
    End,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, permit: Permit) -> Self {
        Self { stream, _permit: permit, reading: true, readable: false, ended: false, listed: false }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it is to be read now.
    pub(super) fn wants_reading(&self) -> bool {
        self.reading && self.readable
    }

    /// Reads once, and remembers whether there may be more.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> Reading {
        match (&self.stream).read(scratch) {
            Ok(0) => Reading::End,
            Ok(count) => {
                // A short read has emptied the socket; whatever comes later is told anew.
                self.readable = count == scratch.len() || self.ended;
                Reading::Bytes(Bytes::copy_from_slice(scratch.get(..count).unwrap_or_default()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Reading::Nothing
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Reading::Nothing,
            Err(_) => Reading::End,
        }
    }
}

/// One connection.
pub(super) struct Line {
    pub(super) side: Side,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// It stands in the list of those with something new to write or to finish.
    pub(super) dirty: bool,
    /// The socket took nothing more: wait for it.
    pub(super) blocked: bool,
    pub(super) closing: bool,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("queued", &self.queued)
            .field("blocked", &self.blocked)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

/// How far writing came.
pub(super) enum Progress {
    /// Open, with or without something in the queue.
    Waiting,
    /// Closed in order.
    Finished,
    /// Broken.
    Failed,
}

impl Line {
    pub(super) fn new(side: Side) -> Self {
        Self { side, queue: VecDeque::new(), queued: 0, dirty: false, blocked: false, closing: false }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Everything queued has left.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Stops or resumes reading. Says whether there is something to be read at once.
    pub(super) fn set_reading(&mut self, on: bool) -> bool {
        match &mut self.side {
            Side::Socket(socket) => {
                socket.reading = on;
                socket.wants_reading()
            }
            Side::Stream { gate, .. } => {
                gate.set(if on { Mode::Read } else { Mode::Hold });
                false
            }
        }
    }

    /// Writes what the connection takes; gives how many bytes.
    pub(super) fn write(&mut self) -> (usize, Progress) {
        let mut sent = 0;
        while !self.queue.is_empty() {
            match self.write_once() {
                Poll::Ready(Ok(0) | Err(_)) => return (sent, Progress::Failed),
                Poll::Ready(Ok(count)) => {
                    sent += count;
                    self.taken(count);
                }
                Poll::Pending => {
                    self.blocked = true;
                    let bearable = self.queued <= QUEUE_BYTES;
                    return (sent, if bearable { Progress::Waiting } else { Progress::Failed });
                }
            }
        }
        if self.queue.capacity() > SLICES {
            self.queue = VecDeque::new(); // A connection that once had much to send does not keep the room for it.
        }
        (sent, self.finish())
    }

    fn write_once(&mut self) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match &mut self.side {
            Side::Socket(socket) => loop {
                let mut stream = &socket.stream;
                let written = match slices {
                    [one] => stream.write(one),
                    several => stream.write_vectored(several),
                };
                match written {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    written => return Poll::Ready(written),
                }
            },
            Side::Stream { stream, waker, .. } => {
                let mut cx = Context::from_waker(waker);
                match slices {
                    [one] => stream.as_mut().poll_write(&mut cx, one),
                    several => stream.as_mut().poll_write_vectored(&mut cx, several),
                }
            }
        }
    }

    /// After the last byte: lets a wrapped stream send what it holds, and ends the connection if it is to close.
    fn finish(&mut self) -> Progress {
        let closed = match &mut self.side {
            Side::Socket(_) if !self.closing => return Progress::Waiting,
            Side::Socket(socket) => Poll::Ready(socket.stream.shutdown(Shutdown::Write)),
            Side::Stream { stream, waker, .. } => {
                let mut cx = Context::from_waker(waker);
                match stream.as_mut().poll_flush(&mut cx) {
                    Poll::Ready(Ok(())) if !self.closing => return Progress::Waiting,
                    Poll::Ready(Ok(())) => stream.as_mut().poll_shutdown(&mut cx),
                    other => other,
                }
            }
        };
        match closed {
            Poll::Ready(Ok(())) => Progress::Finished,
            Poll::Ready(Err(_)) => Progress::Failed,
            Poll::Pending => {
                self.blocked = true;
                Progress::Waiting
            }
        }
    }

    fn taken(&mut self, mut count: usize) {
        self.queued = self.queued.saturating_sub(count);
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.queue.pop_front();
        }
    }
}
