//! Whether what is packed can be unpacked, byte for byte, by readers that are not ours, and whether bounds hold.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::event::{Compression, Dictionary, Senml};
use tidegate_engine::id::{DeviceId, LaneId, MessageId, Seq, Tag, UpstreamId};
use tidegate_engine::message::{Message, Properties, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

const FORMATS: [Format; 3] = [Format::Json, Format::Senml, Format::LengthPrefixed];

fn gateway() -> GatewayId {
    GatewayId::new("site-a").unwrap()
}

fn packing(format: Format, max_bytes: usize) -> Packing {
    Packing { max_messages: 100, max_bytes, linger: Duration::from_millis(100), format, compression: None }
}

fn publication(seq: u64, payload: impl Into<Bytes>) -> Publication {
    Publication {
        upstream: UpstreamId(0),
        tag: Tag(seq),
        lane: LaneId(1),
        message: Arc::new(Message {
            id: MessageId { epoch: 7, seq: Seq(seq) },
            device: DeviceId::new("boiler-3").unwrap(),
            topic: Topic::new("sensors/boiler-3/t").unwrap(),
            payload: payload.into(),
            received: Stamp { unix_ms: 1_700_000_000_123, synchronised: true },
            qos: Qos::AtLeastOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        }),
        routing_key: "readings".to_owned(),
        senml: Senml::Untouched,
        packing: None,
        resend: false,
        salvaged: false,
        live: false,
    }
}

fn changed(seq: u64, payload: &str, change: impl FnOnce(&mut Message)) -> Publication {
    let mut publication = publication(seq, payload.to_owned());
    change(Arc::get_mut(&mut publication.message).unwrap());
    publication
}

fn packed(format: Format, publications: &[Publication]) -> Vec<u8> {
    let mut body = Body::new(&packing(format, 1 << 20));
    for publication in publications {
        assert!(body.append(&gateway(), publication));
    }
    body.finish()
}

/// What a consumer makes of a body: for each record what is said of it, and its payload. Of SenML the payload as far as it is one value.
fn unpacked(format: Format, body: &[u8]) -> Vec<(Value, Vec<u8>)> {
    if format == Format::LengthPrefixed {
        let mut rest = body;
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            rest = after;
            Some(part)
        };
        return std::iter::from_fn(|| {
            let head = serde_json::from_slice(part()?).unwrap();
            Some((head, part().unwrap().to_vec()))
        })
        .collect();
    }
    let records: Vec<Value> = serde_json::from_slice(body).unwrap();
    let text = |record: &Value, key: &str| record[key].as_str().map(str::to_owned);
    let each = |record: Value| match format {
        Format::Json => {
            let payload = text(&record, "payload")
                .map(String::into_bytes)
                .unwrap_or_else(|| STANDARD.decode(record["payload_base64"].as_str().unwrap()).unwrap());
            (record, payload)
        }
        _ => {
            let payload = if let Some(text) = text(&record, "vs") {
                text.into_bytes()
            } else if let Some(data) = text(&record, "vd") {
                URL_SAFE_NO_PAD.decode(data).unwrap()
            } else if record["vb"].is_boolean() {
                record["vb"].to_string().into_bytes()
            } else {
                record["v"].to_string().into_bytes()
            };
            (record["tidegate"].clone(), payload)
        }
    };
    records.into_iter().map(each).collect()
}

#[test]
fn every_format_gives_back_every_payload_and_identity_in_order() {
    let payloads: Vec<Vec<u8>> = [
        &b"{\"t\":21.5,\"h\":\"a \\\" b\"}"[..],
        b"",
        b"21.5",
        b"-3",
        b"true",
        b" 7",
        b"1e999",
        b"\xff\x00\x01",
        "\u{0}\n\u{1f600}".as_bytes(),
        b"[1,2]",
        b"null",
    ]
    .iter()
    .map(|payload| payload.to_vec())
    .chain((0..200).map(|_| {
        std::iter::once(b'~').chain((0..fastrand::usize(0..80)).map(|_| fastrand::u8(..))).collect()
    }))
    .collect();
    let publications: Vec<_> =
        (1..).zip(&payloads).map(|(seq, payload)| publication(seq, payload.clone())).collect();
    for format in FORMATS {
        let records = unpacked(format, &packed(format, &publications));
        assert_eq!(records.len(), payloads.len(), "{format:?}");
        for ((seq, payload), (said, got)) in (1..).zip(&payloads).zip(records) {
            assert_eq!(got, *payload, "{format:?} {seq}");
            assert_eq!(said["id"], format!("site-a/boiler-3/7/{seq}"), "{format:?}");
        }
    }
}

