//! Attention over a paged cache: steps of one row, many rows, parts of a context, every way of storing keys and values.

use half::f16;

use super::super::args::{AttentionArgs, Row, Sequence};
use super::super::attention::{PARTIAL_SUMS, channels, halves_bytes, rows_halves_bytes};
use super::super::memory::DevicePtr;
use super::super::testing::Buffer;
use super::{Bench, assert_close, dot, rms_norm, sigmoid, values};
use crate::state::KvFormat;

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    pairs: usize,
    gated: bool,
    kv: KvFormat,
}

const PAGE: usize = 4;
const PAGES: usize = 40;

/// A sequence, and what its keys and values are.
struct Stream {
    pages: Vec<u32>,
    /// `[positions][kv_heads]`, as stored.
    keys: Vec<Vec<Vec<f32>>>,
    values: Vec<Vec<Vec<f32>>>,
}

fn angles(position: usize, pairs: usize) -> Vec<f32> {
    let angle = |i: usize| position as f32 * 10f32.powf(-(i as f32) / pairs as f32);
    (0..pairs).map(|i| angle(i).cos()).chain((0..pairs).map(|i| angle(i).sin())).collect()
}

fn prepared(x: &[f32], norm: &[f32], position: usize, pairs: usize) -> Vec<f32> {
    let mut out = rms_norm(x, norm, 1e-6);
    let angles = angles(position, pairs);
    for i in 0..pairs {
        let (a, b) = (out[i], out[i + pairs]);
        out[i] = a * angles[i] - b * angles[pairs + i];
        out[i + pairs] = b * angles[i] + a * angles[pairs + i];
    }
    out
}

/// What a cache makes of a head.
fn stored(x: &[f32], kv: KvFormat) -> Vec<f32> {
    match kv {
        KvFormat::F32 => x.to_vec(),
        KvFormat::F16 => x.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
        KvFormat::Q8_0 => x
            .chunks(32)
            .flat_map(|block| {
                let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                let scale = f16::from_f32(largest / 127.0).to_f32();
                block.iter().map(move |x| (x / scale).round_ties_even().clamp(-127.0, 127.0) * scale)
            })
            .collect(),
    }
}

struct Cache {
    keys: Buffer<u8>,
    values: Buffer<u8>,
    key_scales: Buffer<u16>,
    value_scales: Buffer<u16>,
    counters: Buffer<u32>,
}

