//! `[device.ID.oscore]`: a device's OSCORE context (RFC 8613). The secret stands in a file of its own and goes from there
//! into the keys and nowhere else.

use super::environment::Environment;
use super::file;
use super::mistake::quoted;
use super::read::{Section, Span};
use super::value::{self, Wrong, wrong};
use crate::access::hexadecimal;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tidegate_engine::id::DeviceId;
use tidegate_oscore::{Context, MAX_ID_BYTES, MAX_ID_CONTEXT_BYTES, Parameters};
use toml::de::DeValue;
use zeroize::Zeroizing;

/// The gateway's own id where `gateway_id` is not set.
const GATEWAY_ID: [u8; 1] = [1];
/// A master secret's bytes: as many as its key has, at the least (RFC 8613, 12.3).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// The largest file of a secret: its digits and a line's end.
const FILE_BYTES: u64 = 256;
/// A salt's bytes at the most; 8 are usual.
const SALT_BYTES: usize = 64;

/// What the contexts of all devices must not have twice.
#[derive(Default)]
pub(super) struct Contexts {
    /// Id and ID Context, by which requests find their context.
    names: BTreeMap<(Vec<u8>, Option<Vec<u8>>), DeviceId>,
    /// Names of the keys that the gateway encrypts with: two devices with one key would break it.
    keys: BTreeMap<[u8; 16], DeviceId>,
}

/// Reads the context of a device; `None` when it has none, or one that is wrong and reported.
pub(super) fn context(
    section: &Section<'_>,
    device: &DeviceId,
    contexts: &mut Contexts,
    base: &Path,
    environment: &Environment,
) -> Option<Arc<Context>> {
    let whole = section.span.clone()?;
    let id = |value: &DeValue<'_>| bytes(value, 0..=MAX_ID_BYTES);
    let device_id = section.get("device_id", id);
    let gateway_id = section.get_or("gateway_id", GATEWAY_ID.to_vec(), id);
    let id_context = section.get("id_context", |value| bytes(value, 1..=MAX_ID_CONTEXT_BYTES));
    let salt = section.get_or("salt", Vec::new(), |value| bytes(value, 1..=SALT_BYTES));
    let secret = secret(section, base, environment);
    let missing = |key: &str, right: &str| {
        if section.at(key).is_none() {
            section.report.error(Some(whole.clone()), format!("`{key}` is missing"), right);
        }
    };
    missing("device_id", "write the device's OSCORE id in hexadecimal digits, like device_id = \"a1\"");
    missing(
        "secret_file",
        "name the file that holds the master secret; `tidegate device add ID --oscore` makes one",
    );
    let (device_id, secret) = (device_id?, secret?);
    let id_context = id_context.map(toml::Spanned::into_inner);
    let parameters = Parameters {
        master_secret: &secret,
        master_salt: &salt,
        id_context: id_context.as_deref(),
        sender_id: &gateway_id,
        recipient_id: device_id.get_ref(),
    };
    let context = match Context::derive(&parameters) {
        Ok(context) => context,
        Err(error) => {
            let right = "give the device an id that is not the gateway's";
            section.report.error(Some(device_id.span()), error.to_string(), right);
            return None;
        }
    };
    let twice = |span: Span, what: String, right: &str| section.report.error(Some(span), what, right);
    if let Some(other) = contexts.names.insert((device_id.get_ref().clone(), id_context), device.clone()) {
        let what = format!("{} has the same OSCORE id", quoted(other.as_str()));
        twice(device_id.span(), what, "give every device an id of its own, or an `id_context`");
    }
    if let Some(other) = contexts.keys.insert(context.fingerprint(), device.clone()) {
        let span = section.at("secret_file").unwrap_or(whole);
        let what = format!("{} has the same secret, with the same `gateway_id`", quoted(other.as_str()));
        twice(span, what, "give every device a secret of its own: one key for two would be broken");
    }
    Some(Arc::new(context))
}

fn secret(section: &Section<'_>, base: &Path, environment: &Environment) -> Option<Zeroizing<Vec<u8>>> {
    let name = section.get("secret_file", value::name)?;
    let read = file::read(name.get_ref(), base, environment, "the OSCORE secret", FILE_BYTES);
    let parsed = read.and_then(|content| {
        if let Some(wrong) = content.careless() {
            section.report.warning(Some(name.span()), wrong.what, wrong.right);
        }
        let bytes = Zeroizing::new(content.bytes);
        let secret = std::str::from_utf8(&bytes).ok().and_then(|text| hexadecimal::bytes(text.trim()));
        match secret {
            Some(secret) if SECRET_BYTES.contains(&secret.len()) => Ok(Zeroizing::new(secret)),
            _ => wrong(
                format!("{} does not hold an OSCORE secret", content.path.display()),
                format!(
                    "write its {} to {} bytes as hexadecimal digits on one line",
                    SECRET_BYTES.start(),
                    SECRET_BYTES.end()
                ),
            ),
        }
    });
    match parsed {
        Ok(secret) => Some(secret),
        Err(Wrong { what, right }) => {
            section.report.error(Some(name.span()), what, right);
            None
        }
    }
}

/// Bytes as hexadecimal digits.
fn bytes(value: &DeValue<'_>, lengths: std::ops::RangeInclusive<usize>) -> Result<Vec<u8>, Wrong> {
    let text = value::text(value)?;
    match hexadecimal::bytes(&text) {
        Some(bytes) if lengths.contains(&bytes.len()) => Ok(bytes),
        Some(bytes) => wrong(
            format!("these are {} bytes", bytes.len()),
            format!("write {} to {} of them", lengths.start(), lengths.end()),
        ),
        None => wrong(
            format!("{} are not bytes", quoted(&text)),
            "write two hexadecimal digits for each byte, like \"a1\"",
        ),
    }
}
