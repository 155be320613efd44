//! Every golden checkpoint opens, and what its files say arrives in the model's sizes.

use std::path::PathBuf;

use qwen3moe::checkpoint::{Checkpoint, Source};
use qwen3moe::model::{check_shapes, read_config};

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn cases() -> Vec<serde_json::Value> {
    let index = std::fs::read(goldens().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["cases"].as_array().unwrap().clone()
}

#[test]
fn every_golden_opens_with_all_its_fields_known_and_its_shapes_right() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let source = Source::Path(goldens().join(case["path"].as_str().unwrap()));
        let checkpoint = Checkpoint::open(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = read_config(&checkpoint).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(report.unrecognised, Vec::<String>::new(), "{name}");
        assert_eq!(report.spec.family.name(), case["family"].as_str().unwrap(), "{name}");
        assert_eq!(report.spec.vocab as u64, case["vocab"].as_u64().unwrap(), "{name}");
        check_shapes(&checkpoint, &report.spec).unwrap_or_else(|e| panic!("{name}: {e}"));
        for tensor in checkpoint.tensors() {
            let mut last = [0u8];
            checkpoint.read(tensor, tensor.bytes - 1, &mut last).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        checkpoint.text_files().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
