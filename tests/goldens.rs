//! Every golden checkpoint against the logits of its reference: transformers in float32, after the file format's own
//! decoder.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use qwen3moe::engine::{MemoryUse, fit};
use qwen3moe::model::{
    Checkpoint, DeltaGates, DeltaInputs, FeedForwardWeights, Linear, LoadProgress, MixerWeights, SwiGlu, Weights,
};
use qwen3moe::quant::Matrix;
use qwen3moe::{Event, GenerateOptions, LoadOptions, Model, Prompt};
use support::goldens::{Case, cases, difference};

/// Against the reference, at every position.
const REFERENCE: f32 = 1e-3;
/// Against the same sequence computed in another way.
const SELF: f32 = 1e-4;

fn options(prefill_chunk: usize) -> LoadOptions {
    LoadOptions { exact: true, threads: 2, prefill_chunk, streams: 4, ..LoadOptions::default() }
}

fn load(case: &Case, options: &LoadOptions) -> Model {
    Model::load(&case.source(), options, &LoadProgress::default()).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// The position that differs most, and by how much.
fn worst(case: &Case, logits: &[f32], expected: &[f32]) -> (usize, f32) {
    assert_eq!(logits.len(), expected.len(), "{}", case.name);
    let rows = logits.chunks(case.vocab).zip(expected.chunks(case.vocab));
    let differences = rows.map(|(a, b)| difference(a, b)).enumerate();
    differences.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap()
}

fn assert_near(case: &Case, what: &str, logits: &[f32], expected: &[f32], limit: f32) {
    let (position, difference) = worst(case, logits, expected);
    assert!(difference < limit, "{}, {what}: position {position} differs by {difference:e}", case.name);
}

#[test]
fn every_format_and_family_has_the_logits_of_its_reference() {
    for case in cases() {
        let logits = load(&case, &options(256)).eval(&case.ids).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_near(&case, "whole", &logits, &case.logits, REFERENCE);
    }
}

#[test]
fn a_prompt_read_in_any_chunks_has_the_same_logits() {
    for case in cases() {
        let whole = load(&case, &options(256)).eval(&case.ids).unwrap();
        for chunk in [1, 7, 64] {
            let chunked = load(&case, &options(chunk)).eval(&case.ids).unwrap();
            assert_near(&case, &format!("chunks of {chunk}"), &chunked, &whole, SELF);
        }
    }
}

#[test]
fn sequences_that_share_their_steps_have_the_logits_they_have_alone() {
    for case in cases() {
        let alone = load(&case, &options(256)).eval(&case.ids).unwrap();
        // Three sequences and the rows of a chunk of 10 that they share: every step mixes rows of all three, from other
        // positions of each.
        let shared = load(&case, &options(10));
        let stream = shared.stream(
            &Prompt::Tokens(case.ids.clone()),
            &GenerateOptions { max_tokens: 20, temperature: Some(0.0), ignore_eos: true, ..GenerateOptions::default() },
        );
        let stream = stream.unwrap();
        std::thread::scope(|scope| {
            let lengths = [case.ids.len(), case.ids.len() / 2 + 1, 3];
            let evals = lengths.map(|len| {
                let (shared, ids) = (&shared, &case.ids[..len]);
                scope.spawn(move || shared.eval(ids).unwrap())
            });
            for (eval, len) in evals.into_iter().zip(lengths) {
                let logits = eval.join().unwrap();
                assert_near(&case, &format!("{len} tokens beside others"), &logits, &alone[..len * case.vocab], SELF);
            }
        });
        drop(stream);
    }
}

#[test]
fn a_seeded_stream_draws_the_same_alone_and_beside_others() {
    let drawn = |model: &Model, ids: &[u32], seed: u64| {
        let options = GenerateOptions {
            max_tokens: 30,
            temperature: Some(1.0),
            ignore_eos: true,
            seed,
            ..GenerateOptions::default()
        };
        model.stream(&Prompt::Tokens(ids.to_vec()), &options).unwrap()
    };
    let tokens = |stream: qwen3moe::Stream| {
        while !matches!(stream.next(None).unwrap(), Event::Done(_)) {}
        stream.tokens()
    };
    for case in cases() {
        let options = LoadOptions { exact: false, ..options(16) };
        let alone = tokens(drawn(&load(&case, &options), &case.ids[..9], 5));
        let model = load(&case, &options);
        let others = [3, 20, 30].map(|len| drawn(&model, &case.ids[..len], len as u64));
        assert_eq!(tokens(drawn(&model, &case.ids[..9], 5)), alone, "{}", case.name);
        drop(others);
    }
}

#[test]
fn tokens_generated_one_by_one_are_those_of_the_logits_of_the_whole() {
    for case in cases() {
        let model = load(&case, &options(256));
        let options =
            GenerateOptions { max_tokens: 12, temperature: Some(0.0), ignore_eos: true, ..Default::default() };
        let half = case.ids[..case.ids.len() / 2].to_vec();
        let stream = model.stream(&Prompt::Tokens(half.clone()), &options).unwrap();
        while !matches!(stream.next(None).unwrap(), Event::Done(_)) {}
        let tokens = stream.tokens();
        assert_eq!(tokens.len(), 12, "{}", case.name);

        let whole = [half.as_slice(), &tokens].concat();
        let logits = model.eval(&whole).unwrap();
        for (i, &token) in tokens.iter().enumerate() {
            let row = &logits[(half.len() + i - 1) * case.vocab..][..case.vocab];
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let scale = row.iter().fold(0.0f32, |m, l| m.max(l.abs()));
            assert!(largest - row[token as usize] <= SELF * scale, "{}: token {i} is not the most likely", case.name);
        }
    }
}

#[test]
fn what_fit_foretells_is_what_a_load_takes() {
    for case in cases() {
        let options = options(64);
        let fit = fit(&case.source(), &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let model = load(&case, &options);
        assert!(fit.fits, "{}: {}", case.name, fit.advice);
        assert_eq!(model.memory(), fit.memory, "{}", case.name);

        let budget = LoadOptions { ram_budget: fit.ram_required - 1, ..options.clone() };
        let progress = LoadProgress::default();
        let error = Model::load(&case.source(), &budget, &progress).err();
        let what = error.map(|e| (e.status(), e.to_string())).unwrap_or_default();
        assert_eq!(what.0, -10, "{}: {what:?}", case.name);
        assert!(what.1.contains(&fit.ram_required.to_string()), "{}", what.1);
        assert_eq!(progress.done_bytes(), 0, "no weight was read");
        let enough = LoadOptions { ram_budget: fit.ram_required, ..options };
        assert!(Model::load(&case.source(), &enough, &progress).is_ok());
    }
}

#[test]
fn memory_by_component_is_what_the_weights_hold() {
    for case in cases() {
        let model = load(&case, &options(64));
        let checkpoint = Checkpoint::open(&case.source()).unwrap();
        let weights = Weights::load(&checkpoint, &model.info().spec, &LoadProgress::default(), 1).unwrap();
        assert_eq!(model.memory().ram.weights(), held(&weights).weights(), "{}", case.name);
        let ram = MemoryUse { kv: 0, states: 0, workspace: 0, ..model.memory().ram };
        assert_eq!(ram, held(&weights), "{}", case.name);
    }
}

/// Bytes of every buffer of `weights`, by component.
fn held(weights: &Weights) -> MemoryUse {
    let matrix = |m: &Matrix| m.bytes() as u64;
    let vector = |v: &[f32]| size_of_val(v) as u64;
    let linear = |l: &Linear| matrix(&l.matrix) + l.bias.as_deref().map_or(0, vector);
    let swiglu = |s: &SwiGlu| matrix(&s.gate) + matrix(&s.up) + matrix(&s.down);
    let mut held = MemoryUse { embeddings: matrix(&weights.embedding), ..MemoryUse::default() };
    // A tied head is a view of the embedding.
    let shared = weights.head.row_bytes(0).map(<[u8]>::as_ptr) == weights.embedding.row_bytes(0).map(<[u8]>::as_ptr);
    if !shared || weights.head.row_bytes(0).is_none() {
        held.embeddings += matrix(&weights.head);
    }
    held.other += vector(&weights.final_norm);
    for layer in &weights.layers {
        held.other += vector(&layer.input_norm) + vector(&layer.feed_forward_norm);
        match &layer.mixer {
            MixerWeights::Attention(a) => {
                held.attention += [&a.query, &a.key, &a.value, &a.output].map(linear).iter().sum::<u64>();
                held.attention += vector(&a.query_norm) + vector(&a.key_norm);
            }
            MixerWeights::DeltaNet(d) => {
                held.delta_net += match &d.inputs {
                    DeltaInputs::Interleaved(m) => matrix(m),
                    DeltaInputs::Split { qkv, z } => matrix(qkv) + matrix(z),
                };
                held.delta_net += match &d.gates {
                    DeltaGates::Interleaved(m) => matrix(m),
                    DeltaGates::Split { b, a } => matrix(b) + matrix(a),
                };
                held.delta_net += [&d.conv, &d.decay, &d.dt_bias, &d.norm].map(|v| vector(v)).iter().sum::<u64>();
                held.delta_net += matrix(&d.output);
            }
        }
        match &layer.feed_forward {
            FeedForwardWeights::Dense(dense) => held.other += swiglu(dense),
            FeedForwardWeights::Moe(moe) => {
                held.experts += moe.experts.iter().map(swiglu).sum::<u64>();
                held.other += matrix(&moe.router);
                held.other += moe.shared.as_ref().map_or(0, |(shared, gate)| swiglu(shared) + matrix(gate));
            }
        }
    }
    held
}

#[test]
fn every_activation_of_an_expert_is_counted() {
    for case in cases() {
        let model = load(&case, &options(256));
        assert_eq!(model.expert_stats().hit_rate, 0.0);
        model.eval(&case.ids).unwrap();
        let spec = &model.info().spec;
        let moe = spec.moe.as_ref().unwrap();
        let expected = (case.ids.len() * moe.top_k * spec.moe_layers()) as u64;
        let stats = model.expert_stats();
        assert_eq!((stats.activations, stats.hits, stats.misses), (expected, expected, 0), "{}", case.name);
        assert_eq!(stats.hit_rate, 1.0);
        let layers = 0..spec.layers.len();
        let counted: u64 = layers.filter_map(|layer| model.expert_counts(layer).ok()).flatten().sum();
        assert_eq!(counted, expected, "{}", case.name);
    }
}
