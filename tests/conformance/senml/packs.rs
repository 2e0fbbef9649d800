//! What a pack may and may not be, statement by statement of RFC 8428, and the bounds on it.

use super::{RECEIVED_S, carrying, cbor, cbor_bytes, refused, resolved};
use ciborium::Value as Cbor;
use serde_json::json;
use tidegate::senml::resolve;
use tidegate_engine::limits::Limits;
use tidegate_engine::message::Message;
use tidegate_engine::time::Stamp;

#[test]
fn times_below_two_to_the_28_count_from_the_reception() {
    assert_eq!(
        resolved(
            r#"[{"n":"a","t":10,"v":1},{"n":"b","t":-10.5,"v":2},{"bt":-100,"n":"c","t":268435555,"v":3},{"n":"d","t":268435556,"v":4}]"#
        ),
        json!([
            // Far ahead, but from 1970: 2^28 seconds and no less.
            {"n":"d","v":4,"t":268_435_456},
            {"n":"b","v":2,"t":1_699_999_989.5},
            {"n":"a","v":1,"t":RECEIVED_S + 10},
            {"n":"c","v":3,"t":RECEIVED_S + 268_435_455},
        ])
    );
}

#[test]
fn a_clock_that_stands_near_1970_makes_no_time_out_of_a_relative_one() {
    let received = Stamp { unix_ms: 5_000, synchronised: false };
    let message = Message { received, ..carrying(r#"[{"n":"a","t":-3,"v":1}]"#, None) };
    let out = resolve(&message, &Limits::default()).unwrap();
    assert_eq!(&out.payload[..], br#"[{"n":"a","v":1,"t":-3}]"#);
    assert_eq!((out.id, out.received), (message.id, message.received));
}

#[test]
fn milliseconds_of_the_reception_are_kept() {
    let received = Stamp { unix_ms: RECEIVED_S * 1_000 + 123, synchronised: true };
    let out = resolve(&Message { received, ..carrying(r#"[{"n":"a","v":1}]"#, None) }, &Limits::default());
    assert_eq!(&out.unwrap().payload[..], br#"[{"n":"a","v":1,"t":1700000000.123}]"#);
}

#[test]
fn base_value_and_base_sum_are_added_and_what_is_missing_is_zero() {
    assert_eq!(
        resolved(
            r#"[{"n":"a","bv":10,"bs":100,"v":1,"s":5,"ut":60},{"n":"b","v":2},{"n":"c","s":7},{"n":"d","vs":"x"}]"#
        ),
        json!([
            {"n":"a","v":11,"s":105,"t":RECEIVED_S,"ut":60},
            {"n":"b","v":12,"s":100,"t":RECEIVED_S},
            {"n":"c","s":107,"t":RECEIVED_S},
            {"n":"d","vs":"x","s":100,"t":RECEIVED_S},
        ])
    );
    assert_eq!(resolved(r#"[{"n":"a","bv":0.5}]"#), json!([{"n":"a","v":0.5,"t":RECEIVED_S}]));
}

#[test]
fn a_pack_is_refused_with_the_reason_and_the_record() {
    for (pack, why) in [
        ("", ""),
        ("21.5", "expected a SenML pack, an array of records"),
        ("[]", "no records"),
        (r#"[{"n":"a","v":1}] x"#, "trailing"),
        (r#"[{"n":"a","v":1}"#, "EOF"),
        (r#"[1]"#, "expected a SenML record, an object"),
        (r#"[{"v":1}]"#, "record 1: it has no name"),
        (r#"[{"n":"a","v":1},{"n":"/b","v":1}]"#, "record 2: its name"),
        (r#"[{"n":"a b","v":1}]"#, "its name"),
        (r#"[{"n":"ü","v":1}]"#, "its name"),
        (r#"[{"n":"a"}]"#, "neither a value nor a sum"),
        (r#"[{"n":"a","v":1,"vs":"x"}]"#, "more than one value"),
        (r#"[{"n":"a","v":1,"v":1}]"#, "more than one value"),
        (r#"[{"n":"a","n":"b","v":1}]"#, "n stands there twice"),
        (r#"[{"n":"a","v":"1"}]"#, "invalid type"),
        (r#"[{"n":"a","v":1e999}]"#, "out of range"),
        (r#"[{"n":"a","vd":"aGkgCg=="}]"#, "base64url"),
        (r#"[{"n":"a","v":1,"x_":1}]"#, "must be understood"),
        (r#"[{"n":"a","v":1,"bver":11}]"#, "version"),
        (r#"[{"n":"a","v":1,"bver":0}]"#, "version"),
        (r#"[{"n":"a","v":1,"bver":9},{"n":"a","v":1,"bver":10}]"#, "several versions"),
        (r#"[{"n":"a","v":1},{"n":"a","v":1,"bver":9}]"#, "several versions"),
        (r#"[{"n":"a","bv":1e308,"v":1e308}]"#, "beyond every measure"),
    ] {
        if !pack.is_empty() {
            let said = refused(pack);
            assert!(said.contains(why), "{pack}: {said}");
        }
    }
    // What says that it is something else is not tried.
    let text = carrying(r#"[{"n":"a","v":1}]"#, Some("text/plain"));
    assert!(resolve(&text, &Limits::default()).unwrap_err().to_string().contains("text/plain"));
}

#[test]
fn what_clears_a_retained_value_stays_empty() {
    let empty = carrying("", None);
    assert_eq!(resolve(&empty, &Limits::default()), Ok(empty));
}

#[test]
fn the_version_of_the_rfc_is_not_said_and_an_older_one_is_in_every_record() {
    assert_eq!(resolved(r#"[{"bver":10,"n":"a","v":1}]"#), json!([{"n":"a","v":1,"t":RECEIVED_S}]));
    assert_eq!(
        resolved(r#"[{"bver":5,"n":"a","v":1},{"n":"b","v":1}]"#),
        json!([{"bver":5,"n":"a","v":1,"t":RECEIVED_S},{"bver":5,"n":"b","v":1,"t":RECEIVED_S}])
    );
}

#[test]
fn fields_that_are_not_known_pass_unless_they_are_base_fields() {
    assert_eq!(
        resolved(r#"[{"n":"a","v":1,"bct":"60","ct":"0","x":{"y":[1]},"z":null}]"#),
        json!([{"n":"a","v":1,"t":RECEIVED_S,"ct":"0","z":null}])
    );
    let pack = Cbor::Array(vec![Cbor::Map(vec![
        (Cbor::from(0), Cbor::from("a")),
        (Cbor::from(2), Cbor::from(1)),
        (Cbor::from("bct"), Cbor::from("60")),
        (Cbor::from("ct"), Cbor::from("0")),
        (Cbor::from("x"), Cbor::Array(vec![Cbor::from(1)])),
        (Cbor::from(-7), Cbor::from(1)),
        (Cbor::from(9), Cbor::Bytes(vec![1, 2])),
    ])]);
    let out = resolve(&carrying(cbor_bytes(&pack), Some("application/senml+cbor")), &Limits::default());
    assert_eq!(
        cbor(&out.unwrap().payload),
        Cbor::Array(vec![Cbor::Map(vec![
            (Cbor::from(0), Cbor::from("a")),
            (Cbor::from(2), Cbor::from(1)),
            (Cbor::from(6), Cbor::from(RECEIVED_S)),
            (Cbor::from("ct"), Cbor::from("0")),
            (Cbor::from(9), Cbor::Bytes(vec![1, 2])),
        ])])
    );
}

#[test]
fn cbor_may_be_indefinite_and_have_half_floats_and_decimal_fractions() {
    let mut pack = vec![0x9f, 0xbf, 0x00, 0x7f, 0x61, b'a', 0x61, b'b', 0xff];
    // -1 × 10^273.15 is none; 27315 × 10^-2 is one. A half float: 1.5.
    pack.extend([0x02, 0xc4, 0x82, 0x21, 0x19, 0x6a, 0xb3, 0x05, 0xf9, 0x3e, 0x00, 0xff, 0xff]);
    let out = resolve(&carrying(pack, None), &Limits::default()).unwrap();
    assert_eq!(
        cbor(&out.payload),
        Cbor::Array(vec![Cbor::Map(vec![
            (Cbor::from(0), Cbor::from("ab")),
            (Cbor::from(2), Cbor::from(273.15)),
            (Cbor::from(5), Cbor::from(1.5)),
            (Cbor::from(6), Cbor::from(RECEIVED_S)),
        ])])
    );
}

#[test]
fn records_and_bytes_are_bounded_before_and_after() {
    let limits = Limits { senml_records: 3, senml_bytes: 400, ..Limits::default() };
    let why = |pack: String| resolve(&carrying(pack, None), &limits).unwrap_err().to_string();
    assert!(
        why(r#"[{"n":"a","v":1},{"n":"a","v":1},{"n":"a","v":1},{"n":"a","v":1}]"#.to_owned())
            .contains("3 records")
    );
    assert!(why(format!(r#"[{{"n":"{}","v":1}}]"#, "a".repeat(400))).contains("longer than 400 bytes"));
    let grows = format!(r#"[{{"bn":"{}","v":1}},{{"v":1}},{{"v":1}}]"#, "a".repeat(200));
    assert!(why(grows).contains("resolved, it is longer than 400 bytes"));
    // A base name of 100 KB in 4,096 records would be 400 MB.
    let records = r#",{"v":1}"#.repeat(4_000);
    let pack = format!(r#"[{{"bn":"{}","v":1}}{records}]"#, "a".repeat(100_000));
    assert!(refused(&pack).contains("resolved, it is longer"));
}
