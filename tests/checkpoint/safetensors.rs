//! safetensors files and indices that are broken in one place.

use crate::build::{Tensors, get, golden, put, read_all, refused, safetensors};

const CASE: &str = "qwen3_moe_bf16";
const FILE: &str = "model.safetensors";

#[track_caller]
fn refuse_bytes(bytes: Vec<u8>, words: &[&str]) {
    let mut files = golden(CASE);
    put(&mut files, FILE, bytes);
    refused(files, words);
}

#[track_caller]
fn refuse(change: impl Fn(&mut Tensors), words: &[&str]) {
    let mut tensors = Tensors::parse(&get(&golden(CASE), FILE));
    change(&mut tensors);
    refuse_bytes(tensors.write(), words);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let mut files = golden(CASE);
    let whole = get(&files, FILE);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
    let cuts = (0..header).step_by(8).chain((header..whole.len()).step_by(1024)).chain([whole.len() - 1]);
    for cut in cuts {
        put(&mut files, FILE, whole[..cut].to_vec());
        assert!(read_all(files.clone()).is_err(), "cut at {cut}");
    }
    refuse_bytes([whole, vec![0]].concat(), &["bytes of data"]);
}

#[test]
fn headers_that_are_none_are_refused() {
    refuse_bytes(vec![], &["0 bytes are too few"]);
    refuse_bytes(u64::MAX.to_le_bytes().to_vec(), &["header of 18446744073709551615 bytes"]);
    refuse_bytes(safetensors("[]", b""), &["header is not as it must be"]);
    refuse_bytes(safetensors("{\"a\":1}", b""), &["header is not as it must be"]);
    refuse_bytes(safetensors(&"[".repeat(100_000), b""), &["header is not as it must be"]);
    refuse_bytes(safetensors(&format!("{{\"a\":{}", "{\"b\":".repeat(100_000)), b""), &["header is not as it must be"]);
    refuse_bytes(safetensors("{}", b""), &["model.embed_tokens.weight is missing"]);
}

#[test]
fn data_that_overlap_or_leave_holes_are_refused_by_name() {
    let entry = |name: &str, shape: &str, start: u64, end: u64| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}")
    };
    let two = |a: String, b: String, data: usize| safetensors(&format!("{{{a},{b}}}"), &vec![0; data]);
    let words = ["tensor b", "overlap or leave holes"];
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[2]", 4, 12), 12), &words);
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[2]", 12, 20), 20), &words);
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[2]", 0, 8), 8), &["tensor b", "overlap"]);
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("a", "[2]", 8, 16), 16), &["tensor a is listed twice"]);
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[3]", 8, 16), 16), &["tensor b of type F32 and shape [3]"]);
    refuse_bytes(
        two(entry("a", "[2]", 0, 8), entry("b", "[2]", 8, 16), 12),
        &["tensor b ends at byte 16", "truncated"],
    );
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[2]", 16, 8), 8), &["tensor b"]);
    let huge = "[4294967296,4294967296]";
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", huge, 8, 8), 8), &["tensor b", "4294967296"]);
    let huge_end = u64::MAX - 7;
    refuse_bytes(two(entry("a", "[2]", 0, 8), entry("b", "[2]", 8, huge_end), 8), &["tensor b", "truncated"]);
}

#[test]
fn what_a_header_may_list_is_bounded() {
    let axes = "1,".repeat(8) + "1";
    let entry = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{axes}],\"data_offsets\":[0,4]}}}}");
    refuse_bytes(safetensors(&entry, &[0; 4]), &["header is not as it must be", "a shape of at most 8 axes"]);
    let entries: Vec<String> =
        (0..=1 << 20).map(|i| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}")).collect();
    refuse_bytes(safetensors(&format!("{{{}}}", entries.join(",")), b""), &["more than 1048576 tensors"]);

    let mut files = golden("qwen3_moe_f16_sharded_yarn");
    let index = |pairs: Vec<String>| format!("{{\"weight_map\":{{{}}}}}", pairs.join(",")).into_bytes();
    let words = ["model.safetensors.index.json", "more than 2048 files or 1048576 tensors"];
    let tensors = (0..=1 << 20).map(|i| format!("\"{i}\":\"a.safetensors\"")).collect();
    put(&mut files, "model.safetensors.index.json", index(tensors));
    refused(files.clone(), &words);
    let names = (0..=2048).map(|i| format!("\"{i}\":\"{i}.safetensors\"")).collect();
    put(&mut files, "model.safetensors.index.json", index(names));
    refused(files, &words);
}

