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

/// The longest sleep. The kernel's oldest call takes no more than 24 days; the newer one, which does, is missing before Linux 5.11
/// and where a filter of system calls does not know it: it would fail at once, for ever.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

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
        let poller = Self(epoll);
        poller.watch(bell, Watched::Bell)?;
        Ok(poller)
    }

    /// Watches a socket until it is closed. What has happened already is told as well.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(super) fn watch(&self, socket: impl AsFd, what: Watched) -> io::Result<()> {
        let flags = match what {
            // Nobody waits until a datagram can be sent, and the kernel would tell of each that was.
            Watched::Datagrams(_) | Watched::Bell => EventFlags::IN,
            Watched::Line(_) => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP,
        };
        Ok(epoll::add(&self.0, socket, what.mark(), flags | EventFlags::ET)?)
    }

    /// Sleeps until something has happened, and no longer than `longest` (rounded up to milliseconds) or, without, a day, and
    /// tells what; nothing after an interruption.
    pub(super) fn wait(&self, longest: Option<Duration>, tell: impl FnMut(Happened)) {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let longest = Timespec::try_from(longest.unwrap_or(LONGEST).min(LONGEST)).ok();
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

#[cfg(test)]
mod tests {
    use super::{LONGEST, Poller, Watched};
    use crate::driver::bell::Bell;
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    fn told(poller: &Poller) -> Vec<Watched> {
        let mut told = Vec::new();
        poller.wait(Some(Duration::ZERO), |happened| told.push(happened.what));
        told
    }

    #[test]
    fn a_datagram_that_left_wakes_nobody() {
        let poller = Poller::new(&Arc::new(Bell::new().unwrap())).unwrap();
        let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        poller.watch(&ours, Watched::Datagrams(3)).unwrap();
        assert_eq!(told(&poller), []);
        for _ in 0..3 {
            ours.send_to(b"x", theirs.local_addr().unwrap()).unwrap();
            theirs.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(told(&poller), []);
        }
        theirs.send_to(b"y", ours.local_addr().unwrap()).unwrap();
        assert_eq!(told(&poller), [Watched::Datagrams(3)]);
    }

    #[test]
    fn the_longest_sleep_fits_into_what_every_kernel_takes() {
        assert!(i32::try_from(LONGEST.as_millis()).is_ok());
    }
}
