//! The ClientHello, as far as it is read before there is any state for its sender, and the HelloVerifyRequest that answers it
//! (RFC 6347, 4.2.1). A hello that comes in pieces, or with anything behind it, is not read: no device's is so long.

use std::net::SocketAddr;

/// Of a cookie, in bytes: all of HMAC-SHA-256, and what `dimpl` compares.
pub(super) const COOKIE_BYTES: usize = 32;

/// ContentType and HandshakeType (RFC 5246, A.1 and A.4; RFC 6347, 4.3.2).
const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
/// A HelloVerifyRequest says DTLS 1.0 whatever will be agreed on (RFC 6347, 4.2.1).
const DTLS_1_0: [u8; 2] = [0xfe, 0xff];

const RECORD_HEADER_BYTES: usize = 13;
const HANDSHAKE_HEADER_BYTES: usize = 12;

/// The content type and the epoch of a datagram's first record; `None` when it is none.
pub(super) fn first_record(datagram: &[u8]) -> Option<(u8, u16)> {
    match datagram {
        [kind, 0xfe, _, high, low, ..] if datagram.len() >= RECORD_HEADER_BYTES => {
            Some((*kind, u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

/// Whether a datagram begins with a record of the handshake that is not encrypted and holds a ClientHello.
pub(super) fn is_client_hello(datagram: &[u8]) -> bool {
    first_record(datagram) == Some((CONTENT_HANDSHAKE, 0))
        && datagram.get(RECORD_HEADER_BYTES) == Some(&CLIENT_HELLO)
}

/// A ClientHello that came whole in a datagram of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    /// The whole.
    pub(super) datagram: &'a [u8],
    /// The client's random value: another one in each handshake.
    pub(super) random: [u8; 32],
    /// Of its record.
    sequence: [u8; 6],
    /// Where the cookie's length stands.
    cookie_at: usize,
    /// Empty at first.
    pub(super) cookie: &'a [u8],
    /// Cipher suites, two bytes each.
    suites: &'a [u8],
}

impl<'a> Hello<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(datagram);
        let header: &[u8; RECORD_HEADER_BYTES] = rest.take(RECORD_HEADER_BYTES)?.try_into().ok()?;
        let [CONTENT_HANDSHAKE, 0xfe, _, 0, 0, sequence @ .., high, low] = *header else { return None };
        if usize::from(u16::from_be_bytes([high, low])) != rest.0.len() {
            return None;
        }
        let header: &[u8; HANDSHAKE_HEADER_BYTES] = rest.take(HANDSHAKE_HEADER_BYTES)?.try_into().ok()?;
        let [CLIENT_HELLO, l0, l1, l2, _, _, 0, 0, 0, f0, f1, f2] = *header else { return None };
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        if length != u32::from_be_bytes([0, f0, f1, f2]) || u32::try_from(rest.0.len()) != Ok(length) {
            return None;
        }
        rest.take(2)?; // Its version.
        let random = rest.take(32)?.try_into().ok()?;
        let session_bytes = rest.take(1)?[0].into();
        rest.take(session_bytes)?;
        let cookie_at = datagram.len() - rest.0.len();
        let cookie_bytes = rest.take(1)?[0].into();
        let cookie = rest.take(cookie_bytes)?;
        let suites = rest.take(2)?;
        let suites = rest.take(u16::from_be_bytes([suites[0], suites[1]]).into())?;
        Some(Self { datagram, random, sequence, cookie_at, cookie, suites })
    }

    /// Cipher suites in the order of the client's preference.
    pub(super) fn suites(&self) -> impl Iterator<Item = u16> {
        self.suites.chunks_exact(2).map(|suite| u16::from_be_bytes([suite[0], suite[1]]))
    }

    /// What a cookie vouches for: where the hello comes from and all that it says, so that a cookie fits no other.
    pub(super) fn vouched(&self, peer: SocketAddr) -> Vec<u8> {
        let mut vouched = peer.to_string().into_bytes();
        vouched.push(0);
        vouched
            .extend_from_slice(&self.datagram[RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES..self.cookie_at]);
        vouched.extend_from_slice(&self.datagram[self.cookie_at + 1 + self.cookie.len()..]);
        vouched
    }

    /// The first hello of the same client, as it was before it knew a cookie.
    pub(super) fn without_cookie(&self) -> Vec<u8> {
        let body = [
            &self.datagram[RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES..self.cookie_at],
            &[0],
            &self.datagram[self.cookie_at + 1 + self.cookie.len()..],
        ]
        .concat();
        message(CLIENT_HELLO, [self.datagram[1], self.datagram[2]], [0; 6], &body)
    }

    /// Asks for the hello again, with `cookie`. Shorter than any hello, so that it amplifies nothing.
    pub(super) fn verify_request(&self, cookie: &[u8; COOKIE_BYTES]) -> Vec<u8> {
        let mut body = DTLS_1_0.to_vec();
        body.push(32);
        body.extend_from_slice(cookie);
        // With the record's own sequence number, as there is no state to count in (RFC 6347, 4.2.1).
        message(HELLO_VERIFY_REQUEST, DTLS_1_0, self.sequence, &body)
    }
}

/// One handshake message, the first of its side, in one record.
fn message(kind: u8, version: [u8; 2], sequence: [u8; 6], body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let record = u16::try_from(HANDSHAKE_HEADER_BYTES + body.len()).unwrap_or(0).to_be_bytes();
    let mut datagram = Vec::with_capacity(RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES + body.len());
    datagram.push(CONTENT_HANDSHAKE);
    datagram.extend_from_slice(&version);
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(&sequence);
    datagram.extend_from_slice(&record);
    datagram.push(kind);
    datagram.extend_from_slice(&length);
    datagram.extend_from_slice(&[0; 5]); // Message 0, from byte 0 on.
    datagram.extend_from_slice(&length);
    datagram.extend_from_slice(body);
    datagram
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, back) = self.0.split_at_checked(count)?;
        self.0 = back;
        Some(front)
    }
}
