//! Verifies passwords for the engine: fast ones at once, slow ones one at a time on a thread of their own, which rests after a wrong
//! one, so that guessing takes a quarter of one core at the most. Every question gets exactly one answer.

use super::password;
use crate::inbox::Inbox;
use crate::memory;
use crate::priority;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;
use tidegate_engine::event::{Input, Password, Secret};
use tidegate_engine::id::ConnId;

/// After a wrong password the thread rests for so many times as long as it took.
const REST: u32 = 3;

/// Questions that may wait: more than the engine's bound (twice `Limits::verifications`).
const QUESTIONS: usize = 256;

struct Question {
    conn: ConnId,
    secret: Arc<Secret>,
    password: Password,
}

/// The way to the thread.
#[derive(Debug)]
pub struct Verifier(SyncSender<Question>);

impl Verifier {
    /// Starts the thread. It answers through `inbox`, and ends with the driver.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(inbox: Inbox) -> std::io::Result<Self> {
        let (ask, questions) = sync_channel(QUESTIONS);
        std::thread::Builder::new().name("passwords".into()).spawn(move || answer(&questions, &inbox))?;
        Ok(Self(ask))
    }

    /// Whether it is the right password; `None` when the answer comes through the inbox.
    pub fn verify(&self, conn: ConnId, secret: Arc<Secret>, password: Password) -> Option<bool> {
        if !secret.slow {
            return Some(password::verify(&secret, &password.0));
        }
        // A full queue means that the engine broke its bound, or that the thread is gone: nobody is let in.
        self.0.try_send(Question { conn, secret, password }).err().map(|_| false)
    }
}

fn answer(questions: &Receiver<Question>, inbox: &Inbox) {
    priority::give_way(priority::PASSWORDS);
    while let Ok(Question { conn, secret, password }) = questions.recv() {
        let began = Instant::now();
        let genuine = password::verify(&secret, &password.0);
        let took = began.elapsed();
        // Argon2's memory is more than all the rest that the gateway has at rest, and this thread may sleep for hours now.
        memory::give_back();
        if inbox.send_blocking(Input::Verified { conn, genuine }).is_err() {
            return;
        }
        if !genuine {
            std::thread::sleep(took.saturating_mul(REST));
        }
    }
}
