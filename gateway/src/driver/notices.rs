//! What the engine tells an operator, as log lines with fields. Each kind that a peer can cause is limited in rate on its own,
//! so that a flood of one hides none of the others.

use crate::logging::{Pass, Throttle};
use std::collections::HashMap;
use std::time::Instant;
use tidegate_engine::event::{LossReason, Notice, Proof, Setup, StoreFault};
use tidegate_engine::id::LaneId;

/// Logs notices.
#[derive(Debug, Default)]
pub(super) struct Notices {
    routes: HashMap<LaneId, String>,
    connected: Throttle,
    disconnected: Throttle,
    refused: Throttle,
    signed_in: Throttle,
    sign_ins_refused: Throttle,
    taken_over: Throttle,
    denied: Throttle,
    sessions_lost: Throttle,
    sessions_ended: Throttle,
    retained_lost: Throttle,
    not_retained: Throttle,
    overruns: Throttle,
    buried: Throttle,
    holding: Throttle,
    dropped: Throttle,
    lost: Throttle,
    tombstones_refused: Throttle,
    store: Throttle,
}

impl Notices {
    /// Learns the names of the routes.
    pub(super) fn learn(&mut self, setup: &Setup) {
        self.routes = setup.routes.iter().map(|r| (r.lane, r.name.clone())).collect();
    }

    fn route(&self, lane: LaneId) -> &str {
        self.routes.get(&lane).map_or("unknown", String::as_str)
    }

    fn lane(&self, lane: Option<LaneId>) -> &str {
        lane.map_or("unknown", |lane| self.route(lane))
    }

