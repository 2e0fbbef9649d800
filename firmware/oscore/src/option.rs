//! The OSCORE option's value: a COSE object's header in its compressed form (RFC 8613, 6.1). Bytes only.

use crate::sequence::PartialIv;
use core::fmt;

const PIV_LENGTH: u8 = 0b0000_0111;
const KID: u8 = 0b0000_1000;
const KID_CONTEXT: u8 = 0b0001_0000;
const RESERVED: u8 = 0b1110_0000;

/// What the option says about the ciphertext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// The sender's number of this message.
    pub partial_iv: Option<PartialIv>,
    /// The ID Context.
    pub kid_context: Option<&'a [u8]>,
    /// The sender's id.
    pub kid: Option<&'a [u8]>,
}

/// An option that is malformed or has what is reserved for later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderError;

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the OSCORE option is malformed")
    }
}

impl core::error::Error for HeaderError {}

/// The longest value that is written here.
pub(crate) const MAX_VALUE_BYTES: usize = 1 + 5 + 1 + crate::MAX_ID_CONTEXT_BYTES + crate::MAX_ID_BYTES;

impl<'a> Header<'a> {
    /// Reads the option's value.
    ///
    /// # Errors
    /// [`HeaderError`]: a reserved bit or length, a Partial IV that is not in its shortest form, bytes missing or left over.
    pub fn parse(value: &'a [u8]) -> Result<Self, HeaderError> {
        let Some((&flags, rest)) = value.split_first() else { return Ok(Self::default()) };
        // Flags of zero are encoded as no value at all (RFC 8613, 6.1: a response without anything).
        if flags & RESERVED != 0 || flags == 0 {
            return Err(HeaderError);
        }
        let (piv, rest) = rest.split_at_checked(usize::from(flags & PIV_LENGTH)).ok_or(HeaderError)?;
        let partial_iv = match piv {
            [] => None,
            piv => Some(PartialIv::parse(piv).ok_or(HeaderError)?),
        };
        let (kid_context, rest) = if flags & KID_CONTEXT == 0 {
            (None, rest)
        } else {
            let (&length, rest) = rest.split_first().ok_or(HeaderError)?;
            let (kid_context, rest) = rest.split_at_checked(usize::from(length)).ok_or(HeaderError)?;
            (Some(kid_context), rest)
        };
        let kid = match (flags & KID, rest) {
            (0, []) => None,
            (0, _) => return Err(HeaderError),
            _ => Some(rest),
        };
        Ok(Self { partial_iv, kid_context, kid })
    }

    /// Writes the value and gives its length.
    pub(crate) fn write(&self, out: &mut [u8; MAX_VALUE_BYTES]) -> Option<usize> {
        let (piv, piv_length) = self.partial_iv.map_or(([0; 5], 0), PartialIv::encoded);
        let mut flags = u8::try_from(piv_length).ok()?;
        flags |= if self.kid.is_some() { KID } else { 0 };
        flags |= if self.kid_context.is_some() { KID_CONTEXT } else { 0 };
        if flags == 0 {
            return Some(0);
        }
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            let end = length + bytes.len();
            out.get_mut(length..end)?.copy_from_slice(bytes);
            length = end;
            Some(())
        };
        put(&[flags])?;
        put(piv.get(..piv_length)?)?;
        if let Some(kid_context) = self.kid_context {
            put(&[u8::try_from(kid_context.len()).ok()?])?;
            put(kid_context)?;
        }
        put(self.kid.unwrap_or_default())?;
        Some(length)
    }
}
