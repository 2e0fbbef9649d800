//! Publications to hand to an upstream, and the driver's side of one: what it reports, in order.

use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate::config;
use tidegate::inbox::inbox;
use tidegate::upstream::{Upstream, start};
use tidegate_engine::event::{Drain, Input, Outcome, Publication, Senml};
use tidegate_engine::id::{DeviceId, GatewayId, LaneId, MessageId, Seq, Tag, UpstreamId};
use tidegate_engine::message::{Message, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;
use tokio::sync::mpsc;

/// How long anything may take that a healthy machine does at once.
pub const SOON: Duration = Duration::from_secs(30);

/// The gateway's name in these tests.
pub const GATEWAY: &str = "site-a";

/// A message, plain but for what a test changes.
#[must_use]
pub fn message(seq: u64) -> Message {
    Message {
        id: MessageId { epoch: 7, seq: Seq(seq) },
        device: DeviceId::new("boiler-3").expect("an id"),
        topic: Topic::new("sensors/boiler-3/temperature").expect("a topic"),
        payload: Bytes::from(format!("reading {seq}")),
        received: Stamp { unix_ms: 1_700_000_000_123, synchronised: true },
        qos: Qos::AtLeastOnce,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    }
}

/// A publication of a message, its sequence number as its tag.
#[must_use]
pub fn publication(message: Message, routing_key: &str) -> Publication {
    Publication {
        upstream: UpstreamId(0),
        tag: Tag(message.id.seq.0),
        lane: LaneId(1),
        message: Arc::new(message),
        routing_key: routing_key.to_owned(),
        senml: Senml::Untouched,
        packing: None,
        resend: false,
        salvaged: false,
        live: false,
    }
}

/// An upstream under test, as the driver holds it.
pub struct Driven {
    upstream: Box<dyn Upstream>,
    inbox: mpsc::Receiver<Input>,
    runtime: tokio::runtime::Runtime,
}

impl Driven {
    /// Starts an upstream.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(kind: config::UpstreamKind) -> Self {
        let config =
            config::Upstream { name: "cloud".to_owned(), kind, window: 512, drain: Drain::default() };
        let (sender, receiver) = inbox();
        let gateway = GatewayId::new(GATEWAY).expect("an id");
        let upstream = start(UpstreamId(0), &config, &gateway, sender).expect("starting an upstream");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { upstream, inbox: receiver, runtime }
    }

    /// The next report, if there is one in time.
    pub fn next(&mut self, at_most: Duration) -> Option<Input> {
        let inbox = &mut self.inbox;
        let report = self
            .runtime
            .block_on(async { tokio::time::timeout(at_most, inbox.recv()).await })
            .ok()
            .map(|report| report.expect("the upstream is gone"));
        if matches!(report, Some(Input::UpstreamUp { .. })) {
            self.upstream.up_seen();
        }
        report
    }

    /// Waits for the link.
    ///
    /// # Panics
    /// When anything else comes, or nothing.
    pub fn expect_up(&mut self) {
        match self.next(SOON) {
            Some(Input::UpstreamUp { .. }) => {}
            other => panic!("the link should be up, but: {other:?}"),
        }
    }

    /// Waits for the end of the link and gives what was settled before.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect_down(&mut self) -> Vec<(u64, Outcome)> {
        let mut settled = Vec::new();
        loop {
            match self.next(SOON) {
                Some(Input::UpstreamDown { .. }) => return settled,
                Some(Input::Settled { tag, outcome, .. }) => settled.push((tag.0, outcome)),
                Some(Input::UpstreamBlocked { .. }) => {}
                other => panic!("the link should be down, but: {other:?}"),
            }
        }
    }

    /// Nothing may be reported for a while.
    ///
    /// # Panics
    /// When something is.
    pub fn expect_silence(&mut self, length: Duration) {
        if let Some(report) = self.next(length) {
            panic!("nothing should be reported, but: {report:?}");
        }
    }

    /// Hands messages over.
    pub fn publish(&mut self, publications: Vec<Publication>) {
        self.upstream.publish(publications);
    }

    /// Asks for a new link.
    pub fn reset(&mut self) {
        self.upstream.reset();
    }

    /// Waits until so many are settled, each once, and gives the outcomes in the order of the tags.
    ///
    /// # Panics
    /// When one is settled twice, the link ends, or not all are settled in time.
    pub fn settled(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let until = Instant::now() + SOON;
        let mut settled: Vec<(u64, Outcome)> = Vec::new();
        while settled.len() < count {
            match self.next(until.saturating_duration_since(Instant::now())) {
                Some(Input::Settled { tag, outcome, .. }) => {
                    assert!(settled.iter().all(|(other, _)| *other != tag.0), "{tag:?} was settled twice");
                    settled.push((tag.0, outcome));
                }
                other => panic!("{} of {count} are settled, then: {other:?}", settled.len()),
            }
        }
        settled.sort_by_key(|(tag, _)| *tag);
        settled
    }
}
