//! The tree against the filters themselves, and the groups.

use super::{Found, Granted, Tree, unshared};
use crate::message::Qos;
use crate::session::mqtt::slab::SessionKey;
use crate::topic::{Filter, Topic};
use std::num::NonZeroU32;

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

fn found(tree: &Tree, topic: &str) -> Found {
    let mut found = Found::default();
    tree.matches(&Topic::new(topic).unwrap(), &mut found);
    found
}

fn sessions(tree: &Tree, topic: &str) -> Vec<u32> {
    let mut sessions: Vec<u32> = found(tree, topic).matches.iter().map(|(key, _)| key.index).collect();
    sessions.sort_unstable();
    sessions
}

#[test]
fn the_tree_matches_what_the_filters_match_and_empties_again() {
    let long = "a-level-that-is-longer-than-those-that-stand-in-a-node/+";
    let filters = [
        "#", "+", "+/+", "a", "a/#", "a/+", "a/+/c", "a/b/c", "a/b/#", "/", "/+", "+/", "a//c", "$SYS/#",
        "$SYS/+", "+/b", "+/+/#", "b", long,
    ];
    let topics = [
        "a",
        "a/b",
        "a/b/c",
        "/",
        "a/",
        "/b",
        "a//c",
        "$SYS",
        "$SYS/x",
        "$SYS/x/y",
        "b/b",
        "b/b/b/b",
        "c",
        "a-level-that-is-longer-than-those-that-stand-in-a-node/x",
        "a-level-that-is-longer-than-those-that-stand-in-a-nod/x",
    ];
    let mut tree = Tree::new(1);
    for (index, text) in (0..).zip(filters) {
        tree.insert(&Filter::new(text).unwrap(), key(index), GRANTED);
        tree.insert(&Filter::new(&format!("$share/g/{text}")).unwrap(), key(index), GRANTED);
    }
    assert_eq!((tree.len(), tree.shared_len()), (2 * filters.len(), filters.len()));
    for text in topics {
        let topic = Topic::new(text).unwrap();
        let matching = |filter: &&str| Filter::new(filter).unwrap().matches(&topic);
        let expected: Vec<u32> = (0..).zip(filters).filter(|(_, f)| matching(f)).map(|(n, _)| n).collect();
        assert_eq!(sessions(&tree, text), expected, "{text}");
        let mut groups: Vec<u32> = Vec::new();
        for group in found(&tree, text).groups {
            let group = tree.group_mut(group).unwrap();
            assert!(matching(&unshared(&group.filter)));
            groups.extend(group.members.iter().map(|(key, _)| key.index));
        }
        groups.sort_unstable();
        assert_eq!(groups, expected, "{text}");
    }
    for (index, text) in (0..).zip(filters) {
        tree.remove(&Filter::new(text).unwrap(), key(index));
        tree.remove(&Filter::new(&format!("$share/g/{text}")).unwrap(), key(index));
    }
    assert_eq!((tree.len(), tree.shared_len()), (0, 0));
    assert!(tree.nodes[0].is_empty());
    assert_eq!(tree.free.len(), tree.nodes.len() - 1, "no level is left behind");
    assert_eq!((tree.shared.len(), tree.free_groups.len()), (0, tree.groups.len()), "and no group");
}

#[test]
fn the_same_filter_again_replaces_the_subscription() {
    let better = Granted { qos: Qos::ExactlyOnce, ..GRANTED };
    for text in ["a/+", "$share/g/a/+"] {
        let mut tree = Tree::new(1);
        let filter = Filter::new(text).unwrap();
        tree.insert(&filter, key(7), GRANTED);
        tree.insert(&filter, key(7), better);
        let found = found(&tree, "a/b");
        let members = match found.groups.first() {
            Some(group) => tree.group_mut(*group).unwrap().members.clone(),
            None => found.matches,
        };
        assert_eq!(members, vec![(key(7), better)]);
        tree.remove(&filter, key(8));
        assert_eq!(tree.len(), 1);
    }
}

#[test]
fn each_session_is_found_once_with_all_that_it_was_granted() {
    let mut tree = Tree::new(1);
    let numbered = |id| Granted { id: NonZeroU32::new(id), ..GRANTED };
    for (id, text) in (1..).zip(["a/b", "a/+", "+/b", "#"]) {
        for session in 0..3 {
            // The last has one only.
            if session < 2 || id == 4 {
                tree.insert(&Filter::new(text).unwrap(), key(session), numbered(id));
            }
        }
    }
    let mut found = Found::default();
    // What an earlier message has left is not taken for this one's.
    for _ in 0..2 {
        for (topic, expected) in [
            ("a/b", [vec![1, 2, 3, 4], vec![1, 2, 3, 4], vec![4]]),
            ("a/x", [vec![2, 4], vec![2, 4], vec![4]]),
            ("x", [vec![4], vec![4], vec![4]]),
        ] {
            tree.matches(&Topic::new(topic).unwrap(), &mut found);
            let mut all: Vec<_> = found
                .sessions()
                .map(|(key, granted)| {
                    let mut ids: Vec<u32> =
                        granted.filter_map(|granted| granted.id).map(NonZeroU32::get).collect();
                    ids.sort_unstable();
                    (key.index, ids)
                })
                .collect();
            all.sort_unstable();
            let expected: Vec<_> = (0..).zip(expected).collect();
            assert_eq!(all, expected, "{topic}");
        }
    }
}

#[test]
fn a_leading_dollar_is_found_when_somebody_asks_for_it() {
    let mut tree = Tree::new(1);
    assert!(!tree.has_root("$SYS"));
    tree.insert(&Filter::new("#").unwrap(), key(1), GRANTED);
    assert!(!tree.has_root("$SYS"));
    tree.insert(&Filter::new("$share/g/$SYS/#").unwrap(), key(1), GRANTED);
    assert!(tree.has_root("$SYS"));
}

#[test]
fn the_turn_of_a_group_stays_with_its_member_when_another_leaves() {
    let mut tree = Tree::new(1);
    let filter = Filter::new("$share/g/t").unwrap();
    for index in 0..4 {
        tree.insert(&filter, key(index), GRANTED);
    }
    let group = tree.group_of(&filter).unwrap();
    tree.group_mut(group).unwrap().turn = 2;
    tree.remove(&filter, key(0));
    let group = tree.group_mut(group).unwrap();
    assert_eq!(group.members[group.turn].0, key(2));
}
