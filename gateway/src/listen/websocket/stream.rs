//! A WebSocket connection as two halves of a byte stream: the reading half gives the payload of the client's frames, the writing
//! half puts each write into one frame, or each message. Pongs and the closing handshake pass between whole frames. Buffers no
//! payload but a message that has come in part.

use super::frame::{Answers, Close, Decoder};
use super::messages::{Assembly, unframed};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Pieces of one frame written with one system call, its header among them.
const SLICES: usize = 17;

/// What the frames of a connection carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::listen) enum Carries {
    /// A stream of bytes, in any cut.
    Bytes,
    /// A message of CoAP in each of WebSocket, of at most so many bytes.
    Messages(usize),
}

/// The two halves of a connection whose opening handshake is done.
pub(in crate::listen) fn open<R, W>(reader: R, writer: W, carries: Carries) -> (Reader<R, W>, Writer<W>) {
    let (decoder, assembly) = match carries {
        Carries::Bytes => (Decoder::default(), None),
        Carries::Messages(longest) => (Decoder::of_messages(longest), Some(Box::new(Assembly::new(longest)))),
    };
    let sender = Arc::new(Mutex::new(Sender {
        inner: writer,
        head: Vec::new(),
        head_sent: 0,
        left: 0,
        by_message: assembly.is_some(),
        pong: None,
        close: None,
        closed: false,
        driver: None,
        driver_waits: false,
    }));
    let reader =
        Reader { inner: reader, decoder, assembly, owes: false, ended: false, sender: Arc::clone(&sender) };
    (reader, Writer(sender))
}

/// The reading half. Its end is the client's Close, the end of the connection below, or a breach of the protocol.
pub(in crate::listen) struct Reader<R, W> {
    inner: R,
    decoder: Decoder,
    /// Where each message is made a frame of the stream.
    assembly: Option<Box<Assembly>>,
    /// An answer may still wait for room in the socket.
    owes: bool,
    ended: bool,
    sender: Arc<Mutex<Sender<W>>>,
}

/// The writing half.
pub(in crate::listen) struct Writer<W>(Arc<Mutex<Sender<W>>>);

struct Sender<W> {
    inner: W,
    /// The header of the present frame, or a whole control frame, and how much of it has left.
    head: Vec<u8>,
    head_sent: usize,
    /// Payload of the present frame that has not left yet.
    left: u64,
    /// Each frame of the stream that is written goes as a message.
    by_message: bool,
    pong: Option<Box<[u8]>>,
    close: Option<Close>,
    /// Our Close has been said: nothing may follow it.
    closed: bool,
    /// Who owns the writing half, and whether that one waits for the socket.
    driver: Option<Waker>,
    driver_waits: bool,
}

