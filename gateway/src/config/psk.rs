//! A device's pre-shared key, and the name by which the device calls it. What is wrong with a key is said without showing it.

use super::read::{Section, Span};
use super::value::{self, Wrong, wrong};
use crate::access::hexadecimal;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::DeValue;

/// Of a key, in bytes: less can be guessed offline from one handshake; more is longer than the hash that it goes into.
const KEY_BYTES: RangeInclusive<usize> = 16..=64;
/// Of a PSK identity, in bytes: what every server must take (RFC 4279, 5.3).
const IDENTITY_BYTES: RangeInclusive<usize> = 1..=128;

/// What a device's table says of its key.
pub(super) struct Written {
    pub(super) key: Vec<u8>,
    /// Without one the device calls it by its id.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) span: Span,
}

/// Reads the keys of a device's table. `None` without a key; what is wrong is reported.
pub(super) fn psk(section: &Section<'_>) -> Option<Written> {
    let written = section.get("psk", key);
    let identity = section.get("psk_identity", identity);
    let Some(written) = written else {
        if let Some(identity) = identity.filter(|_| section.at("psk").is_none()) {
            section.report.error(
                Some(identity.span()),
                "there is no pre-shared key that this names",
                "give the device a key (`psk`), or leave this out",
            );
        }
        return None;
    };
    let span = identity.as_ref().map_or_else(|| written.span(), Spanned::span);
    Some(Written { key: written.into_inner(), identity: identity.map(Spanned::into_inner), span })
}

/// A key in hexadecimal digits.
fn key(value: &DeValue<'_>) -> Result<Vec<u8>, Wrong> {
    match hexadecimal::bytes(&value::text(value)?) {
        Some(key) if KEY_BYTES.contains(&key.len()) => Ok(key),
        _ => wrong(
            "this is not a pre-shared key",
            "write 32 to 128 hexadecimal digits (16 to 64 bytes); `tidegate device add ID --psk` makes one",
        ),
    }
}

fn identity(value: &DeValue<'_>) -> Result<Vec<u8>, Wrong> {
    let text = value::text(value)?;
    if IDENTITY_BYTES.contains(&text.len()) {
        return Ok(text.into_bytes());
    }
    wrong("this is not a PSK identity", "write 1 to 128 bytes of text, as the device sends it")
}
