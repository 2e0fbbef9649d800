//! What the kernel says about this process and the data directory. A figure that cannot be had is zero: nothing depends on it.

use super::status::{Process, Store};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;

/// The process, from `/proc/self` (proc(5)).
pub(super) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    Process {
        pid: std::process::id(),
        resident_bytes: field("VmRSS").unwrap_or(0) * 1_024,
        cpu_seconds: cpu_seconds().unwrap_or(0.0),
        open_files: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        max_open_files: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        threads: field("Threads").unwrap_or(0),
    }
}

fn cpu_seconds() -> Option<f64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(u32::try_from(now.tv_sec).ok()?.into())
        .map(|s: f64| s + f64::from(u32::try_from(now.tv_nsec).unwrap_or(0)) / 1e9)
}

/// The data directory: its files, and the room beside them.
pub(super) fn store(data_dir: &Path) -> Store {
    let files = fs::read_dir(data_dir).into_iter().flatten().flatten();
    let sizes = files.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    Store {
        data_dir: data_dir.display().to_string(),
        bytes: sizes.map(|m| m.len()).sum(),
        free_bytes: rustix::fs::statvfs(data_dir).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize)),
        ..Store::default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_knows_this_process() {
        let process = super::read();
        assert!(process.resident_bytes > 100_000);
        assert!(process.open_files >= 3);
        assert!(process.threads >= 1);
        assert!(super::store(&std::env::temp_dir()).free_bytes > 0);
    }
}
