//! What the process asks of its host at the start: file descriptors, and to hear when one of its threads fails.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

/// File descriptors beside the devices' connections: listeners, store, upstreams, administrators, the runtime.
const OTHER_FILES: u64 = 96;

/// Panics that may wait to be heard; the first is enough.
const PANICS: usize = 4;

/// Raises the soft limit of open files to the hard one, and says when that is not enough for the devices.
pub(super) fn raise_open_files(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    let wanted = OTHER_FILES + connections as u64;
    if let Some(may) = getrlimit(Resource::Nofile).current.filter(|may| *may < wanted) {
        tracing::warn!(
            may,
            wanted,
            "fewer files may be open than connections are allowed; raise LimitNOFILE, or lower limits.connections"
        );
    }
}

/// Tells of panics in threads beside the main one.
pub(super) struct Panics(mpsc::Receiver<String>);

impl Panics {
    /// Waits for one.
    pub(super) async fn recv(&mut self) -> String {
        match self.0.recv().await {
            Some(panic) => panic,
            None => std::future::pending().await,
        }
    }
}

/// Logs every panic from now on. One in a thread of its own means that an upstream no longer works and will never say so:
/// the gateway must end and be started again. (On the main thread it is one connection's task; the end of the driver is
/// noticed, and that of the store's thread by its orders.)
pub(super) fn watch_panics() -> Panics {
    let (tell, panics) = mpsc::channel(PANICS);
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("without a text");
        tracing::error!(thread = name, at, "panicked: {text}");
        if !matches!(name, "main" | "driver" | "store") {
            let _ = tell.try_send(format!("thread {name} at {at}: {text}")); // Full: heard already.
        }
    }));
    Panics(panics)
}
