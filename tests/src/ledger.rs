//! Compares what devices sent and heard acknowledged with what a consumer got: P2, P3 and P4 in numbers.

use crate::fleet::{Plan, origin, payload};
use crate::rabbit::Received;
use std::collections::HashMap;
use std::fmt;

/// What arrived of a fleet's messages.
#[derive(Debug)]
pub struct Ledger {
    plan: Plan,
    /// For each device and number: whether it arrived.
    arrived: Vec<Vec<bool>>,
    /// Each device's highest number so far.
    highest: Vec<Option<usize>>,
    /// Message ids and whose they are.
    ids: HashMap<String, (usize, usize)>,
    /// Different messages that arrived.
    pub distinct: usize,
    /// Arrivals of a message that had arrived before, marked by the gateway as possible repetitions.
    pub repeated_marked: usize,
    /// The broker's own redeliveries, because the consumer's acknowledgement was lost with the broker.
    pub redelivered: usize,
    /// Repetitions without a mark: forbidden.
    pub repeated_unmarked: usize,
    /// First arrivals behind a later message of the same device: forbidden.
    pub overtaken: usize,
    /// Payloads that differ from what was sent, or that nobody sent: forbidden.
    pub altered: usize,
    /// One id for two messages: forbidden.
    pub shared_ids: usize,
}

impl Ledger {
    /// A ledger without entries.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self {
            arrived: vec![vec![false; plan.messages_each]; plan.devices],
            highest: vec![None; plan.devices],
            ids: HashMap::new(),
            plan: plan.clone(),
            distinct: 0,
            repeated_marked: 0,
            redelivered: 0,
            repeated_unmarked: 0,
            overtaken: 0,
            altered: 0,
            shared_ids: 0,
        }
    }

    /// Enters a delivery.
    pub fn enter(&mut self, received: &Received) {
        let Some((device, number)) = origin(&received.body) else {
            self.altered += 1;
            return;
        };
        let Some(arrived) = self.arrived.get_mut(device).and_then(|of| of.get_mut(number)) else {
            self.altered += 1;
            return;
        };
        if received.body != payload(device, number, self.plan.payload_bytes)
            || received.device() != Some(format!("device-{device}"))
        {
            self.altered += 1;
        }
        let known = self.ids.insert(received.id.clone(), (device, number));
        if known.is_some_and(|whose| whose != (device, number)) {
            self.shared_ids += 1;
        }
        if std::mem::replace(arrived, true) {
            if received.redelivered && known.is_some() {
                self.redelivered += 1;
            } else if received.resend() {
                self.repeated_marked += 1;
            } else {
                self.repeated_unmarked += 1;
            }
            return;
        }
        self.distinct += 1;
        if let Some(highest) = self.highest.get_mut(device) {
            if highest.is_some_and(|highest| highest > number) {
                self.overtaken += 1;
            } else {
                *highest = Some(number);
            }
        }
    }

    /// Messages that have not arrived.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.plan.messages() - self.distinct
    }

    /// Some of the messages that have not arrived, as device and number.
    #[must_use]
    pub fn some_missing(&self) -> Vec<(usize, usize)> {
        let all = self.arrived.iter().enumerate();
        let missing = all.flat_map(|(device, of)| {
            of.iter().enumerate().filter(|(_, arrived)| !**arrived).map(move |(number, _)| (device, number))
        });
        missing.take(10).collect()
    }

    /// Whether everything arrived and nothing forbidden happened.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.missing() + self.repeated_unmarked + self.overtaken + self.altered + self.shared_ids == 0
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, arrived {}, lost {}, repeated with the mark {} and without {}, redelivered by the broker {}, \
             overtaken {}, altered {}, ids shared {}",
            self.plan.messages(),
            self.distinct,
            self.missing(),
            self.repeated_marked,
            self.repeated_unmarked,
            self.redelivered,
            self.overtaken,
            self.altered,
            self.shared_ids
        )?;
        if self.missing() > 0 {
            write!(f, "; missing for example (device, number) {:?}", self.some_missing())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};

    const PLAN: fn() -> Plan = || Plan {
        address: ([127, 0, 0, 1], 0).into(),
        devices: 2,
        messages_each: 3,
        window: 1,
        payload_bytes: 20,
    };

    fn delivery(device: usize, number: usize, id: &str, resend: bool) -> Received {
        let mut headers = FieldTable::default();
        headers.insert("device".into(), AMQPValue::LongString(format!("device-{device}").into()));
        if resend {
            headers.insert("x-resend".into(), AMQPValue::Boolean(true));
        }
        Received {
            id: id.to_owned(),
            routing_key: String::new(),
            body: payload(device, number, 20),
            properties: BasicProperties::default().with_headers(headers),
            redelivered: false,
            batch: None,
        }
    }

    fn ledger(deliveries: &[Received]) -> Ledger {
        let mut ledger = Ledger::new(&PLAN());
        deliveries.iter().for_each(|delivery| ledger.enter(delivery));
        ledger
    }

    fn all() -> Vec<Received> {
        (0..6).map(|n| delivery(n / 3, n % 3, &format!("id-{n}"), false)).collect()
    }

    #[test]
    fn everything_once_in_order_is_sound_and_so_are_marked_repetitions() {
        let mut deliveries = all();
        assert!(ledger(&deliveries).is_sound());
        deliveries.insert(3, delivery(0, 1, "id-1", true));
        let again = Received { redelivered: true, ..deliveries[0].clone() };
        deliveries.push(again);
        let ledger = ledger(&deliveries);
        assert!(ledger.is_sound(), "{ledger}");
        assert_eq!((ledger.repeated_marked, ledger.redelivered), (1, 1));
    }

    #[test]
    fn what_is_forbidden_is_seen() {
        let sound = |change: fn(&mut Vec<Received>)| {
            let mut deliveries = all();
            change(&mut deliveries);
            ledger(&deliveries).is_sound()
        };
        assert!(!sound(|d| drop(d.remove(4))), "lost");
        assert!(!sound(|d| d.push(d[0].clone())), "repeated without the mark");
        assert!(!sound(|d| d.swap(0, 1)), "overtaken");
        assert!(!sound(|d| d[2].body[19] ^= 1), "altered");
        assert!(!sound(|d| d[5].id = "id-0".into()), "an id for two messages");
        assert!(!sound(|d| d.push(delivery(7, 0, "id-7", false))), "from nobody");
    }
}
