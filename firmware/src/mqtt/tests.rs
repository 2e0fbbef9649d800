//! The publisher's duties one by one, against hand-written packets of a server.

extern crate std;

mod faults;

use super::{Config, Event, Message, PublishError, Publisher, Qos, Reason, ReasonCode, Session, Version};
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;
use tidegate_wire::mqtt::{
    Ack, ConnAck, Disconnect, Error, Kind, Packet, PacketId, Properties, Property, Publish, SubAck, decode,
    encode, frame, short_ack,
};

const S: u64 = 1_000_000;
type Node = Publisher<'static, 8, 1024, 256>;

fn node(version: Version) -> Node {
    Node::new(Config::new(version, "node-1"))
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn bytes(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut buffer = [0; 1024];
    let size = encode(version, packet, &mut buffer).unwrap();
    buffer[..size].to_vec()
}

fn connack(version: Version, session_present: bool, properties: &[Property<'_>]) -> Vec<u8> {
    let properties = Properties::new(properties);
    bytes(version, &Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties }))
}

/// Feeds all bytes and gives the events as text.
fn feed(node: &mut Node, now: u64, mut bytes: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let taken = node.handle_bytes(now, bytes);
        bytes = &bytes[taken..];
        let before = seen.len();
        seen.extend(events(node));
        if bytes.is_empty() || (taken == 0 && seen.len() == before) {
            return seen;
        }
    }
}

fn events(node: &mut Node) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(event) = node.poll_event() {
        seen.push(match event {
            Event::Connected { session_present } => format!("connected {session_present}"),
            Event::Acknowledged { token } => format!("acknowledged {token}"),
            Event::Refused { token, reason } => format!("refused {token} {:02X}", reason.0),
            Event::Subscribed { token, reason } => format!("subscribed {token} {:02X}", reason.0),
            Event::Message { payload, .. } => format!("message {}", String::from_utf8_lossy(payload)),
            Event::Disconnected { reason } => format!("disconnected {reason:?}"),
        });
    }
    seen
}

/// What the node sends now, in pieces of at most `piece` bytes.
fn sent_in(node: &mut Node, now: u64, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        match node.poll_transmit(now, &mut buffer) {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The packets within `stream`, each whole.
fn packets(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut list = Vec::new();
    while let Some(frame) = frame(stream).unwrap() {
        let (packet, rest) = stream.split_at(frame.total_bytes());
        list.push(packet);
        stream = rest;
    }
    assert!(stream.is_empty(), "a packet is cut");
    list
}

/// What the node sends now, as text.
fn sent(node: &mut Node, now: u64) -> Vec<String> {
    let version = node.config.version;
    let stream = sent_in(node, now, 512);
    let describe = |packet: &&[u8]| match decode(version, packet).unwrap() {
        Packet::Publish(p) => {
            let dup = if p.dup { " dup" } else { "" };
            format!("{}#{}{dup}", String::from_utf8_lossy(p.payload), p.packet_id.map_or(0, PacketId::get))
        }
        Packet::Connect(connect) => format!("connect clean={}", connect.clean_start),
        Packet::Disconnect(disconnect) => format!("disconnect {:02X}", disconnect.reason.0),
        Packet::PubAck(ack) => format!("puback {}", ack.packet_id),
        Packet::PubRec(ack) => format!("pubrec {}", ack.packet_id),
        Packet::PubRel(ack) => format!("pubrel {} {:02X}", ack.packet_id, ack.reason.0),
        Packet::PubComp(ack) => format!("pubcomp {} {:02X}", ack.packet_id, ack.reason.0),
        Packet::Subscribe(_) => "subscribe".to_string(),
        other => other.kind().name().to_string(),
    };
    packets(&stream).iter().map(describe).collect()
}

fn connected(node: &mut Node, session_present: bool) {
    connected_with(node, session_present, &[]);
}

fn connected_with(node: &mut Node, session_present: bool, properties: &[Property<'_>]) {
    let version = node.config.version;
    node.connect(0);
    assert!(sent(node, 0)[0].starts_with("connect"));
    let seen = feed(node, 0, &connack(version, session_present, properties));
    assert_eq!(seen[0], format!("connected {session_present}"));
}

fn cut(node: &mut Node) {
    node.connection_lost();
    assert_eq!(events(node), ["disconnected ConnectionLost"]);
}

fn publish(node: &mut Node, text: &str, qos: Qos, token: u32) {
    node.publish(&Message::new("t", text.as_bytes(), qos), token).unwrap();
}

const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;
const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

#[test]
fn a_message_taken_offline_is_sent_and_acknowledged() {
    for version in BOTH {
        let mut node = node(version);
        publish(&mut node, "a", QOS1, 7);
        assert_eq!(sent(&mut node, 0), [""; 0]);
        connected(&mut node, false);
        assert_eq!(sent(&mut node, 0), ["a#1"]);
        assert_eq!(sent(&mut node, 0), [""; 0], "once");
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, id(1))), ["acknowledged 7"]);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, id(1))), [""; 0], "once");
        assert_eq!(node.pending(), 0);
    }
}

