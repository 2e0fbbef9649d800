//! What damage cost, for people: the report beside a damaged database, and the counters for `status` and the metrics. This is the
//! one place where losses to damage are counted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What was found in a damaged database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that had been waiting; `None` when nothing tells.
    pub(super) expected: Option<u64>,
    /// Messages that were whole.
    pub(super) messages: u64,
    pub(super) dead_letters: u64,
    pub(super) records: u64,
    /// Pages that the medium did not give.
    pub(super) unreadable_pages: u64,
}

impl Counts {
    pub(super) fn lost(&self) -> Option<u64> {
        Some(self.expected?.saturating_sub(self.messages))
    }

    /// The report.
    pub(super) fn text(&self, path: &Path) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "the database in {} was damaged: ", path.display());
        let _ = match (self.lost(), self.expected) {
            (Some(0), _) => write!(text, "no message is lost, all {} are salvaged", self.messages),
            (Some(lost), Some(expected)) => write!(
                text,
                "{lost} of {expected} messages are lost, {} are salvaged and forwarded",
                self.messages
            ),
            _ => write!(
                text,
                "{} messages are salvaged and forwarded; how many are lost is not known, for what says so is damaged, too",
                self.messages
            ),
        };
        let _ = writeln!(
            text,
            "; so are {} dead letters and {} records of sessions and retained messages",
            self.dead_letters, self.records
        );
        if self.unreadable_pages > 0 {
            let _ = writeln!(text, "the medium could not read {} pages of it", self.unreadable_pages);
        }
        let _ =
            writeln!(text, "the operator must look at the kernel's log and replace the medium if it fails");
        text
    }
}

/// What is known of damaged databases in this life of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// Gauge: databases that are not looked through yet.
    pub waiting: u64,
    /// Counter: databases that have been.
    pub finished: u64,
    /// Counter: messages salvaged.
    pub salvaged: u64,
    /// Counter: messages lost to damage.
    pub lost: u64,
    /// Counter: databases of which nobody can say how many messages they lost.
    pub unknown: u64,
    /// Where the last one is, with its report.
    pub last: Option<PathBuf>,
}

/// The same, shared with those who tell of it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Quarantined>>);

impl Progress {
    /// How it stands.
    #[must_use]
    pub fn now(&self) -> Quarantined {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Quarantined)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn begin(&self, waiting: usize) {
        self.change(|q| q.waiting = waiting as u64);
    }

    pub(super) fn salvaged(&self, messages: u64) {
        self.change(|q| q.salvaged += messages);
    }

    pub(super) fn finish(&self, path: &Path, counts: &Counts) {
        self.change(|q| {
            q.waiting = q.waiting.saturating_sub(1);
            q.finished += 1;
            match counts.lost() {
                Some(lost) => q.lost += lost,
                None => q.unknown += 1,
            }
            q.last = Some(path.to_path_buf());
        });
    }
}
