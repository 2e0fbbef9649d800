//! MQTT clients as the tests know them: what they say, in any version, and what they are told, in short words.
//! Knows no server: whoever has bytes to exchange can use it.

use tidegate_engine::id::ConnId;
use tidegate_wire::mqtt::{
    self, Connect, Packet, PacketId, Properties, Property, Publish, Qos, ReasonCode, Version, Will,
};

/// Every version, the oldest first.
pub const ALL_VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// One end of a connection, as its client knows it.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its connection.
    pub conn: ConnId,
    /// What it speaks.
    pub version: Version,
}

/// What a client says in its CONNECT.
#[derive(Clone)]
pub struct Hello<'a> {
    /// The version.
    pub version: Version,
    /// The client identifier.
    pub id: &'a str,
    /// Clean Start, or Clean Session.
    pub clean: bool,
    /// In seconds.
    pub keep_alive: u16,
    /// CONNECT's own properties.
    pub properties: Vec<Property<'a>>,
    /// The will.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
}

impl<'a> Hello<'a> {
    /// A clean session, a minute of keep-alive, and nothing else.
    #[must_use]
    pub fn new(version: Version, id: &'a str) -> Self {
        Self {
            version,
            id,
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// A session that lasts: an hour in MQTT 5, without clean session before.
    #[must_use]
    pub fn lasting(version: Version, id: &'a str) -> Self {
        let properties = if version.is_v5() { vec![Property::SessionExpiry(3_600)] } else { Vec::new() };
        Self { clean: false, properties, ..Self::new(version, id) }
    }

    /// The same with a user name and a password.
    #[must_use]
    pub fn proving(self, username: &'a str, password: &'a str) -> Self {
        Self { username: Some(username), password: Some(password.as_bytes()), ..self }
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property<'a>) -> Self {
        self.properties.push(property);
        self
    }

    /// The CONNECT packet.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let connect = Connect {
            version: self.version,
            clean_start: self.clean,
            keep_alive: self.keep_alive,
            properties: Properties::new(&self.properties),
            client_id: self.id,
            will: self.will,
            username: self.username,
            password: self.password,
        };
        encode(self.version, &Packet::Connect(connect))
    }
}

/// A will that says "gone" at QoS 1.
#[must_use]
pub fn will<'a>(topic: &'a str, properties: &'a [Property<'a>]) -> Will<'a> {
    Will {
        topic,
        payload: b"gone",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: Properties::new(properties),
    }
}

/// A packet's bytes.
#[must_use]
pub fn encode(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = vec![0; mqtt::encoded_len(version, packet).unwrap()];
    mqtt::encode(version, packet, &mut bytes).unwrap();
    bytes
}

/// A message that says "21.5"; at QoS 0 it has no packet id.
#[must_use]
pub fn message<'a>(topic: &'a str, qos: Qos, id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id).filter(|_| qos != Qos::AtMostOnce),
        properties: Properties::EMPTY,
        payload: b"21.5",
    }
}

/// The CONNACK that accepts; MQTT 3.1 cannot say that a session is present.
#[must_use]
pub fn welcome(version: Version, present: bool) -> &'static str {
    if present && version > Version::V3_1 { "CONNACK present" } else { "CONNACK" }
}

/// A packet in short words.
#[must_use]
pub fn words(version: Version, frame: &[u8]) -> String {
    let code =
        |reason: ReasonCode| if reason.0 == 0 { String::new() } else { format!(" 0x{:02X}", reason.0) };
    match mqtt::decode(version, frame).unwrap() {
        Packet::ConnAck(ack) => {
            format!("CONNACK{}{}", if ack.session_present { " present" } else { "" }, code(ack.reason))
        }
        Packet::Publish(publish) => format!(
            "PUBLISH {}{}{} {} {}",
            publish.packet_id.map_or("-".to_owned(), |id| format!("{}:{id}", publish.qos as u8)),
            if publish.dup { " dup" } else { "" },
            if publish.retain { " retain" } else { "" },
            publish.topic,
            String::from_utf8_lossy(publish.payload),
        ),
        Packet::PubAck(ack) => format!("PUBACK {}{}", ack.packet_id, code(ack.reason)),
        Packet::PubRec(ack) => format!("PUBREC {}{}", ack.packet_id, code(ack.reason)),
        Packet::PubRel(ack) => format!("PUBREL {}{}", ack.packet_id, code(ack.reason)),
        Packet::PubComp(ack) => format!("PUBCOMP {}{}", ack.packet_id, code(ack.reason)),
        Packet::SubAck(ack) => format!("SUBACK {} {:?}", ack.packet_id, ack.codes),
        Packet::UnsubAck(ack) => format!("UNSUBACK {} {:?}", ack.packet_id, ack.codes),
        Packet::Disconnect(disconnect) => format!("DISCONNECT{}", code(disconnect.reason)),
        other => other.kind().name().to_owned(),
    }
}

/// Bytes from hexadecimal digits; spaces are for the eye, and `'text'` stands for its bytes.
#[must_use]
pub fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u32> = part.chars().filter_map(|c| c.to_digit(16)).collect();
        out.extend(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()));
    }
    out
}

/// A whole packet from its first byte and its body.
#[must_use]
pub fn whole(first: u8, body: &str) -> Vec<u8> {
    let body = bytes(body);
    let mut packet = vec![first];
    let mut rest = body.len();
    loop {
        let more = if rest > 0x7F { 0x80 } else { 0 };
        packet.push(u8::try_from(rest & 0x7F).unwrap() | more);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
