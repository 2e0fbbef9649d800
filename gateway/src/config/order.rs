//! In which order a route's messages leave, and how fast what has piled up may leave an upstream.

use super::read::Section;
use super::value::{integer, size, word};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use tidegate_engine::event::{Drain, Order};
use toml::Spanned;

/// One message in four: live values stay fresh, and an outage of a day is caught up with.
const SHARE_DEFAULT: u64 = 25;
/// Below the least size not even one small message would leave in some seconds.
const DRAIN_BYTES: RangeInclusive<u64> = 64..=1 << 31;
const DRAIN_MESSAGES: RangeInclusive<u64> = 1..=1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    OldestFirst,
    LiveFirst,
    Interleave,
}

const WORDS: [(&str, Word); 3] =
    [("oldest-first", Word::OldestFirst), ("live-first", Word::LiveFirst), ("interleave", Word::Interleave)];

/// Reads `order` with `backlog_share`.
pub(super) fn order(section: &Section<'_>) -> Order {
    let word = section.get_or("order", Word::OldestFirst, word(&WORDS));
    let share = section.get("backlog_share", integer(1..=99));
    if let Some(share) = &share
        && word != Word::Interleave
    {
        section.report.warning(
            Some(share.span()),
            "`backlog_share` says how live messages and the backlog interleave, and they do not",
            "write `order = \"interleave\"` beside it, or take it out",
        );
    }
    match word {
        Word::OldestFirst => Order::OldestFirst,
        Word::LiveFirst => Order::LiveFirst,
        Word::Interleave => {
            let share = share.map_or(SHARE_DEFAULT, Spanned::into_inner);
            Order::Interleave(u8::try_from(share).unwrap_or(u8::MAX))
        }
    }
}

/// Reads an upstream's drain limits.
pub(super) fn drain(section: &Section<'_>) -> Drain {
    let rate = |number: Option<Spanned<u64>>| {
        number.and_then(|number| NonZeroU32::new(u32::try_from(number.into_inner()).unwrap_or(u32::MAX)))
    };
    Drain {
        messages_per_second: rate(section.get("drain_messages_per_second", integer(DRAIN_MESSAGES))),
        bytes_per_second: rate(section.get("drain_size_per_second", size(DRAIN_BYTES))),
    }
}
