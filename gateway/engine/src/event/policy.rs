//! What a route's messages may take of the spool, and what becomes of them when there is no more.

use crate::time::Duration;

/// What a route's messages may take of the spool, and what becomes of them when there is no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of its messages on the disk at the most; `None`: as much as the spool has.
    pub max_bytes: Option<u64>,
    /// What is discarded when that, or the spool, is full.
    pub when_full: WhenFull,
}

/// What is discarded when there is no room. Only the operator's word lets anything acknowledged go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Nothing: devices are told to hold.
    #[default]
    Refuse,
    /// The messages that have waited longest.
    DropOldest,
    /// Those that come.
    DropNewest,
    /// Of the messages that have waited longest, all but some of each device and topic, and again if that is not enough: a
    /// long outage loses resolution, not history.
    Thin(Keep),
}

impl WhenFull {
    /// Room is made among what waits already.
    #[must_use]
    pub const fn makes_room(self) -> bool {
        matches!(self, Self::DropOldest | Self::Thin(_))
    }
}

/// What stays of a device's messages on one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every n-th.
    Every(u32),
    /// One in so long, by the time of reception; twice as long each time that it was not enough.
    OneIn(Duration),
}
