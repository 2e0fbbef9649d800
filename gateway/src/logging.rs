//! Where the log goes and in what form: compact lines on a terminal, fields in the journal under systemd, plain lines otherwise.
//! What a peer can cause is limited in rate by [`Throttle`], beside each place that logs it.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged when nobody asks for anything else. What peers do wrong in a DTLS handshake is said once, by the listener, in words
/// that an operator can act on and at a bounded rate; the library would say it for each datagram.
const DEFAULT_FILTER: &str = "info,dimpl=error";

/// Lines of one kind that are written in each [`THROTTLE_WINDOW`]; the rest is counted.
const THROTTLE_LINES: u32 = 20;
/// See [`THROTTLE_LINES`].
const THROTTLE_WINDOW: Duration = Duration::from_secs(10);

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter that was asked for.
    #[error(
        "--log {filter:?}: {source}; write a level (error, warn, info, debug, trace) or tidegate::store=debug,info"
    )]
    Filter {
        /// As written.
        filter: String,
        /// What is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging has begun already.
    #[error("logging cannot begin: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins logging to standard error or to the journal. `filter` comes from `--log`; without it `RUST_LOG` counts,
/// and without that the level is `info`.
///
/// # Errors
/// [`LoggingError`] when the filter cannot be read, or when it was called before.
pub fn start(filter: Option<&str>) -> Result<(), LoggingError> {
    let written =
        filter.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok().filter(|f| !f.is_empty()));
    let filter = written.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    // Not `EnvFilter`: its regular expressions cost an idle gateway a megabyte, and nobody here filters by fields.
    let filter: Targets = filter.parse().map_err(|source| LoggingError::Filter { filter, source })?;
    let registry = tracing_subscriber::registry().with(filter);
    if stderr_is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        return Ok(registry.with(journal).try_init()?);
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        registry.with(lines.compact().with_ansi(colour).with_target(false)).try_init()?;
    } else {
        registry.with(lines.with_ansi(false)).try_init()?;
    }
    Ok(())
}

/// Whether standard error leads into the journal (systemd.exec(5), `$JOURNAL_STREAM`): the variable alone may be inherited.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A line may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How many were not written since the last one that was; a field for that line, left out when there were none.
    pub suppressed: Option<u64>,
}

/// Lets so many lines of one kind through in a window of time, and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// Lets lines through from now on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a line may be written now.
    pub fn allow(&mut self, now: Instant) -> Option<Pass> {
        if self.since.is_none_or(|since| now.duration_since(since) >= THROTTLE_WINDOW) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines >= THROTTLE_LINES {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(Pass { suppressed: Some(std::mem::take(&mut self.suppressed)).filter(|count| *count > 0) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Pass, THROTTLE_LINES, THROTTLE_WINDOW, Throttle};
    use std::time::Instant;

    #[test]
    fn a_flood_is_counted_instead_of_logged() {
        let mut throttle = Throttle::new();
        let start = Instant::now();
        let written = (0..1_000).filter(|_| throttle.allow(start).is_some()).count();
        assert_eq!(written, THROTTLE_LINES as usize);
        let suppressed = Some(1_000 - u64::from(THROTTLE_LINES));
        assert_eq!(throttle.allow(start + THROTTLE_WINDOW), Some(Pass { suppressed }));
        assert_eq!(throttle.allow(start + THROTTLE_WINDOW), Some(Pass { suppressed: None }));
    }
}
