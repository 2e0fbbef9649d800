//! Which cases of a comparison are run, how often, and with how many messages. Knows nothing of the cases themselves.

/// A choice among the cases of a comparison.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Selection {
    /// Rounds; each runs every server once in every case.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// A tenth of the messages: to see that it works.
    #[arg(long)]
    short: bool,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
}

impl Selection {
    /// Whether the case of this name is to be run.
    pub(crate) fn takes(&self, case: &str) -> bool {
        case.contains(&self.case)
    }

    /// How many of so many messages are to be sent.
    pub(crate) fn of(&self, messages: usize) -> usize {
        if self.short { messages / 10 } else { messages }
    }
}
