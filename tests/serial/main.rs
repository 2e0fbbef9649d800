//! A device on a serial line: a pair of pseudo terminals made by socat, the gateway at one end and a device at the other. The
//! device's side is the firmware's own publisher, and bytes written by hand where a device would not send them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_node::coap::{Event, Publication, Publisher};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::wait::wait_for;
use tidegate_wire::coap::{Block, Code, Header, Kind, Message, OptionNumber, Token, Writer};
use tidegate_wire::slipmux::{Decoder, Frame, encode, encoded_bytes_max};

const SOON: Duration = Duration::from_secs(30);

/// A serial cable; cut when dropped.
struct Cable {
    socat: Child,
}

impl Cable {
    /// Between `FOLDER/gateway` and `FOLDER/device`.
    fn new(folder: &std::path::Path) -> Self {
        let end = |name: &str| format!("PTY,raw,echo=0,link={}", folder.join(name).display());
        let socat = Command::new("socat")
            .args([end("gateway"), end("device")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run installs socat");
        let ends = ["gateway", "device"].map(|name| folder.join(name));
        wait_for(SOON, || ends.iter().all(|end| end.exists()).then_some(())).expect("socat makes both ends");
        Self { socat }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}

/// The device's end of a cable.
struct Port {
    file: File,
    decoder: Decoder<[u8; 2_048]>,
}

impl Port {
    fn open(path: PathBuf) -> Self {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        let file = OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(path).unwrap();
        Self { file, decoder: Decoder::new([0; 2_048]) }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
    }

    fn send(&mut self, message: &[u8]) {
        let mut buffer = vec![0; encoded_bytes_max(message.len())];
        let framed = encode(Frame::Coap(message), &mut buffer).unwrap().to_vec();
        self.write(&framed);
    }

    /// CoAP messages that have come.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4_096];
        let mut messages = Vec::new();
        while let Ok(count @ 1..) = self.file.read(&mut buffer) {
            let mut bytes = &buffer[..count];
            while let Some(frame) = self.decoder.feed(&mut bytes) {
                if let Ok(Frame::Coap(message)) = frame {
                    messages.push(message.to_vec());
                }
            }
        }
        messages
    }

    /// Asks until an answer with this token comes; gives its code and payload.
    fn ask(&mut self, message: &[u8], token: &[u8]) -> (Code, Vec<u8>) {
        let mut sent = Instant::now();
        self.send(message);
        wait_for(SOON, || {
            if sent.elapsed() > Duration::from_secs(2) {
                sent = Instant::now();
                self.send(message);
            }
            self.receive().into_iter().find_map(|bytes| {
                let answer = Message::parse(&bytes).ok()?;
                (answer.token().as_bytes() == token && answer.code() != Code::EMPTY)
                    .then(|| (answer.code(), answer.payload().to_vec()))
            })
        })
        .expect("an answer")
    }
}

fn gateway_with(line: &str) -> (Gateway, Cable) {
    let mut gateway = Gateway::prepare("");
    let cable = Cable::new(gateway.folder());
    let port = gateway.folder().join("gateway");
    gateway.configure(&format!("[[serial]]\nport = {port:?}\ndevice = \"boiler-3\"\n{line}\n"));
    gateway.start_again();
    (gateway, cable)
}

fn payloads(gateway: &Gateway) -> Vec<String> {
    let lines = gateway.upstream_lines();
    lines.iter().filter_map(|line| Some(line["payload"].as_str()?.to_owned())).collect()
}

/// The firmware's publisher over the line, until everything is acknowledged.
fn publish_all(
    port: &mut Port,
    began: Instant,
    from: usize,
    to: usize,
    mut disturb: impl FnMut(usize, &mut Port),
) {
    let mut publisher = Publisher::new([0; 256], 7);
    let micros = |now: Instant| u64::try_from(now.duration_since(began).as_micros()).unwrap();
    for number in from..to {
        let payload = format!("reading {number}");
        disturb(number, port);
        publisher
            .publish(
                micros(Instant::now()),
                &Publication::confirmable(&["t", "sensors", "boiler-3", "t"], payload.as_bytes()),
            )
            .unwrap();
        let acknowledged = wait_for(Duration::from_secs(90), || {
            let now = micros(Instant::now());
            if let Some(datagram) = publisher.poll_transmit(now) {
                let datagram = datagram.to_vec();
                port.send(&datagram);
            }
            for message in port.receive() {
                publisher.handle_datagram(now, &message);
            }
            match publisher.poll_event() {
                Some(Event::Acknowledged { .. }) => Some(()),
                Some(event) => panic!("{payload}: {event:?}"),
                None => None,
            }
        });
        assert!(acknowledged.is_some(), "{payload}");
    }
}

#[test]
fn a_device_publishes_over_a_line_with_garbage_between_its_frames_and_nothing_acknowledged_is_lost() {
    let (gateway, _cable) = gateway_with("baud = 115200");
    let mut port = Port::open(gateway.folder().join("device"));
    publish_all(&mut port, Instant::now(), 0, 20, |number, port| match number % 4 {
        1 => port.write(b"boot: 3V3 ok\r\n\x00\xff"),
        2 => port.write(&[0xDB, 0x00, 0xC0, 0xA9, 0x40]),
        3 => port.write(b"\xc0\x0asensor warm-up done\n\xc0"),
        _ => {}
    });
    let all: Vec<String> = (0..20).map(|number| format!("reading {number}")).collect();
    let arrived = wait_for(SOON, || {
        let got = payloads(&gateway);
        all.iter().all(|one| got.contains(one)).then_some(())
    });
    assert!(arrived.is_some(), "{:?}", payloads(&gateway));
    assert!(gateway.upstream_lines().iter().all(|line| line["device"] == "boiler-3"));
    assert!(gateway.log().contains("sensor warm-up done"), "what the device says stands in the log");
}

#[test]
fn a_line_that_is_cut_and_mended_goes_on() {
    let (gateway, cable) = gateway_with("");
    let mut port = Port::open(gateway.folder().join("device"));
    publish_all(&mut port, Instant::now(), 0, 3, |_, _| {});
    drop(port);
    drop(cable);
    let lost = wait_for(SOON, || gateway.log().contains("a serial line is lost").then_some(()));
    assert!(lost.is_some(), "{}", gateway.log());
    let _cable = Cable::new(gateway.folder());
    let mut port = Port::open(gateway.folder().join("device"));
    publish_all(&mut port, Instant::now(), 3, 6, |_, _| {});
    let arrived = wait_for(SOON, || (payloads(&gateway).len() >= 6).then_some(()));
    assert!(arrived.is_some(), "{:?}\n{}", payloads(&gateway), gateway.log());
}

#[test]
fn a_device_observes_its_commands_over_a_line() {
    let (gateway, _cable) = gateway_with("");
    let mut port = Port::open(gateway.folder().join("device"));
    let mut buffer = [0; 64];
    let token = Token::new(&[1, 2, 3, 4]).unwrap();
    let observe =
        Writer::new(&mut buffer, Header { kind: Kind::Confirmable, code: Code::GET, message_id: 1 }, token)
            .option(OptionNumber::OBSERVE, &[])
            .option(OptionNumber::URI_PATH, b"command")
            .finish()
            .unwrap()
            .to_vec();
    let (code, _) = port.ask(&observe, &[1, 2, 3, 4]);
    assert_eq!(code.0 >> 5, 2, "{code:?}");
    let status = Command::new("mosquitto_pub")
        .args([
            "-p",
            &gateway.mqtt.port().to_string(),
            "-q",
            "1",
            "-t",
            "commands/boiler-3/valve",
            "-m",
            "open",
        ])
        .status()
        .unwrap();
    assert!(status.success());
    let told = wait_for(SOON, || {
        port.receive().into_iter().find_map(|bytes| {
            let message = Message::parse(&bytes).ok()?;
            (message.payload() == b"open").then(|| message.header().message_id)
        })
    });
    assert!(told.is_some(), "{}", gateway.log());
}

#[test]
fn a_board_that_only_prints_publishes_its_lines() {
    let (gateway, _cable) = gateway_with("framing = \"lines\"\ntopic = \"sensors/{device}/text\"");
    let mut port = Port::open(gateway.folder().join("device"));
    // What is printed before the gateway has opened the line is nobody's.
    wait_for(SOON, || gateway.log().contains("a serial line is open").then_some(())).unwrap();
    // Nor is what may be the rest of it: this is not taken if it comes soon after that.
    port.write(b"39\r\n");
    port.write(b"T=21.5 H=40\r\nT=21.6");
    port.write(b" H=41\n");
    let arrived = wait_for(SOON, || payloads(&gateway).iter().any(|one| one == "T=21.6 H=41").then_some(()));
    assert!(arrived.is_some(), "{}", gateway.log());
    let lines = gateway.upstream_lines();
    let taken = payloads(&gateway);
    assert_eq!(taken.strip_prefix(&["39".to_owned()][..]).unwrap_or(&taken), ["T=21.5 H=40", "T=21.6 H=41"]);
    assert!(
        lines.iter().all(|line| line["topic"] == "sensors/boiler-3/text" && line["device"] == "boiler-3")
    );
}

#[test]
fn a_line_that_is_not_there_yet_is_opened_when_it_comes() {
    let mut gateway = Gateway::prepare("");
    let port = gateway.folder().join("gateway");
    gateway.configure(&format!("[[serial]]\nport = {port:?}\ndevice = \"boiler-3\"\n"));
    gateway.start_again();
    let said = wait_for(SOON, || gateway.log().contains("a serial line cannot be opened").then_some(()));
    assert!(said.is_some(), "{}", gateway.log());
    let _cable = Cable::new(gateway.folder());
    let mut port = Port::open(gateway.folder().join("device"));
    publish_all(&mut port, Instant::now(), 0, 1, |_, _| {});
}

/// A device that sends a body in blocks (RFC 7959), each repeated until it is answered, and begins anew when the gateway lacks one.
struct Upload {
    body: Vec<u8>,
    tag: u8,
    number: u32,
    message_id: u16,
    sent: Option<Instant>,
}

impl Upload {
    /// Blocks of 64 bytes.
    const EXPONENT: u8 = 2;

    fn new(body: &[u8]) -> Self {
        Self { body: body.to_vec(), tag: 1, number: 0, message_id: 100, sent: None }
    }

    fn go_to(&mut self, number: u32) {
        self.number = number;
        self.message_id += 1;
        self.sent = None;
    }

    /// Sends what is due; true when the whole is acknowledged.
    fn step(&mut self, port: &mut Port) -> bool {
        if self.sent.is_none_or(|sent| sent.elapsed() > Duration::from_secs(2)) {
            self.sent = Some(Instant::now());
            self.send(port);
        }
        for bytes in port.receive() {
            let Ok(answer) = Message::parse(&bytes) else { continue };
            if answer.message_id() != self.message_id {
                continue;
            }
            match answer.code() {
                Code::CONTINUE => self.go_to(self.number + 1),
                Code::CHANGED => return true,
                Code::REQUEST_ENTITY_INCOMPLETE => {
                    self.tag += 1;
                    self.go_to(0);
                }
                code => panic!("{code:?}"),
            }
        }
        false
    }

    fn send(&self, port: &mut Port) {
        let size = 16 << Self::EXPONENT;
        let start = self.number as usize * size;
        let end = self.body.len().min(start + size);
        let block = Block { number: self.number, more: end < self.body.len(), exponent: Self::EXPONENT };
        let header = Header { kind: Kind::Confirmable, code: Code::PUT, message_id: self.message_id };
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer, header, Token::new(&[self.tag]).unwrap());
        for segment in ["t", "sensors", "boiler-3", "report"] {
            writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
        }
        let writer = writer.uint(OptionNumber::BLOCK1, block.to_uint());
        let written = writer.option(OptionNumber::REQUEST_TAG, &[self.tag]).payload(&self.body[start..end]);
        port.send(written.finish().unwrap());
    }
}

#[test]
fn a_block_transfer_goes_on_when_the_line_is_cut_in_the_middle_and_mended() {
    let (gateway, mut cable) = gateway_with("");
    let mut port = Port::open(gateway.folder().join("device"));
    publish_all(&mut port, Instant::now(), 0, 2, |_, _| {});
    let body: Vec<u8> = (0..4_000_usize).map(|n| b'a' + u8::try_from(n * 7 % 23).unwrap()).collect();
    let mut upload = Upload::new(&body);
    for (cuts, at) in [20, 45].into_iter().enumerate() {
        let mut noisy = 0;
        let there = wait_for(Duration::from_secs(90), || {
            assert!(!upload.step(&mut port), "not before the last block");
            if upload.number.is_multiple_of(7) && upload.number > noisy {
                noisy = upload.number;
                port.write(b"\xc0brown-out\r\n\x00\xff\xdb\xc0");
            }
            (upload.number >= at).then_some(())
        });
        assert!(there.is_some(), "block {} before cut {cuts}\n{}", upload.number, gateway.log());
        // With a block under way.
        upload.send(&mut port);
        drop(port);
        drop(cable);
        cable = Cable::new(gateway.folder());
        port = Port::open(gateway.folder().join("device"));
    }
    let done = wait_for(Duration::from_secs(90), || upload.step(&mut port).then_some(()));
    assert!(done.is_some(), "block {}\n{}", upload.number, gateway.log());
    publish_all(&mut port, Instant::now(), 2, 4, |_, _| {});
    let wanted = ["reading 0", "reading 1", std::str::from_utf8(&body).unwrap(), "reading 2", "reading 3"];
    let arrived = wait_for(SOON, || (payloads(&gateway).len() >= wanted.len()).then_some(()));
    assert!(arrived.is_some(), "{}", gateway.log());
    // Each once, the body whole.
    assert_eq!(payloads(&gateway), wanted);
}
