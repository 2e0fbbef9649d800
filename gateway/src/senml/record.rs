//! Records of a pack as both forms give them, and what becomes of them when they are resolved (RFC 8428, 4). Knows neither JSON nor
//! CBOR.

use super::{Bounds, Unfit};
use std::mem;

/// Seconds; a time below this counts from now, and the others from 1970 (RFC 8428, 4.5.3).
const ABSOLUTE_FROM_S: f64 = 268_435_456.0;

/// The version that RFC 8428 defines (4.1).
const VERSION: i64 = 10;

/// What a record takes beside its texts, at the most: eight numbers with their labels.
const RECORD_BYTES: usize = 192;

/// Integers up to here are the same as a double.
const EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// A number as it was written: an integer stays one as long as it can.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i64),
    Real(f64),
}

impl Number {
    /// A number that is one.
    pub(super) fn real(value: f64) -> Result<Self, String> {
        if value.is_finite() {
            Ok(Self::Real(value))
        } else {
            Err("a number is beyond every measure".to_owned())
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "SenML's numbers are doubles (RFC 8428, 5)")]
    pub(super) fn value(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Real(value) => value,
        }
    }

    fn plus(self, other: Self) -> Result<Self, String> {
        if let (Self::Integer(one), Self::Integer(other)) = (self, other)
            && let Some(sum) = one.checked_add(other)
        {
            return Ok(Self::Integer(sum));
        }
        Self::real(self.value() + other.value()).map(Self::shortened)
    }

    /// A whole number as an integer, which is shorter.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the value is whole, and smaller than what an i64 holds"
    )]
    fn shortened(self) -> Self {
        match self {
            Self::Real(value) if value.fract() == 0.0 && value.abs() < EXACT_INTEGER => {
                Self::Integer(value as i64)
            }
            other => other,
        }
    }
}

/// What was measured; a record has one of these at the most.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Number(Number),
    Text(String),
    Truth(bool),
    /// As it stands in its form: text in JSON, bytes in CBOR.
    Data(&'a [u8]),
    /// The same, of JSON.
    DataText(String),
}

/// A field that is not known here: passed on as it is, if it is no base field (RFC 8428, 4.4).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Unknown<'a> {
    Json(String, serde_json::Value),
    /// Label and value as they are encoded.
    Cbor(&'a [u8]),
}

/// A record of a pack.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record<'a> {
    pub(super) base_name: Option<String>,
    pub(super) base_time: Option<Number>,
    pub(super) base_unit: Option<String>,
    pub(super) base_value: Option<Number>,
    pub(super) base_sum: Option<Number>,
    pub(super) version: Option<Number>,
    pub(super) name: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) value: Option<Value<'a>>,
    pub(super) sum: Option<Number>,
    pub(super) time: Option<Number>,
    pub(super) update: Option<Number>,
    pub(super) unknown: Vec<Unknown<'a>>,
}

/// A record that stands by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resolved<'a> {
    /// Only where it is not that of RFC 8428.
    pub(super) version: Option<i64>,
    pub(super) name: String,
    pub(super) unit: Option<String>,
    pub(super) value: Option<Value<'a>>,
    pub(super) sum: Option<Number>,
    pub(super) time: Number,
    pub(super) update: Option<Number>,
    pub(super) unknown: Vec<Unknown<'a>>,
}

/// Puts a field where it belongs, which it does once.
pub(super) fn once<T>(place: &mut Option<T>, value: T, label: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{label} stands there twice")),
    }
}

/// A record has one value (RFC 8428, 4.2).
pub(super) fn one_value<'a>(place: &mut Option<Value<'a>>, value: Value<'a>) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("there is more than one value".to_owned()),
    }
}

/// Whether a label that is not known may be passed over (RFC 8428, 4.4); an error when it must be understood.
pub(super) fn may_be_ignored(label: &str) -> Result<(), String> {
    if label.ends_with('_') {
        return Err(format!("the field {label:?} must be understood, and is not known here"));
    }
    Ok(())
}

/// What holds for all records from where it stands.
#[derive(Default)]
struct Base {
    name: String,
    time: Option<Number>,
    unit: Option<String>,
    value: Option<Number>,
    sum: Option<Number>,
}

