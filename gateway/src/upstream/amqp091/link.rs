//! One link's life: messages out without waiting for each other, confirms in as they come, and the two cases in which it
//! is not plain whom an answer concerns. Does not make links and knows no URLs.
//!
//! **Returns.** lapin hands a returned message out with whichever confirm happens to be processed next, which under
//! `multiple` acknowledgements is often another message's. So a confirm counts only when no return can be outstanding:
//! all confirms at hand are gathered first (lapin pops a waiting return with every confirm, so a confirm that brings none shows that none is
//! waiting), and once a return turns up nothing is settled or sent until every confirm is in. Then each return is matched
//! with its message by message id and routing key.
//!
//! **Channel errors.** The broker closes the channel for the fault of one message without saying of which. What was not
//! confirmed by then is suspect: it is sent again, one at a time, and the one that closes the channel again is refused. A fault of
//! set-up (no exchange, no permission) meets every message and refuses none: the link ends and is made again with back-off.

use super::Order;
use super::connect::{Link, exchange_fault, reply};
use super::envelope::{Envelope, envelope, message_id};
use crate::config;
use crate::inbox::{DriverGone, Inbox};
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Event};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tidegate_engine::event::{Input, Outcome, Publication};
use tidegate_engine::id::{GatewayId, Tag, UpstreamId};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// After the broker closed a channel, how long lapin has to give every outstanding confirm up: it does so in one go.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(5);

/// How often a link is looked at that says nothing.
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

/// Where facts go.
pub(super) struct Report<'a> {
    pub(super) upstream: UpstreamId,
    pub(super) name: &'a str,
    pub(super) inbox: &'a Inbox,
}

impl Report<'_> {
    async fn settled(&self, publication: &Publication, outcome: Outcome) -> Result<(), End> {
        let input = Input::Settled { upstream: self.upstream, tag: publication.tag, outcome };
        self.inbox.send(input).await.map_err(|DriverGone| End::Stopped)
    }

    async fn settled_all(&self, settled: impl Iterator<Item = (Tag, Outcome)>) -> Result<(), End> {
        let upstream = self.upstream;
        let inputs = settled.map(|(tag, outcome)| Input::Settled { upstream, tag, outcome }).collect();
        self.inbox.send_all(inputs).await.map_err(|DriverGone| End::Stopped)
    }

    async fn blocked(&self, blocked: bool) -> Result<(), End> {
        let input = Input::UpstreamBlocked { upstream: self.upstream, blocked };
        self.inbox.send(input).await.map_err(|DriverGone| End::Stopped)
    }
}

/// A publication that has come to its end on the wire.
struct Landed {
    publication: Publication,
    answer: lapin::Result<Confirmation>,
}

/// A publication whose confirm is in, while it is not plain yet whether a return belongs to it.
struct Held {
    publication: Publication,
    acked: bool,
}

/// One link's state.
pub(super) struct Session<'a> {
    report: Report<'a>,
    config: &'a config::Amqp,
    gateway: &'a GatewayId,
    exchange: ShortString,
    link: Link,
    /// The number of this link.
    ups: u64,
    /// The driver's last word on which link it hands over for.
    ups_seen: u64,
    /// What is on its way; bounded by the engine's window.
    flights: Flights,
    /// Confirms that wait for the returns to be complete; bounded by the window.
    held: Vec<Held>,
    /// Returns that wait to be matched; bounded by the window.
    returned: Vec<BasicReturnMessage>,
    /// What an error of the channel may have been about, oldest first; bounded by the window.
    suspects: VecDeque<Publication>,
    /// The publication under way is a suspect, sent alone.
    alone: bool,
    /// The broker has asked for a pause.
    blocked: bool,
}

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;
type Flights = FuturesUnordered<Flight>;

impl<'a> Session<'a> {
    pub(super) fn new(
        report: Report<'a>,
        config: &'a config::Amqp,
        gateway: &'a GatewayId,
        link: Link,
        ups: u64,
    ) -> Self {
        // Checked where the URLs are.
        let exchange = ShortString::try_new(config.exchange.name.as_str()).unwrap_or_default();
        Self {
            report,
            config,
            gateway,
            exchange,
            link,
            ups,
            ups_seen: 0,
            flights: Flights::new(),
            held: Vec::new(),
            returned: Vec::new(),
            suspects: VecDeque::new(),
            alone: false,
            blocked: false,
        }
    }

    /// Serves the link until it ends. What is not settled by then will not be.
    pub(super) async fn run(mut self, orders: &mut mpsc::Receiver<Order>, reset: &Notify) -> End {
        let end = match self.serve(orders, reset).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if self.blocked
            && let Err(stopped) = self.report.blocked(false).await
        {
            return stopped;
        }
        end
    }

