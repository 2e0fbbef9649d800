//! Points in time as an operator writes and reads them: "2 h" for so long ago, or a date and time of RFC 3339; shown in UTC.

use std::time::Duration;
use toml::value::{Date, Datetime, Offset, Time};

const DAY_MS: i64 = 86_400_000;

/// Reads a point in time, in milliseconds since 1970; one without an offset is in UTC.
///
/// # Errors
/// What would be right.
pub(super) fn parse(text: &str, now_ms: i64) -> Result<i64, String> {
    if let Some(ago) = ago(text) {
        return Ok(now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    let wrong =
        "write how long ago (\"30 min\", \"2 h\", \"7 d\") or a date like 2026-03-01 or 2026-03-01T12:00:00Z";
    let Ok(Datetime { date: Some(date), time, offset }) = text.parse() else { return Err(wrong.to_owned()) };
    let time = time.map_or(0, |Time { hour, minute, second, nanosecond }| {
        let seconds = (i64::from(hour) * 60 + i64::from(minute)) * 60 + i64::from(second.unwrap_or(0));
        seconds * 1_000 + i64::from(nanosecond.unwrap_or(0)) / 1_000_000
    });
    let east_min = match offset {
        Some(Offset::Custom { minutes }) => i64::from(minutes),
        Some(Offset::Z) | None => 0,
    };
    Ok(days(date) * DAY_MS + time - east_min * 60_000)
}

fn ago(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

/// Days from 1970-01-01 (Hinnant's `days_from_civil`: years begin in March, so that a leap day is a year's last).
fn days(Date { year, month, day }: Date) -> i64 {
    let (year, month, day) = (i64::from(year), i64::from(month), i64::from(day));
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Writes a point in time, to the second.
pub(super) fn show(unix_ms: i64) -> String {
    let (day, seconds) = (unix_ms.div_euclid(DAY_MS) + 719_468, unix_ms.rem_euclid(DAY_MS) / 1_000);
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = (shifted + 2) % 12 + 1;
    let year = year + era * 400 + i64::from(month <= 2);
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn what_is_shown_is_read_as_the_same_second() {
        for seconds in (-70_000_000_000..150_000_000_000_i64).step_by(86_399 * 977) {
            let text = show(seconds * 1_000);
            let within_years_of_four_digits = (0..=253_402_300_799).contains(&seconds);
            if within_years_of_four_digits {
                assert_eq!(parse(&text, 0), Ok(seconds * 1_000), "{text}");
            }
        }
        assert_eq!(show(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(show(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn a_moment_is_so_long_ago_or_a_date() {
        assert_eq!(parse("2 h", 10_000_000), Ok(2_800_000));
        assert_eq!(parse("7d", 0), Ok(-604_800_000));
        assert_eq!(parse("1970-01-02", 0), Ok(86_400_000));
        assert_eq!(parse("1970-01-02T00:00:00+01:00", 0), Ok(82_800_000));
        for wrong in ["", "h", "2", "2 weeks", "yesterday", "12:00:00", "1970-13-01", "ü"] {
            assert!(parse(wrong, 0).is_err(), "{wrong}");
        }
    }
}
