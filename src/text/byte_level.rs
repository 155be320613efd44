//! The byte-level alphabet of GPT-2: a printable character for each byte, in which vocabularies spell their tokens.

/// The bytes that stand for themselves: printable and not blank in Latin-1.
fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// From character to byte. The other 68 bytes, in order, are spelled U+0100, U+0101 and so on.
pub(super) struct Alphabet {
    bytes: [Option<u8>; 256 + 68],
}

impl Alphabet {
    pub(super) fn new() -> Self {
        let mut bytes = [None; 256 + 68];
        let mut next = 256;
        for byte in 0..=255u8 {
            if stands_for_itself(byte) {
                bytes[usize::from(byte)] = Some(byte);
            } else {
                bytes[next] = Some(byte);
                next += 1;
            }
        }
        Self { bytes }
    }

    /// Appends the bytes that `token` spells; its own UTF-8 where a character is not of the alphabet, as `tokenizers` does.
    pub(super) fn decode_into(&self, token: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for character in token.chars() {
            match self.bytes.get(character as usize) {
                Some(Some(byte)) => out.push(*byte),
                _ => {
                    out.truncate(start);
                    out.extend_from_slice(token.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(token: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Alphabet::new().decode_into(token, &mut out);
        out
    }

    #[test]
    fn spelled_bytes_decode() {
        assert_eq!(decode("Ġhello"), b" hello");
        assert_eq!(decode("ĊĠĠ"), b"\n  ");
        assert_eq!(decode("Ã©"), "é".as_bytes());
        assert_eq!(decode("ð٦"), "ð٦".as_bytes(), "a character outside of the alphabet leaves the token as it is");
    }

    #[test]
    fn every_byte_has_one_character() {
        let alphabet = Alphabet::new();
        let mut seen: Vec<u8> = alphabet.bytes.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    }
}
