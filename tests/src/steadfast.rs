//! A device that does not give up: MQTT 3.1.1 with QoS 1 over TCP; connects again when the connection ends, and sends again what was
//! not acknowledged.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Messages sent and not acknowledged.
const WINDOW: usize = 20;
/// How long an answer is waited for before it is looked whether there is time left.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A device with numbered messages.
#[derive(Debug)]
pub struct Device {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// What its messages say behind their numbers.
    filling: usize,
    /// The first number that was never sent.
    next: usize,
    sent: BTreeSet<usize>,
    /// What is safe, as it was told.
    pub acknowledged: BTreeSet<usize>,
}

impl Device {
    /// A device of the gateway at this address, whose messages have so many bytes behind their numbers.
    #[must_use]
    pub fn new(address: SocketAddr, filling: usize) -> Self {
        Self {
            address,
            stream: None,
            buffer: Vec::new(),
            filling,
            next: 0,
            sent: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    /// Sends until `upto` messages are acknowledged; false when that took too long.
    pub fn send(&mut self, upto: usize, within: Duration) -> bool {
        let until = Instant::now() + within;
        while self.acknowledged.len() < upto {
            if Instant::now() > until {
                return false;
            }
            if self.turn(upto).is_err() {
                self.stream = None;
                // The gateway may be starting.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        true
    }

    fn turn(&mut self, upto: usize) -> std::io::Result<()> {
        if self.stream.is_none() {
            self.connect()?;
        }
        while self.sent.len() < WINDOW && self.next < upto {
            let number = self.next;
            self.next += 1;
            self.sent.insert(number);
            self.publish(number)?;
        }
        for number in self.answers(LOOK_EVERY)? {
            if let Some(number) = self.sent.iter().copied().find(|sent| id(*sent) == number) {
                self.sent.remove(&number);
                self.acknowledged.insert(number);
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.write_all(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04dev1")?;
        self.stream = Some(stream);
        self.buffer.clear();
        let until = Instant::now() + Duration::from_secs(3);
        while self.buffer.len() < 4 {
            if Instant::now() > until {
                return Err(ErrorKind::TimedOut.into());
            }
            self.read(LOOK_EVERY)?;
        }
        self.buffer.drain(..4);
        let again: Vec<usize> = self.sent.iter().copied().collect();
        again.into_iter().try_for_each(|number| self.publish(number))
    }

    fn publish(&mut self, number: usize) -> std::io::Result<()> {
        let topic = b"sensors/dev1/n";
        let text = format!("{number:08}{}", "x".repeat(self.filling));
        let mut packet = vec![0x32];
        let mut length = 2 + topic.len() + 2 + text.len();
        while length > 0x7F {
            packet.push((length & 0x7F) as u8 | 0x80);
            length >>= 7;
        }
        packet.push(length as u8);
        packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        packet.extend_from_slice(topic);
        packet.extend_from_slice(&id(number).to_be_bytes());
        packet.extend_from_slice(text.as_bytes());
        self.stream.as_mut().ok_or(ErrorKind::NotConnected)?.write_all(&packet)
    }

    fn read(&mut self, at_most: Duration) -> std::io::Result<()> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        stream.set_read_timeout(Some(at_most))?;
        let mut bytes = [0; 4_096];
        match stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The packet ids of PUBACKs.
    fn answers(&mut self, at_most: Duration) -> std::io::Result<Vec<u16>> {
        self.read(at_most)?;
        let mut ids = Vec::new();
        let mut at = 0;
        while let Some([first, length, rest @ ..]) = self.buffer.get(at..) {
            let length = usize::from(*length);
            let Some(body) = rest.get(..length) else { break };
            if let (0x40, [high, low]) = (*first, body) {
                ids.push(u16::from_be_bytes([*high, *low]));
            }
            at += 2 + length;
        }
        self.buffer.drain(..at);
        Ok(ids)
    }
}

fn id(number: usize) -> u16 {
    u16::try_from(number % 60_000 + 1).unwrap_or(1)
}

/// The numbers of the messages in the file upstream.
#[must_use]
pub fn arrived(lines: &[serde_json::Value]) -> BTreeSet<usize> {
    let number = |line: &serde_json::Value| line.get("payload")?.as_str()?.get(..8)?.parse().ok();
    lines.iter().filter_map(number).collect()
}
