//! What every target does with the files it makes up.

use qwen3moe::checkpoint::{Checkpoint, Source, TensorInfo};
use qwen3moe::model::{check_shapes, read_config};
use qwen3moe::quant::Format;
use qwen3moe::quant::int4::from_gptq;
use serde_json::{Map, Value, json};

/// Reads everything that a load reads before the weights, then the first and last byte of every tensor.
pub fn read_all(files: Vec<(String, Vec<u8>)>) {
    let Ok(checkpoint) = Checkpoint::open(&Source::Memory(files.into())) else { return };
    let _ = checkpoint.text_files();
    for tensor in checkpoint.tensors() {
        let mut byte = [0];
        if tensor.bytes > 0 {
            checkpoint.read(tensor, 0, &mut byte).expect("a checked tensor lies in its file");
            checkpoint.read(tensor, tensor.bytes - 1, &mut byte).expect("a checked tensor lies in its file");
        }
        if tensor.scale_bytes() > 0 {
            decode_ends(&checkpoint, tensor);
        }
    }
    if let Ok(report) = read_config(&checkpoint) {
        let _ = check_shapes(&checkpoint, &report.spec);
    }
}

/// Decodes the first and the last value, or row: a scale that is missing would be an index out of range.
fn decode_ends(checkpoint: &Checkpoint, tensor: &TensorInfo) {
    let elements = tensor.elements() as usize;
    let mut codes = vec![0; tensor.bytes as usize];
    checkpoint.read(tensor, 0, &mut codes).expect("a checked tensor lies in its file");
    if let Format::Int4(_) = tensor.format {
        let [rows, cols] = tensor.shape[..] else { panic!("{} has the shape {:?}", tensor.name, tensor.shape) };
        if let Ok(scales) = checkpoint.group_scales(tensor) {
            let matrix = from_gptq(rows, cols, &codes, &scales).expect("checked sizes fit each other");
            matrix.decode_row(0, &mut vec![0.0; cols]);
            matrix.decode_row(rows - 1, &mut vec![0.0; cols]);
        }
    } else if let Ok(scales) = checkpoint.four_bit(tensor)
        && elements > 0
    {
        scales.decode(&codes, 0, &mut [0.0]);
        scales.decode(&codes, elements - 1, &mut [0.0]);
    }
}

/// A safetensors file: the header's length, the header, and zeros for data as far as the header claims, up to a limit.
pub fn safetensors(header: &[u8]) -> Vec<u8> {
    const LIMIT: u64 = 1 << 20;
    let claimed = serde_json::from_slice::<Map<String, Value>>(header).map_or(0, |tensors| {
        let end = |t: &Value| t["data_offsets"][1].as_u64();
        tensors.values().filter_map(end).max().unwrap_or(0)
    });
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + claimed.min(LIMIT) as usize, 0);
    file
}

/// A small qwen3_moe with this `quantization_config`, if it is not null.
pub fn config(quantization: &Value) -> Vec<u8> {
    let mut config = json!({
        "model_type": "qwen3_moe", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 72, "moe_intermediate_size": 20,
        "num_experts": 6, "num_experts_per_tok": 3, "vocab_size": 304, "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0, "max_position_embeddings": 512
    });
    config["quantization_config"] = quantization.clone();
    config.to_string().into_bytes()
}
