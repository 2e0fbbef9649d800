//! The tour with rumqttc, the client of most Rust services, in its two forms: for MQTT 3.1.1 and for MQTT 5. The same steps as
//! the scripts beside it; it runs in the test's own process.

use crate::server::{Transport, Url};
use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::{Filter, PublishProperties, SubscribeProperties};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What any one answer may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(30);

/// The QoS of what is sent while the subscriber is away. Two are handed over in order only among their own kind.
const AWAY: [u8; 6] = [1, 1, 1, 2, 2, 2];

/// A message as it came.
#[derive(Debug)]
struct Got {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Option<PublishProperties>,
}

/// What else a connection tells.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Connected {
        session_present: bool,
    },
    Granted(Option<u8>),
    /// PUBACK or PUBCOMP, or for QoS 0 that it was written.
    Published,
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connection; its event loop turns in a task of its own.
struct Member {
    client: Client,
    said: mpsc::UnboundedReceiver<Said>,
    messages: mpsc::UnboundedReceiver<Got>,
    turning: JoinHandle<()>,
    session_present: bool,
}

/// How a member connects.
#[derive(Clone, Default)]
struct Wish {
    keep: bool,
    will: Option<(String, &'static str)>,
}

/// Where and as whom the tour goes.
struct Tour<'a> {
    url: &'a Url,
    version: u8,
    name: String,
}

/// Takes the events of one form of the client apart. The two differ in types only, which the caller brings into scope.
macro_rules! turn {
    ($events:expr, $said:expr, $messages:expr, $properties:expr) => {
        loop {
            let heard = match $events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(answer))) => {
                    Some(Said::Connected { session_present: answer.session_present })
                }
                Ok(Event::Incoming(Packet::SubAck(answer))) => {
                    Some(Said::Granted(match answer.return_codes.as_slice() {
                        [SubscribeReasonCode::Success(qos)] => Some(*qos as u8),
                        _ => None,
                    }))
                }
                Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Some(Said::Published),
                Ok(Event::Outgoing(rumqttc::Outgoing::Publish(0))) => Some(Said::Published),
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let properties = $properties(&message);
                    let got = Got {
                        topic: String::from_utf8_lossy(message.topic.as_ref() as &[u8]).into_owned(),
                        payload: message.payload.to_vec(),
                        qos: message.qos as u8,
                        retain: message.retain,
                        properties,
                    };
                    let _ = $messages.send(got);
                    None
                }
                Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(_) => break,
                Ok(_) => None,
            };
            if let Some(said) = heard {
                let _ = $said.send(said);
            }
        }
    };
}

impl Tour<'_> {
    async fn member(&self, role: &str, wish: Wish) -> Member {
        use rumqttc::{QoS, TlsConfiguration};
        let id = format!("{}-{role}", self.name);
        let tls = || TlsConfiguration::Simple { ca: self.url.ca.clone(), alpn: None, client_auth: None };
        let transport = match self.url.transport {
            Transport::Tcp => rumqttc::Transport::Tcp,
            Transport::Tls => rumqttc::Transport::Tls(tls()),
            Transport::WebSocket => rumqttc::Transport::Ws,
            Transport::SecureWebSocket => rumqttc::Transport::Wss(tls()),
        };
        // Over WebSocket it takes the whole URL for the host.
        let host = match self.url.transport {
            Transport::Tcp | Transport::Tls => self.url.host.to_owned(),
            Transport::WebSocket | Transport::SecureWebSocket => self.url.to_string(),
        };
        let (say, said) = mpsc::unbounded_channel();
        let (hand, messages) = mpsc::unbounded_channel();
        let (client, turning) = if self.version == 4 {
            let mut options = rumqttc::MqttOptions::new(id, host, self.url.port);
            options.set_transport(transport).set_clean_session(!wish.keep);
            if let Some((topic, payload)) = wish.will {
                options.set_last_will(rumqttc::LastWill::new(topic, payload, QoS::AtLeastOnce, false));
            }
            let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
            let turning = tokio::spawn(async move {
                use rumqttc::{Event, Packet, Publish, SubscribeReasonCode};
                turn!(events, say, hand, |_: &Publish| None);
            });
            (Client::V4(client), turning)
        } else {
            let mut options = v5::MqttOptions::new(id, host, self.url.port);
            options.set_transport(transport).set_clean_start(!wish.keep);
            options.set_session_expiry_interval(wish.keep.then_some(300));
            // It takes no aliases: rumqttc 0.25 hands such a message over without its topic.
            if let Some((topic, payload)) = wish.will {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                options.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, payload, qos, false, None));
            }
            let (client, mut events) = v5::AsyncClient::new(options, 16);
            let turning = tokio::spawn(async move {
                use v5::Event;
                use v5::mqttbytes::v5::{Packet, Publish, SubscribeReasonCode};
                let properties = |message: &Publish| message.properties.clone();
                turn!(events, say, hand, properties);
            });
            (Client::V5(client), turning)
        };
        let mut member = Member { client, said, messages, turning, session_present: false };
        match member.said().await {
            Said::Connected { session_present } => member.session_present = session_present,
            other => panic!("instead of CONNACK: {other:?}"),
        }
        member
    }

    fn topic(&self, of: &str) -> String {
        format!("tour/{}/{of}", self.name)
    }
}

