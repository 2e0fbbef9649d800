//! A device that observes one topic of another (RFC 7641), as a small client would: it asks until it is answered, acknowledges,
//! takes nothing that is older than what it has (3.4), rejects what it does not know (3.5), and asks anew when it has heard
//! nothing for a while, for a gateway that was restarted knows nothing of it.

use super::device::{Act, Application};
use super::plan::{MS, SECOND};
use super::tap::{self, Coap};
use bytes::Bytes;
use fastrand::Rng;
use tidegate_wire::coap::{Code, Header, Kind, OptionNumber, Token, Writer};

/// As in the node's code (RFC 7252, 4.8).
const MAX_RETRANSMIT: u8 = 4;

/// After so long what comes counts as newer, whatever its number (RFC 7641, 3.4).
const NEWER_AFTER: u64 = 128 * SECOND;

/// What it observes and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watching {
    /// Whose topic.
    pub(crate) of: u16,
    /// Its last level.
    pub(crate) reading: &'static str,
    /// It wants every notification confirmed.
    pub(crate) confirmed: bool,
    /// When it asks anew after so long without a word; `None` where the gateway is never restarted.
    pub(crate) patience: Option<u64>,
    /// Until when.
    pub(crate) until: u64,
    /// It asks anew under another token; otherwise numbers go on from where they were.
    pub(crate) new_token: bool,
}

/// The device's side.
#[derive(Debug)]
pub(crate) struct ObserverDevice {
    watching: Watching,
    token: [u8; 4],
    message_id: u16,
    /// When it sends its request (again), after which wait, and how often it has.
    asking: Option<(u64, u64, u8)>,
    /// The newest number, and when it came.
    newest: Option<(u32, u64)>,
    heard: u64,
}

impl ObserverDevice {
    pub(crate) fn new(now: u64, watching: Watching, rng: &mut Rng) -> Self {
        Self {
            watching,
            token: rng.u32(..).to_be_bytes(),
            message_id: rng.u16(..),
            asking: Some((now, 0, 0)),
            newest: None,
            heard: now,
        }
    }

    pub(crate) fn watching(&self) -> Watching {
        self.watching
    }

    /// It has an observation as far as it knows, and does not ask for another any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.asking.is_none() && self.due().is_none()
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        self.asking.map(|(due, ..)| due).or_else(|| self.due())
    }

    /// When it asks anew if nothing comes.
    fn due(&self) -> Option<u64> {
        let due = self.heard + self.watching.patience?;
        (due <= self.watching.until).then_some(due)
    }

    pub(crate) fn run(&mut self, now: u64, rng: &mut Rng, application: &mut Application) {
        if self.asking.is_none() && self.due().is_some_and(|due| due <= now) {
            self.ask_anew(now, rng);
        }
        let Some((_, wait, sent)) = self.asking.filter(|(due, ..)| *due <= now) else { return };
        let (wait, sent) = if sent == 0 || sent > MAX_RETRANSMIT {
            // Another request: under the old message id it would get the old answer.
            self.message_id = self.message_id.wrapping_add(1);
            (rng.u64(2 * SECOND..3 * SECOND), 1)
        } else {
            (wait * 2, sent + 1)
        };
        self.asking = Some((now + wait, wait, sent));
        application.acts.extend(self.request().map(Act::Datagram));
    }

    fn ask_anew(&mut self, now: u64, rng: &mut Rng) {
        self.asking = Some((now, 0, 0));
        if self.watching.new_token {
            self.token = rng.u32(..).to_be_bytes();
            self.newest = None;
        }
    }

    fn request(&self) -> Option<Bytes> {
        let mut buffer = [0; 128];
        let header = Header { kind: Kind::Confirmable, code: Code::GET, message_id: self.message_id };
        let mut writer = Writer::new(&mut buffer, header, Token::new(&self.token)?);
        writer = writer.uint(OptionNumber::OBSERVE, 0);
        let device = format!("d{}", self.watching.of);
        for segment in ["t", "sensors", &device, self.watching.reading] {
            writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
        }
        if self.watching.confirmed {
            writer = writer.option(OptionNumber::URI_QUERY, b"qos=1");
        }
        writer.finish().ok().map(Bytes::copy_from_slice)
    }

    pub(crate) fn datagram(&mut self, now: u64, rng: &mut Rng, bytes: &[u8], application: &mut Application) {
        let Some(message) = tap::coap(bytes).filter(|message| message.code >= 0x40) else { return };
        let known = message.token == self.token;
        let answers = message.kind == 2 && message.mid == self.message_id && self.asking.is_some();
        if message.kind == 2 && !answers {
            return;
        }
        // RST for an observation that it has forgotten, or else an ACK.
        let [high, low] = message.mid.to_be_bytes();
        match (message.kind, known) {
            (0, true) => {
                application.acts.push_back(Act::Datagram(Bytes::copy_from_slice(&[0x60, 0, high, low])))
            }
            (0 | 1, false) => {
                application.acts.push_back(Act::Datagram(Bytes::copy_from_slice(&[0x70, 0, high, low])));
            }
            _ => {}
        }
        if known {
            self.take(now, rng, &message, answers, application);
        }
    }

    fn take(
        &mut self,
        now: u64,
        rng: &mut Rng,
        message: &Coap,
        answers: bool,
        application: &mut Application,
    ) {
        let Some(number) = message.observe.filter(|_| message.code == 0x45) else {
            // Not on the list, or not any more: again in a moment.
            self.heard = now;
            self.asking = Some((now + rng.u64(SECOND..2 * SECOND), 0, 0));
            return;
        };
        if answers {
            self.asking = None;
        }
        if self.newest.is_none_or(|newest| is_newer(newest, (number, now))) {
            // What is old is as good as silence: a life whose clock was set back may have heard a copy of the request, and
            // gives numbers that stand below those of the life before.
            (self.newest, self.heard) = (Some((number, now)), now);
            application.acts.push_back(Act::Shown { key: message.key, answers });
        }
    }
}

/// Whether the second of two notifications is the newer one (RFC 7641, 3.4).
fn is_newer((first, then): (u32, u64), (second, now): (u32, u64)) -> bool {
    const HALF: u32 = 1 << 23;
    (first < second && second - first < HALF)
        || (first > second && first - second > HALF)
        || now > then + NEWER_AFTER
}

/// How long it may be silent before it asks anew.
pub(crate) fn patience(rng: &mut Rng) -> u64 {
    rng.u64(500 * MS..5 * SECOND)
}
