//! The writing side of every stream connection. The driver writes directly, without a task or a copy between;
//! what the socket does not take waits here, bounded, until the socket is writable. It decides nothing.

use crate::connection::{Connection, Gate, Mode};
use bytes::{Buf, Bytes};
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tidegate_engine::id::ConnId;
use tokio::io::AsyncWrite;

/// The backstop behind the engine's own count of what it sent (`outgoing_bytes` and acknowledgements): a connection
/// with more in its queue, in bytes, is taken for broken.
const QUEUE_BYTES: usize = 8 << 20;

/// Pieces written with one system call.
const SLICES: usize = 16;

/// How long a connection that is to be closed has for sending what was ordered before.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A fact about a connection that the engine is to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Bytes left.
    Sent(ConnId, usize),
    /// It is gone.
    Closed(ConnId),
}

/// Every connection that the driver knows.
#[derive(Debug)]
pub(super) struct Outgoing {
    connections: HashMap<ConnId, Writer>,
    /// Connections with something new to write or to finish in this round.
    dirty: Vec<ConnId>,
    /// Connections that are being closed and the latest time for it, in the order of that time.
    closing: VecDeque<(Instant, ConnId)>,
    writable: Arc<Writable>,
}

struct Writer {
    stream: Pin<Box<dyn AsyncWrite + Send>>,
    gate: Arc<Gate>,
    waker: Waker,
    queue: VecDeque<Bytes>,
    queued: usize,
    dirty: bool,
    /// The socket took nothing more: wait for it.
    blocked: bool,
    closing: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("queued", &self.queued)
            .field("blocked", &self.blocked)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            connections: HashMap::new(),
            dirty: Vec::new(),
            closing: VecDeque::new(),
            writable: Arc::default(),
        }
    }

    /// Takes over the writing side of a new connection.
    pub(super) fn attach(&mut self, connection: Connection) {
        let Connection { conn, writer, gate } = connection;
        let waker = Waker::from(Arc::new(WritableConn { conn, writable: Arc::clone(&self.writable) }));
        self.connections.insert(
            conn,
            Writer {
                stream: writer,
                gate,
                waker,
                queue: VecDeque::new(),
                queued: 0,
                dirty: false,
                blocked: false,
                closing: false,
            },
        );
    }

    /// Whether the engine may still hear of this connection: it is attached and has not been reported closed.
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Queues bytes; [`Self::flush`] writes them.
    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(writer) = self.connections.get_mut(&conn) else {
            return; // Closed meanwhile: the engine knows, or learns in this round.
        };
        if writer.closing || bytes.is_empty() {
            return;
        }
        writer.queued += bytes.len();
        writer.queue.push_back(bytes);
        if !writer.dirty {
            writer.dirty = true;
            self.dirty.push(conn);
        }
    }

    /// Stops or resumes reading.
    pub(super) fn reading(&self, conn: ConnId, on: bool) {
        if let Some(writer) = self.connections.get(&conn)
            && !writer.closing
        {
            writer.gate.set(if on { Mode::Read } else { Mode::Hold });
        }
    }

    /// Closes once everything queued has been sent, or at the latest after [`CLOSE_WITHIN`].
    pub(super) fn close(&mut self, conn: ConnId, now: Instant) {
        let Some(writer) = self.connections.get_mut(&conn) else {
            return;
        };
        if writer.closing {
            return;
        }
        writer.closing = true;
        writer.gate.set(Mode::Hold); // Nothing that it says is heard any more.
        self.closing.push_back((now + CLOSE_WITHIN, conn));
        if !writer.dirty {
            writer.dirty = true;
            self.dirty.push(conn);
        }
    }

    /// The reading side saw the end. True when the engine has not heard of it yet.
    pub(super) fn gone(&mut self, conn: ConnId) -> bool {
        self.connections.remove(&conn).is_some()
    }

    /// Writes what the sockets take, and reports what left and which connections are gone.
    pub(super) fn flush(&mut self, facts: &mut Vec<Fact>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for conn in dirty.drain(..) {
            let Some(writer) = self.connections.get_mut(&conn) else {
                continue;
            };
            writer.dirty = false;
            if !writer.blocked {
                self.write(conn, facts);
            }
        }
        self.dirty = dirty; // Keeps its capacity; nothing was added meanwhile.
    }

    /// Goes on with the connections whose sockets have become writable.
    pub(super) fn resume(&mut self, ready: &mut Vec<ConnId>, facts: &mut Vec<Fact>) {
        for conn in ready.drain(..) {
            if let Some(writer) = self.connections.get_mut(&conn) {
                writer.blocked = false;
                self.write(conn, facts);
            }
        }
    }

    /// Ends the connections whose time for closing is over.
    pub(super) fn expire(&mut self, now: Instant, facts: &mut Vec<Fact>) {
        while let Some(&(at, conn)) = self.closing.front() {
            if at > now && self.connections.contains_key(&conn) {
                return;
            }
            self.closing.pop_front();
            if let Some(writer) = self.connections.remove(&conn) {
                writer.gate.set(Mode::Drop);
                facts.push(Fact::Closed(conn));
            }
        }
    }

    /// When [`Self::expire`] is due.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.closing.front().map(|&(at, _)| at)
    }

    /// Whether everything queued has left.
    pub(super) fn idle(&self) -> bool {
        self.connections.values().all(|w| w.queue.is_empty() && !w.closing)
    }

    /// Where to wait for sockets to become writable.
    pub(super) fn writable(&self) -> Arc<Writable> {
        Arc::clone(&self.writable)
    }

    /// Those that have become writable, without waiting.
    pub(super) fn take_writable(&self, ready: &mut Vec<ConnId>) {
        ready.append(&mut self.writable.lock().ready);
    }

    fn write(&mut self, conn: ConnId, facts: &mut Vec<Fact>) {
        let Some(writer) = self.connections.get_mut(&conn) else {
            return;
        };
        let (sent, result) = writer.write();
        if sent > 0 {
            facts.push(Fact::Sent(conn, sent));
        }
        let mode = match result {
            Progress::Waiting if writer.queued <= QUEUE_BYTES => return,
            // Orderly: the peer shall read what was sent before it sees the end, so what it still sends is taken in
            // and thrown away for a moment; closing with unread bytes would make the kernel send a reset.
            Progress::Finished => Mode::Linger,
            Progress::Waiting | Progress::Failed => Mode::Drop,
        };
        writer.gate.set(mode);
        self.connections.remove(&conn);
        facts.push(Fact::Closed(conn));
    }
}