    /// Writes one.
    pub(super) fn log(&mut self, notice: &Notice) {
        let now = Instant::now();
        match notice {
            Notice::Connected { device, conn, protocol } => {
                if let Some(Pass { suppressed }) = self.connected.allow(now) {
                    tracing::info!(%device, conn = conn.0, protocol, suppressed, "connected");
                }
            }
            Notice::Disconnected { device, conn, reason } => {
                if let Some(Pass { suppressed }) = self.disconnected.allow(now) {
                    tracing::info!(%device, conn = conn.0, suppressed, "disconnected: {}", reason.escape_debug());
                }
            }
            Notice::Refused { peer, reason } => {
                if let Some(Pass { suppressed }) = self.refused.allow(now) {
                    tracing::warn!(%peer, suppressed, "refused: {}", reason.escape_debug());
                }
            }
            Notice::SignedIn { device, client, peer, proof } => {
                if *proof != Proof::None
                    && let Some(Pass { suppressed }) = self.signed_in.allow(now)
                {
                    tracing::info!(%device, %client, %peer, ?proof, suppressed, "signed in");
                }
            }
            Notice::SignInRefused { peer, name, reason } => {
                if let Some(Pass { suppressed }) = self.sign_ins_refused.allow(now) {
                    tracing::warn!(%peer, name, suppressed, "sign-in refused: {reason}");
                }
            }
            Notice::TakenOver { client, old, new } => {
                if let Some(Pass { suppressed }) = self.taken_over.allow(now) {
                    tracing::info!(%client, %old, %new, suppressed, "the same client connected again");
                }
            }
            Notice::Denied { device, action, topic } => {
                if let Some(Pass { suppressed }) = self.denied.allow(now) {
                    tracing::warn!(%device, ?action, topic, suppressed, "denied: its configuration does not allow this");
                }
            }
            Notice::Careful { lives } => tracing::warn!(
                lives,
                "the last lives of this gateway ended soon and not in order: the first messages are handed over one by one, to find the one that may be at fault"
            ),
            Notice::Requeued { id, lane } => {
                let (route, epoch, seq) = (self.route(*lane), id.epoch, id.seq.0);
                tracing::debug!(route, epoch, seq, "a dead letter is sent again");
            }
            Notice::Buried { id, lane, reason } => {
                if let Some(Pass { suppressed }) = self.buried.allow(now) {
                    let (route, epoch, seq) = (self.route(*lane), id.epoch, id.seq.0);
                    tracing::warn!(
                        route,
                        epoch,
                        seq,
                        suppressed,
                        "a message went to the dead letters: {}",
                        reason.escape_debug()
                    );
                }
            }
            Notice::SessionLost { client, reason } => {
                if let Some(Pass { suppressed }) = self.sessions_lost.allow(now) {
                    tracing::error!(
                        client,
                        suppressed,
                        "something stored of a session (itself, a message, its will) was lost: {reason}"
                    );
                }
            }
            Notice::SessionEnded { client, reason } => {
                if let Some(Pass { suppressed }) = self.sessions_ended.allow(now) {
                    tracing::warn!(%client, suppressed, "a session was ended with what waited in it: {reason}");
                }
            }
            Notice::SubscriberOverrun { client, dropped } => {
                if let Some(Pass { suppressed }) = self.overruns.allow(now) {
                    tracing::warn!(
                        client = client.as_str(),
                        dropped,
                        suppressed,
                        "messages are dropped for a subscriber that does not take them (limits.subscriber_messages, subscriber_size, subscribers_size)"
                    );
                }
            }
            Notice::RetainedLost { topic, reason } => {
                if let Some(Pass { suppressed }) = self.retained_lost.allow(now) {
                    tracing::error!(topic, suppressed, "a stored retained message was lost: {reason}");
                }
            }
            Notice::NotRetained { topic } => {
                if let Some(Pass { suppressed }) = self.not_retained.allow(now) {
                    tracing::warn!(
                        topic = %topic.as_str().escape_debug(),
                        suppressed,
                        "a message was passed on but not retained: there is no room for another \
                         (limits.retained_messages, limits.retained_size)"
                    );
                }
            }
            Notice::Lost { lane, reason: LossReason::Damaged, messages } => {
                let route = self.lane(*lane);
                tracing::error!(
                    route,
                    messages,
                    "stored messages were damaged and are lost; check the medium"
                );
            }
            Notice::Lost { lane, reason, messages } => {
                if let Some(Pass { suppressed }) = self.lost.allow(now) {
                    let (route, reason) = (self.lane(*lane), reason.name());
                    tracing::warn!(
                        route,
                        reason,
                        messages,
                        suppressed,
                        "messages were discarded, as the configuration says"
                    );
                }
            }
            Notice::TombstoneRefused { lane, reason } => {
                if let Some(Pass { suppressed }) = self.tombstones_refused.allow(now) {
                    tracing::warn!(
                        route = self.lane(*lane),
                        suppressed,
                        "the upstream does not take a tombstone, which tells it of lost messages; it is tried again: {}",
                        reason.escape_debug()
                    );
                }
            }
            Notice::Holding { on, reason } => {
                if let Some(Pass { suppressed }) = self.holding.allow(now) {
                    if *on {
                        tracing::warn!(suppressed, "devices are told to hold: {reason}");
                    } else {
                        tracing::info!(suppressed, "devices may go on: {reason}");
                    }
                }
            }
            Notice::Store(fault) => {
                if let Some(Pass { suppressed }) = self.store.allow(now) {
                    match fault {
                        None => tracing::info!(suppressed, "the store works again"),
                        Some(StoreFault::Full) => tracing::error!(
                            suppressed,
                            "the store is full: nothing new is acknowledged until messages leave or there is more room (spool.max_size, disk)"
                        ),
                        Some(StoreFault::Failed(why)) => {
                            tracing::error!(
                                suppressed,
                                "the store failed, and nothing new is acknowledged until it works: {why}"
                            );
                        }
                    }
                }
            }
            Notice::Dropped { messages } => {
                if let Some(Pass { suppressed }) = self.dropped.allow(now) {
                    tracing::warn!(
                        messages,
                        suppressed,
                        "QoS 0 or NON messages were dropped because of an overload"
                    );
                }
            }
        }
    }
}
