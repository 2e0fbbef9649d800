//! Slow, broken and hostile clients against a whole gateway, each held to one rule (`rule`). The cases are a table,
//! `tidegate_tests::attacks`; here each has a test, and none is without. What a session says to a broken packet is tested with the
//! sessions; here it is the process that must stand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be
#![allow(clippy::print_stdout)] // what an attack cost stands in the test's output

mod crash;
mod rule;

use tidegate_tests::attacks::CASES;

/// The cases on MQTT, on access and on DTLS that a gateway must stand, and those like them.
const WANTED: [&str; 37] = [
    "M02", "M03", "M04", "M07", "M09", "M12", "M13", "M14", "M15", "M17", "M18", "M19", "M20", "M25", "M26",
    "M28", "M29", "M30", "M32", "A01", "A02", "A03", "A05", "A06", "A08", "A09", "A10", "A11", "C15", "C16",
    "C17", "C18", "F01", "F02", "F03", "F04", "F05",
];

macro_rules! cases {
    ($($name:ident = $id:literal;)*) => {
        $(#[test]
        fn $name() {
            rule::stands(CASES.iter().find(|case| case.id == $id).unwrap());
        })*

        /// The cases that have a test here.
        const PLAYED: &[&str] = &[$($id),*, crash::ID];
    };
}

cases! {
    a_first_packet_that_claims_much_is_closed_at_its_header = "M02";
    a_connect_that_claims_much_is_closed_at_its_header = "M03";
    a_publish_that_stops_in_the_middle_is_cut_off = "M04";
    names_that_are_none_are_refused_and_stand_nowhere = "M07";
    names_of_very_many_levels_cost_no_more_than_others = "M09";
    before_connect_nothing_else_does_anything = "M12";
    packets_out_of_their_role_end_the_connection = "M13";
    ten_thousand_properties_cost_no_more_than_their_reading = "M14";
    broken_properties_leave_nothing = "M15";
    what_goes_beyond_receive_maximum_ends_the_connection = "M17";
    qos_2_without_end_is_bounded = "M18";
    authentication_that_nobody_knows_is_refused = "M20";
    handshakes_that_stall_or_are_garbage_leave_room_for_one_that_is_not = "M25";
    subscriptions_are_bounded_and_so_is_what_they_cost = "M26";
    wills_are_bounded = "M28";
    sessions_are_bounded = "M29";
    a_storm_of_takeovers_loses_nothing_acknowledged = "M30";
    an_overload_is_said_and_not_suffered = "M32";
    whatever_is_wrong_with_credentials_has_one_answer_at_one_time = "A01";
    names_that_mean_something_elsewhere_are_nobodys = "A02";
    nobody_takes_anothers_client_identifier = "A03";
    a_wildcard_delivers_what_is_permitted = "A05";
    a_right_that_is_taken_away_ends_at_once = "A06";
    a_reload_that_cannot_be_done_changes_nothing = "A08";
    no_option_opens_a_port_to_all_the_world = "A09";
    certificates_that_are_not_in_order_let_nobody_in = "A10";
    guessing_is_slowed_down_and_locks_nobody_out = "A11";
    hellos_from_anywhere_leave_nothing_behind = "C15";
    after_odd_handshakes_their_peer_gets_in = "C16";
    records_that_come_again_or_from_elsewhere_change_nothing = "C17";
    identities_that_are_none_have_one_answer_and_write_nothing = "C18";
    a_flood_of_connections_from_one_address_leaves_room_for_others = "F01";
    connections_that_say_nothing_give_way_to_those_that_do = "F02";
    a_flood_of_clients_that_connect_and_go_leaves_nothing_behind = "F03";
    subscribers_that_stop_reading_hold_up_nobody = "F04";
    subscribers_that_never_acknowledge_cost_no_more_than_their_queue = "F05";
}

#[test]
fn every_case_is_played() {
    let sorted = |ids: &mut dyn Iterator<Item = &'static str>| {
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids
    };
    let wanted = sorted(&mut WANTED.iter().copied());
    assert_eq!(sorted(&mut PLAYED.iter().copied()), wanted);
    assert_eq!(sorted(&mut CASES.iter().map(|case| case.id).chain([crash::ID])), wanted);
}
