//! `[[route]]`: which topics go to which upstream, and how they are kept safe on the way.

use super::mistake::quoted;
use super::read::{Section, Span};
use super::upstreams::{Named, SHORT_STRING_BYTES};
use super::value::{self, Wrong, duration, integer, suggestion, word, wrong};
use super::{Route, batches, full, schema};
use std::path::Path;
use std::time::Duration;
use tidegate_engine::event::{Durability, Policy, Senml, WhenFull};
use tidegate_engine::limits::Limits;
use tidegate_engine::topic::Filter;
use toml::Spanned;
use toml::de::DeValue;

/// Routes of one gateway: each message is held against all of them.
const ROUTES: usize = 1_024;
/// A route's name stands in logs, metrics and the store, in bytes. A derived one has its topic in it.
const NAME_BYTES: usize = 128;
/// Long enough for a good uplink's confirm, short enough that a device does not repeat (P1).
const SPILL_AFTER_DEFAULT: Duration = Duration::from_millis(250);
/// In the middle, so that a route can be put below the others as well.
const PRIORITY_DEFAULT: u64 = 5;
const PRIORITY_MOST: u64 = 9;
const EVERYTHING: &str = "#";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Relay,
    Disk,
}

/// Reads all routes; without any, one that takes everything to the only upstream.
/// `None` when one of them is wrong, which is reported.
pub(super) fn routes(
    root: &Section<'_>,
    upstreams: &[Named],
    limits: &Limits,
    when_full: WhenFull,
    base: &Path,
) -> Option<Vec<Route>> {
    let sections = root.sections(&schema::ROUTE);
    if let Some(extra) = sections.get(ROUTES) {
        root.report.error(
            extra.span.clone(),
            "these are too many routes",
            format!("write {ROUTES} at the most"),
        );
    }
    if sections.is_empty() {
        return default_route(root, upstreams, when_full).map(|route| vec![route]);
    }
    let routes: Vec<Option<(Route, Option<Span>)>> = sections
        .iter()
        .take(ROUTES)
        .map(|section| route(section, upstreams, limits, when_full, base))
        .collect();
    unique(root, routes.iter().flatten());
    if upstreams.iter().all(|(_, _, upstream)| upstream.is_some())
        && let Some(routes) = routes.iter().map(Option::as_ref).collect::<Option<Vec<_>>>()
    {
        for (i, (name, span, _)) in upstreams.iter().enumerate() {
            if !routes.iter().any(|(route, _)| route.upstream == i) {
                root.report.warning(
                    span.clone(),
                    format!("no route leads to `upstream.{name}`"),
                    format!("add a [[route]] with `upstream = \"{name}\"`, or take the upstream out"),
                );
            }
        }
    }
    routes.into_iter().map(|route| route.map(|(route, _)| route)).collect()
}

fn default_route(root: &Section<'_>, upstreams: &[Named], when_full: WhenFull) -> Option<Route> {
    let [(name, _, _)] = upstreams else {
        root.report.error(
            upstreams.last().and_then(|(_, span, _)| span.clone()),
            "there are several upstreams and no [[route]] that says what goes where",
            "add a [[route]] with `topic` and `upstream` for each",
        );
        return None;
    };
    let filter = Filter::new(EVERYTHING).ok()?;
    Some(Route {
        name: format!("{name}:{EVERYTHING}"),
        filter,
        upstream: 0,
        routing_key: None,
        durability: Durability::Relay { spill_after: SPILL_AFTER_DEFAULT },
        priority: u8::try_from(PRIORITY_DEFAULT).unwrap_or_default(),
        senml: Senml::Untouched,
        packing: None,
        policy: Policy { when_full, ..Policy::default() },
    })
}

