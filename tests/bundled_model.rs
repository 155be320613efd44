//! The bundled model is as good as its training left it: a format or kernel that damages it fails here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::path::{Path, PathBuf};

use qwen3moe::{FinishReason, GenerateOptions, LoadOptions, LoadProgress, Model, Prompt, Source};
use serde_json::{Value, json};
use support::perplexity::perplexity;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tavern")
}

fn load(exact: bool) -> Model {
    let options = LoadOptions { exact, streams: 1, ..LoadOptions::default() };
    Model::load(&Source::Path(folder().join("model")), &options, &LoadProgress::default()).unwrap()
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
