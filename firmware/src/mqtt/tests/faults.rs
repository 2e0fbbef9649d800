//! The publisher against a small model of a server, over a link that is cut at random. The real engine is put beside it in
//! the simulation; this finds most faults in a second.

extern crate std;

use super::{BOTH, QOS1, QOS2, S, connack, connected, node, publish, sent_in};
use crate::mqtt::{Event, Message, Qos, Version};
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;
use tidegate_wire::mqtt::{Kind, Packet, decode, frame, short_ack};

/// A generator of numbers that need not be good.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A server that keeps its session over connections and answers late.
#[derive(Default)]
struct Server {
    session: bool,
    unreleased: BTreeSet<u16>,
    got: Vec<u32>,
    replies: Vec<[u8; 4]>,
    stream: Vec<u8>,
}

impl Server {
    fn take(&mut self, version: Version, bytes: &[u8]) -> Vec<u8> {
        self.stream.extend_from_slice(bytes);
        let mut answer = Vec::new();
        while let Some(frame) = frame(&self.stream).unwrap().filter(|f| f.total_bytes() <= self.stream.len())
        {
            let packet: Vec<u8> = self.stream.drain(..frame.total_bytes()).collect();
            match decode(version, &packet).unwrap() {
                Packet::Connect(connect) => {
                    let present = self.session && !connect.clean_start;
                    if !present {
                        self.unreleased.clear();
                    }
                    self.session = true;
                    answer = connack(version, present, &[]);
                }
                Packet::Publish(publish) => {
                    let number: u32 = String::from_utf8_lossy(publish.payload).parse().unwrap();
                    let id = publish.packet_id.unwrap();
                    assert!(publish.dup || !self.got.contains(&number), "{number} comes again without DUP");
                    if publish.qos == QOS1 {
                        self.got.push(number);
                        self.replies.push(short_ack(Kind::PubAck, id));
                    } else {
                        if self.unreleased.insert(id.get()) {
                            self.got.push(number);
                        }
                        self.replies.push(short_ack(Kind::PubRec, id));
                    }
                }
                Packet::PubRel(ack) => {
                    self.unreleased.remove(&ack.packet_id.get());
                    self.replies.push(short_ack(Kind::PubComp, ack.packet_id));
                }
                other => assert_eq!(other, Packet::PingReq),
            }
        }
        answer
    }
}

/// Cuts, delays and pieces at random; `lose_sessions` also makes the server forget.
fn campaign(seed: u64, version: Version, qos: Qos, lose_sessions: bool) -> (Vec<u32>, Vec<u32>) {
    const MESSAGES: u32 = 60;
    let mut dice = Dice(seed * 2 + 1);
    let (mut node, mut server) = (node(version), Server::default());
    let (mut next, mut acknowledged, mut connected) = (0, Vec::new(), false);
    for round in 0..200_000_u64 {
        if acknowledged.len() == MESSAGES as usize && node.pending() == 0 {
            return (server.got, acknowledged);
        }
        if !connected {
            node.connect(round);
            (connected, server.stream, server.replies) = (true, Vec::new(), Vec::new());
            if lose_sessions && dice.one_in(2) {
                server.session = false;
            }
        }
        if next < MESSAGES && dice.one_in(3) {
            let text = next.to_string();
            next += u32::from(node.publish(&Message::new("t", text.as_bytes(), qos), next).is_ok());
        }
        let mut buffer = vec![0; 64 + dice.below(64) as usize];
        let count = node.poll_transmit(round, &mut buffer);
        // The link may lose the end of what was sent, and the connection with it.
        let cut = dice.one_in(25);
        let arrives = if cut { dice.below(count as u64 + 1) as usize } else { count };
        let mut answer = server.take(version, &buffer[..arrives]);
        while !server.replies.is_empty() && dice.one_in(3) {
            answer.extend(server.replies.remove(0));
        }
        if cut {
            answer.truncate(dice.below(answer.len() as u64 + 1) as usize);
        }
        assert_eq!(node.handle_bytes(round, &answer), answer.len());
        if cut {
            node.connection_lost();
        }
        while let Some(event) = node.poll_event() {
            match event {
                Event::Acknowledged { token } => acknowledged.push(token),
                Event::Disconnected { .. } => connected = false,
                Event::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("seed {seed} does not come to an end: {} of {MESSAGES}", acknowledged.len());
}

#[test]
fn under_random_faults_nothing_acknowledged_is_lost_and_order_holds() {
    for seed in 1..=400 {
        for version in BOTH {
            let (got, acknowledged) = campaign(seed, version, QOS1, seed % 2 == 0);
            assert_eq!(acknowledged, (0..60).collect::<Vec<_>>(), "seed {seed}");
            let mut first = Vec::new();
            got.iter().for_each(|n| {
                if !first.contains(n) {
                    first.push(*n);
                }
            });
            assert_eq!(first, acknowledged, "seed {seed}: order of first arrival");
        }
    }
}

#[test]
fn under_random_faults_qos_2_arrives_exactly_once() {
    for seed in 1..=400 {
        for version in BOTH {
            let (got, acknowledged) = campaign(seed, version, QOS2, false);
            assert_eq!(got, (0..60).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(acknowledged, got, "seed {seed}");
        }
    }
}

#[test]
fn arbitrary_bytes_never_panic_nor_hang() {
    let mut dice = Dice(99);
    for round in 0..20_000_u64 {
        let mut node = node(BOTH[(round % 2) as usize]);
        connected(&mut node, false);
        publish(&mut node, "a", QOS2, 1);
        let mut stream: Vec<u8> = (0..dice.below(60)).map(|_| dice.below(256) as u8).collect();
        if let [first, second, ..] = &mut stream[..] {
            (*first, *second) = (*first & 0xF0 | [0, 2][usize::from(*first >> 4 == 6)], *second % 20);
        }
        let _ = node.handle_bytes(round, &stream);
        for _ in 0..100 {
            if node.poll_event().is_none() {
                break;
            }
        }
        let _ = sent_in(&mut node, round, 7);
        node.handle_timeout(round + 200 * S);
    }
}
