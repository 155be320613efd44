//! GGUF files that are broken in one place.

use std::path::Path;

use qwen3moe::checkpoint::{Checkpoint, Source};
use qwen3moe::engine::SamplingDefaults;
use qwen3moe::model::{RopeScaling, read_config};

use crate::build::{Gguf, array, get, golden, put, read_all, refused, source, string, u32_value, value};

#[track_caller]
fn refuse(change: impl Fn(&mut Gguf), words: &[&str]) {
    let mut file = Gguf::new();
    change(&mut file);
    refused(file.write(), words);
}

#[test]
fn the_unbroken_file_is_only_incomplete() {
    refuse(|_| {}, &["qwen3moe.embedding_length is missing"]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for case in ["qwen3moe_gguf_mixed", "qwen3next_gguf_kquants"] {
        let mut files = golden(case);
        let whole = get(&files, "model.gguf");
        read_all(files.clone()).unwrap();
        // Everything up to the data at every 8th byte, then the data in larger steps.
        let header = 24_000.min(whole.len());
        let cuts = (0..header).step_by(8).chain((header..whole.len()).step_by(4096)).chain([whole.len() - 1]);
        for cut in cuts {
            put(&mut files, "model.gguf", whole[..cut].to_vec());
            assert!(read_all(files.clone()).is_err(), "{case} cut at {cut}");
        }
    }
}

#[test]
fn a_changed_byte_never_harms() {
    let mut files = golden("qwen35moe_gguf_q8");
    let whole = get(&files, "model.gguf");
    for at in 0..6000 {
        for byte in [0x00, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
            let mut changed = whole.clone();
            changed[at] = byte;
            put(&mut files, "model.gguf", changed);
            // Names, numbers and texts may come out different and valid; the point is that nothing panics.
            let _ = read_all(files.clone());
        }
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    refuse(|f| f.tensor_count = Some(1 << 60), &["tensor count is 1152921504606846976"]);
    refuse(|f| f.tensor_count = Some(1 << 16), &["axes"]);
    refuse(|f| f.pair_count = Some(u64::MAX), &["metadata count is 18446744073709551615"]);
    refuse(
        |f| {
            f.pair("x", value(8, &(1u64 << 63).to_le_bytes()));
        },
        &["x at byte", "truncated"],
    );
    refuse(
        |f| {
            f.pair("x", array(8, 1 << 61, b""));
        },
        &["x is 2305843009213693952", "bytes are left"],
    );
    refuse(
        |f| {
            f.pair("x", array(0, 1 << 40, b""));
        },
        &["x is 1099511627776", "bytes are left"],
    );
}

#[test]
fn arrays_that_nothing_reads_are_passed_over_and_the_others_are_bounded() {
    use qwen3moe::checkpoint::{Checkpoint, Config, Value};
    let mut file = Gguf::new();
    file.pair("long.bytes", array(0, 100_000, &[7; 100_000]));
    file.pair("short.bytes", array(0, 3, &[7, 8, 9]));
    file.pair("short.wide", array(3, 2, &[0xff, 0xff, 1, 0]));
    file.pair("short.floats", array(6, 1, &1.5f32.to_le_bytes()));
    file.pair("short.flags", array(7, 2, &[0, 1]));
    file.pair("some.strings", array(8, 1, &[&5u64.to_le_bytes()[..], b"hello"].concat()));
    file.pair("tokenizer.ggml.token_type", array(5, 3000, &[1, 0, 0, 0].repeat(3000)));
    file.pair("tokenizer.ggml.tokens", array(8, 1, &[&2u64.to_le_bytes()[..], b"hi"].concat()));
    let checkpoint = Checkpoint::open(&source(file.write())).unwrap();
    let Config::Gguf(metadata) = checkpoint.config() else { panic!("a GGUF file") };
    for (key, expected) in [
        ("long.bytes", Value::Skipped(100_000)),
        ("short.bytes", Value::Integers(vec![7, 8, 9])),
        ("short.wide", Value::Integers(vec![-1, 1])),
        ("short.floats", Value::Floats(vec![1.5])),
        ("short.flags", Value::Bools(vec![false, true])),
        ("some.strings", Value::Skipped(1)),
        ("tokenizer.ggml.token_type", Value::Integers(vec![1; 3000])),
        ("tokenizer.ggml.tokens", Value::Strings(vec!["hi".into()])),
    ] {
        assert_eq!(metadata.get(key), Some(&expected), "{key}");
    }

    let many = (1u64 << 20) + 1;
    let types = |f: &mut Gguf| {
        f.pair("tokenizer.ggml.token_type", array(0, many, &vec![1; many as usize]));
    };
    refuse(types, &["tokenizer.ggml.token_type has 1048577 items, where at most 1048576"]);
    let text = |f: &mut Gguf| {
        f.pair("general.name", string(&"x".repeat((1 << 22) + 1)));
    };
    refuse(text, &["general.name at byte", "has 4194305 bytes, where at most 4194304"]);
    refuse(|f| f.tensors[0].0 = "x".repeat(2000), &["a tensor's name", "has 2000 bytes"]);
    refuse(|f| f.pair_count = Some(5000), &["metadata count is 5000"]);
    refuse(|f| f.tensor_count = Some(1 << 17), &["tensor count is 131072"]);
}

#[test]
fn values_that_gguf_does_not_have_are_refused() {
    refuse(
        |f| {
            f.pair("x", value(13, b""));
        },
        &["metadata x has the type 13"],
    );
    refuse(
        |f| {
            f.pair("x", array(13, 0, b""));
        },
        &["metadata x has items of type 13"],
    );
    refuse(
        |f| {
            f.pair("x", array(9, 1, b""));
        },
        &["not supported", "array of arrays"],
    );
    refuse(
        |f| {
            f.pair("x", value(7, &[2]));
        },
        &["metadata x is the boolean 2"],
    );
    refuse(
        |f| {
            f.pair("general.architecture", string("a"));
        },
        &["general.architecture is there twice"],
    );
    refuse(|f| f.pairs.push((vec![0xff, 0xfe], u32_value(1))), &["no UTF-8"]);
    for alignment in [0, 3, 4, 1 << 21] {
        let change = |f: &mut Gguf| {
            f.pair("general.alignment", u32_value(alignment));
        };
        refuse(change, &["general.alignment is", "power of two"]);
    }
}

#[test]
fn other_versions_and_byte_orders_are_refused_by_name() {
    refuse(|f| f.version = 1, &["not supported", "version 1"]);
    refuse(|f| f.version = 4, &["not supported", "version 4"]);
    refuse(|f| f.version = 3u32.swap_bytes(), &["not supported", "big-endian"]);
    refused(vec![("model.gguf".into(), b"GGML....".to_vec())], &["does not begin with GGUF"]);
    refused(vec![("model.gguf".into(), vec![])], &["truncated"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let tensor = |f: &mut Gguf, sizes: &[u64], kind: u32, offset: u64| {
        f.tensors.push(("output.weight".into(), sizes.to_vec(), kind, offset));
        f.data = 4096;
    };
    refuse(|f| tensor(f, &[1 << 32, 1 << 32], 0, 64), &["output.weight", "must be positive"]);
    refuse(|f| tensor(f, &[4, 0], 0, 64), &["output.weight", "must be positive"]);
    refuse(|f| tensor(f, &[], 0, 64), &["output.weight has 0 axes"]);
    refuse(|f| tensor(f, &[1, 1, 1, 1, 1], 0, 64), &["output.weight has 5 axes"]);
    refuse(|f| tensor(f, &[48, 2], 8, 64), &["output.weight of type Q8_0", "[48, 2]", "a multiple of 32"]);
    refuse(|f| tensor(f, &[4, 4], 0, 60), &["output.weight lies at offset 60", "multiple of 32"]);
    refuse(|f| tensor(f, &[4, 4], 0, 32), &["output.weight overlaps"]);
    refuse(|f| tensor(f, &[4, 4], 0, 1 << 20), &["output.weight", "reaches past the end", "truncated"]);
    refuse(|f| tensor(f, &[4, 4], 0, u64::MAX - 31), &["output.weight", "reaches past the end"]);
    refuse(|f| tensor(f, &[256, 1], 11, 64), &["not supported", "output.weight of type Q3_K", "Q4_K, Q5_K, Q6_K"]);
    refuse(|f| tensor(f, &[256, 1], 99, 64), &["not supported", "output.weight of ggml type 99"]);
    refuse(|f| f.tensors.push(f.tensors[0].clone()), &["token_embd.weight is listed twice"]);
    let unknown = |f: &mut Gguf| f.tensors[0].0 = "blk.0.attn_sinks.weight".into();
    refuse(unknown, &["not supported", "tensor blk.0.attn_sinks.weight"]);
}

#[test]
fn blocks_of_the_mtp_head_need_their_key() {
    let nextn = |f: &mut Gguf| f.tensors[0].0 = "blk.0.nextn.eh_proj.weight".into();
    refuse(nextn, &["tensor blk.0.nextn.eh_proj.weight", "nextn_predict_layers"]);
    refuse(
        |f| {
            f.pair("qwen3moe.nextn_predict_layers", u32_value(1));
        },
        &["qwen3moe.nextn_predict_layers is 1", "less than 1"],
    );
    refuse(|f| f.pairs.truncate(1), &["qwen3moe.block_count is missing"]);
    refuse(|f| f.pairs.clear(), &["general.architecture is missing"]);
}

#[test]
fn parts_of_a_split_file_must_belong_together() {
    let parts = golden("qwen3next_gguf_split_ssm_in");
    let name = |i: usize| format!("model-0000{i}-of-00003.gguf");
    read_all(parts.clone()).unwrap();

    let mut missing = parts.clone();
    missing.retain(|f| f.0 != name(3));
    refused(missing, &["split into 3 files", &name(3), "not there"]);

    let mut twice = parts.clone();
    put(&mut twice, &name(3), get(&parts, &name(2)));
    refused(twice, &[&name(3), "split.no is 1; expected 2"]);

    let second_first = vec![parts[1].clone(), parts[0].clone(), parts[2].clone()];
    refused(second_first, &["not the first part", &name(1)]);

    refused(vec![("renamed.gguf".into(), get(&parts, &name(1)))], &["its name must end with -00001-of-00003.gguf"]);
}

#[test]
fn metadata_must_be_sane_and_supported() {
    let refuse = |key: &str, new: Vec<u8>, words: &[&str]| {
        let mut files = golden("qwen35moe_gguf_q8");
        let file = get(&files, "model.gguf");
        put(&mut files, "model.gguf", with_value(&file, key, new));
        refused(files, words);
    };
    let arch = |key: &str| format!("qwen35moe.{key}");
    let f32_value = |v: f32| value(6, &v.to_le_bytes());
    refuse(&arch("embedding_length"), u32_value(0), &["embedding_length is 0; expected an integer from 1"]);
    refuse(&arch("embedding_length"), u32_value(u32::MAX), &["embedding_length is 4294967295"]);
    refuse(&arch("embedding_length"), string("big"), &["embedding_length is \"big\""]);
    refuse(&arch("attention.head_count_kv"), u32_value(3), &["attention.head_count_kv is 3", "attention.head_count"]);
    refuse(&arch("expert_used_count"), u32_value(1000), &["expert_used_count is 1000"]);
    refuse(&arch("attention.layer_norm_rms_epsilon"), f32_value(f32::NAN), &["layer_norm_rms_epsilon is NaN"]);
    refuse(&arch("rope.freq_base"), f32_value(-1.0), &["rope.freq_base is -1"]);
    refuse(&arch("rope.dimension_count"), u32_value(7), &["rope.dimension_sections"]);
    refuse(&arch("nextn_predict_layers"), u32_value(200), &["nextn_predict_layers is 200"]);
    refuse(&arch("ssm.inner_size"), u32_value(7), &["ssm.inner_size is 7", "multiple of ssm.time_step_rank"]);
    refuse("general.architecture", string("llama"), &["block_count is missing"]);
    refuse(&arch("ssm.conv_kernel"), u32_value(5), &["ssm_conv1d.weight", "ssm.conv_kernel"]);
}

/// The golden of qwen35moe with one more metadata pair.
fn with_pair(key: &str, value: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut files = golden("qwen35moe_gguf_q8");
    let file = get(&files, "model.gguf");
    put(&mut files, "model.gguf", with_another(&file, &format!("qwen35moe.{key}"), value));
    files
}

#[test]
fn keys_of_computations_that_are_not_done_are_refused_by_name() {
    let f32_value = |v: f32| value(6, &v.to_le_bytes());
    for (key, value) in [
        ("attention.sliding_window", u32_value(128)),
        ("attention.causal", value(7, &[0])),
        ("attention.scale", f32_value(1.0)),
        ("expert_weights_norm", value(7, &[0])),
        ("expert_weights_scale", f32_value(2.5)),
        ("expert_gating_func", u32_value(2)),
        ("expert_shared_count", u32_value(2)),
        ("final_logit_softcapping", f32_value(30.0)),
        ("leading_dense_block_count", u32_value(1)),
        ("attention.value_length", u32_value(7)),
        ("rope.scaling.type", string("longrope")),
    ] {
        // value_length is there already: the file then says it twice.
        let mut files = with_pair(key, value.clone());
        if key == "attention.value_length" {
            files = golden("qwen35moe_gguf_q8");
            let file = get(&files, "model.gguf");
            put(&mut files, "model.gguf", with_value(&file, &format!("qwen35moe.{key}"), value));
        }
        refused(files, &["not supported", &format!("metadata qwen35moe.{key} is")]);
    }
    for (key, value) in [("attention.causal", value(7, &[1])), ("expert_gating_func", u32_value(1))] {
        assert!(read_all(with_pair(key, value)).unwrap().unrecognised.is_empty(), "{key}");
    }
    assert_eq!(read_all(with_pair("frobnicate", u32_value(1))).unwrap().unrecognised, ["qwen35moe.frobnicate"]);
}

#[test]
fn rope_scaling_is_honoured() {
    let scaling = |files| read_all(files).unwrap().spec.attention.rope.scaling;
    let linear = with_pair("rope.scaling.factor", value(6, &4f32.to_le_bytes()));
    assert_eq!(scaling(linear), RopeScaling::Linear { factor: 4.0 }, "llama.cpp's type where none is given");
    let RopeScaling::Yarn { factor, attention_factor, truncate: true, .. } =
        scaling(with_pair("rope.scaling.type", string("yarn")))
    else {
        panic!("not yarn")
    };
    assert_eq!((factor, attention_factor), (1.0, 1.0));
    let absurd = with_pair("rope.scaling.factor", value(6, &f32::INFINITY.to_le_bytes()));
    refused(absurd, &["rope.scaling.factor is inf"]);
}

#[test]
fn layer_lists_must_have_one_item_a_block_and_agree_with_the_rest() {
    const FILE: &str = "model.gguf";
    let case = "qwen3next_gguf_kquants";
    let whole = get(&golden(case), FILE);
    let arch = |key: &str| format!("qwen3next.{key}");
    let number = |key: &str| {
        let (at, _) = find_value(&whole, &arch(key));
        u64::from(u32::from_le_bytes(whole[at + 4..at + 8].try_into().unwrap()))
    };
    let (blocks, interval) = (number("block_count"), number("full_attention_interval"));
    let (heads, kv_heads) = (number("attention.head_count"), number("attention.head_count_kv"));
    let attention = |block: u64| (block + 1).is_multiple_of(interval);
    let list = |items: Vec<u64>| {
        let bytes: Vec<u8> = items.iter().flat_map(|&n| (n as u32).to_le_bytes()).collect();
        array(4, items.len() as u64, &bytes)
    };
    let changed = |key: &str, new: Vec<u8>| {
        let mut files = golden(case);
        put(&mut files, FILE, with_value(&whole, &arch(key), new));
        files
    };
    for (key, size) in [("attention.head_count", heads), ("attention.head_count_kv", kv_heads)] {
        let sizes = |f: &dyn Fn(u64) -> u64| changed(key, list((0..blocks).map(f).collect()));
        read_all(sizes(&|_| size)).unwrap();
        read_all(sizes(&|block| if attention(block) { size } else { 0 })).unwrap();
        refused(sizes(&|_| 0), &[key, "expected an integer from 1", "for block"]);
        let first = interval - 1;
        refused(sizes(&|block| if block == first { 0 } else { size }), &[key, &format!("for block {first}, not 0")]);
        refused(sizes(&|block| if block == 0 { size + 1 } else { size }), &[key, "the same number in every layer"]);
        for count in [0, 1, blocks - 1, blocks + 1] {
            refused(changed(key, list(vec![size; count as usize])), &[key, "one for each of the"]);
        }
    }

    // A list of recurrent layers in place of the interval is taken; beside it, it must say the same.
    let recurrent = |other: bool| {
        let flags: Vec<u8> = (0..blocks).map(|block| u8::from(attention(block) == (other && block == 0))).collect();
        array(7, blocks, &flags)
    };
    let beside = |other: bool| {
        let mut files = golden(case);
        put(&mut files, FILE, with_another(&whole, &arch("attention.recurrent_layers"), recurrent(other)));
        files
    };
    read_all(beside(false)).unwrap();
    refused(beside(true), &["full_attention_interval is", "recurrent_layers", "contradict"]);
    let too_many = array(7, 99, &[0; 99]);
    refused(with_pair("attention.recurrent_layers", too_many), &["recurrent_layers is an array of 99 booleans"]);
}

/// `file` with one more pair, its data moved to where the header now ends.
fn with_another(file: &[u8], key: &str, new: Vec<u8>) -> Vec<u8> {
    let pair = [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &new].concat();
    let pairs = u64::from_le_bytes(file[16..24].try_into().unwrap());
    let out = [&file[..16], &(pairs + 1).to_le_bytes(), &pair, &file[24..]].concat();
    realign(file, out, pair.len() as i64)
}

fn strings(texts: &[&str]) -> Vec<u8> {
    let bytes: Vec<u8> = texts.iter().flat_map(|text| string(text)[4..].to_vec()).collect();
    array(8, texts.len() as u64, &bytes)
}

#[test]
fn tokens_that_end_a_text_or_a_turn_are_known_by_name_too() {
    let tokens = ["a", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>", "<EOT>"];
    let types: Vec<u8> = [1, 3, 3, 3, 4, 3i32].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    let mut file = Gguf::new();
    file.pair("tokenizer.ggml.model", string("gpt2"));
    file.pair("tokenizer.ggml.pre", string("qwen2"));
    file.pair("tokenizer.ggml.tokens", strings(&tokens));
    file.pair("tokenizer.ggml.token_type", array(5, 6, &types));
    file.pair("tokenizer.ggml.eos_token_id", u32_value(3));
    file.pair("tokenizer.ggml.add_eos_token", value(7, &[1]));
    let files = open(file.write()).text_files().unwrap();
    // A token of the user's is none, whatever its name.
    assert_eq!(files.eos_ids, [3, 1, 5]);
    let gguf = files.gguf.unwrap();
    assert_eq!((gguf.eos_id, gguf.add_eos, gguf.add_bos), (Some(3), true, false));
}

#[test]
fn sampling_defaults_of_a_file_are_read() {
    let f32_value = |v: f32| value(6, &v.to_le_bytes());
    let mut file = Gguf::new();
    file.pair("general.sampling.temp", f32_value(0.5));
    file.pair("general.sampling.top_k", value(5, &20i32.to_le_bytes()));
    file.pair("general.sampling.top_p", f32_value(0.75));
    file.pair("general.sampling.min_p", f32_value(0.125));
    file.pair("general.sampling.penalty_repeat", f32_value(1.5));
    let sampling = open(file.write()).text_files().unwrap().gguf_sampling;
    let defaults = SamplingDefaults::from_gguf(Path::new("model.gguf"), &sampling).unwrap();
    let expected = SamplingDefaults {
        temperature: Some(0.5),
        top_k: Some(20),
        top_p: Some(0.75),
        min_p: Some(0.125),
        repetition_penalty: Some(1.5),
    };
    assert_eq!(defaults, expected);

    file.pairs.pop();
    file.pair("general.sampling.penalty_repeat", f32_value(-1.0));
    let sampling = open(file.write()).text_files().unwrap().gguf_sampling;
    let error = SamplingDefaults::from_gguf(Path::new("model.gguf"), &sampling).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("repetition_penalty is -1"), "{error}");
    let mut file = Gguf::new();
    file.pair("general.sampling.top_k", string("all"));
    assert!(open(file.write()).text_files().unwrap_err().to_string().contains("general.sampling.top_k is \"all\""));
}

#[test]
fn keys_of_the_text_side_that_nobody_reads_are_reported() {
    let mut files = golden("qwen3moe_gguf_mixed");
    let file = get(&files, "model.gguf");
    let known = b"tokenizer.ggml.padding_token_id";
    let at = file.windows(known.len()).position(|w| w == known).unwrap();
    let mut changed = file;
    changed[at + 15..at + known.len()].copy_from_slice(b"added_scores_xyz");
    put(&mut files, "model.gguf", changed);
    assert_eq!(read_config(&open(files)).unwrap().unrecognised, ["tokenizer.ggml.added_scores_xyz"]);
}

fn open(files: Vec<(String, Vec<u8>)>) -> Checkpoint {
    Checkpoint::open(&Source::Memory(files.into())).unwrap()
}

/// `file` with the value of `key` replaced, its data moved to where the header now ends.
fn with_value(file: &[u8], key: &str, new: Vec<u8>) -> Vec<u8> {
    let (start, old) = find_value(file, key);
    let end = start + old;
    // The replacement keeps the header's length, so that the data stays in place: a filler key takes up the difference.
    assert!(new.len() >= 8 && old >= 8);
    let mut out = file[..start].to_vec();
    out.extend(&new);
    out.extend(&file[end..]);
    match new.len().cmp(&old) {
        std::cmp::Ordering::Equal => out,
        _ => realign(file, out, new.len() as i64 - old as i64),
    }
}

/// Offset and length of the value of `key`, type included; numbers and strings only.
fn find_value(file: &[u8], key: &str) -> (usize, usize) {
    let needle = [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
    let start = file.windows(needle.len()).position(|w| w == needle).unwrap() + needle.len();
    let len = match u32::from_le_bytes(file[start..start + 4].try_into().unwrap()) {
        8 => 12 + u64::from_le_bytes(file[start + 4..start + 12].try_into().unwrap()) as usize,
        _ => 8,
    };
    (start, len)
}

/// Moves the data of a file whose header grew by `by` bytes to the next multiple of 32.
fn realign(before: &[u8], mut after: Vec<u8>, by: i64) -> Vec<u8> {
    // The last tensor's offset field ends the header; the data began at the next multiple of 32 behind it.
    let name = last_tensor_end(before);
    let old_data = name.next_multiple_of(32);
    let header = (name as i64 + by) as usize;
    let data = before[old_data..].to_vec();
    after.truncate(header);
    after.resize(header.next_multiple_of(32), 0);
    after.extend(data);
    after
}

/// Where the header of a golden file ends: behind its last tensor.
fn last_tensor_end(file: &[u8]) -> usize {
    let count = u64::from_le_bytes(file[8..16].try_into().unwrap()) as usize;
    let first = b"token_embd.weight";
    let mut at = file.windows(first.len()).position(|w| w == first).unwrap() - 8;
    for _ in 0..count {
        let name = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let axes = u32::from_le_bytes(file[at + 8 + name..at + 12 + name].try_into().unwrap()) as usize;
        at += 12 + name + 8 * axes + 4 + 8;
    }
    at
}
