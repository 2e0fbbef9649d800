//! Reads a small file that the configuration names: a password, a certificate. Bounded, and never waiting for anybody.
//! What the content means is the caller's business.

use super::environment::Environment;
use super::value::{Wrong, wrong};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

/// What a file holds.
pub(super) struct Content {
    /// Where it was found.
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// Every user of this host may read it.
    pub(super) open: bool,
}

impl Content {
    /// What to say of a secret that is kept carelessly.
    pub(super) fn careless(&self) -> Option<Wrong> {
        let shown = self.path.display();
        self.open.then(|| Wrong {
            what: format!("every user of this host may read {shown}"),
            right: format!("chmod 0600 {shown}"),
        })
    }
}

/// Reads the file `name`, relative to `base`; when there is none and `name` is a plain name, the systemd credential of that name.
/// It holds `what` ("the password"), and `most` bytes at the most.
pub(super) fn read(
    name: &str,
    base: &Path,
    environment: &Environment,
    what: &str,
    most: u64,
) -> Result<Content, Wrong> {
    let path = find(name, base, environment);
    let shown = path.display();
    let refused = |error: std::io::Error| {
        let wrong_with = format!("{shown} cannot be read: {}", reason(&error));
        match error.kind() {
            ErrorKind::NotFound => wrong(wrong_with, format!("write {what} to that file, or mend the path")),
            ErrorKind::PermissionDenied => {
                wrong(wrong_with, "make the gateway's user its owner, or hand it over with LoadCredential=")
            }
            _ => wrong(wrong_with, format!("name a file that holds {what}")),
        }
    };
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => return refused(error),
    };
    if !metadata.is_file() {
        return wrong(format!("{shown} is not a file"), format!("name a file that holds {what}"));
    }
    let mut bytes = Vec::new();
    if let Err(error) = File::open(&path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)) {
        return refused(error);
    }
    if bytes.len() as u64 > most {
        return wrong(
            format!("{shown} is too large to hold {what}"),
            format!("name a file of {most} bytes at the most"),
        );
    }
    Ok(Content { bytes, open: metadata.permissions().mode() & 0o004 != 0, path })
}

fn find(name: &str, base: &Path, environment: &Environment) -> PathBuf {
    let path = base.join(name);
    if !name.contains('/')
        && !path.exists()
        && let Some(credential) = environment.credentials.as_ref().map(|dir| dir.join(name))
        && credential.exists()
    {
        return credential;
    }
    path
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
