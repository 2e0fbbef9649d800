//! `[upstream.NAME]`: where messages leave to. Reads passwords from their files; never shows one.

use super::environment::Environment;
use super::mistake::quoted;
use super::read::{Section, Span};
use super::value::{self, Wrong, boolean, duration, integer, size, suggestion, word, wrong};
use super::written::path;
use super::{Amqp, Exchange, File, Upstream, UpstreamKind, order, schema, secret};
use std::path::Path;
use std::time::Duration;
use tidegate_engine::event::Drain;
use tidegate_engine::limits::Limits;
use toml::de::{DeTable, DeValue};

/// Upstreams of one gateway: each has a connection, a window and counters of its own.
const UPSTREAMS: usize = 64;
/// An upstream's name stands in logs, metrics and route names, in bytes.
const NAME_BYTES: usize = 64;
/// Nodes of one cluster.
const URLS: usize = 16;
/// AMQP 0-9-1, 4.2.5.3: a short string has at most 255 bytes.
pub(super) const SHORT_STRING_BYTES: usize = 255;
/// The most that may be under way to one upstream: it bounds the duplicates of one fault of the link.
const WINDOW_MOST: u64 = 10_000;

/// The account that RabbitMQ has from the start, for clients on its own host only.
const GUEST: &str = "guest";
const URL_DEFAULT: &str = "amqp://127.0.0.1:5672";
/// Two missed heartbeats end a connection: a silent link is noticed within half a minute.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const RECONNECT_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// With [`FILE_KEEP_DEFAULT`]: at most 1 GiB of a board's flash.
const FILE_SIZE_DEFAULT: u64 = 64 << 20;
const FILE_KEEP_DEFAULT: u64 = 15;
const FILE_PATH_DEFAULT: &str = "upstream/messages.jsonl";

/// What an operator gets who names none.
const DEFAULT_NAME: &str = "file";

#[derive(Clone, Copy)]
enum Kind {
    Amqp,
    File,
}

/// An upstream's name, its place, and what it is; `None` when it is wrong, which is reported.
pub(super) type Named = (String, Option<Span>, Option<Upstream>);

/// Reads all upstreams, in the order of their names; without any, one file.
pub(super) fn upstreams(
    root: &Section<'_>,
    base: &Path,
    data_dir: &Path,
    environment: &Environment,
) -> Vec<Named> {
    let written = root.named("upstream");
    let mut upstreams: Vec<Named> = Vec::new();
    for (name, span, table) in written.iter().take(UPSTREAMS) {
        let proper = name.len() <= NAME_BYTES
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !proper {
            root.report.error(
                Some(span.clone()),
                format!("{} cannot be an upstream's name", quoted(name)),
                format!("use up to {NAME_BYTES} letters, digits, `-` and `_`"),
            );
        }
        let upstream = upstream(root, name, span, table, base, data_dir, environment)
            .map(|(kind, window, drain)| Upstream { name: (*name).to_owned(), kind, window, drain });
        upstreams.push(((*name).to_owned(), Some(span.clone()), upstream));
    }
    if let Some((_, span, _)) = written.get(UPSTREAMS) {
        root.report.error(
            Some(span.clone()),
            "these are too many upstreams",
            format!("write {UPSTREAMS} at the most"),
        );
    }
    if written.is_empty() {
        let file = File {
            path: data_dir.join(FILE_PATH_DEFAULT),
            max_size: FILE_SIZE_DEFAULT,
            keep: usize::try_from(FILE_KEEP_DEFAULT).unwrap_or(1),
        };
        let upstream = Upstream {
            name: DEFAULT_NAME.to_owned(),
            kind: UpstreamKind::File(file),
            window: Limits::default().upstream_window,
            drain: Drain::default(),
        };
        upstreams.push((DEFAULT_NAME.to_owned(), None, Some(upstream)));
    }
    one_writer_a_file(root, &upstreams);
    upstreams
}

