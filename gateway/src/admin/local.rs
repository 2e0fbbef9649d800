//! The local socket: the admin port's HTTP on a Unix socket in the data directory, and there alone also what changes things. Whom
//! the kernel names as the peer, root or the gateway's own user, is let in; nobody else, whatever the socket's mode.

use super::bounded::Bounded;
use super::http::{guard, looking};
use super::{Admin, dead};
use axum::middleware::from_fn;
use axum::routing::post;
use axum::serve::Listener;
use rustix::process::geteuid;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the data directory.
const SOCKET: &str = "control";

/// Commands at the same time; the next ones wait in the kernel.
const CONNECTIONS: usize = 8;

/// Where the socket of the gateway with this data directory is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Takes the socket. The data directory must be locked by this process: what stands there is then of an earlier one. Must run
/// inside the runtime.
///
/// # Errors
/// The system's; a path of more than 107 bytes cannot be a socket's.
pub fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let path = path(data_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The directory is nobody else's already; this is for one whose mode was opened.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for ever; dropping the future ends it.
///
/// # Errors
/// None in practice: failures of single connections do not end it.
pub async fn serve(listener: UnixListener, admin: Admin) -> io::Result<()> {
    let router = looking()
        .route("/dead/requeue", post(dead::requeue))
        .route("/dead/purge", post(dead::purge))
        .layer(from_fn(guard))
        .with_state(admin);
    axum::serve(Bounded::new(Own(listener), CONNECTIONS), router).await
}

/// Accepts root and this process's own user.
struct Own(UnixListener);

impl Listener for Own {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.0).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => return (stream, address),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "this user may not give the gateway orders"),
                Err(error) => tracing::warn!(%error, "the kernel does not say who gives an order"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
