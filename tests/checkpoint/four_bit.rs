//! bitsandbytes 4-bit checkpoints that are broken in one place.

use qwen3moe::checkpoint::{Checkpoint, LayerTensor, Role};
use serde_json::{Value, json};

use crate::build::{Tensors, get, golden, put, read_all, refused, source};

const FILE: &str = "model.safetensors";
const NESTED: &str = "qwen3_moe_fp4";
const PLAIN: &str = "qwen3_moe_nf4_single";
const WEIGHT: &str = "model.layers.0.self_attn.k_proj.weight";

fn changed(case: &str, change: impl Fn(&mut Tensors)) -> Vec<(String, Vec<u8>)> {
    let mut files = golden(case);
    let mut tensors = Tensors::parse(&get(&files, FILE));
    change(&mut tensors);
    put(&mut files, FILE, tensors.write());
    files
}

#[track_caller]
fn refuse(case: &str, change: impl Fn(&mut Tensors), words: &[&str]) {
    refused(changed(case, change), words);
}

/// Replaces a field of the quantisation state.
fn state(field: &'static str, value: Value) -> impl Fn(&mut Tensors) {
    move |tensors| {
        let entry = tensors.find(&format!("{WEIGHT}.quant_state.bitsandbytes__fp4"));
        let mut state: Value = serde_json::from_slice(&entry.3).unwrap();
        state[field] = value.clone();
        entry.3 = state.to_string().into_bytes();
        entry.2 = vec![entry.3.len() as u64];
    }
}

#[test]
fn the_scales_that_are_read_are_those_of_the_file() {
    for case in [NESTED, PLAIN] {
        let checkpoint = Checkpoint::open(&source(golden(case))).unwrap();
        let tensor = checkpoint.require(Role::Layer(0, LayerTensor::Key)).unwrap();
        let scales = checkpoint.four_bit(tensor).unwrap();
        let mut tensors = Tensors::parse(&get(&golden(case), FILE));
        let table = &tensors.find(&format!("{WEIGHT}.quant_map")).3;
        let expected: Vec<f32> = table.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(scales.table.to_vec(), expected);
        assert_eq!(scales.block_size, 64);
        assert!(scales.elements() as u64 >= tensor.elements());
    }
}

#[test]
fn a_state_that_contradicts_the_tensors_is_refused() {
    read_all(golden(NESTED)).unwrap();
    refuse(NESTED, state("shape", json!([1, 2, 3])), &[WEIGHT, "[1, 2, 3]"]);
    refuse(NESTED, state("shape", json!([u64::MAX, 2])), &[WEIGHT, "absurd"]);
    refuse(NESTED, state("shape", json!([-1, 2])), &[WEIGHT, "quant_state"]);
    refuse(NESTED, state("blocksize", json!(0)), &[WEIGHT, "blocksize is 0"]);
    refuse(NESTED, state("blocksize", json!(32)), &[WEIGHT, "absmax"]);
    refuse(NESTED, state("nested_blocksize", json!(7)), &[WEIGHT, "nested_blocksize is 7"]);
    refuse(NESTED, state("nested_blocksize", Value::Null), &[WEIGHT, "only some of them"]);
    refuse(NESTED, state("nested_offset", json!(1e300)), &[WEIGHT, "nested_offset"]);
    refuse(NESTED, state("quant_type", json!("nf4")), &[WEIGHT, "quant_type is 'nf4'"]);
    refuse(NESTED, state("dtype", json!("int8")), &[WEIGHT, "dtype is 'int8'"]);
    refuse(NESTED, state("extra", json!(1)), &[WEIGHT, "extra"]);
}

