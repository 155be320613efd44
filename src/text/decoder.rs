//! Bytes of tokens into whole code points, as they come.

/// Turns the bytes of successive tokens into text that never ends inside a code point.
///
/// What it has given out at any time is what `String::from_utf8_lossy` would make of all bytes so far, less a last code
/// point that is not complete yet. Bytes that cannot become valid any more are U+FFFD at once.
#[derive(Debug, Clone, Default)]
pub struct TextDecoder {
    /// The first bytes of a code point, valid as far as they go: three at most.
    partial: [u8; 3],
    len: usize,
}

impl TextDecoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and appends the text that is complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut rest = bytes;
        while self.len > 0 && !rest.is_empty() {
            rest = self.complete(rest, out);
        }
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(bad) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[bad..];
                        }
                        None => {
                            self.partial[..after.len()].copy_from_slice(after);
                            self.len = after.len();
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Ends the text: an incomplete code point is one U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if self.len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.len = 0;
        }
    }

    /// Joins one byte of `rest` to the held bytes; returns what is left to read.
    fn complete<'a>(&mut self, rest: &'a [u8], out: &mut String) -> &'a [u8] {
        let mut joined = [0; 4];
        joined[..self.len].copy_from_slice(&self.partial[..self.len]);
        joined[self.len] = rest[0];
        let joined = &joined[..self.len + 1];
        match std::str::from_utf8(joined) {
            Ok(text) => {
                out.push_str(text);
                self.len = 0;
                &rest[1..]
            }
            Err(error) if error.error_len().is_none() => {
                self.partial[..joined.len()].copy_from_slice(joined);
                self.len = joined.len();
                &rest[1..]
            }
            // The new byte ends the held ones without belonging to them: it is read again on its own.
            Err(_) => {
                out.push(char::REPLACEMENT_CHARACTER);
                self.len = 0;
                rest
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], step: usize) -> String {
        let mut decoder = TextDecoder::new();
        let mut out = String::new();
        for piece in bytes.chunks(step) {
            decoder.push(piece, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn any_cut_gives_the_text_of_the_whole() {
        let cases: &[&[u8]] = &[
            "plain, é, 你好, 🙂🙂".as_bytes(),
            b"\xff\xfe a \xc3 b \xe4\xbd c \xf0\x9f\x99 d",
            b"\xe0\x80\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf",
            b"\xf0\x9f\xf0\x9f\x99\x82\xe4\xe4\xbd\xa0",
            b"\xf0\x9f\x99",
            b"",
        ];
        for bytes in cases {
            for step in 1..=5 {
                assert_eq!(decode(bytes, step), String::from_utf8_lossy(bytes), "{bytes:x?} by {step}");
            }
        }
    }

    #[test]
    fn a_code_point_comes_with_its_last_byte() {
        let mut decoder = TextDecoder::new();
        let mut out = String::new();
        decoder.push(&"🙂".as_bytes()[..3], &mut out);
        assert_eq!(out, "");
        decoder.push(&"🙂".as_bytes()[3..], &mut out);
        assert_eq!(out, "🙂");
    }
}
