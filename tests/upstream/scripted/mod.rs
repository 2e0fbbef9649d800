//! What AMQP 0-9-1 promises when the broker is strange, slow, dead or hostile: a broker by script says what no real one says on
//! demand. `confirms` is about what settles a message, `batches` about what settles those that travel together, `ends` about what ends a link.

mod batches;
mod confirms;
mod ends;
mod peer;

use std::ops::Range;
use tidegate_engine::event::Publication;
use tidegate_tests::publications::{message, publication};

fn readings(range: Range<u64>) -> Vec<Publication> {
    range.map(|seq| publication(message(seq), "k")).collect()
}