#[test]
fn side_tensors_must_be_there_fit_and_be_finite() {
    for side in ["absmax", "quant_map", "quant_state.bitsandbytes__fp4"] {
        let name = format!("{WEIGHT}.{side}");
        let words = [WEIGHT, side.split('.').next().unwrap()];
        refuse(NESTED, |t| t.0.retain(|e| e.0 != name), &words);
    }
    for side in ["nested_absmax", "nested_quant_map"] {
        let name = format!("{WEIGHT}.{side}");
        refuse(NESTED, |t| t.0.retain(|e| e.0 != name), &[WEIGHT, "only some of them"]);
    }
    refuse(NESTED, |t| t.0.retain(|e| e.0 != WEIGHT), &["4-bit scales of", WEIGHT, "the tensor is not"]);
    let nan = |name: String| move |t: &mut Tensors| t.find(&name).3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    refuse(NESTED, nan(format!("{WEIGHT}.quant_map")), &[WEIGHT, "quant_map", "not finite"]);
    refuse(NESTED, nan(format!("{WEIGHT}.nested_absmax")), &[WEIGHT, "nested_absmax", "not finite"]);
    refuse(PLAIN, nan(format!("{WEIGHT}.absmax")), &[WEIGHT, "absmax", "not finite"]);
    let shorter = |t: &mut Tensors| {
        let entry = t.find(WEIGHT);
        entry.3.pop();
        entry.2[0] -= 1;
    };
    refuse(NESTED, shorter, &[WEIGHT, "in its quant_state takes"]);
}

#[test]
fn other_quantisations_are_refused_by_name() {
    let refuse = |change: fn(&mut Value), words: &[&str]| {
        let mut files = golden(NESTED);
        let mut config: Value = serde_json::from_slice(&get(&files, "config.json")).unwrap();
        change(&mut config["quantization_config"]);
        put(&mut files, "config.json", config.to_string().into_bytes());
        refused(files, words);
    };
    refuse(|q| q["quant_method"] = json!("awq"), &["not supported", "quant_method is \"awq\"", "bitsandbytes", "gptq"]);
    refuse(|q| q["quant_method"] = json!(3), &["not supported", "quant_method is 3"]);
    refuse(|q| q["quant_method"] = json!("fp8"), &["not supported", "quant_method is \"fp8\""]);
    refuse(|q| q["load_in_4bit"] = json!(false), &["not supported", "load_in_4bit is false"]);
    refuse(|q| q["load_in_8bit"] = json!(true), &["not supported"]);
    refuse(|q| q["bnb_4bit_quant_type"] = json!("af4"), &["not supported", "bnb_4bit_quant_type is \"af4\""]);
    refuse(|q| q["bnb_4bit_quant_storage"] = json!("bfloat16"), &["not supported", "bnb_4bit_quant_storage"]);
    refuse(|q| *q = json!("bitsandbytes"), &["quantization_config is \"bitsandbytes\"", "an object"]);
    refuse(|q| *q = Value::Null, &["absmax"]);
}

#[test]
fn experts_in_one_tensor_of_4_bit_codes_are_refused_by_name() {
    let mut files = golden(PLAIN);
    let config: Value = serde_json::from_slice(&get(&files, "config.json")).unwrap();
    let size = |field: &str| config[field].as_u64().unwrap();
    let (experts, width, hidden) = (size("num_experts"), size("moe_intermediate_size"), size("hidden_size"));
    let mut tensors = Tensors::parse(&get(&files, FILE));
    let table = tensors.find(&format!("{WEIGHT}.quant_map")).3.clone();
    tensors.0.retain(|tensor| !tensor.0.starts_with("model.layers.0.mlp.experts."));
    for (part, shape) in [("gate_up_proj", [experts, 2 * width, hidden]), ("down_proj", [experts, hidden, width])] {
        let name = format!("model.layers.0.mlp.experts.{part}");
        let elements: u64 = shape.iter().product();
        let state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": shape}).to_string();
        let mut add = |name: String, dtype: &str, shape: Vec<u64>, bytes: Vec<u8>| {
            tensors.0.push((name, dtype.into(), shape, bytes));
        };
        add(name.clone(), "U8", vec![elements / 2, 1], vec![0; elements as usize / 2]);
        add(format!("{name}.absmax"), "F32", vec![elements / 64], vec![0; elements as usize / 16]);
        add(format!("{name}.quant_map"), "F32", vec![16], table.clone());
        let len = vec![state.len() as u64];
        add(format!("{name}.quant_state.bitsandbytes__nf4"), "U8", len, state.into_bytes());
    }
    put(&mut files, FILE, tensors.write());
    refused(files, &["not supported", "model.layers.0.mlp.experts.gate_up_proj", "BNB4", "one for each expert"]);
}
