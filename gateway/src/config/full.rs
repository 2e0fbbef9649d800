//! `when_full`, for the spool and for a route, and how much of the spool a route may take.

use super::read::Section;
use super::value::{duration, integer, size, word};
use std::time::Duration;
use tidegate_engine::event::{Keep, Policy, WhenFull};
use toml::Spanned;

/// Half of what is there each time.
const KEEP_DEFAULT: Keep = Keep::Every(2);

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

/// Reads `when_full` with `keep_every` and `keep_one_in`; `otherwise` where it is not written.
pub(super) fn when_full(section: &Section<'_>, otherwise: WhenFull) -> WhenFull {
    let word = section.get("when_full", word(&WORDS)).map(Spanned::into_inner);
    let every = section.get("keep_every", integer(2..=1_000_000));
    let one_in =
        section.get("keep_one_in", duration(Duration::from_secs(1)..=Duration::from_secs(366 * 86_400)));
    let span = every.as_ref().map(Spanned::span).or_else(|| one_in.as_ref().map(Spanned::span));
    if span.is_some() && word != Some(Word::Thin) {
        section.report.error(
            span.clone(),
            "this says how to thin, and nothing is thinned",
            "write `when_full = \"thin\"` beside it, or take it out",
        );
    }
    if every.is_some() && one_in.is_some() {
        section.report.error(
            span,
            "`keep_every` and `keep_one_in` are two ways to thin",
            "write one of them",
        );
    }
    match word {
        None => otherwise,
        Some(Word::Refuse) => WhenFull::Refuse,
        Some(Word::DropOldest) => WhenFull::DropOldest,
        Some(Word::DropNewest) => WhenFull::DropNewest,
        Some(Word::Thin) => {
            let every = every.map(|n| Keep::Every(u32::try_from(n.into_inner()).unwrap_or(u32::MAX)));
            let one_in = one_in.map(|period| Keep::OneIn(period.into_inner()));
            WhenFull::Thin(every.or(one_in).unwrap_or(KEEP_DEFAULT))
        }
    }
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
    Policy { max_bytes: max.map(Spanned::into_inner), when_full }
}
