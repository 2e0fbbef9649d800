//! A broker that does what a test tells it, frame by frame, on the test's own thread: for what no real broker does on
//! demand. Every wait has a bound. Judges nothing by itself.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange};
use amq_protocol::types::FieldTable;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tidegate::config::{self, UpstreamKind};
use tidegate_tests::publications::SOON;
use tidegate_tests::uninterrupted::uninterrupted;
use tidegate_tests::wait::wait_for;

/// Where the broker listens.
pub(super) struct Place(TcpListener);

impl Place {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// An upstream that comes here, with the shortest heartbeat there is and little patience.
    pub(super) fn kind(&self) -> UpstreamKind {
        UpstreamKind::Amqp(config::Amqp {
            heartbeat: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            ..self.patient()
        })
    }

    /// An upstream that comes here and sends and expects heartbeats so rarely that a test does not see them.
    pub(super) fn patient(&self) -> config::Amqp {
        let url = format!("amqp://{}", self.0.local_addr().unwrap());
        let mut settings = crate::amqp091::amqp(&[url], "telemetry", true);
        settings.heartbeat = Duration::from_secs(600);
        settings
    }

    /// Whoever comes next.
    pub(super) fn accept(&self) -> Peer {
        self.accept_within(SOON).expect("nobody came")
    }

    pub(super) fn accept_within(&self, at_most: Duration) -> Option<Peer> {
        let (stream, _) = wait_for(at_most, || self.0.accept().ok())?;
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Peer { stream, input: Vec::new() })
    }

    /// Whoever comes next, brought to a link that is ready.
    pub(super) fn link(&self) -> Peer {
        let mut peer = self.accept();
        peer.greet();
        peer
    }
}

/// A message as it was published.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) body: String,
    pub(super) resend: bool,
}

/// One connection, on the broker's side.
pub(super) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

pub(super) fn bytes(frames: &[AMQPFrame]) -> Vec<u8> {
    let written = frames.iter().map(|frame| {
        let (bytes, _) = gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner();
        bytes
    });
    written.collect::<Vec<_>>().concat()
}

pub(super) fn ack(delivery_tag: u64, multiple: bool) -> AMQPFrame {
    let ack = basic::Ack { delivery_tag, multiple };
    AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))
}

pub(super) fn nack(delivery_tag: u64, multiple: bool) -> AMQPFrame {
    let nack = basic::Nack { delivery_tag, multiple, requeue: false };
    AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Nack(nack)))
}

/// The three frames of a message that comes back: the method, its properties, its body.
pub(super) fn returned(message: &Published) -> Vec<AMQPFrame> {
    returned_with(message, FieldTable::default())
}

pub(super) fn returned_with(message: &Published, headers: FieldTable) -> Vec<AMQPFrame> {
    let method = basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "telemetry".into(),
        routing_key: message.key.as_str().into(),
    };
    let properties = basic::AMQPProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("identity".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id(message.id.as_str().into())
        .with_timestamp(1);
    let header = AMQPContentHeader { class_id: 60, body_size: message.body.len() as u64, properties };
    vec![
        AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(method))),
        AMQPFrame::Header(1, header),
        AMQPFrame::Body(1, message.body.clone().into_bytes()),
    ]
}

pub(super) fn close_channel(reply_code: u16, reply_text: &str) -> AMQPFrame {
    let close = channel::Close { reply_code, reply_text: reply_text.into(), class_id: 60, method_id: 40 };
    AMQPFrame::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close)))
}

pub(super) fn close_connection(reply_code: u16, reply_text: &str) -> AMQPFrame {
    let close = connection::Close { reply_code, reply_text: reply_text.into(), class_id: 0, method_id: 0 };
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))
}

pub(super) fn blocked() -> AMQPFrame {
    let blocked = connection::Blocked { reason: "low on disk".into() };
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)))
}

pub(super) fn unblocked() -> AMQPFrame {
    let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
    AMQPFrame::Method(0, AMQPClass::Connection(unblocked))
}

pub(super) fn flow(active: bool) -> AMQPFrame {
    AMQPFrame::Method(1, AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active })))
}

pub(super) fn start(server_properties: FieldTable) -> AMQPFrame {
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    };
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(start)))
}

pub(super) fn tune(frame_max: u32, heartbeat: u16) -> AMQPFrame {
    let tune = connection::Tune { channel_max: 2047, frame_max, heartbeat };
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)))
}

pub(super) fn open_ok() -> AMQPFrame {
    AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})))
}

pub(super) fn channel_ready() -> [AMQPFrame; 2] {
    let opened = AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}));
    let selected = AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}));
    [AMQPFrame::Method(1, opened), AMQPFrame::Method(1, selected)]
}

pub(super) fn declared() -> AMQPFrame {
    AMQPFrame::Method(1, AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})))
}

impl Peer {
    pub(super) fn say(&mut self, frames: &[AMQPFrame]) {
        self.say_bytes(&bytes(frames));
    }

