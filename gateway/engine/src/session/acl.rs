//! What one device may publish and read, by topic filters. Pure: knows no session, no protocol, no credentials.
//!
//! A subscription is granted when its filter and the device's rights have topics in common, and every message is held against
//! the rights again when it is to be delivered: a wildcard then delivers what the device may read and nothing else, and a right
//! that is taken away at a reload ends with that moment.

use crate::id::DeviceId;
use crate::topic::{Filter, Topic};

/// A device's rights. What is not in them is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    publish: Vec<Filter>,
    subscribe: Vec<Filter>,
}

impl Acl {
    /// The rights to publish under, and to read, the topics that these filters name.
    #[must_use]
    pub fn new(publish: Vec<Filter>, subscribe: Vec<Filter>) -> Self {
        Self { publish, subscribe }
    }

    /// The topics that a device may publish under when nobody says otherwise: a name space of its own.
    #[must_use]
    pub fn default_publish(device: &DeviceId) -> Option<Filter> {
        Filter::new(&format!("sensors/{device}/#")).ok()
    }

    /// The topics that a device may read when nobody says otherwise.
    #[must_use]
    pub fn default_subscribe(device: &DeviceId) -> Option<Filter> {
        Filter::new(&format!("commands/{device}/#")).ok()
    }

    /// The rights of a device of which nobody says anything.
    #[must_use]
    pub fn default_of(device: &DeviceId) -> Self {
        let list = |filter: Option<Filter>| filter.into_iter().collect();
        Self::new(list(Self::default_publish(device)), list(Self::default_subscribe(device)))
    }

    /// Whether the device may publish under this topic, as a message or as a will.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|filter| filter.matches(topic))
    }

    /// Whether a message of this topic may reach the device.
    #[must_use]
    pub fn may_receive(&self, topic: &Topic) -> bool {
        self.subscribe.iter().any(|filter| filter.matches(topic))
    }

    /// Whether a subscription to this filter (without `$share/GROUP/`) could ever deliver something.
    #[must_use]
    pub fn may_subscribe(&self, filter: &Filter) -> bool {
        self.subscribe.iter().any(|allowed| allowed.overlaps(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::Acl;
    use crate::topic::{Filter, Topic};

    fn acl(publish: &[&str], subscribe: &[&str]) -> Acl {
        let filters = |texts: &[&str]| texts.iter().map(|text| Filter::new(text).unwrap()).collect();
        Acl::new(filters(publish), filters(subscribe))
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let acl = acl(&["sensors/a/#"], &["commands/a/#"]);
        let topic = |text| Topic::new(text).unwrap();
        assert!(acl.may_publish(&topic("sensors/a/x")));
        assert!(!acl.may_publish(&topic("sensors/ab/x")));
        assert!(!acl.may_publish(&topic("commands/a/x")));
        assert!(acl.may_receive(&topic("commands/a")));
        assert!(!acl.may_receive(&topic("sensors/a/x")));
        assert!(!Acl::default().may_publish(&topic("x")));
    }

    #[test]
    fn a_wildcard_is_granted_when_it_has_something_to_deliver() {
        let acl = acl(&[], &["commands/a/#"]);
        for (filter, granted) in [
            ("#", true),
            ("+/a/x", true),
            ("commands/#", true),
            ("commands/b/#", false),
            ("sensors/#", false),
        ] {
            assert_eq!(acl.may_subscribe(&Filter::new(filter).unwrap()), granted, "{filter}");
        }
    }
}
