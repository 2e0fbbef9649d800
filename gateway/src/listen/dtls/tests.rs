//! The table of associations against dimpl's own client, on a clock that the test turns.

use super::association::{Association, Event, Make, Refusal};
use super::by_dimpl::Maker;
use super::cookie::Cookies;
use super::hello::Hello;
use super::peers::{Bounds, Order, Peers};
use super::{Identity, PresharedKey};
use dimpl::{Config, Dtls, Output, PskResolver};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_engine::id::DeviceId;

const BOUNDS: Bounds =
    Bounds { associations: 3, handshakes: 2, handshakes_per_address: 100, idle: Duration::from_secs(3_600) };

fn key(device: &str, key: &[u8]) -> PresharedKey {
    PresharedKey { device: DeviceId::new(device).unwrap(), identity: device.into(), key: key.into() }
}

fn address(number: u16) -> SocketAddr {
    format!("192.0.2.7:{}", 40_000 + number).parse().unwrap()
}

/// A gateway with the devices a to e, whose key is `secret`.
struct Gateway {
    table: Peers,
    now: Instant,
    /// What was reported.
    came: Vec<(SocketAddr, Identity, Vec<u8>)>,
    /// Over which association, the last time.
    association: u32,
}

impl Gateway {
    fn new(bounds: Bounds) -> Self {
        let now = Instant::now();
        let table = Peers::new(Cookies::new(now).unwrap(), Self::maker(&["a", "b", "c", "d", "e"]), bounds);
        Self { table, now, came: Vec::new(), association: 0 }
    }

    fn maker(devices: &[&str]) -> Box<Maker> {
        let keys: Vec<_> = devices.iter().map(|device| key(device, b"secret")).collect();
        Box::new(Maker::new(&keys, None).unwrap())
    }

    /// Carries out orders; gives back the datagrams for `peer`.
    fn done(&mut self, peer: SocketAddr, orders: Vec<Order>) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for order in orders {
            match order {
                Order::Send { peer: to, datagram } if to == peer => sent.push(datagram),
                Order::Send { .. } | Order::Note { .. } => {}
                Order::Report { peer, association, identity, plain } => {
                    self.association = association;
                    self.came.push((peer, identity, plain.to_vec()));
                }
            }
        }
        sent
    }

    fn datagram(&mut self, peer: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut orders = Vec::new();
        self.table.datagram(self.now, peer, datagram, &mut orders);
        self.done(peer, orders)
    }

    fn send(&mut self, peer: SocketAddr, association: u32, plain: &[u8]) -> Vec<Vec<u8>> {
        let mut orders = Vec::new();
        self.table.send(self.now, peer, association, plain, &mut orders);
        self.done(peer, orders)
    }

    fn pass(&mut self, time: Duration, peer: SocketAddr) -> Vec<Vec<u8>> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(due) = self.table.due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            let mut orders = Vec::new();
            self.table.tick(self.now, &mut orders);
            sent.extend(self.done(peer, orders));
        }
        self.now = end;
        sent
    }
}

struct Secret(&'static [u8]);

impl PskResolver for Secret {
    fn resolve(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.to_vec())
    }
}

/// A device's end.
struct Device {
    dtls: Dtls,
    address: SocketAddr,
    connected: bool,
    failed: bool,
    plain: Vec<Vec<u8>>,
}

impl Device {
    fn new(gateway: &Gateway, name: &str, secret: &'static [u8], address: SocketAddr) -> Self {
        let config =
            Config::builder().with_psk_client(name.into(), Arc::new(Secret(secret))).build().unwrap();
        let mut dtls = Dtls::new_12_psk(Arc::new(config), gateway.now);
        dtls.set_active(true);
        dtls.handle_timeout(gateway.now).unwrap();
        Self { dtls, address, connected: false, failed: false, plain: Vec::new() }
    }

    /// What it has to send.
    fn poll(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2_048];
        let mut sent = Vec::new();
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => sent.push(datagram.to_vec()),
                Output::Connected => self.connected = true,
                Output::ApplicationData(plain) => self.plain.push(plain.to_vec()),
                Output::Timeout(_) => return sent,
                _ => {}
            }
        }
    }

    fn told(&mut self, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            self.failed |= self.dtls.handle_packet(&datagram).is_err();
        }
    }

    /// Lets both talk until nobody has anything to say.
    fn talk(&mut self, gateway: &mut Gateway) {
        loop {
            let said = self.poll();
            if said.is_empty() {
                return;
            }
            for datagram in said {
                let answers = gateway.datagram(self.address, &datagram);
                self.told(answers);
            }
        }
    }

    fn says(&mut self, gateway: &mut Gateway, plain: &[u8]) {
        self.dtls.send_application_data(plain).unwrap();
        self.talk(gateway);
    }
}

