//! `[[serial]]`: serial lines, how bytes go over them and who is at the other end.

use super::mistake::quoted;
use super::read::{Section, Span};
use super::value::{self, Wrong, boolean, integer, word, wrong};
use super::{devices, schema};
use crate::listen::serial::{Framing, Line, Parity, StopBits};
use std::collections::BTreeSet;
use std::path::PathBuf;
use tidegate_engine::id::DeviceId;
use tidegate_engine::limits::Limits;
use tidegate_engine::topic::Topic;
use toml::Spanned;
use toml::de::DeValue;

/// Lines of one gateway: more ports than a small board can have.
const LINES: usize = 32;
const BAUD_DEFAULT: u64 = 115_200;
/// What adapters and Linux's own drivers go up to.
const BAUD_MOST: u64 = 4_000_000;
/// `{device}` stands for the device's id.
const TOPIC_DEFAULT: &str = "sensors/{device}/line";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slipmux,
    Lines,
}

/// Reads all lines. What is wrong with one leaves it out and is reported.
pub(super) fn serial(root: &Section<'_>, limits: &Limits) -> Vec<Line> {
    let sections = root.sections(&schema::SERIAL);
    if let Some(extra) = sections.get(LINES) {
        let right = format!("write {LINES} at the most");
        root.report.error(extra.span.clone(), "these are too many serial lines", right);
    }
    let mut ports = BTreeSet::new();
    let mut lines = Vec::new();
    for section in sections.iter().take(LINES) {
        let Some((line, span)) = line(section, limits) else { continue };
        if !ports.insert(line.port.clone()) {
            let what = format!("{} is opened twice", line.port.display());
            section.report.error(Some(span), what, "take one of the two tables out");
            continue;
        }
        lines.push(line);
    }
    lines
}

fn line(section: &Section<'_>, limits: &Limits) -> Option<(Line, Span)> {
    let missing = |key: &str, right: &str| {
        if section.at(key).is_none() {
            section.report.error(section.span.clone(), format!("a serial line needs `{key}`"), right);
        }
    };
    missing(
        "port",
        "name the device file, best one below /dev/serial/by-id, which stays when adapters are plugged in anew",
    );
    missing("device", "say which device is at the other end: `device = \"boiler-3\"`");
    let port = section.get("port", port);
    let device = section.get("device", |value| devices::id(&value::text(value)?));
    let baud = section.get_or("baud", BAUD_DEFAULT, integer(50..=BAUD_MOST));
    let parity = word(&[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)]);
    let parity = section.get_or("parity", Parity::None, parity);
    let stop_bits = section.get_or("stop_bits", 1, integer(1..=2));
    let rs485 = section.get_or("rs485", false, boolean);
    let kind =
        section.get_or("framing", Kind::Slipmux, word(&[("slipmux", Kind::Slipmux), ("lines", Kind::Lines)]));
    if kind == Kind::Slipmux
        && let Some(span) = section.at("topic")
    {
        section.report.warning(
            Some(span),
            "`topic` has no meaning with slipmux, where each message names its own",
            "take it out, or write `framing = \"lines\"` for a board that only prints",
        );
    }
    let written = section.get("topic", value::text);
    let (port, device) = (port?, device?.into_inner());
    let framing = match kind {
        Kind::Slipmux => Framing::Slipmux,
        Kind::Lines => {
            let span = written.as_ref().map(Spanned::span);
            let text = written.map_or_else(|| TOPIC_DEFAULT.to_owned(), Spanned::into_inner);
            match topic(&text, &device, limits) {
                Ok(topic) => Framing::Lines(topic),
                Err(Wrong { what, right }) => {
                    section.report.error(span, what, right);
                    return None;
                }
            }
        }
    };
    let span = port.span();
    let line = Line {
        port: port.into_inner(),
        baud: u32::try_from(baud).unwrap_or(u32::MAX),
        parity,
        stop_bits: if stop_bits == 2 { StopBits::Two } else { StopBits::One },
        rs485,
        framing,
        device,
    };
    Some((line, span))
}

fn port(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let text = value::name(value)?;
    if text.starts_with('/') {
        return Ok(text.into());
    }
    wrong(
        format!("{} is not a whole path", quoted(&text)),
        "write it from the root: \"/dev/ttyUSB0\", or better \"/dev/serial/by-id/...\"",
    )
}

fn topic(text: &str, device: &DeviceId, limits: &Limits) -> Result<Topic, Wrong> {
    let text = text.replace("{device}", device.as_str());
    match Topic::new(&text) {
        Ok(topic)
            if text.len() <= limits.topic_bytes && !text.starts_with('$') && !text.contains(['{', '}']) =>
        {
            Ok(topic)
        }
        _ => wrong(
            format!("{} is not a topic for a device's messages", quoted(&text)),
            format!(
                "write a topic name without wildcards, of {} bytes at the most, as \"{TOPIC_DEFAULT}\"",
                limits.topic_bytes
            ),
        ),
    }
}
