//! What a request says: its options and queries, or a refusal (RFC 7252, 5.4 and 5.10). A pure function of the message:
//! repetitions of a request that is refused here need no memory.

use super::reply::Reply;
use crate::limits::Limits;
use crate::message::{Properties, Qos};
use crate::resource::Resource;
use crate::topic::Topic;
use tidegate_wire::coap::{Block, Code, Message, OptionNumber, content};

/// Options of one request beside its path, which the bound on topics holds: more say nothing that is understood here.
const OPTIONS_MAX: usize = 64;

/// What the options say beside path and queries.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) observe: Option<u32>,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
    pub(super) size1: Option<u32>,
    pub(super) accept: Option<u16>,
    pub(super) content_format: Option<u16>,
    /// If-Match or If-None-Match is there.
    pub(super) conditional: bool,
}

/// Reads the options. Refuses what must be understood and is not (RFC 7252, 5.4.1): unknown critical options, and known ones
/// with a wrong length (5.4.3) or too often (5.4.5). Elective ones in that state are passed over.
pub(super) fn options(request: &Message<'_>) -> Result<Options, Reply> {
    let mut found = Options::default();
    let mut previous = None;
    let mut count = 0;
    for option in request.options() {
        let number = option.number;
        count += usize::from(number != OptionNumber::URI_PATH);
        if count > OPTIONS_MAX {
            return Err(Reply::refusal(Code::BAD_OPTION, "too many options"));
        }
        let repeated = previous == Some(number);
        previous = Some(number);
        let too_often = repeated && number.definition().is_some_and(|definition| !definition.repeatable);
        let understood = option.is_well_formed() && !too_often;
        match number {
            OptionNumber::PROXY_URI | OptionNumber::PROXY_SCHEME => {
                return Err(Reply::refusal(Code::PROXYING_NOT_SUPPORTED, "this is no proxy"));
            }
            OptionNumber::BLOCK1 | OptionNumber::BLOCK2 if understood => {
                let Some(block) = Block::parse(option.value) else {
                    return Err(Reply::refusal(Code::BAD_REQUEST, "block size 7 is reserved"));
                };
                if number == OptionNumber::BLOCK1 {
                    found.block1 = Some(block);
                } else {
                    found.block2 = Some(block);
                }
            }
            OptionNumber::ACCEPT if understood => {
                found.accept = option.uint().and_then(|format| u16::try_from(format).ok());
            }
            OptionNumber::IF_MATCH | OptionNumber::IF_NONE_MATCH if understood => found.conditional = true,
            // The listener has one name space, whatever name it was reached by.
            OptionNumber::URI_HOST
            | OptionNumber::URI_PORT
            | OptionNumber::URI_PATH
            | OptionNumber::URI_QUERY
                if understood => {}
            _ if number.is_critical() => {
                return Err(Reply::refusal(Code::BAD_OPTION, "a critical option is unknown or malformed"));
            }
            OptionNumber::SIZE1 if understood => found.size1 = option.uint(),
            OptionNumber::OBSERVE if understood => found.observe = option.uint(),
            OptionNumber::CONTENT_FORMAT if understood => {
                found.content_format = option.uint().and_then(|format| u16::try_from(format).ok());
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The segments of the path.
pub(super) fn path<'a>(request: &Message<'a>) -> Vec<&'a [u8]> {
    request.options_of(OptionNumber::URI_PATH).collect()
}

/// The topic that a path leads to. A segment must not smuggle in a level, a wildcard or a control character.
pub(super) fn topic(
    resource: &Resource,
    path: &[&[u8]],
    device: &str,
    limits: &Limits,
) -> Result<Topic, Reply> {
    let bad = |text| Reply::refusal(Code::BAD_REQUEST, text);
    let mut text = String::with_capacity(64);
    let mut count = 0;
    resource.fill(path, device, |level| {
        let Ok(level) = core::str::from_utf8(level) else {
            return Err(bad("a path segment is not UTF-8"));
        };
        if matches!(level, "" | "." | "..") {
            return Err(bad("a path segment is empty or dots"));
        }
        if level.contains(['/', '+', '#']) {
            return Err(bad("a path segment has '/', '+' or '#'"));
        }
        if count >= limits.topic_levels {
            return Err(bad("the topic has too many levels"));
        }
        if count > 0 {
            text.push('/');
        }
        count += 1;
        text.push_str(level);
        if text.len() > limits.topic_bytes {
            return Err(bad("the topic is too long"));
        }
        Ok(())
    })?;
    if text.starts_with('$') {
        return Err(Reply::refusal(Code::FORBIDDEN, "topics that begin with '$' are the gateway's"));
    }
    Topic::new(&text).map_err(|_| bad("the path has a control character"))
}

/// The queries that are known.
#[derive(Debug, Default)]
pub(super) struct Queries {
    pub(super) qos: Option<Qos>,
    pub(super) retain: bool,
    pub(super) expiry_seconds: Option<u32>,
    /// How long the device listens for a command, in seconds (Hono).
    pub(super) ttd_seconds: Option<u32>,
    /// What came of a command (Hono).
    pub(super) status: Option<u16>,
}

/// Reads the queries. Unknown ones are passed over: they may be meant for a convention that this gateway does not speak.
pub(super) fn queries(request: &Message<'_>) -> Result<Queries, Reply> {
    let bad = |text| Err(Reply::refusal(Code::BAD_REQUEST, text));
    let mut found = Queries::default();
    for query in request.options_of(OptionNumber::URI_QUERY) {
        let Ok(query) = core::str::from_utf8(query) else { continue };
        let Some((name, value)) = query.split_once('=') else { continue };
        match (name, value) {
            ("retain", "1" | "true") => found.retain = true,
            ("retain", "0" | "false") => found.retain = false,
            ("retain", _) => return bad("retain is 0 or 1"),
            ("qos", "0") => found.qos = Some(Qos::AtMostOnce),
            ("qos", "1") => found.qos = Some(Qos::AtLeastOnce),
            ("qos", "2") => found.qos = Some(Qos::ExactlyOnce),
            ("qos", _) => return bad("qos is 0, 1 or 2"),
            ("expiry", value) => match value.parse() {
                Ok(seconds) => found.expiry_seconds = Some(seconds),
                Err(_) => return bad("expiry is in seconds"),
            },
            ("hono-ttd", value) => match value.parse() {
                Ok(seconds) => found.ttd_seconds = Some(seconds),
                Err(_) => return bad("hono-ttd is in seconds"),
            },
            ("hono-cmd-status", value) => match value.parse() {
                Ok(status @ 200..=599) => found.status = Some(status),
                _ => return bad("hono-cmd-status is from 200 to 599"),
            },
            _ => {}
        }
    }
    Ok(found)
}

/// What goes with the payload.
pub(super) fn properties(format: Option<u16>, queries: &Queries) -> Option<Box<Properties>> {
    if format.is_none() && queries.expiry_seconds.is_none() && queries.status.is_none() {
        return None;
    }
    let content_type = format.and_then(content::media_type).map(str::to_owned);
    let content_format = if content_type.is_none() { format } else { None };
    let status = queries.status.map(|status| ("hono-cmd-status".to_owned(), status.to_string()));
    Some(Box::new(Properties {
        content_type,
        content_format,
        expiry_seconds: queries.expiry_seconds,
        user: status.into_iter().collect(),
        ..Properties::default()
    }))
}

/// Whether the device does not want a response of this class (RFC 7967). Only for a NON: the 2.04 to a CON is the
/// promise that was asked for.
pub(super) fn is_unwanted(request: &Message<'_>, code: Code) -> bool {
    let Some(unwanted) = request.option_uint(OptionNumber::NO_RESPONSE) else { return false };
    code.class().checked_sub(1).is_some_and(|bit| unwanted & (1 << bit) != 0)
}
