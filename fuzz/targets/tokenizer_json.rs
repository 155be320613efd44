//! The input is a `tokenizer.json`, behind a zero byte followed by a `tokenizer_config.json`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use qwen3moe::text::{EncodeOptions, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let mut files = data.splitn(2, |byte| *byte == 0);
    let Some(tokenizer_json) = files.next() else { return };
    let Ok(tokenizer) = Tokenizer::from_huggingface(Path::new("fuzzed"), tokenizer_json, files.next()) else { return };
    for parse_special in [false, true] {
        let options = EncodeOptions { add_special: true, parse_special };
        if let Ok(ids) = tokenizer.encode("Hello, wörld 12 <|im_end|>\n\n  x", options) {
            tokenizer.decode(&ids, true);
        }
    }
});
