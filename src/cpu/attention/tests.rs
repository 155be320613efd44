use super::*;
use crate::cpu::isa::Isa;
use crate::cpu::matmul::Processor;
use crate::cpu::testing::{tiers, values};
use crate::model::{Family, LayerSpec, LogitRows, Mixer, RopeScaling, RopeSpec};
use crate::state::{KvFormat, Sequence};

const PAGE: usize = 64;

fn spec(heads: usize, kv_heads: usize, head_dim: usize, gated: bool) -> ModelSpec {
    let rope = RopeSpec { dim: head_dim / 2, theta: 10_000.0, scaling: RopeScaling::None };
    ModelSpec {
        family: Family::Qwen3Next,
        hidden: 32,
        vocab: 32,
        layers: vec![LayerSpec { mixer: Mixer::Attention, feed_forward: crate::model::FeedForward::Dense }],
        attention: AttentionSpec { heads, kv_heads, head_dim, gated, bias: false, rope },
        delta: None,
        moe: None,
        dense_width: 32,
        norm_eps: 1e-6,
        tied_head: true,
        context_length: 4096,
        mtp_layers: 0,
    }
}

/// A sequence whose pages lie backwards among `pages`.
fn memory(tokens: usize, last_page: usize) -> Sequence {
    Sequence { slot: 0, pages: (0..tokens.div_ceil(PAGE)).map(|page| (last_page - page) as u32).collect() }
}

/// `rope(norm(x))` with norm weights of 1, in float64.
fn prepared(x: &[f32], position: usize, spec: &ModelSpec) -> Vec<f64> {
    let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = 1.0 / (square / x.len() as f64 + f64::from(spec.norm_eps)).sqrt();
    let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x) * scale).collect();
    let rope = &spec.attention.rope;
    for i in 0..rope.dim / 2 {
        let frequency = rope.theta.powf(-2.0 * i as f64 / rope.dim as f64) as f32;
        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
        let (a, b) = (x[i], x[i + rope.dim / 2]);
        (x[i], x[i + rope.dim / 2]) = (a * cos - b * sin, b * cos + a * sin);
    }
    x
}

/// One sequence of a test: positions before the step, rows of the step, keys and values `[tokens, kv_heads, head_dim]`.
struct Past {
    position: usize,
    rows: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The attention of a step over `pasts` with `threads` threads, `[rows, heads, head_dim]`, beside the reference.
fn run(isa: Isa, threads: usize, spec: &ModelSpec, format: KvFormat, pasts: &[Past]) -> (Vec<f32>, Vec<f64>) {
    let AttentionSpec { heads, kv_heads, head_dim, gated, .. } = spec.attention;
    let pages: Vec<usize> = pasts.iter().map(|p| (p.position + p.rows).div_ceil(PAGE)).collect();
    let mut kv = KvLayer::for_tests(pages.iter().sum::<usize>() + 1, PAGE, kv_heads, head_dim, format);
    let ends: Vec<usize> = pages
        .iter()
        .scan(0, |sum, pages| {
            *sum += pages;
            Some(*sum)
        })
        .collect();
    let memories: Vec<Sequence> = pasts.iter().zip(&ends).map(|(p, end)| memory(p.position + p.rows, *end)).collect();
    for (past, memory) in pasts.iter().zip(&memories) {
        let mut batch = Batch::default();
        batch.push(memory, 0, &vec![0; past.position + past.rows], LogitRows::None);
        kv.append(isa, &batch, &past.keys, &past.values);
    }
    let mut batch = Batch::default();
    for (past, memory) in pasts.iter().zip(&memories) {
        batch.push(memory, past.position, &vec![0; past.rows], LogitRows::None);
    }
    let rows = batch.tokens.len();
    let processor = Processor::new(threads, true, isa).unwrap();
    let mut rope = Rope::new(&spec.attention.rope, rows).unwrap();
    rope.prepare(&batch, &processor.pool);
    let stride = if gated { 2 * head_dim } else { head_dim };
    let queries = values(5, rows * heads * stride);
    let mut out = vec![f32::NAN; rows * heads * head_dim];
    let context = Context { spec, processor: &processor, rope: &rope };
    let queries = Queries { data: &queries, stride };
    context.attend(&batch, &kv, queries, &vec![1.0; head_dim], processor.outputs(&mut out, heads * head_dim, None));

    let mut expected = Vec::new();
    for (past, sequence) in pasts.iter().zip(&batch.sequences) {
        for (row, position) in sequence.rows.clone().zip(past.position..) {
            for head in 0..heads {
                let query = queries.head(row, head, &spec.attention);
                let q = prepared(&query[..head_dim], position, spec);
                let at = |j: usize| (j * kv_heads + head / (heads / kv_heads)) * head_dim;
                let scores: Vec<f64> = (0..=position)
                    .map(|j| {
                        let key = &past.keys[at(j)..at(j) + head_dim];
                        q.iter().zip(key).map(|(q, k)| q * f64::from(*k)).sum::<f64>() / (head_dim as f64).sqrt()
                    })
                    .collect();
                let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - maximum).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..head_dim {
                    let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(past.values[at(j) + i])).sum();
                    let gate = if gated { 1.0 / (1.0 + f64::from(-query[head_dim + i]).exp()) } else { 1.0 };
                    expected.push(sum / total * gate);
                }
            }
        }
    }
    (out, expected)
}

