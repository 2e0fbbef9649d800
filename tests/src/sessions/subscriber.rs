//! A subscriber whose session is kept, on both ends: it remembers the QoS 2 messages that it has and whose PUBREL has not come,
//! and takes a message for delivered once. Some go away now and then; and one looks at retained values and is never back.

use super::ledger::Kept;
use super::publisher::PAYLOAD_BYTES;
use super::{Shared, qos};
use crate::fleet::{origin, payload};
use crate::link::{Link, wrong};
use crate::mqtt::Hello;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidegate_wire::mqtt::{
    Ack, Packet, PacketId, Properties, Qos, Subscribe, Subscription, Subscriptions, Version,
};

/// Between two attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// How long a subscriber that goes away now and then stays away.
const AWAY: Duration = Duration::from_millis(300);
/// How often a subscriber looks whether the campaign is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For an answer on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What a subscriber that goes away now and then hears before it does.
const HEARS_BEFORE_GOING: std::ops::Range<usize> = 50..500;

const SUBSCRIBE_ID: PacketId = PacketId::new(1).unwrap();
const MARK_ID: PacketId = PacketId::new(2).unwrap();

enum Heard {
    Message { id: Option<PacketId>, qos: Qos, dup: bool, publisher: usize, number: usize },
    Altered { what: String },
    Released(PacketId),
    Subscribed,
}

