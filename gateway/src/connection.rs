//! A stream connection between the listener that accepted it and the driver. A plain socket is handed over whole; of a
//! wrapped stream the listener keeps the reading side, and the driver says through the gate whether to read.

use crate::inbox::{DriverGone, Inbox};
use crate::listen::admission::Permit;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use tidegate_engine::event::{Input, Peer, StreamPeer};
use tidegate_engine::id::ConnId;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// New connections that may wait for the driver; listeners wait beyond that.
const ATTACHING: usize = 64;

/// Who has come, and what is spoken with it.
#[derive(Clone, Debug)]
pub enum Newcomer {
    /// MQTT.
    Mqtt(Peer),
    /// CoAP (RFC 8323).
    Coap(StreamPeer),
}

impl Newcomer {
    /// Where it comes from.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Mqtt(peer) => peer.address,
            Self::Coap(peer) => peer.address,
        }
    }

    /// How the engine hears of it.
    fn opened(self, conn: ConnId) -> Input {
        match self {
            Self::Mqtt(peer) => Input::Opened { conn, peer },
            Self::Coap(peer) => Input::CoapOpened { conn, peer },
        }
    }
}

/// A connection on its way to the driver.
pub struct Connection {
    /// Its number.
    pub conn: ConnId,
    /// What carries it.
    pub transport: Transport,
}

/// What carries a connection.
pub enum Transport {
    /// A plain socket, not blocking: the driver reads and writes it itself.
    Socket {
        /// The socket.
        stream: TcpStream,
        /// Its place among the connections.
        permit: Permit,
    },
    /// A wrapped stream (TLS, WebSocket): a task reads it, the driver writes.
    Stream {
        /// Where the driver writes.
        writer: Pin<Box<dyn AsyncWrite + Send>>,
        /// How the driver tells the reader what to do.
        gate: Arc<Gate>,
    },
}

/// The listeners' way to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Entrance {
    inbox: Inbox,
    attach: mpsc::Sender<Connection>,
    next: Arc<AtomicU64>,
}

impl Entrance {
    /// An entrance into an inbox, and the driver's end of it.
    #[must_use]
    pub fn new(inbox: Inbox) -> (Self, mpsc::Receiver<Connection>) {
        let (attach, attached) = mpsc::channel(ATTACHING);
        let entrance = Self { inbox, attach, next: Arc::new(AtomicU64::new(1)) };
        (entrance, attached)
    }

    /// Hands a plain socket over to the driver, which reads and writes it from now on.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will take it.
    pub async fn adopt(&self, who: Newcomer, stream: TcpStream, permit: Permit) -> Result<(), DriverGone> {
        self.enter(who, Transport::Socket { stream, permit }).await.map(drop)
    }

    /// Announces a wrapped stream: the driver gets the writing side before it hears of the connection.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will take it.
    pub async fn open(
        &self,
        who: Newcomer,
        writer: impl AsyncWrite + Send + 'static,
    ) -> Result<(ConnId, Arc<Gate>), DriverGone> {
        let gate = Arc::new(Gate::default());
        let transport = Transport::Stream { writer: Box::pin(writer), gate: Arc::clone(&gate) };
        Ok((self.enter(who, transport).await?, gate))
    }

    /// Hands a connection over and announces it: both or neither, for a handshake may be given up while it waits here, and nobody
    /// would ever close a connection that is not announced.
    async fn enter(&self, who: Newcomer, transport: Transport) -> Result<ConnId, DriverGone> {
        let attach = self.attach.reserve().await.map_err(|_| DriverGone)?;
        let report = self.inbox.reserve().await?;
        let conn = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        attach.send(Connection { conn, transport });
        report.send(who.opened(conn));
        Ok(conn)
    }

    /// Where everything else is reported.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

/// What the reading side of a connection is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Read and report.
    #[default]
    Read,
    /// Leave in the kernel what comes: the peer's window closes.
    Hold,
    /// The writing side is finished: throw away what comes, for a moment, then drop the connection. Nothing is reported.
    Linger,
    /// Drop the connection. Nothing is reported.
    Drop,
}

/// Carries the [`Mode`] from the driver to the reader, and holds it to one piece at a time: what it has reported must be heard
/// before it reads on, so that one stream cannot fill the inbox before others get a turn.
#[derive(Debug, Default)]
pub struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    mode: Mode,
    /// A piece is on its way to the driver.
    unheard: bool,
    reader: Option<Waker>,
}

impl Gate {
    /// Sets the mode and wakes the reader.
    pub fn set(&self, mode: Mode) {
        self.change(|state| std::mem::replace(&mut state.mode, mode) != mode);
    }

    /// The reader reports a piece.
    pub fn report(&self) {
        self.change(|state| {
            state.unheard = true;
            false // It is the reader who says so.
        });
    }

    /// The driver has heard it.
    pub fn heard(&self) {
        self.change(|state| std::mem::take(&mut state.unheard));
    }

    /// What the reader is to do, and a wake-up when that changes.
    pub fn poll_mode(&self, cx: &Context<'_>) -> Mode {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        if state.unheard && state.mode == Mode::Read { Mode::Hold } else { state.mode }
    }

    /// Changes the state, and wakes the reader when that says so.
    fn change(&self, change: impl FnOnce(&mut GateState) -> bool) {
        let reader = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if change(&mut state) { state.reader.take() } else { None }
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entrance, Gate, Mode, Newcomer};
    use crate::inbox::{INBOX_INPUTS, inbox};
    use std::pin::pin;
    use std::task::{Context, Waker};
    use tidegate_engine::event::{Input, Peer};

    #[test]
    fn a_stream_is_read_on_when_its_last_piece_was_heard() {
        let (gate, cx) = (Gate::default(), Context::from_waker(Waker::noop()));
        assert_eq!(gate.poll_mode(&cx), Mode::Read);
        gate.report();
        assert_eq!(gate.poll_mode(&cx), Mode::Hold);
        gate.heard();
        assert_eq!(gate.poll_mode(&cx), Mode::Read);
        gate.report();
        gate.set(Mode::Drop);
        assert_eq!(gate.poll_mode(&cx), Mode::Drop, "its end waits for nobody");
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_while_the_driver_is_busy_leaves_nothing_behind() {
        let (inbox, mut facts) = inbox();
        let (entrance, mut attached) = Entrance::new(inbox.clone());
        inbox.send_all((0..INBOX_INPUTS).map(|_| Input::Tick).collect()).await.unwrap();
        let peer = Newcomer::Mqtt(Peer::at("192.0.2.1:5000".parse().unwrap()));
        {
            let mut entering = pin!(entrance.open(peer.clone(), tokio::io::sink()));
            assert!(entering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert!(attached.try_recv().is_err());
        while facts.try_recv().is_ok() {}
        let (conn, _gate) = entrance.open(peer, tokio::io::sink()).await.unwrap();
        assert_eq!(attached.try_recv().unwrap().conn, conn);
        assert!(matches!(facts.try_recv(), Ok(Input::Opened { conn: opened, .. }) if opened == conn));
    }
}