fn past(spec: &ModelSpec, seed: u32, position: usize, rows: usize) -> Past {
    let len = (position + rows) * spec.attention.kv_heads * spec.attention.head_dim;
    // Keys large enough that the softmax is far from flat.
    let keys = values(seed, len).iter().map(|x| 2.0 * x).collect();
    Past { position, rows, keys, values: values(seed + 1, len) }
}

fn assert_near(found: &[f32], expected: &[f64], limit: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30, |m: f64, e| m.max(e.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).abs() / largest)
        .fold(0.0, |m: f64, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst < limit, "{what}: {worst:e}");
}

#[test]
fn attention_matches_float64_for_all_shapes_and_page_boundaries() {
    for (heads, kv_heads, head_dim, gated) in
        [(16, 2, 256, true), (4, 4, 64, false), (6, 2, 128, false), (5, 1, 36, true)]
    {
        let spec = spec(heads, kv_heads, head_dim, gated);
        for (position, rows) in [(0, 1), (63, 1), (64, 3), (100, 40)] {
            let pasts = [past(&spec, 11, position, rows)];
            for isa in tiers() {
                let (found, expected) = run(isa, 2, &spec, KvFormat::F32, &pasts);
                let what = format!("{isa:?} {heads} heads, {kv_heads}, {head_dim}, {rows} rows at {position}");
                assert_near(&found, &expected, 2e-6, &what);
            }
        }
    }
}

#[test]
fn a_context_cut_into_parts_has_the_result_of_one_that_is_not() {
    let spec = spec(8, 1, 64, true);
    // From 8 pages on the context is cut; the last rows of 21 lie in another block.
    let shapes = [(1300, 1), (511, 1), (760, 21), (5, 2)];
    let pasts: Vec<Past> = shapes.iter().map(|(position, rows)| past(&spec, 21, *position, *rows)).collect();
    for isa in tiers() {
        for threads in [1, 4] {
            let (found, expected) = run(isa, threads, &spec, KvFormat::F32, &pasts);
            assert_near(&found, &expected, 2e-6, &format!("{isa:?}, {threads} threads"));
        }
    }
}

#[test]
fn what_runs_beside_a_sequence_changes_nothing_about_it() {
    let spec = spec(8, 1, 64, false);
    let alone = run(Isa::Portable, 3, &spec, KvFormat::F32, &[past(&spec, 31, 900, 1)]).0;
    let pasts = [past(&spec, 31, 900, 1), past(&spec, 33, 700, 9)];
    for _ in 0..3 {
        assert_eq!(run(Isa::Portable, 3, &spec, KvFormat::F32, &pasts).0[..alone.len()], alone);
    }
}

#[test]
fn stored_formats_cost_what_their_rounding_costs() {
    let spec = spec(16, 2, 128, true);
    for (format, limit) in [(KvFormat::F32, 2e-6), (KvFormat::F16, 2e-3), (KvFormat::Q8_0, 2e-2)] {
        for (position, rows) in [(333, 1), (200, 17)] {
            let pasts = [past(&spec, 41, position, rows)];
            for isa in tiers() {
                let (found, expected) = run(isa, 2, &spec, format, &pasts);
                assert_near(&found, &expected, limit, &format!("{isa:?} {format}, {rows} rows"));
            }
        }
    }
}

#[test]
fn a_key_that_is_no_number_spoils_only_the_rows_that_see_it() {
    let spec = spec(8, 1, 64, false);
    let mut pasts = [past(&spec, 51, 60, 20)];
    pasts[0].keys[70 * 64] = f32::NAN;
    for isa in tiers() {
        for format in [KvFormat::F16, KvFormat::F32, KvFormat::Q8_0] {
            let (found, _) = run(isa, 2, &spec, format, &pasts);
            for (row, out) in found.chunks_exact(8 * 64).enumerate() {
                assert_eq!(out.iter().all(|x| x.is_finite()), row < 10, "{isa:?} {format}, row {row}");
                assert_eq!(out.iter().all(|x| x.is_nan()), row >= 10, "{isa:?} {format}, row {row}");
            }
        }
    }
}
