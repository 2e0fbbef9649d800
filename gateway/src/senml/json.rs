//! SenML packs in JSON (RFC 8428, 5): read with a bound on their records, and written.

use super::record::{Number, Record, Resolved, Unknown, Value, may_be_ignored, once, one_value};
use super::{Bounds, Unfit, is_base64url};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

pub(super) fn read(payload: &[u8], bounds: Bounds) -> Result<Vec<Record<'static>>, Unfit> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let records = deserializer
        .deserialize_seq(Pack { most: bounds.records })
        .and_then(|records| deserializer.end().map(|()| records));
    records.map_err(|error| Unfit(error.to_string()))
}

pub(super) fn write(records: &[Resolved<'_>]) -> Result<Vec<u8>, Unfit> {
    serde_json::to_vec(records).map_err(|error| Unfit(error.to_string()))
}

struct Pack {
    most: usize,
}

impl<'de> Visitor<'de> for Pack {
    type Value = Vec<Record<'static>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML pack, an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut records = Vec::new();
        while let Some(record) = all.next_element_seed(OneRecord)? {
            if records.len() == self.most {
                return Err(A::Error::custom(format!("it has more than {} records", self.most)));
            }
            records.push(record);
        }
        Ok(records)
    }
}

struct OneRecord;

impl<'de> DeserializeSeed<'de> for OneRecord {
    type Value = Record<'static>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneRecord {
    type Value = Record<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML record, an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut record = Record::default();
        while let Some(label) = fields.next_key::<String>()? {
            let label = label.as_str();
            let put = match label {
                "bn" => once(&mut record.base_name, fields.next_value()?, label),
                "bt" => once(&mut record.base_time, fields.next_value()?, label),
                "bu" => once(&mut record.base_unit, fields.next_value()?, label),
                "bv" => once(&mut record.base_value, fields.next_value()?, label),
                "bs" => once(&mut record.base_sum, fields.next_value()?, label),
                "bver" => once(&mut record.version, fields.next_value()?, label),
                "n" => once(&mut record.name, fields.next_value()?, label),
                "u" => once(&mut record.unit, fields.next_value()?, label),
                "v" => one_value(&mut record.value, Value::Number(fields.next_value()?)),
                "vs" => one_value(&mut record.value, Value::Text(fields.next_value()?)),
                "vb" => one_value(&mut record.value, Value::Truth(fields.next_value()?)),
                "vd" => {
                    let text: String = fields.next_value()?;
                    if !is_base64url(&text) {
                        return Err(A::Error::custom("vd is not base64url without padding"));
                    }
                    one_value(&mut record.value, Value::DataText(text))
                }
                "s" => once(&mut record.sum, fields.next_value()?, label),
                "t" => once(&mut record.time, fields.next_value()?, label),
                "ut" => once(&mut record.update, fields.next_value()?, label),
                other => {
                    let value: serde_json::Value = fields.next_value()?;
                    let simple = !value.is_array() && !value.is_object();
                    if simple && !other.starts_with('b') {
                        record.unknown.push(Unknown::Json(other.to_owned(), value));
                    }
                    may_be_ignored(other)
                }
            };
            put.map_err(A::Error::custom)?;
        }
        Ok(record)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(Self::Integer(integer)),
            (None, Some(real)) => Self::real(real).map_err(D::Error::custom),
            (None, None) => Err(D::Error::custom("this number is not understood")),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(integer) => serializer.serialize_i64(*integer),
            Self::Real(real) => serializer.serialize_f64(*real),
        }
    }
}

impl Serialize for Resolved<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        if let Some(version) = self.version {
            fields.serialize_entry("bver", &version)?;
        }
        fields.serialize_entry("n", &self.name)?;
        if let Some(unit) = &self.unit {
            fields.serialize_entry("u", unit)?;
        }
        match &self.value {
            Some(Value::Number(value)) => fields.serialize_entry("v", value)?,
            Some(Value::Text(value)) => fields.serialize_entry("vs", value)?,
            Some(Value::Truth(value)) => fields.serialize_entry("vb", value)?,
            Some(Value::DataText(value)) => fields.serialize_entry("vd", value)?,
            // Of CBOR; JSON has none.
            Some(Value::Data(_)) | None => {}
        }
        if let Some(sum) = &self.sum {
            fields.serialize_entry("s", sum)?;
        }
        fields.serialize_entry("t", &self.time)?;
        if let Some(update) = &self.update {
            fields.serialize_entry("ut", update)?;
        }
        for field in &self.unknown {
            if let Unknown::Json(label, value) = field {
                fields.serialize_entry(label, value)?;
            }
        }
        fields.end()
    }
}