fn upstream(
    root: &Section<'_>,
    name: &str,
    span: &Span,
    table: &DeTable<'_>,
    base: &Path,
    data_dir: &Path,
    environment: &Environment,
) -> Option<(UpstreamKind, usize, Drain)> {
    let Some(written) = table.get("kind") else {
        root.report.error(
            Some(span.clone()),
            "this upstream has no `kind`",
            "write `kind = \"amqp\"` or \"file\"",
        );
        return None;
    };
    let kind = match kind(written.get_ref()) {
        Ok(kind) => kind,
        Err(wrong) => {
            root.report.error(Some(written.span()), wrong.what, wrong.right);
            return None;
        }
    };
    let schema = match kind {
        Kind::Amqp => &schema::UPSTREAM_AMQP,
        Kind::File => &schema::UPSTREAM_FILE,
    };
    let section =
        Section::new(root.report, schema, format!("upstream.{name}"), Some(table), Some(span.clone()));
    let window = integer(1..=WINDOW_MOST);
    let window = section.get("window", window).and_then(|window| usize::try_from(window.into_inner()).ok());
    let drain = order::drain(&section);
    let kind = match kind {
        Kind::Amqp => UpstreamKind::Amqp(amqp(&section, base, environment)?),
        Kind::File => UpstreamKind::File(file(&section, base, data_dir)),
    };
    Some((kind, window.unwrap_or(Limits::default().upstream_window), drain))
}

fn kind(value: &DeValue<'_>) -> Result<Kind, Wrong> {
    match value.as_str() {
        Some(later @ ("amqp1" | "mqtt")) => wrong(
            format!("upstreams of kind `{later}` are not supported yet by this version"),
            "use \"amqp\" (0-9-1) or \"file\"",
        ),
        _ => word(&[("amqp", Kind::Amqp), ("file", Kind::File)])(value),
    }
}

fn file(section: &Section<'_>, base: &Path, data_dir: &Path) -> File {
    let keep = section.get_or("keep", FILE_KEEP_DEFAULT, integer(1..=10_000));
    File {
        path: section.get_or("path", data_dir.join(FILE_PATH_DEFAULT), path(base)),
        max_size: section.get_or("max_size", FILE_SIZE_DEFAULT, size(64 << 10..=1 << 40)),
        keep: usize::try_from(keep).unwrap_or(1),
    }
}

fn one_writer_a_file(root: &Section<'_>, upstreams: &[Named]) {
    let path = |named: &Named| match &named.2.as_ref()?.kind {
        UpstreamKind::File(file) => Some(file.path.clone()),
        UpstreamKind::Amqp(_) => None,
    };
    for (i, named) in upstreams.iter().enumerate() {
        let Some(mine) = path(named) else { continue };
        if let Some(other) = upstreams.iter().take(i).find(|other| path(other).as_ref() == Some(&mine)) {
            root.report.error(
                named.1.clone(),
                format!("`upstream.{}` and `upstream.{}` write to one file", other.0, named.0),
                "give each a `path` of its own",
            );
        }
    }
}

fn amqp(section: &Section<'_>, base: &Path, environment: &Environment) -> Option<Amqp> {
    let urls = match section.list("urls", URLS, url) {
        None => vec![URL_DEFAULT.to_owned()],
        Some(urls) => {
            let empty = |value: &DeValue<'_>| Ok(value.as_array().is_some_and(|list| list.is_empty()));
            if section.get_or("urls", false, empty) {
                section.report.error(
                    section.at("urls"),
                    "`urls` is empty",
                    format!("write at least one broker, like [\"{URL_DEFAULT}\"]"),
                );
            }
            urls.into_iter().map(toml::Spanned::into_inner).collect()
        }
    };
    let username = section.get_or("username", GUEST.to_owned(), value::name);
    let password = password(section, &username, base, environment);
    in_the_clear(section, &urls, password.as_deref());
    let second = Duration::from_secs(1);
    let heartbeat = section.get_or("heartbeat", HEARTBEAT_DEFAULT, |value| {
        // AMQP 0-9-1, connection.tune: whole seconds in 16 bits, and zero would switch them off.
        let time = duration(second..=600 * second)(value)?;
        match time.subsec_millis() {
            0 => Ok(time),
            _ => wrong("a heartbeat is a whole number of seconds", "write it like \"15 s\""),
        }
    });
    Some(Amqp {
        urls,
        username,
        password: password?,
        exchange: exchange(&section.section(&schema::EXCHANGE)),
        heartbeat,
        connect_timeout: section.get_or(
            "connect_timeout",
            CONNECT_TIMEOUT_DEFAULT,
            duration(second..=300 * second),
        ),
        reconnect_max: section.get_or(
            "reconnect_max",
            RECONNECT_MAX_DEFAULT,
            duration(second..=3_600 * second),
        ),
    })
}

