//! `when_full`, for the spool and for a route, and how much of the spool a route may take; with it the rest of a route's policy.

use super::order;
use super::read::Section;
use super::value::{Wrong, duration, integer, size, word};
use std::ops::RangeInclusive;
use std::time::Duration;
use tidegate_engine::event::{Keep, Policy, WhenFull};
use toml::Spanned;
use toml::de::DeValue;

/// Half of what is there each time.
const KEEP_DEFAULT: Keep = Keep::Every(2);

/// Below a minute a message could expire while its confirm is awaited (`spill_after`).
const EXPIRES_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(10 * 366 * 86_400);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Refuse,
    DropOldest,
    DropNewest,
    Thin,
}

const WORDS: [(&str, Word); 4] = [
    ("refuse", Word::Refuse),
    ("drop-oldest", Word::DropOldest),
    ("drop-newest", Word::DropNewest),
    ("thin", Word::Thin),
];

/// Reads `when_full` with `keep`; `otherwise` where it is not written.
pub(super) fn when_full(section: &Section<'_>, otherwise: WhenFull) -> WhenFull {
    let word = section.get("when_full", word(&WORDS)).map(Spanned::into_inner);
    let keep = section.get("keep", keep);
    if let Some(keep) = &keep
        && word != Some(Word::Thin)
    {
        section.report.warning(
            Some(keep.span()),
            "`keep` says how to thin, and nothing is thinned",
            "write `when_full = \"thin\"` beside it, or take it out",
        );
    }
    match word {
        None => otherwise,
        Some(Word::Refuse) => WhenFull::Refuse,
        Some(Word::DropOldest) => WhenFull::DropOldest,
        Some(Word::DropNewest) => WhenFull::DropNewest,
        Some(Word::Thin) => WhenFull::Thin(keep.map_or(KEEP_DEFAULT, Spanned::into_inner)),
    }
}

/// Every so-manieth, or one in so long.
fn keep(value: &DeValue<'_>) -> Result<Keep, Wrong> {
    if matches!(value, DeValue::Integer(_)) {
        let n = integer(2..=1_000_000)(value)?;
        return Ok(Keep::Every(u32::try_from(n).unwrap_or(u32::MAX)));
    }
    duration(Duration::from_secs(1)..=Duration::from_secs(366 * 86_400))(value).map(Keep::OneIn)
}

/// Reads what a route may take, and what becomes of it then.
pub(super) fn policy(section: &Section<'_>, of_spool: WhenFull) -> Policy {
    let when_full = when_full(section, of_spool);
    let max = section.get("max_size", size(64 << 10..=1 << 44));
    if when_full == WhenFull::Refuse
        && let Some(max) = &max
    {
        section.report.error(
            Some(max.span()),
            "a route that discards nothing cannot have a `max_size`: devices are told to hold when the whole spool is full",
            "write `when_full = \"drop-oldest\"`, \"drop-newest\" or \"thin\" beside it, or take it out",
        );
    }
    let expires_after = section.get("expires_after", duration(EXPIRES_AFTER)).map(Spanned::into_inner);
    Policy { max_bytes: max.map(Spanned::into_inner), when_full, order: order::order(section), expires_after }
}