    /// Says so as far as anybody listens.
    pub(super) fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(SOON)).unwrap();
        let _ = self.stream.write_all(bytes);
    }

    /// The same connection, to speak on another thread.
    pub(super) fn another_mouth(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), input: Vec::new() }
    }

    /// False when nobody listens any more.
    pub(super) fn say_or_end(&mut self, bytes: &[u8]) -> bool {
        self.stream.set_write_timeout(Some(SOON)).unwrap();
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame but heartbeats; `None` when the other side has hung up.
    pub(super) fn hear(&mut self) -> Option<AMQPFrame> {
        loop {
            match self.hear_within(SOON).expect("nothing was said in time")? {
                AMQPFrame::Heartbeat => {}
                frame => return Some(frame),
            }
        }
    }

    /// The next frame; nothing in time is an error, and `None` when the other side has hung up.
    pub(super) fn hear_within(&mut self, at_most: Duration) -> Result<Option<AMQPFrame>, ()> {
        let until = Instant::now() + at_most;
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.input[..]) {
                let used = self.input.len() - rest.len();
                self.input.drain(..used);
                return Ok(Some(frame));
            }
            if !self.read(until)? {
                return Ok(None);
            }
        }
    }

    /// False when the other side has hung up.
    fn read(&mut self, until: Instant) -> Result<bool, ()> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut part = [0; 64 << 10];
        match uninterrupted(|| self.stream.read(&mut part)) {
            Ok(count) => {
                self.input.extend_from_slice(&part[..count]);
                Ok(count > 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(()),
            Err(_) => Ok(false),
        }
    }

    /// The next method, whose place is `class.method`.
    pub(super) fn expect(&mut self, class: u16, method: u16) -> AMQPClass {
        match self.hear() {
            Some(AMQPFrame::Method(_, said))
                if (said.get_amqp_class_id(), said.get_amqp_method_id()) == (class, method) =>
            {
                said
            }
            other => panic!("{class}.{method} was expected: {other:?}"),
        }
    }

    /// The protocol header with which a client begins.
    pub(super) fn expect_header(&mut self) {
        let until = Instant::now() + SOON;
        while self.input.len() < 8 {
            assert!(self.read(until).unwrap(), "hung up");
        }
        assert_eq!(self.input.drain(..8).collect::<Vec<u8>>(), b"AMQP\x00\x00\x09\x01");
    }

    /// The whole of the handshake, as a well-behaved broker does it.
    pub(super) fn greet(&mut self) {
        self.greet_with(tune(131_072, 60), &[]);
    }

    /// The handshake with another offer, and something said before the last answer.
    pub(super) fn greet_with(&mut self, offer: AMQPFrame, before_the_end: &[AMQPFrame]) {
        self.expect_header();
        self.say(&[start(FieldTable::default())]);
        self.expect(10, 11);
        self.say(&[offer]);
        self.expect(10, 31);
        self.expect(10, 40);
        self.say(&[open_ok()]);
        self.expect(20, 10);
        self.expect(85, 10);
        self.say(&channel_ready());
        self.expect(40, 10);
        self.say(before_the_end);
        self.say(&[declared()]);
    }

    /// Answers a channel that was closed, from close-ok to the fresh one.
    pub(super) fn reopen(&mut self) {
        self.expect(20, 41);
        self.open_again();
    }

    /// The same from behind close-ok.
    pub(super) fn open_again(&mut self) {
        self.expect(20, 10);
        self.expect(85, 10);
        self.say(&channel_ready());
    }

    /// The next messages.
    pub(super) fn messages(&mut self, count: usize) -> Vec<Published> {
        (0..count).map(|_| self.message()).collect()
    }

    fn message(&mut self) -> Published {
        let AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) = self.expect(60, 40) else { panic!() };
        assert!(publish.mandatory);
        let Some(AMQPFrame::Header(1, header)) = self.hear() else { panic!("a header was expected") };
        let mut body = Vec::new();
        while (body.len() as u64) < header.body_size {
            let Some(AMQPFrame::Body(1, part)) = self.hear() else { panic!("a body was expected") };
            body.extend(part);
        }
        let headers = header.properties.headers().clone().unwrap_or_default();
        Published {
            id: header.properties.message_id().as_ref().unwrap().as_str().to_owned(),
            key: publish.routing_key.as_str().to_owned(),
            body: String::from_utf8(body).unwrap(),
            resend: headers.inner().contains_key("x-resend"),
        }
    }

    /// Nothing but heartbeats may be said for a while.
    pub(super) fn expect_silence(&mut self, length: Duration) {
        let until = Instant::now() + length;
        loop {
            match self.hear_within(until.saturating_duration_since(Instant::now())) {
                Err(()) => return,
                Ok(Some(AMQPFrame::Heartbeat)) => {}
                Ok(said) => panic!("nothing should be said, but: {said:?}"),
            }
        }
    }

    /// The other side hangs up, whatever it says before; gives how long that took.
    pub(super) fn expect_end(&mut self) -> Duration {
        let began = Instant::now();
        while self.hear().is_some() {}
        began.elapsed()
    }
}
