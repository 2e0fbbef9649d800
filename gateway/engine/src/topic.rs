//! Topic names and topic filters (MQTT 5.0, 4.7): parsed on construction, valid for ever after.
//! The one name space of MQTT topics, CoAP paths and serial topics. How many levels a listener allows is policy
//! and stands in `limits`; what a topic is stands here.

use std::fmt;
use std::sync::Arc;

/// The longest topic that the protocol can carry, in bytes (MQTT 5.0, 1.5.4).
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Why a text is not a topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// At least one character is required [MQTT-4.7.3-1].
    Empty,
    /// More than [`MAX_TOPIC_BYTES`].
    TooLong,
    /// U+0000 [MQTT-4.7.3-2], or another control character (MQTT 5.0, 1.5.4: may be refused).
    Control,
    /// `+` or `#` in a topic name [MQTT-3.3.2-2].
    Wildcard,
    /// `+` beside other characters in its level [MQTT-4.7.1-2].
    PlusNotAlone,
    /// `#` beside other characters, or not last [MQTT-4.7.1-1].
    HashNotLast,
    /// `$share/` without a group, with a wildcard in the group, or without a filter (MQTT 5.0, 4.8.2).
    Share,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a topic needs at least one character",
            Self::TooLong => "a topic has at most 65535 bytes",
            Self::Control => "a topic must not contain control characters",
            Self::Wildcard => "'+' and '#' are wildcards: they stand in filters, not in topic names",
            Self::PlusNotAlone => "'+' must be a whole level, as in a/+/b",
            Self::HashNotLast => "'#' must be the last level, as in a/#",
            Self::Share => "a shared subscription is written $share/GROUP/FILTER",
        })
    }
}

impl std::error::Error for TopicError {}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > MAX_TOPIC_BYTES {
        Err(TopicError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(TopicError::Control)
    } else {
        Ok(())
    }
}

/// A topic name: no wildcards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Parses a topic name.
    ///
    /// # Errors
    /// [`TopicError`] when the text is empty, too long, or has a control character or a wildcard.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        if text.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels between the slashes; `/a` has two, the first empty.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

// The order and hash of a topic are those of its text.
impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic filter: may have wildcards. (`$share/…` is the session's business and is taken off before.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Arc<str>);

impl std::borrow::Borrow<str> for Filter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Filter {
    /// Parses a topic filter.
    ///
    /// # Errors
    /// [`TopicError`] when the text is empty, too long, has a control character or a wildcard in the wrong place.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level == "#" {
                if levels.peek().is_some() {
                    return Err(TopicError::HashNotLast);
                }
            } else if level.contains('#') {
                return Err(TopicError::HashNotLast);
            } else if level.contains('+') && level != "+" {
                return Err(TopicError::PlusNotAlone);
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels between the slashes.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether `topic` is one of those that this filter names (MQTT 5.0, 4.7.1 and 4.7.2: a leading wildcard
    /// does not match a topic that begins with `$`).
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        if topic.as_str().starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.levels();
        for level in self.levels() {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (fixed, Some(name)) if fixed == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether there is a topic that both filters name.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        // A leading wildcard does not see topics that begin with `$` [MQTT-4.7.2-1].
        let (wild, dollar) = (|f: &Self| f.0.starts_with(['+', '#']), |f: &Self| f.0.starts_with('$'));
        if wild(self) && dollar(other) || dollar(self) && wild(other) {
            return false;
        }
        let (mut one, mut two) = (self.levels(), other.levels());
        // `a/#` names `a` itself, too; `/#` would name the empty topic, which there is not.
        let mut parent_is_topic = None;
        loop {
            match (one.next(), two.next()) {
                (Some("#"), None) | (None, Some("#")) => return parent_is_topic.unwrap_or(true),
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {
                    let named = parent_is_topic.is_some() || !a.is_empty() && !b.is_empty();
                    parent_is_topic = Some(named);
                }
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, Topic, TopicError};

    fn matches(filter: &str, topic: &str) -> bool {
        Filter::new(filter).unwrap().matches(&Topic::new(topic).unwrap())
    }

    #[test]
    fn wildcards_match_as_the_specification_says() {
        assert!(matches("sport/tennis/player1/#", "sport/tennis/player1"));
        assert!(matches("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(matches("#", "a/b"));
    }

    #[test]
    fn a_leading_wildcard_does_not_see_dollar_topics() {
        assert!(!matches("#", "$SYS/broker"));
        assert!(!matches("+/broker", "$SYS/broker"));
        assert!(matches("$SYS/#", "$SYS/broker"));
    }

    #[test]
    fn filters_overlap_when_a_topic_has_both() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (Filter::new(a).unwrap(), Filter::new(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a} {b}");
            a.overlaps(&b)
        };
        for (a, b) in
            [("#", "a/b"), ("a/#", "a"), ("a/+", "+/b"), ("a/b", "a/b"), ("+/#", "a"), ("$SYS/#", "$SYS/+")]
        {
            assert!(overlap(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("a/+", "a"),
            ("a/b", "a/c"),
            ("a/b/#", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/#"),
            ("+", "/#"),
            ("+", "a/b"),
        ] {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }

    #[test]
    fn misplaced_wildcards_are_refused() {
        assert_eq!(Filter::new("sport/tennis#"), Err(TopicError::HashNotLast));
        assert_eq!(Filter::new("sport/#/ranking"), Err(TopicError::HashNotLast));
        assert_eq!(Filter::new("sport+"), Err(TopicError::PlusNotAlone));
        assert_eq!(Topic::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(Topic::new(""), Err(TopicError::Empty));
        assert_eq!(Topic::new("a\0"), Err(TopicError::Control));
    }
}
