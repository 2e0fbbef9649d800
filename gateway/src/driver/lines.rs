//! Every stream connection: the driver reads plain sockets and writes to all directly, without a task or a copy between.
//! What a socket does not take waits in its line, bounded, until the socket is writable. It decides nothing.

use super::bell::Bell;
use super::line::{Line, Progress, Reading, Side, Socket, Wrapped};
use super::poller::{Happened, Poller, Watched};
use super::turns::Turns;
use super::writable::Writable;
use crate::connection::{Connection, Mode, Transport};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::id::ConnId;

/// How long a connection that is to be closed has for sending what was ordered before.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How long a connection that we ended may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(1);

/// The most taken from one connection at a time, in bytes; larger pieces gained nothing, as one packet of telemetry
/// has about 150 bytes.
const READ_BYTES: usize = 8 << 10;

/// How long a round writes before others are heard: an acknowledgement that falls due meanwhile does not wait for all the copies of
/// a message that many read.
const ROUND_WRITES: Duration = Duration::from_micros(200);

/// Lines that are put off for that at the most: they cost a round each, and with hundreds of readers copies go faster together.
const PUT_OFF_MOST: usize = 64;

/// A fact about a connection that the engine is to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Bytes left.
    Sent(ConnId, usize),
    /// It is gone.
    Closed(ConnId),
    /// A password was verified.
    Verified(ConnId, bool),
}

/// What was read.
#[derive(Debug)]
pub(super) enum Taken {
    Bytes(ConnId, Bytes),
    /// The peer is gone, and the line with it.
    End(ConnId),
}

/// Connections by their numbers, which ascend and are ours: no peer can choose them.
type ByNumber<T> = HashMap<ConnId, T, BuildHasherDefault<Spread>>;

/// Spreads ascending numbers over a table.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: the high bits, of which the table wants some, depend on all bits of the number.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Every connection that the driver knows.
#[derive(Debug)]
pub(super) struct Lines {
    lines: ByNumber<Box<Line>>,
    /// What is to be written in this round, in the order in which it was ordered.
    ordered: Vec<(ConnId, Bytes)>,
    /// Lines to be closed in this round, behind that.
    finishing: Vec<ConnId>,
    /// What one line gets of it, gathered for one write. Kept for its memory.
    gathered: Vec<Bytes>,
    /// Sockets to be read.
    turns: Turns,
    /// Lines that are being closed and the latest time for it, in the order of that time.
    closing: VecDeque<(Instant, ConnId)>,
    /// Sockets whose writing side is finished: what comes is thrown away for a moment. Nobody hears of them.
    lingering: ByNumber<Box<Line>>,
    lingering_until: VecDeque<(Instant, ConnId)>,
    /// Wrapped streams that became writable.
    writable: Arc<Writable>,
    /// Lines that became writable, or were put off.
    resumable: VecDeque<ConnId>,
    /// Where every socket is read into.
    scratch: Box<[u8]>,
}

