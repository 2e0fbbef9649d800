//! Deliberate defects. The simulation plants one at a time and must see it; without the feature `mutants`
//! none can be planted and every check below is the constant `false`.

/// A defect that somebody could introduce, and that the simulation's oracle must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A message counts as safe as soon as it stands in a queue in memory.
    AckOnEnqueue,
    /// A message counts as safe when its commit is ordered, not when it is done.
    AckBeforeCommit,
    /// A message counts as safe, and is forgotten, when it is handed over, not when the upstream confirms.
    ForgetOnForward,
    /// A returned message counts as delivered.
    ReturnedIsDelivered,
    /// A failed commit counts as done.
    FailedCommitIsDone,
    /// Sequence numbers and epochs start from the beginning after a restart.
    IdsRestart,
    /// A refused message is tried again behind the later ones of its device.
    RetryOutOfOrder,
    /// After a link fault the unresolved messages are sent again without the mark.
    ResendUnmarked,
    /// After a link fault the unresolved messages are not sent again.
    NoResend,
    /// A live message overtakes the backlog that is on the disk only.
    LiveOvertakesDisk,
    /// The end of the backlog is taken for reached one page too early.
    TailForgotten,
    /// A QoS 2 packet id is not remembered past PUBREC.
    Qos2Forgotten,
    /// A QoS 2 packet id that is released is still taken for a repetition.
    Qos2NeverReleased,
    /// CoAP retransmissions are taken for new messages.
    CoapNoDedupe,
    /// The store may be told to insert a message that was confirmed before its failed commit is tried again, and it is never forgotten.
    ConfirmedStays,
    /// Acknowledgements leave in the order of safety instead of the order of reception.
    AcksReordered,
    /// A message counts as safe although its retained copy is not.
    RetainedNotAwaited,
    /// A publisher's acknowledgement does not wait for the copies of its message that persistent subscribers have not got.
    CopyUnclaimed,
    /// PUBREL is sent before it is durable that PUBREC came.
    ReleaseForgotten,
    /// A QoS 2 message is sent to a persistent subscriber before it and its packet id are durable.
    SentBeforeKept,
    /// A block of a CoAP body that comes again is appended again.
    BlockAppendedTwice,
    /// OSCORE sequence numbers are used when their reservation is ordered, not when it is durable.
    NumbersNotAwaited,
    /// Of the values of a topic that wait for an observer the first is kept and the newer ones are dropped.
    NewestWithheld,
    /// The value that a newer one has overtaken on its way to an observer is sent after it.
    OvertakenSentLast,
    /// The numbers of notifications begin from the beginning after a restart.
    NotificationsRestart,
    /// A request on a CoAP stream is taken for one that asks for no promise.
    StreamNotConfirmable,
    /// A request on a CoAP stream is answered although a later one has its token.
    OvertakenAnswered,
    /// A message that life after life died of is handed over again and again.
    DeathsUncounted,
    /// A dead letter is sent again without the mark.
    RequeuedUnmarked,
    /// What is discarded is not written into the ledger.
    DiscardUnwritten,
    /// What is discarded is removed in one commit, and written into the ledger in a later one.
    DiscardApart,
    /// A message that is discarded as it comes is acknowledged before the ledger has it.
    DiscardNotAwaited,
    /// A full spool discards what waits although it is to refuse.
    RefuseDiscards,
    /// A tombstone that may have arrived is sent again without the mark.
    TombstoneUnmarked,
    /// A live message goes behind the backlog although it is to go first.
    LiveWaits,
    /// What an earlier life handed over is taken for the beginning of its lane although live messages went ahead.
    OvertakingUnnoted,
    /// What was live is read from the disk again when the backlog reaches it.
    LiveReadAgain,
    /// The backlog is handed over faster than its upstream's drain limit.
    DrainUnlimited,
    /// A message that has expired is handed over all the same.
    ExpiredGoes,
    /// Messages expire by the wall clock.
    ExpiresByTheClock,
    /// The store does not sync what it commits, only before it writes the WAL back.
    SynchronousNormal,
    /// The store commits each change of a batch on its own.
    CommitParted,
}

impl Mutant {
    /// Those of the store, in order: only a power cut shows them, and only under the real one.
    pub const STORE: [Self; 2] = [Self::SynchronousNormal, Self::CommitParted];

    /// All of the engine, in order.
    pub const ALL: [Self; 40] = [
        Self::AckOnEnqueue,
        Self::AckBeforeCommit,
        Self::ForgetOnForward,
        Self::ReturnedIsDelivered,
        Self::FailedCommitIsDone,
        Self::IdsRestart,
        Self::RetryOutOfOrder,
        Self::ResendUnmarked,
        Self::NoResend,
        Self::LiveOvertakesDisk,
        Self::TailForgotten,
        Self::Qos2Forgotten,
        Self::Qos2NeverReleased,
        Self::CoapNoDedupe,
        Self::ConfirmedStays,
        Self::AcksReordered,
        Self::RetainedNotAwaited,
        Self::CopyUnclaimed,
        Self::ReleaseForgotten,
        Self::SentBeforeKept,
        Self::BlockAppendedTwice,
        Self::NumbersNotAwaited,
        Self::NewestWithheld,
        Self::OvertakenSentLast,
        Self::NotificationsRestart,
        Self::StreamNotConfirmable,
        Self::OvertakenAnswered,
        Self::DeathsUncounted,
        Self::RequeuedUnmarked,
        Self::DiscardUnwritten,
        Self::DiscardApart,
        Self::DiscardNotAwaited,
        Self::RefuseDiscards,
        Self::TombstoneUnmarked,
        Self::LiveWaits,
        Self::OvertakingUnnoted,
        Self::LiveReadAgain,
        Self::DrainUnlimited,
        Self::ExpiredGoes,
        Self::ExpiresByTheClock,
    ];
}

/// What is planted in one engine: nothing, outside the simulation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "mutants")]
    mutant: Option<Mutant>,
}

impl Planted {
    /// Plants a defect.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with(mutant: Mutant) -> Self {
        Self { mutant: Some(mutant) }
    }

    /// Whether this defect is planted.
    #[inline]
    #[must_use]
    pub fn is(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        {
            self.mutant == Some(mutant)
        }
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }
}
