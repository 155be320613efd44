//! The input is the beginning of a GGUF file; zeros follow it, so that tensors find their data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen3moe_fuzz::read_all;

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    file.resize(data.len() + (1 << 19), 0);
    read_all(vec![("model.gguf".into(), file)]);
});