impl Member {
    async fn said(&mut self) -> Said {
        let said = timeout(WITHIN, self.said.recv()).await.expect("an answer in time");
        said.expect("the connection ended")
    }

    async fn subscribe(&mut self, topic: &str, qos: u8, identifier: Option<usize>) {
        match &self.client {
            Client::V4(client) => {
                client.subscribe(topic, rumqttc::qos(qos).unwrap()).await.unwrap();
            }
            Client::V5(client) => {
                let filter = Filter::new(topic, v5::mqttbytes::qos(qos).unwrap());
                let properties = SubscribeProperties { id: identifier, user_properties: Vec::new() };
                client.subscribe_many_with_properties([filter], properties).await.unwrap();
            }
        }
        assert_eq!(self.said().await, Said::Granted(Some(qos)), "SUBACK for {topic}");
    }

    async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8, retain: bool) {
        match &self.client {
            Client::V4(client) => {
                client.publish(topic, rumqttc::qos(qos).unwrap(), retain, payload).await.unwrap();
            }
            Client::V5(client) => {
                let qos = v5::mqttbytes::qos(qos).unwrap();
                client.publish(topic, qos, retain, payload.into()).await.unwrap();
            }
        }
        assert_eq!(self.said().await, Said::Published, "publishing to {topic}");
    }

    async fn publish_with(&mut self, topic: &str, payload: &'static str, properties: PublishProperties) {
        let Client::V5(client) = &self.client else { panic!("properties are for MQTT 5") };
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        client.publish_with_properties(topic, qos, false, payload, properties).await.unwrap();
        assert_eq!(self.said().await, Said::Published, "publishing to {topic}");
    }

    async fn next(&mut self) -> Got {
        timeout(WITHIN, self.messages.recv()).await.expect("a message in time").expect("the connection ended")
    }

    async fn take(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8, retain: bool) -> Got {
        let got = self.next().await;
        let found = (got.topic.as_str(), got.payload.as_slice(), got.qos, got.retain);
        assert_eq!(found, (topic, payload.as_ref(), qos, retain));
        got
    }

    async fn leave(self) {
        match &self.client {
            Client::V4(client) => client.disconnect().await.unwrap(),
            Client::V5(client) => client.disconnect().await.unwrap(),
        }
        timeout(WITHIN, self.turning).await.expect("DISCONNECT is sent in time").unwrap();
    }

    /// Ends the connection without DISCONNECT.
    async fn vanish(self) {
        self.turning.abort();
        let _ = self.turning.await;
    }
}

async fn round_trip(tour: &Tour<'_>, qos: u8) {
    let mut publisher = tour.member(&format!("pub-{qos}"), Wish::default()).await;
    let mut subscriber = tour.member(&format!("sub-{qos}"), Wish::default()).await;
    let topic = tour.topic(&format!("qos/{qos}/é"));
    subscriber.subscribe(&topic, qos, None).await;
    for payload in [(0..=255).cycle().take(768).collect(), Vec::new(), b"21.5".to_vec()] {
        publisher.publish(&topic, payload.clone(), qos, false).await;
        subscriber.take(&topic, payload, qos, false).await;
    }
    publisher.leave().await;
    subscriber.leave().await;
}

async fn retained(tour: &Tour<'_>) {
    let (topic, beside) = (tour.topic("retained"), tour.topic("mark"));
    let mut publisher = tour.member("keeper", Wish::default()).await;
    publisher.publish(&topic, "first", 1, true).await;
    publisher.publish(&topic, "last", 1, true).await;
    let mut late = tour.member("late", Wish::default()).await;
    late.subscribe(&topic, 1, None).await;
    late.take(&topic, "last", 1, true).await;
    publisher.publish(&topic, "live", 1, true).await;
    late.take(&topic, "live", 1, false).await;
    publisher.publish(&topic, "", 1, true).await;
    late.take(&topic, "", 1, false).await;
    let mut later = tour.member("later", Wish::default()).await;
    later.subscribe(&topic, 1, None).await;
    later.subscribe(&beside, 1, None).await;
    publisher.publish(&beside, "nothing came before", 1, false).await;
    later.take(&beside, "nothing came before", 1, false).await;
    for member in [publisher, late, later] {
        member.leave().await;
    }
}

async fn will(tour: &Tour<'_>) {
    let topic = tour.topic("will");
    let mut watcher = tour.member("watcher", Wish::default()).await;
    watcher.subscribe(&topic, 1, None).await;
    let last = |payload| Wish { will: Some((topic.clone(), payload)), ..Wish::default() };
    tour.member("orderly", last("must not be sent")).await.leave().await;
    tour.member("victim", last("gone")).await.vanish().await;
    watcher.take(&topic, "gone", 1, false).await;
    watcher.leave().await;
}

