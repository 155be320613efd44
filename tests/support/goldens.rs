//! The small random checkpoints of `tests/goldens`, with the logits of their reference.

use std::path::PathBuf;

use qwen3moe::model::Source;

/// One checkpoint.
pub struct Case {
    pub name: String,
    pub path: PathBuf,
    pub ids: Vec<u32>,
    pub vocab: usize,
    /// `[ids, vocab]`.
    pub logits: Vec<f32>,
}

impl Case {
    pub fn source(&self) -> Source {
        Source::from(self.path.as_path())
    }
}

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// Every case of the index.
pub fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Case> = index["cases"].as_array().unwrap().iter().map(case).collect();
    assert!(!cases.is_empty());
    cases
}

fn case(entry: &serde_json::Value) -> Case {
    let text = |field: &str| entry[field].as_str().unwrap().to_owned();
    let ids: Vec<u32> = entry["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let vocab = entry["vocab"].as_u64().unwrap() as usize;
    let logits = super::npy::read(&folder().join(text("logits")));
    assert_eq!(logits.shape, [ids.len(), vocab], "{}", text("name"));
    Case { name: text("name"), path: folder().join(text("path")), ids, vocab, logits: logits.data }
}

/// `max|a - b| / max|b|`.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().all(|a| a.is_finite()));
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    largest(&mut a.iter().zip(b).map(|(a, b)| (a - b).abs())) / largest(&mut b.iter().map(|b| b.abs()))
}
