//! M19: the gateway dies between PUBREC and PUBREL (EMQX CVE-2026-8741). The one case in which the process does not go on: what
//! an honest device was told before holds nevertheless, and the message is there once.

use crate::rule::nothing_lost;
use tidegate_tests::attacks::{Arena, Case, SOON, Setting};
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::Hello;
use tidegate_tests::wait::wait_for;
use tidegate_wire::mqtt::{Ack, Packet, PacketId, Qos, Version};

pub(crate) const ID: &str = "M19";

const CASE: Case = Case {
    id: ID,
    name: "a crash between PUBREC and PUBREL",
    setting: Setting::plain,
    attack: |_| Box::pin(async {}),
    counted: &[],
    audited: &[],
};

const CRASHES: usize = 5;

#[test]
fn a_crash_between_pubrec_and_pubrel_makes_no_second_message() {
    let mut arena = Arena::start(&CASE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut acknowledged = Vec::new();
    for version in [Version::V3_1_1, Version::V5] {
        let payload = format!("once, {version:?}");
        for life in 0..=CRASHES {
            let bystander = arena.bystander();
            let served = || (bystander.acknowledged() >= 20).then_some(());
            assert!(wait_for(SOON, served).is_some(), "{}", arena.gateway.log());
            runtime.block_on(sent(&arena, version, &payload, life));
            let repeated = "tidegate_repeated_messages_total{protocol=\"mqtt\"}";
            assert!(life == 0 || arena.gateway.metric(repeated) >= 1.0, "it is counted");
            acknowledged.extend(bystander.finish());
            arena.gateway.kill();
            arena.gateway.start_again();
        }
        runtime.block_on(released(&arena, version));
        acknowledged.push(payload);
    }
    let all = || (arena.gateway.upstream_lines().len() >= acknowledged.len()).then_some(());
    assert!(wait_for(SOON, all).is_some());
    nothing_lost(&arena.gateway, &acknowledged);
    for version in [Version::V3_1_1, Version::V5] {
        let payload = format!("once, {version:?}");
        let lines = arena.gateway.upstream_lines();
        let ids: std::collections::BTreeSet<_> = lines
            .iter()
            .filter(|line| line["payload"] == payload.as_str())
            .map(|line| line["id"].to_string())
            .collect();
        assert_eq!(ids.len(), 1, "one message, however often its row was sent: {ids:?}");
    }
    assert!(!arena.gateway.log().contains("panicked"), "{}", arena.gateway.log());
}

fn id() -> PacketId {
    PacketId::new(7).unwrap()
}

fn client(version: Version) -> String {
    format!("crashes-{}", version as u8)
}

async fn sent(arena: &Arena, version: Version, payload: &str, life: usize) {
    let client = client(version);
    let (mut link, present) =
        Link::connect(arena.gateway.mqtt, &Hello::lasting(version, &client)).await.unwrap();
    assert_eq!(present, life > 0);
    link.put_publish("bystander/once", payload.as_bytes(), Qos::ExactlyOnce, id(), life > 0, false);
    link.flush().await.unwrap();
    let read = |packet: Packet<'_>| matches!(packet, Packet::PubRec(ack) if !ack.reason.is_failure());
    assert_eq!(link.next(SOON, read).await.unwrap(), Some(true));
}

async fn released(arena: &Arena, version: Version) {
    let client = client(version);
    let (mut link, _) = Link::connect(arena.gateway.mqtt, &Hello::lasting(version, &client)).await.unwrap();
    link.put(&Packet::PubRel(Ack::success(id())));
    link.flush().await.unwrap();
    let read = |packet: Packet<'_>| matches!(packet, Packet::PubComp(ack) if !ack.reason.is_failure());
    assert_eq!(link.next(SOON, read).await.unwrap(), Some(true));
}
