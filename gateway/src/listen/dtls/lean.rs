//! Ciphers of an association that keep their key alone: what AES makes of a key takes ten times as much, twice for each of
//! thousands of associations, and is made anew for each record in well under a microsecond. The ciphers themselves are `dimpl`'s.

use dimpl::crypto::{
    Aad, Buf, Cipher, Dtls12CipherSuite, HashAlgorithm, Nonce, SupportedDtls12CipherSuite, TmpBuf,
    rust_crypto,
};
use dimpl::{CryptoError, CryptoOperation};
use std::fmt;
use std::sync::LazyLock;
use zeroize::Zeroizing;

static LEAN: LazyLock<Vec<Lean>> =
    LazyLock::new(|| rust_crypto::default_provider().cipher_suites.iter().copied().map(Lean).collect());

static SUITES: LazyLock<Vec<&'static dyn SupportedDtls12CipherSuite>> =
    LazyLock::new(|| LEAN.iter().map(|suite| suite as _).collect());

/// All cipher suites.
pub(super) fn suites() -> &'static [&'static dyn SupportedDtls12CipherSuite] {
    &SUITES
}

/// A suite whose ciphers are lean.
#[derive(Debug)]
struct Lean(&'static dyn SupportedDtls12CipherSuite);

impl SupportedDtls12CipherSuite for Lean {
    fn suite(&self) -> Dtls12CipherSuite {
        self.0.suite()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        self.0.key_lengths()
    }

    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce_len()
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        // A key that will not do is refused now, not with the first record.
        self.0.create_cipher(key)?;
        if let Ok(key) = key.try_into() {
            Ok(Box::new(Key::<16> { suite: self.0, key: Zeroizing::new(key) }))
        } else if let Ok(key) = key.try_into() {
            Ok(Box::new(Key::<32> { suite: self.0, key: Zeroizing::new(key) }))
        } else {
            Err(CryptoError::OperationFailed(CryptoOperation::CreateCipher))
        }
    }
}

/// The key of one direction.
struct Key<const BYTES: usize> {
    suite: &'static dyn SupportedDtls12CipherSuite,
    key: Zeroizing<[u8; BYTES]>,
}

impl<const BYTES: usize> fmt::Debug for Key<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl<const BYTES: usize> Cipher for Key<BYTES> {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        self.suite.create_cipher(&*self.key)?.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(&mut self, ciphertext: &mut TmpBuf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        self.suite.create_cipher(&*self.key)?.decrypt(ciphertext, aad, nonce)
    }
}