#[test]
fn qos_0_needs_a_connection_and_is_forgotten_with_it() {
    let mut node = node(Version::V5);
    let message = Message::new("t", b"z", Qos::AtMostOnce);
    assert_eq!(node.publish(&message, 1), Err(PublishError::Offline));
    connected(&mut node, false);
    node.publish(&message, 1).unwrap();
    assert_eq!(sent(&mut node, 0), ["z#0"]);
    assert_eq!(node.pending(), 0);
    node.publish(&message, 2).unwrap();
    cut(&mut node);
    connected(&mut node, true);
    assert_eq!(sent(&mut node, 0), [""; 0]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_in_order_with_dup_and_only_then() {
    for session_present in [true, false] {
        for version in BOTH {
            let mut node = node(version);
            connected(&mut node, false);
            for (token, text) in ["a", "b", "c"].into_iter().enumerate() {
                publish(&mut node, text, if text == "b" { QOS2 } else { QOS1 }, token as u32);
            }
            assert_eq!(sent(&mut node, 0), ["a#1", "b#2", "c#3"]);
            assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, id(1))), ["acknowledged 0"]);
            node.handle_timeout(59 * S);
            assert_eq!(sent(&mut node, 59 * S), [""; 0], "no resend on a living connection [MQTT-4.4.0-1]");
            cut(&mut node);
            publish(&mut node, "d", QOS1, 3);
            connected(&mut node, session_present);
            assert_eq!(sent(&mut node, 0), ["b#2 dup", "c#3 dup", "d#4"]);
        }
    }
}

#[test]
fn qos_2_goes_on_with_pubrel_and_never_publishes_twice_after_pubrec() {
    for version in BOTH {
        let mut node = node(version);
        connected(&mut node, false);
        publish(&mut node, "a", QOS2, 1);
        publish(&mut node, "b", QOS2, 2);
        assert_eq!(sent(&mut node, 0), ["a#1", "b#2"]);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRec, id(1))), ["acknowledged 1"]);
        assert_eq!(sent(&mut node, 0), ["pubrel 1 00"]);
        cut(&mut node);
        connected(&mut node, true);
        assert_eq!(sent(&mut node, 0), ["pubrel 1 00", "b#2 dup"]);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubComp, id(1))), [""; 0]);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRec, id(2))), ["acknowledged 2"]);
        cut(&mut node);
        // The server lost the session: it has the message since its PUBREC, and nothing is left to release.
        connected(&mut node, false);
        assert_eq!(sent(&mut node, 0), [""; 0]);
        assert_eq!(node.pending(), 0);
    }
}

#[test]
fn a_pubrec_or_pubrel_for_nothing_is_answered() {
    for (version, code) in [(Version::V3_1_1, "00"), (Version::V5, "92")] {
        let mut node = node(version);
        connected(&mut node, false);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRec, id(9))), [""; 0]);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRel, id(8))), [""; 0]);
        assert_eq!(sent(&mut node, 0), [format!("pubrel 9 {code}"), format!("pubcomp 8 {code}")]);
    }
}

#[test]
fn a_refused_message_is_told_and_not_sent_again() {
    for (kind, qos) in [(Packet::PubAck as fn(_) -> _, QOS1), (Packet::PubRec as fn(_) -> _, QOS2)] {
        let mut node = node(Version::V5);
        connected(&mut node, false);
        publish(&mut node, "a", qos, 5);
        assert_eq!(sent(&mut node, 0), ["a#1"]);
        let refusal = kind(Ack { reason: ReasonCode::QUOTA_EXCEEDED, ..Ack::success(id(1)) });
        assert_eq!(feed(&mut node, 0, &bytes(Version::V5, &refusal)), ["refused 5 97"]);
        assert_eq!(node.pending(), 0);
        assert_eq!(sent(&mut node, 0), [""; 0]);
    }
}