fn connected(gateway: &mut Gateway, name: &str, number: u16) -> Device {
    let mut device = Device::new(gateway, name, b"secret", address(number));
    device.talk(gateway);
    assert!(device.connected);
    device
}

#[test]
fn a_device_with_its_key_is_known_and_both_ways_are_open() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = connected(&mut gateway, "a", 1);
    device.says(&mut gateway, b"reading");
    assert_eq!(gateway.came, [(address(1), Identity::Key(key("a", b"secret").into()), b"reading".to_vec())]);
    let answer = gateway.send(address(1), gateway.association, b"answer");
    device.told(answer);
    device.talk(&mut gateway);
    assert_eq!(device.plain, [b"answer".to_vec()]);
    assert_eq!(gateway.table.stats().established, 1);
}

#[test]
fn nothing_is_kept_for_who_has_not_brought_a_cookie_back() {
    let mut gateway = Gateway::new(BOUNDS);
    for number in 0..1_000 {
        let mut device = Device::new(&gateway, "a", b"secret", address(number));
        let hello = device.poll().remove(0);
        let answers = gateway.datagram(address(number), &hello);
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() < hello.len(), "nothing is amplified");
    }
    assert!(gateway.table.holds_nothing());
}

#[test]
fn a_cookie_is_good_for_its_address_its_hello_and_two_minutes() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = Device::new(&gateway, "a", b"secret", address(1));
    let answer = gateway.datagram(address(1), &device.poll()[0]);
    device.told(answer);
    let hello = device.poll().remove(0);
    let mut other_suites = hello.clone();
    *other_suites.last_mut().unwrap() ^= 1;
    let refused = |answers: &[Vec<u8>]| answers.len() == 1 && answers[0][13] == 3;
    assert!(refused(&gateway.datagram(address(2), &hello)), "of another address");
    assert!(refused(&gateway.datagram(address(1), &other_suites)), "another hello");
    gateway.now += Duration::from_secs(121);
    assert!(refused(&gateway.datagram(address(1), &hello)), "too old");
    gateway.now -= Duration::from_secs(61);
    assert!(!refused(&gateway.datagram(address(1), &hello)));
}

#[test]
fn a_device_that_lost_its_memory_comes_back_at_once_and_the_old_association_lives_until_then() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut old = connected(&mut gateway, "a", 1);
    let mut new = Device::new(&gateway, "a", b"secret", address(1));
    // A hello, with its cookie or not, throws nobody out.
    let answers = gateway.datagram(address(1), &new.poll()[0]);
    new.told(answers);
    old.says(&mut gateway, b"one");
    let answers = gateway.datagram(address(1), &new.poll()[0]);
    old.says(&mut gateway, b"two");
    assert_eq!(gateway.came.len(), 2);
    new.told(answers);
    new.talk(&mut gateway);
    assert!(new.connected);
    new.says(&mut gateway, b"three");
    assert_eq!(gateway.came.len(), 3);
    old.says(&mut gateway, b"four");
    assert_eq!(gateway.came.len(), 3, "the old one is no more");
    assert_eq!(gateway.table.stats().associations, 1);
}

#[test]
fn what_was_meant_for_an_association_does_not_reach_the_next_one() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut one = connected(&mut gateway, "a", 1);
    one.says(&mut gateway, b"observe");
    let before = gateway.association;
    let mut other = connected(&mut gateway, "b", 1);
    assert!(gateway.send(address(1), before, b"a's secret").is_empty());
    other.says(&mut gateway, b"observe");
    assert_ne!(gateway.association, before);
    assert_eq!(gateway.send(address(1), gateway.association, b"b's").len(), 1);
}