impl Lines {
    /// Wrapped streams ring the bell.
    pub(super) fn new(bell: &Arc<Bell>) -> Self {
        Self {
            lines: ByNumber::default(),
            ordered: Vec::new(),
            finishing: Vec::new(),
            gathered: Vec::new(),
            turns: Turns::default(),
            closing: VecDeque::new(),
            lingering: ByNumber::default(),
            lingering_until: VecDeque::new(),
            writable: Arc::new(Writable::new(Arc::clone(bell))),
            resumable: VecDeque::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Takes over a new connection.
    pub(super) fn attach(&mut self, connection: Connection) {
        let Connection { conn, transport } = connection;
        let side = match transport {
            Transport::Socket { stream, permit } => Side::Socket(Socket::new(stream, permit)),
            Transport::Stream { writer, gate } => {
                Side::Stream(Box::new(Wrapped { stream: writer, gate, waker: self.writable.waker(conn) }))
            }
        };
        self.lines.insert(conn, Box::new(Line::new(side)));
    }

    /// The engine hears of a connection: from now on it is read. False when it must not: it is not attached or has been
    /// reported closed.
    pub(super) fn open(&mut self, conn: ConnId, poller: &Poller) -> bool {
        let Some(line) = self.lines.get(&conn) else { return false };
        let watched = match &line.side {
            Side::Socket(socket) => poller.watch(socket.stream(), Watched::Line(conn)),
            Side::Stream(_) => Ok(()),
        };
        if let Err(error) = watched {
            tracing::warn!(%error, "a connection was closed: the kernel cannot watch it");
            self.lines.remove(&conn);
            return false;
        }
        true
    }

    /// Whether the engine may still hear of this connection: it is attached and has not been reported closed.
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.lines.contains_key(&conn)
    }

    /// A piece that the reader of a wrapped stream has reported is being handled: it may read on.
    pub(super) fn heard(&self, conn: ConnId) {
        if let Some(Side::Stream(wrapped)) = self.lines.get(&conn).map(|line| &line.side) {
            wrapped.gate.heard();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Queues bytes; [`Self::flush`] writes them.
    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(line) = self.lines.get(&conn) else {
            return; // Closed meanwhile: the engine knows, or learns in this round.
        };
        if line.closing || bytes.is_empty() {
            return;
        }
        self.ordered.push((conn, bytes));
    }

    /// Stops or resumes reading.
    pub(super) fn reading(&mut self, conn: ConnId, on: bool) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if !line.closing && line.set_reading(on) {
            list(&mut self.turns, conn, line);
        }
    }

    /// Closes once everything queued has been sent, or at the latest after [`CLOSE_WITHIN`].
    pub(super) fn close(&mut self, conn: ConnId, now: Instant) {
        let Some(line) = self.lines.get_mut(&conn) else {
            return;
        };
        if line.closing {
            return;
        }
        line.closing = true;
        line.set_reading(false); // Nothing that it says is heard any more.
        self.closing.push_back((now + CLOSE_WITHIN, conn));
        self.finishing.push(conn);
    }

    /// The reading side saw the end. True when the engine has not heard of it yet.
    pub(super) fn gone(&mut self, conn: ConnId) -> bool {
        self.lines.remove(&conn).is_some()
    }

    /// The poller tells of a socket.
    pub(super) fn happened(&mut self, conn: ConnId, happened: Happened) {
        let Some(line) = self.lines.get_mut(&conn).or_else(|| self.lingering.get_mut(&conn)) else {
            return;
        };
        if happened.writable && line.blocked {
            self.resumable.push_back(conn);
        }
        let Side::Socket(socket) = &mut line.side else { return };
        socket.readable |= happened.readable;
        socket.ended |= happened.ended;
        if socket.wants_reading() {
            list(&mut self.turns, conn, line);
        }
    }

    /// Whether a line can be read or written of which the poller will not tell again: it has more than one piece to say, or is a
    /// wrapped stream. With `sparing` those that send much are left alone.
    pub(super) fn stirred(&mut self, sparing: bool) -> bool {
        self.writable.take(&mut self.resumable);
        !self.resumable.is_empty() || self.readable(sparing) > 0
    }

    /// Lines that are to be read in this round: those that have still more come again in the next.
    pub(super) fn readable(&self, sparing: bool) -> usize {
        self.turns.len(sparing)
    }

    /// Reads the next of them.
    pub(super) fn read(&mut self, sparing: bool) -> Option<Taken> {
        let conn = self.turns.next(sparing)?;
        let Some(line) = self.lines.get_mut(&conn) else {
            self.discard(conn);
            return None;
        };
        let Side::Socket(socket) = &mut line.side else { return None };
        socket.listed = false;
        if !socket.wants_reading() {
            return None;
        }
        match socket.read(&mut self.scratch) {
            Reading::Bytes(bytes) => {
                if socket.wants_reading() {
                    list(&mut self.turns, conn, line);
                }
                Some(Taken::Bytes(conn, bytes))
            }
            Reading::Nothing => {
                if socket.wants_reading() {
                    list(&mut self.turns, conn, line);
                }
                None
            }
            Reading::End => {
                self.lines.remove(&conn);
                Some(Taken::End(conn))
            }
        }
    }

    /// Throws away what a lingering socket says.
    fn discard(&mut self, conn: ConnId) {
        let Some(line) = self.lingering.get_mut(&conn) else { return };
        let Side::Socket(socket) = &mut line.side else { return };
        socket.listed = false;
        match socket.read(&mut self.scratch) {
            Reading::End => drop(self.lingering.remove(&conn)),
            Reading::Bytes(_) | Reading::Nothing if socket.readable => list(&mut self.turns, conn, line),
            Reading::Bytes(_) | Reading::Nothing => {}
        }
    }

    /// Writes what was ordered, as far as the connections take it and the time of a round goes, and reports what left and which
    /// are gone.
    pub(super) fn flush(&mut self, facts: &mut Vec<Fact>) {
        let mut ordered = std::mem::take(&mut self.ordered);
        let mut gathered = std::mem::take(&mut self.gathered);
        let mut next = ordered.drain(..).peekable();
        let began = Instant::now();
        while let Some((conn, bytes)) = next.next() {
            gathered.push(bytes);
            while let Some((_, bytes)) = next.next_if(|(other, _)| *other == conn) {
                gathered.push(bytes);
            }
            if self.puts_off(began) {
                self.put_off(conn);
            }
            self.write(conn, &mut gathered, facts);
            gathered.clear();
        }
        drop(next);
        let mut finishing = std::mem::take(&mut self.finishing);
        for conn in finishing.drain(..) {
            if let Some(line) = self.lines.get_mut(&conn) {
                line.ending = true;
                self.write(conn, &mut [], facts);
            }
        }
        // They keep their memory for the next round; nothing was added meanwhile.
        (self.ordered, self.gathered, self.finishing) = (ordered, gathered, finishing);
    }

    /// Goes on with the lines that have become writable or were put off, as far as the time of a round goes.
    pub(super) fn resume(&mut self, facts: &mut Vec<Fact>) {
        self.writable.take(&mut self.resumable);
        let began = Instant::now();
        while let Some(conn) = self.resumable.pop_front() {
            if let Some(line) = self.lines.get_mut(&conn) {
                line.blocked = false;
                self.write(conn, &mut [], facts);
            }
            if self.puts_off(began) {
                return;
            }
        }
    }

    /// Whether what is left to be written in a round that began writing then can wait for the next.
    fn puts_off(&self, began: Instant) -> bool {
        self.resumable.len() < PUT_OFF_MOST && began.elapsed() >= ROUND_WRITES
    }

    /// Has a line keep what is written to it until [`Self::resume`], as if its socket were full.
    fn put_off(&mut self, conn: ConnId) {
        if let Some(line) = self.lines.get_mut(&conn).filter(|line| !line.blocked) {
            line.blocked = true;
            self.resumable.push_back(conn);
        }
    }

    /// Ends the lines whose time for closing is over.
    pub(super) fn expire(&mut self, now: Instant, facts: &mut Vec<Fact>) {
        while let Some(&(at, conn)) = self.closing.front() {
            if at > now && self.lines.contains_key(&conn) {
                break;
            }
            self.closing.pop_front();
            if let Some(line) = self.lines.remove(&conn) {
                leave(&line, Mode::Drop);
                facts.push(Fact::Closed(conn));
            }
        }
        while let Some(&(at, conn)) = self.lingering_until.front() {
            if at > now && self.lingering.contains_key(&conn) {
                break;
            }
            self.lingering_until.pop_front();
            self.lingering.remove(&conn);
        }
    }

    /// When [`Self::expire`] is due.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let fronts = [self.closing.front(), self.lingering_until.front()];
        fronts.into_iter().flatten().map(|&(at, _)| at).min()
    }