fn lock<W>(sender: &Mutex<Sender<W>>) -> MutexGuard<'_, Sender<W>> {
    sender.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> AsyncRead for Reader<R, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.owes {
            this.owes = lock(&this.sender).answer(cx).is_pending();
        }
        loop {
            if let Some(assembly) = &mut this.assembly {
                let frames = assembly.fetch(buf.remaining());
                if !frames.is_empty() {
                    buf.put_slice(&frames);
                    return Poll::Ready(Ok(()));
                }
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(())); // The end of the connection, without a word.
            }
            let mut answers = Answers::default();
            let mut kept = this.decoder.decode(&mut buf.filled_mut()[before..], &mut answers);
            if let Some(assembly) = &mut this.assembly {
                let carried = &buf.filled()[before..before + kept];
                if let Err(close) = assembly.take(carried, &this.decoder.take_ends()) {
                    answers.close = Some(close);
                }
                kept = 0; // It comes out of the assembly.
            }
            buf.set_filled(before + kept);
            this.ended = answers.close.is_some();
            if answers != Answers::default() {
                let mut sender = lock(&this.sender);
                sender.pong = answers.pong.or(sender.pong.take());
                sender.close = sender.close.or(answers.close);
                this.owes = sender.answer(cx).is_pending();
            }
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Sends what the reading half owes, as far as the writing half has not that in hand: one that waits for the socket, maybe in
    /// the middle of a frame, sends it at that frame's end, and its waker must not be taken away.
    fn answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.driver_waits || self.left > 0 {
            return Poll::Ready(());
        }
        // When the socket has no room now, the driver goes on, if it has ever been here; otherwise the reader.
        let driver = self.driver.clone();
        let mut cx = match &driver {
            Some(driver) => Context::from_waker(driver),
            None => Context::from_waker(cx.waker()),
        };
        let sent = self.poll_settled(&mut cx);
        if sent.is_pending() && driver.is_some() {
            self.driver_waits = true;
            return Poll::Ready(());
        }
        sent.map(drop) // A failure is seen by who reads or writes next.
    }

    /// Remembers whom to wake, and that it waits or not.
    fn driven<T>(
        &mut self,
        cx: &mut Context<'_>,
        by: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
        let done = by(self, cx);
        self.driver_waits = done.is_pending();
        done
    }

    /// [`Self::poll_control`] where the layer below may hold something back (TLS).
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            ready!(self.poll_control(cx))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Between frames: sends what is left of a head and the control frames that are owed.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(head) = self.head.get(self.head_sent..).filter(|head| !head.is_empty()) {
                match ready!(Pin::new(&mut self.inner).poll_write(cx, head))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.head_sent += count,
                }
            }
            self.head.clear();
            self.head_sent = 0;
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if let Some(pong) = self.pong.take() {
                self.begin(OpCode::Control(Control::Pong), pong.len() as u64)?;
                self.head.extend_from_slice(&pong);
            } else if let Some(close) = self.close {
                self.begin(OpCode::Control(Control::Close), 2)?;
                self.head.extend_from_slice(&(close as u16).to_be_bytes());
                self.closed = true;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn begin(&mut self, opcode: OpCode, length: u64) -> io::Result<()> {
        // A server's frames have no mask (RFC 6455, 5.1).
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(length, &mut self.head).map_err(io::Error::other)
    }

    /// Begins a message with the frame of the stream that is written next; gives how many of its bytes are not sent as they are.
    fn begin_message(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // The engine orders each frame in one piece.
        let next = pieces.iter().find(|piece| !piece.is_empty());
        let (skipped, head, rest) =
            next.and_then(|piece| unframed(piece)).ok_or(io::ErrorKind::InvalidData)?;
        self.begin(OpCode::Data(Data::Binary), rest + 1)?;
        self.head.push(head);
        self.left = rest;
        Ok(skipped)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.left == 0 {
                ready!(self.poll_control(cx))?;
                if self.closed {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if self.by_message {
                    return Poll::Ready(self.begin_message(pieces));
                }
                let pieces = pieces.get(..SLICES - 1).unwrap_or(pieces);
                let length = pieces.iter().map(|piece| piece.len() as u64).sum();
                self.begin(OpCode::Data(Data::Binary), length)?;
                self.left = length;
            }
            // The header and the payload together: one segment on the wire. No more payload than the frame has room for.
            let mut slices = [IoSlice::new(&[]); SLICES];
            let head = self.head.get(self.head_sent..).unwrap_or_default();
            let (first, rest) = slices.split_at_mut(1);
            first.fill(IoSlice::new(head));
            let mut room = usize::try_from(self.left).unwrap_or(usize::MAX);
            let mut used = 1;
            for (slice, piece) in rest.iter_mut().zip(pieces) {
                let piece = &piece[..piece.len().min(room)];
                *slice = IoSlice::new(piece);
                room -= piece.len();
                used += 1;
            }
            let skip = usize::from(head.is_empty());
            let head_bytes = head.len();
            let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &slices[skip..used]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = count.min(head_bytes);
            self.head_sent += of_head;
            if of_head == head_bytes {
                self.head.clear();
                self.head_sent = 0;
            }
            let of_payload = count - of_head;
            self.left = self.left.saturating_sub(of_payload as u64);
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).driven(cx, |sender, cx| sender.poll_write(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).driven(cx, Sender::poll_settled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).driven(cx, |sender, cx| {
            sender.close.get_or_insert(Close::Normal);
            ready!(sender.poll_settled(cx))?;
            Pin::new(&mut sender.inner).poll_shutdown(cx)
        })
    }
}
