//! Checkpoints in GPTQ's packing: the values they stand for, and what is refused of them.

use std::collections::HashMap;

use half::f16;
use qwen3moe::checkpoint::{Checkpoint, LayerTensor, Role, Unused};
use qwen3moe::quant::int4::from_gptq;
use qwen3moe::quant::{AlignedBuffer, Format, Group, Packed};
use serde_json::{Value, json};

use crate::build::{Tensors, get, golden, put, read_all, refused, source};

const FILE: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const ORDERED: &str = "qwen3_moe_gptq_act_order";
const AUTO_ROUND: &str = "qwen3_5_moe_autoround";
const LAYER: &str = "model.layers.0.self_attn.k_proj";

/// What files of the first version store words of zeros less.
const ONES: u32 = 0x1111_1111;

type Files = Vec<(String, Vec<u8>)>;

fn changed(case: &str, change: impl Fn(&mut Tensors)) -> Files {
    let mut files = golden(case);
    let mut tensors = Tensors::parse(&get(&files, FILE));
    change(&mut tensors);
    put(&mut files, FILE, tensors.write());
    files
}

#[track_caller]
fn refuse(change: impl Fn(&mut Tensors), words: &[&str]) {
    refused(changed(ORDERED, change), words);
}

fn with_config(case: &str, change: impl Fn(&mut Value)) -> Files {
    let mut files = golden(case);
    let mut config: Value = serde_json::from_slice(&get(&files, CONFIG)).unwrap();
    change(&mut config["quantization_config"]);
    put(&mut files, CONFIG, config.to_string().into_bytes());
    files
}

