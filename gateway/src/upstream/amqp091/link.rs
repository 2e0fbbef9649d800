//! One link's life: messages out without waiting for each other, confirms in as they come. Does not make links and knows
//! no URLs. One task does it all: with a thread or a promise between a message and its confirm, waking each other
//! would cost more than everything else.
//!
//! **Returns.** A broker returns an unroutable message before it confirms it (RabbitMQ's documentation of publisher
//! confirms), so a confirm says "delivered" unless the return came first. A return is matched with its message by message id and routing key.
//!
//! **Channel errors.** The broker closes the channel for the fault of one message without saying of which. What was not
//! confirmed by then is suspect: it is sent again, one at a time, and the one that closes the channel again is refused. A fault of
//! set-up (no exchange, no permission) meets every message and refuses none: the link ends and is made again with back-off.
//!
//! **Batches.** What the broker says to a batch it may mean of any of its messages. Only a confirm settles them all; a batch that comes back or is
//! refused is taken apart, and each of its messages is sent by itself, before whatever waits, and settled by what is said to it.

use super::bundle;
use super::connect::{CHANNEL, Link, Reply, exchange_fault};
use super::envelope::{self, SHORT_STRING_BYTES};
use super::frames::Frame;
use super::packer::{Closed, Packer, Ready};
use super::unconfirmed::{Load, Unconfirmed};
use super::{Order, SAME_FAULT_LOGGED_EVERY};
use crate::config;
use crate::inbox::{DriverGone, Inbox};
use crate::upstream::batch::Compressor;
use amq_protocol::protocol::basic::AMQPMethod as Basic;
use amq_protocol::protocol::channel::{self, AMQPMethod as Channel};
use amq_protocol::protocol::confirm::{self, AMQPMethod as Confirm};
use amq_protocol::protocol::connection::{self, AMQPMethod as Connection};
use amq_protocol::protocol::{AMQPClass, basic};
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tidegate_engine::event::{Input, Outcome, Publication};
use tidegate_engine::id::{GatewayId, Tag, UpstreamId};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// How often a link is looked at that says nothing: heartbeats are due in whole seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a broker has to answer a polite goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Why a link ended.
pub(super) enum End {
    /// Nobody wants it any more.
    Stopped,
    /// The link failed, or was to be made anew.
    Lost(String),
    /// The link works and the broker's set-up does not let it be used; says who must do what.
    SetUp(String),
}

impl From<DriverGone> for End {
    fn from(DriverGone: DriverGone) -> Self {
        Self::Stopped
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Where facts go.
pub(super) struct Report<'a> {
    pub(super) upstream: UpstreamId,
    pub(super) name: &'a str,
    pub(super) inbox: &'a Inbox,
}

impl Report<'_> {
    async fn settled(&self, settled: &mut Vec<(Tag, Outcome)>) -> Result<(), DriverGone> {
        if settled.is_empty() {
            return Ok(());
        }
        let upstream = self.upstream;
        let input = |(tag, outcome)| Input::Settled { upstream, tag, outcome };
        self.inbox.send_all(settled.drain(..).map(input).collect()).await
    }

    async fn blocked(&self, blocked: bool) -> Result<(), DriverGone> {
        self.inbox.send(Input::UpstreamBlocked { upstream: self.upstream, blocked }).await
    }
}

/// Whether the channel takes messages.
enum State {
    Open,
    /// A fresh channel was asked for, after the broker closed the last one.
    Reopening {
        since: Instant,
    },
}

