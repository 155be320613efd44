//! A 4-bit checkpoint around the input: a byte of flags, three bytes of sizes, and the JSON of a quantisation state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen3moe_fuzz::{config, read_all};
use serde_json::{Map, json};

const WEIGHT: &str = "model.layers.0.self_attn.k_proj.weight";

fuzz_target!(|data: &[u8]| {
    let Some((head, state)) = data.split_first_chunk::<4>() else { return };
    let [flags, codes, absmax, nested] = head.map(usize::from);
    let fp4 = if flags & 1 == 0 { "nf4" } else { "fp4" };
    let double = flags & 2 != 0;
    let mut header = Map::new();
    let mut bytes = Vec::new();
    let mut add = |name: String, dtype: &str, size: usize, contents: &[u8]| {
        let start = bytes.len();
        bytes.extend(contents);
        let count = contents.len() / size;
        header.insert(name, json!({"dtype": dtype, "shape": [count], "data_offsets": [start, bytes.len()]}));
    };
    add(WEIGHT.into(), "U8", 1, &vec![0x5a; codes * 16]);
    add(format!("{WEIGHT}.quant_map"), "F32", 4, &[0; 64]);
    if double {
        add(format!("{WEIGHT}.absmax"), "U8", 1, &vec![0xff; absmax]);
        add(format!("{WEIGHT}.nested_absmax"), "F32", 4, &vec![0; 4 * nested]);
        add(format!("{WEIGHT}.nested_quant_map"), "F32", 4, &[0; 1024]);
    } else {
        add(format!("{WEIGHT}.absmax"), "F32", 4, &vec![0; 4 * absmax]);
    }
    add(format!("{WEIGHT}.quant_state.bitsandbytes__{fp4}"), "U8", 1, state);
    let quantization = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes].concat();
    read_all(vec![("config.json".into(), config(&quantization)), ("model.safetensors".into(), file)]);
});
