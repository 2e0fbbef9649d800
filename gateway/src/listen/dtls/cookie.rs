//! Cookies that prove that a hello's sender receives at the address it writes on the datagram, with nothing kept for it
//! (RFC 6347, 4.2.1).

use super::hello::{COOKIE_BYTES, Hello};
use ring::hmac;
use ring::rand::SystemRandom;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A cookie is good for as long as this, and at most twice as long: a slow device's round trip with all its repetitions
/// (RFC 6347, 4.2.4.1), and too short for collecting cookies.
const SLICE: Duration = Duration::from_secs(60);

/// Makes cookies, and knows them again.
pub(super) struct Cookies {
    secret: hmac::Key,
    began: Instant,
}

impl Cookies {
    /// With a secret of this life; `None` when the system has no randomness.
    pub(super) fn new(now: Instant) -> Option<Self> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { secret, began: now })
    }

    /// The cookie for a hello from `peer`.
    pub(super) fn of(&self, now: Instant, peer: SocketAddr, hello: &Hello<'_>) -> [u8; COOKIE_BYTES] {
        self.in_slice(self.slice(now), peer, hello)
    }

    /// Whether a hello carries the cookie that was made for it.
    pub(super) fn verify(&self, now: Instant, peer: SocketAddr, hello: &Hello<'_>) -> bool {
        let slice = self.slice(now);
        // Compared by ring in constant time.
        [Some(slice), slice.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|slice| hmac::verify(&self.secret, &Self::signed(slice, peer, hello), hello.cookie).is_ok())
    }

    fn slice(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLICE.as_secs()
    }

    fn in_slice(&self, slice: u64, peer: SocketAddr, hello: &Hello<'_>) -> [u8; COOKIE_BYTES] {
        let tag = hmac::sign(&self.secret, &Self::signed(slice, peer, hello));
        let mut cookie = [0; COOKIE_BYTES];
        cookie.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        cookie
    }

    fn signed(slice: u64, peer: SocketAddr, hello: &Hello<'_>) -> Vec<u8> {
        let mut signed = slice.to_be_bytes().to_vec();
        signed.extend_from_slice(&hello.vouched(peer));
        signed
    }
}
