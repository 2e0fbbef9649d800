//! The part of a security context that does not change (RFC 8613, 3): ids and the keys derived for them, and the one
//! place where something is encrypted or decrypted with them. It does not know messages.

use crate::cbor::Cbor;
use crate::sequence::PartialIv;
use aes::Aes128;
use ccm::aead::{AeadInOut as _, KeyInit as _};
use ccm::consts::{U8, U13};
use ccm::{Ccm, Nonce, Tag};
use core::fmt;
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// The longest Sender or Recipient ID: the nonce's length minus 6 (RFC 8613, 3.3).
pub const MAX_ID_BYTES: usize = 7;
/// The longest ID Context taken here, in bytes. The standard sets no bound; deployments use 8.
pub const MAX_ID_CONTEXT_BYTES: usize = 32;

/// AES-CCM-16-64-128 in COSE's registry (RFC 9053, 4.2).
const ALG_AEAD: u8 = 10;
const KEY_BYTES: usize = 16;
const NONCE_BYTES: usize = 13;
/// The tag of AES-CCM-16-64-128.
pub(crate) const TAG_BYTES: usize = 8;
/// The version in the authenticated data (RFC 8613, 5.4).
const OSCORE_VERSION: u8 = 1;

/// What both ends agree on beforehand (RFC 8613, 3.2). One end's sender is the other's recipient.
#[derive(Clone, Copy, Default)]
pub struct Parameters<'a> {
    /// The secret: random, 16 bytes or more.
    pub master_secret: &'a [u8],
    /// May be empty.
    pub master_salt: &'a [u8],
    /// Tells contexts apart that share a secret; at most [`MAX_ID_CONTEXT_BYTES`].
    pub id_context: Option<&'a [u8]>,
    /// This end's id; at most [`MAX_ID_BYTES`].
    pub sender_id: &'a [u8],
    /// The other end's id; at most [`MAX_ID_BYTES`], and another one.
    pub recipient_id: &'a [u8],
}

impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters")
            .field("sender_id", &Hex(self.sender_id))
            .field("recipient_id", &Hex(self.recipient_id))
            .finish_non_exhaustive()
    }
}

/// Why no context can be derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeriveError {
    /// There is no secret.
    NoSecret,
    /// An id has more than [`MAX_ID_BYTES`].
    IdTooLong,
    /// The ID Context has more than [`MAX_ID_CONTEXT_BYTES`].
    IdContextTooLong,
    /// Both ids are the same: both ends would encrypt with one key and the same nonces.
    SameIds,
}

impl fmt::Display for DeriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSecret => "the master secret is empty",
            Self::IdTooLong => "an id has at most 7 bytes",
            Self::IdContextTooLong => "the ID context has at most 32 bytes",
            Self::SameIds => "both ends have the same id",
        })
    }
}

impl core::error::Error for DeriveError {}

/// A byte string of at most `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Short<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Short<N> {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut short = Self { bytes: [0; N], length: u8::try_from(bytes.len()).ok()? };
        short.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(short)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// A Sender or Recipient ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(Short<MAX_ID_BYTES>);

impl Id {
    /// An id; `None` when it has more than [`MAX_ID_BYTES`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Short::new(bytes).map(Self)
    }

    /// The id's bytes; none is an id too.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.as_bytes()).fmt(f)
    }
}

pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The keys and ids of one end. 100 bytes; AES's key schedule is made anew for every message.
#[derive(Clone)]
pub struct Context {
    sender_id: Id,
    recipient_id: Id,
    id_context: Option<Short<MAX_ID_CONTEXT_BYTES>>,
    sender_key: [u8; KEY_BYTES],
    recipient_key: [u8; KEY_BYTES],
    common_iv: [u8; NONCE_BYTES],
}

impl Drop for Context {
    fn drop(&mut self) {
        self.sender_key.zeroize();
        self.recipient_key.zeroize();
        self.common_iv.zeroize();
    }
}

impl ZeroizeOnDrop for Context {}

/// Compared by what names them, not by their keys.
impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        (self.sender_id, self.recipient_id, self.id_context)
            == (other.sender_id, other.recipient_id, other.id_context)
            && self.fingerprint() == other.fingerprint()
    }
}

impl Eq for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the keys: this may reach a log.
        f.debug_struct("Context")
            .field("sender_id", &self.sender_id)
            .field("recipient_id", &self.recipient_id)
            .field("id_context", &self.id_context().map(Hex))
            .finish_non_exhaustive()
    }
}

/// Which of the two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Sender,
    Recipient,
}

/// What a message is bound to besides its own bytes: the request's id and number, and the number that its nonce comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// Who sent the request.
    pub(crate) request_from: End,
    /// The request's Partial IV.
    pub(crate) request: PartialIv,
    /// Whose number the nonce is made of.
    pub(crate) nonce_from: End,
    /// The number that the nonce is made of.
    pub(crate) nonce: PartialIv,
}

