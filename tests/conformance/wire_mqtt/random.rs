//! Properties of the codec over random packets and random bytes.

use super::encoded;
use super::packets::{version, versioned_packet};
use proptest::prelude::*;
use tidegate_tests::property::property;
use tidegate_wire::mqtt::{
    Error, Packet, Sender, Version, connect_version, decode, decode_body, encode, encoded_len, frame,
};

/// Everything that can be asked of arbitrary bytes.
fn exercise(version: Version, bytes: &[u8]) {
    let _ = frame(bytes);
    let _ = connect_version(bytes);
    if let [first, body @ ..] = bytes {
        let _ = decode_body(version, *first, body);
    }
    let Ok(packet) = decode(version, bytes) else { return };
    let _ = packet.check_sender(Sender::Client);
    let _ = packet.check_sender(Sender::Server);
    // What is accepted can be said again, and then means the same.
    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
    let again = encoded(version, &packet).unwrap();
    assert_eq!(decode(version, &again), Ok(packet));
}

proptest! {
    #![proptest_config(property(1_000))]

    #[test]
    fn a_packet_survives_the_way_out_and_in((version, packet) in versioned_packet()) {
        let bytes = encoded(version, &packet).unwrap();
        prop_assert_eq!(encoded_len(version, &packet), Ok(bytes.len()));
        prop_assert_eq!(frame(&bytes).unwrap().unwrap().total_bytes(), bytes.len());
        prop_assert_eq!(decode(version, &bytes), Ok(packet));
        // Again from the view that came in, as a gateway forwards it.
        let mut exact = vec![0; bytes.len()];
        prop_assert_eq!(encode(version, &decode(version, &bytes).unwrap(), &mut exact), Ok(bytes.len()));
        prop_assert_eq!(exact, bytes);
    }

    #[test]
    fn a_cut_packet_is_incomplete_and_its_header_never_lies((version, packet) in versioned_packet()) {
        let bytes = encoded(version, &packet).unwrap();
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            prop_assert_eq!(decode(version, cut), Err(Error::Incomplete));
            if let Some(frame) = frame(cut).unwrap() {
                prop_assert_eq!(frame.total_bytes(), bytes.len());
            }
        }
        let mut longer = bytes;
        longer.push(0);
        prop_assert_eq!(decode(version, &longer), Err(Error::Trailing));
    }

    #[test]
    fn a_body_that_ends_early_never_panics((version, packet) in versioned_packet()) {
        let bytes = encoded(version, &packet).unwrap();
        let header = frame(&bytes).unwrap().unwrap();
        for length in 0..header.remaining_bytes {
            let _ = decode_body(version, header.first, &bytes[header.header_bytes..header.header_bytes + length]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(version in version(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        exercise(version, &bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        version in version(),
        first in any::<u8>(),
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..48], 0..100),
    ) {
        let mut bytes = vec![first, u8::try_from(body.len()).unwrap()];
        bytes.extend(body);
        exercise(version, &bytes);
    }

    #[test]
    fn damaged_packets_never_panic(
        (version, packet) in versioned_packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(version, &packet).unwrap();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        exercise(version, &bytes);
    }
}
