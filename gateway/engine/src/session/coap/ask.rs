//! What a request asks for: method, options and path in, something to do or a refusal out (RFC 7252, 5).
//! A pure function of the datagram and the limits: repetitions of a request that is refused here need no memory.

use super::reply::Reply;
use crate::limits::Limits;
use crate::message::Properties;
use crate::topic::Topic;
use tidegate_wire::coap::{Block, Code, Message, OptionNumber, content};

/// What a well-formed and permitted request wants.
#[derive(Debug)]
pub(super) enum Ask {
    /// POST or PUT on a topic.
    Publish(Publish),
    /// GET on `/.well-known/core`, whole or one block of it.
    Discover(Option<Block>),
}

/// A message to be taken.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) topic: Topic,
    pub(super) retain: bool,
    pub(super) properties: Option<Box<Properties>>,
}

/// Reads a request.
pub(super) fn read(request: &Message<'_>, datagram_bytes: usize, limits: &Limits) -> Result<Ask, Reply> {
    let options = check_options(request)?;
    let room = payload_room(request, datagram_bytes, limits);
    if datagram_bytes > limits.coap_message_bytes || options.size1.is_some_and(|size| size > room) {
        let text = "too large for one message";
        return Err(Reply { size1: Some(room), ..Reply::refusal(Code::REQUEST_ENTITY_TOO_LARGE, text) });
    }
    let mut path = request.options_of(OptionNumber::URI_PATH);
    match path.next() {
        Some(b".well-known") if path.next() == Some(b"core") && path.next().is_none() => match request.code()
        {
            Code::GET => Ok(Ask::Discover(options.block2)),
            _ => Err(Reply::refusal(Code::METHOD_NOT_ALLOWED, "GET only")),
        },
        Some(b"t" | b"ps") => {
            let mut segments = path.peekable();
            if segments.peek().is_none() {
                return Err(Reply::refusal(Code::NOT_FOUND, "a topic must follow, as in /t/sensors/a"));
            }
            if !matches!(request.code(), Code::POST | Code::PUT) {
                return Err(Reply::refusal(Code::METHOD_NOT_ALLOWED, "POST or PUT only"));
            }
            if options.block1 {
                return Err(Reply {
                    size1: Some(room),
                    ..Reply::refusal(Code::BAD_OPTION, "Block1 is not supported: send one message")
                });
            }
            if options.block2.is_some_and(|block| block.number != 0) {
                return Err(Reply::refusal(Code::BAD_OPTION, "Block2: there is no such block"));
            }
            let topic = topic(segments, limits)?;
            let (retain, expiry_seconds) = queries(request)?;
            Ok(Ask::Publish(Publish { topic, retain, properties: properties(request, expiry_seconds) }))
        }
        _ => Err(Reply::refusal(Code::NOT_FOUND, "see /.well-known/core")),
    }
}

/// What the options say beside the path.
#[derive(Debug, Default)]
struct Options {
    size1: Option<u32>,
    block1: bool,
    block2: Option<Block>,
}

