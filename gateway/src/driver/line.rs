//! One stream connection as the driver holds it: the socket, or the writing side of a wrapped stream (TLS, WebSocket),
//! and what waits to be written. A line that is silent owns no buffer. It decides nothing.

use super::turns::Turns;
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
    /// A wrapped stream.
    Stream(Box<Wrapped>),
}

/// The writing side of a wrapped stream: a task reads it, and hears through the gate whether to.
pub(super) struct Wrapped {
    pub(super) stream: Pin<Box<dyn AsyncWrite + Send>>,
    pub(super) gate: Arc<Gate>,
    pub(super) waker: Waker,
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
    /// It said much at its last turn.
    pub(super) greedy: bool,
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
        Self {
            stream,
            _permit: permit,
            reading: true,
            readable: false,
            ended: false,
            listed: false,
            greedy: false,
        }
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
                self.greedy = Turns::is_much(count);
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
    /// What the connection has not taken; nothing for nearly all.
    queue: Option<Box<Queue>>,
    /// The socket took nothing more: wait for it.
    pub(super) blocked: bool,
    /// It takes no more orders.
    pub(super) closing: bool,
    /// It ends as soon as nothing waits.
    pub(super) ending: bool,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("queued", &self.queue.as_ref().map_or(0, |queue| queue.bytes))
            .field("blocked", &self.blocked)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

/// How far writing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        Self { side, queue: None, blocked: false, closing: false, ending: false }
    }

    /// Everything ordered has left.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Stops or resumes reading. Says whether there is something to be read at once.
    pub(super) fn set_reading(&mut self, on: bool) -> bool {
        match &mut self.side {
            Side::Socket(socket) => {
                socket.reading = on;
                socket.wants_reading()
            }
            Side::Stream(wrapped) => {
                wrapped.gate.set(if on { Mode::Read } else { Mode::Hold });
                false
            }
        }
    }

    /// Writes what waits and then `fresh`, as far as the connection takes it, and keeps the rest; gives how many bytes left.
    pub(super) fn write(&mut self, fresh: &mut [Bytes]) -> (usize, Progress) {
        if self.blocked {
            return (0, self.keep(fresh));
        }
        let mut sent = 0;
        while let Some(queue) = &mut self.queue {
            match self.side.write(&queue.pieces) {
                Poll::Ready(Ok(0) | Err(_)) => return (sent, Progress::Failed),
                Poll::Ready(Ok(count)) => {
                    sent += count;
                    if !queue.taken(count) {
                        self.queue = None;
                    }
                }
                Poll::Pending => return (sent, self.keep(fresh)),
            }
        }
        let mut at = 0;
        while let Some(rest) = fresh.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match self.side.write(rest.iter()) {
                Poll::Ready(Ok(0) | Err(_)) => return (sent, Progress::Failed),
                Poll::Ready(Ok(mut count)) => {
                    sent += count;
                    for piece in rest {
                        if count < piece.len() {
                            piece.advance(count);
                            break;
                        }
                        count -= piece.len();
                        at += 1;
                    }
                }
                Poll::Pending => return (sent, self.keep(rest)),
            }
        }
        (sent, self.finish())
    }

    /// Keeps what the connection did not take.
    fn keep(&mut self, rest: &mut [Bytes]) -> Progress {
        self.blocked = true;
        if rest.is_empty() {
            return Progress::Waiting;
        }
        let queue = self.queue.get_or_insert_default();
        for piece in rest {
            queue.bytes += piece.len();
            queue.pieces.push_back(std::mem::take(piece));
        }
        if queue.bytes <= QUEUE_BYTES { Progress::Waiting } else { Progress::Failed }
    }

    /// After the last byte: lets a wrapped stream send what it holds, and ends the connection if it is to close.
    fn finish(&mut self) -> Progress {
        let closed = match &mut self.side {
            Side::Socket(_) if !self.ending => return Progress::Waiting,
            Side::Socket(socket) => Poll::Ready(socket.stream.shutdown(Shutdown::Write)),
            Side::Stream(wrapped) => {
                let mut cx = Context::from_waker(&wrapped.waker);
                match wrapped.stream.as_mut().poll_flush(&mut cx) {
                    Poll::Ready(Ok(())) if !self.ending => return Progress::Waiting,
                    Poll::Ready(Ok(())) => wrapped.stream.as_mut().poll_shutdown(&mut cx),
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
}

impl Side {
    /// Writes once.
    fn write<'a>(&mut self, pieces: impl IntoIterator<Item = &'a Bytes>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match self {
            Self::Socket(socket) => loop {
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
            Self::Stream(wrapped) => {
                let mut cx = Context::from_waker(&wrapped.waker);
                match slices {
                    [one] => wrapped.stream.as_mut().poll_write(&mut cx, one),
                    several => wrapped.stream.as_mut().poll_write_vectored(&mut cx, several),
                }
            }
        }
    }
}

impl Queue {
    /// So many bytes have left; says whether something is left.
    fn taken(&mut self, mut count: usize) -> bool {
        self.bytes = self.bytes.saturating_sub(count);
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                break;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
        !self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn a_silent_line_stays_small() {
        assert!(size_of::<Line>() <= 48, "{} bytes", size_of::<Line>());
    }
}
