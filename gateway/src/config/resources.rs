//! `[[coap.resource]]`: what the CoAP server has at which path. The operator's own resources go before the shipped ones.

use super::read::Section;
use super::schema;
use super::value::{self, word};
use tidegate_engine::resource::{Kind, Resource};
use toml::Spanned;

/// Resources of one gateway: each path is held against all of them.
const RESOURCES: usize = 256;

const KINDS: &[(&str, Kind)] = &[
    ("topic", Kind::Topic),
    ("publish", Kind::Publish),
    ("command", Kind::Command),
    ("answer", Kind::Answer),
    ("time", Kind::Time),
];

/// Reads all resources. What is wrong is reported and left out.
pub(super) fn resources(root: &Section<'_>) -> Vec<Resource> {
    let section = root.section(&schema::COAP);
    let written = section.sections(&schema::COAP_RESOURCE);
    if let Some(extra) = written.get(RESOURCES) {
        section.report.error(
            extra.span.clone(),
            "these are too many resources",
            format!("write {RESOURCES} at the most"),
        );
    }
    let mut resources: Vec<Resource> = written.iter().take(RESOURCES).filter_map(resource).collect();
    if section.get_or("shipped_resources", true, value::boolean) {
        resources.extend(Resource::shipped());
    }
    resources
}

fn resource(section: &Section<'_>) -> Option<Resource> {
    if section.at("path").is_none() {
        section.report.error(
            section.span.clone(),
            "this resource has no `path`",
            "write one like path = \"/api/v1/{device}/telemetry\"",
        );
    }
    let path = section.get("path", value::text);
    let kind = section.get_or("kind", Kind::Publish, word(KINDS));
    let topic = section.get("topic", value::text);
    if kind.has_topic() && section.at("topic").is_none() {
        section.report.error(
            section.span.clone(),
            "this resource does not say which `topic` it leads to",
            "write one like topic = \"sensors/{device}/telemetry\"",
        );
        return None;
    }
    if let Some(topic) = topic.as_ref().filter(|_| !kind.has_topic()) {
        section.report.warning(
            Some(topic.span()),
            "`topic` means nothing on a resource of this kind",
            "take it out, or write `kind = \"publish\"`",
        );
    }
    let path = path?;
    let text = topic.as_ref().map_or("", |topic| topic.get_ref().as_str());
    let span = path.span();
    match Resource::new(path.get_ref(), kind, text) {
        Ok(resource) => Some(resource),
        Err(error) => {
            use tidegate_engine::resource::TemplateError;
            let of_topic = matches!(error, TemplateError::Topic | TemplateError::Unknown(_));
            let span = topic.as_ref().filter(|_| of_topic).map_or(span, Spanned::span);
            section.report.error(Some(span), "this is no template of a CoAP resource", error.to_string());
            None
        }
    }
}
