//! Watches the plain sockets of all connections: one epoll of the driver's own, which the runtime watches as a single
//! file. A socket so costs neither a task nor a registration with the runtime. Edge-triggered: it tells of a change, and
//! whoever reads or writes remembers what is left. Owns no socket.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use tidegate_engine::id::ConnId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sockets that one look tells of at the most; the others come with the next.
const EVENTS: usize = 1_024;

/// What happened to a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happened {
    pub(super) conn: ConnId,
    /// Something can be read, the end of the stream or an error included.
    pub(super) readable: bool,
    /// The peer has ended its side, or the connection is broken: reading goes on until it says so.
    pub(super) ended: bool,
    /// Something can be written, or an attempt tells why not.
    pub(super) writable: bool,
}

/// The driver's epoll.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: AsyncFd<OwnedFd>,
    happened: Vec<Happened>,
}

impl Poller {
    /// Must run inside the runtime.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        #[allow(unsafe_code, reason = "the runtime has no safe way to watch a file that is not its own")]
        // SAFETY: an `OwnedFd` names the same open file for as long as it lives, and it lives in the `AsyncFd`.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(Self { epoll, happened: Vec::new() })
    }

    /// Watches a socket until it is closed. What has happened already is told as well.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(super) fn watch(&self, socket: &TcpStream, conn: ConnId) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(self.epoll.get_ref(), socket, EventData::new_u64(conn.0), flags)?)
    }

    /// Waits until something has happened.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut guard = match self.epoll.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                // The runtime is shutting down: the driver will hear it from its other sources.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Ready(Ok(guard)) => guard,
            };
            let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            // The only failure that a look at our own file can have is an interruption.
            let count =
                epoll::wait(self.epoll.get_ref(), &mut events, Some(&at_once)).map_or(0, |(events, _)| {
                    self.happened.extend(events.iter().map(Happened::from));
                    events.len()
                });
            if count < EVENTS {
                guard.clear_ready();
            }
            if count > 0 {
                return Poll::Ready(());
            }
        }
    }

    /// What [`Self::poll`] found.
    pub(super) fn happened(&mut self) -> impl Iterator<Item = Happened> {
        self.happened.drain(..)
    }
}

impl From<&Event> for Happened {
    fn from(event: &Event) -> Self {
        let flags = event.flags;
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let ended = broken || flags.contains(EventFlags::RDHUP);
        Self {
            conn: ConnId(event.data.u64()),
            readable: ended || flags.contains(EventFlags::IN),
            ended,
            writable: broken || flags.contains(EventFlags::OUT),
        }
    }
}