/// One step: `rows[s]` rows of each sequence, their contexts in `splits` parts; single rows by blocks of `warps` warps, where a
/// kernel takes any number.
fn step(
    bench: &mut Bench,
    shape: &Shape,
    cache: &Cache,
    streams: &mut [Stream],
    rows: &[usize],
    (splits, warps): (usize, usize),
) {
    let Shape { heads, kv_heads, head_dim, pairs, gated, kv } = *shape;
    let stride = if gated { 2 * head_dim } else { head_dim };
    let count: usize = rows.iter().sum();
    let (query_norm, key_norm) = (values(61, head_dim), values(62, head_dim));
    let seed = streams.iter().map(|s| s.keys.len() as u32).sum::<u32>();
    let queries = values(100 + seed, count * heads * stride);
    let (keys, new_values) =
        (values(200 + seed, count * kv_heads * head_dim), values(300 + seed, count * kv_heads * head_dim));
    let (mut row_list, mut sequences, mut pages, mut all_angles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut expected = Vec::new();
    for (s, stream) in streams.iter_mut().enumerate() {
        let position = stream.keys.len();
        sequences.push(Sequence {
            first_row: row_list.len() as u32,
            rows: rows[s] as u32,
            position: position as u32,
            slot: 0,
            first_page: pages.len() as u32,
            unused: [0; 3],
        });
        pages.extend(&stream.pages);
        for i in 0..rows[s] {
            let row = row_list.len();
            let at = |head: usize| (row * kv_heads + head) * head_dim..(row * kv_heads + head + 1) * head_dim;
            let key = |h| stored(&prepared(&keys[at(h)], &key_norm, position + i, pairs), kv);
            stream.keys.push((0..kv_heads).map(key).collect());
            stream.values.push((0..kv_heads).map(|h| stored(&new_values[at(h)], kv)).collect());
            row_list.push(Row { token: 0, position: (position + i) as u32, sequence: s as u32, slot: 0 });
            all_angles.extend(angles(position + i, pairs));
            for head in 0..heads {
                let query = &queries[(row * heads + head) * stride..][..stride];
                let turned = prepared(&query[..head_dim], &query_norm, position + i, pairs);
                let kv_head = head / (heads / kv_heads);
                let scores: Vec<f64> =
                    stream.keys.iter().map(|k| dot(&turned, &k[kv_head]) / (head_dim as f64).sqrt()).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for channel in 0..head_dim {
                    let weighted = scores.iter().zip(&stream.values);
                    let sum: f64 = weighted.map(|(s, v)| (s - largest).exp() * f64::from(v[kv_head][channel])).sum();
                    let gate = if gated { sigmoid(f64::from(query[head_dim + channel])) } else { 1.0 };
                    expected.push(sum / total * gate);
                }
            }
        }
    }
    let out = bench.room::<f32>(count * heads * head_dim);
    let partials = bench.room::<f32>(count * heads * splits * (head_dim + PARTIAL_SUMS));
    let args = AttentionArgs {
        queries: bench.put(&queries),
        keys: bench.put(&keys),
        values: bench.put(&new_values),
        query_norm: bench.put(&query_norm),
        key_norm: bench.put(&key_norm),
        angles: bench.put(&all_angles),
        key_pages: cache.keys.slice.start(),
        value_pages: cache.values.slice.start(),
        key_scales: cache.key_scales.slice.start(),
        value_scales: cache.value_scales.slice.start(),
        rows: bench.put(&row_list),
        sequences: bench.put(&sequences),
        pages: bench.put(&pages),
        out: out.slice.start(),
        partials: if splits == 1 { DevicePtr::NULL } else { partials.slice.start() },
        counters: cache.counters.slice.start(),
        eps: 1e-6,
        count: count as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        query_stride: stride as u32,
        pairs: pairs as u32,
        page_tokens: PAGE as u32,
        splits: splits as u32,
        gated: gated.into(),
    };
    let blocks = kv_heads * (heads / kv_heads).div_ceil(8);
    let shared = 4 * 9 * head_dim;
    let by_sequence = [blocks, rows.iter().copied().max().unwrap_or(0).div_ceil(8), rows.len()];
    let single = rows.iter().all(|rows| *rows == 1);
    let by_head = |name: &str| format!("{name}_{kv}_{}", channels(head_dim));
    if !single {
        bench.run(&bench.kernel(&by_head("kv_append")), [kv_heads, count, 1], 32, 0, args);
    }
    let halves = kv == KvFormat::F16 && [128, 256].contains(&head_dim);
    let whole = halves && splits == 1;
    // As the host does: where the device has no room for one kernel it takes the other.
    let fits = |name: &str, bytes: usize| halves && bytes <= bench.kernel(name).shared_memory;
    let (name, grid, warps, shared) = match (single, head_dim) {
        (true, 128) if fits("attention_halves_128", halves_bytes(128, warps)) => {
            ("attention_halves_128".into(), [blocks, splits, count], warps, halves_bytes(128, warps))
        }
        (true, 256) if fits("attention_halves_256", halves_bytes(256, warps)) => {
            ("attention_halves_256".into(), [blocks, splits, count], warps, halves_bytes(256, warps))
        }
        (true, _) => (by_head("attention_step"), [blocks, splits, count], 8, shared),
        (false, 128) if whole && fits("attention_rows_halves_128", rows_halves_bytes(128)) => {
            ("attention_rows_halves_128".into(), by_sequence, 8, rows_halves_bytes(128))
        }
        (false, 256) if whole && fits("attention_rows_halves_256", rows_halves_bytes(256)) => {
            ("attention_rows_halves_256".into(), by_sequence, 8, rows_halves_bytes(256))
        }
        (false, _) => (by_head("attention_rows"), [blocks, splits, count], 8, shared),
    };
    bench.run(&bench.kernel(&name), grid, 32 * warps, shared, args);
    if name.starts_with("attention_halves") && splits > 1 {
        bench.run(&bench.kernel("attention_join"), [head_dim.div_ceil(64), heads, count], 256, 0, args);
    }
    // An 8-bit code may go either way where a key lies between two.
    let tolerance = if kv == KvFormat::Q8_0 { 5e-3 } else { 1e-3 };
    let what = format!("{heads}/{kv_heads} x {head_dim} {kv} after {seed}, {rows:?} rows, {splits} parts");
    assert_close(&bench.gpu.download(out.slice), &expected, tolerance, &what);
}

#[test]
fn attention_of_steps_and_of_many_rows_matches_float64() {
    let Some(mut bench) = Bench::open() else { return };
    let shapes = [
        Shape { heads: 16, kv_heads: 2, head_dim: 256, pairs: 32, gated: true, kv: KvFormat::F16 },
        Shape { heads: 16, kv_heads: 2, head_dim: 256, pairs: 32, gated: true, kv: KvFormat::Q8_0 },
        Shape { heads: 16, kv_heads: 1, head_dim: 128, pairs: 64, gated: false, kv: KvFormat::F32 },
        Shape { heads: 20, kv_heads: 2, head_dim: 128, pairs: 64, gated: false, kv: KvFormat::F16 },
        Shape { heads: 6, kv_heads: 2, head_dim: 64, pairs: 8, gated: true, kv: KvFormat::Q8_0 },
        Shape { heads: 12, kv_heads: 1, head_dim: 20, pairs: 10, gated: false, kv: KvFormat::F16 },
        Shape { heads: 3, kv_heads: 3, head_dim: 6, pairs: 2, gated: true, kv: KvFormat::F32 },
        Shape { heads: 3, kv_heads: 1, head_dim: 31, pairs: 15, gated: true, kv: KvFormat::F16 },
        Shape { heads: 4, kv_heads: 2, head_dim: 80, pairs: 40, gated: false, kv: KvFormat::F16 },
    ];
    for shape in &shapes {
        let values = PAGES * shape.kv_heads * PAGE * shape.head_dim;
        let cache = Cache {
            keys: bench.room(values * 4),
            values: bench.room(values * 4),
            key_scales: bench.room(values / 4),
            value_scales: bench.room(values / 4),
            counters: bench.gpu.upload(&[0u32; 256]),
        };
        let stream = |first: u32| Stream {
            pages: (0..20).map(|i| (first + i * 7) % 20 * 2 + first).collect(),
            keys: Vec::new(),
            values: Vec::new(),
        };
        let mut streams = [stream(0), stream(1)];
        for (rows, splits, warps) in [
            ([1, 1], 1, 9),
            ([5, 1], 1, 1),
            ([1, 1], 2, 4),
            ([1, 37], 1, 1),
            ([1, 1], 5, 3),
            ([9, 2], 3, 1),
            ([1, 1], 1, 2),
            ([1, 1], 1, 12),
            ([1, 1], 2, 1),
            ([1, 1], 64, 2),
            ([1, 1], 40, 1),
        ] {
            step(&mut bench, shape, &cache, &mut streams, &rows, (splits, warps));
        }
        bench.kept.clear();
    }
}