#[test]
fn the_servers_receive_maximum_is_kept() {
    let mut node = node(Version::V5);
    connected_with(&mut node, false, &[Property::ReceiveMaximum(2)]);
    for (token, text) in ["a", "b", "c", "d"].into_iter().enumerate() {
        publish(&mut node, text, QOS2, token as u32);
    }
    node.publish(&Message::new("t", b"z", Qos::AtMostOnce), 9).unwrap();
    assert_eq!(sent(&mut node, 0), ["a#1", "b#2"]);
    assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRec, id(1))), ["acknowledged 0"]);
    assert_eq!(sent(&mut node, 0), ["pubrel 1 00"], "PUBREC does not give the quota back");
    assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubComp, id(1))), [""; 0]);
    assert_eq!(sent(&mut node, 0), ["c#3"]);
    cut(&mut node);
    connected_with(&mut node, true, &[Property::ReceiveMaximum(1)]);
    assert_eq!(sent(&mut node, 0), ["b#2 dup"]);
}

#[test]
fn what_the_server_says_that_it_cannot_take_is_refused_here() {
    let mut node = node(Version::V5);
    let mut retained = Message::new("t", b"r", QOS1);
    retained.retain = true;
    node.publish(&retained, 1).unwrap();
    publish(&mut node, "b", QOS2, 2);
    publish(&mut node, "longer than twenty bytes", QOS1, 3);
    publish(&mut node, "d", QOS1, 4);
    let limits =
        [Property::RetainAvailable(false), Property::MaximumQos(QOS1), Property::MaximumPacketSize(20)];
    node.connect(0);
    let _ = sent(&mut node, 0);
    assert_eq!(
        feed(&mut node, 0, &connack(Version::V5, false, &limits)),
        ["connected false", "refused 1 9A", "refused 2 9B", "refused 3 95"]
    );
    assert_eq!(sent(&mut node, 0), ["d#4"]);
}

#[test]
fn packet_identifiers_are_never_zero_nor_used_twice() {
    let mut node = node(Version::V3_1_1);
    connected(&mut node, false);
    publish(&mut node, "stays", QOS1, 0);
    assert_eq!(sent(&mut node, 0), ["stays#1"]);
    for round in 0..70_000_u32 {
        publish(&mut node, "x", QOS1, round);
        let stream = sent_in(&mut node, 0, 64);
        let Packet::Publish(packet) = decode(Version::V3_1_1, &stream).unwrap() else { panic!("a PUBLISH") };
        let used = packet.packet_id.unwrap();
        assert_ne!(used.get(), 1);
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, used)), [format!("acknowledged {round}")]);
    }
}

#[test]
fn a_full_outbox_says_so_and_has_room_again() {
    let mut node = node(Version::V3_1_1);
    for token in 0..8 {
        publish(&mut node, "x", QOS1, token);
    }
    let more = Message::new("t", b"x", QOS1);
    assert_eq!(node.publish(&more, 8), Err(PublishError::Full));
    connected(&mut node, false);
    let _ = sent(&mut node, 0);
    assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, id(3))), ["acknowledged 2"]);
    node.publish(&more, 8).unwrap();
    assert_eq!(sent(&mut node, 0), ["x#9"]);
    assert_eq!(node.publish(&Message::new("t", &[0; 1100], QOS1), 9), Err(PublishError::Full));
    let mut empty = Node::new(Config::new(Version::V3_1_1, "n"));
    assert_eq!(empty.publish(&Message::new("t", &[0; 1100], QOS1), 9), Err(PublishError::TooLarge));
    empty.publish(&Message::new("t", &[0; 900], QOS1), 9).unwrap();
    assert_eq!(empty.publish(&Message::new("t", &[0; 900], QOS1), 9), Err(PublishError::Full));
    assert_eq!(empty.publish(&Message::new("t/#", b"", QOS1), 9), Err(PublishError::Topic));
}

