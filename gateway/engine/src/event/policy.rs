//! What a route's messages may take of the spool, what becomes of them when there is no more, and in which order they leave.

use crate::time::Duration;

/// What a route's messages may take of the spool, what becomes of them when there is no more, and in which order they leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of its messages on the disk at the most; `None`: as much as the spool has.
    pub max_bytes: Option<u64>,
    /// What is discarded when that, or the spool, is full.
    pub when_full: WhenFull,
    /// In which order they leave.
    pub order: Order,
    /// A message that has waited so long, in elapsed time and a thirty-second part more at the most, is discarded. What counts is the time
    /// during which the gateway ran, and after a crash what it has written down of it ([`Limits::ages_every`](crate::limits::Limits)).
    pub expires_after: Option<Duration>,
}

/// In which order a route's messages leave (P3). Live is what comes in while the upstream is there (connected, and not asking for a pause)
/// and stays in memory until it has left; all else is backlog: what came while the upstream was away, what an earlier life of the gateway
/// has left, and what there was no room for in memory. Live messages of a device keep their order, and so do those of its backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they came, without any difference.
    #[default]
    OldestFirst,
    /// The backlog goes when no live message waits.
    LiveFirst,
    /// While both wait, so many of a hundred messages are the backlog's, from 1 to 99.
    Interleave(u8),
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
