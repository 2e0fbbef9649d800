//! The judge of tombstones: a tombstone keeps its id and its words through every repetition, the second time it arrives it is marked,
//! and all of them together tell of what is lost, no more and no less.

use super::oracle::{Held, Violation};
use bytes::Bytes;
use std::collections::BTreeMap;
use tidegate_engine::event::Publication;
use tidegate_engine::id::MessageId;

/// What tombstones have told.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Rows that the medium has damaged.
    pub(crate) damaged: u64,
    /// By id what each says, and whether it has arrived.
    said: BTreeMap<MessageId, (Bytes, bool)>,
}

impl Losses {
    /// The engine hands one over.
    pub(crate) fn published(&mut self, publication: &Publication, epoch: u64) -> Held {
        let message = &publication.message;
        let id = message.id;
        let known = self.said.entry(id).or_insert_with(|| (message.payload.clone(), false));
        if known.0 != message.payload {
            return Err(Violation(format!(
                "P4: the tombstone {id:?} said {:?} and says {:?}",
                known.0, message.payload
            )));
        }
        if id.epoch > epoch {
            return Err(Violation(format!("P4: the tombstone {id:?} in epoch {epoch}")));
        }
        Ok(())
    }

    /// The consumer gets one.
    pub(crate) fn taken(&mut self, publication: &Publication) -> Held {
        let id = publication.message.id;
        let Some((_, arrived)) = self.said.get_mut(&id) else {
            return Err(Violation(format!("the tombstone {id:?} came from nowhere")));
        };
        if std::mem::replace(arrived, true) && !publication.resend {
            return Err(Violation(format!("P4: the tombstone {id:?} arrives again without the resend mark")));
        }
        Ok(())
    }

    /// How many have arrived.
    pub(crate) fn told(&self) -> u64 {
        self.said.values().filter(|(_, arrived)| *arrived).count() as u64
    }

    /// How many messages they tell of, with this reason.
    fn messages(&self, reason: &str) -> u64 {
        let with_reason = format!("\"reason\":\"{reason}\"");
        let count = |text: &str| {
            let (_, rest) = text.split_once("\"count\":")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let texts = self
            .said
            .values()
            .filter_map(|(said, arrived)| std::str::from_utf8(said).ok().filter(|_| *arrived));
        texts.filter(|text| text.contains(&with_reason)).filter_map(count).sum()
    }

    /// The end, when everything is quiet.
    pub(crate) fn finish(&self) -> Held {
        let told = self.messages("damaged");
        // What was damaged may have left before anybody read it; a crash before the ledger's commit takes the report with it.
        if told > self.damaged {
            return Err(Violation(format!(
                "P2: tombstones tell of {told} damaged rows, and {} were",
                self.damaged
            )));
        }
        Ok(())
    }
}
