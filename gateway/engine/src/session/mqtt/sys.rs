//! The gateway's own topics, `$SYS/broker/…`, under the names that operators know from Mosquitto: like retained messages
//! to a new subscriber, then whatever has changed, at an interval, as long as somebody subscribes. They never reach a route,
//! and no device can publish there: `$…` is the server's, an MQTT 5 client gets 0x90 (MQTT 5.0, 4.7.2) and an older one,
//! which has no word for it, is disconnected.

use super::retained::{Entry, Retained};
use super::{Mqtt, Shared};
use crate::id::{ConnId, DeviceId, MessageId, Seq};
use crate::message::{Message, Qos, Source};
use crate::time::{Duration, Instant, Stamp};
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::sync::Arc;

/// The first level of all of them.
const ROOT: &str = "$SYS";

/// What they say and when they say it next.
#[derive(Debug)]
pub(super) struct Sys {
    /// The sender's name.
    gateway: Option<DeviceId>,
    started: Instant,
    /// When they are published next; `None` while nobody subscribes.
    next: Option<Instant>,
    /// What was said last.
    values: Retained,
    /// Connections that wait for the first values.
    waiting: Vec<(Instant, ConnId)>,
    /// The most clients that were connected at once.
    most_clients: usize,
}

impl Sys {
    pub(super) fn new(gateway: &str, now: Instant) -> Self {
        Self {
            gateway: DeviceId::new(gateway).ok(),
            started: now,
            next: None,
            values: Retained::default(),
            waiting: Vec::new(),
            most_clients: 0,
        }
    }

    /// When [`Mqtt::sys_due`] publishes.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The next value for a new subscription; `None` when there is none left, or when the connection waits for the first.
    pub(super) fn next_value(&self, filter: &Filter, after: Option<&Topic>) -> Option<&Entry> {
        self.values.next(filter, after)
    }

    /// Whether the values are those of the last interval; otherwise the connection hears when they are.
    pub(super) fn is_fresh(&mut self, now: Instant, id: ConnId) -> bool {
        if self.next.is_none() {
            self.waiting.push((now, id));
        }
        self.next.is_some()
    }
}

/// Whether a filter asks for these topics.
pub(super) fn concerns(filter: &Filter) -> bool {
    filter.levels().next() == Some(ROOT)
}

impl Mqtt {
    /// Notes that one client more is connected.
    pub(super) fn count_clients(&mut self) {
        let clients = self.connections.len() - self.greeting.len();
        self.shared.sys.most_clients = self.shared.sys.most_clients.max(clients);
    }

    /// Begins to publish for those who have just subscribed.
    pub(super) fn greet_watchers(&mut self) {
        let waiting = std::mem::take(&mut self.shared.sys.waiting);
        for (now, id) in waiting {
            if self.shared.sys.next.is_none() {
                // Nobody else subscribes: what is new comes to this one like retained messages.
                self.refresh_sys(now);
            }
            if let Some(mut exchange) = self.exchange_of(now, id) {
                exchange.pump();
            }
        }
    }

    /// Takes up what has changed, if somebody subscribes, and sets the next time.
    pub(super) fn refresh_sys(&mut self, now: Instant) -> Vec<Arc<Message>> {
        let interval = self.shared.limits.sys_interval;
        if interval.is_zero() || !self.tree.has_root(ROOT) {
            self.shared.sys.next = None;
            self.shared.sys.values = Retained::default();
            return Vec::new();
        }
        self.shared.sys.next = Some(now.after(interval));
        let values = self.sys_values(now);
        values.into_iter().filter_map(|(name, value)| self.shared.sys_message(now, name, value)).collect()
    }

    fn sys_values(&self, now: Instant) -> [(&'static str, String); 20] {
        let shared = &self.shared;
        let clients = self.connections.len() - self.greeting.len();
        let sessions = self.sessions.len();
        let away = sessions.saturating_sub(clients);
        let uptime = now.since(shared.sys.started).as_secs();
        [
            ("version", concat!("Tidegate version ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("uptime", format!("{uptime} seconds")),
            ("clients/total", sessions.to_string()),
            ("clients/connected", clients.to_string()),
            ("clients/active", clients.to_string()),
            ("clients/disconnected", away.to_string()),
            ("clients/inactive", away.to_string()),
            ("clients/maximum", shared.sys.most_clients.to_string()),
            ("messages/received", shared.packets_received.to_string()),
            ("messages/sent", shared.packets_sent.to_string()),
            ("publish/messages/received", shared.received.to_string()),
            ("publish/messages/sent", shared.delivered.to_string()),
            ("publish/messages/dropped", shared.dropped.to_string()),
            ("publish/bytes/received", shared.payload_received.to_string()),
            ("publish/bytes/sent", shared.payload_sent.to_string()),
            ("bytes/received", shared.bytes_received.to_string()),
            ("bytes/sent", shared.bytes_sent.to_string()),
            ("subscriptions/count", self.tree.len().to_string()),
            ("shared_subscriptions/count", self.tree.shared_len().to_string()),
            ("retained messages/count", shared.retained.len().to_string()),
        ]
    }

    /// Publishes what has changed when its time has come.
    pub(super) fn sys_due(&mut self, now: Instant) {
        if self.shared.sys.next.is_some_and(|next| next <= now) {
            for message in self.refresh_sys(now) {
                self.announce(now, &message);
            }
        }
    }
}

impl Shared {
    /// A value as a message, if it has changed.
    fn sys_message(&mut self, now: Instant, name: &str, value: String) -> Option<Arc<Message>> {
        let topic = Topic::new(&format!("{ROOT}/broker/{name}")).ok()?;
        if self.sys.values.get(&topic).is_some_and(|entry| entry.message.payload == value.as_bytes()) {
            return None;
        }
        let message = Arc::new(Message {
            id: MessageId { epoch: 0, seq: Seq(0) },
            device: self.sys.gateway.clone()?,
            topic,
            payload: Bytes::from(value),
            received: Stamp::default(),
            qos: Qos::AtMostOnce,
            retain: true,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        });
        self.sys.values.put(Entry { message: Arc::clone(&message), since: now, waited: Duration::ZERO });
        Some(message)
    }
}
