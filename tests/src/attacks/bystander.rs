//! An honest device: one connection, one QoS 1 message after the other, each waited for. It notes what was acknowledged and how
//! long each took, and fails when its connection is taken from it.

use crate::link::Link;
use crate::mqtt::Hello;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_wire::mqtt::{Packet, PacketId, Qos, Version};

/// The first level of its topic.
pub const PREFIX: &str = "bystander";

/// Between an acknowledgement and the next message.
const PAUSE: Duration = Duration::from_millis(3);

/// Beyond this it is not served at all.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Notes {
    end: AtomicBool,
    payloads: Mutex<Vec<String>>,
    latencies: Mutex<Vec<Duration>>,
}

/// The device, at work on a thread of its own.
#[derive(Debug)]
pub struct Bystander {
    notes: Arc<Notes>,
    thread: JoinHandle<()>,
}

impl Bystander {
    /// Connects and begins.
    #[must_use]
    pub fn start(address: SocketAddr, password: &str) -> Self {
        let notes = Arc::new(Notes::default());
        let (its, password) = (Arc::clone(&notes), password.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(publish(address, &password, &its));
        });
        Self { notes, thread }
    }

    /// How many messages have been acknowledged.
    ///
    /// # Panics
    /// When it has lost its connection.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        assert!(!self.thread.is_finished(), "the bystander's connection has ended");
        self.notes.payloads.lock().expect("its notes").len()
    }

    /// How long the acknowledgements took since this was asked last, the shortest first.
    ///
    /// # Panics
    /// When it has lost its connection.
    #[must_use]
    pub fn latencies(&self) -> Vec<Duration> {
        assert!(!self.thread.is_finished(), "the bystander's connection has ended");
        let mut latencies = std::mem::take(&mut *self.notes.latencies.lock().expect("its notes"));
        latencies.sort_unstable();
        latencies
    }

    /// Ends, and gives what was acknowledged.
    ///
    /// # Panics
    /// When it has lost its connection.
    #[must_use]
    pub fn finish(self) -> Vec<String> {
        self.notes.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bystander lost its connection");
        std::mem::take(&mut self.notes.payloads.lock().expect("its notes"))
    }
}

async fn publish(address: SocketAddr, password: &str, notes: &Notes) {
    let hello = Hello::new(Version::V3_1_1, PREFIX).proving(PREFIX, password);
    let (mut link, _) = Link::connect(address, &hello).await.expect("the bystander is let in");
    let id = PacketId::new(1).expect("an id");
    // Another life of the bystander, on the same gateway, says other things.
    let life = fastrand::u32(..);
    for number in 0_u64.. {
        if notes.end.load(Ordering::Relaxed) {
            return;
        }
        let payload = format!("reading {life} {number}");
        let began = Instant::now();
        link.put_publish(&format!("{PREFIX}/value"), payload.as_bytes(), Qos::AtLeastOnce, id, false, false);
        link.flush().await.expect("the connection stays");
        let read = |packet: Packet<'_>| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id);
        let answer = link.next(SERVED_WITHIN, read).await.expect("the connection stays");
        assert_eq!(answer, Some(true), "PUBACK within {SERVED_WITHIN:?}");
        notes.latencies.lock().expect("its notes").push(began.elapsed());
        notes.payloads.lock().expect("its notes").push(payload);
        // Nothing is to come: this is the pause.
        assert_eq!(link.next(PAUSE, |packet| packet.kind()).await.expect("the connection stays"), None);
    }
}
