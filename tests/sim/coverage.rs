//! Whether enough happened: what the seeds of a campaign went through, and how much of it there must be at least.
//! A simulation in which nothing goes wrong proves nothing.

/// Defines the counters: name, least number in 1,000 seeds, meaning.
macro_rules! paths {
    ($($name:ident, $least:literal, $meaning:literal;)*) => {
        /// How often each path was taken.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Coverage {
            $(#[doc = $meaning] pub(crate) $name: u64,)*
        }

        impl Coverage {
            /// Adds another seed's counts.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Each count with the least that 1,000 seeds must have, and its meaning.
            pub(crate) fn list(&self) -> Vec<(u64, u64, &'static str)> {
                vec![$((self.$name, $least, $meaning),)*]
            }
        }
    };
}

paths! {
    messages, 20_000, "messages made by devices";
    accepted, 20_000, "messages accepted by the engine";
    acknowledged, 15_000, "acknowledgements that left the engine";
    arrived, 15_000, "messages that reached the consumer";
    dropped_oldest, 50, "messages discarded because they were the oldest";
    dropped_newest, 50, "messages discarded as they came";
    expired, 50, "messages that expired";
    thinned, 20, "messages thinned out";
    tombstones, 5, "tombstones that reached the consumer";
    live, 2_000, "messages handed over ahead of a backlog, or where there was none to go ahead of";
    drained, 20, "messages of a backlog handed over within a limit";
    duplicated, 100, "marked duplicates at the consumer";
    inverted, 10, "inversions excused by a refusal";
    safe_upstream, 3_000, "acknowledgements without any write (P6)";
    safe_on_disk, 3_000, "acknowledgements after a commit";
    written_rows, 3_000, "rows written";
    commits_failed, 50, "commits that failed";
    commits_full, 20, "commits that found the disk full";
    commits_torn, 20, "commits under way at a crash";
    loads, 300, "pages of a backlog loaded";
    loads_failed, 5, "loads that failed";
    rows_damaged, 5, "rows damaged";
    buried, 20, "dead letters";
    requeued, 10, "dead letters sent again";
    deadly, 50, "crashes by a message that the gateway dies of";
    given_up, 5, "messages given up because life after life died of them";
    holds, 20, "times that devices were told to hold";
    crashes, 500, "crashes of the gateway";
    crashes_with_backlog, 100, "crashes with rows on the disk";
    stops, 50, "clean stops";
    reloads, 100, "reloads";
    clock_jumps, 100, "jumps of the wall clock";
    cuts, 500, "broken stream links";
    half_open, 30, "broken links of which the gateway heard nothing";
    slow_readers, 50, "devices that stopped reading";
    datagrams_lost, 200, "datagrams lost";
    datagrams_doubled, 100, "datagrams doubled";
    reboots, 50, "reboots of a device";
    amnesias, 10, "reboots that lost a device's state";
    upstream_lost, 300, "links to an upstream lost";
    upstream_resets, 50, "links to an upstream reset for want of a confirm";
    upstream_blocked, 50, "pauses asked for by an upstream";
    nacked, 200, "messages nacked";
    returned, 200, "messages returned";
    refused, 10, "messages refused for good";
    swallowed, 50, "messages taken and never confirmed";
    ignored, 50, "messages neither taken nor confirmed";
    settled_twice, 10, "messages settled twice";
    resent, 300, "messages handed over with the resend mark";
    mqtt_connects, 2_000, "MQTT connections accepted";
    mqtt_resumed, 200, "MQTT sessions resumed";
    mqtt_takeovers, 20, "MQTT sessions taken over by a new connection";
    mqtt_repeats, 100, "PUBLISH packets sent again (DUP)";
    qos2_repeats, 20, "QoS 2 messages recognised as repetitions";
    coap_repeats, 100, "CoAP requests received again in one life";
    coap_separate, 20, "separate CoAP responses";
    coap_busy, 5, "CoAP requests answered 5.03 or 4.29";
    coap_blocks, 1_000, "blocks of CoAP bodies taken";
    coap_incomplete, 5, "CoAP bodies begun anew because the gateway lacked a block";
    stream_answers, 500, "messages acknowledged on CoAP streams";
    notifications, 200, "notifications that left for CoAP observers";
    observed, 200, "values that CoAP observers saw";
    observed_anew, 20, "observations made anew after a restart of the gateway";
    oscore_answers, 200, "protected CoAP answers";
    oscore_numbers, 50, "protected CoAP answers under a number of the gateway's own";
    oscore_nonces, 500, "OSCORE nonces used";
    oscore_replays, 1, "protected CoAP requests refused because they had been there";
    subscribed, 200, "messages delivered to local subscribers";
    retained_sent, 100, "retained messages sent to a new subscriber";
    retained_found, 100, "retained messages found at a start";
    subscribed_for_good, 2_000, "messages that reached a subscriber whose session lasts";
    redelivered, 50, "PUBLISH packets sent to a subscriber again (DUP)";
    released, 200, "QoS 2 messages released to a subscriber";
    overruns, 5, "times that a subscriber's queue was said to be full";
    calm, 50, "seeds without any fault, held to write nothing";
}

impl Coverage {
    /// What there was too little of, after so many seeds.
    pub(crate) fn missing(&self, seeds: u64) -> Vec<String> {
        let short = |(count, least, meaning): (u64, u64, &str)| {
            let least = least * seeds / 1_000;
            (count < least).then(|| format!("{meaning}: {count}, at least {least} expected"))
        };
        self.list().into_iter().filter_map(short).collect()
    }
}
