//! Many CoAP peers on one thread, each with a socket and port of its own and one CON under way: made to cost little itself, and
//! the same for every server. It repeats what is not answered and acknowledges separate responses; it measures, and judges nothing.

use crate::ledger::Latencies;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 128;

/// Room for a request: head, token, three segments, payload.
const REQUEST_BYTES: usize = 64 + PAYLOAD_BYTES;

/// Of an answer that is longer than any that is expected.
const ANSWER_BYTES: usize = 512;

/// A request goes again after so long (RFC 7252, 4.8: ACK_TIMEOUT), unless an empty acknowledgement came.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Sockets looked after between two waits.
const BATCH: usize = 512;

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// POST to `/t/bench/NUMBER`.
    Post,
    /// PUT to libcoap's resource that keeps what it gets in memory.
    PutExampleData,
}

/// What the peers saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Requests answered with a success.
    pub(crate) answered: usize,
    /// Answered with anything else.
    pub(crate) refused: usize,
    /// Sent once more.
    pub(crate) resent: usize,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
}

struct Peer {
    socket: UdpSocket,
    request: Vec<u8>,
    message_id: u16,
    sent: Instant,
    /// Under way; and not yet acknowledged.
    waits: bool,
    unheard: bool,
}

/// The peers.
pub(crate) struct Peers {
    peers: Vec<Peer>,
    epoll: OwnedFd,
}

impl Peers {
    /// So many, each with a port of its own.
    pub(crate) fn new(server: SocketAddr, count: usize, target: Target) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut peers = Vec::with_capacity(count);
        for number in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, EventData::new_u64(number as u64), EventFlags::IN)?;
            // As in the field, the first message id is any.
            let message_id = fastrand::u16(..);
            let request = request(target, number)?;
            peers.push(Peer {
                socket,
                request,
                message_id,
                sent: Instant::now(),
                waits: false,
                unheard: false,
            });
        }
        Ok(Self { peers, epoll })
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Sends so many requests in all, as fast as the answers come, and waits for the last answer until `limit`.
    pub(crate) fn send(&mut self, requests: usize, limit: Duration) -> io::Result<Seen> {
        let began = Instant::now();
        let mut seen = Seen::default();
        let mut left = requests;
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        for peer in &mut self.peers {
            if left > 0 {
                left -= 1;
                peer.begin()?;
            }
        }
        let mut looked = began;
        while seen.answered + seen.refused < requests && began.elapsed() < limit {
            let wait = Timespec::try_from(ACK_TIMEOUT / 10).map_err(io::Error::other)?;
            let (events, _) = epoll::wait(&self.epoll, &mut events, Some(&wait))?;
            for event in events {
                let number = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
                let Some(peer) = self.peers.get_mut(number) else { continue };
                if peer.receive(&mut seen)? && left > 0 {
                    left -= 1;
                    peer.begin()?;
                }
            }
            let now = Instant::now();
            if now > looked + ACK_TIMEOUT / 4 {
                looked = now;
                for peer in self.peers.iter_mut().filter(|peer| peer.unheard && now > peer.sent + ACK_TIMEOUT)
                {
                    seen.resent += 1;
                    peer.unheard = true;
                    peer.write(&peer.request)?;
                    peer.sent = now;
                }
            }
        }
        seen.elapsed = began.elapsed();
        Ok(seen)
    }
}

impl Peer {
    /// Sends the next request.
    fn begin(&mut self) -> io::Result<()> {
        self.message_id = self.message_id.wrapping_add(1);
        begin(&mut self.request, self.message_id);
        self.sent = Instant::now();
        (self.waits, self.unheard) = (true, true);
        self.write(&self.request)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send(bytes) {
            // Sent again later, as on any link.
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Reads a message; true when it ends the request under way.
    fn receive(&mut self, seen: &mut Seen) -> io::Result<bool> {
        let mut buffer = [0; ANSWER_BYTES];
        let count = match self.socket.recv(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let Ok(message) = Message::parse(&buffer[..count]) else { return Ok(false) };
        let Header { kind, code, message_id } = message.header();
        if kind == Kind::Acknowledgement && code == Code::EMPTY {
            self.unheard &= message_id != self.message_id;
            return Ok(false);
        }
        if kind == Kind::Confirmable {
            let mut acknowledgement = [0; 4];
            let header = Header { kind: Kind::Acknowledgement, code: Code::EMPTY, message_id };
            let written = Writer::new(&mut acknowledgement, header, Token::EMPTY).finish();
            self.write(written.map_err(io::Error::other)?)?;
        }
        if !self.waits || message.token().as_bytes() != self.message_id.to_be_bytes() {
            return Ok(false);
        }
        (self.waits, self.unheard) = (false, false);
        if code.class() == 2 {
            seen.answered += 1;
            seen.latencies.add(self.sent.elapsed());
        } else {
            seen.refused += 1;
        }
        Ok(true)
    }
}

/// A request whose message id and token, two bytes, are filled in later.
pub(crate) fn request(target: Target, number: usize) -> io::Result<Vec<u8>> {
    let (code, path) = match target {
        Target::Post => (Code::POST, vec!["t".to_owned(), "bench".to_owned(), number.to_string()]),
        Target::PutExampleData => (Code::PUT, vec!["example_data".to_owned()]),
    };
    let mut buffer = [0; REQUEST_BYTES];
    let header = Header { kind: Kind::Confirmable, code, message_id: 0 };
    let token = Token::new(&[0; 2]).unwrap_or(Token::EMPTY);
    let mut writer = Writer::new(&mut buffer, header, token);
    for segment in &path {
        writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
    }
    let written = writer.payload(&[b'x'; PAYLOAD_BYTES]).finish().map_err(io::Error::other)?;
    Ok(written.to_vec())
}

/// Makes it the request with this message id, which is its token as well (RFC 7252, 3).
pub(crate) fn begin(request: &mut [u8], message_id: u16) {
    let [high, low] = message_id.to_be_bytes();
    request[2..6].copy_from_slice(&[high, low, high, low]);
}
