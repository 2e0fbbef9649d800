//! Topic aliases towards a client: which topics have one on this connection (MQTT 5.0, 3.3.2.3.4). The first topics get
//! one and keep it: subscribers of an edge gateway see the same few all the time. Knows no packets.

use crate::topic::Topic;

/// Shorter names are not worth an alias: it takes three bytes itself, twice at least.
const NAME_BYTES_LEAST: usize = 8;

/// How a topic is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alias {
    /// By its name.
    None,
    /// By its name, and from then on by this alias.
    New(u16),
    /// By this alias alone.
    Known(u16),
}

/// The topics that have an alias; alias 1 is at 0.
#[derive(Debug)]
pub(super) struct Aliases {
    topics: Vec<Topic>,
    most: u16,
}

impl Aliases {
    /// `most`: the client's Topic Alias Maximum, or our own bound. `None` where there are none [MQTT-3.1.2-27].
    pub(super) fn new(most: u16) -> Option<Box<Self>> {
        (most > 0).then(|| Box::new(Self { topics: Vec::new(), most }))
    }

    /// How to say this topic next.
    pub(super) fn of(&self, topic: &Topic) -> Alias {
        if topic.as_str().len() < NAME_BYTES_LEAST {
            return Alias::None;
        }
        let known = (1..=self.most).zip(&self.topics).find(|(_, known)| *known == topic);
        if let Some((alias, _)) = known {
            return Alias::Known(alias);
        }
        match u16::try_from(self.topics.len()) {
            Ok(used) if used < self.most => Alias::New(used + 1),
            _ => Alias::None,
        }
    }

    /// The client has been sent [`Alias::New`] for this topic.
    pub(super) fn told(&mut self, topic: &Topic) {
        self.topics.push(topic.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::{Alias, Aliases};
    use crate::topic::Topic;

    #[test]
    fn the_first_topics_get_an_alias_and_keep_it() {
        let topics = ["topic/one", "topic/two", "topic/three"].map(|name| Topic::new(name).unwrap());
        let mut aliases = Aliases::new(2).unwrap();
        assert_eq!(aliases.of(&topics[0]), Alias::New(1));
        assert_eq!(aliases.of(&topics[0]), Alias::New(1), "not told yet");
        aliases.told(&topics[0]);
        assert_eq!(aliases.of(&topics[1]), Alias::New(2));
        aliases.told(&topics[1]);
        assert_eq!(aliases.of(&topics[2]), Alias::None);
        assert_eq!([0, 1].map(|place| aliases.of(&topics[place])), [Alias::Known(1), Alias::Known(2)]);
        assert_eq!(aliases.of(&Topic::new("short").unwrap()), Alias::None);
        assert!(Aliases::new(0).is_none());
    }
}
