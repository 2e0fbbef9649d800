//! SenML packs in CBOR (RFC 8428, 6): read item by item with a bound on their records, and written.

use super::record::{Number, Record, Resolved, Unknown, Value, may_be_ignored, once, one_value};
use super::{Bounds, Unfit};
use minicbor::data::{IanaTag, Type};
use minicbor::{Decoder, Encoder};
use std::convert::Infallible;

/// Labels (RFC 8428, table 4).
const BASE_VERSION: i64 = -1;
const BASE_NAME: i64 = -2;
const BASE_TIME: i64 = -3;
const BASE_UNIT: i64 = -4;
const BASE_VALUE: i64 = -5;
const BASE_SUM: i64 = -6;
const NAME: i64 = 0;
const UNIT: i64 = 1;
const VALUE: i64 = 2;
const STRING_VALUE: i64 = 3;
const BOOLEAN_VALUE: i64 = 4;
const SUM: i64 = 5;
const TIME: i64 = 6;
const UPDATE_TIME: i64 = 7;
const DATA_VALUE: i64 = 8;

pub(super) fn read(payload: &[u8], bounds: Bounds) -> Result<Vec<Record<'_>>, Unfit> {
    read_pack(&mut Decoder::new(payload), bounds).map_err(Unfit)
}

fn read_pack<'a>(decoder: &mut Decoder<'a>, bounds: Bounds) -> Result<Vec<Record<'a>>, String> {
    let mut left = Items::of(decoder.array().map_err(of_pack)?);
    let mut records = Vec::new();
    while left.more(decoder)? {
        if records.len() == bounds.records {
            return Err(format!("it has more than {} records", bounds.records));
        }
        let record = read_record(decoder).map_err(|what| format!("record {}: {what}", records.len() + 1))?;
        records.push(record);
    }
    if decoder.position() < decoder.input().len() {
        return Err("there is something behind the pack".to_owned());
    }
    Ok(records)
}

/// The items of an array or the pairs of a map that are still to come.
enum Items {
    Counted(u64),
    UntilBreak,
}

impl Items {
    fn of(length: Option<u64>) -> Self {
        length.map_or(Self::UntilBreak, Self::Counted)
    }

    fn more(&mut self, decoder: &mut Decoder<'_>) -> Result<bool, String> {
        match self {
            Self::Counted(0) => Ok(false),
            Self::Counted(left) => {
                *left -= 1;
                Ok(true)
            }
            Self::UntilBreak if decoder.datatype().map_err(of_pack)? == Type::Break => {
                decoder.set_position(decoder.position() + 1);
                Ok(false)
            }
            Self::UntilBreak => Ok(true),
        }
    }
}

fn of_pack(error: minicbor::decode::Error) -> String {
    format!("not a SenML pack in CBOR: {error}")
}

fn read_record<'a>(decoder: &mut Decoder<'a>) -> Result<Record<'a>, String> {
    let mut record = Record::default();
    let mut left = Items::of(decoder.map().map_err(of_pack)?);
    while left.more(decoder)? {
        let from = decoder.position();
        match decoder.datatype().map_err(of_pack)? {
            Type::String | Type::StringIndef => {
                let label = text(decoder)?;
                read_unknown(decoder, from, &mut record, label.starts_with('b'))?;
                may_be_ignored(&label)?;
            }
            _ => {
                let label = decoder.i64().map_err(of_pack)?;
                read_field(decoder, label, from, &mut record)?;
            }
        }
    }
    Ok(record)
}

fn read_field<'a>(
    decoder: &mut Decoder<'a>,
    label: i64,
    from: usize,
    record: &mut Record<'a>,
) -> Result<(), String> {
    match label {
        BASE_NAME => once(&mut record.base_name, text(decoder)?, "bn"),
        BASE_TIME => once(&mut record.base_time, number(decoder)?, "bt"),
        BASE_UNIT => once(&mut record.base_unit, text(decoder)?, "bu"),
        BASE_VALUE => once(&mut record.base_value, number(decoder)?, "bv"),
        BASE_SUM => once(&mut record.base_sum, number(decoder)?, "bs"),
        BASE_VERSION => once(&mut record.version, number(decoder)?, "bver"),
        NAME => once(&mut record.name, text(decoder)?, "n"),
        UNIT => once(&mut record.unit, text(decoder)?, "u"),
        VALUE => one_value(&mut record.value, Value::Number(number(decoder)?)),
        STRING_VALUE => one_value(&mut record.value, Value::Text(text(decoder)?)),
        BOOLEAN_VALUE => one_value(&mut record.value, Value::Truth(decoder.bool().map_err(of_pack)?)),
        DATA_VALUE => one_value(&mut record.value, Value::Data(decoder.bytes().map_err(of_pack)?)),
        SUM => once(&mut record.sum, number(decoder)?, "s"),
        TIME => once(&mut record.time, number(decoder)?, "t"),
        UPDATE_TIME => once(&mut record.update, number(decoder)?, "ut"),
        // Base fields have negative labels (RFC 8428, 12.2).
        other => read_unknown(decoder, from, record, other < 0),
    }
}