#[test]
fn tensors_must_be_known_once_and_of_a_supported_type() {
    refuse(|t| t.0[0].0 = "model.layers.0.mlp.gate.bias".into(), &["not supported", "model.layers.0.mlp.gate.bias"]);
    refuse(
        |t| {
            let mut other = t.find("model.norm.weight").clone();
            other.0 = "model.language_model.norm.weight".into();
            t.0.push(other);
        },
        &["model.norm.weight", "model.language_model.norm.weight", "both claim to be FinalNorm"],
    );
    refuse(
        |t| t.find("model.norm.weight").1 = "I16".into(),
        &["not supported", "model.norm.weight of type I16", "F32, F16, BF16"],
    );
    refuse(|t| t.find("model.norm.weight").1 = "Q9".into(), &["header is not as it must be", "Q9"]);
    refuse(|t| t.0.retain(|e| e.0 != "lm_head.weight"), &["lm_head.weight is missing"]);
    refuse(
        |t| t.0.retain(|e| e.0 != "model.layers.1.mlp.experts.5.up_proj.weight"),
        &["model.layers.1.mlp.experts.5.up_proj.weight is missing"],
    );
}

#[test]
fn shapes_must_follow_from_the_config() {
    let router = "model.layers.0.mlp.gate.weight";
    refuse(|t| t.find(router).2.reverse(), &[router, "shape [48, 6]", "expected [6, 48]", "num_experts, hidden_size"]);
    let extra = |name: &'static str| {
        move |t: &mut Tensors| {
            let mut other = t.find("model.norm.weight").clone();
            other.0 = name.into();
            t.0.push(other);
        }
    };
    refuse(extra("model.layers.9.input_layernorm.weight"), &["model.layers.9", "no place", "has 2 layers"]);
    refuse(extra("model.layers.0.self_attn.q_proj.bias"), &["q_proj.bias", "no place", "attention_bias"]);
    refuse(extra("model.layers.0.linear_attn.A_log"), &["linear_attn.A_log", "no place"]);
    refuse(extra("model.layers.0.mlp.experts.6.up_proj.weight"), &["experts.6.up_proj", "no place", "num_experts"]);
}

#[test]
fn an_index_must_match_its_shards_and_stay_in_its_directory() {
    let case = "qwen3_moe_f16_sharded_yarn";
    let index = "model.safetensors.index.json";
    let files = golden(case);
    read_all(files.clone()).unwrap();
    let text = String::from_utf8(get(&files, index)).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from));
        let mut files = files.clone();
        put(&mut files, index, text.replace(from, to).into_bytes());
        files
    };
    let second = "model-00002-of-00003.safetensors";
    for outside in ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "C:\\\\x.safetensors", "passwd"] {
        refused(changed(second, outside), &["weight_map names the file"]);
    }
    refused(changed(second, "model-00004-of-00003.safetensors"), &["which is not there", "incomplete"]);
    refused(changed("\"model.norm.weight\"", "\"model.norm2.weight\""), &["model.norm2.weight is not here"]);
    refused(changed("weight_map", "weightmap"), &["is no index", "weight_map"]);
    let mut missing = files.clone();
    missing.retain(|f| f.0 != second);
    refused(missing, &[second, "not there"]);
    let mut none = files.clone();
    none.retain(|f| !f.0.contains("safetensors"));
    refused(none, &["neither model.safetensors nor model.safetensors.index.json"]);
}
