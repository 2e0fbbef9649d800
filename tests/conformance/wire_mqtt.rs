//! The MQTT codec against the specifications' bytes, malformed packets, random packets and rumqttc's codec.
//! Owns no behaviour of sessions: one packet at a time.

use tidegate_wire::mqtt::{
    Ack, Kind, Packet, PacketId, Properties, Property, Publish, Qos, Version, decode, encode, short_ack,
};

#[test]
fn a_publish_survives_the_way_out_and_in() {
    let list = [Property::MessageExpiry(0), Property::User("a", "b"), Property::User("a", "b")];
    let publish = Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: "sensors/a",
        packet_id: PacketId::new(7),
        properties: Properties::new(&list),
        payload: b"21.5",
    };
    let mut buffer = [0; 128];
    let size = encode(Version::V5, &Packet::Publish(publish), &mut buffer).unwrap();
    assert_eq!(decode(Version::V5, &buffer[..size]), Ok(Packet::Publish(publish)));
}

#[test]
fn a_short_acknowledgement_is_the_same_in_all_versions() {
    let id = PacketId::new(0x1234).unwrap();
    let bytes = short_ack(Kind::PubAck, id);
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        assert_eq!(decode(version, &bytes), Ok(Packet::PubAck(Ack::success(id))));
        let mut buffer = [0; 4];
        assert_eq!(encode(version, &Packet::PubAck(Ack::success(id)), &mut buffer), Ok(4));
        assert_eq!(buffer, bytes);
    }
}
