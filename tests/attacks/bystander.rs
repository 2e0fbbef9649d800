//! An honest device: one connection, one QoS 1 message after the other, each waited for. It notes what was acknowledged and how
//! long the slowest took, and fails when its connection is taken from it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidegate_tests::link::Link;
use tidegate_tests::mqtt::Hello;
use tidegate_wire::mqtt::{Packet, PacketId, Qos, Version};

/// The first level of its topic.
pub(crate) const PREFIX: &str = "bystander";

/// Between an acknowledgement and the next message.
const PAUSE: Duration = Duration::from_millis(3);

/// Beyond this it is not served at all.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Notes {
    end: AtomicBool,
    acknowledged: AtomicUsize,
    slowest_us: AtomicU64,
    payloads: Mutex<Vec<String>>,
}

pub(crate) struct Bystander {
    notes: Arc<Notes>,
    thread: JoinHandle<()>,
}

impl Bystander {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let notes = Arc::new(Notes::default());
        let its = Arc::clone(&notes);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(publish(address, &its));
        });
        Self { notes, thread }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        assert!(!self.thread.is_finished(), "the bystander's connection has ended");
        self.notes.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_micros(self.notes.slowest_us.load(Ordering::Relaxed))
    }

    pub(crate) fn forget_the_slowest(&self) {
        self.notes.slowest_us.store(0, Ordering::Relaxed);
    }

    /// Ends, and gives what was acknowledged.
    pub(crate) fn finish(self) -> Vec<String> {
        self.notes.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bystander lost its connection");
        std::mem::take(&mut self.notes.payloads.lock().unwrap())
    }
}

async fn publish(address: SocketAddr, notes: &Notes) {
    let (mut link, _) = Link::connect(address, &Hello::new(Version::V3_1_1, PREFIX)).await.unwrap();
    let id = PacketId::new(1).unwrap();
    for number in 0_u64.. {
        if notes.end.load(Ordering::Relaxed) {
            return;
        }
        let payload = format!("reading {number}");
        let began = Instant::now();
        link.put_publish(&format!("{PREFIX}/value"), payload.as_bytes(), Qos::AtLeastOnce, id, false, false);
        link.flush().await.unwrap();
        let read = |packet: Packet<'_>| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id);
        let answer = link.next(SERVED_WITHIN, read).await.expect("the connection stays");
        assert_eq!(answer, Some(true), "PUBACK within {SERVED_WITHIN:?}");
        let took = u64::try_from(began.elapsed().as_micros()).unwrap();
        notes.slowest_us.fetch_max(took, Ordering::Relaxed);
        notes.payloads.lock().unwrap().push(payload);
        notes.acknowledged.fetch_add(1, Ordering::Relaxed);
        // Nothing is to come: this is the pause.
        assert_eq!(link.next(PAUSE, |packet| packet.kind()).await.expect("the connection stays"), None);
    }
}
