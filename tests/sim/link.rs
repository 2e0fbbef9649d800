//! A stream link between a device and the gateway: bytes arrive in order, cut anywhere, late, or not at all after a
//! break, of which each end hears in its own time, or never. Keeps the shell's send buffer too.

use bytes::Bytes;
use fastrand::Rng;
use std::collections::VecDeque;

/// What the kernel takes from the shell before the device has read anything, in bytes.
const SOCKET_BUFFER_BYTES: usize = 2_048;

/// One direction of a link.
#[derive(Debug, Default)]
struct Pipe {
    /// When the last byte arrives.
    last: u64,
    in_flight: usize,
    /// After a break: the bytes that still arrive.
    left: Option<usize>,
}

impl Pipe {
    fn push(&mut self, at: u64, bytes: usize) -> u64 {
        self.in_flight += bytes;
        self.last = self.last.max(at);
        self.last
    }

    /// Bytes arrive: as many as a break lets through.
    fn pull(&mut self, bytes: &mut Bytes) {
        self.in_flight -= bytes.len();
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
    }
}

/// A link.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Whose it is.
    pub(crate) device: usize,
    /// The gateway's end is open.
    pub(crate) gateway_open: bool,
    /// The device's end is open.
    pub(crate) device_open: bool,
    /// The gateway reads.
    pub(crate) reading: bool,
    /// Arrived while the gateway does not read.
    held: VecDeque<Bytes>,
    up: Pipe,
    down: Pipe,
    /// The shell's send buffer.
    unsent: VecDeque<Bytes>,
    /// Bytes in it.
    pub(crate) unsent_bytes: usize,
    /// The engine wants it closed.
    pub(crate) closing: bool,
    /// Until when the device does not read.
    pub(crate) stalled_until: u64,
    /// The longest delay of a piece.
    latency: u64,
}

impl Stream {
    pub(crate) fn new(device: usize, latency: u64) -> Self {
        Self {
            device,
            gateway_open: true,
            device_open: true,
            reading: true,
            held: VecDeque::new(),
            up: Pipe::default(),
            down: Pipe::default(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            closing: false,
            stalled_until: 0,
            latency,
        }
    }

    /// The device writes: the pieces, and when each arrives.
    pub(crate) fn write(&mut self, now: u64, rng: &mut Rng, bytes: Bytes) -> Vec<(u64, Bytes)> {
        if !self.device_open || self.up.left.is_some() {
            return Vec::new();
        }
        let pieces = cut(rng, bytes);
        pieces
            .into_iter()
            .map(|piece| (self.up.push(now + rng.u64(..=self.latency), piece.len()), piece))
            .collect()
    }

    /// A piece arrives at the gateway; `None` while it does not read, or when a break took it.
    pub(crate) fn arrive_up(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        self.up.pull(&mut bytes);
        if bytes.is_empty() || !self.gateway_open {
            return None;
        }
        // What has piled up goes first.
        if !self.reading || !self.held.is_empty() {
            self.held.push_back(bytes);
            return None;
        }
        Some(bytes)
    }

    /// The next piece that has piled up, when the gateway reads.
    pub(crate) fn read_held(&mut self) -> Option<Bytes> {
        if self.reading && self.gateway_open { self.held.pop_front() } else { None }
    }

    /// The engine sends.
    pub(crate) fn send(&mut self, bytes: Bytes) {
        if self.gateway_open && !self.closing {
            self.unsent_bytes += bytes.len();
            self.unsent.push_back(bytes);
        }
    }

    /// What leaves the shell's buffer now: the pieces, and when each arrives.
    pub(crate) fn pump(&mut self, now: u64, rng: &mut Rng) -> Vec<(u64, Bytes)> {
        let mut out = Vec::new();
        while self.down.left.is_none() && self.down.in_flight < SOCKET_BUFFER_BYTES {
            let Some(mut bytes) = self.unsent.pop_front() else { break };
            let room = SOCKET_BUFFER_BYTES - self.down.in_flight;
            if bytes.len() > room {
                self.unsent.push_front(bytes.split_off(room));
            }
            self.unsent_bytes -= bytes.len();
            for piece in cut(rng, bytes) {
                let at = (now + rng.u64(..=self.latency)).max(self.stalled_until);
                out.push((self.down.push(at, piece.len()), piece));
            }
        }
        out
    }

    /// A piece arrives at the device; `None` when a break took it.
    pub(crate) fn arrive_down(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        self.down.pull(&mut bytes);
        (!bytes.is_empty() && self.device_open).then_some(bytes)
    }

    /// The link breaks, at any byte of what is under way. Says when each end could notice at the earliest.
    pub(crate) fn break_off(&mut self, now: u64, rng: &mut Rng) -> (u64, u64) {
        for pipe in [&mut self.up, &mut self.down] {
            let through = rng.usize(..=pipe.in_flight);
            pipe.left.get_or_insert(through);
        }
        self.forget_unsent();
        (self.up.last.max(now), self.down.last.max(now))
    }

    /// When everything that has been written to the device has arrived.
    pub(crate) fn down_done(&self) -> u64 {
        self.down.last
    }

    /// When everything that the device has written has arrived.
    pub(crate) fn up_done(&self) -> u64 {
        self.up.last
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.up.left.is_some()
    }

    pub(crate) fn forget_unsent(&mut self) {
        self.unsent.clear();
        self.unsent_bytes = 0;
    }
}

/// Cuts bytes into one to three pieces, anywhere.
fn cut(rng: &mut Rng, mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(1);
    while bytes.len() > 1 && pieces.len() < 2 && rng.u8(..5) == 0 {
        pieces.push(bytes.split_to(rng.usize(1..bytes.len())));
    }
    if !bytes.is_empty() {
        pieces.push(bytes);
    }
    pieces
}
