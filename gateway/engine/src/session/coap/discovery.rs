//! `GET /.well-known/core`: what there is, as links (RFC 6690), with its filter and in blocks.
//! The list is short on purpose: with a forged source address it hits somebody else (see `reply`).

use super::reply::Reply;
use bytes::Bytes;
use tidegate_wire::coap::{Block, Code, Message, OptionNumber, content};

/// A resource and its type.
struct Link {
    href: &'static str,
    rt: &'static str,
    text: &'static str,
}

const LINKS: [Link; 2] = [
    Link { href: "/t", rt: "topic", text: "</t>;rt=topic" },
    Link { href: "/ps", rt: "core.ps", text: "</ps>;rt=core.ps" },
];

impl Link {
    /// Whether a filter `name=value` takes this link; a value may end in `*` (RFC 6690, 4.1).
    fn passes(&self, filter: &[u8]) -> bool {
        let Some(equals) = filter.iter().position(|byte| *byte == b'=') else { return false };
        let (name, value) = filter.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        let own = match name {
            b"href" => self.href.as_bytes(),
            b"rt" => self.rt.as_bytes(),
            _ => return false,
        };
        match value.split_last() {
            Some((b'*', start)) => own.starts_with(start),
            _ => own == value,
        }
    }
}

/// The answer to `GET /.well-known/core`.
pub(super) fn answer(request: &Message<'_>, block: Option<Block>) -> Reply {
    if request.option_uint(OptionNumber::ACCEPT).is_some_and(|format| format != content::LINK_FORMAT.into()) {
        return Reply::refusal(Code::NOT_ACCEPTABLE, "only link-format (40)");
    }
    let mut links = String::new();
    for link in &LINKS {
        if request.options_of(OptionNumber::URI_QUERY).all(|filter| link.passes(filter)) {
            if !links.is_empty() {
                links.push(',');
            }
            links.push_str(link.text);
        }
    }
    let mut payload = Bytes::from(links);
    let mut block2 = None;
    if let Some(block) = block {
        // The whole list is the same for everybody, so that a block needs no state (RFC 7959, 2.4).
        let start = usize::try_from(block.offset()).unwrap_or(usize::MAX);
        if start > 0 && start >= payload.len() {
            return Reply::refusal(Code::BAD_REQUEST, "no such block");
        }
        let end = payload.len().min(start.saturating_add(block.bytes()));
        block2 = Some(Block { more: end < payload.len(), ..block });
        payload = payload.slice(start..end);
    }
    Reply {
        code: Some(Code::CONTENT),
        content_format: Some(content::LINK_FORMAT),
        block2,
        payload,
        ..Reply::default()
    }
}
