//! What was lost or discarded, as the ledger takes it: of whom, how much, from when, and why.

use crate::id::{DeviceId, LaneId};
use crate::message::Message;
use crate::topic::Topic;

/// Messages that were kept and will never reach their upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The lane that they stood in; `None` when that cannot be told any more.
    pub lane: Option<LaneId>,
    /// Whose they were; `None`: of several devices, or nobody can tell.
    pub device: Option<DeviceId>,
    /// Under which topic; `None`: under several, or nobody can tell.
    pub topic: Option<Topic>,
    /// How many.
    pub count: u64,
    /// When the first and the last of them were received, in milliseconds since 1970, as the gateway's clock had it then; `None`
    /// when nobody can tell.
    pub received: Option<(i64, i64)>,
    /// Why.
    pub reason: LossReason,
}

impl Loss {
    /// One message of a lane.
    #[must_use]
    pub fn of(lane: Option<LaneId>, message: &Message, reason: LossReason) -> Self {
        let at = message.received.unix_ms;
        Self {
            lane,
            device: Some(message.device.clone()),
            topic: Some(message.topic.clone()),
            count: 1,
            received: Some((at, at)),
            reason,
        }
    }

    /// Rows of a lane of which nobody can tell any more what they were.
    #[must_use]
    pub const fn damage(lane: LaneId, count: u64) -> Self {
        Self {
            lane: Some(lane),
            device: None,
            topic: None,
            count,
            received: None,
            reason: LossReason::Damaged,
        }
    }
}

/// Why messages were lost or discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LossReason {
    /// The medium damaged what it held.
    Damaged = 1,
    /// They waited longer than their route lets them (`expires_after`).
    Expired = 2,
    /// There was no room, and they were the oldest (`when_full = "drop-oldest"`).
    DroppedOldest = 3,
    /// There was no room when they came (`when_full = "drop-newest"`).
    DroppedNewest = 4,
    /// There was no room, and others of the same topic stand for them (`when_full = "thin"`).
    Thinned = 5,
    /// An operator gave them up among the dead letters.
    Purged = 6,
}

impl LossReason {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Damaged, Self::Expired, Self::DroppedOldest, Self::DroppedNewest, Self::Thinned, Self::Purged];

    /// Its name in tombstones, in `status` and in metrics: an interface, not to be changed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Expired => "expired",
            Self::DroppedOldest => "dropped-oldest",
            Self::DroppedNewest => "dropped-newest",
            Self::Thinned => "thinned",
            Self::Purged => "purged",
        }
    }
}
