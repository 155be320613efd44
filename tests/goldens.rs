//! Every golden checkpoint against the logits of its reference: transformers in float32, after the file format's own
//! decoder.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::sync::Arc;

use qwen3moe::cpu::{CpuBackend, CpuOptions, Isa};
use qwen3moe::engine::{MemoryUse, fit};
use qwen3moe::model::{
    Checkpoint, DeltaGates, DeltaInputs, FeedForwardWeights, LayerWeights, Linear, LoadProgress, MixerWeights,
    ModelSpec, SwiGlu, WeightPlan, Weights, read_spec,
};
use qwen3moe::quant::Weight;
use qwen3moe::state::{KvFormat, StateLayout};
use qwen3moe::{Event, GenerateOptions, LoadOptions, Model, Prompt};
use support::batches::{self, counters};
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

/// Runs three sequences through one backend, `rows[i]` rows of sequence `i` in each step, and returns their logits.
fn interleaved(case: &Case, sequences: [&[u32]; 3], rows: [usize; 3]) -> [Vec<f32>; 3] {
    let checkpoint = Checkpoint::open(&case.source()).unwrap();
    let spec = Arc::new(read_spec(&checkpoint).unwrap());
    let weights = weights(&checkpoint, &spec, 2);
    let layout = StateLayout::new(3, 3 * 256);
    let options = CpuOptions {
        threads: 2,
        exact: true,
        kv: KvFormat::F32,
        max_rows: rows.iter().sum(),
        isa: Isa::choose().unwrap(),
    };
    let progress = LoadProgress::default();
    let mut backend = CpuBackend::new(spec.clone(), weights, layout, counters(&spec), &options, &progress).unwrap();
    batches::interleaved(&spec, &mut backend, layout, sequences, rows)
}

#[test]
fn rows_of_several_sequences_in_one_batch_do_not_mix() {
    for case in cases() {
        let backwards: Vec<u32> = case.ids.iter().rev().copied().collect();
        let sequences = [case.ids.as_slice(), &backwards, &case.ids[..case.ids.len() / 2]];
        let model = load(&case, &options(256));
        let alone = sequences.map(|ids| model.eval(ids).unwrap());
        for rows in [[1, 1, 1], [1, 7, 64], [5, 1, 3]] {
            for (i, logits) in interleaved(&case, sequences, rows).iter().enumerate() {
                assert_near(&case, &format!("sequence {i} of {rows:?}"), logits, &alone[i], SELF);
            }
        }
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

fn weights(checkpoint: &Checkpoint, spec: &ModelSpec, threads: usize) -> Weights {
    let plan = WeightPlan::new(checkpoint, spec).unwrap();
    Weights::load(checkpoint, &plan, spec, &LoadProgress::default(), threads).unwrap()
}

#[test]
fn memory_by_component_is_what_the_weights_hold_and_less_than_a_page_between_them() {
    for case in cases() {
        let model = load(&case, &options(64));
        let checkpoint = Checkpoint::open(&case.source()).unwrap();
        let plan = WeightPlan::new(&checkpoint, &model.info().spec).unwrap();
        let held = held(&weights(&checkpoint, &model.info().spec, 1));
        let planned = model.memory().ram;
        assert_eq!(planned.weights(), plan.bytes() as u64, "{}", case.name);
        let components = |m: &MemoryUse| [m.embeddings, m.attention, m.delta_net, m.experts, m.other];
        // Tables and room to the next line at each place, and to the next page at each feed-forward half.
        let room = 256 * plan.places().len() as u64 + 2 * 4096 * model.info().spec.layers.len() as u64;
        for (planned, held) in components(&planned).into_iter().zip(components(&held)) {
            assert!((held..=held + room).contains(&planned), "{}: {planned} planned, {held} held", case.name);
        }
    }
}

#[test]
fn an_expert_is_whole_pages_and_all_of_a_layer_are_as_far_apart() {
    for case in cases() {
        let checkpoint = Checkpoint::open(&case.source()).unwrap();
        let weights = weights(&checkpoint, &read_spec(&checkpoint).unwrap(), 2);
        let moe = |layer: &LayerWeights| matches!(layer.feed_forward, FeedForwardWeights::Moe(_));
        assert!(weights.layers.iter().any(moe));
        for layer in &weights.layers {
            let FeedForwardWeights::Moe(moe) = &layer.feed_forward else { continue };
            let blocks: Vec<_> = moe.experts.iter().map(SwiGlu::block).collect();
            for pair in blocks.windows(2) {
                assert_eq!(pair[0].as_ptr_range().end, pair[1].as_ptr(), "{}", case.name);
                assert_eq!((pair[0].as_ptr().align_offset(4096), pair[0].len()), (0, pair[1].len()), "{}", case.name);
            }
        }
    }
}

/// Bytes of every buffer of `weights`, by component.
fn held(weights: &Weights) -> MemoryUse {
    let matrix = |m: &Weight| m.bytes() as u64;
    let vector = |v: &[f32]| size_of_val(v) as u64;
    let linear = |l: &Linear| matrix(&l.matrix) + l.bias.as_deref().map_or(0, vector);
    let swiglu = |s: &SwiGlu| s.block().len() as u64;
    let mut held = MemoryUse { embeddings: matrix(&weights.embedding), ..MemoryUse::default() };
    if !weights.head.shares_memory(&weights.embedding) {
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
