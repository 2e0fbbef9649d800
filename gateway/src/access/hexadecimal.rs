//! Bytes as hexadecimal digits and back. Knows nothing of what they mean.

/// What the digits say; `None` when something else is among them, or half a byte.
#[must_use]
pub fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        digits.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Two digits a byte, in lower case.
#[must_use]
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_come_back_and_what_is_none_is_refused() {
        assert_eq!(super::bytes("00fFa1"), Some(vec![0, 255, 0xA1]));
        assert_eq!(super::bytes(""), Some(Vec::new()));
        assert_eq!(super::digits(&[0, 255, 0xA1]), "00ffa1");
        for wrong in ["0", "0g", "a1:b2", "ä1"] {
            assert_eq!(super::bytes(wrong), None, "{wrong}");
        }
    }
}
