//! From devices through a gateway that packs to a consumer behind RabbitMQ: everything once and in order without faults, nothing lost and
//! every repetition marked when the broker or the gateway is taken away in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tidegate_tests::outage::{Fault, Scene};

/// One routing key for all, or each device would fill batches of its own.
const ROUTE: &str =
    "routing_key = \"readings\"\nbatch = { max_messages = 50, linger = \"20 ms\" }\ncompress = \"zstd\"";

/// How many messages came in batches, and in how many.
fn batched(scene: &Scene) -> (usize, usize) {
    let all = scene.consumer.from(0);
    let packed: Vec<_> = all.iter().filter_map(|received| received.batch.as_deref()).collect();
    (packed.len(), packed.chunk_by(|one, next| one == next).count())
}

#[test]
fn every_message_arrives_once_and_in_order_in_batches() {
    for durability in ["relay", "disk"] {
        for format in ["json", "senml", "length-prefixed"] {
            let route = ROUTE.replace("linger", &format!("format = \"{format}\", linger"));
            let mut scene = Scene::with_route(durability, &route);
            let plan = scene.plan(20, 2_000);
            let outcome = scene.broker_outages(&plan, &[]);
            println!("{durability}, {format}: {outcome}");
            assert!(outcome.is_sound(), "{durability}: {outcome}\n{}", scene.gateway.log());
            assert_eq!(outcome.ledger.repeated_marked, 0, "{durability}: {outcome}");
            let (messages, batches) = batched(&scene);
            assert_eq!(messages, plan.messages());
            assert!(batches * 4 <= messages, "{messages} messages in {batches} batches");
        }
    }
}

#[test]
fn what_is_acknowledged_survives_a_broker_that_is_taken_away_in_the_middle_of_batches() {
    for durability in ["relay", "disk"] {
        let mut scene = Scene::with_route(durability, ROUTE);
        let plan = scene.plan(20, 9_000);
        let outcome = scene.broker_outages(&plan, &[Fault::Kill, Fault::Freeze, Fault::Block, Fault::Stop]);
        println!("{durability}: {outcome}");
        assert!(outcome.is_sound(), "{durability}: {outcome}\n{}", scene.gateway.log());
    }
}

#[test]
fn what_is_acknowledged_survives_a_gateway_that_is_killed_in_the_middle_of_batches() {
    for durability in ["relay", "disk"] {
        let mut scene = Scene::with_route(durability, ROUTE);
        let plan = scene.plan(20, 6_000);
        let outcome = scene.gateway_kills(&plan, 4);
        println!("{durability}: {outcome}");
        assert!(outcome.is_sound(), "{durability}: {outcome}\n{}", scene.gateway.log());
    }
}
