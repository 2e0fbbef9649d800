//! An observer behind a link that loses, doubles and reorders: it never goes back to an older value, and in the end it has the newest
//! (RFC 7641, 1.3 and 3.4).

use super::{Everything, Link, at, device, setup};
use bytes::Bytes;
use fastrand::Rng;
use std::sync::Arc;
use tidegate_engine::event::{Output, Via};
use tidegate_engine::id::{DeviceId, MessageId, Seq};
use tidegate_engine::limits::Limits;
use tidegate_engine::message::{Message as Value, Qos, Source};
use tidegate_engine::mutant::Planted;
use tidegate_engine::session::coap::Coap;
use tidegate_engine::session::{LastValue, LastValues, Request};
use tidegate_engine::time::{Instant, Stamp};
use tidegate_engine::topic::{Filter, Topic};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// The last value of the one topic, which nobody retained at first.
struct Last(Option<Arc<Value>>);

impl LastValues for Last {
    fn last(&self, _: Instant, _: &Topic) -> Option<LastValue> {
        self.0.clone().map(|message| LastValue { message, seconds_left: None })
    }

    fn first(&self, now: Instant, filter: &Filter) -> Option<LastValue> {
        Everything.first(now, filter)
    }
}

/// What the client keeps, as RFC 7641, 3.4 says.
#[derive(Default)]
struct Observer {
    sequence: Option<(u32, u64)>,
    value: u64,
    heard: u64,
    message_id: u16,
}

impl Observer {
    fn register(&mut self) -> Vec<u8> {
        self.message_id += 1;
        // A new observation under a new token: numbers are compared anew.
        self.sequence = None;
        let mut buffer = [0; 64];
        let header = Header { kind: Kind::Confirmable, code: Code::GET, message_id: self.message_id };
        Writer::new(&mut buffer, header, self.token())
            .uint(OptionNumber::OBSERVE, 0)
            .option(OptionNumber::URI_PATH, b"t")
            .option(OptionNumber::URI_PATH, b"a")
            .finish()
            .unwrap()
            .to_vec()
    }

    fn token(&self) -> Token {
        Token::new(&self.message_id.to_be_bytes()).unwrap()
    }

    /// What is owed for a datagram.
    fn take(&mut self, now: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).unwrap();
        let [high, low] = message.message_id().to_be_bytes();
        let (reset, acknowledgement) = (vec![0x70, 0, high, low], vec![0x60, 0, high, low]);
        let confirmable = message.kind() == Kind::Confirmable;
        if message.token() != self.token() {
            return (confirmable || message.kind() == Kind::NonConfirmable).then_some(reset);
        }
        if let Some(sequence) = message.option_uint(OptionNumber::OBSERVE) {
            self.heard = now;
            let fresh = self.sequence.is_none_or(|(last, at)| {
                let ahead = sequence.wrapping_sub(last) & 0xFF_FFFF;
                ahead > 0 && ahead < 1 << 23 || now > at + 128_000_000
            });
            if fresh {
                self.sequence = Some((sequence, now));
                if !message.payload().is_empty() {
                    let value = String::from_utf8(message.payload().to_vec()).unwrap().parse().unwrap();
                    assert!(value >= self.value, "back from {} to {value}", self.value);
                    self.value = value;
                }
            }
        }
        confirmable.then_some(acknowledgement)
    }
}

fn value(number: u64, rng: &mut Rng) -> Arc<Value> {
    Arc::new(Value {
        id: MessageId { epoch: 1, seq: Seq(number) },
        device: DeviceId::new("d").unwrap(),
        topic: Topic::new("a").unwrap(),
        payload: number.to_string().into(),
        received: Stamp::default(),
        qos: if rng.bool() { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        retain: true,
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    })
}

fn play(seed: u64, notified: &mut u64) {
    let mut rng = Rng::with_seed(seed);
    let mut coap = Coap::new(&setup(rng.u64(..), Limits::default()), Planted::default(), &[], at(0));
    let (mut up, mut down) = (Link::default(), Link::default());
    let mut observer = Observer::default();
    let mut last = Last(None);
    let (mut now, mut number) = (1_000_000, 0);
    let mut next_publish = now;
    let mut next_register = now;
    let end = now + 600_000_000;
    while now < end {
        // For the last five minutes nothing new is published: what is lost until then is made good.
        if now >= next_publish && now + 300_000_000 < end {
            number += 1;
            let message = value(number, &mut rng);
            coap.deliver(at(now), &message);
            last.0 = Some(message);
            next_publish =
                now + if rng.u8(..) < 200 { rng.u64(1_000..500_000) } else { rng.u64(..20_000_000) };
        }
        // As a client does that has heard nothing for Max-Age.
        if now >= next_register {
            let datagram = observer.register();
            up.send(&mut rng, now, &datagram);
            next_register = now + if observer.heard + 60_000_000 < now { 5_000_000 } else { 90_000_000 };
        }
        while let Some(datagram) = up.receive(now) {
            coap.datagram(at(now), device(1), Via::Open, Bytes::from(datagram), &last);
        }
        coap.tick(at(now));
        while let Some(request) = coap.poll() {
            if let Request::Output(Output::SendTo { bytes, .. }) = request {
                down.send(&mut rng, now, &bytes);
            }
        }
        while let Some(datagram) = down.receive(now) {
            *notified += 1;
            if let Some(answer) = observer.take(now, &datagram) {
                up.send(&mut rng, now, &answer);
            }
        }
        let publish = if now + 300_000_000 < end { next_publish } else { end };
        let due = [up.due(), down.due(), coap.timeout().map(|due| due.0), Some(publish), Some(next_register)];
        now = due.into_iter().flatten().min().unwrap_or(end).max(now + 1);
    }
    assert_eq!(observer.value, number, "seed {seed}: it has not got the newest value");
}

#[test]
fn over_a_bad_link_an_observer_never_goes_back_and_ends_with_the_newest_value() {
    let mut notified = 0;
    for seed in 0..200 {
        play(seed, &mut notified);
    }
    assert!(notified > 5_000, "{notified}");
}
