//! Who wants which topics: a tree of topic levels in which matching costs as much as the topic has levels, however
//! many filters there are. Owns nothing of a session but its handle and what was granted; knows no packets.
//! Deterministic, and safe against names chosen by an attacker: the hash of a level has a key.

mod edges;

use super::slab::SessionKey;
use crate::message::Qos;
use crate::topic::{Filter, Topic};
use edges::Edges;
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

/// A group of a shared subscription that a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey(u32);

/// Everybody whom a message is for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What matches, in the tree's order: a session perhaps several times.
    matches: Vec<Match>,
    /// For each match the next of the same session, or [`NO_MORE`].
    next: Vec<u32>,
    /// The first match of each session.
    firsts: Vec<u32>,
    /// By the session's index its last match. What earlier messages have left here is told by its key.
    lasts: Vec<u32>,
    /// Groups, each of which gets it once.
    pub(super) groups: Vec<GroupKey>,
}

const NO_MORE: u32 = u32::MAX;

impl Found {
    fn clear(&mut self) {
        self.matches.clear();
        self.next.clear();
        self.firsts.clear();
        self.groups.clear();
    }

    /// Brings the matches of each session together. Sorting them would cost more than all the rest, where fifty clients have
    /// every combination of wildcards.
    fn gather(&mut self) {
        for (at, (key, _)) in (0..).zip(&self.matches) {
            let index = key.index as usize;
            if self.lasts.len() <= index {
                self.lasts.resize(index + 1, NO_MORE);
            }
            let last = std::mem::replace(&mut self.lasts[index], at) as usize;
            let known = self.matches.get(last).is_some_and(|(other, _)| other == key);
            match self.next.get_mut(last).filter(|_| known) {
                Some(next) => *next = at,
                None => self.firsts.push(at),
            }
            self.next.push(NO_MORE);
        }
    }

    /// Every session once, with all that it was granted.
    pub(super) fn sessions(
        &self,
    ) -> impl ExactSizeIterator<Item = (SessionKey, impl Iterator<Item = &Granted>)> {
        self.firsts.iter().map(|first| {
            let (key, _) = self.matches[*first as usize];
            let granted = std::iter::successors(
                self.matches.get(*first as usize).map(|found| (*first, found)),
                |(at, _)| {
                    let next = *self.next.get(*at as usize)?;
                    self.matches.get(next as usize).map(|found| (next, found))
                },
            );
            (key, granted.map(|(_, (_, granted))| granted))
        })
    }
}

/// The sessions that share a subscription (MQTT 5.0, 4.8.2).
#[derive(Debug)]
pub(super) struct Group {
    /// `$share/NAME/FILTER`.
    pub(super) filter: Filter,
    /// Ascending by session; never empty.
    pub(super) members: Vec<Match>,
    /// The place of the member whose turn is next.
    pub(super) turn: usize,
}

const ROOT: u32 = 0;

/// All subscriptions of all sessions.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    edges: Edges,
    groups: Vec<Option<Group>>,
    free_groups: Vec<u32>,
    /// Groups by their whole filter.
    shared: BTreeMap<Filter, GroupKey>,
    count: usize,
    shared_count: usize,
}

/// One level of a filter. Node numbers are indices into [`Tree::nodes`]; [`ROOT`] is nobody's child.
#[derive(Debug, Default)]
struct Node {
    label: Label,
    parent: u32,
    /// The child that stands for `+`, or [`ROOT`].
    any: u32,
    /// Children with a name.
    children: u32,
    /// Filters that end here, ascending by session.
    here: Vec<Match>,
    /// Filters that end here with `/#`.
    below: Vec<Match>,
    groups: Option<Box<Groups>>,
}

/// Groups whose filter ends at a node.
#[derive(Debug, Default)]
struct Groups {
    here: Vec<GroupKey>,
    /// With `/#`.
    below: Vec<GroupKey>,
}

/// A level's name; one of the usual length stands in the node itself.
#[derive(Debug)]
enum Label {
    Short(u8, [u8; Label::SHORT]),
    Long(Box<str>),
}

impl Label {
    const SHORT: usize = 22;

    fn new(text: &str) -> Self {
        let mut short = [0; Self::SHORT];
        match (short.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(text.as_bytes());
                Self::Short(length, short)
            }
            _ => Self::Long(text.into()),
        }
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Short(length, short) => short.get(..usize::from(*length)) == Some(text.as_bytes()),
            Self::Long(long) => **long == *text,
        }
    }
}

