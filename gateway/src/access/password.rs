//! The two forms in which a device's secret is kept (PHC string format), and how a password is held against them.
//! Knows no device.
//!
//! `$hmac-sha256$SALT$HASH` is for tokens that a machine made up, of 128 bits or more: guessing is hopeless however fast it goes, and
//! thousands of devices that come back at once cost milliseconds. `$argon2id$…` is for what people choose: slow, so that guessing is.

use argon2::password_hash::{Ident, PasswordHash};
use argon2::{Argon2, PasswordVerifier as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use tidegate_engine::event::Secret;

const FAST: &str = "hmac-sha256";
const SLOW: Ident<'static> = argon2::ARGON2ID_IDENT;

/// Shorter is no salt.
const SALT_BYTES_LEAST: usize = 8;
/// The salt of a token made here.
const SALT_BYTES: usize = 16;
/// A token made here: 144 bits, which base64 writes without a remainder.
const TOKEN_BYTES: usize = 18;

/// The most memory that one verification may take, in KiB: as much as half of what the gateway aims at.
const ARGON2_KIB_MOST: u32 = 64 << 10;
/// The most passes: with the memory above about a second on a small board.
const ARGON2_PASSES_MOST: u32 = 10;
/// The most lanes; they are worked on one after the other.
const ARGON2_LANES_MOST: u32 = 16;

/// Why a text is no hash that can be used; what would be right stands in the configuration's report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is not in the PHC string format, or cut off.
    #[error("this is not a hash")]
    NotAHash,
    /// It looks like a password.
    #[error("this is not a hash but, it seems, the password itself")]
    Plain,
    /// An algorithm that is not known here.
    #[error("hashes of kind `{0}` are not known here")]
    Algorithm(String),
    /// Argon2 parameters beyond what a gateway can bear.
    #[error("verifying this hash takes more than 64 MiB, 10 passes or 16 lanes")]
    TooExpensive,
}

/// Takes a hash as the configuration has it.
///
/// # Errors
/// [`HashError`] when it cannot be used.
pub fn parse(text: &str) -> Result<Secret, HashError> {
    let Some(rest) = text.strip_prefix('$') else { return Err(HashError::Plain) };
    let algorithm = rest.split('$').next().unwrap_or_default();
    if algorithm == FAST {
        fast(text).ok_or(HashError::NotAHash)?;
        return Ok(Secret { hash: text.to_owned(), slow: false });
    }
    if algorithm != SLOW.as_str() {
        let shown = algorithm.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(20).collect();
        return Err(HashError::Algorithm(shown));
    }
    let hash = PasswordHash::new(text).map_err(|_| HashError::NotAHash)?;
    let params = argon2::Params::try_from(&hash).map_err(|_| HashError::NotAHash)?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(HashError::NotAHash);
    }
    if params.m_cost() > ARGON2_KIB_MOST
        || params.t_cost() > ARGON2_PASSES_MOST
        || params.p_cost() > ARGON2_LANES_MOST
    {
        return Err(HashError::TooExpensive);
    }
    Ok(Secret { hash: text.to_owned(), slow: true })
}

/// The salt and the tag of a fast hash.
fn fast(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = text.strip_prefix('$')?.split('$');
    let (algorithm, salt, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let (salt, tag) = (STANDARD_NO_PAD.decode(salt).ok()?, STANDARD_NO_PAD.decode(tag).ok()?);
    let whole = algorithm == FAST
        && parts.next().is_none()
        && salt.len() >= SALT_BYTES_LEAST
        && tag.len() == hmac::HMAC_SHA256.digest_algorithm().output_len();
    whole.then_some((salt, tag))
}

/// Whether this is the password. Takes microseconds, or with a slow secret as long as its hash wants.
#[must_use]
pub fn verify(secret: &Secret, password: &[u8]) -> bool {
    if secret.slow {
        return PasswordHash::new(&secret.hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
    }
    let Some((salt, tag)) = fast(&secret.hash) else { return false };
    // Compares in constant time.
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &salt), password, &tag).is_ok()
}

/// A new token and its hash.
///
/// # Errors
/// When the kernel has no random numbers.
pub fn token() -> Result<(String, String), ring::error::Unspecified> {
    let random = SystemRandom::new();
    let (mut token, mut salt) = ([0; TOKEN_BYTES], [0; SALT_BYTES]);
    random.fill(&mut token)?;
    random.fill(&mut salt)?;
    let token = URL_SAFE_NO_PAD.encode(token);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), token.as_bytes());
    let hash = format!("${FAST}${}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(tag));
    Ok((token, hash))
}

#[cfg(test)]
mod tests {
    use super::{HashError, parse, token, verify};

    /// A hash that ends before its end.
    const SLOW: &str = "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$";

    #[test]
    fn a_token_fits_its_hash_and_no_other() {
        let (one, hash) = token().unwrap();
        let (two, _) = token().unwrap();
        let secret = parse(&hash).unwrap();
        assert!(!secret.slow);
        assert!(verify(&secret, one.as_bytes()));
        assert!(!verify(&secret, two.as_bytes()));
        assert!(!verify(&secret, b""));
        assert!(one.len() * 6 >= 128, "{one}");
    }

    #[test]
    fn a_chosen_password_fits_its_hash_and_no_other() {
        use argon2::password_hash::{PasswordHasher as _, SaltString};
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = SaltString::encode_b64(b"some salt").unwrap();
        let hash = argon2.hash_password(b"hunter2", &salt).unwrap().to_string();
        let secret = parse(&hash).unwrap();
        assert!(secret.slow);
        assert!(verify(&secret, b"hunter2"));
        assert!(!verify(&secret, b"hunter3"));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert_eq!(parse("hunter2"), Err(HashError::Plain));
        assert_eq!(parse(SLOW), Err(HashError::NotAHash), "cut off");
        assert_eq!(parse("$hmac-sha256$AAAA$AAAA"), Err(HashError::NotAHash));
        assert_eq!(parse("$2b$10$x"), Err(HashError::Algorithm("2b".to_owned())));
        let tag = "CWOrkoo7oJBQ/iyh7uJ0LO2aLEfrHwTWllSAxT0zRno";
        let expensive = format!("$argon2id$v=19$m=1048576,t=1,p=1$c29tZXNhbHQ${tag}");
        assert_eq!(parse(&expensive), Err(HashError::TooExpensive));
        for cut in 0..expensive.len() {
            assert!(parse(&expensive[..cut]).is_err());
        }
    }
}
