//! Facts and orders as lines of a trace, short enough to read a thousand of them.

use tidegate_engine::event::{Input, Op, Output};

pub(super) fn input(input: &Input) -> String {
    match input {
        Input::Received { conn, bytes } => format!("Received {conn:?} {}", hex(bytes)),
        Input::Datagram { endpoint, bytes, .. } => format!("Datagram {} {}", endpoint.peer, hex(bytes)),
        Input::Loaded { lane, messages, damaged, note: _, upto } => {
            let ids: Vec<_> = messages.iter().map(|message| message.id.seq.0).collect();
            format!("Loaded {lane:?} {ids:?}, {damaged} damaged, up to {upto:?}")
        }
        Input::Reload(_) => "Reload".into(),
        other => format!("{other:?}"),
    }
}

pub(super) fn output(output: &Output) -> String {
    match output {
        Output::Send { conn, bytes } => format!("Send {conn:?} {}", hex(bytes)),
        Output::SendTo { endpoint, bytes } => format!("SendTo {} {}", endpoint.peer, hex(bytes)),
        Output::Commit(batch) => {
            let ops: Vec<_> = batch
                .ops
                .iter()
                .map(|op| match op {
                    Op::Insert { lane, message } => format!("insert {}:{}", lane.0, message.id.seq.0),
                    Op::Forget { lane, seq } => format!("forget {}:{}", lane.0, seq.0),
                    Op::Bury { lane, message, reason, .. } => {
                        format!("bury {}:{} ({reason})", lane.0, message.id.seq.0)
                    }
                    Op::Requeue { letter, lane, message } => {
                        format!("requeue {} {}:{}", letter.0, lane.0, message.id.seq.0)
                    }
                    Op::Purge { letter } => format!("purge {}", letter.0),
                    Op::Put { key, .. } => format!("put {:?} {:?}", key.kind, key.key),
                    Op::Remove { key } => format!("remove {:?} {:?}", key.kind, key.key),
                })
                .collect();
            format!("Commit {:?}: {}", batch.id, ops.join(", "))
        }
        Output::Publish(p) => {
            let key = match super::payload::read(&p.message.payload) {
                Some(key) => key.to_string(),
                None => String::from_utf8_lossy(&p.message.payload).into_owned(),
            };
            let mark = if p.resend { " RESEND" } else { "" };
            format!(
                "Publish u{} {:?} {key} seq {} {}{mark}",
                p.upstream.0, p.tag, p.message.id.seq.0, p.routing_key
            )
        }
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().take(48).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 48 {
        text.push('…');
    }
    text
}
