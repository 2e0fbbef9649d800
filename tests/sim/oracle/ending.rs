//! What only the whole story tells, when everything is quiet: nothing acknowledged is lost (P2), nobody has more ids than
//! receptions (P4), and ids stand in the order of reception (P3).

use super::{Held, MANY_EXCHANGES, Oracle, Record, Violation};
use crate::sim::payload::Key;
use tidegate_engine::id::{LaneId, MessageId};

impl Oracle {
    /// The end, when everything is quiet: P2, and what of P3 and P4 needs the whole story.
    pub(crate) fn finish(&self) -> Held {
        for (device, records) in (0..).zip(&self.records) {
            for (number, record) in (0..).zip(records) {
                let key = Key { device, number };
                self.finish_record(key, record)?;
                self.subscribers.finish(key, record.qos, record.acked, !record.excused)?;
            }
            self.finish_order(device)?;
        }
        self.losses.finish()
    }

    fn finish_record(&self, key: Key, record: &Record) -> Held {
        let through = |lane: &LaneId| {
            let copies = record.ids.iter().filter_map(|id| self.copies.get(&(*lane, key.device, *id)));
            copies.into_iter().any(|copy| copy.arrivals > 0 || copy.buried || copy.damaged || copy.discarded)
        };
        if record.acked
            && !record.required.iter().any(|lanes| lanes.iter().all(through))
            && !self.losses.was_dropped(key)
        {
            broken!("P2: {key} was acknowledged and is lost; its ids are {:?}", record.ids);
        }
        // An id that a crash took before it was on the medium has never been.
        let lives = |id: &MessageId| {
            let lanes = self.setup.routes.iter().map(|route| route.lane);
            let mut copies = lanes.filter_map(|lane| self.copies.get(&(lane, key.device, *id)));
            copies.any(|copy| copy.safe || copy.published || copy.arrivals > 0)
        };
        let living: Vec<_> = record.ids.iter().filter(|id| lives(id)).collect();
        if record.qos == 2 && !record.excused && living.len() > 1 {
            broken!("P4: {key} of QoS 2 was accepted {} times: {living:?}", living.len());
        }
        if self.setup.limits.coap_exchanges_per_peer >= MANY_EXCHANGES {
            for epoch in record.ids.iter().map(|id| id.epoch) {
                let ids = record.ids.iter().filter(|id| id.epoch == epoch).count();
                let exchanges = record.exchanges.iter().filter(|(life, ..)| *life == epoch).count();
                if ids > exchanges && exchanges > 0 {
                    broken!(
                        "P4: {key} was accepted {ids} times from {exchanges} CoAP exchanges in epoch {epoch}"
                    );
                }
            }
        }
        Ok(())
    }

    /// The ids of a device, in their order, are numbers that came in, in that order.
    fn finish_order(&self, device: u16) -> Held {
        let mut received = self.received.get(usize::from(device)).into_iter().flatten();
        for (id, key) in self.ids.iter().filter(|(_, key)| key.device == device) {
            if !received.any(|number| *number == key.number) {
                broken!("P3: {key} has {id:?}, and did not come in in that order (or not so often)");
            }
        }
        Ok(())
    }
}
