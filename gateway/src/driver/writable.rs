//! Which wrapped streams (TLS, WebSocket) became writable, and the driver that waits for them. Plain sockets have no
//! need of it: the poller tells of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use tidegate_engine::id::ConnId;

/// The streams that became writable.
#[derive(Debug, Default)]
pub(super) struct Writable(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    ready: Vec<ConnId>,
    driver: Option<Waker>,
}

impl Writable {
    /// What a stream is polled with.
    pub(super) fn waker(self: &Arc<Self>, conn: ConnId) -> Waker {
        Waker::from(Arc::new(WritableConn { conn, writable: Arc::clone(self) }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one at least.
    pub(super) fn poll(&self, cx: &Context<'_>, ready: &mut Vec<ConnId>) -> Poll<()> {
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
