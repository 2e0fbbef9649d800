//! The values that keys take: texts, numbers, sizes, durations, addresses, words of a list.
//! Each turns a TOML value into what is meant, or says what is wrong with it and what would be right.

use super::mistake::quoted;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::DeValue;

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) right: String,
}

/// Makes a [`Wrong`].
pub(super) fn wrong<T>(what: impl Into<String>, right: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), right: right.into() })
}

fn not_a<T>(value: &DeValue<'_>, wanted: &str, example: &str) -> Result<T, Wrong> {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    wrong(format!("{wanted} was expected here, and this is {found}"), format!("write it like {example}"))
}

/// A text.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, Wrong> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => not_a(value, "a text", "\"this\""),
    }
}

/// A text that is not empty and has no control characters.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    if text.is_empty() {
        wrong("the text is empty", "write a name")
    } else if text.chars().any(char::is_control) {
        wrong("the text has a control character", "use printable characters")
    } else {
        Ok(text)
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    match value.as_bool() {
        Some(value) => Ok(value),
        None => not_a(value, "true or false", "true (without quotes)"),
    }
}

/// A whole number in a range.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<u64, Wrong> {
    move |value| {
        let (low, high) = (range.start(), range.end());
        let Some(number) = value.as_integer() else {
            let example = value.as_str().filter(|text| text.parse::<u64>().is_ok_and(|n| range.contains(&n)));
            let example = example.map_or_else(|| low.to_string(), str::to_owned);
            return not_a(value, "a whole number", &format!("{example} (without quotes)"));
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => wrong(format!("{number} is out of range"), format!("write a number from {low} to {high}")),
        }
    }
}

/// A text of a list, and what it stands for.
pub(super) fn word<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let names = words.iter().map(|(word, _)| *word);
        let Some(text) = value.as_str() else {
            return not_a(
                value,
                "a word",
                &names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or "),
            );
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => wrong(format!("{} is not known here", quoted(text)), suggestion(text, names, "write")),
        }
    }
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A size in bytes, in a range: "64 KiB".
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<u64, Wrong> {
    move |value| {
        let number = quantity(value, "a size", SIZE_UNITS, "\"64 MiB\"")?;
        if range.contains(&number) {
            return Ok(number);
        }
        wrong(
            "the size is out of range",
            format!("write a size from \"{}\" to \"{}\"", show_size(*range.start()), show_size(*range.end())),
        )
    }
}

/// A duration, in a range: "250 ms".
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Wrong> {
    move |value| {
        let time = Duration::from_millis(quantity(value, "a duration", DURATION_UNITS, "\"30 s\"")?);
        if range.contains(&time) {
            return Ok(time);
        }
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        wrong("the duration is out of range", format!("write a duration from \"{low}\" to \"{high}\""))
    }
}

fn quantity(
    value: &DeValue<'_>,
    wanted: &str,
    units: &[(&'static str, u64)],
    example: &str,
) -> Result<u64, Wrong> {
    let names = || units.iter().map(|(unit, _)| *unit).collect::<Vec<_>>().join(", ");
    if let DeValue::Integer(number) = value {
        return wrong(
            format!("{number} has no unit"),
            format!("write {wanted} with its unit in quotes, like {example}; the units are {}", names()),
        );
    }
    let Some(text) = value.as_str() else {
        return not_a(value, wanted, example);
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    if number.is_empty() {
        return wrong(
            format!("{} is not {wanted}", quoted(text)),
            format!("write a whole number and a unit, like {example}"),
        );
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        if unit.is_empty() {
            return wrong(format!("{} has no unit", quoted(text)), format!("write one of {}", names()));
        }
        if unit.starts_with(['.', ',']) {
            return wrong(
                format!("{} has a fraction", quoted(text)),
                format!("write a whole number of a smaller unit; the units are {}", names()),
            );
        }
        return wrong(
            format!("{} is not a unit of {}", quoted(unit), wanted.trim_start_matches("a ")),
            suggestion(unit, units.iter().map(|(name, _)| *name), "write"),
        );
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(number) => Ok(number),
        None => wrong(format!("{} is too large", quoted(text)), format!("write something like {example}")),
    }
}

/// Writes a size as the operator would: exactly, with the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, SIZE_UNITS.iter().take(5))
}

/// Writes a duration as the operator would: exactly, to the millisecond, with the largest unit that divides it.
pub(crate) fn show_duration(time: Duration) -> String {
    show(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), DURATION_UNITS.iter())
}

fn show<'a>(number: u64, units: impl DoubleEndedIterator<Item = &'a (&'static str, u64)>) -> String {
    let fits = units.rev().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    match fits {
        Some((unit, factor)) => format!("{} {unit}", number / factor),
        None => format!("{number}"),
    }
}

/// An address with its port.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let Some(text) = value.as_str() else {
        return not_a(value, "an address with a port", "\"127.0.0.1:1883\"");
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let what = format!("{} is not an address with a port", quoted(text));
    let right = match text.rsplit_once(':') {
        _ if text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            format!("write \"[{text}]:PORT\"")
        }
        None => format!("add the port: \"{text}:PORT\""),
        Some((_, port)) if port.parse::<u16>().is_err() => "the port is a number up to 65535".to_owned(),
        Some(("", port)) => format!("write \"127.0.0.1:{port}\" for this host alone, or \"0.0.0.0:{port}\""),
        Some(("localhost", port)) => format!("names are not looked up here: write \"127.0.0.1:{port}\""),
        Some((_, port)) => {
            format!("write numbers, not a name, like \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
        }
    };
    wrong(what, right)
}

