//! Those who come in numbers: wills, sessions, takeovers and messages without end.

use super::{ATTACKER, Arena, Case, PREFIX, SOON, Setting};
use crate::fleet::{Fleet, Plan};
use crate::link::Link;
use crate::mqtt::{Hello, will};
use crate::wait::wait_for;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_wire::mqtt::{
    Packet, PacketId, Properties, Property, Qos, Subscribe, Subscription, Subscriptions, Version,
};

pub(super) const M28: Case = Case {
    id: "M28",
    name: "wills as a weapon: connect and abort, delays without end, topics that are not one's own",
    setting: |arena| Setting::of(&arena.device("mortal", "publish = [\"mortal/#\"]")),
    attack: |arena| Box::pin(wills(arena)),
    counted: &[
        ("tidegate_refusals_total{reason=\"connection rate exceeded\"}", 1_900.0),
        ("tidegate_refusals_total{reason=\"topic name invalid\"}", 3.0),
        ("tidegate_publishes_denied_total{protocol=\"mqtt\"}", 1.0),
    ],
    audited: &[("denied", 1)],
};

async fn wills(arena: &Arena) {
    for topic in ["$CONTROL/x", "$SYS/x", "$share/g/x"] {
        let hello = Hello { will: Some(will(topic, &[])), ..Hello::new(Version::V5, "nobody") };
        assert_eq!(arena.greet(&hello).await.1, Some(0x90));
    }
    let mortal = || Hello::new(Version::V5, "mortal").proving("mortal", arena.password());
    let hello = Hello { will: Some(will("secret/\u{202E}", &[])), ..mortal() };
    assert_eq!(arena.greet(&hello).await.1, Some(0x87), "another's topic");
    let delay = [Property::WillDelay(u32::MAX)];
    let hello = Hello {
        clean: false,
        will: Some(will("mortal/gone", &delay)),
        ..mortal().with(Property::SessionExpiry(u32::MAX))
    };
    let (before, mut accepted) = (arena.strangers(), 0);
    for round in 0..2_000 {
        let hello = if round % 2 == 0 {
            hello.clone()
        } else {
            Hello { will: Some(will("mortal/gone", &[])), ..mortal() }
        };
        let (_, answer) = arena.greet(&hello).await;
        match answer {
            Some(0) => accepted += 1,
            refused => assert_eq!(refused, Some(0x9F)),
        }
    }
    assert!(accepted < 100, "{accepted} of 2,000 were let in");
    assert!(arena.strangers() - before <= f64::from(accepted), "no more wills than were accepted");
}

pub(super) const M29: Case = Case {
    id: "M29",
    name: "sessions that are hoarded",
    setting: |arena| Setting::of(&format!("[limits]\nsessions = 2000\n{}", arena.device("hoarder", ""))),
    attack: |arena| Box::pin(hoard(arena)),
    counted: &[("tidegate_refusals_total{reason=\"quota exceeded\"}", 3_000.0)],
    audited: &[],
};

async fn hoard(arena: &Arena) {
    // One identity under many names, then many names that are nobody's.
    for (count, most, hoarder) in [(500, 64, true), (5_000, 2_000, false)] {
        let mut accepted = 0;
        for number in 0..count {
            let id = if hoarder { format!("hoarder@{number}") } else { format!("nobody-{number}") };
            let hello = Hello { clean: false, ..Hello::new(Version::V5, &id) }
                .with(Property::SessionExpiry(u32::MAX));
            let hello = if hoarder { hello.proving("hoarder", arena.password()) } else { hello };
            match arena.greet(&hello).await.1 {
                Some(0) => accepted += 1,
                refused => assert_eq!(refused, Some(0x97)),
            }
        }
        assert!(accepted <= most, "{accepted}");
    }
    assert!(arena.gateway.metric("tidegate_sessions") <= 2_000.0);
}

/// Clients that fight for one identifier, and how often each tries.
const FIGHTERS: usize = 8;
const ROUNDS: usize = 60;

pub(super) const M30: Case = Case {
    id: "M30",
    name: "a storm of takeovers with subscriptions and messages in between (CVE-2026-22040, CVE-2025-59946)",
    setting: |_| Setting::of("[limits]\ntakeovers_per_minute = 40\n"),
    attack: |arena| Box::pin(storm(arena)),
    counted: &[
        ("tidegate_refusals_total{reason=\"session taken over\"}", 20.0),
        ("tidegate_refusals_total{reason=\"connection rate exceeded\"}", 20.0),
    ],
    audited: &[("taken over", 20)],
};

