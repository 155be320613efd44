//! Stop strings in a text that comes in pieces.

/// Finds the first of several stop strings in a stream of text, whatever the cuts, and gives out only what is certainly
/// before it. Time is linear in the text (Knuth, Morris and Pratt's failure function for each stop string).
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that was pushed and not given out: it ends in what may become a stop string.
    held: String,
    matched: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// `fail[i]`: length of the longest proper prefix of `bytes` that ends `bytes[..=i]`.
    fail: Vec<usize>,
    /// Bytes of `bytes` that end the text so far.
    len: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut fail = vec![0; bytes.len()];
        let mut len = 0;
        for i in 1..bytes.len() {
            while len > 0 && bytes[i] != bytes[len] {
                len = fail[len - 1];
            }
            if bytes[i] == bytes[len] {
                len += 1;
            }
            fail[i] = len;
        }
        Self { bytes, fail, len: 0 }
    }

    /// Reads one byte; true at the last byte of the pattern.
    fn read(&mut self, byte: u8) -> bool {
        while self.len > 0 && byte != self.bytes[self.len] {
            self.len = self.fail[self.len - 1];
        }
        if byte == self.bytes[self.len] {
            self.len += 1;
        }
        self.len == self.bytes.len()
    }
}

impl StopMatcher {
    /// A matcher of `stops`; empty ones are ignored.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty());
        Self { patterns: stops.map(Pattern::new).collect(), held: String::new(), matched: false }
    }

    /// Takes more text, appends to `out` what can be given out, and says whether a stop string is complete. The stop
    /// string and what follows it are dropped. Of those that end at the same byte the one that began first counts.
    /// Once matched, text is ignored.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.matched {
            return true;
        }
        if self.patterns.is_empty() {
            out.push_str(text);
            return false;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            let mut longest = 0;
            for pattern in &mut self.patterns {
                if pattern.read(byte) {
                    longest = longest.max(pattern.len);
                }
            }
            if longest > 0 {
                out.push_str(&self.held[..before + i + 1 - longest]);
                self.held = String::new();
                self.matched = true;
                return true;
            }
        }
        let hold = self.patterns.iter().map(|pattern| pattern.len).max().unwrap_or(0);
        let safe = self.held.len() - hold;
        out.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }

    /// Ends the text: what was held back is no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text given out, and whether a stop string was found, for `text` cut into pieces of `step` characters.
    fn run(stops: &[&str], text: &str, step: usize) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops);
        let mut out = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(step) {
            if matcher.push(&piece.iter().collect::<String>(), &mut out) {
                return (out, true);
            }
        }
        matcher.finish(&mut out);
        (out, false)
    }

    #[test]
    fn any_cut_stops_at_the_same_place() {
        let cases: &[(&[&str], &str, &str, bool)] = &[
            (&["STOP"], "go on STOP here", "go on ", true),
            (&["STOP"], "go on STO", "go on STO", false),
            (&["aab"], "aaaab", "aa", true),
            (&["abab", "bc"], "xababc", "x", true),
            (&["bcd", "abcde"], "xabcde", "xa", true),
            (&["cd", "abcd"], "xabcd", "x", true),
            (&["\n\n", "User:"], "Hi.\nUser: yes", "Hi.\n", true),
            (&["é!", "🙂"], "caf\u{e9}? é é! 🙂", "café? é ", true),
            (&[""], "nothing stops", "nothing stops", false),
            (&[], "nothing stops", "nothing stops", false),
            (&["abcabd"], "abcabcabcabd.", "abcabc", true),
        ];
        for (stops, text, expected, matched) in cases {
            for step in 1..=text.len().max(1) {
                assert_eq!(run(stops, text, step), (expected.to_string(), *matched), "{stops:?} in {text:?} by {step}");
            }
        }
    }

    #[test]
    fn random_texts_stop_where_a_search_finds_the_first_end() {
        let mut state = 1u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for _ in 0..2_000 {
            let mut word = |length: u32| (0..length).map(|_| ['a', 'b', 'é'][random(3) as usize]).collect::<String>();
            let (text, stops) = (word(24), [word(2), word(4), word(5)]);
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let ends = stops.iter().filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start)));
            let expected = match ends.min() {
                Some((_, start)) => (text[..start].to_owned(), true),
                None => (text.clone(), false),
            };
            let step = 1 + random(5) as usize;
            assert_eq!(run(&stops, &text, step), expected, "{stops:?} in {text:?} by {step}");
        }
    }

    #[test]
    fn holds_back_no_more_than_may_become_a_stop_string() {
        let mut matcher = StopMatcher::new(&["</s>"]);
        let mut out = String::new();
        assert!(!matcher.push("a < b <", &mut out));
        assert_eq!(out, "a < b ");
        assert!(!matcher.push("/p", &mut out));
        assert_eq!(out, "a < b </p");
    }

    #[test]
    fn text_after_a_stop_string_is_ignored() {
        let mut matcher = StopMatcher::new(&["."]);
        let mut out = String::new();
        assert!(matcher.push("one. two", &mut out));
        assert!(matcher.push("three", &mut out));
        matcher.finish(&mut out);
        assert_eq!(out, "one");
    }
}