#[test]
fn a_quiet_connection_is_pinged_and_a_dead_one_given_up() {
    for version in BOTH {
        let mut node = node(version);
        connected(&mut node, false);
        assert_eq!(node.poll_timeout(), Some(60 * S));
        node.handle_timeout(60 * S - 1);
        assert_eq!(sent(&mut node, 60 * S - 1), [""; 0]);
        node.handle_timeout(60 * S);
        assert_eq!(sent(&mut node, 60 * S), ["PINGREQ"]);
        assert_eq!(feed(&mut node, 61 * S, &bytes(version, &Packet::PingResp)), [""; 0]);
        assert_eq!(node.poll_timeout(), Some(120 * S));
        // Sending alone does not show that the server lives.
        publish(&mut node, "a", QOS1, 1);
        assert_eq!(sent(&mut node, 119 * S), ["a#1"]);
        node.handle_timeout(121 * S);
        assert_eq!(sent(&mut node, 121 * S), ["PINGREQ"]);
        assert_eq!(node.poll_timeout(), Some(131 * S));
        node.handle_timeout(131 * S);
        assert_eq!(events(&mut node), ["disconnected Timeout"]);
        assert_eq!(node.poll_timeout(), None);
    }
}

#[test]
fn the_servers_keep_alive_goes_before_and_zero_means_none() {
    let mut node = node(Version::V5);
    connected_with(&mut node, false, &[Property::ServerKeepAlive(5)]);
    assert_eq!(node.poll_timeout(), Some(5 * S));
    cut(&mut node);
    connected_with(&mut node, false, &[Property::ServerKeepAlive(0)]);
    assert_eq!(node.poll_timeout(), None);
}

#[test]
fn a_server_that_does_not_answer_connect_is_given_up() {
    let mut node = node(Version::V5);
    node.connect(S);
    assert_eq!(node.poll_timeout(), Some(11 * S));
    let _ = sent(&mut node, S);
    node.handle_timeout(11 * S);
    assert_eq!(events(&mut node), ["disconnected Timeout"]);
    assert_eq!(sent(&mut node, 11 * S), [""; 0]);
}

#[test]
fn a_refused_connection_tells_why() {
    let reason = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
    for version in BOTH {
        let mut node = node(version);
        node.connect(0);
        let _ = sent(&mut node, 0);
        let refusal =
            Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::EMPTY });
        let expected = format!("disconnected {:?}", Reason::Refused(reason));
        assert_eq!(feed(&mut node, 0, &bytes(version, &refusal)), [expected]);
    }
}

#[test]
fn the_first_session_of_a_life_is_a_clean_one_in_5() {
    let mut node = node(Version::V5);
    node.connect(0);
    assert_eq!(sent(&mut node, 0), ["connect clean=true"]);
    let _ = feed(&mut node, 0, &connack(Version::V5, false, &[]));
    cut(&mut node);
    node.connect(0);
    assert_eq!(sent(&mut node, 0), ["connect clean=false"]);
    let mut clean = Node::new(Config { session: Session::Clean, ..Config::new(Version::V5, "n") });
    for _ in 0..2 {
        clean.connect(0);
        assert_eq!(sent(&mut clean, 0), ["connect clean=true"]);
        let _ = feed(&mut clean, 0, &connack(Version::V5, false, &[]));
        cut(&mut clean);
    }
}

#[test]
fn a_session_of_an_earlier_life_is_purged_in_3_1_1() {
    let version = Version::V3_1_1;
    let mut node = node(version);
    publish(&mut node, "a", QOS2, 1);
    for (clean, present) in [(false, true), (true, false)] {
        node.connect(0);
        assert_eq!(sent(&mut node, 0), [format!("connect clean={clean}")]);
        assert_eq!(feed(&mut node, 0, &connack(version, present, &[])), ["disconnected StaleSession"]);
        assert_eq!(sent(&mut node, 0), ["disconnect 00"]);
    }
    node.connect(0);
    assert_eq!(sent(&mut node, 0), ["connect clean=false"]);
    assert_eq!(feed(&mut node, 0, &connack(version, false, &[])), ["connected false"]);
    assert_eq!(sent(&mut node, 0), ["a#1"]);
    cut(&mut node);
    connected(&mut node, true);
    assert_eq!(sent(&mut node, 0), ["a#1 dup"]);
}

fn incoming(qos: Qos, number: u16, text: &str) -> Vec<u8> {
    let packet_id = PacketId::new(number);
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: "commands/node-1",
        packet_id,
        properties: Properties::EMPTY,
        payload: text.as_bytes(),
    };
    bytes(Version::V3_1_1, &Packet::Publish(publish))
}

