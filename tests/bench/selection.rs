//! Which cases of a comparison are run, how often, with how many messages, and what stands for all rounds. Knows nothing of the
//! cases themselves.

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

/// The median of one figure of all rounds.
pub(crate) fn median<R>(reports: &[R], figure: impl Fn(&R) -> f64) -> f64 {
    let mut figures: Vec<f64> = reports.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