/// Keeps a field whose label stands at `from`, unless it is a base field or more than one item.
fn read_unknown<'a>(
    decoder: &mut Decoder<'a>,
    from: usize,
    record: &mut Record<'a>,
    is_base: bool,
) -> Result<(), String> {
    let simple = match decoder.datatype().map_err(of_pack)? {
        Type::Bool => decoder.bool().map(|_| true),
        Type::Null => decoder.null().map(|()| true),
        Type::F16 | Type::F32 | Type::F64 => decoder.f64().map(|_| true),
        Type::Bytes => decoder.bytes().map(|_| true),
        Type::String => decoder.str().map(|_| true),
        Type::Break => return Err("a field has no value".to_owned()),
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => decoder.int().map(|_| true),
        _ => decoder.skip().map(|()| false),
    };
    if simple.map_err(of_pack)? && !is_base {
        let field = decoder.input().get(from..decoder.position()).unwrap_or_default();
        record.unknown.push(Unknown::Cbor(field));
    }
    Ok(())
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, String> {
    decoder.str_iter().and_then(Iterator::collect).map_err(of_pack)
}

/// An integer, a float, or a decimal fraction (RFC 8428, 6).
fn number(decoder: &mut Decoder<'_>) -> Result<Number, String> {
    match decoder.datatype().map_err(of_pack)? {
        Type::F16 | Type::F32 | Type::F64 => Number::real(decoder.f64().map_err(of_pack)?),
        Type::Tag => {
            if decoder.tag().map_err(of_pack)? != IanaTag::Decimal.tag()
                || decoder.array().map_err(of_pack)? != Some(2)
            {
                return Err("this is not a number".to_owned());
            }
            let exponent = decoder.i64().map_err(of_pack)?;
            let mantissa = decoder.i64().map_err(of_pack)?;
            // Read as text it is rounded once, and correctly.
            let value = format!("{mantissa}e{exponent}").parse();
            value.map_err(|_| "this is not a number".to_owned()).and_then(Number::real)
        }
        _ => {
            let integer = i128::from(decoder.int().map_err(of_pack)?);
            #[expect(clippy::cast_precision_loss, reason = "SenML's numbers are doubles (RFC 8428, 5)")]
            i64::try_from(integer)
                .map_or_else(|_| Number::real(integer as f64), |integer| Ok(Number::Integer(integer)))
        }
    }
}

pub(super) fn write(records: &[Resolved<'_>]) -> Result<Vec<u8>, Unfit> {
    let mut encoder = Encoder::new(Vec::new());
    write_pack(&mut encoder, records).map_err(|error| Unfit(error.to_string()))?;
    Ok(encoder.into_writer())
}

type Written = Result<(), minicbor::encode::Error<Infallible>>;

fn write_pack(encoder: &mut Encoder<Vec<u8>>, records: &[Resolved<'_>]) -> Written {
    encoder.array(records.len() as u64)?;
    records.iter().try_for_each(|record| write_record(encoder, record))
}

fn write_record(encoder: &mut Encoder<Vec<u8>>, record: &Resolved<'_>) -> Written {
    let known =
        [record.version.is_some(), record.unit.is_some(), record.value.is_some(), record.sum.is_some()];
    // Name and time are always there.
    let fields = 2
        + known.into_iter().filter(|there| *there).count()
        + usize::from(record.update.is_some())
        + record.unknown.len();
    encoder.map(fields as u64)?;
    if let Some(version) = record.version {
        encoder.i64(BASE_VERSION)?.i64(version)?;
    }
    encoder.i64(NAME)?.str(&record.name)?;
    if let Some(unit) = &record.unit {
        encoder.i64(UNIT)?.str(unit)?;
    }
    match &record.value {
        Some(Value::Number(value)) => write_number(encoder.i64(VALUE)?, *value)?,
        Some(Value::Text(value)) => drop(encoder.i64(STRING_VALUE)?.str(value)?),
        Some(Value::Truth(value)) => drop(encoder.i64(BOOLEAN_VALUE)?.bool(*value)?),
        Some(Value::Data(value)) => drop(encoder.i64(DATA_VALUE)?.bytes(value)?),
        Some(Value::DataText(value)) => drop(encoder.i64(DATA_VALUE)?.str(value)?),
        None => {}
    }
    if let Some(sum) = record.sum {
        write_number(encoder.i64(SUM)?, sum)?;
    }
    write_number(encoder.i64(TIME)?, record.time)?;
    if let Some(update) = record.update {
        write_number(encoder.i64(UPDATE_TIME)?, update)?;
    }
    for field in &record.unknown {
        if let Unknown::Cbor(encoded) = field {
            encoder.writer_mut().extend_from_slice(encoded);
        }
    }
    Ok(())
}

fn write_number(encoder: &mut Encoder<Vec<u8>>, number: Number) -> Written {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what a single float does not hold is written as a double"
    )]
    match number {
        Number::Integer(integer) => encoder.i64(integer)?,
        Number::Real(real) if f64::from(real as f32) == real => encoder.f32(real as f32)?,
        Number::Real(real) => encoder.f64(real)?,
    };
    Ok(())
}
