//! How other threads wake the driver: an event file that stands in its epoll beside the sockets. A driver that is awake
//! is not rung for: it looks at everything before it sleeps.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Wake;

/// The bell. As a waker it rings.
#[derive(Debug)]
pub(super) struct Bell {
    /// Never read: edge-triggered, each write is told of, and its count does not overflow in an age.
    file: OwnedFd,
    /// The driver sleeps, or is about to.
    wanted: AtomicBool,
}

impl Bell {
    /// # Errors
    /// When the kernel has no file for it.
    pub(super) fn new() -> io::Result<Self> {
        let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { file, wanted: AtomicBool::new(false) })
    }

    /// From now on whoever has something for the driver rings. The driver looks for what came before after this, and
    /// then sleeps.
    pub(super) fn listen(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        // Beside the fence in `ring`: either we see what was left there, or they see that we want to be rung for.
        fence(Ordering::SeqCst);
    }

    /// The driver is awake.
    pub(super) fn ignore(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Wakes the driver, for which something has been left before this.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed) {
            // It fails only when the count would overflow, and then the driver has been rung for.
            let _ = rustix::io::write(&self.file, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
