//! A message as a record of a SenML pack in JSON (RFC 8428, 5). Names and times are absolute in each: packs can be cut and joined.
//!
//! ```json
//! {"n":"sensors/boiler-3/temperature","t":1700000000.123,"v":21.5,"tidegate":{"id":"site-a/boiler-3/7/41"}}
//! ```
//!
//! `n` is the topic, `t` the time of reception, and the value the whole payload: `v` when it is a number in JSON, with the same digits,
//! `vb` when it is `true` or `false`, `vs` other text, `vd` what is no text. A message that says that it is SenML in JSON itself gives its own
//! records instead, resolved. `tidegate` holds what `crate::json` says of a message, but for what stands beside it: the topic, when a name
//! cannot be like it (4.5.1), and the time, when `t` is not that. In those of several records of one message, `part` counts them up to `parts`:
//! they have one id. Receivers pass over labels that they do not know (4.4).

use crate::json::MessageJson;
use crate::senml::records;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use std::borrow::Cow;
use std::io::Write as _;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;

/// From here on `t` counts from 1970, below it from now (RFC 8428, 4.5.3). In milliseconds.
const ABSOLUTE_FROM_MS: i64 = 268_435_456_000;

/// One of several records of one message.
#[derive(Serialize)]
struct Part<'a> {
    #[serde(flatten)]
    of: &'a MessageJson<'a>,
    part: usize,
    parts: usize,
}

/// Appends a publication's records.
pub(super) fn append(
    out: &mut Vec<u8>,
    gateway: &GatewayId,
    publication: &Publication,
) -> serde_json::Result<()> {
    let mut about = MessageJson::record(gateway, publication);
    if let Some(own) = records(&publication.message) {
        about.content_type = None;
        return append_own(out, &own, &about);
    }
    let message = &publication.message;
    let topic = message.topic.as_str();
    let name = name(topic);
    out.extend_from_slice(b"{\"n\":");
    serde_json::to_writer(&mut *out, &name)?;
    if name == topic {
        about.topic = None;
    }
    if message.received.unix_ms >= ABSOLUTE_FROM_MS {
        time(out, message.received.unix_ms);
        about.received = None;
    }
    value(out, &message.payload)?;
    finish(out, &about)
}

fn append_own(out: &mut Vec<u8>, own: &[Vec<u8>], about: &MessageJson<'_>) -> serde_json::Result<()> {
    for (index, record) in own.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(record.strip_suffix(b"}").unwrap_or(record));
        match own.len() {
            1 => finish(out, about)?,
            parts => finish(out, &Part { of: about, part: index + 1, parts })?,
        }
    }
    Ok(())
}

/// The last field of a record, and its end.
fn finish(out: &mut Vec<u8>, about: &impl Serialize) -> serde_json::Result<()> {
    out.extend_from_slice(b",\"tidegate\":");
    serde_json::to_writer(&mut *out, about)?;
    out.push(b'}');
    Ok(())
}

/// The topic, or what is left of it in the letters of names: they begin with a letter or a digit (RFC 8428, 4.5.1).
fn name(topic: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-:./_".contains(c);
    let begins = topic.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && topic.chars().all(allowed) {
        return Cow::Borrowed(topic);
    }
    let fitting = topic.chars().map(|c| if allowed(c) { c } else { '_' });
    Cow::Owned(if begins { fitting.collect() } else { std::iter::once('0').chain(fitting).collect() })
}

fn time(out: &mut Vec<u8>, unix_ms: i64) {
    let (seconds, rest) = (unix_ms / 1_000, unix_ms % 1_000);
    // Into memory: it cannot fail.
    let _ =
        if rest == 0 { write!(out, ",\"t\":{seconds}") } else { write!(out, ",\"t\":{seconds}.{rest:03}") };
}

fn value(out: &mut Vec<u8>, payload: &[u8]) -> serde_json::Result<()> {
    match std::str::from_utf8(payload) {
        Ok(truth @ ("true" | "false")) => out.extend([b",\"vb\":", truth.as_bytes()].concat()),
        Ok(number) if is_number(number) => out.extend([b",\"v\":", number.as_bytes()].concat()),
        Ok(text) => {
            out.extend_from_slice(b",\"vs\":");
            serde_json::to_writer(&mut *out, text)?;
        }
        Err(_) => {
            out.extend_from_slice(b",\"vd\":");
            serde_json::to_writer(&mut *out, &URL_SAFE_NO_PAD.encode(payload))?;
        }
    }
    Ok(())
}

/// Whether this is a number of JSON (RFC 8259, 6) and nothing else.
fn is_number(text: &str) -> bool {
    let bare = text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit());
    bare && serde_json::from_str::<serde_json::Number>(text).is_ok()
}