#[test]
fn who_does_not_have_the_key_does_not_get_in_and_the_live_one_stays() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut live = connected(&mut gateway, "a", 1);
    for (name, secret) in [("a", b"guess!".as_slice()), ("nobody", b"secret")] {
        let mut stranger = Device::new(&gateway, name, secret, address(1));
        stranger.talk(&mut gateway);
        assert!(!stranger.connected);
        assert!(stranger.failed, "it is told at once, with the same alert whatever was wrong");
        live.says(&mut gateway, b"still here");
    }
    live.says(&mut gateway, b"and here");
    assert_eq!(gateway.came.len(), 3);
    assert_eq!(gateway.table.stats().refused, 2);
}

#[test]
fn what_anybody_can_write_ends_no_association() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = connected(&mut gateway, "a", 1);
    let alert = |level, description| vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, level, description];
    let garbage = |kind, epoch| vec![kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 9, 0, 4, 20, 0, 0, 1];
    for datagram in [
        alert(2, 40),
        alert(1, 0),
        garbage(22, 0),
        garbage(20, 0),
        garbage(23, 1),
        garbage(22, 1),
        vec![],
        vec![22],
    ] {
        gateway.datagram(address(1), &datagram);
    }
    device.says(&mut gateway, b"still here");
    assert_eq!(gateway.came.len(), 1);
}

#[test]
fn a_record_that_comes_twice_is_taken_once() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = connected(&mut gateway, "a", 1);
    device.dtls.send_application_data(b"open the gate").unwrap();
    let datagram = device.poll().remove(0);
    gateway.datagram(address(1), &datagram);
    gateway.datagram(address(1), &datagram);
    assert_eq!(gateway.came.len(), 1);
    gateway.datagram(address(2), &datagram);
    assert_eq!(gateway.came.len(), 1, "and not from elsewhere");
}

#[test]
fn the_association_that_was_silent_for_longest_makes_room() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut devices: Vec<Device> =
        (1..=3).zip(["a", "b", "c"]).map(|(number, name)| connected(&mut gateway, name, number)).collect();
    devices[0].says(&mut gateway, b"busy");
    devices.push(connected(&mut gateway, "d", 4));
    gateway.came.clear();
    for device in &mut devices {
        device.says(&mut gateway, b"here");
    }
    let here: Vec<_> = gateway.came.iter().map(|(peer, ..)| peer.port() - 40_000).collect();
    assert_eq!(here, [1, 3, 4]);
    assert_eq!(gateway.table.stats().evicted, 1);
}

#[test]
fn silence_ends_an_association_and_it_is_told() {
    let mut gateway = Gateway::new(BOUNDS);
    connected(&mut gateway, "a", 1);
    let sent = gateway.pass(Duration::from_secs(3_601), address(1));
    assert_eq!(sent.len(), 1, "close_notify");
    assert!(gateway.table.holds_nothing());
}

#[test]
fn only_so_many_handshakes_are_under_way_and_one_address_cannot_take_them_all() {
    let mut gateway = Gateway::new(Bounds { handshakes: 2, handshakes_per_address: 5, ..BOUNDS });
    let begin = |gateway: &mut Gateway, number| {
        let mut device = Device::new(gateway, "a", b"secret", address(number));
        let answer = gateway.datagram(address(number), &device.poll()[0]);
        device.told(answer);
        !gateway.datagram(address(number), &device.poll()[0]).is_empty()
    };
    assert_eq!([1, 2, 3].map(|number| begin(&mut gateway, number)), [true, true, false]);
    gateway.pass(Duration::from_secs(31), address(1));
    // What was begun and came to nothing counts for its address; a second gives one back.
    for _ in 0..5 {
        begin(&mut gateway, 1);
    }
    assert!(!begin(&mut gateway, 1));
    gateway.pass(Duration::from_secs(2), address(1));
    assert!(begin(&mut gateway, 1));
}

#[test]
fn few_addresses_do_not_keep_all_others_out() {
    let mut gateway = Gateway::new(Bounds { handshakes: 8, ..BOUNDS });
    let begin = |gateway: &mut Gateway, peer: SocketAddr| {
        let mut device = Device::new(gateway, "a", b"secret", peer);
        let answer = gateway.datagram(peer, &device.poll()[0]);
        device.told(answer);
        !gateway.datagram(peer, &device.poll()[0]).is_empty()
    };
    let of = |host: u8, port: u16| SocketAddr::from(([192, 0, 2, host], port));
    for port in 0..4 {
        assert!(begin(&mut gateway, of(1, 5_000 + port)) && begin(&mut gateway, of(2, 5_000 + port)));
    }
    assert!(!begin(&mut gateway, of(2, 6_000)), "not by more of its own");
    let mut honest = Device::new(&gateway, "b", b"secret", of(3, 5_000));
    honest.talk(&mut gateway);
    assert!(honest.connected);
    // Its place is free again, and with it one more of each.
    assert!(begin(&mut gateway, of(4, 5_000)));
    assert!(begin(&mut gateway, of(5, 5_000)) && begin(&mut gateway, of(6, 5_000)));
    assert_eq!(gateway.table.stats().crowded, 4);
}