fn password(section: &Section<'_>, username: &str, base: &Path, environment: &Environment) -> Option<String> {
    match section.get("password_file", value::name) {
        Some(file) => match secret::read(file.get_ref(), base, environment) {
            Ok(secret) => {
                if let Some(wrong) = secret.warning {
                    section.report.warning(Some(file.span()), wrong.what, wrong.right);
                }
                Some(secret.text)
            }
            Err(wrong) => {
                section.report.error(Some(file.span()), wrong.what, wrong.right);
                None
            }
        },
        None if section.at("password_file").is_some() => None,
        None if username == GUEST => Some(GUEST.to_owned()),
        None => {
            section.report.error(
                section.at("username"),
                "there is a `username` and no `password_file`",
                "write the password to a file that only the gateway may read, and name that in `password_file`",
            );
            None
        }
    }
}

/// A password of one's own over a wire that others may listen to.
fn in_the_clear(section: &Section<'_>, urls: &[String], password: Option<&str>) {
    let remote = |url: &&String| {
        url.strip_prefix("amqp://").is_some_and(|rest| {
            let host = host(rest);
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
        })
    };
    if password.is_some_and(|password| password != GUEST) && urls.iter().any(|url| remote(&url)) {
        section.report.warning(
            section.at("urls"),
            "the password and every message cross the network unencrypted",
            "write amqps:// if the broker has TLS",
        );
    }
}

fn host(rest: &str) -> &str {
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand inside brackets.
        Some((host, _)) if !authority.ends_with(']') => host,
        _ => authority,
    }
}

/// A broker: `amqp[s]://HOST[:PORT][/VHOST]` (RabbitMQ's URI specification), nothing secret and no options in it.
/// The text itself is not repeated in what is wrong: it may hold a password.
fn url(value: &DeValue<'_>) -> Result<String, Wrong> {
    const LIKE: &str = "write it like \"amqps://rabbit.example:5671/vhost\"";
    let text = value::name(value)?;
    let Some(rest) = text.strip_prefix("amqps://").or_else(|| text.strip_prefix("amqp://")) else {
        return wrong("this is not the address of an AMQP broker", LIKE);
    };
    if rest.contains('@') {
        return wrong(
            "a URL must not hold a user or a password: it ends up in logs",
            "take it out, and write `username` and `password_file` beside `urls`",
        );
    }
    if rest.contains(['?', '#']) {
        return wrong(
            "a URL has no options here",
            "take off what follows the `?` or `#`; `heartbeat` and `connect_timeout` are keys beside `urls`",
        );
    }
    if rest.chars().any(char::is_whitespace) || rest.matches('/').count() > 1 {
        return wrong("this is not the address of an AMQP broker", format!("{LIKE}; a / in a vhost is %2f"));
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = host(rest);
    let name =
        |host: &str| !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if !bracketed.map_or(name(host), |ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) {
        return wrong("the URL has no proper host", format!("{LIKE}; IPv6 addresses stand in brackets"));
    }
    match authority[host.len()..].strip_prefix(':').map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => wrong("the URL has no proper port", "a port is a number from 1 to 65535"),
        _ => Ok(text),
    }
}

fn exchange(section: &Section<'_>) -> Exchange {
    let at = section.get("name", |value| {
        let text = value::text(value)?;
        if text.len() > SHORT_STRING_BYTES || text.chars().any(char::is_control) {
            return wrong("this cannot be an exchange's name", "use up to 255 printable characters");
        }
        Ok(text)
    });
    let declare = section.get_or("declare", true, boolean);
    if declare
        && let Some(name) =
            at.as_ref().filter(|at| at.get_ref().is_empty() || at.get_ref().starts_with("amq."))
    {
        section.report.error(
            Some(name.span()),
            format!("{} is the broker's own exchange and cannot be declared", quoted(name.get_ref())),
            "write `declare = false` beside it, or choose another name",
        );
    }
    Exchange {
        name: at.map_or("telemetry".to_owned(), toml::Spanned::into_inner),
        kind: section.get_or("type", "topic".to_owned(), exchange_type),
        durable: section.get_or("durable", true, boolean),
        declare,
    }
}

fn exchange_type(value: &DeValue<'_>) -> Result<String, Wrong> {
    const TYPES: [&str; 4] = ["topic", "direct", "fanout", "headers"];
    let text = value::name(value)?;
    // A plug-in's types begin with x- (AMQP 0-9-1, 3.1.3).
    if TYPES.contains(&text.as_str()) || text.starts_with("x-") && text.len() <= SHORT_STRING_BYTES {
        Ok(text)
    } else {
        wrong(
            format!("{} is not a type of exchange", quoted(&text)),
            suggestion(&text, TYPES.into_iter(), "write"),
        )
    }
}