#[test]
fn a_message_is_acknowledged_when_the_caller_has_taken_it() {
    let mut node = node(Version::V3_1_1);
    connected(&mut node, false);
    let _ = node.handle_bytes(0, &incoming(QOS1, 4, "on"));
    match node.poll_event() {
        Some(Event::Message { topic, payload, qos, .. }) => {
            assert_eq!((topic, payload, qos), ("commands/node-1", &b"on"[..], QOS1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(sent(&mut node, 0), [""; 0], "not yet");
    assert_eq!(events(&mut node), [""; 0]);
    assert_eq!(sent(&mut node, 0), ["puback 4"]);
    assert_eq!(feed(&mut node, 0, &incoming(Qos::AtMostOnce, 0, "fire")), ["message fire"]);
    assert_eq!(sent(&mut node, 0), [""; 0]);
}

#[test]
fn a_qos_2_message_is_shown_once_also_after_a_cut() {
    let mut node = node(Version::V3_1_1);
    connected(&mut node, false);
    assert_eq!(feed(&mut node, 0, &incoming(QOS2, 4, "on")), ["message on"]);
    cut(&mut node);
    connected(&mut node, true);
    assert_eq!(feed(&mut node, 0, &incoming(QOS2, 4, "on")), [""; 0]);
    assert_eq!(sent(&mut node, 0), ["pubrec 4"]);
    assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubRel, id(4))), [""; 0]);
    assert_eq!(sent(&mut node, 0), ["pubcomp 4 00"]);
    assert_eq!(
        feed(&mut node, 0, &incoming(QOS2, 4, "off")),
        ["message off"],
        "the identifier is free again"
    );
    cut(&mut node);
    connected(&mut node, false);
    assert_eq!(feed(&mut node, 0, &incoming(QOS2, 4, "new")), ["message new"], "a new session knows nothing");
}

#[test]
fn many_messages_at_once_wait_for_room_to_acknowledge() {
    let mut node = node(Version::V3_1_1);
    connected(&mut node, false);
    let mut stream = Vec::new();
    (1..=30).for_each(|n| stream.extend(incoming(QOS1, n, "m")));
    let (mut shown, mut acked, mut rest) = (0, 0, &stream[..]);
    while acked < 30 {
        rest = &rest[node.handle_bytes(0, rest)..];
        shown += events(&mut node).len();
        let _ = events(&mut node);
        acked += sent(&mut node, 0).len();
    }
    assert_eq!((shown, rest.len()), (30, 0));
}

#[test]
fn a_subscription_is_answered() {
    let mut node = node(Version::V5);
    assert_eq!(node.subscribe("commands/#", QOS1, 3), Err(PublishError::Offline));
    connected(&mut node, false);
    assert_eq!(node.subscribe("a/#/b", QOS1, 3), Err(PublishError::Topic));
    node.subscribe("commands/#", QOS1, 3).unwrap();
    assert_eq!(sent(&mut node, 0), ["subscribe"]);
    let suback = SubAck { packet_id: id(1), properties: Properties::EMPTY, codes: &[1] };
    assert_eq!(feed(&mut node, 0, &bytes(Version::V5, &Packet::SubAck(suback))), ["subscribed 3 01"]);
    assert_eq!(node.pending(), 0);
}

#[test]
fn a_wanted_end_says_disconnect_and_keeps_the_rest() {
    for version in BOTH {
        let mut node = node(version);
        connected(&mut node, false);
        publish(&mut node, "a", QOS1, 1);
        assert_eq!(sent(&mut node, 0), ["a#1"]);
        node.disconnect();
        assert_eq!(sent(&mut node, 0), ["disconnect 00"]);
        assert_eq!(events(&mut node), ["disconnected Requested"]);
        connected(&mut node, true);
        assert_eq!(sent(&mut node, 0), ["a#1 dup"]);
    }
}

#[test]
fn a_servers_disconnect_is_told_and_what_came_before_it_counts() {
    let mut node = node(Version::V5);
    connected(&mut node, false);
    publish(&mut node, "a", QOS1, 1);
    let _ = sent(&mut node, 0);
    let mut stream = short_ack(Kind::PubAck, id(1)).to_vec();
    let reason = ReasonCode::SERVER_SHUTTING_DOWN;
    stream.extend(bytes(Version::V5, &Packet::Disconnect(Disconnect { reason, ..Disconnect::default() })));
    let expected = format!("disconnected {:?}", Reason::ByServer(reason));
    assert_eq!(feed(&mut node, 0, &stream), ["acknowledged 1".to_string(), expected]);

    connected(&mut node, true);
    publish(&mut node, "b", QOS1, 2);
    let _ = sent(&mut node, 0);
    let _ = node.handle_bytes(0, &short_ack(Kind::PubAck, id(2)));
    node.connection_lost();
    assert_eq!(events(&mut node), ["acknowledged 2", "disconnected ConnectionLost"]);
}

#[test]
fn a_broken_server_is_told_why_in_5() {
    for (stream, reason, code) in [
        (&[0x00_u8][..], Reason::Protocol(Error::PacketType), "81"),
        (&[0xC0, 0][..], Reason::Protocol(Error::WrongSender), "82"),
        (&[0x30, 0xFF, 0x7F][..], Reason::PacketTooLarge, "95"),
        (&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 1][..], Reason::Protocol(Error::TopicAlias), "94"),
    ] {
        for version in BOTH {
            if version == Version::V3_1_1 && code == "94" {
                continue;
            }
            let mut node = node(version);
            connected(&mut node, false);
            assert_eq!(feed(&mut node, 0, stream), [format!("disconnected {reason:?}")]);
            let farewell = if version.is_v5() { vec![format!("disconnect {code}")] } else { vec![] };
            assert_eq!(sent(&mut node, 0), farewell);
        }
    }
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let mut whole = node(Version::V5);
    let mut pieces = node(Version::V5);
    for node in [&mut whole, &mut pieces] {
        connected(node, false);
        publish(node, "a message of some length", QOS2, 1);
        publish(node, "another", QOS1, 2);
    }
    assert_eq!(sent_in(&mut whole, 0, 512), sent_in(&mut pieces, 0, 5));
    for byte in [short_ack(Kind::PubRec, id(1)), short_ack(Kind::PubAck, id(2))].concat() {
        let _ = pieces.handle_bytes(0, &[byte]);
    }
    assert_eq!(events(&mut pieces), ["acknowledged 1", "acknowledged 2"]);
}

