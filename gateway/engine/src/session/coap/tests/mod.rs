//! Each duty of the CoAP server on its own; that messages are truly safe is shown by the simulation. Here is the bench
//! that the tests stand on; `exchanges` is about answers and repetitions, `requests` about what may be asked.

mod bodies;
mod devices;
mod exchanges;
mod mistaken;
mod observing;
mod places;
mod requests;
mod streams;

use super::{Coap, Receipt};
use crate::event::{Anonymous, Endpoint, Notice, Output, Setup, Via};
use crate::id::{ConnId, GatewayId};
use crate::limits::Limits;
use crate::message::Message as Value;
use crate::mutant::Planted;
use crate::resource::Resource;
use crate::session::{Incoming, LastValue, LastValues, Receipt as AnyReceipt, Request};
use crate::time::{Duration, Instant, Now};
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber as Number, Token, Writer};

const TOKEN: [u8; 4] = [0xA1, 0xB2, 0xC3, 0xD4];

fn setup(anonymous: Anonymous, limits: Limits) -> Setup {
    Setup {
        gateway: GatewayId::new("g").unwrap(),
        epoch: 1,
        seed: 7,
        limits,
        anonymous,
        devices: Vec::new(),
        resources: Resource::shipped(),
        upstreams: Vec::new(),
        routes: Vec::new(),
    }
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint { socket: 0, peer: text.parse::<SocketAddr>().unwrap(), association: 0 }
}

/// What is retained.
#[derive(Debug, Default)]
struct Values(BTreeMap<Topic, Arc<Value>>);

impl LastValues for Values {
    fn last(&self, _: Instant, topic: &Topic) -> Option<LastValue> {
        let message = Arc::clone(self.0.get(topic)?);
        Some(LastValue { message, seconds_left: None })
    }

    fn first(&self, _: Instant, filter: &Filter) -> Option<LastValue> {
        let (_, message) = self.0.iter().find(|(topic, _)| filter.matches(topic))?;
        Some(LastValue { message: Arc::clone(message), seconds_left: None })
    }
}

/// A server on a clock that the test moves, and one device's address.
struct Bench {
    coap: Coap,
    now: Now,
    device: Endpoint,
    published: Vec<(Incoming, Option<Receipt>)>,
    values: Values,
    sent: Vec<(Endpoint, Bytes)>,
    streamed: Vec<Bytes>,
    closed: Vec<ConnId>,
    reading: bool,
    notices: Vec<Notice>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Anonymous::Loopback, Limits::default())
    }

    fn with(anonymous: Anonymous, limits: Limits) -> Self {
        Self {
            coap: Coap::new(&setup(anonymous, limits), Planted::default(), &[], Now::default()),
            now: Now { instant: Instant(1_000_000), ..Now::default() },
            device: endpoint("127.0.0.1:40000"),
            published: Vec::new(),
            values: Values::default(),
            sent: Vec::new(),
            streamed: Vec::new(),
            closed: Vec::new(),
            reading: true,
            notices: Vec::new(),
        }
    }

    fn gather(&mut self) {
        while let Some(request) = self.coap.poll() {
            match request {
                Request::Publish { incoming, receipt } => {
                    let receipt = receipt.map(|receipt| match receipt {
                        AnyReceipt::Coap(receipt) => receipt,
                        AnyReceipt::Mqtt(_) => panic!("an MQTT receipt"),
                    });
                    self.published.push((incoming, receipt));
                }
                Request::Output(Output::SendTo { endpoint, bytes }) => self.sent.push((endpoint, bytes)),
                Request::Output(Output::Send { bytes, .. }) => self.streamed.push(bytes),
                Request::Output(Output::Close { conn }) => self.closed.push(conn),
                Request::Output(Output::Reading { on, .. }) => self.reading = on,
                Request::Output(Output::Notice(notice)) => self.notices.push(notice),
                // The store of this bench is a quick one.
                Request::Record { receipt: Some(AnyReceipt::Coap(receipt)), .. } => {
                    self.coap.safe(self.now, receipt);
                }
                // What a reload removes.
                Request::Record { receipt: None, .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn from(&mut self, endpoint: Endpoint, bytes: &[u8]) {
        self.coap.datagram(self.now, endpoint, Via::Open, Bytes::copy_from_slice(bytes), &self.values);
        self.gather();
    }

    /// What the server sends at once in answer to the device's datagram.
    fn ask(&mut self, bytes: &[u8]) -> Vec<Answer> {
        self.sent.clear();
        self.from(self.device, bytes);
        self.answers()
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.sent.drain(..).map(|(_, bytes)| Answer::read(&bytes)).collect()
    }

    fn safe(&mut self, index: usize) -> Vec<Answer> {
        let receipt = self.published[index].1.unwrap();
        self.coap.safe(self.now, receipt);
        self.gather();
        self.answers()
    }

    fn pass(&mut self, time: Duration) -> Vec<Answer> {
        self.now.instant = self.now.instant.after(time);
        self.coap.tick(self.now);
        self.gather();
        self.answers()
    }

    /// Moves to the next timeout.
    fn next(&mut self) -> Vec<Answer> {
        let due = self.coap.timeout().unwrap();
        self.pass(due.since(self.now.instant))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    kind: Kind,
    code: Code,
    message_id: u16,
    token: Vec<u8>,
    max_age: Option<u32>,
    size1: Option<u32>,
    payload: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let message = Message::parse(bytes).unwrap();
        Self {
            kind: message.kind(),
            code: message.code(),
            message_id: message.message_id(),
            token: message.token().as_bytes().to_vec(),
            max_age: message.option_uint(Number::MAX_AGE),
            size1: message.option_uint(Number::SIZE1),
            payload: message.payload().to_vec(),
        }
    }

    fn empty(kind: Kind, message_id: u16) -> Self {
        Self {
            kind,
            code: Code::EMPTY,
            message_id,
            token: vec![],
            max_age: None,
            size1: None,
            payload: vec![],
        }
    }
}

fn write(
    kind: Kind,
    code: Code,
    id: u16,
    path: &[&[u8]],
    options: &[(Number, &[u8])],
    payload: &[u8],
) -> Vec<u8> {
    let mut all: Vec<(Number, &[u8])> = path.iter().map(|segment| (Number::URI_PATH, *segment)).collect();
    all.extend_from_slice(options);
    all.sort_by_key(|(number, _)| *number);
    let mut buffer = vec![0; 4096];
    let header = Header { kind, code, message_id: id };
    let mut writer = Writer::new(&mut buffer, header, Token::new(&TOKEN).unwrap());
    for (number, value) in all {
        writer = writer.option(number, value);
    }
    writer.payload(payload).finish().unwrap().to_vec()
}

const TOPIC: [&[u8]; 4] = [b"t", b"sensors", b"boiler-3", b"temperature"];

fn con(id: u16) -> Vec<u8> {
    write(Kind::Confirmable, Code::POST, id, &TOPIC, &[], b"21.5")
}

fn non(id: u16) -> Vec<u8> {
    write(Kind::NonConfirmable, Code::POST, id, &TOPIC, &[], b"21.5")
}

fn code_of(bytes: &[u8]) -> Option<Code> {
    Bench::new().ask(bytes).first().map(|answer| answer.code)
}

/// The answer to a CON POST with this path and these options.
fn post(path: &[&[u8]], options: &[(Number, &[u8])]) -> Option<Code> {
    code_of(&write(Kind::Confirmable, Code::POST, 1, path, options, b"x"))
}
