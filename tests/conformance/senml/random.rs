//! Random packs: against a model that is written in another way, between the two forms, and twice in a row. And noise.

use super::{RECEIVED_S, carrying, cbor, cbor_bytes};
use ciborium::Value as Cbor;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use serde_json::{Map, Value as Json, json};
use tidegate::senml::resolve;
use tidegate_engine::limits::Limits;
use tidegate_tests::property::property;

/// Labels with their numbers in CBOR (RFC 8428, table 4).
const LABELS: [(&str, i64); 14] = [
    ("bn", -2),
    ("bt", -3),
    ("bu", -4),
    ("bv", -5),
    ("bs", -6),
    ("n", 0),
    ("u", 1),
    ("v", 2),
    ("vs", 3),
    ("vb", 4),
    ("s", 5),
    ("t", 6),
    ("ut", 7),
    ("bver", -1),
];

fn number() -> impl Strategy<Value = Json> {
    prop_oneof![
        (-1_000_000_i64..1_000_000).prop_map(|number| json!(number)),
        (-1e6..1e6).prop_map(|number: f64| json!(number)),
        Just(json!(1_276_020_076.001)),
        Just(json!(i64::MAX)),
    ]
}

fn time() -> impl Strategy<Value = Json> {
    prop_oneof![
        (-100_000_i64..100_000).prop_map(|number| json!(number)),
        (-1e5..1e5).prop_map(|number: f64| json!(number)),
        (1_200_000_000_i64..1_900_000_000).prop_map(|number| json!(number)),
    ]
}

fn record() -> impl Strategy<Value = Map<String, Json>> {
    let value = prop_oneof![
        4 => number().prop_map(|number| ("v", number)),
        1 => "[a-z ü]{0,8}".prop_map(|text| ("vs", json!(text))),
        1 => any::<bool>().prop_map(|truth| ("vb", json!(truth))),
    ];
    let base = (
        weighted(0.2, "[a-z]{0,3}:"),
        weighted(0.2, time()),
        weighted(0.2, "[A-Z]"),
        weighted(0.2, number()),
    );
    let own = (of("[a-z0-9.]{0,4}"), of("[A-Z]"), weighted(0.9, value), weighted(0.3, number()), of(time()));
    (base, weighted(0.1, number()), own, weighted(0.1, number())).prop_map(
        |((bn, bt, bu, bv), bs, (n, u, value, s, t), ut)| {
            let mut record = Map::new();
            let mut put = |label: &str, value: Option<Json>| {
                record.extend(value.map(|value| (label.to_owned(), value)));
            };
            put("bn", bn.map(Json::from));
            put("bt", bt);
            put("bu", bu.map(Json::from));
            put("bv", bv);
            put("bs", bs);
            put("n", n.map(Json::from));
            put("u", u.map(Json::from));
            if let Some((label, value)) = value {
                put(label, Some(value));
            }
            put("s", s);
            put("t", t);
            put("ut", ut);
            record
        },
    )
}

fn to_cbor(pack: &[Map<String, Json>]) -> Vec<u8> {
    let value = |value: &Json| match value {
        Json::String(text) => Cbor::from(text.as_str()),
        Json::Bool(truth) => Cbor::from(*truth),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Cbor::from(number.as_f64().unwrap()), Cbor::from)
        }
        other => panic!("{other}"),
    };
    let label = |label: &str| Cbor::from(LABELS.iter().find(|(name, _)| *name == label).unwrap().1);
    let record = |record: &Map<String, Json>| {
        Cbor::Map(record.iter().map(|(name, field)| (label(name), value(field))).collect())
    };
    cbor_bytes(&Cbor::Array(pack.iter().map(record).collect()))
}

/// A pack in CBOR as it would be in JSON, with every number a double.
fn from_cbor(bytes: &[u8]) -> Vec<Map<String, Json>> {
    let Cbor::Array(records) = cbor(bytes) else { panic!("no array") };
    let field = |(key, value): &(Cbor, Cbor)| {
        let number = i64::try_from(key.as_integer().unwrap()).unwrap();
        let value = match value {
            Cbor::Text(text) => json!(text),
            Cbor::Bool(truth) => json!(truth),
            Cbor::Integer(number) => json!(i64::try_from(*number).unwrap() as f64),
            Cbor::Float(number) => json!(number),
            other => panic!("{other:?}"),
        };
        (LABELS.iter().find(|(_, label)| *label == number).unwrap().0.to_owned(), value)
    };
    records.iter().map(|record| record.as_map().unwrap().iter().map(field).collect()).collect()
}

