//! `batch`, `compress` and `dictionary` of a route: whether its messages travel together, and how. Reads dictionaries from their
//! files; packs nothing itself.

use super::mistake::quoted;
use super::read::Section;
use super::value::{Wrong, duration, integer, show_duration, size, word, wrong};
use super::written::path;
use super::{Upstream, UpstreamKind, schema};
use bytes::Bytes;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::event::{Compression, Dictionary, Durability, Format, Packing};
use tidegate_engine::limits::Limits;
use tidegate_engine::topic::Filter;
use toml::Spanned;
use toml::de::DeValue;

/// A hundred small readings: what a message costs beside its payload is spread over so many that more hardly shows.
const MESSAGES_DEFAULT: usize = 100;
/// Half of the largest window.
const MESSAGES_MOST: u64 = 5_000;
/// A hundred readings of half a kilobyte each.
const BYTES_DEFAULT: u64 = 64 << 10;
/// Brokers refuse messages beyond some size (16 MiB in RabbitMQ 4), and a batch stands in memory whole.
const BYTES_MOST: u64 = 1 << 20;
/// Within `spill_after`'s default, so that a batch is confirmed before its messages would go to the disk.
const LINGER_DEFAULT: Duration = Duration::from_millis(100);
const LINGER_MOST: Duration = Duration::from_secs(60);
/// What `zstd --train` makes has 110 KiB; it stands in memory for as long as the gateway runs.
const DICTIONARY_BYTES: u64 = 1 << 20;

const FORMATS: &[(&str, Format)] =
    &[("json", Format::Json), ("senml", Format::Senml), ("length-prefixed", Format::LengthPrefixed)];

/// What else is known of the route.
pub(super) struct Route<'a> {
    pub(super) filter: Option<&'a Filter>,
    pub(super) routing_key: Option<&'a str>,
    pub(super) durability: Durability,
    /// Where it leads; `None` when that is wrong, which is reported.
    pub(super) upstream: Option<&'a Upstream>,
}

/// Reads how the messages of a route travel together; `None` when they do not, or when something is wrong, which is reported.
pub(super) fn packing(
    section: &Section<'_>,
    route: &Route<'_>,
    limits: &Limits,
    base: &Path,
) -> Option<Arc<Packing>> {
    let compress = section.get("compress", word(&[("zstd", ())]));
    let dictionary = section.get("dictionary", |value| dictionary(value, base));
    if let Some(at) = section.at("dictionary").filter(|_| section.at("compress").is_none()) {
        section.report.error(
            Some(at),
            "a `dictionary` is for compression, and nothing is compressed here",
            "write `compress = \"zstd\"` beside it, or take it out",
        );
    }
    let Some(at) = section.at("batch") else {
        if let Some(at) = section.at("compress") {
            section.report.error(
                Some(at),
                "batches are compressed, and this route makes none",
                "write `batch = {}` beside it, or take it out",
            );
        }
        return None;
    };
    let batch = section.section(&schema::ROUTE_BATCH);
    let written = batch.get("max_messages", integer(1..=MESSAGES_MOST));
    let max_bytes = batch.get_or("max_bytes", BYTES_DEFAULT, size(1 << 10..=BYTES_MOST));
    let linger = batch.get("linger", duration(Duration::from_millis(1)..=LINGER_MOST));
    let format = batch.get_or("format", Format::default(), word(FORMATS));

    let upstream = route.upstream?;
    if matches!(upstream.kind, UpstreamKind::File(_)) {
        section.report.error(
            Some(at),
            format!(
                "`upstream.{}` writes each message as a line of its own, and takes no batches",
                upstream.name
            ),
            "take it out, or lead the route to an upstream of kind \"amqp\"",
        );
        return None;
    }
    let half = upstream.window / 2;
    let wanted = written.as_ref().and_then(|written| usize::try_from(*written.get_ref()).ok());
    if let (Some(written), Some(wanted)) = (&written, wanted)
        && wanted > half
    {
        section.report.error(
            Some(written.span()),
            format!(
                "a batch has half of its upstream's window at the most, and that of `upstream.{}` is {}",
                upstream.name, upstream.window
            ),
            format!("write `window = {}` at the upstream, or fewer here", 2 * wanted),
        );
    }
    lingering(section, linger.as_ref(), route.durability, limits);
    one_batch_a_topic(section, route);
    Some(Arc::new(Packing {
        max_messages: wanted.unwrap_or_else(|| MESSAGES_DEFAULT.min(half)).max(1),
        max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        linger: linger.map_or(LINGER_DEFAULT, Spanned::into_inner),
        format,
        compression: compress.map(|_| Compression::Zstd(dictionary.map(Spanned::into_inner))),
    }))
}

/// What waits in a batch waits for its confirm as well.
fn lingering(
    section: &Section<'_>,
    written: Option<&Spanned<Duration>>,
    durability: Durability,
    limits: &Limits,
) {
    let span = || written.map(Spanned::span).or_else(|| section.at("batch"));
    let linger = written.map_or(LINGER_DEFAULT, |written| *written.get_ref());
    if linger > limits.confirm_timeout / 2 {
        section.report.error(
            span(),
            format!(
                "messages must be confirmed within {} (`limits.confirm_timeout`), and here they may wait so long before they are even sent",
                show_duration(limits.confirm_timeout)
            ),
            "let `linger` be half of that at the most",
        );
    }
    if let Durability::Relay { spill_after } = durability
        && linger >= spill_after
    {
        section.report.warning(
            span(),
            format!(
                "what waits for longer than {} (`spill_after`) is written to the disk, and these messages may wait for {}",
                show_duration(spill_after),
                show_duration(linger)
            ),
            "make `spill_after` longer than `linger`, or write `durability = \"disk\"`",
        );
    }
}

/// An AMQP message has one routing key.
fn one_batch_a_topic(section: &Section<'_>, route: &Route<'_>) {
    let several = route.filter.is_some_and(|filter| filter.as_str().contains(['+', '#']));
    if several && route.routing_key.is_none_or(|key| key.contains("{topic}")) {
        section.report.warning(
            section.at("routing_key").or_else(|| section.at("batch")),
            "a batch has one routing key, so that each topic of this route waits for a batch of its own",
            "write the same `routing_key` for all, like \"readings\"; each message in a batch says its topic",
        );
    }
}

/// A dictionary that zstd has trained (RFC 8878, 5).
fn dictionary(value: &DeValue<'_>, base: &Path) -> Result<Dictionary, Wrong> {
    let path = path(base)(value)?;
    let shown = quoted(&path.display().to_string());
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(&path).and_then(|file| file.take(DICTIONARY_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return wrong(
            format!("the dictionary {shown} cannot be read: {error}"),
            "name a file that the gateway may read",
        );
    }
    const TRAIN: &str = "`tidegate dictionary` makes one of messages, and `zstd --train` of sample files";
    if bytes.len() as u64 > DICTIONARY_BYTES {
        return wrong(format!("the dictionary {shown} is longer than 1 MiB"), TRAIN);
    }
    match crate::upstream::dictionary_id(&bytes) {
        Some(id) => Ok(Dictionary { id, bytes: Bytes::from(bytes) }),
        None => wrong(format!("{shown} is no dictionary of Zstandard"), TRAIN),
    }
}