#[test]
fn a_new_configuration_ends_the_associations_of_who_is_not_in_it() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut devices = [connected(&mut gateway, "a", 1), connected(&mut gateway, "b", 2)];
    let mut orders = Vec::new();
    gateway.table.reload(gateway.now, Gateway::maker(&["b"]), BOUNDS, &mut orders);
    for device in &mut devices {
        device.says(&mut gateway, b"here");
    }
    assert_eq!(gateway.came.len(), 1);
    assert_eq!(gateway.came[0].0, address(2));
}

#[test]
fn a_lossy_link_only_delays_a_handshake() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = Device::new(&gateway, "a", b"secret", address(1));
    let mut lost = 0_u32;
    for _ in 0..600 {
        let mut said = device.poll();
        for datagram in said.drain(..) {
            lost += 1;
            if !lost.is_multiple_of(3) {
                continue; // Two of three are lost.
            }
            let answers = gateway.datagram(address(1), &datagram);
            device.told(answers);
        }
        let late = gateway.pass(Duration::from_millis(100), address(1));
        device.told(late);
        device.dtls.handle_timeout(gateway.now).unwrap();
        if device.connected {
            return;
        }
    }
    panic!("it never came in");
}

#[test]
fn no_bytes_upset_the_table() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut device = connected(&mut gateway, "a", 1);
    let mut seen = Device::new(&gateway, "b", b"secret", address(2)).poll();
    device.dtls.send_application_data(b"x").unwrap();
    seen.extend(device.poll());
    for _ in 0..20_000 {
        let mut datagram = seen[rng.usize(..seen.len())].clone();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(..datagram.len());
            datagram[at] = rng.u8(..);
        }
        datagram.truncate(rng.usize(..=datagram.len()));
        gateway.datagram(address(rng.u16(0..4)), &datagram);
        gateway.pass(Duration::from_millis(50), address(1));
    }
    assert!(gateway.table.stats().associations <= 3);
}

// ------------------------------------------------------------------------------------------------- reloads

#[test]
fn a_key_that_was_taken_away_during_the_handshake_opens_nothing() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = Device::new(&gateway, "a", b"secret", address(1));
    for _ in 0..2 {
        let said = device.poll();
        for datagram in said {
            let answers = gateway.datagram(address(1), &datagram);
            device.told(answers);
        }
    }
    let other = Device::new(&gateway, "b", b"secret", address(2));
    let mut orders = Vec::new();
    gateway.table.reload(gateway.now, Gateway::maker(&["b"]), BOUNDS, &mut orders);
    device.talk(&mut gateway);
    let _ = device.dtls.send_application_data(b"open the gate");
    device.talk(&mut gateway);
    assert_eq!((gateway.came.len(), gateway.table.stats().established), (0, 0));
    let mut other = other;
    other.talk(&mut gateway);
    assert!(other.connected);
}

#[test]
fn a_reload_moves_every_bound() {
    let mut gateway = Gateway::new(Bounds { handshakes: 50, handshakes_per_address: 50, ..BOUNDS });
    let begin = |gateway: &mut Gateway, number| {
        let mut device = Device::new(gateway, "a", b"secret", address(number));
        let answer = gateway.datagram(address(number), &device.poll()[0]);
        device.told(answer);
        !gateway.datagram(address(number), &device.poll()[0]).is_empty()
    };
    for number in 1..=10 {
        connected(&mut gateway, "a", number);
    }
    let bounds = Bounds { handshakes: 50, handshakes_per_address: 2, associations: 1, ..BOUNDS };
    let mut orders = Vec::new();
    gateway.table.reload(gateway.now, Gateway::maker(&["a"]), bounds, &mut orders);
    assert_eq!(gateway.table.stats().associations, 1);
    assert_eq!([21, 22, 23].map(|number| begin(&mut gateway, number)), [true, true, false]);
}