impl Context {
    /// Derives keys and common IV (RFC 8613, 3.2.1).
    ///
    /// # Errors
    /// [`DeriveError`]: the parameters cannot be used.
    pub fn derive(parameters: &Parameters<'_>) -> Result<Self, DeriveError> {
        let Parameters { master_secret, master_salt, id_context, sender_id, recipient_id } = *parameters;
        if master_secret.is_empty() {
            return Err(DeriveError::NoSecret);
        }
        if sender_id == recipient_id {
            return Err(DeriveError::SameIds);
        }
        let id_context = match id_context {
            Some(bytes) if bytes.len() > MAX_ID_CONTEXT_BYTES => return Err(DeriveError::IdContextTooLong),
            Some(bytes) => Short::new(bytes),
            None => None,
        };
        let mut context = Self {
            sender_id: Id::new(sender_id).ok_or(DeriveError::IdTooLong)?,
            recipient_id: Id::new(recipient_id).ok_or(DeriveError::IdTooLong)?,
            id_context,
            sender_key: [0; KEY_BYTES],
            recipient_key: [0; KEY_BYTES],
            common_iv: [0; NONCE_BYTES],
        };
        let kdf = Hkdf::<Sha256>::new(Some(master_salt), master_secret);
        let expand = |id: &[u8], kind: &str, out: &mut [u8]| {
            let info = Cbor::array(5).bytes(id);
            let info = match &id_context {
                Some(id_context) => info.bytes(id_context.as_bytes()),
                None => info.null(),
            };
            let info = info.uint(ALG_AEAD).text(kind).uint(u8::try_from(out.len()).unwrap_or(u8::MAX));
            // HKDF fails above 255 times the hash's length only.
            kdf.expand(info.as_bytes(), out).unwrap_or_default();
        };
        expand(sender_id, "Key", &mut context.sender_key);
        expand(recipient_id, "Key", &mut context.recipient_key);
        expand(&[], "IV", &mut context.common_iv);
        Ok(context)
    }

    /// This end's id.
    #[must_use]
    pub fn sender_id(&self) -> Id {
        self.sender_id
    }

    /// The other end's id: the `kid` of its requests.
    #[must_use]
    pub fn recipient_id(&self) -> Id {
        self.recipient_id
    }

    /// What tells this context apart from others of the same secret.
    #[must_use]
    pub fn id_context(&self) -> Option<&[u8]> {
        self.id_context.as_ref().map(Short::as_bytes)
    }

