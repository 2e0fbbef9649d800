//! One message, laid out for a person.

use super::listing::cell;
use super::moment;
use super::table::plain;
use std::io::{self, Write};
use tidegate_engine::id::GatewayId;
use tidegate_engine::message::Message;

/// Writes what a message is and the beginning of what it says.
pub(super) fn show(gateway: &GatewayId, message: &Message, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "id        {}", crate::upstream::message_id(gateway, message))?;
    writeln!(out, "device    {}", message.device)?;
    writeln!(out, "topic     {}", plain(message.topic.as_str()))?;
    let clock = if message.received.synchronised { "" } else { " (the clock was not synchronised)" };
    writeln!(out, "received  {}{clock}", moment::show(message.received.unix_ms))?;
    writeln!(out, "quality   {}", message.qos as u8)?;
    if let Some(kind) = message.properties.as_ref().and_then(|given| given.content_type.as_ref()) {
        writeln!(out, "type      {}", plain(kind))?;
    }
    match std::str::from_utf8(&message.payload) {
        Ok(text) => writeln!(out, "payload   {} bytes: {}", text.len(), cell(text)),
        Err(_) => writeln!(out, "payload   {} bytes that are no text; see --json", message.payload.len()),
    }
}