/// The same of one in JSON.
fn as_doubles(records: &[Map<String, Json>]) -> Vec<Map<String, Json>> {
    let double = |value: &Json| value.as_f64().map_or_else(|| value.clone(), |number| json!(number));
    records
        .iter()
        .map(|record| record.iter().map(|(label, value)| (label.clone(), double(value))).collect())
        .collect()
}

/// What should come of a pack, or nothing when it should be refused: each record by a look back over those before it.
fn model(pack: &[Map<String, Json>]) -> Option<Vec<Map<String, Json>>> {
    let mut all = Vec::new();
    for (at, record) in pack.iter().enumerate() {
        let base = |label: &str| pack[..=at].iter().rev().find_map(|record| record.get(label)).cloned();
        let text =
            |value: Option<Json>| value.map_or(String::new(), |value| value.as_str().unwrap().to_owned());
        let sum = |base: Option<Json>, own: Option<&Json>| match (base, own) {
            (Some(base), Some(own)) => Some(match (base.as_i64(), own.as_i64()) {
                (Some(base), Some(own)) if base.checked_add(own).is_some() => (base + own) as f64,
                _ => base.as_f64().unwrap() + own.as_f64().unwrap(),
            }),
            (base, own) => base.as_ref().or(own).map(|number| number.as_f64().unwrap()),
        };
        let name = text(base("bn")) + &text(record.get("n").cloned());
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return None;
        }
        let mut out = Map::new();
        out.insert("n".to_owned(), json!(name));
        out.extend(record.get("u").cloned().or_else(|| base("bu")).map(|unit| ("u".to_owned(), unit)));
        let total = sum(base("bs"), record.get("s"));
        out.extend(total.map(|total| ("s".to_owned(), json!(total))));
        let other = ["vs", "vb"].into_iter().find(|label| record.contains_key(*label));
        let value = match other {
            Some(label) => Some((label, record[label].clone())),
            None if record.contains_key("v") || total.is_none() => {
                sum(base("bv"), record.get("v")).map(|value| ("v", json!(value)))
            }
            None => None,
        };
        if value.is_none() && total.is_none() {
            return None;
        }
        out.extend(value.map(|(label, value)| (label.to_owned(), value)));
        let time = sum(base("bt"), record.get("t")).unwrap_or(0.0);
        let time = if time < 268_435_456.0 { RECEIVED_S as f64 + time } else { time };
        out.insert("t".to_owned(), json!(time));
        out.extend(record.get("ut").map(|update| ("ut".to_owned(), json!(update.as_f64().unwrap()))));
        all.push(out);
    }
    all.sort_by(|one, other| one["t"].as_f64().unwrap().total_cmp(&other["t"].as_f64().unwrap()));
    Some(all)
}

proptest! {
    #![proptest_config(property(2_000))]

    #[test]
    fn a_pack_resolves_as_the_model_says_in_both_forms_and_stays_so(pack in vec(record(), 1..8)) {
        let limits = Limits::default();
        let json = resolve(&carrying(serde_json::to_vec(&pack).unwrap(), None), &limits);
        let cbor = resolve(&carrying(to_cbor(&pack), None), &limits);
        match model(&pack) {
            None => assert!(json.is_err() && cbor.is_err()),
            Some(expected) => {
                let (json, cbor) = (json.unwrap(), cbor.unwrap());
                let records: Vec<Map<String, Json>> = serde_json::from_slice(&json.payload).unwrap();
                assert_eq!(as_doubles(&records), expected);
                assert_eq!(from_cbor(&cbor.payload), expected);
                assert_eq!(resolve(&json, &limits).as_ref(), Ok(&json));
                assert_eq!(resolve(&cbor, &limits).as_ref(), Ok(&cbor));
            }
        }
    }

    #[test]
    fn noise_and_damaged_packs_are_refused_or_resolved_and_never_a_panic(
        pack in vec(record(), 1..4),
        noise in vec(any::<u8>(), 0..64),
        at in any::<usize>(),
        value in any::<u8>(),
    ) {
        let limits = Limits::default();
        for said in [None, Some("application/senml+json"), Some("application/senml+cbor")] {
            let _ = resolve(&carrying(noise.clone(), said), &limits);
            for mut bytes in [serde_json::to_vec(&pack).unwrap(), to_cbor(&pack)] {
                let at = at % bytes.len();
                bytes[at] = value;
                if let Ok(out) = resolve(&carrying(bytes.clone(), said), &limits) {
                    assert_eq!(resolve(&out, &limits).as_ref(), Ok(&out));
                }
                bytes.truncate(at);
                assert!(resolve(&carrying(bytes, said), &limits).is_err() || at == 0);
            }
        }
    }
}