    /// A name for the sender's key, under which its sequence number is stored: it stays the same as long as the key
    /// does, and says nothing about it.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(b"tidegate sender sequence of ");
        hash.update(self.sender_key);
        hash.update(self.common_iv);
        let mut fingerprint = [0; 16];
        for (place, byte) in fingerprint.iter_mut().zip(hash.finalize()) {
            *place = byte;
        }
        fingerprint
    }

    fn id_of(&self, end: End) -> &Id {
        match end {
            End::Sender => &self.sender_id,
            End::Recipient => &self.recipient_id,
        }
    }

    /// The AEAD nonce (RFC 8613, 5.2).
    fn nonce(&self, from: End, number: PartialIv) -> [u8; NONCE_BYTES] {
        let id = self.id_of(from).as_bytes();
        let mut nonce = [0; NONCE_BYTES];
        let [size, rest @ ..] = &mut nonce;
        // At most 7.
        *size = u8::try_from(id.len()).unwrap_or(0);
        let piv = number.to_be_bytes();
        let right = id.iter().rev().chain(core::iter::repeat(&0)).take(MAX_ID_BYTES);
        let bytes = piv.iter().rev().chain(right);
        for (place, byte) in rest.iter_mut().rev().zip(bytes) {
            *place = *byte;
        }
        for (place, byte) in nonce.iter_mut().zip(self.common_iv) {
            *place ^= byte;
        }
        nonce
    }

    /// The additional authenticated data (RFC 8613, 5.4; RFC 9052, 5.3). No option is of class I.
    fn aad(&self, binding: &Binding) -> Cbor {
        let (piv, length) = binding.request.encoded();
        let external = Cbor::array(5)
            .uint(OSCORE_VERSION)
            .nested_array(1)
            .uint(ALG_AEAD)
            .bytes(self.id_of(binding.request_from).as_bytes())
            .bytes(piv.get(..length).unwrap_or_default())
            .bytes(&[]);
        Cbor::array(3).text("Encrypt0").bytes(&[]).bytes(external.as_bytes())
    }

    fn cipher(&self, end: End) -> Ccm<Aes128, U8, U13> {
        let key = match end {
            End::Sender => &self.sender_key,
            End::Recipient => &self.recipient_key,
        };
        let key = Zeroizing::new(*key);
        Ccm::new((&*key).into())
    }

    /// Encrypts in place with the sender's key. `None` above 64 KiB, which the algorithm cannot take.
    pub(crate) fn seal(&self, binding: &Binding, text: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        let nonce = Nonce::from(self.nonce(binding.nonce_from, binding.nonce));
        let aad = self.aad(binding);
        let tag =
            self.cipher(End::Sender).encrypt_inout_detached(&nonce, aad.as_bytes(), text.into()).ok()?;
        Some(tag.into())
    }

    /// Decrypts in place with the recipient's key. `None` when this is not what the other end has sent; what then
    /// stands in `text` is nothing.
    pub(crate) fn open(&self, binding: &Binding, text: &mut [u8], tag: [u8; TAG_BYTES]) -> Option<()> {
        let nonce = Nonce::from(self.nonce(binding.nonce_from, binding.nonce));
        let aad = self.aad(binding);
        let tag = Tag::from(tag);
        self.cipher(End::Recipient).decrypt_inout_detached(&nonce, aad.as_bytes(), text.into(), &tag).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Binding, Context, End, Parameters};
    use crate::sequence::PartialIv;

    const SECRET: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    const SALT: [u8; 8] = 0x9e7c_a922_2378_6340_u64.to_be_bytes();
    const ID_CONTEXT: [u8; 8] = 0x37cb_f321_0017_a2d3_u64.to_be_bytes();

    /// RFC 8613, C.1, C.2 and C.3: client's id, server's id, salt, ID Context; client's key, server's key, common IV.
    const VECTORS: [(Parameters<'_>, u128, u128, u128); 3] = [
        (
            Parameters {
                master_secret: &SECRET,
                master_salt: &SALT,
                id_context: None,
                sender_id: &[],
                recipient_id: &[1],
            },
            0xf091_0ed7_295e_6ad4_b54f_c793_1543_02ff,
            0xffb1_4e09_3c94_c9ca_c947_1648_b4f9_8710,
            0x0000_0046_22d4_dd6d_9441_68ee_fb54_987c,
        ),
        (
            Parameters {
                master_secret: &SECRET,
                master_salt: &[],
                id_context: None,
                sender_id: &[0],
                recipient_id: &[1],
            },
            0x321b_2694_3253_c7ff_b600_3b0b_64d7_4041,
            0xe57b_5635_8151_77cd_679a_b4bc_ec9d_7dda,
            0x0000_00be_35ae_297d_2dac_e910_c52e_99f9,
        ),
        (
            Parameters {
                master_secret: &SECRET,
                master_salt: &SALT,
                id_context: Some(&ID_CONTEXT),
                sender_id: &[],
                recipient_id: &[1],
            },
            0xaf2a_1300_a5e9_5788_b356_336e_eecd_2b92,
            0xe39a_0c7c_77b4_3f03_b4b3_9ab9_a268_699f,
            0x0000_002c_a58f_b85f_f1b8_1c0b_7181_b85e,
        ),
    ];

    #[test]
    fn keys_and_common_iv_are_those_of_appendix_c_on_both_ends() {
        for (client, client_key, server_key, iv) in VECTORS {
            let server =
                Parameters { sender_id: client.recipient_id, recipient_id: client.sender_id, ..client };
            let [client, server] = [client, server].map(|parameters| Context::derive(&parameters).unwrap());
            assert_eq!(client.sender_key, client_key.to_be_bytes());
            assert_eq!(client.recipient_key, server_key.to_be_bytes());
            assert_eq!(server.sender_key, server_key.to_be_bytes());
            assert_eq!(server.recipient_key, client_key.to_be_bytes());
            assert_eq!(client.common_iv, iv.to_be_bytes()[3..]);
            assert_eq!(server.common_iv, client.common_iv);
            assert_ne!(client.fingerprint(), server.fingerprint());
        }
    }

    #[test]
    fn nonces_and_authenticated_data_are_those_of_appendix_c() {
        // C.4, C.5, C.6 (requests, number 20) and C.8 (a response with the server's own number 0).
        let nonces: [u128; 3] = [
            0x0000_0046_22d4_dd6d_9441_68ee_fb54_9868,
            0x0000_00bf_35ae_297d_2dac_e910_c52e_99ed,
            0x0000_002c_a58f_b85f_f1b8_1c0b_7181_b84a,
        ];
        let number = PartialIv::new(20).unwrap();
        let binding =
            Binding { request_from: End::Sender, request: number, nonce_from: End::Sender, nonce: number };
        for ((parameters, ..), nonce) in VECTORS.iter().zip(nonces) {
            let context = Context::derive(parameters).unwrap();
            assert_eq!(context.nonce(End::Sender, number), nonce.to_be_bytes()[3..]);
        }
        let [c1, c2, _] = VECTORS.map(|(parameters, ..)| Context::derive(&parameters).unwrap());
        let own = c1.nonce(End::Recipient, PartialIv::new(0).unwrap());
        assert_eq!(own, 0x0000_0047_22d4_dd6d_9441_69ee_fb54_987c_u128.to_be_bytes()[3..]);
        assert_eq!(c1.aad(&binding).as_bytes(), b"\x83\x68Encrypt0\x40\x48\x85\x01\x81\x0a\x40\x41\x14\x40");
        assert_eq!(
            c2.aad(&binding).as_bytes(),
            b"\x83\x68Encrypt0\x40\x49\x85\x01\x81\x0a\x41\x00\x41\x14\x40"
        );
    }
}