enum Progress {
    /// Open, with or without something in the queue.
    Waiting,
    /// Closed in order.
    Finished,
    /// Broken.
    Failed,
}

impl Writer {
    fn write(&mut self) -> (usize, Progress) {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let mut sent = 0;
        while !self.queue.is_empty() {
            let written = if self.queue.len() == 1 {
                self.stream.as_mut().poll_write(&mut cx, &self.queue[0])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                    *slice = IoSlice::new(bytes);
                    count += 1;
                }
                self.stream.as_mut().poll_write_vectored(&mut cx, &slices[..count])
            };
            match written {
                Poll::Ready(Ok(0) | Err(_)) => return (sent, Progress::Failed),
                Poll::Ready(Ok(count)) => {
                    sent += count;
                    self.taken(count);
                }
                Poll::Pending => {
                    self.blocked = true;
                    return (sent, Progress::Waiting);
                }
            }
        }
        match self.stream.as_mut().poll_flush(&mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return (sent, Progress::Failed),
            Poll::Pending => {
                self.blocked = true;
                return (sent, Progress::Waiting);
            }
        }
        if !self.closing {
            return (sent, Progress::Waiting);
        }
        match self.stream.as_mut().poll_shutdown(&mut cx) {
            Poll::Ready(Ok(())) => (sent, Progress::Finished),
            Poll::Ready(Err(_)) => (sent, Progress::Failed),
            Poll::Pending => {
                self.blocked = true;
                (sent, Progress::Waiting)
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
        if self.queue.capacity() > SLICES {
            self.queue.shrink_to(0); // A connection that once had much to send does not keep the room for it.
        }
    }
}

/// Which sockets became writable, and the driver that waits for them.
#[derive(Debug, Default)]
pub(super) struct Writable(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    ready: Vec<ConnId>,
    driver: Option<Waker>,
}

impl Writable {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one at least.
    pub(super) fn poll(&self, cx: &mut Context<'_>, ready: &mut Vec<ConnId>) -> Poll<()> {
        let mut waiting = self.lock();
        if waiting.ready.is_empty() {
            if !waiting.driver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                waiting.driver = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        ready.append(&mut waiting.ready);
        Poll::Ready(())
    }
}

/// Wakes the driver for one connection.
struct WritableConn {
    conn: ConnId,
    writable: Arc<Writable>,
}

impl Wake for WritableConn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let driver = {
            let mut waiting = self.writable.lock();
            waiting.ready.push(self.conn);
            waiting.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CLOSE_WITHIN, Fact, Outgoing};
    use crate::connection::{Connection, Gate, Mode};
    use bytes::Bytes;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Instant;
    use tidegate_engine::id::ConnId;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    const CONN: ConnId = ConnId(7);

