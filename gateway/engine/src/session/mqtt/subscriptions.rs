//! Who wants which topics: a tree of topic levels in which matching costs as much as the topic has levels, however
//! many filters there are. Owns nothing of a session but its handle and what was granted; knows no packets.
//! Deterministic, and safe against names chosen by an attacker: the levels are ordered, not hashed.

use super::slab::SessionKey;
use crate::message::Qos;
use crate::topic::{Filter, Topic};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// What a subscription was granted (MQTT 5.0, 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Messages are delivered with at most this.
    pub(super) qos: Qos,
    /// Messages that the subscriber published itself are not for it.
    pub(super) no_local: bool,
    /// RETAIN is passed on as the publisher set it.
    pub(super) retain_as_published: bool,
    /// Whether retained messages are wanted at the subscription: 0 always, 1 if it is new, 2 never.
    pub(super) retain_handling: u8,
    /// The subscription identifier.
    pub(super) id: Option<NonZeroU32>,
}

/// A match: whom a message is for, and how.
pub(super) type Match = (SessionKey, Granted);

const ROOT: u32 = 0;

/// All subscriptions of all sessions.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    count: usize,
}

/// One level of a filter. Node numbers are indices into [`Tree::nodes`].
#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, u32>,
    /// The child that stands for `+`.
    any: Option<u32>,
    /// Filters that end here, ascending by session.
    here: Vec<Match>,
    /// Filters that end here with `/#`.
    below: Vec<Match>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    fn child(&self, level: &str) -> Option<u32> {
        if level == "+" { self.any } else { self.children.get(level).copied() }
    }
}

/// A filter's levels without a last `#`, and whether there was one.
fn levels(filter: &Filter) -> (impl Iterator<Item = &str>, bool) {
    let below = filter.as_str() == "#" || filter.as_str().ends_with("/#");
    (filter.levels().filter(|level| *level != "#"), below)
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), count: 0 }
    }

    /// Subscriptions in all.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a subscription, or replaces what the session had for this very filter [MQTT-3.8.4-3].
    pub(super) fn insert(&mut self, filter: &Filter, session: SessionKey, granted: Granted) {
        let (levels, below) = levels(filter);
        let mut at = ROOT;
        for level in levels {
            at = match self.node(at).and_then(|node| node.child(level)) {
                Some(child) => child,
                None => self.grow(at, level),
            };
        }
        let Some(node) = self.nodes.get_mut(at as usize) else { return };
        let list = if below { &mut node.below } else { &mut node.here };
        match list.binary_search_by_key(&session, |(key, _)| *key) {
            Ok(found) => list[found].1 = granted,
            Err(place) => {
                list.insert(place, (session, granted));
                self.count += 1;
            }
        }
    }

    /// Removes a session's subscription for this filter.
    pub(super) fn remove(&mut self, filter: &Filter, session: SessionKey) {
        let (names, below) = levels(filter);
        let mut path = vec![(ROOT, "")];
        let mut at = ROOT;
        for level in names {
            let Some(child) = self.node(at).and_then(|node| node.child(level)) else { return };
            path.push((child, level));
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            let list = if below { &mut node.below } else { &mut node.here };
            if let Ok(found) = list.binary_search_by_key(&session, |(key, _)| *key) {
                list.remove(found);
                self.count -= 1;
            }
        }
        // Levels that lead nowhere any more are taken away, from the end.
        while let (Some((node, level)), Some((parent, _))) = (path.pop(), path.last().copied()) {
            if !self.node(node).is_some_and(Node::is_empty) {
                break;
            }
            if let Some(parent) = self.nodes.get_mut(parent as usize) {
                if level == "+" {
                    parent.any = None;
                } else {
                    parent.children.remove(level);
                }
            }
            self.nodes[node as usize] = Node::default();
            self.free.push(node);
        }
    }

    /// Appends to `found` every subscription whose filter names the topic; a session may be in it several times.
    pub(super) fn matches(&self, topic: &Topic, found: &mut Vec<Match>) {
        if self.count > 0 {
            // A leading wildcard does not see topics that begin with `$` [MQTT-4.7.2-1].
            self.walk(ROOT, Some(topic.as_str()), !topic.as_str().starts_with('$'), found);
        }
    }

    /// The depth of the recursion is that of the deepest filter, which the limit on topic levels bounds.
    fn walk(&self, at: u32, rest: Option<&str>, wildcards: bool, found: &mut Vec<Match>) {
        let Some(node) = self.node(at) else { return };
        if wildcards {
            // `a/#` names `a` itself, too (MQTT 5.0, 4.7.1.2).
            found.extend_from_slice(&node.below);
        }
        let Some(rest) = rest else {
            found.extend_from_slice(&node.here);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let Some(child) = node.children.get(level) {
            self.walk(*child, rest, true, found);
        }
        if let Some(child) = node.any.filter(|_| wildcards) {
            self.walk(child, rest, true, found);
        }
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn grow(&mut self, parent: u32, level: &str) -> u32 {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
        });
        let parent = &mut self.nodes[parent as usize];
        if level == "+" {
            parent.any = Some(child);
        } else {
            parent.children.insert(level.into(), child);
        }
        child
    }
}

