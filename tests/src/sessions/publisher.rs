//! A publisher whose session is kept. It holds every message until its handshake is over, comes back when its connection
//! breaks, and takes up each handshake where it stood: PUBLISH with DUP, or PUBREL. Keepers publish to retained topics.

use super::ledger::{Kept, clears};
use super::{Shared, TOPICS_EACH, qos};
use crate::fleet::{begin_one, payload};
use crate::link::{Link, wrong};
use crate::mqtt::Hello;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidegate_wire::mqtt::{Ack, Packet, PacketId, Qos, ReasonCode, Version};

/// Between two attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// How often a publisher that may not send looks whether it may.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A connection that owes an answer for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Messages under way at the most; below every Receive Maximum.
const WINDOW: usize = 8;
/// Bytes of a payload.
pub(super) const PAYLOAD_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// PUBLISH is sent; PUBACK or PUBREC is awaited.
    Published,
    /// PUBREL is sent; PUBCOMP is awaited.
    Released,
}

#[derive(Debug)]
struct Open {
    id: PacketId,
    number: usize,
    step: Step,
}

enum Answer {
    Ack(PacketId),
    Rec(PacketId),
    Comp(PacketId),
}

pub(super) struct Publisher {
    shared: Arc<Shared>,
    number: usize,
    open: VecDeque<Open>,
    next: usize,
    next_id: u16,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self { shared, number, open: VecDeque::new(), next: 0, next_id: 1 }
    }

    pub(super) async fn run(mut self) {
        let mut first = true;
        while !self.done() {
            if !std::mem::replace(&mut first, false) {
                self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            // The gateway is killed from time to time: that is what is being tested.
            let _ = self.connection().await;
        }
    }

    fn done(&self) -> bool {
        self.shared.ended() || (self.next == self.shared.plan.messages_each && self.open.is_empty())
    }

    /// Which retained topic a message is for, if this is a keeper.
    fn kept(&self, number: usize) -> Option<Kept> {
        let keeper = self.number.checked_sub(self.shared.plan.publishers)?;
        Some((keeper, number % TOPICS_EACH))
    }

    fn version(&self) -> Version {
        if self.number.is_multiple_of(2) { Version::V3_1_1 } else { Version::V5 }
    }

    async fn connection(&mut self) -> io::Result<()> {
        let id = format!("publisher-{}", self.number);
        let (mut link, present) =
            Link::connect(self.shared.address, &Hello::lasting(self.version(), &id)).await?;
        for index in 0..self.open.len() {
            let Open { id, number, step } = self.open[index];
            match step {
                Step::Published => self.put(&mut link, id, number, present),
                Step::Released if present => link.put(&Packet::PubRel(Ack::success(id))),
                Step::Released => {
                    // It was acknowledged; a session that is gone takes only the rest of the handshake with it.
                    self.shared.entries().enter_forgotten(self.number, number);
                    link.put(&Packet::PubRel(Ack::success(id)));
                }
            }
        }
        let mut heard = tokio::time::Instant::now();
        while !self.done() {
            while self.next < self.shared.plan.messages_each && self.open.len() < WINDOW && self.may_begin() {
                let id = PacketId::new(self.next_id).ok_or_else(|| io::Error::other("packet id"))?;
                self.next_id = self.next_id.checked_add(1).unwrap_or(1);
                if let Some(kept) = self.kept(self.next) {
                    self.shared.entries().enter_retained_begun(kept, self.next);
                }
                self.put(&mut link, id, self.next, false);
                self.open.push_back(Open { id, number: self.next, step: Step::Published });
                self.next += 1;
            }
            link.flush().await?;
            if self.open.is_empty() {
                heard = tokio::time::Instant::now();
            }
            let answer = link.next(LOOK_EVERY, |packet| match packet {
                Packet::PubAck(Ack { packet_id, reason, .. }) if !reason.is_failure() => {
                    Ok(Answer::Ack(packet_id))
                }
                Packet::PubRec(Ack { packet_id, reason, .. }) if !reason.is_failure() => {
                    Ok(Answer::Rec(packet_id))
                }
                // PUBREL of a handshake whose end the last connection kept for itself (3.7.2.1).
                Packet::PubComp(Ack { packet_id, reason, .. })
                    if !reason.is_failure() || reason == ReasonCode::PACKET_IDENTIFIER_NOT_FOUND =>
                {
                    Ok(Answer::Comp(packet_id))
                }
                other => Err(wrong(&other)),
            });
            match answer.await? {
                Some(answer) => {
                    heard = tokio::time::Instant::now();
                    self.hear(&mut link, answer?)?;
                }
                None if heard.elapsed() > SILENCE => return Err(io::ErrorKind::TimedOut.into()),
                None => {}
            }
        }
        Ok(())
    }

    fn hear(&mut self, link: &mut Link, answer: Answer) -> io::Result<()> {
        let (id, wanted) = match answer {
            Answer::Ack(id) => (id, (Qos::AtLeastOnce, Step::Published)),
            Answer::Rec(id) => (id, (Qos::ExactlyOnce, Step::Published)),
            Answer::Comp(id) => (id, (Qos::ExactlyOnce, Step::Released)),
        };
        let position =
            self.open.iter().position(|open| open.id == id && (qos(open.number), open.step) == wanted);
        let Some(position) = position else { return Err(wrong(&("an acknowledgement for", id))) };
        let number = self.open[position].number;
        if !matches!(answer, Answer::Comp(_)) {
            // PUBREC is the acknowledgement: from here on the message is the gateway's.
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            if let Some(kept) = self.kept(number) {
                self.shared.entries().enter_retained_acknowledged(kept, number);
            }
        }
        if matches!(answer, Answer::Rec(_)) {
            self.open[position].step = Step::Released;
            link.put(&Packet::PubRel(Ack::success(id)));
        } else {
            self.open.remove(position);
        }
        Ok(())
    }

    fn may_begin(&self) -> bool {
        begin_one(&self.shared.begun, &self.shared.allowed)
    }

    fn put(&self, link: &mut Link, id: PacketId, number: usize, dup: bool) {
        let qos = qos(number);
        match self.kept(number) {
            Some((keeper, place)) => {
                let value = if clears(number) { Vec::new() } else { payload(keeper, number, PAYLOAD_BYTES) };
                link.put_publish(&format!("kept/{keeper}/{place}"), &value, qos, id, dup, true);
            }
            None => {
                let topic = format!("from/{}/{}", self.number, qos as u8);
                let payload = payload(self.number, number, PAYLOAD_BYTES);
                link.put_publish(&topic, &payload, qos, id, dup, false);
            }
        }
    }
}
