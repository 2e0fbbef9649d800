//! The resources of the CoAP server as the operator writes them: a path template and what stands behind it.
//! Parsed on construction, filled in request by request; knows no messages, no peers and no rights.

use crate::topic::{MAX_TOPIC_BYTES, Topic};
use std::fmt;

/// Segments of one template at the most: more than any topic has levels is a slip of the pen.
const SEGMENTS: usize = 32;

/// A piece of a path or topic between slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Fixed(Box<str>),
    /// `{name}`: one segment.
    One(Box<str>),
    /// `{name…}`: one segment or more, and the last.
    Rest(Box<str>),
}

/// The variable that stands for the device: its authenticated identity, else what the path says, else its address.
pub const DEVICE: &str = "device";

/// Why a text is no template; says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// A path that does not begin with a slash, or a segment that is empty.
    Path,
    /// A brace without its counterpart, or beside other characters.
    Braces,
    /// `{name…}` somewhere else than at the end.
    RestNotLast,
    /// A variable that stands twice.
    Twice(String),
    /// The topic has a variable that the path has not.
    Unknown(String),
    /// Too many segments.
    TooLong,
    /// The topic could never be one.
    Topic,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => {
                f.write_str("a path begins with a slash and has no empty segment, like \"/t/{topic…}\"")
            }
            Self::Braces => f.write_str("{name} or {name…} must be a whole segment"),
            Self::RestNotLast => f.write_str("{name…} takes all that is left and must be last"),
            Self::Twice(name) => write!(f, "{{{name}}} stands twice"),
            Self::Unknown(name) => write!(f, "{{{name}}} is not in the path; {{device}} always is"),
            Self::TooLong => write!(f, "use {SEGMENTS} segments at the most"),
            Self::Topic => {
                f.write_str("a topic has no wildcards or control characters and does not begin with '$'")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

fn segments(text: &str) -> Result<Vec<Segment>, TemplateError> {
    let mut segments = Vec::new();
    for part in text.split('/') {
        let segment = if part.is_empty() {
            return Err(TemplateError::Path);
        } else if let Some(inside) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let rest = inside.strip_suffix('…').or_else(|| inside.strip_suffix("..."));
            let name = rest.unwrap_or(inside);
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(TemplateError::Braces);
            }
            if rest.is_some() { Segment::Rest(name.into()) } else { Segment::One(name.into()) }
        } else if part.contains(['{', '}']) {
            return Err(TemplateError::Braces);
        } else {
            Segment::Fixed(part.into())
        };
        if matches!(segments.last(), Some(Segment::Rest(_))) {
            return Err(TemplateError::RestNotLast);
        }
        segments.push(segment);
        if segments.len() > SEGMENTS {
            return Err(TemplateError::TooLong);
        }
    }
    let names: Vec<&str> = segments.iter().filter_map(Segment::name).collect();
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier == name) {
            return Err(TemplateError::Twice((*name).to_owned()));
        }
    }
    Ok(segments)
}

impl Segment {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Fixed(_) => None,
            Self::One(name) | Self::Rest(name) => Some(name),
        }
    }
}

/// What stands behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A topic: POST and PUT publish, DELETE clears what is retained, GET gives that, GET with Observe subscribes.
    Topic,
    /// POST and PUT publish; `hono-ttd` waits for a command.
    Publish,
    /// GET gives the device's command, GET with Observe all that come.
    Command,
    /// POST and PUT publish the answer to a command.
    Answer,
    /// GET gives the time.
    Time,
}

/// A resource: a path template, what stands behind it, and the topic that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    path: Vec<Segment>,
    kind: Kind,
    topic: Vec<Segment>,
}

impl Resource {
    /// Parses a resource. `topic` means something for [`Kind::Topic`], [`Kind::Publish`] and [`Kind::Answer`] only.
    ///
    /// # Errors
    /// [`TemplateError`]: what is wrong with the path or the topic.
    pub fn new(path: &str, kind: Kind, topic: &str) -> Result<Self, TemplateError> {
        let path = segments(path.strip_prefix('/').ok_or(TemplateError::Path)?)?;
        let topic = if kind.has_topic() { Self::topic_of(&path, topic)? } else { Vec::new() };
        Ok(Self { path, kind, topic })
    }

