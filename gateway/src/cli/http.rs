//! One request over HTTP/1.1 to the gateway itself, on its admin port or its local socket, with a deadline and a bound. Not a
//! client for anything else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than the gateway ever takes, short enough for a person.
const DEADLINE: Duration = Duration::from_secs(15);
/// Room for the status of thousands of routes.
const ANSWER_BYTES: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// The network failed, or it took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something answered that is not the gateway.
    #[error("what answers there is not Tidegate")]
    Stranger,
    /// The gateway refused, with this status.
    #[error("the gateway answered {0}")]
    Status(u16),
}

/// A connection whose patience has an end.
trait Stream: Read + Write {
    fn wait_at_most(&self, time: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Stream for UnixStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// Gets the body at `path` from the admin port.
///
/// # Errors
/// [`HttpError`] when there is no answer, or not a good one.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, HttpError> {
    let end = Instant::now() + DEADLINE;
    let stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(refused)?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n");
    converse(stream, &head, &[], end)
}

/// Posts a body of JSON to `path` on the local socket, and gives the answer's.
///
/// # Errors
/// As [`get`].
pub(super) fn post(socket: &Path, path: &str, body: &[u8]) -> Result<Vec<u8>, HttpError> {
    let end = Instant::now() + DEADLINE;
    let stream = UnixStream::connect(socket).map_err(refused)?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    converse(stream, &head, body, end)
}

fn refused(error: io::Error) -> HttpError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => HttpError::Refused,
        _ => error.into(),
    }
}

fn converse(mut stream: impl Stream, head: &str, body: &[u8], end: Instant) -> Result<Vec<u8>, HttpError> {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    stream.wait_at_most(left()?)?;
    write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)?;

    let mut answer = Vec::new();
    let mut chunk = [0; 8_192];
    loop {
        stream.wait_at_most(left()?)?;
        match stream.read(&mut chunk) {
            Ok(0) => return content(&answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            Err(error) => return Err(error.into()),
        }
        if answer.len() > ANSWER_BYTES {
            return Err(HttpError::Stranger);
        }
    }
}

/// Takes an answer apart. The gateway always gives the length, so anything else is a stranger's or a torn one.
fn content(answer: &[u8]) -> Result<Vec<u8>, HttpError> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(HttpError::Stranger)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| HttpError::Stranger)?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3)?.parse().ok())
        .ok_or(HttpError::Stranger)?;
    if status != 200 {
        return Err(HttpError::Status(status));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    let body = &answer[end + 4..];
    match length {
        Some(length) if length == body.len() => Ok(body.to_vec()),
        Some(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        None => Err(HttpError::Stranger),
    }
}

#[cfg(test)]
mod tests {
    use super::{HttpError, content};

    #[test]
    fn only_a_whole_good_answer_is_taken() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(content(answer).unwrap(), b"{}");
        assert!(matches!(content(&answer[..answer.len() - 1]), Err(HttpError::Io(_))));
        assert!(matches!(content(b"HTTP/1.1 503 No\r\n\r\n"), Err(HttpError::Status(503))));
        for stranger in
            [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 2\xff0\r\n\r\n"]
        {
            assert!(matches!(content(stranger), Err(HttpError::Stranger)));
        }
    }
}
