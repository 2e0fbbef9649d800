//! The one way into the driver: listeners, store and upstreams report facts here and know nothing of one another.

use tidegate_engine::event::Input;
use tokio::sync::mpsc;

/// Facts that may wait for the driver. A full inbox makes their senders wait: that is the back pressure on sockets.
pub(crate) const INBOX_INPUTS: usize = 1_024;

/// The sending end, cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::Sender<Input>);

/// The driver is gone: whoever reports may stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver has stopped")]
pub struct DriverGone;

/// Makes an inbox and its receiving end.
#[must_use]
pub fn inbox() -> (Inbox, mpsc::Receiver<Input>) {
    let (sender, receiver) = mpsc::channel(INBOX_INPUTS);
    (Inbox(sender), receiver)
}

impl Inbox {
    /// Reports a fact from a task, and waits while the inbox is full.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will read it.
    pub async fn send(&self, input: Input) -> Result<(), DriverGone> {
        self.0.send(input).await.map_err(|_| DriverGone)
    }

    /// A place for one fact, which is then reported without waiting; waits while the inbox is full.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will read it.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, Input>, DriverGone> {
        self.0.reserve().await.map_err(|_| DriverGone)
    }

    /// Reports facts that came together, in their order, so that the driver takes them in one round where it can; waits
    /// while the inbox is full.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will read them.
    pub async fn send_all(&self, inputs: Vec<Input>) -> Result<(), DriverGone> {
        let mut inputs = inputs.into_iter();
        while inputs.len() > 0 {
            let room = inputs.len().min(INBOX_INPUTS);
            let permits = self.0.reserve_many(room).await.map_err(|_| DriverGone)?;
            for (permit, input) in permits.zip(inputs.by_ref()) {
                permit.send(input);
            }
        }
        Ok(())
    }

    /// Reports a fact from a thread of its own, and blocks while the inbox is full.
    ///
    /// # Errors
    /// [`DriverGone`] when nobody will read it.
    pub fn send_blocking(&self, input: Input) -> Result<(), DriverGone> {
        self.0.blocking_send(input).map_err(|_| DriverGone)
    }
}