impl Default for Label {
    fn default() -> Self {
        Self::Short(0, [0; Self::SHORT])
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children == 0
            && self.any == ROOT
            && self.here.is_empty()
            && self.below.is_empty()
            && self.groups.is_none()
    }
}

/// The filter of a shared subscription without `$share/NAME/`; of any other the whole.
pub(super) fn unshared(filter: &Filter) -> &str {
    let share = filter.as_str().strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    share.map_or(filter.as_str(), |(_, rest)| rest)
}

pub(super) fn is_shared(filter: &Filter) -> bool {
    filter.as_str().starts_with("$share/")
}

/// A filter's levels without `$share/NAME` and without a last `#`, and whether there was one.
fn levels(filter: &Filter) -> (impl Iterator<Item = &str>, bool) {
    let text = unshared(filter);
    let below = text == "#" || text.ends_with("/#");
    (text.split('/').filter(|level| *level != "#"), below)
}

impl Tree {
    /// An empty tree; `secret` keeps who chooses names from choosing where they go.
    pub(super) fn new(secret: u64) -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            edges: Edges::new(secret),
            groups: Vec::new(),
            free_groups: Vec::new(),
            shared: BTreeMap::new(),
            count: 0,
            shared_count: 0,
        }
    }

    /// Subscriptions in all.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Shared ones among them.
    pub(super) fn shared_len(&self) -> usize {
        self.shared_count
    }

    /// Adds a subscription, or replaces what the session had for this very filter [MQTT-3.8.4-3].
    pub(super) fn insert(&mut self, filter: &Filter, session: SessionKey, granted: Granted) {
        let shared = is_shared(filter);
        let list = if shared {
            let Some(group) = self.join(filter) else { return };
            &mut group.members
        } else {
            let (at, below) = self.grow_to(filter);
            let Some(node) = self.nodes.get_mut(at as usize) else { return };
            if below { &mut node.below } else { &mut node.here }
        };
        match list.binary_search_by_key(&session, |(key, _)| *key) {
            Ok(found) => list[found].1 = granted,
            Err(place) => {
                list.insert(place, (session, granted));
                self.count += 1;
                self.shared_count += usize::from(shared);
            }
        }
    }

    /// The group of a filter, which is made if there is none.
    fn join(&mut self, filter: &Filter) -> Option<&mut Group> {
        let key = match self.shared.get(filter) {
            Some(key) => *key,
            None => {
                let (at, below) = self.grow_to(filter);
                let key = self.free_groups.pop().unwrap_or_else(|| {
                    self.groups.push(None);
                    u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
                });
                *self.groups.get_mut(key as usize)? =
                    Some(Group { filter: filter.clone(), members: Vec::new(), turn: 0 });
                let key = GroupKey(key);
                self.shared.insert(filter.clone(), key);
                let groups = self.nodes.get_mut(at as usize)?.groups.get_or_insert_default();
                if below {
                    groups.below.push(key)
                } else {
                    groups.here.push(key)
                }
                key
            }
        };
        self.groups.get_mut(key.0 as usize)?.as_mut()
    }

    /// Removes a session's subscription for this filter.
    pub(super) fn remove(&mut self, filter: &Filter, session: SessionKey) {
        let (names, below) = levels(filter);
        let mut at = ROOT;
        for level in names {
            let Some(child) = self.child(at, level) else { return };
            at = child;
        }
        if is_shared(filter) {
            self.leave(filter, session, at, below);
        } else if let Some(node) = self.nodes.get_mut(at as usize) {
            let list = if below { &mut node.below } else { &mut node.here };
            if let Ok(found) = list.binary_search_by_key(&session, |(key, _)| *key) {
                list.remove(found);
                self.count -= 1;
            }
        }
        self.prune(at);
    }

    fn leave(&mut self, filter: &Filter, session: SessionKey, at: u32, below: bool) {
        let Some(key) = self.shared.get(filter).copied() else { return };
        let Some(Some(group)) = self.groups.get_mut(key.0 as usize) else { return };
        let Ok(found) = group.members.binary_search_by_key(&session, |(key, _)| *key) else { return };
        group.members.remove(found);
        self.count -= 1;
        self.shared_count -= 1;
        if !group.members.is_empty() {
            // Whose turn it was stays next.
            group.turn -= usize::from(group.turn > found);
            return;
        }
        self.shared.remove(filter);
        self.groups[key.0 as usize] = None;
        self.free_groups.push(key.0);
        if let Some(node) = self.nodes.get_mut(at as usize)
            && let Some(groups) = &mut node.groups
        {
            let list = if below { &mut groups.below } else { &mut groups.here };
            list.retain(|other| *other != key);
            if groups.here.is_empty() && groups.below.is_empty() {
                node.groups = None;
            }
        }
    }

    /// Takes away levels that lead nowhere any more, from the end.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.node(at).is_some_and(Node::is_empty) {
            let node = std::mem::take(&mut self.nodes[at as usize]);
            let parent = &mut self.nodes[node.parent as usize];
            if parent.any == at {
                parent.any = ROOT;
            } else {
                parent.children -= 1;
                let hash = match &node.label {
                    Label::Short(length, short) => {
                        let text = short.get(..usize::from(*length)).unwrap_or_default();
                        self.edges.hash(node.parent, std::str::from_utf8(text).unwrap_or_default())
                    }
                    Label::Long(long) => self.edges.hash(node.parent, long),
                };
                self.edges.remove(hash, at);
            }
            self.free.push(at);
            at = node.parent;
        }
    }

    /// Finds everybody with a subscription whose filter names the topic.
    pub(super) fn matches(&self, topic: &Topic, found: &mut Found) {
        found.clear();
        if self.count > 0 {
            // A leading wildcard does not see topics that begin with `$` [MQTT-4.7.2-1].
            self.walk(ROOT, Some(topic.as_str()), !topic.as_str().starts_with('$'), found);
            found.gather();
        }
    }

    /// The depth of the recursion is that of the deepest filter, which the limit on topic levels bounds.
    fn walk(&self, at: u32, rest: Option<&str>, wildcards: bool, found: &mut Found) {
        let Some(node) = self.node(at) else { return };
        if wildcards {
            // `a/#` names `a` itself, too (MQTT 5.0, 4.7.1.2).
            found.matches.extend_from_slice(&node.below);
            if let Some(groups) = &node.groups {
                found.groups.extend_from_slice(&groups.below);
            }
        }
        let Some(rest) = rest else {
            found.matches.extend_from_slice(&node.here);
            if let Some(groups) = &node.groups {
                found.groups.extend_from_slice(&groups.here);
            }
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if node.children > 0
            && let Some(child) = self.named(at, level)
        {
            self.walk(child, rest, true, found);
        }
        if wildcards && node.any != ROOT {
            self.walk(node.any, rest, true, found);
        }
    }

    /// Whether a filter begins with this level.
    pub(super) fn has_root(&self, level: &str) -> bool {
        self.named(ROOT, level).is_some()
    }

    /// A group that [`Tree::matches`] found.
    pub(super) fn group_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        self.groups.get_mut(key.0 as usize)?.as_mut()
    }

    /// The group of a shared subscription.
    pub(super) fn group_of(&self, filter: &Filter) -> Option<GroupKey> {
        self.shared.get(filter).copied()
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn named(&self, parent: u32, level: &str) -> Option<u32> {
        let is_it =
            |child: u32| self.node(child).is_some_and(|node| node.parent == parent && node.label.is(level));
        self.edges.find(self.edges.hash(parent, level), is_it)
    }

    fn child(&self, at: u32, level: &str) -> Option<u32> {
        if level == "+" {
            self.node(at).map(|node| node.any).filter(|any| *any != ROOT)
        } else {
            self.named(at, level)
        }
    }

    /// The node of a filter, which is made if there is none; and whether the filter ends with `/#`.
    fn grow_to(&mut self, filter: &Filter) -> (u32, bool) {
        let (levels, below) = levels(filter);
        let mut at = ROOT;
        for level in levels {
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.grow(at, level),
            };
        }
        (at, below)
    }

    fn grow(&mut self, parent: u32, level: &str) -> u32 {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
        });
        let node = &mut self.nodes[child as usize];
        node.parent = parent;
        if level == "+" {
            self.nodes[parent as usize].any = child;
        } else {
            node.label = Label::new(level);
            self.nodes[parent as usize].children += 1;
            self.edges.insert(self.edges.hash(parent, level), child);
        }
        child
    }
}

#[cfg(test)]
mod tests;
