//! What the engine may rely on when an upstream says something: one contract, held by every kind, and beside it what each
//! kind promises on its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod amqp091;
mod batches;
mod contract;
mod file;
mod scripted;
mod tls;
