//! The gateway's end of the links to the brokers: hands messages over, reports what became of them, loses the link and
//! connects again, as the upstream contract has it. Tells the oracle what arrives.

use super::oracle::{Held, Violation};
use super::plan::MS;
use super::upstream::{Handed, mixed};
use super::world::{Event, World};
use tidegate_engine::event::{Drain, Input, Outcome, Publication};
use tidegate_engine::id::{Tag, UpstreamId};

/// The gateway's end of the upstream links.
impl World {
    pub(super) fn hand_over(&mut self, publication: Publication) -> Held {
        self.oracle.published(&publication)?;
        let limited = self.plan.setup.upstreams.get(usize::from(publication.upstream.0));
        let of_earlier = publication.message.id.epoch < self.gateway.setup.epoch;
        self.coverage.drained +=
            u64::from(of_earlier && limited.is_some_and(|upstream| upstream.drain != Drain::default()));
        if mixed(&publication.message.payload) >> 34 & 1023 < self.deadly.into() {
            self.coverage.deadly += 1;
            return self.die(false);
        }
        self.coverage.resent += u64::from(publication.resend);
        self.trace.mix(publication.tag.0);
        let upstream = publication.upstream.0;
        let now = self.clock.now();
        let step = self.oracle.step;
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return Ok(()) };
        let connection = broker.connection;
        if let Some(at) = broker.hand(now, &mut self.rng, Handed { publication, step }) {
            self.clock.at(at, Event::Arrive { upstream, connection });
        }
        Ok(())
    }

    pub(crate) fn arrive(&mut self, upstream: u16, connection: u64) -> Held {
        let now = self.clock.now();
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return Ok(()) };
        if broker.connection != connection || broker.blocked {
            return Ok(());
        }
        let Some(handed) = broker.queue.pop_front() else { return Ok(()) };
        let answer_at = broker.answers_at(now, &mut self.rng);
        let doubles = broker.mood.doubles;
        let tag = handed.publication.tag;
        let Some(outcome) = self.judge(upstream, &handed)? else { return Ok(()) };
        if self.rng.u16(..1_000) < doubles {
            self.coverage.settled_twice += 1;
            let again = answer_at + self.rng.u64(..200 * MS);
            let outcome = outcome.clone();
            self.clock.at(again, Event::Settle { upstream, connection, tag, outcome });
        }
        self.clock.at(answer_at, Event::Settle { upstream, connection, tag, outcome });
        Ok(())
    }

    /// A message is at the broker: what it does with it.
    fn judge(&mut self, upstream: u16, handed: &Handed) -> Result<Option<Outcome>, Violation> {
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return Ok(None) };
        let verdict = broker.judge(&mut self.rng, handed);
        let now = self.clock.now();
        self.trace.say(now, || {
            format!(
                "    u{upstream} {:?}: takes {}, says {:?}",
                handed.publication.tag, verdict.takes, verdict.outcome
            )
        });
        if verdict.takes {
            self.oracle.taken(handed)?;
        }
        match &verdict.outcome {
            Some(Outcome::Confirmed) => {}
            Some(outcome) => {
                self.oracle.refused(UpstreamId(upstream), handed.publication.tag);
                match outcome {
                    Outcome::Nacked => self.coverage.nacked += 1,
                    Outcome::Returned(_) => self.coverage.returned += 1,
                    _ => self.coverage.refused += 1,
                }
            }
            None if verdict.takes => self.coverage.swallowed += 1,
            None => self.coverage.ignored += 1,
        }
        Ok(verdict.outcome)
    }

    pub(crate) fn settle(&mut self, upstream: u16, connection: u64, tag: Tag, outcome: Outcome) {
        let current = self.brokers.get(usize::from(upstream)).map(|broker| broker.connection);
        if current == Some(connection) {
            self.report(Input::Settled { upstream: UpstreamId(upstream), tag, outcome });
        }
    }

    /// The link breaks; the first `arrived` messages under way have arrived, and nobody hears of it.
    pub(super) fn break_upstream(&mut self, upstream: u16, arrived: usize) -> Held {
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return Ok(()) };
        // A broker that has asked for a pause does not read.
        let arrived = if broker.blocked { 0 } else { arrived };
        for handed in broker.last_arrivals(arrived) {
            self.judge(upstream, &handed)?;
        }
        if let Some(broker) = self.brokers.get_mut(usize::from(upstream)) {
            broker.drop_link();
        }
        Ok(())
    }

    /// The link breaks while the gateway runs: its client notices, and connects again.
    pub(crate) fn lose_upstream(&mut self, upstream: u16, arrived: usize) -> Held {
        let is_up = self.brokers.get(usize::from(upstream)).is_some_and(super::upstream::Broker::is_up);
        if is_up {
            self.coverage.upstream_lost += 1;
            self.trace.say(self.clock.now(), || format!("    u{upstream} loses its link"));
            self.break_upstream(upstream, arrived)?;
            let notice = if self.rng.bool() { 0 } else { self.rng.u64(..5 * MS) };
            self.clock.after(notice, Event::Gone { upstream, life: self.gateway.life });
        }
        Ok(())
    }

    pub(crate) fn report_gone(&mut self, upstream: u16) {
        self.report(Input::UpstreamDown { upstream: UpstreamId(upstream) });
        self.try_connecting(upstream);
    }

    pub(super) fn try_connecting(&mut self, upstream: u16) {
        let pause = self.rng.u64(MS..150 * MS);
        self.clock.after(pause, Event::Connect { upstream, life: self.gateway.life });
    }

    pub(crate) fn connect(&mut self, upstream: u16) {
        let now = self.clock.now();
        let Some(broker) = self.brokers.get_mut(usize::from(upstream)) else { return };
        if broker.is_up() {
            return;
        }
        if now < broker.away_until {
            return self.try_connecting(upstream);
        }
        broker.connection += 1;
        let connection = broker.connection;
        self.report_from(Input::UpstreamUp { upstream: UpstreamId(upstream) }, connection);
    }
}
