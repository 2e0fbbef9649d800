//! MQTT 3.1, 3.1.1 and 5.0 packets, both directions; the version is a parameter, packets carry MQTT 5's vocabulary.
//! Owns what bytes are legal. Does not own sessions: what a packet means, whether it may come now, and every
//! limit that is policy (sizes, counts, which sender may send what it parsed) belong to the caller.
//!
//! The way of a packet in: [`frame`] on what has arrived (tells the length from 2 to 5 bytes, so that a limit can
//! be enforced before the body is there), then [`decode`] on the whole packet, then [`Packet::check_sender`].
//! Out: [`encode`], or [`short_ack`] and [`encode_publish_header`] where it must be fast.

mod decode;
mod encode;
mod error;
mod frame;
mod kind;
mod packet;
mod property;
mod read;
mod reason;
mod subscription;
mod text;

pub use decode::{connect_version, decode, decode_body};
pub use encode::{EncodeError, encode, encode_publish_header, encoded_len, short_ack};
pub use error::Error;
pub use frame::{Frame, MAX_HEADER_BYTES, MAX_REMAINING_LENGTH, frame};
pub use kind::{Kind, PacketId, Qos, Sender, Version};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe, Will,
};
pub use property::{Properties, PropertiesIter, Property};
pub use reason::ReasonCode;
pub use subscription::{Filters, RetainHandling, Subscription, Subscriptions};
pub use text::{is_topic_filter, is_topic_name, split_shared};
