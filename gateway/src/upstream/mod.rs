//! The upstream contract: take messages, say what became of each, say when the link comes and goes.
//! Implementations: `amqp091`, `file`. One contract test runs them all.

use tidegate_engine::event::Publication;

/// A running upstream, as the driver holds it. Everything it has to say goes to the
/// [`Inbox`](crate::inbox::Inbox) that it was started with:
///
/// - `UpstreamUp` once it can take messages, `UpstreamDown` when it no longer can; after `UpstreamDown` nothing that was
///   handed over before is settled any more. Reconnecting is its own business, with back-off.
/// - `UpstreamBlocked` when the other side asks for a pause.
/// - `Settled` exactly once for each publication, unless `UpstreamDown` came first. `Confirmed` only when the other side
///   has taken responsibility (AMQP: confirm without return; file: synced).
pub trait Upstream: Send {
    /// Hands messages over, in order. Never blocks: the engine's window bounds what is under way.
    /// What is handed over while the link is down is dropped; `UpstreamDown` has been or will be reported.
    fn publish(&mut self, publications: Vec<Publication>);

    /// Drops the connection and makes a new one; reports `UpstreamDown`.
    fn reset(&mut self);
}