#[test]
fn a_number_keeps_its_digits() {
    for digits in ["21.50", "1.0e3", "0", "-0.10", "12345678901234567890123", "0.1234567890123456789"] {
        let body = String::from_utf8(packed(Format::Senml, &[publication(1, digits)])).unwrap();
        assert!(body.contains(&format!("\"v\":{digits},")), "{body}");
    }
    for text in ["", "+1", "01", "1.", ".5", "1 ", "NaN", "0x1", "1e999", "-"] {
        let body = String::from_utf8(packed(Format::Senml, &[publication(1, text)])).unwrap();
        assert!(body.contains(&format!("\"vs\":\"{text}\"")), "{body}");
    }
}

#[test]
fn what_every_message_repeats_is_left_out_and_the_rest_is_said() {
    let plain = publication(1, "x");
    let mut special = changed(2, "x", |message| {
        message.received = Stamp { unix_ms: 5_000, synchronised: false };
        message.qos = Qos::ExactlyOnce;
        message.properties = Some(Box::new(Properties {
            content_type: Some("text/plain".into()),
            user: vec![("unit".into(), "°C".into())],
            ..Properties::default()
        }));
    });
    special.resend = true;
    special.salvaged = true;
    let both = [plain, special];
    let expected = |topic: Value, received: Value| {
        json!({"id": "site-a/boiler-3/7/2", "topic": topic, "received": received, "clock": "unsynchronised", "qos": 2,
               "content_type": "text/plain", "user": [["unit", "°C"]], "resend": true, "salvaged": true})
    };
    let topic = json!("sensors/boiler-3/t");
    for format in [Format::Json, Format::LengthPrefixed] {
        let mut records = unpacked(format, &packed(format, &both));
        for (record, _) in &mut records {
            record.as_object_mut().unwrap().remove("payload");
        }
        assert_eq!(
            records[0].0,
            json!({"id": "site-a/boiler-3/7/1", "topic": topic, "received": 1_700_000_000_123_i64})
        );
        assert_eq!(records[1].0, expected(topic.clone(), json!(5_000)));
    }
    let pack: Value = serde_json::from_slice(&packed(Format::Senml, &both)).unwrap();
    assert_eq!(
        pack[0],
        json!({"n": "sensors/boiler-3/t", "t": 1_700_000_000.123, "vs": "x", "tidegate": {"id": "site-a/boiler-3/7/1"}})
    );
    // A time so near 1970 would count from now.
    assert_eq!(pack[1].get("t"), None);
    let mut said = expected(Value::Null, json!(5_000));
    said.as_object_mut().unwrap().remove("topic");
    assert_eq!(pack[1]["tidegate"], said);
}

#[test]
fn a_topic_that_is_no_name_becomes_one_and_is_said_beside_it() {
    for (topic, name) in
        [("a/b c/°", "a/b_c/_"), ("/a", "0/a"), ("_x", "0_x"), ("a/B-1:2.3_4", "a/B-1:2.3_4")]
    {
        let publication = changed(1, "1", |message| message.topic = Topic::new(topic).unwrap());
        let pack: Value = serde_json::from_slice(&packed(Format::Senml, &[publication])).unwrap();
        assert_eq!(pack[0]["n"], name);
        let said = pack[0]["tidegate"].get("topic");
        assert_eq!(said, (topic != name).then(|| json!(topic)).as_ref());
    }
}

