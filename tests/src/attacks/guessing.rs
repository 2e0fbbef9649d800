//! Guessing passwords: ten thousand a minute from one address, and one a minute from each of a thousand others, while the devices
//! whose passwords they are come and go at home.

use super::access::CHOSEN;
use super::{Arena, Case, LOAD_BALANCER, Setting};
use crate::link::Link;
use crate::mqtt::Hello;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;
use tidegate_wire::mqtt::Version;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Ten thousand a minute.
const EVERY: Duration = Duration::from_millis(6);

/// One guess in so many comes from one of the others: a thousand a minute.
const OTHERS: usize = 10;
const ADDRESSES: usize = 1_000;

/// How long it goes on. The rate is what counts.
const LASTS: Duration = Duration::from_secs(10);

/// Guesses whose answers are still waited for; each takes a second.
const WAITING: usize = 400;

/// The guesser; the devices' own address.
const GUESSER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const HOME: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// "hunter2", by a hash that takes next to no time: its device is guessed at like the one whose hash does.
const WEAK: &str = "[device.home]\npassword_hash = \
     \"$argon2id$v=19$m=64,t=1,p=1$c29tZSBzYWx0IGhlcmU$L7xoins35Zxujf2h44+A9MrPs+uMD4EcSd6TRn8OKkg\"\n";

/// How much of one processor's time it may take. The rule is a quarter, which `bench attacks` measures on a quiet machine; this
/// tells a gateway that verifies every guess.
const CPU_MOST: f64 = 0.5;

pub(super) const A11: Case = Case {
    id: "A11",
    name: "passwords guessed 10,000 times a minute from one address, and once a minute from 1,000",
    setting: |arena| Setting {
        mqtt: LOAD_BALANCER.to_owned(),
        rest: format!("{}{CHOSEN}{WEAK}", arena.device("sensor", "")),
    },
    attack: |arena| Box::pin(guess(arena)),
    counted: &[
        ("tidegate_sign_ins_refused_total{protocol=\"mqtt\"}", 300.0),
        ("tidegate_connections_refused_total", 300.0),
    ],
    audited: &[("sign-in refused", 50)],
};

async fn guess(arena: &Arena) {
    at_home(arena).await;
    let (cpu, began) = (arena.cpu(), Instant::now());
    let mut guesses = interval(EVERY);
    guesses.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waiting = VecDeque::new();
    let mut next_at_home = began + LASTS / 10;
    let devices = ["sensor", "person", "home"];
    for number in 0.. {
        guesses.tick().await;
        if began.elapsed() >= LASTS {
            break;
        }
        let from = if number % OTHERS == 0 {
            let [.., high, low] = (number / OTHERS % ADDRESSES).to_be_bytes();
            Ipv4Addr::new(203, 0, high, low)
        } else {
            GUESSER
        };
        let secret = format!("guess {number}");
        let hello = Hello::new(Version::V3_1_1, "x").proving(devices[number % devices.len()], &secret);
        let mut link = arena.open(hello.version).await.expect("a connection");
        // It may be refused before it has said anything.
        let _ = link.write(&[super::speaking_for(from), hello.bytes()].concat()).await;
        waiting.push_back(link);
        if waiting.len() > WAITING {
            waiting.pop_front();
        }
        if Instant::now() >= next_at_home {
            next_at_home += LASTS / 10;
            at_home(arena).await;
        }
    }
    let share = (arena.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(share <= CPU_MOST, "{share}");
}

/// The devices themselves are let in where they have been before.
async fn at_home(arena: &Arena) {
    for (device, password) in [("sensor", arena.password()), ("home", "hunter2")] {
        let hello = Hello::new(Version::V3_1_1, device).proving(device, password);
        let mut link = arena.open(hello.version).await.expect("a connection");
        link.write(&super::speaking_for(HOME)).await.expect("it is taken");
        assert_eq!(super::greet(&mut link, &hello).await, Some(0), "{device} at home");
        forget(link).await;
    }
}

/// Ends as a device does, so that the next one does not take over.
async fn forget(mut link: Link) {
    link.put(&tidegate_wire::mqtt::Packet::Disconnect(tidegate_wire::mqtt::Disconnect {
        reason: tidegate_wire::mqtt::ReasonCode::SUCCESS,
        properties: tidegate_wire::mqtt::Properties::EMPTY,
    }));
    link.flush().await.expect("it is taken");
    link.closed(super::SOON).await;
}
