//! Random legal packets. Their texts are leaked: a test process is short.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidegate_wire::mqtt::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Kind, Packet, PacketId, Properties, Property, Publish,
    Qos, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, Subscriptions, UnsubAck, Unsubscribe,
    Version, Will,
};

type Text = &'static str;
type Blob = &'static [u8];

fn text() -> impl Strategy<Value = Text> {
    "[^\u{0}]{0,12}".prop_map(|text| &*text.leak())
}

fn blob() -> impl Strategy<Value = Blob> {
    vec(any::<u8>(), 0..40).prop_map(|bytes| &*bytes.leak())
}

/// A topic name of at least one character.
fn topic() -> impl Strategy<Value = Text> {
    "[^\u{0}+#]{1,40}".prop_map(|text| &*text.leak())
}

fn filter() -> impl Strategy<Value = Text> {
    "([a-zé$ ]{0,5}/|\\+/){0,4}(#|\\+|[a-z]{1,5})".prop_map(|text| &*text.leak())
}

fn qos() -> impl Strategy<Value = Qos> {
    (0_u8..3).prop_map(|number| Qos::from_u8(number).unwrap())
}

fn id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|number| PacketId::new(number).unwrap())
}

/// One property of this number.
fn property(number: u8) -> BoxedStrategy<Property<'static>> {
    match number {
        0x01 => any::<bool>().prop_map(Property::PayloadFormat).boxed(),
        0x02 => any::<u32>().prop_map(Property::MessageExpiry).boxed(),
        0x03 => text().prop_map(Property::ContentType).boxed(),
        0x08 => topic().prop_map(Property::ResponseTopic).boxed(),
        0x09 => blob().prop_map(Property::CorrelationData).boxed(),
        0x0B => (1..=268_435_455_u32).prop_map(Property::SubscriptionId).boxed(),
        0x11 => any::<u32>().prop_map(Property::SessionExpiry).boxed(),
        0x12 => text().prop_map(Property::AssignedClientId).boxed(),
        0x13 => any::<u16>().prop_map(Property::ServerKeepAlive).boxed(),
        0x15 => text().prop_map(Property::AuthMethod).boxed(),
        0x17 => any::<bool>().prop_map(Property::RequestProblemInfo).boxed(),
        0x18 => any::<u32>().prop_map(Property::WillDelay).boxed(),
        0x19 => any::<bool>().prop_map(Property::RequestResponseInfo).boxed(),
        0x1A => text().prop_map(Property::ResponseInfo).boxed(),
        0x1C => text().prop_map(Property::ServerReference).boxed(),
        0x1F => text().prop_map(Property::ReasonString).boxed(),
        0x21 => (1..=u16::MAX).prop_map(Property::ReceiveMaximum).boxed(),
        0x22 => any::<u16>().prop_map(Property::TopicAliasMaximum).boxed(),
        0x23 => (1..=u16::MAX).prop_map(Property::TopicAlias).boxed(),
        0x24 => {
            prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce)].prop_map(Property::MaximumQos).boxed()
        }
        0x25 => any::<bool>().prop_map(Property::RetainAvailable).boxed(),
        0x26 => (text(), text()).prop_map(|(name, value)| Property::User(name, value)).boxed(),
        0x27 => (1..=u32::MAX).prop_map(Property::MaximumPacketSize).boxed(),
        0x28 => any::<bool>().prop_map(Property::WildcardAvailable).boxed(),
        0x29 => any::<bool>().prop_map(Property::SubscriptionIdsAvailable).boxed(),
        0x2A => any::<bool>().prop_map(Property::SharedAvailable).boxed(),
        _ => unreachable!("not a property of a test"),
    }
}

/// Some of these numbers, each at most once, but for those of `many`; in a random order. None before MQTT 5.
fn properties(
    version: Version,
    once: &'static [u8],
    many: &'static [u8],
) -> BoxedStrategy<Properties<'static>> {
    if !version.is_v5() {
        return Just(Properties::EMPTY).boxed();
    }
    let once: Vec<_> = once.iter().map(|&number| option::of(property(number))).collect();
    let many: Vec<_> = many.iter().map(|&number| vec(property(number), 0..3)).collect();
    (once, many)
        .prop_map(|(once, many)| {
            once.into_iter().flatten().chain(many.into_iter().flatten()).collect::<Vec<_>>()
        })
        .prop_shuffle()
        .prop_map(|list| Properties::new(list.leak()))
        .boxed()
}

const USER: &[u8] = &[0x26];

fn reason(version: Version, kind: Kind) -> BoxedStrategy<ReasonCode> {
    let old = match kind {
        Kind::ConnAck => &[0x00, 0x84, 0x85, 0x86, 0x87, 0x88][..],
        Kind::SubAck => &[0x00, 0x01, 0x02, 0x80],
        _ => &[0x00],
    };
    let codes: Vec<ReasonCode> = if version.is_v5() {
        (0..=u8::MAX).map(ReasonCode).filter(|code| code.belongs_to(kind)).collect()
    } else {
        old.iter().copied().map(ReasonCode).collect()
    };
    proptest::sample::select(codes).boxed()
}

fn codes(version: Version, kind: Kind) -> BoxedStrategy<Blob> {
    if kind == Kind::UnsubAck && !version.is_v5() {
        return Just(&[] as Blob).boxed();
    }
    vec(reason(version, kind), 1..5)
        .prop_map(|list| &*list.iter().map(|code| code.0).collect::<Vec<_>>().leak())
        .boxed()
}

