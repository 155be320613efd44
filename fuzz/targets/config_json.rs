//! The input is config.json beside a safetensors file without tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen3moe_fuzz::{read_all, safetensors};

fuzz_target!(|data: &[u8]| {
    read_all(vec![("config.json".into(), data.to_vec()), ("model.safetensors".into(), safetensors(b"{}"))]);
});
