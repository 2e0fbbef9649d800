//! `GET /metrics`: everything counted, in the OpenMetrics text format. The names are an interface: add, do not rename.

use super::View;
use super::status::Protocol;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt::Error;

/// The metrics as text.
pub(super) fn encode(view: View) -> Result<String, Error> {
    // Made for each scrape: nothing is counted twice, once here and once in the engine.
    let mut registry = Registry::with_prefix("tidegate");
    registry.register_collector(Box::new(view));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// One family of metrics: its name, its help, its type and its values, each with its labels.
struct Family<'e, 'd> {
    out: &'e mut DescriptorEncoder<'d>,
}

impl Family<'_, '_> {
    fn write<M: EncodeMetric>(&mut self, name: &str, help: &str, metric: &M) -> Result<(), Error> {
        let encoder = self.out.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.write(name, help, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.write(name, help, &ConstGauge::new(value))
    }

    /// A counter for each of `items`, named by `label`.
    fn counters<'a, T: 'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        items: impl IntoIterator<Item = (&'a str, T)>,
        value: impl Fn(&T) -> u64,
    ) -> Result<(), Error> {
        let kind = ConstCounter::new(0_u64).metric_type();
        let encoder = self.out.encode_descriptor(name, help, None, kind)?;
        each(encoder, label, items, |item| ConstCounter::new(value(item)))
    }

    /// A gauge for each of `items`, named by `label`.
    fn gauges<'a, T: 'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        items: impl IntoIterator<Item = (&'a str, T)>,
        value: impl Fn(&T) -> u64,
    ) -> Result<(), Error> {
        let kind = ConstGauge::new(0_u64).metric_type();
        let encoder = self.out.encode_descriptor(name, help, None, kind)?;
        each(encoder, label, items, |item| ConstGauge::new(value(item)))
    }
}

fn each<'a, T: 'a, M: EncodeMetric>(
    mut encoder: MetricEncoder<'_>,
    label: &'static str,
    items: impl IntoIterator<Item = (&'a str, T)>,
    metric: impl Fn(&T) -> M,
) -> Result<(), Error> {
    for (name, item) in items {
        let labels = Label { label, name };
        metric(&item).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

/// One label.
struct Label<'a> {
    label: &'static str,
    name: &'a str,
}

impl EncodeLabelSet for Label<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> Result<(), Error> {
        [(self.label, self.name)].encode(encoder)
    }
}

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family = Family { out: &mut encoder };
        self.messages(&mut family)?;
        self.protocols(&mut family)?;
        self.routes(&mut family)?;
        self.upstreams(&mut family)?;
        self.host(&mut family)
    }
}

impl View {
    fn messages(&self, f: &mut Family<'_, '_>) -> Result<(), Error> {
        let m = &self.status.messages;
        f.counter("messages_accepted", "Messages accepted from devices", m.accepted)?;
        f.counter("messages_unrouted", "Messages that no route takes", m.unrouted)?;
        f.counters(
            "messages_safe",
            "Messages acknowledged, by what made them safe",
            "by",
            [("disk", m.safe_on_disk), ("upstream", m.safe_upstream)],
            |count| *count,
        )?;
        let losses = &self.status.losses;
        f.counters(
            "lost_messages",
            "Messages lost to damage, or discarded by the operator's word, by reason",
            "reason",
            losses.messages.iter().map(|(reason, count)| (reason.as_str(), *count)),
            |count| *count,
        )?;
        f.counter("tombstones", "Tombstones that upstreams have confirmed", losses.tombstones)?;
        f.gauge(
            "ledger_entries",
            "Entries of the ledger of losses, each a tombstone to be sent",
            losses.entries,
        )?;
        f.gauge(
            "untold_lost_messages",
            "Lost messages that no upstream has been told of yet",
            losses.untold,
        )?;
        f.gauge("unsafe_bytes", "Bytes of messages accepted and not safe yet", m.unsafe_bytes)?;
        f.gauge("holding", "1 while devices are told to hold", self.status.holding.into())?;
        f.counter("holds", "Times that devices were told to hold", self.status.messages.holds)?;
        f.gauge("ready", "1 while messages are taken and made safe", self.status.ready.into())
    }

    fn protocols(&self, f: &mut Family<'_, '_>) -> Result<(), Error> {
        let all =
            || [("mqtt", &self.status.mqtt), ("coap", &self.status.coap), ("serial", &self.status.serial)];
        type Field = fn(&Protocol) -> u64;
        let gauges: [(&str, &str, Field); 3] = [
            ("peers", "Connections, or CoAP peers remembered", |p| p.peers),
            ("sessions", "Sessions, connected or not", |p| p.sessions),
            ("subscriptions", "Subscriptions", |p| p.subscriptions),
        ];
        for (name, help, field) in gauges {
            f.gauges(name, help, "protocol", all(), |p| field(p))?;
        }
        let counters: [(&str, &str, Field); 9] = [
            ("received_messages", "Messages received, repetitions included", |p| p.received),
            ("repeated_messages", "Repetitions among the messages received", |p| p.repeated),
            ("acknowledgements", "Acknowledgements sent", |p| p.acknowledged),
            ("delivered_messages", "Messages sent to subscribers", |p| p.delivered),
            (
                "dropped_messages",
                "Messages dropped because nothing was promised and a bound was reached",
                |p| p.dropped,
            ),
            (
                "refused_peers",
                "Peers refused or closed for breaking the protocol, a bound or an access rule",
                |p| p.refused,
            ),
            (
                "sign_ins_refused",
                "Clients that could not prove who they are, or asked for a name that is another's or nobody's",
                |p| p.sign_ins_refused,
            ),
            ("publishes_denied", "Messages and wills that their device may not publish", |p| {
                p.publishes_denied
            }),
            ("subscriptions_denied", "Subscriptions that their device may not have", |p| {
                p.subscriptions_denied
            }),
        ];
        for (name, help, field) in counters {
            f.counters(name, help, "protocol", all(), |p| field(p))?;
        }
        f.counters(
            "refusals",
            "What MQTT clients were refused or sent away for: packets, messages, subscriptions, connections",
            "reason",
            self.snapshot.stats.mqtt.refusals.iter().copied(),
            |count| *count,
        )?;
        f.gauge("retained_messages", "Retained MQTT messages", self.status.mqtt.retained)?;
        f.counter(
            "not_retained_messages",
            "MQTT messages that could not be retained for want of room",
            self.status.mqtt.not_retained,
        )?;
        f.counter(
            "connections_refused",
            "Connections refused before a byte was read, because there were too many",
            self.connections_refused,
        )?;
        f.counter(
            "handshakes_failed",
            "TLS, WebSocket and PROXY handshakes that came to nothing",
            self.handshakes_failed,
        )?;
        f.gauge("dtls_associations", "DTLS associations", self.dtls.associations)?;
        f.counters(
            "dtls_handshakes",
            "DTLS handshakes, by what became of them: hellos answered with a cookie, hellos left unanswered because there were \
             too many, handshakes refused, and those that ended in an association",
            "result",
            [
                ("cookie", self.dtls.cookies),
                ("crowded", self.dtls.crowded),
                ("refused", self.dtls.refused),
                ("established", self.dtls.established),
            ],
            |count| *count,
        )?;
        f.counter(
            "dtls_evicted",
            "DTLS associations that ended because others needed their room",
            self.dtls.evicted,
        )?;
        f.counter("dtls_strays", "Datagrams that are no DTLS, or of no association", self.dtls.strays)
    }

    fn routes(&self, f: &mut Family<'_, '_>) -> Result<(), Error> {
        use super::status::Route;
        let all = || self.status.routes.iter().map(|r| (r.name.as_str(), r));
        type Field = fn(&Route) -> u64;
        let gauges: [(&str, &str, Field); 4] = [
            ("route_live_messages", "Messages that go ahead of the backlog", |r| r.live),
            ("route_waiting_messages", "Messages that wait, in memory or on the disk", |r| r.waiting),
            ("route_on_disk_messages", "Messages that wait on the disk", |r| r.on_disk),
            ("route_on_disk_bytes", "Bytes that wait on the disk", |r| r.on_disk_bytes),
        ];
        for (name, help, field) in gauges {
            f.gauges(name, help, "route", all(), |r| field(r))?;
        }
        let old = all().filter_map(|(name, r)| r.oldest_seconds.map(|seconds| (name, seconds)));
        let help = "How long ago the oldest message in memory was received, by the clock";
        f.gauges("route_oldest_seconds", help, "route", old, |seconds| *seconds)?;
        let counters: [(&str, &str, Field); 5] = [
            ("route_entered_messages", "Messages taken", |r| r.entered),
            ("route_delivered_messages", "Messages confirmed by the upstream", |r| r.delivered),
            ("route_buried_messages", "Messages that went to the dead letters", |r| r.buried),
            ("route_damaged_messages", "Stored messages that were damaged and are lost", |r| r.damaged),
            ("route_discarded_messages", "Messages discarded by the operator's word", |r| r.discarded),
        ];
        for (name, help, field) in counters {
            f.counters(name, help, "route", all(), |r| field(r))?;
        }
        Ok(())
    }

    fn upstreams(&self, f: &mut Family<'_, '_>) -> Result<(), Error> {
        use super::status::Upstream;
        let all = || self.status.upstreams.iter().map(|u| (u.name.as_str(), u));
        type Field = fn(&Upstream) -> u64;
        let gauges: [(&str, &str, Field); 3] = [
            ("upstream_up", "1 while connected", |u| u.up.into()),
            ("upstream_blocked", "1 while it asks for a pause", |u| u.blocked.into()),
            ("upstream_in_flight_messages", "Messages handed over and not settled", |u| u.in_flight),
        ];
        for (name, help, field) in gauges {
            f.gauges(name, help, "upstream", all(), |u| field(u))?;
        }
        let counters: [(&str, &str, Field); 8] = [
            ("upstream_drained_messages", "Messages of a backlog handed over", |u| u.drained),
            ("upstream_published_messages", "Messages handed over, repetitions included", |u| u.published),
            ("upstream_resent_messages", "Repetitions among the messages handed over", |u| u.resent),
            ("upstream_confirmed_messages", "Messages confirmed", |u| u.confirmed),
            ("upstream_returned_messages", "Messages returned as unroutable", |u| u.returned),
            ("upstream_nacked_messages", "Messages refused for the moment", |u| u.nacked),
            ("upstream_refused_messages", "Messages refused for good", |u| u.refused),
            ("upstream_links_lost", "Times the link was lost", |u| u.lost),
        ];
        for (name, help, field) in counters {
            f.counters(name, help, "upstream", all(), |u| field(u))?;
        }
        Ok(())
    }

    fn host(&self, f: &mut Family<'_, '_>) -> Result<(), Error> {
        let (store, process, driver) = (&self.status.store, &self.status.process, &self.snapshot.driver);
        f.counter("store_commits", "Commits done", store.commits)?;
        f.counter("store_commit_failures", "Commits that failed", store.commit_failures)?;
        f.counter("store_committed_rows", "Rows committed", store.committed_rows)?;
        f.gauge("store_quarantined", "Damaged databases that are not salvaged yet", store.quarantined)?;
        f.counter("store_salvaged_messages", "Messages salvaged from damaged databases", store.salvaged)?;
        f.counter("store_lost_messages", "Messages lost with damaged databases", store.lost)?;
        f.counter(
            "store_losses_unknown",
            "Damaged databases of which nobody can say how many messages they lost",
            store.losses_unknown,
        )?;
        f.gauge("store_bytes", "Size of the data directory's files", store.bytes)?;
        f.gauge("store_free_bytes", "Room beside the data directory's files", store.free_bytes)?;
        f.gauge("connections", "Stream connections", driver.connections)?;
        f.counter(
            "connection_received_bytes",
            "Bytes received on stream connections",
            driver.received_bytes,
        )?;
        f.counter("connection_sent_bytes", "Bytes sent on stream connections", driver.sent_bytes)?;
        f.counter("datagrams_sent", "Datagrams sent", driver.datagrams_sent)?;
        f.counter(
            "datagrams_unsent",
            "Datagrams that could not be sent and were dropped",
            driver.datagrams_unsent,
        )?;
        f.counter("driver_rounds", "Turns of the driver's loop", driver.rounds)?;
        f.counter("driver_inputs", "Facts handled by the driver", driver.inputs)?;
        f.gauge(
            "clock_synchronised",
            "1 while the wall clock is synchronised",
            driver.clock_synchronised.into(),
        )?;
        let [whole, other] = self.reloads;
        f.counters(
            "reloads",
            "Configurations read again: in force, or with a problem",
            "result",
            [("in force", whole), ("problem", other)],
            |count| *count,
        )?;
        f.gauge("uptime_seconds", "Time since the start", self.status.uptime_seconds)?;
        f.gauge("process_resident_bytes", "Resident memory", process.resident_bytes)?;
        f.gauge("process_open_files", "Open file descriptors", process.open_files)?;
        f.gauge("process_max_open_files", "File descriptors that may be open", process.max_open_files)?;
        f.gauge("process_threads", "Threads", process.threads)?;
        f.write("process_cpu_seconds", "CPU time used", &ConstCounter::new(process.cpu_seconds))
    }
}