/// One link's state.
pub(super) struct Session<'a> {
    report: Report<'a>,
    config: &'a config::Amqp,
    gateway: &'a GatewayId,
    /// The engine's window, in messages.
    window: usize,
    link: Link,
    /// The number of this link.
    ups: u64,
    /// The driver's last word on which link it hands over for.
    ups_seen: u64,
    state: State,
    /// Handed over and not written yet; bounded by the engine's window.
    waiting: VecDeque<Publication>,
    /// In batches that are not full; bounded by the window.
    packer: Packer,
    compressor: Compressor,
    /// Of batches that were refused, to be sent one by one; bounded by the window.
    apart: VecDeque<Publication>,
    /// On its way; bounded by the window.
    unconfirmed: Unconfirmed,
    /// What an error of the channel may have been about, oldest first; bounded by the window.
    suspects: VecDeque<Publication>,
    /// The publication under way is a suspect, sent alone.
    alone: bool,
    /// When it was last said that a batch was refused.
    split_said: Option<Instant>,
    /// Facts of this turn; bounded by the window.
    settled: Vec<(Tag, Outcome)>,
    /// A basic.return whose properties are still to come: why it came back, and its routing key.
    returning: Option<(String, String)>,
    /// The broker has asked for a pause of the connection (RabbitMQ's connection.blocked).
    blocked: bool,
    /// The broker has asked for a pause of the channel (AMQP 0-9-1, channel.flow).
    stopped: bool,
    last_sent: Instant,
    last_received: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        report: Report<'a>,
        config: &'a config::Amqp,
        gateway: &'a GatewayId,
        window: usize,
        link: Link,
        ups: u64,
    ) -> Self {
        let now = Instant::now();
        Self {
            report,
            config,
            gateway,
            window,
            blocked: link.blocked,
            stopped: false,
            link,
            ups,
            ups_seen: 0,
            state: State::Open,
            waiting: VecDeque::new(),
            packer: Packer::default(),
            compressor: Compressor::default(),
            apart: VecDeque::new(),
            unconfirmed: Unconfirmed::default(),
            suspects: VecDeque::new(),
            alone: false,
            split_said: None,
            settled: Vec::new(),
            returning: None,
            last_sent: now,
            last_received: now,
        }
    }

    /// Serves the link until it ends. What is not settled by then will not be.
    pub(super) async fn run(mut self, orders: &mut mpsc::Receiver<Order>, reset: &Notify) -> End {
        let end = match self.serve(orders, reset).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        // What the broker said before the end holds.
        let told = match self.report.settled(&mut self.settled).await {
            Ok(()) if self.blocked || self.stopped => self.report.blocked(false).await,
            told => told,
        };
        if told.is_ok() { end } else { End::Stopped }
    }

    async fn serve(&mut self, orders: &mut mpsc::Receiver<Order>, reset: &Notify) -> Result<Infallible, End> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.blocked {
            self.report.blocked(true).await?;
        }
        loop {
            self.write();
            self.report.settled(&mut self.settled).await?;
            // A batch that cannot be written now needs no waking: what makes room does it.
            let ripe = self.packer.due().filter(|_| self.open());
            tokio::select! {
                // The broker comes last: one that never stops talking must not keep the others waiting, and none of them can.
                biased;
                () = reset.notified() => return Err(End::Lost("a new link was asked for".into())),
                _ = look.tick() => {
                    if orders.is_closed() && !self.open() {
                        return Err(End::Stopped);
                    }
                    self.look()?;
                }
                () = at(ripe) => {}
                order = orders.recv(), if self.waiting.is_empty() && self.open() => match order {
                    Some(order) => {
                        self.order(order);
                        // One write for all that is at hand.
                        while let Ok(order) = orders.try_recv() {
                            self.order(order);
                        }
                    }
                    None => {
                        let _ = tokio::time::timeout(GOODBYE_WITHIN, self.goodbye()).await;
                        return Err(End::Stopped);
                    }
                },
                turned = self.link.frames.turn() => {
                    // Room in the socket is no sign of life.
                    if turned? {
                        self.last_received = Instant::now();
                    }
                    while let Some(frame) = self.link.frames.next().map_err(End::Lost)? {
                        self.take(frame).await?;
                    }
                }
            }
        }
    }

    /// Whether messages other than suspects may be written.
    fn open(&self) -> bool {
        matches!(self.state, State::Open)
            && self.suspects.is_empty()
            && !self.alone
            && !self.stopped
            && self.link.frames.has_room()
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::UpSeen(ups) => self.ups_seen = ups,
            Order::Publish(publications) if self.ups_seen == self.ups => self.waiting.extend(publications),
            Order::Publish(_) => {} // meant for an earlier link
        }
    }

    /// Writes what may be written now.
    fn write(&mut self) {
        if matches!(self.state, State::Open) && self.unconfirmed.is_empty() && !self.stopped {
            self.alone = false;
            // One that cannot even be written is settled, and the next one's turn has come.
            while !self.alone
                && let Some(suspect) = self.suspects.pop_front()
            {
                self.alone = self.publish(suspect, true);
            }
        }
        while self.open()
            && let Some(publication) = self.apart.pop_front()
        {
            self.publish(publication, false);
        }
        while self.open()
            && let Some(publication) = self.waiting.pop_front()
        {
            if publication.packing.is_none() && self.packer.is_empty() {
                self.publish(publication, false);
            } else {
                self.pack(publication);
            }
        }
        if !self.packer.is_empty() && self.open() {
            // With most of the window in here the engine hands nothing more over that could fill them.
            let stuck = self.packer.messages() > self.window / 4 * 3;
            let ready = if stuck { self.packer.all() } else { self.packer.ripe(Instant::now()) };
            self.send(ready);
        }
    }

    /// Puts a publication to others, as its route asks for, and writes what is ready by that.
    fn pack(&mut self, publication: Publication) {
        if publication.routing_key.len() > SHORT_STRING_BYTES {
            // It is refused, and by itself.
            self.publish(publication, false);
            return;
        }
        let ready = self.packer.add(self.gateway, publication, Instant::now());
        self.send(ready);
    }

    /// Writes what is ready, though there be no room for all of it: beyond what may be unsent, at most all open batches.
    fn send(&mut self, ready: Vec<Ready>) {
        for ready in ready {
            match ready {
                Ready::One(publication) => _ = self.publish(publication, false),
                Ready::Batch(batch) => self.publish_batch(batch),
            }
        }
    }

    fn publish_batch(&mut self, batch: Closed) {
        let exchange = &self.config.exchange.name;
        let out = self.link.frames.output();
        let id = bundle::publish(out, self.gateway, exchange, &batch, &mut self.compressor);
        self.last_sent = Instant::now();
        let Closed { publications, routing_key, .. } = batch;
        self.unconfirmed.push(Load::Batch { publications, id, routing_key });
    }

    /// Writes one message; false when AMQP cannot carry it, which settles it.
    fn publish(&mut self, publication: Publication, resend: bool) -> bool {
        let out = self.link.frames.output();
        match envelope::publish(out, self.gateway, &self.config.exchange.name, &publication, resend) {
            Ok(()) => {
                self.last_sent = Instant::now();
                self.unconfirmed.push(Load::One(publication));
                true
            }
            Err(why) => {
                self.settled.push((publication.tag, Outcome::Refused(why)));
                false
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Method { channel: 0, method: AMQPClass::Connection(method) } => {
                self.take_connection(method).await
            }
            Frame::Method { channel: CHANNEL, method } => self.take_channel(method).await,
            // Of a message on the channel that was closed.
            Frame::Header { .. } if !matches!(self.state, State::Open) => Ok(()),
            Frame::Header { message_id } => {
                let Some((why, key)) = self.returning.take() else {
                    return Err(End::Lost("the broker sent a message that nobody asked for".into()));
                };
                if self.unconfirmed.returned(self.gateway, &message_id, &key, why) {
                    Ok(())
                } else {
                    Err(End::Lost("the broker returned a message that nobody sent".into()))
                }
            }
            Frame::Body | Frame::Heartbeat => Ok(()),
            frame @ Frame::Method { .. } => Err(unasked(&frame)),
        }
    }

    async fn take_connection(&mut self, method: Connection) -> Result<(), End> {
        match method {
            Connection::Blocked(connection::Blocked { reason }) => {
                warn!(upstream = self.report.name, "the broker asks for a pause: {reason}");
                Ok(self.pause(true, self.stopped).await?)
            }
            Connection::Unblocked(_) => {
                info!(upstream = self.report.name, "the broker takes messages again");
                Ok(self.pause(false, self.stopped).await?)
            }
            Connection::Close(close) => {
                let close_ok = AMQPClass::Connection(Connection::CloseOk(connection::CloseOk {}));
                if self.link.frames.method(0, close_ok).is_ok() {
                    let _ = self.link.frames.flush().now_or_never(); // politeness, no more
                }
                Err(End::Lost(Reply::new(close.reply_code, &close.reply_text).to_string()))
            }
            other => Err(unasked(&Frame::Method { channel: 0, method: AMQPClass::Connection(other) })),
        }
    }

    /// Notes which pauses the broker wants, and reports when that changes anything.
    async fn pause(&mut self, blocked: bool, stopped: bool) -> Result<(), DriverGone> {
        let before = self.blocked || self.stopped;
        (self.blocked, self.stopped) = (blocked, stopped);
        if before == (blocked || stopped) {
            return Ok(());
        }
        // In the order in which the broker said it.
        self.report.settled(&mut self.settled).await?;
        self.report.blocked(!before).await
    }

    async fn take_channel(&mut self, method: AMQPClass) -> Result<(), End> {
        if self.returning.is_some() && !matches!(method, AMQPClass::Channel(Channel::Close(_))) {
            // A confirm now would pass for "delivered".
            return Err(End::Lost("the broker returned a message and does not say which".into()));
        }
        match (method, &self.state) {
            // About the channel that was closed; nothing was sent on the fresh one yet.
            (AMQPClass::Basic(_), State::Reopening { .. }) => Ok(()),
            (AMQPClass::Basic(Basic::Ack(basic::Ack { delivery_tag, multiple })), _) => {
                self.confirm(delivery_tag, multiple, &Outcome::Confirmed)
            }
            (AMQPClass::Basic(Basic::Nack(basic::Nack { delivery_tag, multiple, .. })), _) => {
                self.confirm(delivery_tag, multiple, &Outcome::Nacked)
            }
            (AMQPClass::Basic(Basic::Return(returned)), _) => {
                let key = returned.routing_key.as_str().to_owned();
                let why = format!(
                    "no queue takes routing key {key:?} at exchange {:?} ({} {}): bind one at the broker",
                    self.config.exchange.name, returned.reply_code, returned.reply_text
                );
                self.returning = Some((why, key));
                Ok(())
            }
            (AMQPClass::Channel(Channel::Close(close)), _) => {
                self.channel_failed(&Reply::new(close.reply_code, &close.reply_text))?;
                // The fresh channel begins without a pause.
                Ok(self.pause(self.blocked, false).await?)
            }
            (AMQPClass::Channel(Channel::Flow(channel::Flow { active })), _) => {
                let flow_ok = AMQPClass::Channel(Channel::FlowOk(channel::FlowOk { active }));
                self.link.frames.method(CHANNEL, flow_ok)?;
                Ok(self.pause(self.blocked, !active).await?)
            }
            (AMQPClass::Channel(Channel::OpenOk(_)), State::Reopening { .. }) => Ok(()),
            (AMQPClass::Confirm(Confirm::SelectOk(_)), State::Reopening { .. }) => {
                self.state = State::Open;
                Ok(())
            }
            (other, _) => Err(unasked(&Frame::Method { channel: CHANNEL, method: other })),
        }
    }

    fn confirm(&mut self, delivery_tag: u64, multiple: bool, outcome: &Outcome) -> Result<(), End> {
        let (settled, apart) = (&mut self.settled, &mut self.apart);
        let mut split = 0;
        let known = self.unconfirmed.confirm(delivery_tag, multiple, |load, returned| match load {
            Load::One(publication) => {
                settled.push((publication.tag, returned.map_or_else(|| outcome.clone(), Outcome::Returned)));
            }
            Load::Batch { publications, .. } if returned.is_none() && *outcome == Outcome::Confirmed => {
                settled.extend(publications.iter().map(|publication| (publication.tag, Outcome::Confirmed)));
            }
            Load::Batch { publications, .. } => {
                split += publications.len();
                // Of several queues some may have taken what the broker refuses; what comes back is in none.
                let taken = returned.is_none();
                apart.extend(publications.into_iter().map(|mut publication| {
                    publication.resend |= taken;
                    publication
                }));
            }
        });
        if split > 0 && self.split_said.is_none_or(|said| said.elapsed() >= SAME_FAULT_LOGGED_EVERY) {
            self.split_said = Some(Instant::now());
            warn!(
                upstream = self.report.name,
                "the broker does not take a batch: sending its {split} messages again one by one"
            );
        }
        if known {
            Ok(())
        } else {
            Err(End::Lost(format!("the broker confirmed message {delivery_tag}, which nobody sent")))
        }
    }

    /// The broker has closed the channel.
    fn channel_failed(&mut self, reply: &Reply) -> Result<(), End> {
        // 403 can also be about one routing key, when the broker checks topics (RabbitMQ's topic permissions).
        if reply.code == 404 || (reply.code == 403 && !reply.text.contains("access to topic")) {
            return Err(End::SetUp(exchange_fault(reply, &self.config.exchange, &self.config.username)));
        }
        if self.unconfirmed.is_empty() {
            // No message can be at fault; asking for channel after channel would never end.
            return Err(End::Lost(format!("the broker closed the channel: {reply}")));
        }
        self.returning = None;
        let mut suspects = std::mem::take(&mut self.apart);
        for (load, returned) in self.unconfirmed.start_afresh() {
            match (load, returned) {
                (Load::Batch { publications, .. }, _) => suspects.extend(publications),
                (Load::One(publication), Some(why)) => {
                    self.settled.push((publication.tag, Outcome::Returned(why)));
                }
                (Load::One(publication), None) if self.alone => {
                    self.settled.push((publication.tag, Outcome::Refused(reply.to_string())));
                }
                (Load::One(publication), None) => suspects.push_back(publication),
            }
        }
        if !suspects.is_empty() {
            warn!(
                upstream = self.report.name,
                "the broker refuses a message ({reply}); sending {} again one by one to find it",
                suspects.len()
            );
        }
        // Of those that were to be sent one by one some may be on their way: all go again in the order in which they were handed over.
        suspects.make_contiguous().sort_by_key(|publication| publication.tag);
        suspects.append(&mut self.suspects);
        self.suspects = suspects;
        self.alone = false;
        self.state = State::Reopening { since: Instant::now() };
        let frames = &mut self.link.frames;
        frames.method(CHANNEL, AMQPClass::Channel(Channel::CloseOk(channel::CloseOk {})))?;
        frames.method(CHANNEL, AMQPClass::Channel(Channel::Open(channel::Open {})))?;
        frames.method(CHANNEL, AMQPClass::Confirm(Confirm::Select(confirm::Select { nowait: false })))?;
        Ok(())
    }

    /// What time alone brings: heartbeats both ways, and patience that has an end.
    fn look(&mut self) -> Result<(), End> {
        if let State::Reopening { since } = self.state
            && since.elapsed() > self.config.connect_timeout
        {
            return Err(End::Lost("no new channel in time".into()));
        }
        let Some(heartbeat) = self.link.heartbeat else { return Ok(()) };
        // AMQP 0-9-1, 4.2.7: two intervals without a byte mean that the peer is gone.
        if self.last_received.elapsed() > heartbeat * 2 {
            return Err(End::Lost(format!("the broker has said nothing for {:?}", heartbeat * 2)));
        }
        if self.last_sent.elapsed() >= heartbeat / 2 {
            self.last_sent = Instant::now();
            self.link.frames.heartbeat()?;
        }
        Ok(())
    }

    /// Closes the connection as the protocol wants it. Nobody is there any more to hear of confirms.
    async fn goodbye(&mut self) -> Result<(), End> {
        let close = connection::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
        self.link.frames.method(0, AMQPClass::Connection(Connection::Close(close)))?;
        loop {
            self.link.frames.turn().await?;
            while let Some(frame) = self.link.frames.next().map_err(End::Lost)? {
                if let Frame::Method { method: AMQPClass::Connection(Connection::CloseOk(_)), .. } = frame {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits until then; for ever without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// A broker that says what nothing here has asked for cannot be trusted with the rest.
fn unasked(frame: &Frame) -> End {
    End::Lost(format!("the broker sent {frame}, which nobody asked for"))
}
