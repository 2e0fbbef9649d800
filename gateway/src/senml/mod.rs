//! SenML (RFC 8428) on its way out: what a route asks for with `senml = "resolve"`. A pure function of the message as it is kept:
//! one message in, one message with the same identity out, or the reason why it is none. It keeps nothing and asks nobody for the
//! time.

mod cbor;
mod json;
mod record;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use record::resolve_all;
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message, Properties};

/// SenML in JSON (RFC 8428, 5 and 12.3.1).
const SENML_JSON: &str = "application/senml+json";
/// The same as a stream (RFC 8428, 12.3.1).
const SENSML_JSON: &str = "application/sensml+json";
/// SenML in CBOR (RFC 8428, 6 and 12.3.2).
const SENML_CBOR: &str = "application/senml+cbor";

/// Why a message is no SenML that can be resolved, in words for the dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

/// How much a pack may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Records.
    records: usize,
    /// Bytes, before and after.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Cbor,
}

/// The same message with its records resolved (RFC 8428, 4.6): without base fields, in the order of their times, and these absolute,
/// counted from the message's time of reception. JSON stays JSON and CBOR CBOR, and the content type says which. A message
/// without a payload, which clears what was retained, stays as it is.
///
/// # Errors
/// [`Unfit`] when it is no SenML, or more than `limits` allow.
pub fn resolve(message: &Message, limits: &Limits) -> Result<Message, Unfit> {
    if message.payload.is_empty() {
        return Ok(message.clone());
    }
    let bounds = Bounds { records: limits.senml_records, bytes: limits.senml_bytes };
    if message.payload.len() > bounds.bytes {
        return Err(Unfit(format!("it is longer than {} bytes", bounds.bytes)));
    }
    let given = message.properties.as_deref();
    let form = form(given, &message.payload)?;
    let packed = match form {
        Form::Json => json::read(&message.payload, bounds),
        Form::Cbor => cbor::read(&message.payload, bounds),
    }?;
    // Whether this time can be believed is said beside it, and holds for what is counted from it as well (P5).
    let resolved = resolve_all(packed, message.received.unix_ms, bounds)?;
    let payload = match form {
        Form::Json => json::write(&resolved),
        Form::Cbor => cbor::write(&resolved),
    }?;
    if payload.len() > bounds.bytes {
        return Err(Unfit(format!("resolved, it is longer than {} bytes", bounds.bytes)));
    }
    let content_type = match form {
        Form::Json => SENML_JSON,
        Form::Cbor => SENML_CBOR,
    };
    let properties = Properties {
        content_type: Some(content_type.to_owned()),
        content_format: None,
        ..given.cloned().unwrap_or_default()
    };
    Ok(Message { payload: Bytes::from(payload), properties: Some(Box::new(properties)), ..message.clone() })
}

/// For packs that are taken apart into the records of a larger one: the same as [`Limits`] has for packs that are resolved.
const BOUNDS: Bounds = Bounds { records: 4_096, bytes: 1 << 20 };

/// The records of a message that says it is SenML in JSON, resolved, each an object of JSON. Nothing where it is none, or of another
/// version than RFC 8428's: records of several versions do not fit into one pack (4.4).
pub(crate) fn records(message: &Message) -> Option<Vec<Vec<u8>>> {
    let said = message.properties.as_deref()?.content_type.as_deref()?;
    let (media_type, _) = said.split_once(';').unwrap_or((said, ""));
    let media_type = media_type.trim();
    let is_senml = [SENML_JSON, SENSML_JSON].iter().any(|known| media_type.eq_ignore_ascii_case(known));
    if !is_senml || message.payload.is_empty() || message.payload.len() > BOUNDS.bytes {
        return None;
    }
    let packed = json::read(&message.payload, BOUNDS).ok()?;
    let resolved = resolve_all(packed, message.received.unix_ms, BOUNDS).ok()?;
    if resolved.iter().any(|record| record.version.is_some()) {
        return None;
    }
    resolved.iter().map(|record| serde_json::to_vec(record).ok()).collect()
}

/// What the publisher says it is; and of one that cannot say so what it looks like: a pack in CBOR begins with an array, which is no
/// character of JSON.
fn form(given: Option<&Properties>, payload: &[u8]) -> Result<Form, Unfit> {
    let said = given.and_then(|given| given.content_type.as_deref()).unwrap_or_default();
    let (media_type, _) = said.split_once(';').unwrap_or((said, ""));
    match media_type.trim().to_ascii_lowercase().as_str() {
        SENML_JSON | SENSML_JSON | "application/json" => Ok(Form::Json),
        SENML_CBOR | "application/sensml+cbor" | "application/cbor" => Ok(Form::Cbor),
        "" | "application/octet-stream" => {
            Ok(if matches!(payload.first(), Some(0x80..=0x9f)) { Form::Cbor } else { Form::Json })
        }
        other => Err(Unfit(format!("its content type is {other:?}"))),
    }
}

/// Whether this is what a Data Value is in JSON (RFC 8428, 5).
fn is_base64url(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok()
}
