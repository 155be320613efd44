//! A byte-level BPE vocabulary of any size that every GGUF reader accepts: it encodes all text, badly but losslessly.

use super::shape::Shape;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// Tokens, their types and the merges, as the `tokenizer.ggml.*` arrays want them.
pub struct Vocabulary {
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
    pub merges: Vec<String>,
}

/// The 256 bytes as characters (GPT-2's `bytes_to_unicode`): printable bytes stand for themselves, the others are
/// shifted past the Latin-1 range. Letters and the space come first, so that the first merges join common pairs.
fn byte_alphabet() -> Vec<char> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0;
    let mut alphabet: Vec<(u32, char)> = (0u32..256)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                shifted += 1;
                255 + shifted
            };
            (byte, char::from_u32(code).unwrap_or('\u{fffd}'))
        })
        .collect();
    const COMMON: &[u8] = b" etaoinshrdlucmfwygpbvkxqjz";
    alphabet.sort_by_key(|&(byte, _)| {
        let rank = COMMON.iter().position(|&c| u32::from(c) == byte);
        (rank.unwrap_or(COMMON.len()), byte)
    });
    alphabet.into_iter().map(|(_, c)| c).collect()
}

impl Vocabulary {
    /// Bytes, then pairs of bytes, then pairs with a third byte, up to the control tokens; unused tokens behind them.
    pub fn new(shape: &Shape) -> Self {
        let alphabet = byte_alphabet();
        let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
        let merged = (shape.specials_at as usize).saturating_sub(tokens.len());
        let pairs = || alphabet.iter().flat_map(|&a| alphabet.iter().map(move |&b| (a.to_string(), b)));
        let triples = pairs().flat_map(|(a, b)| alphabet.iter().map(move |&c| (format!("{a}{b}"), c)));
        let merges: Vec<(String, char)> = pairs().chain(triples).take(merged).collect();
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        let mut types = vec![NORMAL; tokens.len()];
        tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
        types.resize(tokens.len(), CONTROL);
        tokens.extend((tokens.len()..shape.vocab as usize).map(|id| format!("[PAD{id}]")));
        types.resize(tokens.len(), UNUSED);
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        Self { tokens, types, merges }
    }
}