async fn resume(tour: &Tour<'_>) {
    let topic = tour.topic("resume");
    let keep = || Wish { keep: true, ..Wish::default() };
    let mut sleeper = tour.member("sleeper", keep()).await;
    assert!(!sleeper.session_present, "a new session is said to be present");
    sleeper.subscribe(&topic, 2, None).await;
    sleeper.leave().await;
    let mut publisher = tour.member("meanwhile", Wish::default()).await;
    for (number, qos) in AWAY.into_iter().enumerate() {
        publisher.publish(&topic, number.to_string(), qos, false).await;
    }
    publisher.leave().await;
    let mut sleeper = tour.member("sleeper", keep()).await;
    assert!(sleeper.session_present, "the session is gone");
    for (number, qos) in AWAY.into_iter().enumerate() {
        sleeper.take(&topic, number.to_string(), qos, false).await;
    }
    sleeper.leave().await;
    let last = tour.member("sleeper", Wish::default()).await;
    assert!(!last.session_present, "a clean start found a session");
    last.leave().await;
}

async fn shared(tour: &Tour<'_>) {
    const COUNT: usize = 20;
    let (topic, end) = (tour.topic("shared"), tour.topic("shared/end"));
    let mut members =
        [tour.member("member-1", Wish::default()).await, tour.member("member-2", Wish::default()).await];
    for member in &mut members {
        member.subscribe(&format!("$share/crew/{topic}"), 1, None).await;
        member.subscribe(&end, 1, None).await;
    }
    let mut publisher = tour.member("sharer", Wish::default()).await;
    for number in 0..COUNT {
        publisher.publish(&topic, number.to_string(), 1, false).await;
    }
    publisher.publish(&end, "end", 1, false).await;
    let mut parts = Vec::new();
    for member in &mut members {
        let mut part = Vec::new();
        loop {
            let got = member.next().await;
            if got.topic == end {
                break;
            }
            part.push(String::from_utf8(got.payload).unwrap().parse::<usize>().unwrap());
        }
        assert!(!part.is_empty(), "one member had all the work");
        parts.extend(part);
    }
    assert_eq!(parts.len(), COUNT, "{parts:?}");
    assert!(parts.into_iter().collect::<BTreeSet<_>>().into_iter().eq(0..COUNT), "not each message once");
    for member in members {
        member.leave().await;
    }
    publisher.leave().await;
}

async fn properties(tour: &Tour<'_>) {
    let topic = tour.topic("properties");
    let mut publisher = tour.member("speaker", Wish::default()).await;
    let mut subscriber = tour.member("listener", Wish::default()).await;
    subscriber.subscribe(&topic, 1, Some(7)).await;
    let user = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(100),
        topic_alias: None,
        response_topic: Some(format!("{topic}/answer")),
        correlation_data: Some(vec![0, 1, 255].into()),
        user_properties: vec![user("unit", "°C"), user("unit", "K"), user("place", "boiler")],
        subscription_identifiers: Vec::new(),
        content_type: Some("text/plain".to_owned()),
    };
    publisher.publish_with(&topic, "full", sent.clone()).await;
    let got = subscriber.take(&topic, "full", 1, false).await.properties.expect("properties");
    let expiry = got.message_expiry_interval;
    assert!(expiry.is_some_and(|seconds| (1..=100).contains(&seconds)), "{expiry:?}");
    let wanted =
        PublishProperties { message_expiry_interval: expiry, subscription_identifiers: vec![7], ..sent };
    assert_eq!(got, wanted);
    publisher.leave().await;
    subscriber.leave().await;
}

async fn topic_alias(tour: &Tour<'_>) {
    let topic = tour.topic("alias");
    let mut publisher = tour.member("short", Wish::default()).await;
    let mut subscriber = tour.member("long", Wish::default()).await;
    subscriber.subscribe(&topic, 1, None).await;
    let alias = || PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
    publisher.publish_with(&topic, "whole", alias()).await;
    publisher.publish_with("", "alias", alias()).await;
    subscriber.take(&topic, "whole", 1, false).await;
    subscriber.take(&topic, "alias", 1, false).await;
    publisher.leave().await;
    subscriber.leave().await;
}

/// Makes the tour; panics with the reason where a step fails.
pub(crate) fn go(url: &Url, version: u8, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tour = Tour { url, version, name: name.to_owned() };
        tour.member("first", Wish::default()).await.leave().await;
        for qos in 0..=2 {
            round_trip(&tour, qos).await;
        }
        retained(&tour).await;
        will(&tour).await;
        resume(&tour).await;
        if version == 5 {
            shared(&tour).await;
            properties(&tour).await;
            topic_alias(&tour).await;
        }
    });
}
