//! Blocking sockets with a time-out, without heed of interruptions: when the process is stopped and goes on, the kernel ends
//! their calls with EINTR (signal(7)), which says nothing about the peer. Every test that waits at such a socket does so here.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::{Deref, DerefMut};

/// Does the call again for as long as it is interrupted. Its time-out begins anew each time.
///
/// # Errors
/// The call's, but for an interruption.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A stream for libraries and tests that take an interruption for the end of it.
#[derive(Debug)]
pub struct Uninterrupted<S>(pub S);

impl<S: Read> Read for Uninterrupted<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buffer))
    }
}

impl<S: Write> Write for Uninterrupted<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        uninterrupted(|| self.0.flush())
    }
}

impl<S> Deref for Uninterrupted<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> DerefMut for Uninterrupted<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.0
    }
}
