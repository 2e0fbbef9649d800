//! Watches the sockets that the driver reads and writes itself, and the bell: one epoll, in which the driver sleeps.
//! Edge-triggered: it tells of a change, and whoever reads or writes remembers what is left. Owns no socket.

use super::bell::Bell;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::id::ConnId;

/// Sockets that one look tells of at the most; the others come with the next.
const EVENTS: usize = 1_024;

/// What is watched. Connections are told apart by their numbers, which never come near the marks of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// A stream connection.
    Line(ConnId),
    /// A datagram socket.
    Datagrams(u16),
    /// The bell.
    Bell,
}

/// The mark of a datagram socket, with its number in the lowest bits.
const DATAGRAMS: u64 = 1 << 63;
/// The mark of the bell.
const BELL: u64 = 1 << 62;

impl Watched {
    fn mark(self) -> EventData {
        EventData::new_u64(match self {
            Self::Line(conn) => conn.0,
            Self::Datagrams(number) => DATAGRAMS | u64::from(number),
            Self::Bell => BELL,
        })
    }

    fn from_mark(mark: u64) -> Self {
        match mark {
            BELL => Self::Bell,
            _ if mark & DATAGRAMS != 0 => Self::Datagrams((mark & u64::from(u16::MAX)) as u16),
            _ => Self::Line(ConnId(mark)),
        }
    }
}

/// What happened to something watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happened {
    pub(super) what: Watched,
    /// Something can be read, the end of the stream or an error included.
    pub(super) readable: bool,
    /// The peer has ended its side, or the connection is broken: reading goes on until it says so.
    pub(super) ended: bool,
    /// Something can be written, or an attempt tells why not.
    pub(super) writable: bool,
}

/// The driver's epoll.
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    /// # Errors
    /// When the kernel gives none.
    pub(super) fn new(bell: &Arc<Bell>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, Watched::Bell.mark(), EventFlags::IN | EventFlags::ET)?;
        Ok(Self(epoll))
    }

    /// Watches a socket until it is closed. What has happened already is told as well.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(super) fn watch(&self, socket: impl AsFd, what: Watched) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, socket, what.mark(), flags)?)
    }

    /// Sleeps until something has happened, and no longer than `longest` (rounded up to milliseconds; for ever without),
    /// and tells what; nothing after an interruption.
    pub(super) fn wait(&self, longest: Option<Duration>, tell: impl FnMut(Happened)) {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        // For a time beyond what the kernel takes: nothing happens before that either.
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        // The only failure that looking at our own file can have is an interruption.
        if let Ok((events, _)) = epoll::wait(&self.0, &mut events, longest.as_ref()) {
            events.iter().map(Happened::from).for_each(tell);
        }
    }
}

impl From<&Event> for Happened {
    fn from(event: &Event) -> Self {
        let flags = event.flags;
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let ended = broken || flags.contains(EventFlags::RDHUP);
        Self {
            what: Watched::from_mark(event.data.u64()),
            readable: ended || flags.contains(EventFlags::IN),
            ended,
            writable: broken || flags.contains(EventFlags::OUT),
        }
    }
}
