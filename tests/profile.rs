//! The traffic that the library counts is the traffic that the sizes of the bundled model give by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::Path;

use qwen3moe::{GenerateOptions, LoadOptions, LoadProgress, Model, Operation, PhaseProfile, Prompt, Source};

/// BF16.
const WEIGHT: u64 = 2;
const HIDDEN: u64 = 256;
const VOCAB: u64 = 2048;
const EXPERTS: u64 = 28;
const TOP_K: u64 = 4;
const WIDTH: u64 = 32;
const SHARED_WIDTH: u64 = 64;
const ATTENTION_LAYERS: u64 = 1;
const DELTA_LAYERS: u64 = 3;
const LAYERS: u64 = ATTENTION_LAYERS + DELTA_LAYERS;
const HEAD_DIM: u64 = 64;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
/// Key and value heads of 64 channels.
const DELTA_KEYS: u64 = 2 * 64;
const DELTA_VALUES: u64 = 4 * 64;
const KERNEL: u64 = 4;

fn matrix(rows: u64, cols: u64) -> u64 {
    WEIGHT * rows * cols
}

/// What a decoded token at `position` moves with KV values of `kv_value` bytes, by operation.
fn expected(operation: Operation, position: u64, kv_value: u64) -> u64 {
    match operation {
        Operation::Embed => matrix(1, HIDDEN),
        Operation::Attention => {
            // Queries carry a gate; keys and values are alike.
            let (queries, keys) = (2 * HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
            let weights = matrix(queries + 2 * keys, HIDDEN) + matrix(HIDDEN, HEADS * HEAD_DIM);
            // Every position up to this one is read, and this one written.
            let kv = (position + 2) * 2 * keys * kv_value;
            ATTENTION_LAYERS * (weights + kv)
        }
        Operation::DeltaNet => {
            let channels = 2 * DELTA_KEYS + DELTA_VALUES;
            let gates = 2 * 4;
            let weights = matrix(channels + DELTA_VALUES + gates, HIDDEN) + matrix(HIDDEN, DELTA_VALUES);
            let conv = 4 * KERNEL * channels;
            let states = 4 * (4 * 64 * 64 + (KERNEL - 1) * channels);
            DELTA_LAYERS * (weights + conv + 2 * states)
        }
        Operation::Router => LAYERS * matrix(EXPERTS + 1, HIDDEN),
        Operation::Experts => LAYERS * 3 * matrix(TOP_K * WIDTH + SHARED_WIDTH, HIDDEN),
        Operation::Head => matrix(VOCAB, HIDDEN),
        Operation::Dense | Operation::Device | Operation::Sampling | Operation::Other => 0,
    }
}

fn decode(exact: bool, prompt: u32, generate: usize) -> PhaseProfile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tavern/model");
    let options = LoadOptions { exact, streams: 1, ..LoadOptions::default() };
    let model = Model::load(&Source::Path(folder), &options, &LoadProgress::default()).unwrap();
    let options = GenerateOptions { max_tokens: generate, ignore_eos: true, ..GenerateOptions::default() };
    let before = model.profile();
    model.generate(&Prompt::Tokens((1..=prompt).collect()), &options).unwrap();
    let profile = model.profile().since(&before);
    assert_eq!((profile.prefill.steps, profile.prefill.tokens), (1, u64::from(prompt)));
    profile.decode
}

#[test]
fn a_decoded_token_moves_the_bytes_that_the_sizes_give() {
    // Exact mode keeps KV in float32, the other in float16.
    for (exact, kv_value) in [(true, 4), (false, 2)] {
        let found = decode(exact, 10, 4);
        assert_eq!((found.steps, found.tokens), (3, 3));
        for operation in Operation::ALL {
            let expected: u64 = (10..13).map(|position| expected(operation, position, kv_value)).sum();
            let bytes = found.costs[operation].bytes;
            // Strips have 16 rows: 28 routers take the room of 32.
            let padded = if operation == Operation::Router { expected * 32 / 28 } else { expected };
            assert!((expected..=padded).contains(&bytes), "{operation:?}: {bytes}, expected {expected} to {padded}");
        }
    }
}
