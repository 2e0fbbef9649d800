//! Starts the program anew in its own place: the same process number, arguments and environment, everything else afresh. For a
//! store that turns out to be damaged while it is used: what devices were not acknowledged they send again, as after any crash.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How often in a row that was done, each time after a short life.
const COUNT: &str = "TIDEGATE_RESTARTS";

/// After a life of this length the next restart is the first of a row.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// What a second restart waits for, and each further one twice as long: a medium that damages everything is not to be filled
/// with damaged databases as fast as they can be made.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Does not return, unless the system refuses.
pub(crate) fn anew(began: Instant) {
    let before: u32 = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let before = if began.elapsed() < LONG_LIFE { before } else { 0 };
    if let Some(doublings) = before.checked_sub(1) {
        let wait = FIRST_WAIT.saturating_mul(1 << doublings.min(9)).min(LONGEST_WAIT);
        tracing::warn!(?wait, "the gateway starts anew again and again; waiting first");
        thread::sleep(wait);
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut command = Command::new(program());
    if let Some(name) = name {
        command.arg0(name);
    }
    let error = command.args(arguments).env(COUNT, (before + 1).to_string()).exec();
    tracing::error!(%error, "the gateway cannot start itself anew: restart it; nothing acknowledged is lost");
}

/// The program's file; one that was replaced or removed since is still there for the kernel.
fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}
