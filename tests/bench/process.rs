//! What a server costs: the processor time and the memory of processes, read from /proc.

use std::path::PathBuf;
use std::time::Duration;

/// Clock ticks a second in /proc/PID/stat: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: u64 = 100;

fn proc(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{file}"))).ok()
}

/// The processor time, user and system, that these processes have used.
pub(crate) fn cpu(pids: &[u32]) -> Duration {
    let ticks: u64 = pids
        .iter()
        .filter_map(|&pid| {
            let stat = proc(pid, "stat")?;
            // The name in parentheses may contain anything; utime and stime are the 12th and 13th fields behind it.
            let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        })
        .sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

fn status_kib(pid: u32, key: &str) -> u64 {
    proc(pid, "status")
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with(key))?.to_owned();
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

/// The memory that these processes hold now, in MiB.
pub(crate) fn rss_mib(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| status_kib(pid, "VmRSS:")).sum::<u64>() as f64 / 1_024.0
}

/// The memory of these processes that is theirs alone, in MiB: without pages of files, such as the program itself, of which the
/// kernel maps more or fewer.
pub(crate) fn anonymous_mib(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| status_kib(pid, "RssAnon:")).sum::<u64>() as f64 / 1_024.0
}

/// The most memory that they have held, in MiB.
pub(crate) fn peak_rss_mib(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| status_kib(pid, "VmHWM:")).sum::<u64>() as f64 / 1_024.0
}