#[test]
fn sending_moves_no_timer_that_is_armed_already() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut device = connected(&mut gateway, "a", 1);
    device.says(&mut gateway, b"observe");
    let mut orders = Vec::new();
    for _ in 0..10 {
        let sent = gateway.table.send(gateway.now, address(1), gateway.association, b"value", &mut orders);
        assert_eq!(sent, Some(false), "who receives need not wake up for it");
    }
    assert_eq!(gateway.table.send(gateway.now, address(1), 99, b"value", &mut orders), None);
}

#[test]
fn a_live_association_survives_every_damaged_datagram() {
    let mut gateway = Gateway::new(BOUNDS);
    let mut rng = fastrand::Rng::with_seed(11);
    let mut device = connected(&mut gateway, "a", 1);
    let mut seen = vec![Device::new(&gateway, "b", b"secret", address(2)).poll().remove(0)];
    for round in 0..200 {
        device.dtls.send_application_data(b"x").unwrap();
        seen.extend(device.poll());
        for _ in 0..50 {
            let mut datagram = seen[rng.usize(..seen.len())].clone();
            let other = seen[rng.usize(..seen.len())].clone();
            datagram.extend(other.iter().take(rng.usize(0..40)));
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..datagram.len());
                datagram[at] = rng.u8(..);
            }
            datagram.truncate(rng.usize(1..=datagram.len()));
            gateway.datagram(address(1), &datagram);
        }
        gateway.came.clear();
        device.says(&mut gateway, b"still here");
        assert_eq!(gateway.came.len(), 1, "round {round}");
    }
}

// -------------------------------------------------------------------------------------------------- waiting

/// Stands at once, and takes whatever is sent.
struct Ready {
    established: bool,
}

impl Association for Ready {
    fn receive(&mut self, _: Instant, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn tick(&mut self, _: Instant) -> Result<(), Refusal> {
        Ok(())
    }

    fn send(&mut self, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn close(&mut self) {}

    fn poll<'a>(&mut self, _: &'a mut [u8]) -> Result<Event<'a>, Refusal> {
        if !std::mem::replace(&mut self.established, true) {
            return Ok(Event::Established(Identity::Nobody));
        }
        Ok(Event::Wait(Instant::now() + Duration::from_secs(3_600)))
    }
}

/// The first handshake is done at once; the second takes as long as a slow processor's signature.
struct Slow {
    first: AtomicBool,
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
    over: Arc<AtomicBool>,
}

impl Make for Slow {
    fn make(&self, _: Instant, _: &Hello<'_>) -> Result<Box<dyn Association>, Refusal> {
        if self.first.swap(false, Ordering::Relaxed) {
            return Ok(Box::new(Ready { established: false }));
        }
        self.begun.send(()).unwrap();
        let _ = self.go_on.lock().unwrap().recv_timeout(Duration::from_secs(10));
        self.over.store(true, Ordering::Relaxed);
        Err(Refusal("it took too long".to_owned()))
    }

    fn still_knows(&self, _: &Identity) -> bool {
        true
    }
}

#[test]
fn who_sends_waits_for_no_handshake() {
    let (begun, has_begun) = channel();
    let (go_on, going_on) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let first = AtomicBool::new(true);
    let slow = Slow { first, begun, go_on: Mutex::new(going_on), over: Arc::clone(&over) };
    let mut gateway = Gateway::new(BOUNDS);
    let now = gateway.now;
    gateway.table = Peers::new(Cookies::new(now).unwrap(), Box::new(slow), BOUNDS);
    let hello = |gateway: &mut Gateway, number| {
        let mut device = Device::new(gateway, "a", b"secret", address(number));
        let answer = gateway.datagram(address(number), &device.poll()[0]);
        device.told(answer);
        device.poll().remove(0)
    };
    let ready = hello(&mut gateway, 1);
    gateway.datagram(address(1), &ready);
    let other = hello(&mut gateway, 2);
    let peers = &gateway.table;
    std::thread::scope(|scope| {
        scope.spawn(|| peers.datagram(now, address(2), &other, &mut Vec::new()));
        has_begun.recv().unwrap();
        assert!(peers.send(now, address(1), 1, b"answer", &mut Vec::new()).is_some());
        assert!(!over.load(Ordering::Relaxed), "it has waited until the handshake was over");
        go_on.send(()).unwrap();
    });
}
