//! The reading side of a stream connection, whatever carries it: plain TCP, TLS, WebSocket.
//! A connection that is silent owns no buffer.

use crate::connection::{Gate, Mode};
use crate::inbox::Inbox;
use bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tidegate_engine::event::Input;
use tidegate_engine::id::ConnId;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;

/// The most taken from one connection at a time, in bytes. With the inbox's bound this bounds what is read and not
/// yet handled; larger pieces gained nothing, as one packet of telemetry has about 150 bytes.
const READ_BYTES: usize = 8 << 10;

/// How long a connection that we ended may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// One for all connections: what was read is copied out in its exact size at once.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Comes when what let a peer in lets it in no longer.
pub(super) type Revoked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Reads until the end, and reports everything that comes, a revocation, and the end.
pub(super) async fn read(
    mut reader: impl AsyncRead + Unpin,
    conn: ConnId,
    gate: &Gate,
    inbox: &Inbox,
    mut revoked: Option<Revoked>,
) {
    loop {
        let step = poll_fn(|cx| {
            if revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
                revoked = None;
                return Poll::Ready(Step::Revoked);
            }
            poll(&mut reader, gate, cx)
        });
        match step.await {
            // It is read on: whoever decides what becomes of it closes it.
            Step::Revoked => {
                if inbox.send(Input::Revoked { conn }).await.is_err() {
                    return;
                }
            }
            Step::Read(Ok(bytes)) if !bytes.is_empty() => {
                gate.report();
                if inbox.send(Input::Received { conn, bytes }).await.is_err() {
                    return;
                }
            }
            Step::Read(_) => {
                // The end, or a failure. The driver knows whether the engine has heard of it already; when the
                // driver is gone nobody needs to hear it.
                let _ = inbox.send(Input::Closed { conn }).await;
                return;
            }
            Step::Linger => {
                let drain =
                    async { while poll_fn(|cx| take(&mut reader, cx)).await.is_ok_and(|b| !b.is_empty()) {} };
                let _ = timeout(LINGER, drain).await;
                return;
            }
            Step::Drop => return,
        }
    }
}

enum Step {
    Revoked,
    Read(io::Result<Bytes>),
    Linger,
    Drop,
}

fn poll(reader: &mut (impl AsyncRead + Unpin), gate: &Gate, cx: &mut Context<'_>) -> Poll<Step> {
    match gate.poll_mode(cx) {
        Mode::Read => take(reader, cx).map(Step::Read),
        Mode::Hold => Poll::Pending,
        Mode::Linger => Poll::Ready(Step::Linger),
        Mode::Drop => Poll::Ready(Step::Drop),
    }
}

/// What is there; nothing at the end.
fn take(reader: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        Pin::new(reader).poll_read(cx, &mut buffer).map_ok(|()| Bytes::copy_from_slice(buffer.filled()))
    })
}
