//! Names and numbers: who a device is, which message this is, which row, route, upstream, connection.
//! Each parses on construction and cannot be wrong afterwards.

use std::fmt;
use std::sync::Arc;

/// The longest device or gateway id, in bytes. Ids stand in topics, routing keys, file names and log lines.
pub const MAX_ID_BYTES: usize = 128;

/// Between a device's id and the rest of the client identifier of one of its several clients. Ids of configured devices do
/// not have it.
pub const CLIENT_SEPARATOR: char = '@';

/// The longest id of a configured device, in bytes: leaves room for the rest of its clients' identifiers.
pub const MAX_CONFIGURED_ID_BYTES: usize = 80;

/// Why a text is not an id; says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`MAX_ID_BYTES`].
    TooLong,
    /// The text has a character that could be taken for a topic wildcard, a level, a path or a control code.
    Character(char),
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "an id must not be empty"),
            Self::TooLong => write!(f, "an id has at most {MAX_ID_BYTES} bytes"),
            Self::Character(c) => {
                write!(f, "{c:?} must not stand in an id: use letters, digits, '-', '_', '.', ':' or '@'")
            }
        }
    }
}

impl std::error::Error for IdError {}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    if text.starts_with('.') {
        return Err(IdError::Character('.'));
    }
    match text.chars().find(|c| !(c.is_alphanumeric() || "-_.:@".contains(*c))) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long, or has a character that an id must not have.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A device's name: what its topics, its credentials and its order are bound to.
    DeviceId
);
impl From<std::net::IpAddr> for DeviceId {
    /// The name of a device that nothing is known of but its address; every address is a valid id.
    fn from(address: std::net::IpAddr) -> Self {
        match address.to_canonical() {
            std::net::IpAddr::V4(address) => Self(dotted(address)),
            address => Self(Arc::from(address.to_string())),
        }
    }
}

/// As `Display` writes it, in a tenth of its time: it is asked for with each message of a device that nobody has named.
fn dotted(address: std::net::Ipv4Addr) -> Arc<str> {
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for unit in [100, 10, 1] {
            if octet >= unit || unit == 1 {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text.into()
}

text_id!(
    /// This gateway's name, the first part of every message id.
    GatewayId
);

/// Where a message stands in the gateway's order of acceptance. Ascends for ever: a restart goes on
/// above everything that the store holds. The store keys rows by 48 bits of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The largest sequence number a store must be able to hold (48 bits: 89 years at 100,000 messages/s).
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The part of a message's identity that the gateway gives (P4). The whole identity is
/// `gateway id / device id / epoch / sequence`; it stays the same through every resend and restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Which life of the gateway accepted the message: one more at every start, never used twice, so that
    /// messages which were relayed without a write cannot share an id with those of an earlier life.
    pub epoch: u64,
    /// The order of acceptance.
    pub seq: Seq,
}

/// One transport connection, numbered by the driver and never used again within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// An upstream: its index in [`Setup::upstreams`](crate::event::Setup::upstreams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub u16);

/// A lane: what one route has waiting, in order. The store numbers lanes and remembers their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

/// One handing over of a message to an upstream. A message that is sent again gets a new tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// A dead letter, numbered by the store; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId(pub u64);

/// One group commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

#[cfg(test)]
mod tests {
    use super::DeviceId;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn a_device_without_a_name_is_called_by_its_address() {
        for octet in 0..=255 {
            let address = Ipv4Addr::new(10, octet, 0, 255 - octet);
            assert_eq!(DeviceId::from(IpAddr::V4(address)).as_str(), address.to_string());
            let mapped = IpAddr::V6(address.to_ipv6_mapped());
            assert_eq!(DeviceId::from(mapped).as_str(), address.to_string());
        }
        let address: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(DeviceId::from(address).as_str(), "2001:db8::7");
    }
}
