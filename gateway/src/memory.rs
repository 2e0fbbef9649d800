//! Memory that is free goes back to the system. The allocator keeps it for a while, and a thread that then sleeps never gets to it:
//! after a rush the process would stay as large as it was at its height. Owns nothing.

use crate::driver::Handle;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks. It takes well below a millisecond; what a rush has left is gone soon after it.
const EVERY: Duration = Duration::from_secs(10);

/// Gives back what this thread has free.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, may be called at any time from any thread, and leaves alone what is in use. Where another
    // allocator is the global one it finds nothing.
    #[allow(unsafe_code, reason = "the allocator's crate has no safe way to say it")]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Gives back what SQLite has free: C code takes its memory from the C library, of which there is one for all threads. For
/// whoever has just had SQLite let go of it; it is no work for the driver.
pub(crate) fn give_back_of_c() {
    // SAFETY: it takes no pointer, may be called at any time from any thread, and leaves alone what is in use.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the C library's own call")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the driver do it now and then, and does it for the thread that this runs on; dropping the future ends it.
pub(crate) async fn give_back_now_and_then(driver: Handle) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        give_back();
        driver.give_back_memory().await;
    }
}
