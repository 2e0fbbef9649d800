//! Reads a password from its file. What it holds goes to the configuration as meant and nowhere else.

use super::environment::Environment;
use super::value::{Wrong, wrong};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Longer than any password; a larger file is not one.
const SECRET_BYTES: u64 = 4 << 10;

/// What a file holds.
pub(super) struct Secret {
    pub(super) text: String,
    /// The file is kept carelessly.
    pub(super) warning: Option<Wrong>,
}

/// Reads the file `name`, relative to `base`; when there is none and `name` is a plain name, the systemd
/// credential of that name.
pub(super) fn read(name: &str, base: &Path, environment: &Environment) -> Result<Secret, Wrong> {
    let path = find(name, base, environment);
    let shown = path.display();
    let refused = |error: std::io::Error| {
        let what = format!("{shown} cannot be read: {}", reason(&error));
        match error.kind() {
            ErrorKind::NotFound => wrong(what, "write the password to that file, or mend the path"),
            ErrorKind::PermissionDenied => {
                wrong(what, "make the gateway's user its owner, or hand it over with LoadCredential=")
            }
            _ => wrong(what, "name a file that holds the password"),
        }
    };
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => return refused(error),
    };
    if !metadata.is_file() {
        return wrong(format!("{shown} is not a file"), "name a file that holds the password");
    }
    let mut bytes = Vec::new();
    if let Err(error) = File::open(&path).and_then(|file| file.take(SECRET_BYTES + 1).read_to_end(&mut bytes))
    {
        return refused(error);
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) if text.len() as u64 <= SECRET_BYTES => text,
        _ => {
            return wrong(
                format!("{shown} does not hold a password"),
                format!("a password is a line of text of {SECRET_BYTES} bytes at the most"),
            );
        }
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return wrong(format!("{shown} is empty"), "write the password into it");
    }
    if line.contains(['\n', '\0']) {
        return wrong(format!("{shown} has more than one line"), "write the password alone on one line");
    }
    let warning = (metadata.permissions().mode() & 0o004 != 0).then(|| Wrong {
        what: format!("every user of this host may read {shown}"),
        right: format!("chmod 0600 {shown}"),
    });
    Ok(Secret { text: line.to_owned(), warning })
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