    async fn serve(&mut self, orders: &mut mpsc::Receiver<Order>, reset: &Notify) -> Result<Infallible, End> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A wish for a new link from before this one was made is fulfilled.
        let _ = reset.notified().now_or_never();
        loop {
            if self.flights.is_empty()
                && let Some(suspect) = self.suspects.pop_front()
            {
                self.alone = true;
                self.send(suspect, true).await?;
            }
            let open = self.returned.is_empty() && self.suspects.is_empty() && !self.alone;
            tokio::select! {
                biased;
                () = reset.notified() => return Err(End::Lost("a new link was asked for".into())),
                event = self.link.events.next() => self.event(event).await?,
                landed = gather(&mut self.flights), if !self.flights.is_empty() => self.landed(landed).await?,
                order = orders.recv(), if open => match order {
                    Some(Order::UpSeen(ups)) => self.ups_seen = ups,
                    Some(Order::Publish(publications)) if self.ups_seen == self.ups => {
                        for publication in publications {
                            self.send(publication, false).await?;
                        }
                    }
                    Some(Order::Publish(_)) => {} // meant for an earlier link
                    None => {
                        let goodbye = self.link.connection.close(200, "OK".into());
                        let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbye).await;
                        return Err(End::Stopped);
                    }
                },
                _ = look.tick() => {
                    if orders.is_closed() && !open {
                        return Err(End::Stopped);
                    }
                    self.check_connection("the connection is closed")?;
                }
            }
        }
    }

    fn check_connection(&self, why: &str) -> Result<(), End> {
        if self.link.connection.status().connected() { Ok(()) } else { Err(End::Lost(why.to_owned())) }
    }

    async fn event(&mut self, event: Option<Event>) -> Result<(), End> {
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                warn!(upstream = self.report.name, "the broker asks for a pause: {why}");
                self.blocked = true;
                self.report.blocked(true).await
            }
            Some(Event::ConnectionUnblocked) => {
                info!(upstream = self.report.name, "the broker takes messages again");
                self.blocked = false;
                self.report.blocked(false).await
            }
            Some(Event::Error(error)) => self.check_connection(&error.to_string()),
            Some(_) => Ok(()),
            None => Err(End::Lost("the connection is closed".into())),
        }
    }

    /// Puts a publication on the wire; its end comes back through [`gather`].
    async fn send(&mut self, publication: Publication, resend: bool) -> Result<(), End> {
        let sealed = match envelope(self.gateway, &publication, resend) {
            Ok(sealed) => sealed,
            Err(why) => {
                self.alone = false;
                return self.report.settled(&publication, Outcome::Refused(why)).await;
            }
        };
        let mut flight: Flight =
            Box::pin(fly(self.link.channel.clone(), self.exchange.clone(), sealed, publication));
        // The first poll numbers the message and queues its frames. It happens here, so that the order on the wire is
        // the order of these calls and not that in which a set of futures cares to poll.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(landed) = flight.as_mut().poll(&mut context) {
            flight = Box::pin(std::future::ready(landed));
        }
        self.flights.push(flight);
        Ok(())
    }

    /// Takes in what came to its end; see the head of this file.
    async fn landed(&mut self, landed: Vec<Landed>) -> Result<(), End> {
        let mut failed = self.sort(landed)?;
        if !failed.is_empty() {
            while !self.flights.is_empty() {
                let Ok(more) = tokio::time::timeout(GIVE_UP_WITHIN, gather(&mut self.flights)).await else {
                    return Err(End::Lost(
                        "confirms neither came nor failed after an error of the channel".into(),
                    ));
                };
                failed.append(&mut self.sort(more)?);
            }
            return self.channel_failed(failed).await;
        }
        if self.returned.is_empty() {
            self.alone = self.alone && !self.flights.is_empty();
            let settled = self.held.drain(..).map(|held| {
                (held.publication.tag, if held.acked { Outcome::Confirmed } else { Outcome::Nacked })
            });
            self.report.settled_all(settled).await?;
        } else if self.flights.is_empty() {
            self.alone = false;
            for held in std::mem::take(&mut self.held) {
                let outcome = match self.take_return(&held.publication) {
                    Some(why) => Outcome::Returned(why),
                    None if held.acked => Outcome::Confirmed,
                    None => Outcome::Nacked,
                };
                self.report.settled(&held.publication, outcome).await?;
            }
            if !self.returned.is_empty() {
                return Err(End::Lost("the broker returned a message that nobody sent".into()));
            }
        }
        Ok(())
    }

    /// Sorts what came to its end into held confirms, returns, and failures, which it gives back.
    fn sort(&mut self, landed: Vec<Landed>) -> Result<Vec<(Publication, lapin::Error)>, End> {
        let mut failed = Vec::new();
        for Landed { publication, answer } in landed {
            let (acked, returned) = match answer {
                Ok(Confirmation::Ack(returned)) => (true, returned),
                Ok(Confirmation::Nack(returned)) => (false, returned),
                Ok(Confirmation::NotRequested) => {
                    return Err(End::Lost("the channel is not in confirm mode".into()));
                }
                Err(error) => {
                    failed.push((publication, error));
                    continue;
                }
            };
            self.held.push(Held { publication, acked });
            self.returned.extend(returned);
        }
        Ok(failed)
    }

    /// The return that belongs to a publication, if there is one: why it came back.
    fn take_return(&mut self, publication: &Publication) -> Option<String> {
        let id = message_id(self.gateway, &publication.message);
        let position = self.returned.iter().position(|returned| {
            let sent = &returned.delivery;
            sent.routing_key.as_str() == publication.routing_key
                && sent.properties.message_id().as_ref().is_some_and(|sent| sent.as_str() == id)
        })?;
        let returned = self.returned.swap_remove(position);
        Some(format!(
            "no queue takes routing key {:?} at exchange {:?} ({} {}): bind one at the broker",
            publication.routing_key,
            self.exchange.as_str(),
            returned.reply_code,
            returned.reply_text
        ))
    }

    /// All flights have come to their end, some of them with an error.
    async fn channel_failed(&mut self, failed: Vec<(Publication, lapin::Error)>) -> Result<(), End> {
        let text = failed.first().map_or_else(String::new, |(_, error)| error.to_string());
        let said =
            failed.iter().find_map(|(_, error)| if error.is_amqp_soft_error() { reply(error) } else { None });
        self.check_connection(&said.as_ref().map_or(text.clone(), |(code, said)| format!("{code} {said}")))?;
        let Some((code, said)) = said else { return Err(End::Lost(text)) };
        // 403 can also be about one routing key, when the broker checks topics (RabbitMQ's topic permissions).
        if code == 404 || (code == 403 && !said.contains("access to topic")) {
            let error = failed.iter().map(|(_, error)| error).find(|error| reply(error).is_some());
            return Err(End::SetUp(
                error.map_or(said, |error| {
                    exchange_fault(error, &self.config.exchange, &self.config.username)
                }),
            ));
        }
        let mut suspects: Vec<Publication> = Vec::with_capacity(failed.len());
        let certain = self.returned.is_empty();
        for held in std::mem::take(&mut self.held) {
            let outcome = match self.take_return(&held.publication) {
                Some(why) => Outcome::Returned(why),
                None if !held.acked => Outcome::Nacked,
                None if certain => Outcome::Confirmed,
                None => {
                    // Its return may have been lost with the channel.
                    suspects.push(held.publication);
                    continue;
                }
            };
            self.report.settled(&held.publication, outcome).await?;
        }
        self.returned.clear();
        if std::mem::take(&mut self.alone) {
            for (publication, _) in failed {
                self.report.settled(&publication, Outcome::Refused(format!("{code} {said}"))).await?;
            }
        } else {
            suspects.extend(failed.into_iter().map(|(publication, _)| publication));
            suspects.sort_by_key(|publication| publication.tag);
            warn!(
                upstream = self.report.name,
                "the broker refuses a message ({code} {said}); sending {} again one by one to find it",
                suspects.len()
            );
        }
        for suspect in suspects.into_iter().rev() {
            self.suspects.push_front(suspect);
        }
        match tokio::time::timeout(self.config.connect_timeout, self.link.reopen()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Lost(format!("no new channel: {error}"))),
            Err(_) => Err(End::Lost("no new channel in time".into())),
        }
    }
}

