//! A layer in GPTQ's packing: seven bytes of flags and sizes, then what the tensors hold, over and over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen3moe_fuzz::{config, read_all};
use serde_json::{Map, Value, json};

const LAYER: &str = "model.layers.0.self_attn.k_proj";

fuzz_target!(|data: &[u8]| {
    let Some((head, contents)) = data.split_first_chunk::<7>() else { return };
    let [flags, words, outputs, zero_words, groups, columns, group_size] = head.map(usize::from);
    let flag = |bit: usize| flags >> bit & 1 == 1;
    let (scale_type, scale_size) = [("F16", 2), ("BF16", 2), ("F32", 4), ("I32", 4)][flags & 3];
    let mut header = Map::new();
    let mut bytes = Vec::new();
    let mut add = |part: &str, dtype: &str, size: usize, shape: &[usize]| {
        let start = bytes.len();
        bytes.extend(contents.iter().cycle().take(shape.iter().product::<usize>() * size));
        let info = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, bytes.len()]});
        header.insert(format!("{LAYER}.{part}"), info);
    };
    add("qweight", "I32", 4, &[words, outputs]);
    add("qzeros", "I32", 4, &[groups, zero_words]);
    add("scales", scale_type, scale_size, &[groups, outputs]);
    if flag(2) {
        add("g_idx", "I32", 4, &[columns]);
    }
    let quantization = json!({
        "quant_method": if flag(3) { "auto-round" } else { "gptq" },
        "bits": 4,
        "group_size": if flag(4) { -1 } else { 8 * group_size as i64 },
        "desc_act": flag(5),
        "dynamic": if flag(6) { json!({"+:.*": {"group_size": 32}}) } else { Value::Null },
    });
    let header = Value::Object(header).to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes].concat();
    read_all(vec![("config.json".into(), config(&quantization)), ("model.safetensors".into(), file)]);
});