fn side(part: &str) -> String {
    format!("{LAYER}.{part}")
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Value by value as the format is defined, `[rows][cols]`: `scale * (code - zero)`, where `ones` is added to words of zeros.
fn defined(tensors: &HashMap<String, (Vec<u64>, Vec<u8>)>, layer: &str, ones: u32) -> Vec<Vec<f32>> {
    let tensor = |part: &str| &tensors[&format!("{layer}.{part}")];
    let (codes, zeros) = (words(&tensor("qweight").1), words(&tensor("qzeros").1));
    let scales: Vec<f32> =
        tensor("scales").1.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect();
    let rows = tensor("scales").0[1] as usize;
    let cols = 8 * tensor("qweight").0[0] as usize;
    let columns = cols / tensor("scales").0[0] as usize;
    let groups = match tensors.get(&format!("{layer}.g_idx")) {
        Some((_, bytes)) => words(bytes),
        None => (0..cols).map(|column| (column / columns) as u32).collect(),
    };
    let value = |row: usize, column: usize| {
        let group = groups[column] as usize;
        let code = codes[column / 8 * rows + row] >> (4 * (column % 8)) & 15;
        let zero = (zeros[group * rows / 8 + row / 8].wrapping_add(ones) >> (4 * (row % 8))) & 15;
        scales[group * rows + row] * (code as f32 - zero as f32)
    };
    (0..rows).map(|row| (0..groups.len()).map(|column| value(row, column)).collect()).collect()
}

/// Decodes every layer in GPTQ's packing twice, as it is and packed, and returns how many of each format there were.
fn assert_decodes(files: Files, ones: u32) -> HashMap<Format, usize> {
    let tensors = Tensors::parse(&get(&files, FILE));
    let tensors = tensors.0.into_iter().map(|(name, _, shape, bytes)| (name, (shape, bytes))).collect();
    let checkpoint = Checkpoint::open(&source(files)).unwrap();
    let mut seen = HashMap::new();
    for tensor in checkpoint.tensors() {
        let Format::Int4(_) = tensor.format else { continue };
        *seen.entry(tensor.format).or_default() += 1;
        let expected = defined(&tensors, tensor.name.strip_suffix(".qweight").unwrap(), ones);
        let mut codes = AlignedBuffer::zeroed(tensor.bytes as usize, "codes").unwrap();
        checkpoint.read(tensor, 0, &mut codes).unwrap();
        let [rows, cols] = tensor.shape[..] else { panic!("{:?}", tensor.shape) };
        assert_eq!([rows, cols], [expected.len(), expected[0].len()], "{}", tensor.name);
        let matrix = from_gptq(rows, cols, &codes, &checkpoint.group_scales(tensor).unwrap()).unwrap();
        let packed = Packed::pack(&matrix).unwrap().unwrap();
        let mut found = [vec![f32::NAN; cols], vec![f32::NAN; cols]];
        for (row, expected) in expected.iter().enumerate() {
            matrix.decode_row(row, &mut found[0]);
            packed.decode_row(row, &mut found[1]);
            assert_eq!(&found[0], expected, "{} row {row}", tensor.name);
            assert_eq!(&found[1], expected, "{} row {row}, packed", tensor.name);
        }
        assert_eq!(tensor.has_column_order(), packed.column_order().is_some(), "{}", tensor.name);
    }
    seen
}

#[test]
fn every_value_is_scale_times_code_less_zero_in_any_group_size_and_order() {
    let seen = assert_decodes(golden(ORDERED), ONES);
    assert_eq!(seen[&Format::Int4(Group::Of32)], 3 + 9);
    let seen = assert_decodes(golden(AUTO_ROUND), ONES);
    assert!([Group::Of32, Group::Of64, Group::Of128].iter().all(|g| seen[&Format::Int4(*g)] > 0), "{seen:?}");
    // A whole row as one group: rows of 96 repeat the scales of their groups of 32.
    let whole = |t: &mut Tensors| {
        let names: Vec<String> = t.0.iter().filter_map(|t| t.0.strip_suffix(".scales").map(str::to_string)).collect();
        for layer in names {
            for part in ["scales", "qzeros"] {
                let (_, _, shape, bytes) = t.find(&format!("{layer}.{part}"));
                bytes.truncate(bytes.len() / shape[0] as usize);
                shape[0] = 1;
            }
            t.find(&format!("{layer}.g_idx")).3.fill(0);
        }
    };
    let mut files = changed(ORDERED, whole);
    let mut config: Value = serde_json::from_slice(&get(&files, CONFIG)).unwrap();
    config["quantization_config"]["group_size"] = json!(-1);
    put(&mut files, CONFIG, config.to_string().into_bytes());
    assert_eq!(assert_decodes(files, ONES).values().sum::<usize>(), 3 + 9);
}

#[test]
fn files_of_the_second_version_store_zeros_as_they_are() {
    assert_decodes(with_config(ORDERED, |q| q["checkpoint_format"] = json!("gptq_v2")), 0);
    assert_decodes(with_config(AUTO_ROUND, |q| q["packing_format"] = json!("auto_round:gptqmodel")), 0);
}

/// A zero of 0 becomes 15 and borrows from the next one, which adding whole words undoes.
#[test]
fn zeros_of_0_survive_the_first_version() {
    let zeros = |words: u32| {
        move |t: &mut Tensors| {
            for word in t.find(&side("qzeros")).3.chunks_mut(4) {
                word.copy_from_slice(&words.to_le_bytes());
            }
        }
    };
    let first = changed(ORDERED, zeros(0x0f03_0090u32.wrapping_sub(ONES)));
    assert_decodes(first.clone(), ONES);
    let checkpoint = Checkpoint::open(&source(first)).unwrap();
    let key = checkpoint.require(Role::Layer(0, LayerTensor::Key)).unwrap();
    assert_eq!(checkpoint.group_scales(key).unwrap().zeros[..8], [0, 9, 0, 0, 3, 0, 15, 0]);
}

#[test]
fn the_config_may_stand_in_a_file_of_its_own() {
    for name in ["quantize_config.json", "quantization_config.json"] {
        let mut files = golden(ORDERED);
        let mut config: Value = serde_json::from_slice(&get(&files, CONFIG)).unwrap();
        let own = config.as_object_mut().unwrap().remove("quantization_config").unwrap();
        put(&mut files, CONFIG, config.to_string().into_bytes());
        let error = read_all(files.clone()).err().unwrap().to_string();
        assert!(error.contains("not supported") && error.contains("which no quantization_config declares"), "{error}");
        put(&mut files, name, own.to_string().into_bytes());
        assert_decodes(files.clone(), ONES);
        put(&mut files, name, b"[]".to_vec());
        refused(files, &[name, "no JSON object"]);
    }
}

#[test]
fn scales_in_wider_floats_are_taken_where_half_precision_holds_them() {
    let name = side("scales");
    let wide = |factor: f32| {
        let name = name.clone();
        move |t: &mut Tensors| {
            let (_, dtype, _, bytes) = t.find(&name);
            *dtype = "F32".into();
            let halves: Vec<f16> = bytes.chunks(2).map(|b| f16::from_le_bytes(b.try_into().unwrap())).collect();
            *bytes = halves.iter().flat_map(|h| (h.to_f32() * factor).to_le_bytes()).collect();
        }
    };
    read_all(changed(ORDERED, wide(1.0))).unwrap();
    refuse(wide(1.000_000_1), &["not supported", &name, "values of F16"]);
    refuse(wide(f32::INFINITY), &[&name, "not finite"]);
}

#[test]
fn side_tensors_must_be_there_and_fit() {
    read_all(golden(ORDERED)).unwrap();
    for part in ["qzeros", "scales"] {
        refuse(|t| t.0.retain(|e| e.0 != side(part)), &[&side("qweight"), "has no", &side(part)]);
    }
    refuse(|t| t.0.retain(|e| e.0 != side("qweight")), &["4-bit scales of", LAYER, "the tensor is not"]);
    let shorter = |part: &'static str, axis: usize| {
        move |t: &mut Tensors| {
            let (_, dtype, shape, bytes) = t.find(&side(part));
            shape[axis] -= 1;
            bytes.truncate(shape.iter().product::<u64>() as usize * if dtype == "F16" { 2 } else { 4 });
        }
    };
    refuse(shorter("qzeros", 0), &[&side("qzeros"), "of shape [2, 4]", "[3, 4]"]);
    refuse(shorter("qzeros", 1), &[&side("qzeros"), "of shape [3, 3]", "[3, 4]"]);
    refuse(shorter("scales", 0), &["not supported", &side("qweight"), "groups of 48 columns"]);
    // Groups of another size are for layers with settings of their own.
    let mut files = changed(ORDERED, shorter("scales", 0));
    let config = with_config(ORDERED, |q| q["dynamic"] = Value::Null);
    put(&mut files, CONFIG, get(&config, CONFIG));
    refused(files, &[&side("qweight"), "2 groups of scales for 96 inputs", "group_size is 32"]);
    refuse(shorter("scales", 1), &[&side("scales"), "[3, 31]", "[3, 32]"]);
    refuse(shorter("g_idx", 0), &[&side("g_idx"), "[95]", "[96]"]);
    refuse(shorter("qweight", 1), &["not supported", &side("qweight"), "31 outputs"]);
    refuse(shorter("qweight", 0), &["not supported", &side("qweight"), "88 inputs in groups of 32", "equal size"]);
    let retyped = |part: &'static str, dtype: &'static str| move |t: &mut Tensors| t.find(&side(part)).1 = dtype.into();
    refuse(retyped("qweight", "F32"), &[&side("qweight"), "is F32", "I32 [inputs / 8, outputs]"]);
    refuse(retyped("qzeros", "F32"), &[&side("qzeros"), "is F32"]);
    refuse(retyped("scales", "I16"), &["not supported", &side("scales"), "I16"]);
    refuse(retyped("g_idx", "F32"), &[&side("g_idx"), "is F32"]);
    let flat = |t: &mut Tensors| t.find(&side("qweight")).2 = vec![12 * 32];
    refuse(flat, &[&side("qweight"), "of shape [384]"]);
    let empty = |t: &mut Tensors| {
        for part in ["qweight", "qzeros", "scales"] {
            let (_, _, shape, bytes) = t.find(&side(part));
            (shape[0], *bytes) = (0, vec![]);
        }
    };
    refuse(empty, &[&side("qweight"), "of shape [0, 32]"]);
    let both = |t: &mut Tensors| t.0.push((format!("{LAYER}.weight"), "F16".into(), vec![32, 96], vec![0; 6144]));
    refuse(both, &[LAYER, "both claim"]);
}