    /// A connection whose socket takes `room` bytes until its peer reads.
    fn connected(room: usize) -> (Outgoing, DuplexStream, Arc<Gate>) {
        let (ours, theirs) = duplex(room);
        let gate = Arc::new(Gate::default());
        let mut outgoing = Outgoing::new();
        outgoing.attach(Connection { conn: CONN, writer: Box::pin(ours), gate: Arc::clone(&gate) });
        (outgoing, theirs, gate)
    }

    fn mode(gate: &Gate) -> Mode {
        gate.poll_mode(&Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_leaves_when_it_is_writable() {
        let (mut outgoing, mut peer, _gate) = connected(4);
        let mut facts = Vec::new();
        outgoing.send(CONN, Bytes::from_static(b"abc"));
        outgoing.send(CONN, Bytes::from_static(b"defgh"));
        outgoing.flush(&mut facts);
        assert_eq!(facts.iter().map(sent).sum::<usize>(), 4);
        assert!(!outgoing.idle());

        let mut read = [0; 8];
        let mut got = peer.read(&mut read).await.unwrap();
        while got < read.len() {
            let (mut ready, writable) = (Vec::new(), outgoing.writable());
            poll_fn(|cx| writable.poll(cx, &mut ready)).await;
            outgoing.resume(&mut ready, &mut facts);
            got += peer.read(&mut read[got..]).await.unwrap();
        }
        assert_eq!(&read, b"abcdefgh");
        assert_eq!(facts.iter().map(sent).sum::<usize>(), 8);
        assert!(outgoing.idle());
    }

    #[tokio::test]
    async fn a_close_lets_what_was_ordered_before_leave() {
        let (mut outgoing, mut peer, gate) = connected(64);
        let mut facts = Vec::new();
        outgoing.send(CONN, Bytes::from_static(b"bye"));
        outgoing.close(CONN, Instant::now());
        outgoing.send(CONN, Bytes::from_static(b"too late"));
        outgoing.flush(&mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 3), Fact::Closed(CONN)]);
        assert!(!outgoing.knows(CONN));
        assert_eq!(mode(&gate), Mode::Linger);
        let mut read = Vec::new();
        peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"bye");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_cannot_keep_its_connection() {
        let (mut outgoing, _peer, gate) = connected(1);
        let mut facts = Vec::new();
        let now = Instant::now();
        outgoing.send(CONN, Bytes::from_static(b"bye"));
        outgoing.close(CONN, now);
        outgoing.flush(&mut facts);
        outgoing.expire(now, &mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 1)]);
        assert_eq!(outgoing.next_expiry(), Some(now + CLOSE_WITHIN));
        outgoing.expire(now + CLOSE_WITHIN, &mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 1), Fact::Closed(CONN)]);
        assert_eq!(mode(&gate), Mode::Drop);
    }

    #[tokio::test]
    async fn the_end_is_reported_once() {
        let (mut outgoing, peer, _gate) = connected(64);
        let mut facts = Vec::new();
        drop(peer);
        outgoing.send(CONN, Bytes::from_static(b"abc"));
        outgoing.flush(&mut facts);
        assert_eq!(facts, [Fact::Closed(CONN)]);
        assert!(!outgoing.gone(CONN), "the reader's report comes second");
    }

    fn sent(fact: &Fact) -> usize {
        match fact {
            Fact::Sent(_, count) => *count,
            Fact::Closed(_) => 0,
        }
    }
}