/// Refuses what must be understood and is not (RFC 7252, 5.4.1): unknown critical options, and known ones
/// with a wrong length (5.4.3) or too often (5.4.5). Elective ones in that state are passed over.
fn check_options(request: &Message<'_>) -> Result<Options, Reply> {
    let mut found = Options::default();
    let mut previous = None;
    for option in request.options() {
        let number = option.number;
        let repeated = previous == Some(number);
        previous = Some(number);
        let too_often = repeated && number.definition().is_some_and(|definition| !definition.repeatable);
        let understood = option.is_well_formed() && !too_often;
        match number {
            OptionNumber::PROXY_URI | OptionNumber::PROXY_SCHEME => {
                return Err(Reply::refusal(Code::PROXYING_NOT_SUPPORTED, "this is no proxy"));
            }
            OptionNumber::SIZE1 if understood => found.size1 = option.uint(),
            OptionNumber::BLOCK1 | OptionNumber::BLOCK2 if understood => {
                let Some(block) = Block::parse(option.value) else {
                    return Err(Reply::refusal(Code::BAD_REQUEST, "block size 7 is reserved"));
                };
                if number == OptionNumber::BLOCK1 {
                    found.block1 = true;
                } else {
                    found.block2 = Some(block);
                }
            }
            // The listener has one name space, whatever name it was reached by.
            OptionNumber::URI_HOST
            | OptionNumber::URI_PORT
            | OptionNumber::URI_PATH
            | OptionNumber::URI_QUERY
            | OptionNumber::ACCEPT
                if understood => {}
            _ if number.is_critical() => {
                return Err(Reply::refusal(Code::BAD_OPTION, "a critical option is unknown or malformed"));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The largest payload that a request with this path and these options may have, in bytes.
fn payload_room(request: &Message<'_>, datagram_bytes: usize, limits: &Limits) -> u32 {
    let overhead = datagram_bytes.saturating_sub(request.payload().len());
    u32::try_from(limits.coap_message_bytes.saturating_sub(overhead)).unwrap_or(u32::MAX)
}

/// A topic from path segments. A segment must not smuggle in a level, a wildcard or a control character.
fn topic<'a>(segments: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Result<Topic, Reply> {
    let bad = |text| Reply::refusal(Code::BAD_REQUEST, text);
    let mut text = String::new();
    for (index, segment) in segments.enumerate() {
        let Ok(segment) = core::str::from_utf8(segment) else {
            return Err(bad("a path segment is not UTF-8"));
        };
        if matches!(segment, "" | "." | "..") {
            return Err(bad("a path segment is empty or dots"));
        }
        if segment.contains(['/', '+', '#']) {
            return Err(bad("a path segment has '/', '+' or '#'"));
        }
        if index >= limits.topic_levels {
            return Err(bad("the topic has too many levels"));
        }
        if index > 0 {
            text.push('/');
        }
        text.push_str(segment);
        if text.len() > limits.topic_bytes {
            return Err(bad("the topic is too long"));
        }
    }
    if text.starts_with('$') {
        return Err(Reply::refusal(Code::FORBIDDEN, "topics that begin with '$' are the gateway's"));
    }
    Topic::new(&text).map_err(|_| bad("the path has a control character"))
}

/// The queries that are known: `retain` and `expiry` (seconds). Others are passed over: they may be meant for
/// a convention that this gateway does not speak yet.
fn queries(request: &Message<'_>) -> Result<(bool, Option<u32>), Reply> {
    let mut retain = false;
    let mut expiry_seconds = None;
    for query in request.options_of(OptionNumber::URI_QUERY) {
        let Ok(query) = core::str::from_utf8(query) else { continue };
        match query.split_once('=') {
            Some(("retain", "1" | "true")) => retain = true,
            Some(("retain", "0" | "false")) => retain = false,
            Some(("retain", _)) => return Err(Reply::refusal(Code::BAD_REQUEST, "retain is 0 or 1")),
            Some(("expiry", value)) => match value.parse() {
                Ok(seconds) => expiry_seconds = Some(seconds),
                Err(_) => return Err(Reply::refusal(Code::BAD_REQUEST, "expiry is in seconds")),
            },
            _ => {}
        }
    }
    Ok((retain, expiry_seconds))
}

fn properties(request: &Message<'_>, expiry_seconds: Option<u32>) -> Option<Box<Properties>> {
    let format =
        request.option_uint(OptionNumber::CONTENT_FORMAT).and_then(|format| u16::try_from(format).ok());
    if format.is_none() && expiry_seconds.is_none() {
        return None;
    }
    let content_type = format.and_then(content::media_type).map(str::to_owned);
    let content_format = if content_type.is_none() { format } else { None };
    Some(Box::new(Properties { content_type, content_format, expiry_seconds, ..Properties::default() }))
}
