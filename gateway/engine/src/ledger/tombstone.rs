//! The message that tells an upstream of a loss. Its payload is JSON, and its fields are an interface: add, do not rename.
//!
//! ```json
//! {"tombstone":1,"route":"cloud:#","device":"boiler-3","topic":"sensors/boiler-3/temperature","count":1234,
//!  "from":1700000000000,"until":1700003600000,"reason":"dropped-oldest"}
//! ```
//!
//! `from` and `until` are when the first and the last of the `count` messages were received, in milliseconds since 1970, as the gateway's clock had it.
//! `route`, `device`, `topic`, `from` and `until` are left out where there is no single one, or nobody can tell.

use super::{Amount, Common};
use crate::event::RouteSetup;
use crate::id::{DeviceId, GatewayId, MessageId};
use crate::message::{Message, Properties, Qos, Source};
use crate::time::Stamp;
use crate::topic::Topic;
use std::fmt::Write as _;

/// The media type of tombstones.
const CONTENT_TYPE: &str = "application/vnd.tidegate.tombstone+json";

/// Stands where a route's filter has `#`.
const LEVEL: &str = "tombstone";

/// The tombstone of an entry. It goes where the lost messages would have gone: under their topic, or one that their route takes.
/// `None` when no topic can be made, which cannot be.
pub(crate) fn tombstone(
    id: MessageId,
    common: &Common,
    amount: Amount,
    route: Option<&RouteSetup>,
    gateway: &GatewayId,
    now: Stamp,
) -> Option<Message> {
    // Gateway ids and device ids have the same letters.
    let own = || DeviceId::new(gateway.as_str()).ok();
    let device = common.device.clone().or_else(own)?;
    let topic = match &common.topic {
        Some(topic) => topic.clone(),
        None => Topic::new(&filled(route, &device)).or_else(|_| Topic::new(LEVEL)).ok()?,
    };
    Some(Message {
        id,
        device,
        topic,
        payload: payload(common, amount, route).into(),
        received: now,
        qos: Qos::AtLeastOnce,
        retain: false,
        duplicate: false,
        source: Source::Gateway,
        properties: Some(Box::new(Properties {
            utf8_payload: true,
            content_type: Some(CONTENT_TYPE.to_owned()),
            ..Properties::default()
        })),
    })
}

/// A topic that the route's filter takes.
fn filled(route: Option<&RouteSetup>, device: &DeviceId) -> String {
    let Some(filter) = route.and_then(|route| route.filter.as_ref()) else { return LEVEL.to_owned() };
    let level = |level| match level {
        "+" => device.as_str(),
        "#" => LEVEL,
        level => level,
    };
    filter.levels().map(level).collect::<Vec<_>>().join("/")
}

fn payload(common: &Common, amount: Amount, route: Option<&RouteSetup>) -> String {
    let mut json = String::from("{\"tombstone\":1");
    let mut text = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(json, ",\"{name}\":\"");
            value.chars().for_each(|c| escaped(&mut json, c));
            json.push('"');
        }
    };
    text("route", route.map(|route| route.name.as_str()));
    text("device", common.device.as_ref().map(DeviceId::as_str));
    text("topic", common.topic.as_ref().map(Topic::as_str));
    let _ = write!(json, ",\"count\":{}", amount.count);
    if let Some((from, until)) = amount.received {
        let _ = write!(json, ",\"from\":{from},\"until\":{until}");
    }
    let _ = write!(json, ",\"reason\":\"{}\"}}", common.reason.name());
    json
}

/// A character in a JSON text (RFC 8259, 7).
fn escaped(json: &mut String, c: char) {
    match c {
        '"' | '\\' => json.extend(['\\', c]),
        c if u32::from(c) < 0x20 => {
            let _ = write!(json, "\\u{:04x}", u32::from(c));
        }
        c => json.push(c),
    }
}