fn route(
    section: &Section<'_>,
    upstreams: &[Named],
    limits: &Limits,
    when_full: WhenFull,
    base: &Path,
) -> Option<(Route, Option<Span>)> {
    let filter = filter(section, limits);
    let upstream = upstream(section, upstreams);
    let routing_key = section.get("routing_key", template).map(Spanned::into_inner);
    let way = word(&[("relay", Way::Relay), ("disk", Way::Disk)]);
    let way = section.get_or("durability", Way::Relay, way);
    let longest = Duration::from_secs(60);
    let spill_after = section.get("spill_after", duration(Duration::from_millis(1)..=longest));
    if way == Way::Disk
        && let Some(spill_after) = &spill_after
    {
        section.report.warning(
            Some(spill_after.span()),
            "`spill_after` means nothing on a route that writes to the disk at once",
            "take it out, or write `durability = \"relay\"`",
        );
    }
    let durability = match way {
        Way::Relay => {
            Durability::Relay { spill_after: spill_after.map_or(SPILL_AFTER_DEFAULT, Spanned::into_inner) }
        }
        Way::Disk => Durability::Disk,
    };
    let priority = section.get_or("priority", PRIORITY_DEFAULT, integer(0..=PRIORITY_MOST));
    let what = word(&[("untouched", Senml::Untouched), ("resolve", Senml::Resolve)]);
    let senml = section.get_or("senml", Senml::Untouched, what);
    let known = batches::Route {
        filter: filter.as_ref(),
        routing_key: routing_key.as_deref(),
        durability,
        upstream: upstream.and_then(|index| upstreams.get(index)?.2.as_ref()),
    };
    let packing = batches::packing(section, &known, limits, base);
    let policy = full::policy(section, when_full);
    let name = section.get("name", |value| {
        let text = value::name(value)?;
        if text.len() > NAME_BYTES {
            return wrong("this name is too long", format!("use {NAME_BYTES} bytes at the most"));
        }
        Ok(text)
    });

    let (filter, upstream) = (filter?, upstream?);
    let span = name.as_ref().map(Spanned::span).or_else(|| section.span.clone());
    let derived = || {
        let upstream = upstreams.get(upstream).map_or("", |(name, _, _)| name.as_str());
        format!("{upstream}:{filter}")
    };
    let route = Route {
        name: name.map_or_else(derived, Spanned::into_inner),
        filter,
        upstream,
        routing_key,
        durability,
        priority: u8::try_from(priority).unwrap_or_default(),
        senml,
        packing,
        policy,
    };
    Some((route, span))
}

fn filter(section: &Section<'_>, limits: &Limits) -> Option<Filter> {
    let read = |value: &DeValue<'_>| {
        let text = value::text(value)?;
        if text.starts_with("$share/") {
            return wrong("`$share/` belongs to subscriptions", "write the filter alone");
        }
        let filter = Filter::new(&text)
            .or_else(|error| wrong(format!("{} is not a topic filter", quoted(&text)), error.to_string()))?;
        if text.len() > limits.topic_bytes || filter.levels().count() > limits.topic_levels {
            return wrong(
                "no topic that the gateway takes is as long as this filter",
                format!("use {} bytes and {} levels at the most", limits.topic_bytes, limits.topic_levels),
            );
        }
        Ok(filter)
    };
    if section.at("topic").is_none() {
        section.report.error(
            section.span.clone(),
            "this route has no `topic`",
            "write `topic = \"#\"` to take everything, or a filter like \"sensors/+/temperature\"",
        );
    }
    section.get("topic", read).map(Spanned::into_inner)
}

fn upstream(section: &Section<'_>, upstreams: &[Named]) -> Option<usize> {
    let names = || upstreams.iter().map(|(name, _, _)| name.as_str());
    if section.at("upstream").is_none() {
        if upstreams.len() == 1 {
            return Some(0);
        }
        section.report.error(
            section.span.clone(),
            "this route does not say which `upstream` it leads to, and there are several",
            suggestion("", names(), "write `upstream =` and one of"),
        );
        return None;
    }
    let read = |value: &DeValue<'_>| {
        let text = value::text(value)?;
        match names().position(|name| name == text) {
            Some(index) => Ok(index),
            None => wrong(
                format!("there is no [upstream.{}]", quoted(&text).trim_matches('`')),
                suggestion(&text, names(), "there are"),
            ),
        }
    };
    section.get("upstream", read).map(Spanned::into_inner)
}

/// Two lanes under one name would be one lane; one topic twice to one upstream would arrive twice.
fn unique<'a>(root: &Section<'_>, routes: impl Iterator<Item = &'a (Route, Option<Span>)>) {
    let mut seen = std::collections::HashSet::new();
    for (route, span) in routes {
        if !seen.insert(&route.name) {
            root.report.error(
                span.clone(),
                format!("there is a route {} already", quoted(&route.name)),
                "give each a `name` of its own; the same topic to the same upstream would arrive twice",
            );
        }
    }
}

/// A routing key: text, `{device}` and `{topic}` (with `/` as `.`).
fn template(value: &DeValue<'_>) -> Result<String, Wrong> {
    const NAMES: [&str; 2] = ["device", "topic"];
    let text = value::name(value)?;
    let mut rest = text.as_str();
    let mut fixed = 0;
    while let Some(at) = rest.find(['{', '}']) {
        fixed += at;
        let inside = rest[at..].strip_prefix('{').and_then(|after| after.split_once('}'));
        let Some((name, after)) = inside else {
            return wrong(
                format!("{} has a brace without its counterpart", quoted(&text)),
                "write {device} or {topic}; a routing key cannot have braces of its own",
            );
        };
        if !NAMES.contains(&name) {
            return wrong(
                format!("{} is not filled in", quoted(&format!("{{{name}}}"))),
                suggestion(name, NAMES.into_iter(), "in braces stand"),
            );
        }
        rest = after;
    }
    if fixed + rest.len() > SHORT_STRING_BYTES {
        return wrong("the routing key is too long", format!("AMQP allows {SHORT_STRING_BYTES} bytes"));
    }
    Ok(text)
}
