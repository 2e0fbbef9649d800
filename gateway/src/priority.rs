//! Which threads let others go first where processors are scarce: whoever waits for an acknowledgement goes before strangers at the
//! door, and those before whoever signs in slowly. Says so to the kernel, and nothing else.

/// Accepting, handshakes, and the streams and pages that come of them.
pub(crate) const DOOR: i32 = 15;

/// Slow passwords.
pub(crate) const PASSWORDS: i32 = 19;

/// Makes the calling thread nicer by so much: on Linux it alone, and threads that it starts later. The gateway works without, too.
pub(crate) fn give_way(by: i32) {
    if let Err(error) = rustix::process::nice(by) {
        tracing::debug!(%error, "the kernel does not let a thread give way to others");
    }
}