/// Resolves the records of a pack that came at `received_ms` since 1970 (RFC 8428, 4.6).
pub(super) fn resolve_all(
    records: Vec<Record<'_>>,
    received_ms: i64,
    bounds: Bounds,
) -> Result<Vec<Resolved<'_>>, Unfit> {
    if records.is_empty() {
        return Err(Unfit("the pack has no records".to_owned()));
    }
    let received = received(received_ms);
    let version = version(&records).map_err(Unfit)?;
    let mut base = Base::default();
    let mut resolved = Vec::with_capacity(records.len());
    let mut bytes = 0_usize;
    for (number, record) in (1..).zip(records) {
        let record =
            base.apply(record, received).map_err(|what| Unfit(format!("record {number}: {what}")))?;
        // Few bytes of names and units for all records become many.
        bytes = bytes
            .saturating_add(RECORD_BYTES + record.name.len() + record.unit.as_ref().map_or(0, String::len));
        if bytes > bounds.bytes.saturating_add(bounds.records.saturating_mul(RECORD_BYTES)) {
            return Err(Unfit(format!("resolved, it is longer than {} bytes", bounds.bytes)));
        }
        resolved.push(Resolved { version, ..record });
    }
    resolved.sort_by(|one, other| one.time.value().total_cmp(&other.time.value()));
    Ok(resolved)
}

/// The time of reception in seconds.
#[expect(clippy::cast_precision_loss, reason = "a double holds milliseconds for 285,000 years")]
fn received(received_ms: i64) -> Number {
    if received_ms % 1_000 == 0 {
        Number::Integer(received_ms / 1_000)
    } else {
        Number::Real(received_ms as f64 / 1_000.0)
    }
}

/// The version, if it is to be said: a pack has one (RFC 8428, 4.4).
fn version(records: &[Record<'_>]) -> Result<Option<i64>, String> {
    let mut versions = records.iter().filter_map(|record| record.version);
    let Some(first) = versions.next() else { return Ok(None) };
    if versions.any(|other| other.value() != first.value()) {
        return Err("its records are of several versions".to_owned());
    }
    // With a later record that says so, those before are of the usual one.
    let usual = records.first().is_some_and(|record| record.version.is_none());
    match first.shortened() {
        Number::Integer(VERSION) => Ok(None),
        Number::Integer(version @ 1..VERSION) if !usual => Ok(Some(version)),
        Number::Integer(1..VERSION) => Err("its records are of several versions".to_owned()),
        _ => Err("it is of a version that is not known here".to_owned()),
    }
}

impl Base {
    fn apply<'a>(&mut self, record: Record<'a>, received: Number) -> Result<Resolved<'a>, String> {
        if let Some(name) = record.base_name {
            self.name = name;
        }
        self.unit = record.base_unit.or_else(|| mem::take(&mut self.unit));
        self.time = record.base_time.or(self.time);
        self.value = record.base_value.or(self.value);
        self.sum = record.base_sum.or(self.sum);

        let name = format!("{}{}", self.name, record.name.unwrap_or_default());
        check_name(&name)?;
        let sum = add(self.sum, record.sum)?;
        let value = match record.value {
            Some(Value::Number(value)) => add(self.value, Some(value))?.map(Value::Number),
            // What is missing is zero (RFC 8428, 4.5.4).
            None if sum.is_none() => self.value.map(Value::Number),
            other => other,
        };
        if value.is_none() && sum.is_none() {
            return Err("there is neither a value nor a sum".to_owned());
        }
        Ok(Resolved {
            version: None,
            name,
            unit: record.unit.or_else(|| self.unit.clone()),
            value,
            sum,
            time: absolute(add(self.time, record.time)?.unwrap_or(Number::Integer(0)), received)?,
            update: record.update,
            unknown: record.unknown,
        })
    }
}

fn add(base: Option<Number>, own: Option<Number>) -> Result<Option<Number>, String> {
    match (base, own) {
        (Some(base), Some(own)) => base.plus(own).map(Some),
        (one, other) => Ok(one.or(other)),
    }
}

/// A time from 1970 on. One that counts from the reception stays as it is when the clock stood so near 1970 then that the result
/// would be taken for another such time: what that clock showed is worth nothing.
fn absolute(time: Number, received: Number) -> Result<Number, String> {
    if time.value() >= ABSOLUTE_FROM_S {
        return Ok(time.shortened());
    }
    let counted = received.plus(time)?;
    Ok(if counted.value() >= ABSOLUTE_FROM_S { counted } else { time.shortened() })
}

/// RFC 8428, 4.5.1.
fn check_name(name: &str) -> Result<(), String> {
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'/' | b'_');
    if name.is_empty() {
        return Err("it has no name".to_owned());
    }
    if !begins || !name.bytes().all(allowed) {
        let shown: String = name.chars().take(NAME_SHOWN_CHARS).collect();
        return Err(format!("its name {shown:?} has characters that a name must not have there"));
    }
    Ok(())
}

/// Of a name in a dead letter's reason.
const NAME_SHOWN_CHARS: usize = 64;
