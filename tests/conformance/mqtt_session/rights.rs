//! Rights against an independent reference: topics and filters are made up at random, asked of the real sessions in packets, and held
//! against what counting every topic of a small world says. `TIDEGATE_PROBES` sets how many probes.

use crate::world::{Client, Hello, World, message, setup};
use std::collections::BTreeSet;
use tidegate_engine::event::{Anonymous, DeviceSetup, Setup};
use tidegate_engine::id::DeviceId;
use tidegate_engine::topic::Filter;
use tidegate_wire::mqtt::{Qos, Subscription, Version};

/// So many in a short run; a long one takes a million.
const PROBES: u64 = 100_000;
/// Probes of one set of rights.
const PROBES_A_WORLD: u64 = 200;

const NAMES: [&str; 4] = ["a", "b", "", "$s"];
/// Deeper than any filter made here, so that what `#` stands for is seen.
const DEEPEST: usize = 4;

/// A filter as a pattern over characters, matched by backtracking over the text: nothing in common with the engine's way.
fn named(filter: &str, topic: &str) -> bool {
    fn rest(filter: &[u8], topic: &[u8], start: bool) -> bool {
        match (filter.first(), topic.first()) {
            (None, None) => true,
            (Some(b'#'), _) => true,
            (Some(b'/'), None) => filter == b"/#",
            (Some(b'+'), Some(b'/')) | (Some(b'+'), None) => rest(&filter[1..], topic, false),
            (Some(b'+'), Some(b'$')) if start => false,
            (Some(b'+'), Some(_)) => rest(filter, &topic[1..], false),
            (Some(a), Some(b)) if a == b => rest(&filter[1..], &topic[1..], false),
            _ => false,
        }
    }
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    rest(filter.as_bytes(), topic.as_bytes(), true)
}

/// Every topic of the world: of the names, and of one that no filter has.
fn topics() -> Vec<String> {
    let mut all = vec![String::new()];
    let mut found = BTreeSet::new();
    for depth in 0..DEEPEST {
        let mut longer = Vec::new();
        for front in &all {
            for name in NAMES.iter().chain(&["z"]) {
                let topic = if depth == 0 { (*name).to_owned() } else { format!("{front}/{name}") };
                if !topic.is_empty() {
                    found.insert(topic.clone());
                }
                longer.push(topic);
            }
        }
        all = longer;
    }
    found.into_iter().collect()
}

fn filter(rng: &mut fastrand::Rng) -> String {
    loop {
        let depth = rng.usize(1..DEEPEST);
        let mut levels: Vec<&str> = (0..depth)
            .map(|_| if rng.u8(..4) == 0 { "+" } else { NAMES[rng.usize(..NAMES.len())] })
            .collect();
        if rng.u8(..3) == 0 {
            levels.pop();
            levels.push("#");
        }
        let text = levels.join("/");
        if !text.is_empty() {
            return text;
        }
    }
}

fn some(rng: &mut fastrand::Rng) -> Vec<String> {
    (0..rng.usize(..4)).map(|_| filter(rng)).collect()
}

fn parsed(texts: &[String]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::new(text).unwrap()).collect()
}

fn probe(
    world: &mut World,
    device: Client,
    local: Client,
    rng: &mut fastrand::Rng,
    rights: &Rights,
    all: &[String],
) {
    match rng.u8(..3) {
        0 => {
            let topic = &all[rng.usize(..all.len())];
            // `$…` is the gateway's.
            let refused = if topic.starts_with('$') { " 0x90" } else { " 0x87" };
            let allowed = !topic.starts_with('$') && rights.publish.iter().any(|filter| named(filter, topic));
            world.publish(device, message(topic, Qos::AtLeastOnce, 1));
            world.all_safe();
            let expected = format!("PUBACK 1{}", if allowed { "" } else { refused });
            assert_eq!(world.said(device), [expected], "publish {topic:?} with {:?}", rights.publish);
        }
        1 => {
            let wish = filter(rng);
            let shared = rng.bool();
            let asked = if shared { format!("$share/g/{wish}") } else { wish.clone() };
            let allowed = all
                .iter()
                .any(|topic| named(&wish, topic) && rights.subscribe.iter().any(|right| named(right, topic)));
            world.subscribe(device, 2, &[Subscription::new(&asked, Qos::AtMostOnce)]);
            let code = if allowed { 0 } else { 0x87 };
            assert_eq!(
                world.said(device),
                [format!("SUBACK 2 [{code}]")],
                "{asked:?} with {:?}",
                rights.subscribe
            );
            world.unsubscribe(device, 3, &[&asked]);
            world.said(device);
        }
        _ => {
            let wish = filter(rng);
            let topic = &all[rng.usize(..all.len())];
            if topic.starts_with('$') {
                return; // Nobody publishes there.
            }
            world.subscribe(device, 4, &[Subscription::new(&wish, Qos::AtMostOnce)]);
            world.said(device);
            let allowed = named(&wish, topic) && rights.subscribe.iter().any(|right| named(right, topic));
            world.relay(local, message(topic, Qos::AtLeastOnce, 5));
            let count = world.said(device).len();
            assert_eq!(count, usize::from(allowed), "{topic:?} to {wish:?} with {:?}", rights.subscribe);
            world.unsubscribe(device, 6, &[&wish]);
            world.said(device);
        }
    }
}

struct Rights {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

#[test]
fn every_decision_is_the_reference_models() {
    let probes = std::env::var("TIDEGATE_PROBES").ok().and_then(|text| text.parse().ok()).unwrap_or(PROBES);
    let all = topics();
    for seed in 0..probes.div_ceil(PROBES_A_WORLD) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rights = Rights { publish: some(&mut rng), subscribe: some(&mut rng) };
        let device = DeviceSetup {
            id: DeviceId::new("d").unwrap(),
            publish: parsed(&rights.publish),
            subscribe: parsed(&rights.subscribe),
            secret: None,
            certificate: None,
            oscore: None,
            psk: false,
        };
        let mut world =
            World::with(Setup { anonymous: Anonymous::Loopback, devices: vec![device], ..setup() });
        let device = world.connect(&Hello::new(Version::V5, "d"), false);
        let local = world.connect(&Hello::new(Version::V5, "local"), false);
        for _ in 0..PROBES_A_WORLD {
            probe(&mut world, device, local, &mut rng, &rights, &all);
            world.notices.clear();
            world.said(local);
        }
    }
}