pub(super) struct Subscriber {
    shared: Arc<Shared>,
    number: usize,
    /// QoS 2 messages that it has and that are not released.
    held: BTreeSet<u16>,
    subscribed: bool,
}

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self { shared, number, held: BTreeSet::new(), subscribed: false }
    }

    pub(super) async fn run(mut self) {
        let mut first = true;
        while !self.shared.ended() {
            if !std::mem::replace(&mut first, false) {
                self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            if self.connection().await.is_ok() && !self.shared.ended() {
                tokio::time::sleep(AWAY).await;
            }
        }
    }

    fn qos(&self) -> Qos {
        if self.number.is_multiple_of(2) { Qos::ExactlyOnce } else { Qos::AtLeastOnce }
    }

    fn version(&self) -> Version {
        if (self.number / 2).is_multiple_of(2) { Version::V5 } else { Version::V3_1_1 }
    }

    /// One connection; ends well when it is this subscriber that goes.
    async fn connection(&mut self) -> io::Result<()> {
        let name = format!("subscriber-{}", self.number);
        let (mut link, present) =
            Link::connect(self.shared.address, &Hello::lasting(self.version(), &name)).await?;
        if self.subscribed {
            self.shared.entries().enter_session(&name, present);
        }
        if !present {
            self.held.clear();
        }
        if !self.subscribed || !present {
            put_subscribe(&mut link, &["from/#"], self.qos());
        }
        let goes = self.number % 4 == 3;
        let mut patience = if goes { fastrand::usize(HEARS_BEFORE_GOING) } else { usize::MAX };
        while !self.shared.ended() && patience > 0 {
            link.flush().await?;
            let Some(heard) = link.next(LOOK_EVERY, hear).await? else { continue };
            match heard? {
                Heard::Subscribed => {
                    self.subscribed = true;
                    self.shared.entries().enter_subscribed(self.number);
                }
                Heard::Released(id) => {
                    self.held.remove(&id.get());
                    link.put(&Packet::PubComp(Ack::success(id)));
                }
                Heard::Altered { what } => {
                    self.shared.entries().enter_altered(&what);
                    return Err(io::Error::other(what));
                }
                Heard::Message { id, qos, dup, publisher, number } => {
                    patience -= 1;
                    self.take(&mut link, id, qos, dup, publisher, number);
                }
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        link: &mut Link,
        id: Option<PacketId>,
        qos: Qos,
        dup: bool,
        publisher: usize,
        number: usize,
    ) {
        let expected = (super::qos(number) as u8).min(self.qos() as u8);
        let Some(id) = id.filter(|_| qos as u8 == expected) else {
            self.shared.entries().enter_altered(&format!("QoS {} for {expected}", qos as u8));
            return;
        };
        if qos == Qos::AtLeastOnce {
            self.shared.entries().enter_delivery(self.number, publisher, number, qos);
            link.put(&Packet::PubAck(Ack::success(id)));
            return;
        }
        // A packet id that is held stands for the same message, sent again.
        if self.held.insert(id.get()) {
            self.shared.entries().enter_delivery(self.number, publisher, number, qos);
        } else if !dup {
            self.shared.entries().enter_altered(&format!("packet id {} for two messages", id.get()));
        }
        link.put(&Packet::PubRec(Ack::success(id)));
    }
}

fn hear(packet: Packet<'_>) -> io::Result<Heard> {
    match packet {
        Packet::Publish(message) => {
            let told = origin(message.payload).filter(|(publisher, number)| {
                message.payload == payload(*publisher, *number, PAYLOAD_BYTES)
                    && message.topic == format!("from/{publisher}/{}", qos(*number) as u8)
            });
            let Some((publisher, number)) = told else {
                return Ok(Heard::Altered { what: format!("{message:?}") });
            };
            Ok(Heard::Message {
                id: message.packet_id,
                qos: message.qos,
                dup: message.dup,
                publisher,
                number,
            })
        }
        Packet::PubRel(ack) => Ok(Heard::Released(ack.packet_id)),
        Packet::SubAck(ack) if ack.codes.iter().all(|code| *code <= 2) => Ok(Heard::Subscribed),
        other => Err(wrong(&other)),
    }
}

fn put_subscribe(link: &mut Link, filters: &[&str], qos: Qos) {
    let subscriptions: Vec<_> = filters.iter().map(|filter| Subscription::new(filter, qos)).collect();
    link.put(&Packet::Subscribe(Subscribe {
        packet_id: SUBSCRIBE_ID,
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&subscriptions),
    }));
}

/// Asks for every retained value; ends when all that must be there are, or after `within`.
pub(super) async fn retained(
    shared: &Shared,
    acknowledged: &BTreeMap<Kept, Option<usize>>,
    within: Duration,
) -> BTreeMap<Kept, usize> {
    let until = tokio::time::Instant::now() + within;
    let mut found = BTreeMap::new();
    while tokio::time::Instant::now() < until {
        // A client that has not been there before, on each attempt.
        let asked = ask(shared, acknowledged, &mut found, until).await;
        if asked.is_ok() {
            break;
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
    found
}

async fn ask(
    shared: &Shared,
    acknowledged: &BTreeMap<Kept, Option<usize>>,
    found: &mut BTreeMap<Kept, usize>,
    until: tokio::time::Instant,
) -> io::Result<()> {
    let name = format!("looks-{}", fastrand::u64(..));
    let mark = format!("mark/{name}");
    let (mut link, _) = Link::connect(shared.address, &Hello::new(Version::V3_1_1, &name)).await?;
    put_subscribe(&mut link, &["kept/#", &mark], Qos::AtLeastOnce);
    link.flush().await?;
    let mut marked = false;
    loop {
        let sound = |(kept, last): (&Kept, &Option<usize>)| {
            shared.entries().may_be(*kept, *last, found.get(kept).copied())
        };
        if (marked && acknowledged.iter().all(sound)) || tokio::time::Instant::now() >= until {
            return Ok(());
        }
        let read = |packet: Packet<'_>| match packet {
            Packet::Publish(message) => Ok(Some((
                message.packet_id,
                message.retain.then(|| (message.topic.to_owned(), origin(message.payload))),
                message.topic == mark,
            ))),
            Packet::SubAck(_) => Ok(None),
            Packet::PubAck(_) => Ok(Some((None, None, false))),
            other => Err(wrong(&other)),
        };
        match link.next(ANSWER_WITHIN.min(LOOK_EVERY), read).await?.transpose()? {
            // What was retained before comes ahead of what is published now.
            Some(None) => link.put_publish(&mark, b"", Qos::AtLeastOnce, MARK_ID, false, false),
            Some(Some((packet_id, value, mine))) => {
                marked |= mine;
                if let Some((topic, Some((_, number)))) = value
                    && let Some(kept) = place(&topic)
                {
                    found.insert(kept, number);
                }
                if let Some(packet_id) = packet_id {
                    link.put(&Packet::PubAck(Ack::success(packet_id)));
                }
            }
            None => {}
        }
        link.flush().await?;
    }
}

/// The retained topic of this name.
fn place(topic: &str) -> Option<Kept> {
    let mut parts = topic.strip_prefix("kept/")?.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
