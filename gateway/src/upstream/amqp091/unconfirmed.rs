//! What is on its way on a channel in confirm mode, by delivery tag: the broker counts what it gets from 1, and confirms
//! singly or up to a number, in any order. Settles nothing itself.

use super::envelope::message_id;
use std::collections::VecDeque;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;

/// What one AMQP message carries.
pub(super) enum Load {
    One(Publication),
    /// Several, in their order, and the `message-id` and routing key of all.
    Batch {
        publications: Vec<Publication>,
        id: String,
        routing_key: String,
    },
}

impl Load {
    fn is(&self, gateway: &GatewayId, id: &str, routing_key: &str) -> bool {
        match self {
            Self::One(publication) => {
                publication.routing_key == routing_key && message_id(gateway, &publication.message) == id
            }
            Self::Batch { id: own, routing_key: key, .. } => key == routing_key && own == id,
        }
    }
}

/// A message on its way.
struct Flight {
    load: Load,
    /// Why it came back, when it did.
    returned: Option<String>,
}

/// AMQP messages without a confirm, oldest first; bounded by the engine's window.
#[derive(Default)]
pub(super) struct Unconfirmed {
    /// Those that were confirmed out of order have left a gap.
    flights: VecDeque<Option<Flight>>,
    /// How many have left at the front since the channel was opened: the first of `flights` has the next delivery tag.
    gone: u64,
}

impl Unconfirmed {
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// The next delivery tag is this one's.
    pub(super) fn push(&mut self, load: Load) {
        self.flights.push_back(Some(Flight { load, returned: None }));
    }

    /// Takes out what a confirm is about, in order; tag 0 with `multiple` means everything (AMQP 0-9-1, basic.ack).
    /// False when it is about what was never sent.
    pub(super) fn confirm(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        mut settle: impl FnMut(Load, Option<String>),
    ) -> bool {
        let upto = match delivery_tag {
            0 if multiple => self.flights.len(),
            // One that has left already: said twice.
            tag if tag <= self.gone => return tag != 0,
            tag => match usize::try_from(tag - self.gone) {
                Ok(upto) if upto <= self.flights.len() => upto,
                _ => return false,
            },
        };
        let from = if multiple { 0 } else { upto - 1 };
        for flight in self.flights.range_mut(from..upto) {
            if let Some(Flight { load, returned }) = flight.take() {
                settle(load, returned);
            }
        }
        while let Some(None) = self.flights.front() {
            self.flights.pop_front();
            self.gone += 1;
        }
        true
    }

    /// A message has come back; its confirm is still to come. False when nothing like it is on its way.
    pub(super) fn returned(&mut self, gateway: &GatewayId, id: &str, routing_key: &str, why: String) -> bool {
        let flight = self
            .flights
            .iter_mut()
            .flatten()
            .find(|flight| flight.returned.is_none() && flight.load.is(gateway, id, routing_key));
        match flight {
            Some(flight) => {
                flight.returned = Some(why);
                true
            }
            None => false,
        }
    }

    /// Gives back everything, oldest first: a new channel counts from 1 again.
    pub(super) fn start_afresh(&mut self) -> impl Iterator<Item = (Load, Option<String>)> + use<> {
        self.gone = 0;
        std::mem::take(&mut self.flights).into_iter().flatten().map(|flight| (flight.load, flight.returned))
    }
}
