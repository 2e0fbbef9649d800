//! Which wrapped streams (TLS, WebSocket) became writable: they ring for the driver. Plain sockets have no need of it:
//! the poller tells of them.

use super::bell::Bell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use tidegate_engine::id::ConnId;

/// The streams that became writable.
#[derive(Debug)]
pub(super) struct Writable {
    ready: Mutex<Vec<ConnId>>,
    bell: Arc<Bell>,
}

impl Writable {
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        Self { ready: Mutex::default(), bell }
    }

    /// What a stream is polled with.
    pub(super) fn waker(self: &Arc<Self>, conn: ConnId) -> Waker {
        Waker::from(Arc::new(WritableConn { conn, writable: Arc::clone(self) }))
    }

    /// Adds to `ready` those that became writable.
    pub(super) fn take(&self, ready: &mut VecDeque<ConnId>) {
        ready.extend(self.ready.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
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
        self.writable.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.conn);
        self.writable.bell.ring();
    }
}