#[cfg(test)]
mod tests {
    use super::{Granted, Tree};
    use crate::message::Qos;
    use crate::session::mqtt::slab::SessionKey;
    use crate::topic::{Filter, Topic};

    const GRANTED: Granted = Granted {
        qos: Qos::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        id: None,
    };

    fn key(index: u32) -> SessionKey {
        SessionKey { index, generation: 0 }
    }

    #[test]
    fn the_tree_matches_what_the_filters_match_and_empties_again() {
        let filters = [
            "#", "+", "+/+", "a", "a/#", "a/+", "a/+/c", "a/b/c", "a/b/#", "/", "/+", "+/", "a//c", "$SYS/#",
            "$SYS/+", "+/b", "+/+/#", "b",
        ];
        let topics = [
            "a", "a/b", "a/b/c", "/", "a/", "/b", "a//c", "$SYS", "$SYS/x", "$SYS/x/y", "b/b", "b/b/b/b", "c",
        ];
        let mut tree = Tree::new();
        for (index, text) in filters.iter().enumerate() {
            tree.insert(&Filter::new(text).unwrap(), key(index as u32), GRANTED);
        }
        assert_eq!(tree.len(), filters.len());
        for text in topics {
            let topic = Topic::new(text).unwrap();
            let mut found = Vec::new();
            tree.matches(&topic, &mut found);
            let mut found: Vec<u32> = found.into_iter().map(|(key, _)| key.index).collect();
            found.sort_unstable();
            let expected: Vec<u32> = (0..filters.len() as u32)
                .filter(|index| Filter::new(filters[*index as usize]).unwrap().matches(&topic))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
        for (index, text) in filters.iter().enumerate() {
            tree.remove(&Filter::new(text).unwrap(), key(index as u32));
        }
        assert_eq!(tree.len(), 0);
        assert!(tree.nodes[0].is_empty());
        assert_eq!(tree.free.len(), tree.nodes.len() - 1, "no level is left behind");
    }

    #[test]
    fn the_same_filter_again_replaces_the_subscription() {
        let mut tree = Tree::new();
        let filter = Filter::new("a/+").unwrap();
        tree.insert(&filter, key(7), GRANTED);
        tree.insert(&filter, key(7), Granted { qos: Qos::ExactlyOnce, ..GRANTED });
        let mut found = Vec::new();
        tree.matches(&Topic::new("a/b").unwrap(), &mut found);
        assert_eq!(found, vec![(key(7), Granted { qos: Qos::ExactlyOnce, ..GRANTED })]);
        tree.remove(&filter, key(8));
        assert_eq!(tree.len(), 1);
    }
}