/// "did you mean", or all that would do.
pub(super) fn suggestion<'a>(
    text: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    otherwise: &str,
) -> String {
    /// How alike two words must be to be taken for one another (Jaro-Winkler, 0 to 1): lets one or two
    /// letters differ in a word of six.
    const ALIKE: f64 = 0.84;
    let lower = text.to_lowercase();
    let best = known
        .clone()
        .map(|word| (strsim::jaro_winkler(&lower, &word.to_lowercase()), word))
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None => {
            let mut known: Vec<_> = known.map(|word| format!("`{word}`")).collect();
            let last = known.pop().unwrap_or_default();
            match known.is_empty() {
                true => format!("{otherwise} {last}"),
                false => format!("{otherwise} {} or {last}", known.join(", ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Wrong, address, duration, integer, show_duration, show_size, size};
    use std::time::Duration;
    use toml::de::DeValue;

    fn value(text: &str) -> DeValue<'_> {
        DeValue::parse(text).unwrap().into_inner()
    }

    fn bytes(text: &str) -> Result<u64, Wrong> {
        size(0..=u64::MAX)(&value(text))
    }

    fn time(text: &str) -> Result<Duration, Wrong> {
        duration(Duration::ZERO..=Duration::MAX)(&value(text))
    }

    #[test]
    fn sizes_and_durations_are_read_with_their_unit() {
        assert_eq!(bytes("\"1 GiB\""), Ok(1 << 30));
        assert_eq!(bytes("\"1GiB\""), Ok(1 << 30));
        assert_eq!(bytes("\"10 MB\""), Ok(10_000_000));
        assert_eq!(bytes("\"0 B\""), Ok(0));
        assert_eq!(time("\"250 ms\""), Ok(Duration::from_millis(250)));
        assert_eq!(time("\"7 d\""), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(time("\"0 s\""), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_what_would_be_right() {
        for (text, right) in [
            ("30", "a duration with its unit"),
            ("\"30\"", "ms, s, min, h, d"),
            ("\"1.5 s\"", "smaller unit"),
            ("\"30 sec\"", "`s`"),
            ("\"s\"", "\"30 s\""),
            ("\"\"", "\"30 s\""),
            ("\"-1 s\"", "\"30 s\""),
            ("\"99999999999999999999 d\"", "\"30 s\""),
            ("\"18446744073709551615 d\"", "\"30 s\""),
            ("true", "\"30 s\""),
        ] {
            let wrong = time(text).unwrap_err();
            assert!(wrong.right.contains(right), "{text}: {wrong:?}");
        }
        assert!(bytes("\"1 gib\"").unwrap_err().right.contains("did you mean `GiB`?"));
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(integer(1..=9)(&value("9")), Ok(9));
        assert_eq!(integer(1..=99)(&value("0x1f")), Ok(31));
        assert_eq!(integer(1..=9_999)(&value("1_000")), Ok(1_000));
        for text in ["0", "10", "-1", "99999999999999999999999", "1.0", "\"1\""] {
            assert!(integer(1..=9)(&value(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_explained() {
        assert_eq!(address(&value("\"[::1]:1883\"")).unwrap().port(), 1883);
        for (text, right) in [
            ("\"127.0.0.1\"", "\"127.0.0.1:PORT\""),
            ("\":1883\"", "\"127.0.0.1:1883\""),
            ("\"localhost:1883\"", "\"127.0.0.1:1883\""),
            ("\"::1\"", "\"[::1]:PORT\""),
            ("\"127.0.0.1:70000\"", "65535"),
            ("\"gateway.example:1883\"", "not a name"),
            ("1883", "\"127.0.0.1:1883\""),
        ] {
            let wrong = address(&value(text)).unwrap_err();
            assert!(wrong.right.contains(right), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn quantities_are_shown_as_they_are_written() {
        assert_eq!(show_size(1 << 30), "1 GiB");
        assert_eq!(show_size(1_500), "1500 B");
        assert_eq!(show_size(0), "0");
        assert_eq!(show_duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(show_duration(Duration::from_secs(120)), "2 min");
    }
}
