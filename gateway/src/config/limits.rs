//! `[limits]`: the bounds that an operator may move, each within what a small board and the protocols bear.
//! The defaults and all other bounds stand in `tidegate_engine::limits`.

use super::read::Section;
use super::value::{duration, integer, size};
use std::time::Duration;
use tidegate_engine::limits::Limits;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// More than any MQTT packet of a field device needs; a packet is held in memory whole.
const PACKET_BYTES_MOST: u64 = 16 << 20;
/// Each has a packet id of its own (MQTT 5.0, 2.2.1).
const SUBSCRIBER_MESSAGES_MOST: u64 = 60_000;
/// A thousand in a second, of what is counted by the minute; of what is counted by the second, what no device sends: as good as no
/// bound.
const RATE_MOST: u64 = 60_000;
/// Half the memory of a well-equipped board.
const MEMORY_BYTES_MOST: u64 = 4 << 30;

/// Reads the table.
pub(super) fn limits(section: &Section<'_>) -> Limits {
    let mut limits = Limits::default();
    let count = |key: &'static str, value: &mut usize, low: u64, high: u64| {
        if let Some(written) = section.get(key, integer(low..=high)) {
            *value = usize::try_from(written.into_inner()).unwrap_or(usize::MAX);
        }
    };
    let bytes = |key: &'static str, value: &mut usize, low: u64, high: u64| {
        if let Some(written) = section.get(key, size(low..=high)) {
            *value = usize::try_from(written.into_inner()).unwrap_or(usize::MAX);
        }
    };
    let time = |key: &'static str, value: &mut Duration, low: Duration, high: Duration| {
        *value = section.get_or(key, *value, duration(low..=high));
    };

    count("connections", &mut limits.connections, 1, 100_000);
    count("connections_per_address", &mut limits.connections_per_address, 1, 100_000);
    count("connections_unauthenticated", &mut limits.connections_unauthenticated, 1, 100_000);
    count("handshakes", &mut limits.handshakes, 1, 10_000);
    time("handshake_timeout", &mut limits.handshake_timeout, Duration::from_millis(100), 5 * MINUTE);
    time("connect_timeout", &mut limits.connect_timeout, Duration::from_millis(100), 5 * MINUTE);
    bytes("packet_size", &mut limits.packet_bytes, 1 << 10, PACKET_BYTES_MOST);
    // Receive Maximum is 16 bits and never zero (MQTT 5.0, 3.2.2.3.3).
    limits.receive_maximum = section
        .get("receive_maximum", integer(1..=65_535))
        .and_then(|written| u16::try_from(written.into_inner()).ok())
        .unwrap_or(limits.receive_maximum);
    // Server Keep Alive is 16 bits of seconds (MQTT 5.0, 3.2.2.3.14).
    time("keep_alive_max", &mut limits.keep_alive_max, Duration::from_secs(1), Duration::from_secs(65_535));
    count("sessions", &mut limits.sessions, 1, 1_000_000);
    time("session_expiry_max", &mut limits.session_expiry_max, Duration::ZERO, 365 * DAY);
    let rate = |key: &'static str, value: &mut u32| {
        if let Some(written) = section.get(key, integer(1..=RATE_MOST)) {
            *value = u32::try_from(written.into_inner()).unwrap_or(u32::MAX);
        }
    };
    rate("takeovers_per_minute", &mut limits.takeovers_per_minute);
    rate("wills_per_minute", &mut limits.wills_per_minute);
    // Zero would refuse every body, and no body in blocks is worth a board's memory.
    bytes("coap_body_size", &mut limits.coap_body_bytes, 1 << 10, 16 << 20);
    limits.coap_block_bytes = limits.coap_block_bytes.max(4 * limits.coap_body_bytes);
    count("coap_peers", &mut limits.coap_peers, 1, 1_000_000);
    count("dtls_associations", &mut limits.dtls_associations, 1, 1_000_000);
    count("coap_observers", &mut limits.coap_observers, 0, 100_000);
    rate("coap_messages_per_second", &mut limits.coap_requests_per_second);
    count("subscriber_messages", &mut limits.outgoing_messages, 1, SUBSCRIBER_MESSAGES_MOST);
    bytes("subscriber_size", &mut limits.outgoing_bytes, 1 << 10, 1 << 30);
    count("retained_messages", &mut limits.retained_messages, 0, 1_000_000);
    bytes("retained_size", &mut limits.retained_bytes, 0, 1 << 30);
    bytes("subscribers_size", &mut limits.outgoing_bytes_in_all, 1 << 20, MEMORY_BYTES_MOST);
    bytes("unsafe_size", &mut limits.unsafe_bytes, 64 << 10, MEMORY_BYTES_MOST);
    time("confirm_timeout", &mut limits.confirm_timeout, Duration::from_secs(1), 60 * MINUTE);
    limits.upstream_attempts = section
        .get("upstream_attempts", integer(1..=255))
        .and_then(|written| u8::try_from(written.into_inner()).ok())
        .unwrap_or(limits.upstream_attempts);

    limits.packet_bytes_unauthenticated = limits.packet_bytes_unauthenticated.min(limits.packet_bytes);
    let span = || section.at("packet_size").or_else(|| section.span.clone());
    if limits.packet_bytes > limits.unsafe_bytes {
        section.report.error(
            span(),
            "`packet_size` is larger than `unsafe_size`: such a packet could never be taken",
            "make `unsafe_size` several times `packet_size`",
        );
    }
    if limits.packet_bytes > limits.outgoing_bytes {
        section.report.error(
            span(),
            "`packet_size` is larger than `subscriber_size`: such a packet could never reach a subscriber",
            "make `subscriber_size` at least `packet_size`",
        );
    }
    if limits.outgoing_bytes > limits.outgoing_bytes_in_all {
        section.report.error(
            span(),
            "`subscriber_size` is larger than `subscribers_size`: one subscriber cannot have more than all together",
            "make `subscribers_size` several times `subscriber_size`",
        );
    }
    limits
}
