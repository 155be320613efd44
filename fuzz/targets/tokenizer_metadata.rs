//! The input is a GGUF file whose tensors are cut off, so that every one with sound metadata reaches the tokenizer.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use qwen3moe::checkpoint::{Checkpoint, Source};
use qwen3moe::text::{ChatTemplate, EncodeOptions, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    if let Some(tensors) = file.get_mut(8..16) {
        tensors.fill(0);
    }
    let Ok(checkpoint) = Checkpoint::open(&Source::Memory([("model.gguf".to_string(), file)].into())) else { return };
    let Ok(files) = checkpoint.text_files() else { return };
    let Some(gguf) = files.gguf else { return };
    let path = Path::new("fuzzed");
    let Ok(tokenizer) = Tokenizer::from_gguf(path, gguf.into()) else { return };
    if let Ok(ids) = tokenizer.encode("Hello, wörld 12 <|im_end|>\n\n  x", EncodeOptions::default()) {
        tokenizer.decode(&ids, false);
    }
    if let Some(template) = files.chat_template
        && let Ok(template) = ChatTemplate::new(path, &template, &tokenizer)
    {
        let _ = template.render(r#"[{"role": "user", "content": "hi"}]"#);
    }
});
