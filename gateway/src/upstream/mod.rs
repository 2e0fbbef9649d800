//! The upstream contract: take messages, say what became of each, say when the link comes and goes.
//! Implementations: `amqp091`, `file`. What is common to batches stands in `batch`. One contract test runs them all (`tests/upstream`).

mod amqp091;
mod backoff;
mod batch;
mod file;

pub(crate) use batch::{Body, dictionary_id, train};

use crate::config;
use crate::inbox::Inbox;
use tidegate_engine::event::Publication;
use tidegate_engine::id::{GatewayId, UpstreamId};

/// A running upstream, as the driver holds it; dropping it ends it. Everything it has to say goes to the
/// [`Inbox`] that it was started with:
///
/// - `UpstreamUp` once it can take messages, `UpstreamDown` when it no longer can; after `UpstreamDown` nothing that was
///   handed over before is settled any more. Reconnecting is its own business, with back-off.
/// - `UpstreamBlocked` when the other side asks for a pause. `UpstreamDown` ends the pause.
/// - `Settled` exactly once for each publication, unless `UpstreamDown` came first. `Confirmed` only when the other side
///   has taken responsibility (AMQP: confirm without return; file: synced).
pub trait Upstream: Send {
    /// Hands messages over, in order. Never blocks: the engine's window bounds what is under way.
    /// What is handed over while the link is down is dropped; `UpstreamDown` has been or will be reported.
    fn publish(&mut self, publications: Vec<Publication>);

    /// The engine is about to handle this upstream's `UpstreamUp`: what is handed over from now on is meant for the
    /// new link. The driver performs every order that it has from the engine, calls this, and then lets the engine handle the input.
    ///
    /// Without this line between them, messages handed over for the old link (the engine had not heard of its end) would
    /// leave on the new one, ahead of the earlier ones that the engine is about to send again (P3).
    fn up_seen(&mut self);

    /// Drops the connection and makes a new one; reports `UpstreamDown`.
    fn reset(&mut self);
}

/// Why an upstream cannot even be started. A link that cannot be made is no such reason: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system gives no thread.
    #[error("upstream {upstream}: cannot start its thread: {source}")]
    Thread {
        /// The upstream's name.
        upstream: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A URL cannot be used.
    #[error("upstream {upstream}: urls: {url:?}: {reason}")]
    Url {
        /// The upstream's name.
        upstream: String,
        /// The URL as written; credentials never stand in it.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Starts an upstream on a thread of its own. It reports `UpstreamUp` when it is ready.
///
/// # Errors
/// [`StartError`], for the operator.
pub fn start(
    id: UpstreamId,
    config: &config::Upstream,
    gateway: &GatewayId,
    inbox: Inbox,
) -> Result<Box<dyn Upstream>, StartError> {
    match &config.kind {
        config::UpstreamKind::Amqp(amqp) => {
            Ok(Box::new(amqp091::Amqp091::start(id, &config.name, config.window, amqp, gateway, inbox)?))
        }
        config::UpstreamKind::File(file) => {
            Ok(Box::new(file::File::start(id, &config.name, config.window, file, gateway, inbox)?))
        }
    }
}

/// A message's identity as the other side sees it (P4): `gateway/device/epoch/sequence`.
pub(crate) fn message_id(gateway: &GatewayId, message: &tidegate_engine::message::Message) -> String {
    format!("{gateway}/{}/{}/{}", message.device, message.id.epoch, message.id.seq.0)
}
