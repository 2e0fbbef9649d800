//! What a UTF-8 string, a topic name and a topic filter are (MQTT 5.0, 1.5.4, 4.7, 4.8.2).
//! Length limits and access are the caller's.

use super::error::Error;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Nonzero when a byte of `word` is zero. Exact about whether, not about which.
#[inline]
const fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Whether NUL occurs, or with `WILDCARDS` also `+` or `#`; eight bytes at a time, for the hot path of PUBLISH.
#[inline]
fn has_forbidden<const WILDCARDS: bool>(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        found |= zero_byte(word);
        if WILDCARDS {
            found |= zero_byte(word ^ (ONES * b'+' as u64)) | zero_byte(word ^ (ONES * b'#' as u64));
        }
    }
    found != 0 || tail.iter().any(|&b| b == 0 || (WILDCARDS && (b == b'+' || b == b'#')))
}

/// UTF-8 without U+0000. (Surrogates are no UTF-8 in Rust either.)
#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<&str, Error> {
    if has_forbidden::<false>(bytes) {
        return Err(Error::Utf8);
    }
    core::str::from_utf8(bytes).map_err(|_| Error::Utf8)
}

/// A topic name; may be empty, as MQTT 5 allows with an alias.
#[inline]
pub(super) fn topic_name(bytes: &[u8]) -> Result<&str, Error> {
    let name = core::str::from_utf8(bytes).map_err(|_| Error::Utf8)?;
    if has_forbidden::<true>(bytes) {
        return Err(if bytes.contains(&0) { Error::Utf8 } else { Error::TopicName });
    }
    Ok(name)
}

/// Whether `name` may stand in a PUBLISH: 1 to 65,535 bytes, no U+0000, no wildcards.
#[must_use]
pub fn is_topic_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && !has_forbidden::<true>(name.as_bytes())
}

/// Whether `filter` may stand in a SUBSCRIBE: 1 to 65,535 bytes, no U+0000, wildcards as whole levels, `#` last.
/// Shared subscriptions are not looked into: see [`split_shared`].
#[must_use]
pub fn is_topic_filter(filter: &str) -> bool {
    let bytes = filter.as_bytes();
    if bytes.is_empty() || bytes.len() > usize::from(u16::MAX) || has_forbidden::<false>(bytes) {
        return false;
    }
    // A wildcard is a whole level, and `#` the last; before the first byte it is as behind a `/`.
    let mut before = b'/';
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'#' => before == b'/' && rest.peek().is_none(),
            b'+' => before == b'/' && rest.peek().is_none_or(|next| *next == b'/'),
            _ => true,
        };
        if !fits {
            return false;
        }
        before = byte;
    }
    true
}

/// Takes `$share/GROUP/FILTER` apart into group and filter (MQTT 5.0, 4.8.2); `Ok(None)` for any other filter.
///
/// # Errors
/// [`Error::TopicFilter`] when the group is empty or has wildcards, or the filter is missing or not one.
pub fn split_shared(filter: &str) -> Result<Option<(&str, &str)>, Error> {
    let Some(rest) = filter.strip_prefix("$share/") else { return Ok(None) };
    match rest.split_once('/') {
        Some((group, filter))
            if !group.is_empty() && !group.contains(['+', '#']) && is_topic_filter(filter) =>
        {
            Ok(Some((group, filter)))
        }
        _ => Err(Error::TopicFilter),
    }
}

/// A topic filter that was validated before.
pub(super) fn known_filter(bytes: &[u8]) -> Result<&str, Error> {
    core::str::from_utf8(bytes).map_err(|_| Error::Utf8)
}

/// A topic filter from the wire. `shared` tells that the version has shared subscriptions.
pub(super) fn topic_filter(bytes: &[u8], shared: bool) -> Result<&str, Error> {
    let filter = text(bytes)?;
    if !is_topic_filter(filter) {
        return Err(Error::TopicFilter);
    }
    if shared {
        split_shared(filter)?;
    }
    Ok(filter)
}
