//! What is on its way on a channel in confirm mode, by delivery tag: the broker counts what it gets from 1, and confirms
//! singly or up to a number, in any order. Settles nothing itself.

use super::envelope::message_id;
use std::collections::VecDeque;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;

/// A message on its way.
struct Flight {
    publication: Publication,
    /// Why it came back, when it did.
    returned: Option<String>,
}

/// Messages without a confirm, oldest first; bounded by the engine's window.
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

    /// The next delivery tag is this publication's.
    pub(super) fn push(&mut self, publication: Publication) {
        self.flights.push_back(Some(Flight { publication, returned: None }));
    }

    /// Takes out what a confirm is about, in order; tag 0 with `multiple` means everything (AMQP 0-9-1, basic.ack).
    /// False when it is about what was never sent.
    pub(super) fn confirm(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        mut settle: impl FnMut(Publication, Option<String>),
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
            if let Some(Flight { publication, returned }) = flight.take() {
                settle(publication, returned);
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
        let flight = self.flights.iter_mut().flatten().find(|flight| {
            flight.returned.is_none()
                && flight.publication.routing_key == routing_key
                && message_id(gateway, &flight.publication.message) == id
        });
        match flight {
            Some(flight) => {
                flight.returned = Some(why);
                true
            }
            None => false,
        }
    }

    /// Gives back everything, oldest first: a new channel counts from 1 again.
    pub(super) fn start_afresh(&mut self) -> impl Iterator<Item = (Publication, Option<String>)> + use<> {
        self.gone = 0;
        std::mem::take(&mut self.flights)
            .into_iter()
            .flatten()
            .map(|flight| (flight.publication, flight.returned))
    }
}