    /// Whether everything queued has left.
    pub(super) fn idle(&self) -> bool {
        self.ordered.is_empty() && self.lines.values().all(|line| line.is_empty() && !line.closing)
    }

    fn write(&mut self, conn: ConnId, fresh: &mut [Bytes], facts: &mut Vec<Fact>) {
        let Some(line) = self.lines.get_mut(&conn) else {
            return;
        };
        let (sent, progress) = line.write(fresh);
        if sent > 0 {
            facts.push(Fact::Sent(conn, sent));
        }
        let mode = match progress {
            Progress::Waiting => return,
            // Orderly: the peer shall read what was sent before it sees the end, so what it still sends is taken in
            // and thrown away for a moment; closing with unread bytes would make the kernel send a reset.
            Progress::Finished => Mode::Linger,
            Progress::Failed => Mode::Drop,
        };
        if let Some(line) = self.lines.remove(&conn) {
            leave(&line, mode);
            if mode == Mode::Linger && matches!(line.side, Side::Socket(_)) {
                self.linger(conn, line);
            }
        }
        facts.push(Fact::Closed(conn));
    }

    fn linger(&mut self, conn: ConnId, mut line: Box<Line>) {
        if line.set_reading(true) {
            list(&mut self.turns, conn, &mut line);
        }
        self.lingering.insert(conn, line);
        self.lingering_until.push_back((Instant::now() + LINGER, conn));
    }
}

/// Notes that a socket is to be read.
fn list(turns: &mut Turns, conn: ConnId, line: &mut Line) {
    if let Side::Socket(socket) = &mut line.side
        && !socket.listed
    {
        socket.listed = true;
        // Nobody waits for what is said to one that has ended: hundreds that end at once hold up no device.
        turns.list(conn, socket.greedy || socket.ended);
    }
}