#[test]
fn packs_of_devices_join_the_pack_resolved_and_what_is_none_stays_text() {
    let senml = |seq, payload: &str| {
        changed(seq, payload, |message| {
            let content_type = Some("application/senml+json; charset=utf-8".to_owned());
            message.properties = Some(Box::new(Properties { content_type, ..Properties::default() }));
        })
    };
    let own = [
        senml(1, r#"[{"bn":"b/","bt":1700000000,"n":"t","v":1},{"n":"p","t":-1,"v":2}]"#),
        senml(2, r#"[{"n":"single","v":3}]"#),
        senml(3, "no pack"),
        senml(4, r#"[{"bver":9,"n":"old","v":4}]"#),
    ];
    let pack: Value = serde_json::from_slice(&packed(Format::Senml, &own)).unwrap();
    let said = |seq: u64| json!({"id": format!("site-a/boiler-3/7/{seq}"), "topic": "sensors/boiler-3/t", "received": 1_700_000_000_123_i64});
    let part = |part: u64| {
        let mut said = said(1);
        said["part"] = json!(part);
        said["parts"] = json!(2);
        said
    };
    assert_eq!(pack[0], json!({"n": "b/p", "v": 2, "t": 1_699_999_999, "tidegate": part(1)}));
    assert_eq!(pack[1], json!({"n": "b/t", "v": 1, "t": 1_700_000_000, "tidegate": part(2)}));
    assert_eq!(pack[2], json!({"n": "single", "v": 3, "t": 1_700_000_000.123, "tidegate": said(2)}));
    for (index, text) in [(3, "no pack"), (4, r#"[{"bver":9,"n":"old","v":4}]"#)] {
        assert_eq!((&pack[index]["vs"], &pack[index]["n"]), (&json!(text), &json!("sensors/boiler-3/t")));
    }
}

#[test]
fn a_body_is_never_longer_than_it_may_be_and_what_does_not_fit_leaves_it_whole() {
    for format in FORMATS {
        for most in [60, 100, 500, 1_000] {
            let mut body = Body::new(&packing(format, most));
            let mut taken = Vec::new();
            for seq in 1..40 {
                let publication = publication(seq, "\u{1}".repeat(fastrand::usize(0..200)));
                if body.append(&gateway(), &publication) {
                    taken.push(publication.message.payload.to_vec());
                }
            }
            if taken.is_empty() {
                continue;
            }
            let bytes = body.finish();
            assert!(bytes.len() <= most, "{format:?}: {} of {most}", bytes.len());
            let got: Vec<_> = unpacked(format, &bytes).into_iter().map(|(_, payload)| payload).collect();
            assert_eq!(got, taken, "{format:?}");
        }
    }
}

fn readings(count: u64) -> Vec<Publication> {
    (1..=count)
        .map(|seq| publication(seq, format!("{{\"temperature\":{}.{},\"n\":{seq}}}", 20 + seq % 7, seq % 10)))
        .collect()
}

fn dictionary() -> Dictionary {
    let samples: Vec<_> = readings(4_000).chunks(4).map(|few| packed(Format::Json, few)).collect();
    let bytes = train(&samples, 8 << 10).unwrap();
    Dictionary { id: dictionary_id(&bytes).unwrap(), bytes: bytes.into() }
}

#[test]
fn compressed_bodies_are_shorter_and_come_out_as_they_were_with_and_without_a_dictionary() {
    let dictionary = dictionary();
    let with = |given: Option<Dictionary>| {
        let compression = Some(Compression::Zstd(given));
        Arc::new(Packing { compression, ..packing(Format::Json, 1 << 20) })
    };
    let mut compressor = Compressor::default();
    let mut lengths = Vec::new();
    // Twice each, on two lanes: nothing of one may stay for another.
    for (lane, given) in [(1, None), (2, Some(dictionary.clone())), (1, None), (2, Some(dictionary.clone()))]
    {
        let packing = with(given.clone());
        for count in [5, 100] {
            let body = packed(Format::Json, &readings(count));
            let compressed = compressor.compress(LaneId(lane), &packing, &body).unwrap();
            assert_eq!(compressed.dictionary, given.as_ref().map(|given| given.id));
            let mut decompressor = match &given {
                Some(given) => zstd::bulk::Decompressor::with_dictionary(&given.bytes),
                None => zstd::bulk::Decompressor::new(),
            }
            .unwrap();
            assert_eq!(decompressor.decompress(&compressed.bytes, 1 << 20).unwrap(), body);
            lengths.push((body.len(), compressed.bytes.len()));
        }
    }
    let [(plain, without), _, (_, with), ..] = lengths[..] else { panic!() };
    assert!(with * 2 < without && without * 2 < plain, "{lengths:?}");
}

#[test]
fn what_compression_makes_no_shorter_stays_as_it_is() {
    let compression = Some(Compression::Zstd(None));
    let packing = Arc::new(Packing { compression, ..packing(Format::LengthPrefixed, 1 << 20) });
    assert!(Compressor::default().compress(LaneId(1), &packing, b"short").is_none());
    let plain = Arc::new(Packing { compression: None, ..(*packing).clone() });
    assert!(Compressor::default().compress(LaneId(1), &plain, &[b'x'; 1_000]).is_none());
}

#[test]
fn what_is_no_dictionary_is_known_as_such() {
    let good = dictionary().bytes;
    assert!(dictionary_id(&good).is_some());
    let mut other = good.to_vec();
    other[8..40].fill(0xff);
    for bad in [&b""[..], b"text", &good[1..], &good[..20], &other] {
        assert_eq!(dictionary_id(bad), None);
    }
    assert!(train(&[b"too".to_vec(), b"few".to_vec()], 8 << 10).is_err());
}
