//! The shape of the database: what makes a new one, and the steps that bring an older one to it, each with the change of
//! `user_version` in one transaction. A step is never changed once it has been released.

use super::fault::Fault;
use rusqlite::{Connection, TransactionBehavior};

/// Step `n` brings a file from version `n + 1` to `n + 2`.
const STEPS: &[&str] = &[
    // 2: what was tried with a dead letter.
    "ALTER TABLE dead_letter ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE dead_letter ADD COLUMN first_ms INTEGER;
     ALTER TABLE dead_letter ADD COLUMN first_reason TEXT;",
];

/// The shape of `schema.sql`.
pub(super) const SCHEMA_VERSION: i64 = STEPS.len().cast_signed() as i64 + 1;

/// Makes the tables of a new database, inside a transaction.
pub(super) fn create(db: &Connection) -> Result<(), Fault> {
    db.execute_batch(include_str!("schema.sql"))?;
    Ok(db.pragma_update(None, "user_version", SCHEMA_VERSION)?)
}

/// Brings a database of an older version to this one. A power cut leaves it between two steps.
pub(super) fn upgrade(db: &mut Connection, version: i64) -> Result<(), Fault> {
    for (from, step) in (1..).zip(STEPS).filter(|(from, _)| *from >= version) {
        let tx = db.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", from + 1)?;
        tx.commit()?;
        tracing::info!(from, to = from + 1, "the database was brought to a newer version");
    }
    Ok(())
}