    fn topic_of(path: &[Segment], text: &str) -> Result<Vec<Segment>, TemplateError> {
        let topic = segments(text).map_err(|error| match error {
            TemplateError::Path => TemplateError::Topic,
            other => other,
        })?;
        for segment in &topic {
            match segment {
                Segment::Fixed(fixed) => {
                    if Topic::new(fixed).is_err() || text.starts_with('$') {
                        return Err(TemplateError::Topic);
                    }
                }
                Segment::One(name) => {
                    let known = path.iter().any(|own| matches!(own, Segment::One(other) if other == name));
                    if !known && **name != *DEVICE {
                        return Err(TemplateError::Unknown(name.to_string()));
                    }
                }
                Segment::Rest(name) => {
                    if !path.iter().any(|own| matches!(own, Segment::Rest(other) if other == name)) {
                        return Err(TemplateError::Unknown(format!("{name}…")));
                    }
                }
            }
        }
        Ok(topic)
    }

    /// The resources that there are when the operator says nothing else: topics, Hono's, and a clock.
    #[must_use]
    pub fn shipped() -> Vec<Self> {
        SHIPPED.iter().filter_map(|(path, kind, topic)| Self::new(path, *kind, topic).ok()).collect()
    }

    /// What stands behind it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether a path leads here.
    #[must_use]
    pub fn matches(&self, path: &[&[u8]]) -> bool {
        let mut given = path.iter();
        for segment in &self.path {
            match (segment, given.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::One(_), Some(_)) => {}
                (Segment::Fixed(fixed), Some(given)) if fixed.as_bytes() == *given => {}
                _ => return false,
            }
        }
        given.next().is_none()
    }

    /// What stands in a path in a variable's place; of a path that matches. Nothing of it is checked.
    #[must_use]
    pub fn variable<'p, 's>(&self, path: &'s [&'p [u8]], name: &str) -> Option<&'s [&'p [u8]]> {
        let at = self.path.iter().position(|segment| segment.name() == Some(name))?;
        match self.path.get(at)? {
            Segment::Rest(_) => path.get(at..),
            _ => path.get(at..=at),
        }
    }

    /// The topic that a path leads to, level by level: what to do with each, `device` standing for [`DEVICE`].
    ///
    /// # Errors
    /// What `level` says of the first level that it does not take.
    pub fn fill<'a, E>(
        &'a self,
        path: &'a [&'a [u8]],
        device: &'a str,
        mut level: impl FnMut(&'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in &self.topic {
            match segment {
                Segment::Fixed(fixed) => level(fixed.as_bytes())?,
                Segment::One(name) if **name == *DEVICE => level(device.as_bytes())?,
                Segment::One(name) | Segment::Rest(name) => {
                    for value in self.variable(path, name).into_iter().flatten() {
                        level(value)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether its topic speaks of the device.
    #[must_use]
    pub fn names_device(&self) -> bool {
        matches!(self.kind, Kind::Command) || self.topic.iter().any(|segment| segment.name() == Some(DEVICE))
    }

    /// Where it begins, for the list of links: the path up to its first variable (RFC 6690). `None` for one that begins with a
    /// variable, which has no name of its own.
    #[must_use]
    pub fn href(&self) -> Option<String> {
        let fixed = self.path.iter().map_while(|segment| match segment {
            Segment::Fixed(fixed) => Some(&**fixed),
            _ => None,
        });
        let href: String = fixed.flat_map(|fixed| ["/", fixed]).collect();
        (!href.is_empty()).then_some(href)
    }

    /// Whether the path has a variable.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.path.iter().any(|segment| segment.name().is_some())
    }
}

impl Kind {
    /// Whether it leads to a topic that the operator names.
    #[must_use]
    pub const fn has_topic(self) -> bool {
        matches!(self, Self::Topic | Self::Publish | Self::Answer)
    }
}

/// The shipped resources, as `config/tidegate.toml` shows them.
pub const SHIPPED: [(&str, Kind, &str); 11] = [
    ("/t/{topic…}", Kind::Topic, "{topic…}"),
    ("/ps/{topic…}", Kind::Topic, "{topic…}"),
    ("/telemetry", Kind::Publish, "sensors/{device}/telemetry"),
    ("/telemetry/{tenant}/{device}", Kind::Publish, "sensors/{device}/telemetry"),
    ("/event", Kind::Publish, "sensors/{device}/event"),
    ("/event/{tenant}/{device}", Kind::Publish, "sensors/{device}/event"),
    ("/command", Kind::Command, ""),
    ("/command/{tenant}/{device}", Kind::Command, ""),
    ("/command_response/{id}", Kind::Answer, "sensors/{device}/command_response/{id}"),
    ("/command_response/{tenant}/{device}/{id}", Kind::Answer, "sensors/{device}/command_response/{id}"),
    ("/time", Kind::Time, ""),
];

// A topic of a template is no longer than one can be.
const _: () = assert!(SEGMENTS * 2 < MAX_TOPIC_BYTES);

#[cfg(test)]
mod tests {
    use super::{Kind, Resource, SHIPPED, TemplateError};

    fn fill(resource: &Resource, path: &str) -> Option<String> {
        let path: Vec<&[u8]> = path.split('/').skip(1).map(str::as_bytes).collect();
        if !resource.matches(&path) {
            return None;
        }
        let mut levels = Vec::new();
        let filled: Result<(), ()> = resource.fill(&path, "d-1", |level| {
            levels.push(String::from_utf8_lossy(level).into_owned());
            Ok(())
        });
        filled.ok().map(|()| levels.join("/"))
    }

    #[test]
    fn a_template_takes_its_paths_and_no_others() {
        let rest = Resource::new("/t/{topic…}", Kind::Topic, "{topic...}").unwrap();
        assert_eq!(fill(&rest, "/t/a/b").as_deref(), Some("a/b"));
        assert_eq!(fill(&rest, "/t"), None);
        assert_eq!(fill(&rest, "/x/a"), None);
        let one = Resource::new("/api/v1/{token}/telemetry", Kind::Publish, "tb/{token}/{device}").unwrap();
        assert_eq!(fill(&one, "/api/v1/abc/telemetry").as_deref(), Some("tb/abc/d-1"));
        assert_eq!(fill(&one, "/api/v1/abc/telemetry/x"), None);
        assert_eq!(fill(&one, "/api/v1/abc"), None);
        let all = Resource::new("/{path…}", Kind::Publish, "coap/{device}/{path…}").unwrap();
        assert_eq!(fill(&all, "/any/thing").as_deref(), Some("coap/d-1/any/thing"));
        assert_eq!((all.href(), one.href().as_deref()), (None, Some("/api/v1")));
    }

    #[test]
    fn what_is_no_template_is_told_apart() {
        for (path, topic, wrong) in [
            ("t", "a", TemplateError::Path),
            ("/t//a", "a", TemplateError::Path),
            ("/t/{a", "a", TemplateError::Braces),
            ("/t/x{a}", "a", TemplateError::Braces),
            ("/t/{}", "a", TemplateError::Braces),
            ("/t/{a…}/b", "a", TemplateError::RestNotLast),
            ("/t/{a}/{a}", "a", TemplateError::Twice("a".into())),
            ("/t/{a}", "{b}", TemplateError::Unknown("b".into())),
            ("/t/{a}", "{a…}", TemplateError::Unknown("a…".into())),
            ("/t", "a/+", TemplateError::Topic),
            ("/t", "$SYS/a", TemplateError::Topic),
            ("/t", "", TemplateError::Topic),
        ] {
            assert_eq!(Resource::new(path, Kind::Publish, topic), Err(wrong), "{path} {topic}");
        }
        assert_eq!(Resource::shipped().len(), SHIPPED.len());
    }
}