#[test]
fn a_publish_cut_by_the_end_of_the_connection_is_sent_whole_and_without_dup() {
    let mut node = node(Version::V5);
    connected(&mut node, false);
    publish(&mut node, "a message of some length", QOS1, 1);
    assert_eq!(node.poll_transmit(0, &mut [0; 6]), 6);
    cut(&mut node);
    connected(&mut node, true);
    assert_eq!(sent(&mut node, 0), ["a message of some length#1"]);
}

#[test]
fn a_buffer_too_small_for_connect_is_told() {
    let mut node = node(Version::V5);
    node.connect(0);
    assert_eq!(node.poll_transmit(0, &mut [0; 10]), 0);
    assert!(matches!(node.poll_event(), Some(Event::Disconnected { reason: Reason::Connect(_) })));
}

fn message_of_qos_2(number: u16) -> Vec<u8> {
    let packet_id = Some(id(number));
    let properties = Properties::EMPTY;
    let publish =
        Publish { dup: false, qos: QOS2, retain: false, topic: "t", packet_id, properties, payload: b"x" };
    bytes(Version::V5, &Packet::Publish(publish))
}

#[test]
fn what_a_server_has_forgotten_to_release_does_not_shut_it_out() {
    let mut node = node(Version::V5);
    connected(&mut node, false);
    for number in 1..=20 {
        assert_eq!(feed(&mut node, 0, &message_of_qos_2(number)), ["message x"]);
        assert_eq!(sent(&mut node, 0), [format!("pubrec {number}")]);
    }
    cut(&mut node);
    // The server has lost what it had sent; one of it comes again, the others it does not know.
    connected(&mut node, true);
    assert_eq!(feed(&mut node, 0, &message_of_qos_2(1)), [""; 0]);
    for number in 21..=39 {
        assert_eq!(feed(&mut node, 0, &message_of_qos_2(number)), ["message x"]);
        let _ = sent(&mut node, 0);
    }
    // Twenty of this connection are under way: one more is too many.
    assert_eq!(feed(&mut node, 0, &message_of_qos_2(40)), ["disconnected TooManyUnreleased"]);
}

#[test]
fn packet_identifiers_begin_anew_after_the_largest() {
    let mut node = Node::new(Config { largest_packet_id: 3, ..Config::new(Version::V5, "node-1") });
    connected(&mut node, false);
    publish(&mut node, "kept", QOS1, 0);
    assert_eq!(sent(&mut node, 0), ["kept#1"]);
    for expected in ["x#2", "x#3", "x#2", "x#3"] {
        publish(&mut node, "x", QOS1, 1);
        assert_eq!(sent(&mut node, 0), [expected]);
        let number = expected[2..].parse().unwrap();
        assert_eq!(feed(&mut node, 0, &short_ack(Kind::PubAck, id(number))), ["acknowledged 1"]);
    }
}