/// Sends a message and waits for its confirm.
async fn fly(
    channel: Arc<Channel>,
    exchange: ShortString,
    sealed: Envelope,
    publication: Publication,
) -> Landed {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let payload = publication.message.payload.clone();
    let sent = channel.basic_publish(exchange, sealed.routing_key, options, &payload, sealed.properties);
    let answer = match sent.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Landed { publication, answer }
}

/// Everything that has come to its end by now, at least one. Complete: whatever was answered before the last of
/// these is among them. [`FuturesUnordered`] may pause between two ready futures after waking its caller; that wake is noticed here.
async fn gather(flights: &mut Flights) -> Vec<Landed> {
    let again = Arc::new(Again::default());
    let waker = Waker::from(again.clone());
    poll_fn(|context| {
        again.outer.register(context.waker());
        let mut context = Context::from_waker(&waker);
        let mut landed = Vec::new();
        loop {
            again.woken.store(false, Ordering::SeqCst);
            while let Poll::Ready(Some(one)) = flights.poll_next_unpin(&mut context) {
                landed.push(one);
            }
            if !again.woken.load(Ordering::SeqCst) {
                break;
            }
        }
        if landed.is_empty() { Poll::Pending } else { Poll::Ready(landed) }
    })
    .await
}

/// Passes a wake on and notes it.
#[derive(Default)]
struct Again {
    woken: AtomicBool,
    outer: AtomicWaker,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.outer.wake();
    }
}