#[test]
fn every_column_must_be_in_a_group_that_exists_and_groups_must_be_of_one_size() {
    let set = |value: i32| move |t: &mut Tensors| t.find(&side("g_idx")).3[..4].copy_from_slice(&value.to_le_bytes());
    refuse(set(3), &[&side("g_idx"), "column 0 is in group 3", "3 groups"]);
    refuse(set(-1), &[&side("g_idx"), "group -1"]);
    refuse(set(i32::MAX), &[&side("g_idx"), "group 2147483647"]);
    let uneven = |t: &mut Tensors| t.find(&side("g_idx")).3.fill(0);
    refuse(uneven, &["not supported", &side("g_idx"), "group 0 has 96 columns", "32 columns each"]);
    let undeclared = with_config(ORDERED, |q| q["desc_act"] = json!(false));
    refused(undeclared, &["not supported", "g_idx", "desc_act"]);
}

#[test]
fn a_file_that_ends_early_is_refused() {
    let mut files = golden(ORDERED);
    let mut file = get(&files, FILE);
    file.truncate(file.len() - 10);
    put(&mut files, FILE, file);
    refused(files, &["truncated"]);
}

#[test]
fn other_settings_are_refused_by_name() {
    let refuse = |case: &str, field: &str, value: Value, words: &[&str]| {
        refused(with_config(case, |q| q[field] = value.clone()), words);
    };
    let not = "not supported";
    refuse(ORDERED, "bits", json!(8), &[not, "quantization_config.bits is 8", "4 bits"]);
    refuse(ORDERED, "bits", Value::Null, &[not, "bits is null"]);
    refuse(ORDERED, "checkpoint_format", json!("marlin"), &[not, "checkpoint_format is \"marlin\""]);
    refuse(ORDERED, "pack_dtype", json!("int8"), &[not, "pack_dtype is \"int8\""]);
    refuse(ORDERED, "group_size", json!(0), &["group_size is 0", "-1 or a number of columns"]);
    refuse(ORDERED, "group_size", json!(48), &[not, "64 inputs in groups of 48", "equal size"]);
    refuse(ORDERED, "group_size", json!("32"), &["group_size is \"32\""]);
    refuse(ORDERED, "desc_act", json!(1), &["desc_act is 1", "true or false"]);
    refuse(ORDERED, "dynamic", json!([]), &["dynamic is []", "an object"]);
    refuse(ORDERED, "dynamic", json!({"+:.*down.*": {"bits": 8}}), &[not, "dynamic.+:.*down.*.bits is 8"]);
    refuse(AUTO_ROUND, "packing_format", json!("auto_round:auto_awq"), &[not, "packing_format is"]);
    refuse(AUTO_ROUND, "data_type", json!("mx_fp"), &[not, "data_type is \"mx_fp\""]);
    refuse(AUTO_ROUND, "act_bits", json!(8), &[not, "act_bits is 8"]);
    refuse(AUTO_ROUND, "extra_config", json!({"lm_head": {"bits": 2}}), &[not, "extra_config.lm_head.bits is 2"]);
}

#[test]
fn quantised_tensors_of_parts_that_are_not_used_are_not_used() {
    let files = changed(ORDERED, |t| {
        for part in ["qweight", "qzeros", "scales", "g_idx"] {
            let (_, dtype, shape, bytes) = t.find(&side(part));
            let copy = (format!("mtp.layers.0.self_attn.k_proj.{part}"), dtype.clone(), shape.clone(), bytes.clone());
            t.0.push(copy);
        }
    });
    let checkpoint = Checkpoint::open(&source(files)).unwrap();
    let unused: Vec<_> = checkpoint.unused().iter().map(|u| (u.name.as_str(), u.reason)).collect();
    assert_eq!(unused, [("mtp.layers.0.self_attn.k_proj.qweight", Unused::Mtp)]);
    let key = checkpoint.require(Role::Layer(0, LayerTensor::Key)).unwrap();
    assert_eq!((key.format.name(), &*key.shape), ("INT4_G32", &[32, 96][..]));
}
