//! The examples of RFC 8428, sections 5.1 and 6.

use super::{RECEIVED_S, carrying, cbor, content_type, resolved};
use ciborium::Value as Cbor;
use serde_json::json;
use tidegate::senml::resolve;
use tidegate_engine::limits::Limits;

/// 5.1.2, the second one.
const CURRENT: &str = r#"[
    {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
    {"n":"current","t":-5,"v":1.2}, {"n":"current","t":-4,"v":1.3}, {"n":"current","t":-3,"v":1.4},
    {"n":"current","t":-2,"v":1.5}, {"n":"current","t":-1,"v":1.6}, {"n":"current","v":1.7}]"#;

#[test]
fn a_reading_without_a_time_is_of_when_it_came() {
    assert_eq!(
        resolved(r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#),
        json!([{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1,"t":RECEIVED_S}])
    );
    assert_eq!(
        resolved(
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1}, {"n":"current","u":"A","v":1.2}]"#
        ),
        json!([
            {"n":"urn:dev:ow:10e2073a01080063:voltage","u":"V","v":120.1,"t":RECEIVED_S},
            {"n":"urn:dev:ow:10e2073a01080063:current","u":"A","v":1.2,"t":RECEIVED_S}
        ])
    );
}

#[test]
fn base_values_are_applied_and_records_come_in_the_order_of_their_times() {
    let current =
        |v: f64, t: f64| json!({"bver":5,"n":"urn:dev:ow:10e2073a0108006:current","u":"A","v":v,"t":t});
    assert_eq!(
        resolved(CURRENT),
        json!([
            current(1.2, 1_276_020_071.001),
            current(1.3, 1_276_020_072.001),
            current(1.4, 1_276_020_073.001),
            current(1.5, 1_276_020_074.001),
            current(1.6, 1_276_020_075.001),
            {"bver":5,"n":"urn:dev:ow:10e2073a0108006:voltage","u":"V","v":120.1,"t":1_276_020_076.001},
            current(1.7, 1_276_020_076.001),
        ])
    );
}

#[test]
fn the_measurements_of_5_1_3_become_those_of_5_1_4() {
    let name = "urn:dev:ow:10e2073a01080063";
    let record =
        |unit: &str, time: i64, value: f64| json!({"n":name,"u":unit,"t":1_320_067_464 + time,"v":value});
    let mut out = resolved(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
            {"u":"lon","v":24.30621}, {"u":"lat","v":60.07965},
            {"t":60,"v":20.3}, {"u":"lon","t":60,"v":24.30622}, {"u":"lat","t":60,"v":60.07965},
            {"t":120,"v":20.7}, {"u":"lon","t":120,"v":24.30623}, {"u":"lat","t":120,"v":60.07966},
            {"u":"%EL","t":150,"v":98},
            {"t":180,"v":21.2}, {"u":"lon","t":180,"v":24.30628}, {"u":"lat","t":180,"v":60.07967}]"#,
    );
    // 20 and 98 are the same numbers whether they are written as integers or not.
    for record in out.as_array_mut().unwrap() {
        record["v"] = json!(record["v"].as_f64().unwrap());
        record["t"] = json!(record["t"].as_f64().unwrap() as i64);
    }
    assert_eq!(
        out,
        json!([
            record("%RH", 0, 20.0),
            record("lon", 0, 24.306_21),
            record("lat", 0, 60.079_65),
            record("%RH", 60, 20.3),
            record("lon", 60, 24.306_22),
            record("lat", 60, 60.079_65),
            record("%RH", 120, 20.7),
            record("lon", 120, 24.306_23),
            record("lat", 120, 60.079_66),
            record("%EL", 150, 98.0),
            record("%RH", 180, 21.2),
            record("lon", 180, 24.306_28),
            record("lat", 180, 60.079_67),
        ])
    );
}

