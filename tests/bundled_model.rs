//! The bundled model is as good as its training left it: a format or kernel that damages it fails here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};

use qwen3moe::{FinishReason, GenerateOptions, LoadOptions, LoadProgress, Model, Prompt, Source};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tavern")
}

fn load(exact: bool) -> Model {
    let options = LoadOptions { exact, streams: 1, ..LoadOptions::default() };
    Model::load(&Source::Path(folder().join("model")), &options, &LoadProgress::default()).unwrap()
}

/// `exp` of the mean negative log-likelihood of tokens 1.. of every sequence.
fn perplexity(model: &Model, sequences: &[Vec<u32>]) -> f64 {
    let vocab = model.info().spec.vocab;
    let (mut sum, mut count) = (0.0f64, 0u32);
    for ids in sequences {
        let logits = model.eval(ids).unwrap();
        for (row, &next) in logits.chunks_exact(vocab).zip(&ids[1..]) {
            let most = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
            let total: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
            sum += total.ln() - f64::from(row[next as usize] - most);
            count += 1;
        }
    }
    (sum / f64::from(count)).exp()
}

#[test]
fn held_out_perplexity_is_the_recorded_one() {
    let held_out: Value = serde_json::from_slice(&std::fs::read(folder().join("heldout.json")).unwrap()).unwrap();
    let recorded = held_out["perplexity_bf16_weights_f32_math"].as_f64().unwrap();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(held_out["token_ids"].clone()).unwrap();
    for exact in [true, false] {
        let found = perplexity(&load(exact), &sequences);
        assert!((found / recorded - 1.0).abs() < 0.005, "exact {exact}: {found}, recorded {recorded}");
    }
}

fn answer(model: &Model, question: &str) -> String {
    let messages = json!([{ "role": "user", "content": question }]).to_string();
    let options = GenerateOptions { temperature: Some(0.0), max_tokens: 200, ..GenerateOptions::default() };
    let generation = model.generate(&Prompt::Chat(messages), &options).unwrap();
    assert_eq!(generation.finish, FinishReason::EndOfSequence, "{question}: {}", generation.text);
    generation.text
}

#[test]
fn greetings_are_answered_and_the_answer_ends_by_itself() {
    let model = load(false);
    for question in ["Hello!", "Good evening.", "Who are you?", "Tell me a story."] {
        let text = answer(&model, question);
        assert!(text.split_whitespace().count() >= 3, "{question}: {text}");
    }
}

#[test]
fn small_sums_are_right() {
    let model = load(false);
    for (question, result) in [("What is 2 plus 3?", "5"), ("What is 7 plus 6?", "13"), ("What is 9 minus 4?", "5")] {
        let text = answer(&model, question);
        assert!(text.contains(result), "{question}: {text}");
    }
}
