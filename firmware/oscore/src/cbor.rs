//! The few kinds of CBOR (RFC 8949) that a key's derivation and the authenticated data are made of, written into a
//! buffer on the stack. Nothing is ever read.

/// Room for the longest array that is written here: a derivation's `info` with an ID Context of 32 bytes takes 53.
const CBOR_BYTES: usize = 64;

/// CBOR being written. What does not fit is left out, which the lengths that [`Context`](crate::Context) checks rule out.
pub(crate) struct Cbor {
    bytes: [u8; CBOR_BYTES],
    length: usize,
}

impl Cbor {
    pub(crate) fn array(elements: u8) -> Self {
        let mut cbor = Self { bytes: [0; CBOR_BYTES], length: 0 };
        cbor.head(4, elements);
        cbor
    }

    /// A major type and its argument, in its shortest form.
    fn head(&mut self, major: u8, argument: u8) {
        if argument < 24 {
            self.put(&[(major << 5) | argument]);
        } else {
            self.put(&[(major << 5) | 24, argument]);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        if let Some(space) = self.bytes.get_mut(self.length..end) {
            space.copy_from_slice(bytes);
            self.length = end;
        }
    }

    pub(crate) fn uint(mut self, value: u8) -> Self {
        self.head(0, value);
        self
    }

    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.head(2, u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.put(value);
        self
    }

    pub(crate) fn text(mut self, value: &str) -> Self {
        self.head(3, u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.put(value.as_bytes());
        self
    }

    pub(crate) fn null(mut self) -> Self {
        self.put(&[0xF6]);
        self
    }

    pub(crate) fn nested_array(mut self, elements: u8) -> Self {
        self.head(4, elements);
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
