//! `GET /.well-known/core`: what there is, as links (RFC 6690), with its filter. The list is short on purpose: with a forged
//! source address it hits somebody else (see `peer`).

use super::content::Content;
use crate::resource::{Kind, Resource};
use bytes::Bytes;
use std::hash::{DefaultHasher, Hasher};
use tidegate_wire::coap::{Message, OptionNumber, content};

/// A resource and its attributes.
#[derive(Debug)]
pub(super) struct Link {
    href: String,
    rt: &'static str,
    observable: bool,
}

/// The links of all resources that have a name of their own.
pub(super) fn links(resources: &[Resource]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for resource in resources {
        let Some(href) = resource.href() else { continue };
        let (rt, observable) = match resource.kind() {
            Kind::Topic if href == "/ps" => ("core.ps", true),
            Kind::Topic => ("topic", true),
            Kind::Publish => ("publish", false),
            Kind::Command => ("command", true),
            Kind::Answer => ("answer", false),
            Kind::Time => ("time", false),
        };
        if links.iter().all(|link| link.href != href) {
            links.push(Link { href, rt, observable });
        }
    }
    links
}

impl Link {
    /// Whether a filter `name=value` takes this link; a value may end in `*` (RFC 6690, 4.1).
    fn passes(&self, filter: &[u8]) -> bool {
        let Some(equals) = filter.iter().position(|byte| *byte == b'=') else {
            return filter == b"obs" && self.observable;
        };
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

/// The list, as far as the request's filters let it through.
pub(super) fn content(links: &[Link], request: &Message<'_>) -> Content {
    let mut text = String::new();
    for link in links {
        if request.options_of(OptionNumber::URI_QUERY).all(|filter| link.passes(filter)) {
            if !text.is_empty() {
                text.push(',');
            }
            text.extend(["<", &link.href, ">;rt=", link.rt, if link.observable { ";obs" } else { "" }]);
        }
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    Content {
        payload: Bytes::from(text),
        format: Some(content::LINK_FORMAT),
        etag: Some(hasher.finish().to_be_bytes()),
        ..Content::default()
    }
}
