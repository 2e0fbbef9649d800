//! A publication as one line of the file: the message as JSON, with what is said of its handing over. Writes to memory only.

pub(super) use crate::json::BEGINNING;
use crate::json::MessageJson;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;

/// Appends a publication's line, line break included.
pub(super) fn append(lines: &mut Vec<u8>, gateway: &GatewayId, publication: &Publication) {
    let mut line = MessageJson::new(gateway, &publication.message);
    let key = publication.routing_key.as_str();
    line.routing_key = (!is_topic_with_dots(key, publication.message.topic.as_str())).then_some(key);
    line.resend |= publication.resend;
    line.salvaged = publication.salvaged;
    let before = lines.len();
    // Text and numbers into memory: nothing can fail. Were it to, half a line must not stay.
    if serde_json::to_writer(&mut *lines, &line).is_err() {
        lines.truncate(before);
    }
    lines.push(b'\n');
}

fn is_topic_with_dots(routing_key: &str, topic: &str) -> bool {
    routing_key.len() == topic.len()
        && routing_key.bytes().zip(topic.bytes()).all(|(k, t)| k == if t == b'/' { b'.' } else { t })
}