/// Tells the reader of a wrapped stream that the driver is finished with it.
fn leave(line: &Line, mode: Mode) {
    if let Side::Stream(wrapped) = &line.side {
        wrapped.gate.set(mode);
    }
}

#[cfg(test)]
mod tests {
    use super::{CLOSE_WITHIN, Fact, Lines};
    use crate::connection::{Connection, Gate, Mode, Transport};
    use crate::driver::bell::Bell;
    use bytes::Bytes;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Instant;
    use tidegate_engine::id::ConnId;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    const CONN: ConnId = ConnId(7);

    /// A connection whose socket takes `room` bytes until its peer reads.
    fn connected(room: usize) -> (Lines, DuplexStream, Arc<Gate>) {
        let (ours, theirs) = duplex(room);
        let gate = Arc::new(Gate::default());
        let mut lines = Lines::new(&Arc::new(Bell::new().unwrap()));
        let transport = Transport::Stream { writer: Box::pin(ours), gate: Arc::clone(&gate) };
        lines.attach(Connection { conn: CONN, transport });
        (lines, theirs, gate)
    }

    fn mode(gate: &Gate) -> Mode {
        gate.poll_mode(&Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_leaves_when_it_is_writable() {
        let (mut lines, mut peer, _gate) = connected(4);
        let mut facts = Vec::new();
        lines.send(CONN, Bytes::from_static(b"abc"));
        lines.send(CONN, Bytes::from_static(b"defgh"));
        lines.flush(&mut facts);
        assert_eq!(facts.iter().map(sent).sum::<usize>(), 4);
        assert!(!lines.idle());

        let mut read = [0; 8];
        let mut got = peer.read(&mut read).await.unwrap();
        while got < read.len() {
            assert!(lines.stirred(false), "reading made room");
            lines.resume(&mut facts);
            got += peer.read(&mut read[got..]).await.unwrap();
        }
        assert_eq!(&read, b"abcdefgh");
        assert_eq!(facts.iter().map(sent).sum::<usize>(), 8);
        assert!(lines.idle());
    }

    #[tokio::test]
    async fn a_line_that_was_put_off_goes_on_in_order_and_before_its_end() {
        let (mut lines, mut peer, _gate) = connected(64);
        let mut facts = Vec::new();
        lines.put_off(CONN);
        lines.send(CONN, Bytes::from_static(b"ab"));
        lines.flush(&mut facts);
        lines.send(CONN, Bytes::from_static(b"cd"));
        lines.close(CONN, Instant::now());
        lines.flush(&mut facts);
        assert_eq!(facts, [], "it waits for its turn");
        assert!(lines.stirred(true), "which comes without a sleep");
        lines.resume(&mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 4), Fact::Closed(CONN)]);
        let mut read = Vec::new();
        peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"abcd");
    }

    #[tokio::test]
    async fn a_close_lets_what_was_ordered_before_leave() {
        let (mut lines, mut peer, gate) = connected(64);
        let mut facts = Vec::new();
        lines.send(CONN, Bytes::from_static(b"bye"));
        lines.close(CONN, Instant::now());
        lines.send(CONN, Bytes::from_static(b"too late"));
        lines.flush(&mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 3), Fact::Closed(CONN)]);
        assert!(!lines.knows(CONN));
        assert_eq!(mode(&gate), Mode::Linger);
        let mut read = Vec::new();
        peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"bye");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_cannot_keep_its_connection() {
        let (mut lines, _peer, gate) = connected(1);
        let mut facts = Vec::new();
        let now = Instant::now();
        lines.send(CONN, Bytes::from_static(b"bye"));
        lines.close(CONN, now);
        lines.flush(&mut facts);
        lines.expire(now, &mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 1)]);
        assert_eq!(lines.next_expiry(), Some(now + CLOSE_WITHIN));
        lines.expire(now + CLOSE_WITHIN, &mut facts);
        assert_eq!(facts, [Fact::Sent(CONN, 1), Fact::Closed(CONN)]);
        assert_eq!(mode(&gate), Mode::Drop);
    }

    #[tokio::test]
    async fn the_end_is_reported_once() {
        let (mut lines, peer, _gate) = connected(64);
        let mut facts = Vec::new();
        drop(peer);
        lines.send(CONN, Bytes::from_static(b"abc"));
        lines.flush(&mut facts);
        assert_eq!(facts, [Fact::Closed(CONN)]);
        assert!(!lines.gone(CONN), "the reader's report comes second");
    }

    fn sent(fact: &Fact) -> usize {
        match fact {
            Fact::Sent(_, count) => *count,
            Fact::Closed(_) | Fact::Verified(..) => 0,
        }
    }
}
