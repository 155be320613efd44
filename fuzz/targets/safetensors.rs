//! The input is a header, behind a first byte: even for its JSON alone, odd for the whole file as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen3moe_fuzz::{config, read_all, safetensors};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = if kind % 2 == 0 { safetensors(rest) } else { rest.to_vec() };
    read_all(vec![("config.json".into(), config(&Value::Null)), ("model.safetensors".into(), file)]);
});