fn connect(version: Version) -> impl Strategy<Value = Connect<'static>> {
    let will = (
        topic(),
        blob(),
        qos(),
        any::<bool>(),
        properties(version, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18], USER),
    )
        .prop_map(|(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        });
    let own = properties(version, &[0x11, 0x15, 0x17, 0x19, 0x21, 0x22, 0x27], USER);
    let names = (text(), option::of(text()), option::of(blob()));
    (any::<bool>(), any::<u16>(), own, option::of(will), names).prop_map(
        move |(clean_start, keep_alive, properties, will, (client_id, username, password))| Connect {
            version,
            clean_start,
            keep_alive,
            properties,
            client_id: if client_id.is_empty() && !version.is_v5() { "d" } else { client_id },
            will,
            username: username.or((password.is_some() && !version.is_v5()).then_some("")),
            password,
        },
    )
}

fn publish(version: Version) -> impl Strategy<Value = Publish<'static>> {
    let properties = properties(version, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23], &[0x26, 0x0B]);
    (any::<bool>(), any::<bool>(), topic(), option::of(id()), any::<bool>(), properties, blob()).prop_map(
        |(dup, retain, topic, packet_id, twice, properties, payload)| {
            let qos = match (packet_id, twice) {
                (None, _) => Qos::AtMostOnce,
                (Some(_), false) => Qos::AtLeastOnce,
                (Some(_), true) => Qos::ExactlyOnce,
            };
            let topic = if twice && properties.topic_alias().is_some() { "" } else { topic };
            Publish { dup: dup && packet_id.is_some(), qos, retain, topic, packet_id, properties, payload }
        },
    )
}

fn subscription(version: Version) -> impl Strategy<Value = Subscription<'static>> {
    (filter(), qos(), any::<bool>(), any::<bool>(), 0_usize..3).prop_map(
        move |(filter, qos, no_local, retain_as_published, handling)| {
            if !version.is_v5() {
                return Subscription::new(filter, qos);
            }
            let retain_handling =
                [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend][handling];
            Subscription { filter, qos, no_local, retain_as_published, retain_handling }
        },
    )
}

/// A legal packet of this version.
pub(super) fn packet(version: Version) -> impl Strategy<Value = Packet<'static>> {
    let ack = move |kind, wrap: fn(Ack<'static>) -> Packet<'static>| {
        (id(), reason(version, kind), properties(version, &[0x1F], USER))
            .prop_map(move |(packet_id, reason, properties)| wrap(Ack { packet_id, reason, properties }))
    };
    let connack_properties = properties(
        version,
        &[0x11, 0x12, 0x13, 0x15, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x27, 0x28, 0x29, 0x2A],
        USER,
    );
    let connack = (any::<bool>(), reason(version, Kind::ConnAck), connack_properties).prop_map(
        move |(present, reason, properties)| {
            let session_present = present && !reason.is_failure() && version != Version::V3_1;
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        },
    );
    let subscribe = (id(), properties(version, &[0x0B], USER), vec(subscription(version), 1..4)).prop_map(
        |(packet_id, properties, list)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                subscriptions: Subscriptions::new(list.leak()),
            })
        },
    );
    let unsubscribe = (id(), properties(version, &[], USER), vec(filter(), 1..4)).prop_map(
        |(packet_id, properties, list)| {
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: Filters::new(list.leak()) })
        },
    );
    let suback = (id(), properties(version, &[0x1F], USER), codes(version, Kind::SubAck))
        .prop_map(|(packet_id, properties, codes)| Packet::SubAck(SubAck { packet_id, properties, codes }));
    let unsuback = (id(), properties(version, &[0x1F], USER), codes(version, Kind::UnsubAck)).prop_map(
        |(packet_id, properties, codes)| Packet::UnsubAck(UnsubAck { packet_id, properties, codes }),
    );
    let disconnect = (reason(version, Kind::Disconnect), properties(version, &[0x11, 0x1C, 0x1F], USER))
        .prop_map(|(reason, properties)| Packet::Disconnect(Disconnect { reason, properties }));
    let auth = (reason(Version::V5, Kind::Auth), text(), blob()).prop_map(move |(reason, method, data)| {
        if !version.is_v5() {
            return Packet::PingReq;
        }
        let list = Box::leak(Box::new([Property::AuthMethod(method), Property::AuthData(data)]));
        Packet::Auth(Auth { reason, properties: Properties::new(list) })
    });
    prop_oneof![
        2 => connect(version).prop_map(Packet::Connect),
        1 => connack,
        3 => publish(version).prop_map(Packet::Publish),
        1 => ack(Kind::PubAck, Packet::PubAck),
        1 => ack(Kind::PubRec, Packet::PubRec),
        1 => ack(Kind::PubRel, Packet::PubRel),
        1 => ack(Kind::PubComp, Packet::PubComp),
        1 => subscribe,
        1 => suback,
        1 => unsubscribe,
        1 => unsuback,
        1 => prop_oneof![Just(Packet::PingReq), Just(Packet::PingResp)],
        1 => disconnect,
        1 => auth,
    ]
}

/// Any version.
pub(super) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![1 => Just(Version::V3_1), 2 => Just(Version::V3_1_1), 3 => Just(Version::V5)]
}

/// A version and a legal packet of it.
pub(super) fn versioned_packet() -> impl Strategy<Value = (Version, Packet<'static>)> {
    version().prop_flat_map(|version| (Just(version), packet(version)))
}
