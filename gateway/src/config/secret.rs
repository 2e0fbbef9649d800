//! Reads a password from its file. What it holds goes to the configuration as meant and nowhere else.

use super::environment::Environment;
use super::file;
use super::value::{Wrong, wrong};
use std::path::Path;

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
    let content = file::read(name, base, environment, "the password", SECRET_BYTES)?;
    let warning = content.careless();
    let shown = content.path.display();
    let Ok(text) = String::from_utf8(content.bytes) else {
        return wrong(
            format!("{shown} does not hold a password"),
            format!("a password is a line of text of {SECRET_BYTES} bytes at the most"),
        );
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return wrong(format!("{shown} is empty"), "write the password into it");
    }
    if line.contains(['\n', '\0']) {
        return wrong(format!("{shown} has more than one line"), "write the password alone on one line");
    }
    Ok(Secret { text: line.to_owned(), warning })
}
