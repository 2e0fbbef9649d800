//! Takes batches apart as a consumer does: from what arrived and the documentation of the formats, with none of the gateway's code.

use crate::rabbit::Received;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tidegate::cli;

/// The longest body that is decompressed.
const BODY_BYTES: usize = 4 << 20;

/// The messages of a batch, each as if it had come by itself; anything else as it is.
///
/// # Panics
/// When a batch is not what the documentation says.
#[must_use]
pub fn apart(received: Received, dictionary: Option<&[u8]>) -> Vec<Received> {
    let Some(AMQPValue::LongInt(records)) = received.header("records") else { return vec![received] };
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let body = match text(received.properties.content_encoding()).as_deref() {
        None => received.body.clone(),
        Some("zstd") => {
            let with = received.header("dictionary").is_some();
            let decompressor = match dictionary.filter(|_| with) {
                Some(dictionary) => zstd::bulk::Decompressor::with_dictionary(dictionary),
                None => zstd::bulk::Decompressor::new(),
            };
            let body = decompressor.expect("a decompressor").decompress(&received.body, BODY_BYTES);
            body.expect("a compressed body")
        }
        Some(other) => panic!("content encoding {other}"),
    };
    let parts = match text(received.properties.content_type()).as_deref() {
        Some("application/json") => json(&body),
        Some("application/senml+json") => senml(&body),
        Some("application/vnd.tidegate.batch") => length_prefixed(&body),
        other => panic!("content type {other:?}"),
    };
    assert_eq!(parts.len(), usize::try_from(records).expect("a count"), "records");
    let one_is_marked = parts.iter().any(|(said, _)| said["resend"] == Value::Bool(true));
    assert_eq!(received.resend(), one_is_marked, "the batch says whether one of its records is marked");
    parts.into_iter().map(|(said, body)| message(&received, &said, body)).collect()
}

fn json(body: &[u8]) -> Vec<(Value, Vec<u8>)> {
    let records: Vec<Value> = serde_json::from_slice(body).expect("a JSON array");
    let payload = |record: &Value| match (&record["payload"], &record["payload_base64"]) {
        (Value::String(text), Value::Null) => text.clone().into_bytes(),
        (Value::Null, Value::String(encoded)) => STANDARD.decode(encoded).expect("base64"),
        other => panic!("payloads {other:?}"),
    };
    records.into_iter().map(|record| (record.clone(), payload(&record))).collect()
}

/// Of messages that are no packs themselves.
fn senml(body: &[u8]) -> Vec<(Value, Vec<u8>)> {
    let records: Vec<Value> = serde_json::from_slice(body).expect("a JSON array");
    let each = |record: Value| {
        let payload = match (&record["v"], &record["vs"], &record["vb"], &record["vd"]) {
            (number, Value::Null, Value::Null, Value::Null) => number.to_string().into_bytes(),
            (Value::Null, Value::String(text), Value::Null, Value::Null) => text.clone().into_bytes(),
            (Value::Null, Value::Null, truth, Value::Null) => truth.to_string().into_bytes(),
            (Value::Null, Value::Null, Value::Null, Value::String(data)) => {
                URL_SAFE_NO_PAD.decode(data).expect("base64url")
            }
            other => panic!("values {other:?}"),
        };
        let mut said = record["tidegate"].clone();
        if said.get("topic").is_none() {
            said["topic"] = record["n"].clone();
        }
        if let Some(seconds) = record["t"].as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of our century")]
            let received = (seconds * 1_000.0).round() as i64;
            said["received"] = received.into();
        }
        (said, payload)
    };
    records.into_iter().map(each).collect()
}

fn length_prefixed(body: &[u8]) -> Vec<(Value, Vec<u8>)> {
    let mut rest = body;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let (part, after) = after.split_at_checked(length).expect("a whole part");
        rest = after;
        Some(part)
    };
    std::iter::from_fn(|| {
        let head = serde_json::from_slice(part()?).expect("a head");
        Some((head, part().expect("a payload").to_vec()))
    })
    .collect()
}

/// Trains a dictionary on such messages with `tidegate dictionary`, as an operator does, and gives the file.
///
/// # Panics
/// When it cannot be trained.
pub fn dictionary(folder: &Path, messages: impl IntoIterator<Item = (String, String)>) -> PathBuf {
    let lines = (0..).zip(messages).map(|(seq, (topic, payload))| {
        let device = topic.split('/').nth(1).unwrap_or("device").to_owned();
        let line = serde_json::json!({
            "id": format!("test-site/{device}/7/{seq}"),
            "topic": topic,
            "received": 1_700_000_000_000_u64 + seq * 250,
            "payload": payload,
        });
        format!("{line}\n")
    });
    let (from, to) = (folder.join("messages.jsonl"), folder.join("readings.dict"));
    std::fs::write(&from, lines.collect::<String>()).expect("messages");
    let mut said = Vec::new();
    let arguments =
        ["tidegate".into(), "dictionary".into(), "--output".into(), to.clone().into(), from.into()];
    let exit = cli::run_with(arguments, &mut Vec::new(), &mut said, |_| cli::Exit::Failure);
    assert_eq!(exit, cli::Exit::Well, "{}", String::from_utf8_lossy(&said));
    to
}

/// What a message of its own would have looked like.
fn message(batch: &Received, said: &Value, body: Vec<u8>) -> Received {
    let mut headers = FieldTable::default();
    let text = |key: &str| said[key].as_str();
    headers.insert("topic".into(), AMQPValue::LongString(text("topic").expect("a topic").into()));
    headers.insert("received".into(), AMQPValue::LongLongInt(said["received"].as_i64().expect("a time")));
    if let Some(clock) = text("clock") {
        headers.insert("clock".into(), AMQPValue::LongString(clock.into()));
    }
    if said["resend"] == Value::Bool(true) {
        headers.insert("x-resend".into(), AMQPValue::Boolean(true));
    }
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(kind) = text("content_type") {
        properties = properties.with_content_type(kind.into());
    }
    Received {
        id: text("id").expect("an id").to_owned(),
        routing_key: batch.routing_key.clone(),
        body,
        properties,
        redelivered: batch.redelivered,
        batch: Some(batch.id.clone()),
    }
}