#[test]
fn every_type_of_value_passes_as_it_is() {
    let name = |rest: &str| format!("urn:dev:ow:10e2073a01080063:{rest}");
    assert_eq!(
        resolved(
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
                {"n":"label","vs":"Machine Room"}, {"n":"open","vb":false}, {"n":"nfc-reader","vd":"aGkgCg"}]"#
        ),
        json!([
            {"n":name("temp"),"u":"Cel","v":23.1,"t":RECEIVED_S},
            {"n":name("label"),"vs":"Machine Room","t":RECEIVED_S},
            {"n":name("open"),"vb":false,"t":RECEIVED_S},
            {"n":name("nfc-reader"),"vd":"aGkgCg","t":RECEIVED_S}
        ])
    );
}

#[test]
fn a_later_base_name_replaces_the_first_while_the_base_time_stays() {
    let out = resolved(
        r#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
            {"n":"humidity","u":"%RH","v":30},
            {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},
            {"n":"humidity","u":"%RH","v":67}]"#,
    );
    let names: Vec<_> = out.as_array().unwrap().iter().map(|record| record["n"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "2001:db8::2/temperature",
            "2001:db8::2/humidity",
            "2001:db8::1/temperature",
            "2001:db8::1/humidity"
        ]
    );
    assert!(out.as_array().unwrap().iter().all(|record| record["t"] == json!(1_320_078_429)));
}

/// The dump of section 6: 5.1.2 in CBOR.
fn dump() -> Vec<u8> {
    let mut bytes = vec![0x87, 0xa7, 0x21, 0x78, 0x1b];
    bytes.extend(b"urn:dev:ow:10e2073a0108006:");
    bytes.extend([0x22, 0xfb, 0x41, 0xd3, 0x03, 0xa1, 0x5b, 0x00, 0x10, 0x62]);
    bytes.extend([0x23, 0x61, 0x41, 0x20, 0x05, 0x00, 0x67]);
    bytes.extend(b"voltage");
    bytes.extend([0x01, 0x61, 0x56, 0x02, 0xfb, 0x40, 0x5e, 0x06, 0x66, 0x66, 0x66, 0x66, 0x66]);
    for (time, value) in [
        (Some(0x24), [0x3f, 0xf3, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]),
        (Some(0x23), [0x3f, 0xf4, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcd]),
        (Some(0x22), [0x3f, 0xf6, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66]),
        (Some(0x21), [0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
        (Some(0x20), [0x3f, 0xf9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a]),
        (None, [0x3f, 0xfb, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]),
    ] {
        bytes.extend([0xa2 + u8::from(time.is_some()), 0x00, 0x67]);
        bytes.extend(b"current");
        bytes.extend(time.into_iter().flat_map(|time| [0x06, time]));
        bytes.extend([0x02, 0xfb]);
        bytes.extend(value);
    }
    bytes
}

#[test]
fn the_same_in_cbor_stays_cbor_with_the_same_records() {
    for said in [Some("application/senml+cbor"), None, Some("application/octet-stream")] {
        let out = resolve(&carrying(dump(), said), &Limits::default()).unwrap();
        assert_eq!(content_type(&out), Some("application/senml+cbor"));
        let Cbor::Array(records) = cbor(&out.payload) else { panic!("no array") };
        let json = resolved(CURRENT);
        assert_eq!(records.len(), json.as_array().unwrap().len());
        for (record, json) in records.iter().zip(json.as_array().unwrap()) {
            let Cbor::Map(fields) = record else { panic!("no map") };
            let field = |label: i64| {
                fields.iter().find(|(key, _)| *key == Cbor::from(label)).map(|(_, value)| value.clone())
            };
            assert_eq!(field(0), Some(Cbor::from(json["n"].as_str().unwrap())));
            assert_eq!(field(1), Some(Cbor::from(json["u"].as_str().unwrap())));
            assert_eq!(field(2), Some(Cbor::from(json["v"].as_f64().unwrap())));
            assert_eq!(field(6), Some(Cbor::from(json["t"].as_f64().unwrap())));
            assert_eq!(field(-1), Some(Cbor::from(5)));
            assert_eq!(fields.len(), 5);
        }
    }
}