/// What was acknowledged in between is kept: it goes upstream with the bystander's.
async fn storm(arena: &Arena) {
    let life = fastrand::u32(..);
    let fighters: Vec<_> =
        (0..FIGHTERS).map(|number| tokio::spawn(fight(arena.gateway.mqtt, life, number))).collect();
    let mut acknowledged = Vec::new();
    for fighter in fighters {
        acknowledged.extend(fighter.await.expect("it fights to the end"));
    }
    assert!(acknowledged.len() >= 10, "{} acknowledged", acknowledged.len());
    let lost = || {
        let lines = arena.gateway.upstream_lines();
        let arrived: BTreeSet<_> = lines.iter().filter_map(|line| line["payload"].as_str()).collect();
        acknowledged.iter().filter(|payload| !arrived.contains(payload.as_str())).count()
    };
    assert_eq!(lost(), 0, "acknowledged in the storm, and lost");
}

async fn fight(address: SocketAddr, life: u32, number: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let version = if number.is_multiple_of(2) { Version::V5 } else { Version::V3_1_1 };
        let hello = Hello::lasting(version, "crown");
        let Ok(mut link) = Link::open_from(ATTACKER, address, version).await else { continue };
        // Now and then it leaves the others a moment, on a connection on which it has said nothing yet.
        let _ = link.next(Duration::from_millis(fastrand::u64(0..40)), |packet| packet.kind()).await;
        if super::greet(&mut link, &hello).await != Some(0) {
            continue;
        }
        let filter = format!("crown/{}", round % 4);
        let subscriptions = [Subscription::new(&filter, Qos::ExactlyOnce)];
        link.put(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(7).expect("an id"),
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&subscriptions),
        }));
        let payload = format!("fighter {life} {number} round {round}");
        let id = u16::try_from(number * ROUNDS + round + 1).ok().and_then(PacketId::new).expect("an id");
        let topic = format!("{PREFIX}/crown");
        link.put_publish(&topic, payload.as_bytes(), Qos::AtLeastOnce, id, false, false);
        let other = PacketId::new(40_000).expect("an id");
        link.put_publish(&filter, b"to itself", Qos::ExactlyOnce, other, false, false);
        if link.flush().await.is_err() {
            continue;
        }
        // Until its own acknowledgement comes, or the next one takes over.
        let read = |packet: Packet<'_>| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id);
        while let Ok(Some(mine)) = link.next(Duration::from_secs(2), read).await {
            if mine {
                acknowledged.push(payload);
                break;
            }
        }
        // Whoever is in stays for a while, so that the next one takes over.
        let _ = link.next(Duration::from_millis(fastrand::u64(0..40)), |packet| packet.kind()).await;
    }
    acknowledged
}

pub(super) const M32: Case = Case {
    id: "M32",
    name: "many times more QoS 1 messages than can be made safe",
    setting: |_| {
        let tight = "[limits]\npacket_size = \"1 KiB\"\nunsafe_size = \"64 KiB\"\n";
        Setting::of(&format!("{tight}[[route]]\ntopic = \"sensors/#\"\ndurability = \"disk\"\n"))
    },
    attack: |arena| {
        Box::pin(async move {
            let address = arena.gateway.mqtt;
            let plan = Plan { address, devices: 60, messages_each: 1_000, window: 32, payload_bytes: 128 };
            let before = arena.gateway.metric("tidegate_messages_accepted_total");
            let fleet = Fleet::start(plan.clone());
            fleet.allow(plan.messages());
            let all = wait_for(4 * SOON, || (fleet.acknowledged() == plan.messages()).then_some(()));
            assert!(all.is_some(), "{} of {} acknowledged", fleet.acknowledged(), plan.messages());
            assert_eq!(
                (fleet.disordered(), fleet.reconnects()),
                (0, 0),
                "in order, and nobody was sent away"
            );
            let accepted = arena.gateway.metric("tidegate_messages_accepted_total") - before;
            let acknowledged = u32::try_from(fleet.acknowledged()).expect("few enough");
            assert!(accepted >= f64::from(acknowledged), "what is acknowledged was accepted");
        })
    },
    counted: &[
        ("tidegate_received_messages_total{protocol=\"mqtt\"}", 60_000.0),
        ("tidegate_holds_total", 1.0),
    ],
    audited: &[],
};
