//! SenML's resolution (RFC 8428) against the RFC's own examples, a model of its own, and an independent CBOR library.
//! Owns no gateway; how a message gets there stands in `tests/e2e/senml.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

mod examples;
mod packs;
mod random;

use bytes::Bytes;
use ciborium::Value as Cbor;
use serde_json::Value as Json;
use tidegate::senml::resolve;
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message, Properties};
use tidegate_engine::time::Stamp;
use tidegate_tests::publications::message;

/// 2023-11-14T22:13:20Z.
const RECEIVED_S: i64 = 1_700_000_000;

/// A message with this payload, received at a full second.
fn carrying(payload: impl Into<Bytes>, content_type: Option<&str>) -> Message {
    let properties = content_type.map(|content_type| {
        Box::new(Properties { content_type: Some(content_type.to_owned()), ..Properties::default() })
    });
    let received = Stamp { unix_ms: RECEIVED_S * 1_000, synchronised: true };
    Message { payload: payload.into(), properties, received, ..message(1) }
}

fn content_type(message: &Message) -> Option<&str> {
    message.properties.as_deref()?.content_type.as_deref()
}

/// The records that come of a pack in JSON.
#[track_caller]
fn resolved(pack: &str) -> Json {
    let out = resolve(&carrying(pack.to_owned(), None), &Limits::default()).unwrap();
    assert_eq!(content_type(&out), Some("application/senml+json"));
    serde_json::from_slice(&out.payload).unwrap()
}

/// Why a pack in JSON is none.
#[track_caller]
fn refused(pack: &str) -> String {
    resolve(&carrying(pack.to_owned(), Some("application/senml+json")), &Limits::default())
        .unwrap_err()
        .to_string()
}

fn cbor(bytes: &[u8]) -> Cbor {
    ciborium::from_reader(bytes).unwrap()
}

fn cbor_bytes(value: &Cbor) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}
