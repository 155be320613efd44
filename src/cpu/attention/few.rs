//! Few queries against many keys and values: decoding.
//!
//! Here memory is the limit, so keys and values are converted to float32 in registers, as they stream in (bytes with scales, which take several instructions, shortly before), and what is
//! needed next is asked for in small portions between the multiply-adds: a processor drops prefetches that come in bursts.

use super::kv::{Loadable, Rows};
use super::stored::{CHUNK, Half, Stored};
use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
use crate::cpu::vector_math::fma;

/// Queries up to which this form is faster than converting first.
pub const FEW: usize = 16;
/// Queries whose sums are kept in registers together, for up to three keys or chunks of values: twelve vectors, more than
/// two multiply-adds a cycle of four cycles' latency need.
const TOGETHER: usize = 4;

/// Keys or values of a few positions, and those that will be asked for next.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    pub now: Loadable<'a>,
    pub next: Rows<'a>,
}

/// The queries' side of either product.
#[derive(Debug, Clone, Copy)]
pub struct Queries {
    pub count: usize,
    /// A multiple of [`CHUNK`].
    pub head_dim: usize,
    /// Distance between the scores of one position and the next.
    pub width: usize,
}

kernel! {
    /// `scores[j * width + i] = keys[j] · queries[i]`, queries `[count, head_dim]`.
    scores_of_few = scores_body(shape: Queries, queries: &[f32], keys: Stream<'_>, scores: &mut [f32])
}
kernel! {
    /// `sums[i] += Σ_j weights[j * width + i] * values[j]`, sums `[count, head_dim]`.
    weigh_for_few = weigh_body(shape: Queries, weights: &[f32], values: Stream<'_>, sums: &mut [f32])
}

#[inline(always)]
fn scores_body<const FMA: bool>(shape: Queries, queries: &[f32], keys: Stream<'_>, scores: &mut [f32]) {
    match keys.now {
        Loadable::F32(rows) => scores_of::<FMA, _>(shape, queries, rows, keys.next, scores),
        Loadable::F16(rows) => scores_of::<FMA, _>(shape, queries, Half(rows), keys.next, scores),
    }
}

#[inline(always)]
fn weigh_body<const FMA: bool>(shape: Queries, weights: &[f32], values: Stream<'_>, sums: &mut [f32]) {
    match values.now {
        Loadable::F32(rows) => weigh::<FMA, _>(shape, weights, rows, values.next, sums),
        Loadable::F16(rows) => weigh::<FMA, _>(shape, weights, Half(rows), values.next, sums),
    }
}

#[inline(always)]
fn scores_of<const FMA: bool, S: Stored>(shape: Queries, queries: &[f32], keys: S, next: Rows<'_>, scores: &mut [f32]) {
    let Queries { count, head_dim, width } = shape;
    let positions = keys.len() / head_dim;
    let mut position = 0;
    while position < positions {
        let taken = (positions - position).min(3);
        next.prefetch_part(position, taken, positions);
        let mut query = 0;
        while query < count {
            let (queries, scores) = (&queries[query * head_dim..], &mut scores[position * width + query..]);
            query += match (count - query >= TOGETHER, taken) {
                (true, 3) => dots::<FMA, S, TOGETHER, 3>(shape, queries, keys, position, scores),
                (true, 2) => dots::<FMA, S, TOGETHER, 2>(shape, queries, keys, position, scores),
                (true, _) => dots::<FMA, S, TOGETHER, 1>(shape, queries, keys, position, scores),
                (false, 3) => dots::<FMA, S, 1, 3>(shape, queries, keys, position, scores),
                (false, 2) => dots::<FMA, S, 1, 2>(shape, queries, keys, position, scores),
                (false, _) => dots::<FMA, S, 1, 1>(shape, queries, keys, position, scores),
            };
        }
        position += taken;
    }
}

/// Scores of `Q` queries and `K` keys from `position`; returns `Q`.
#[expect(clippy::needless_range_loop, reason = "indices over fixed sizes keep every accumulator in a register")]
#[inline(always)]
fn dots<const FMA: bool, S: Stored, const Q: usize, const K: usize>(
    shape: Queries,
    queries: &[f32],
    keys: S,
    position: usize,
    scores: &mut [f32],
) -> usize {
    let chunks = shape.head_dim / CHUNK;
    let mut sums = [[[0f32; CHUNK]; Q]; K];
    let queries: [&[[f32; CHUNK]]; Q] =
        std::array::from_fn(|q| &queries[q * shape.head_dim..(q + 1) * shape.head_dim].as_chunks().0[..chunks]);
    for chunk in 0..chunks {
        let keys: [_; K] = std::array::from_fn(|k| keys.load::<FMA>((position + k) * chunks + chunk));
        for q in 0..Q {
            let query = queries[q][chunk];
            for k in 0..K {
                for l in 0..CHUNK {
                    sums[k][q][l] = fma::<FMA>(keys[k][l], query[l], sums[k][q][l]);
                }
            }
        }
    }
    for k in 0..K {
        scores[k * shape.width..][..Q].copy_from_slice(&horizontal::<FMA, Q>(&sums[k]));
    }
    Q
}

/// The sum of each of `Q` vectors.
#[inline(always)]
fn horizontal<const FMA: bool, const Q: usize>(vectors: &[[f32; CHUNK]; Q]) -> [f32; Q] {
    #[cfg(target_arch = "x86_64")]
    if FMA && let [a, b, c, d] = vectors.as_slice() {
        use std::arch::x86_64::{_mm_add_ps, _mm_hadd_ps, _mm_loadu_ps, _mm_storeu_ps};
        let mut sums = [0f32; Q];
        // SAFETY: the copies with FMA are chosen where the processor has AVX2; each array holds eight values, `sums` four.
        unsafe {
            let halves = |v: &[f32; CHUNK]| _mm_add_ps(_mm_loadu_ps(v.as_ptr()), _mm_loadu_ps(v.as_ptr().add(4)));
            let pairs = (_mm_hadd_ps(halves(a), halves(b)), _mm_hadd_ps(halves(c), halves(d)));
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_hadd_ps(pairs.0, pairs.1));
        }
        return sums;
    }
    std::array::from_fn(|q| vectors[q].iter().sum())
}

#[inline(always)]
fn weigh<const FMA: bool, S: Stored>(shape: Queries, weights: &[f32], values: S, next: Rows<'_>, sums: &mut [f32]) {
    let Queries { count, head_dim, .. } = shape;
    let chunks = head_dim / CHUNK;
    let mut chunk = 0;
    while chunk < chunks {
        let taken = (chunks - chunk).min(3);
        next.prefetch_part(chunk, taken, chunks);
        let mut query = 0;
        while query < count {
            let (weights, sums) = (&weights[query..], &mut sums[query * head_dim..]);
            query += match (count - query >= TOGETHER, taken) {
                (true, 3) => add::<FMA, S, TOGETHER, 3>(shape, weights, values, chunk, sums),
                (true, 2) => add::<FMA, S, TOGETHER, 2>(shape, weights, values, chunk, sums),
                (true, _) => add::<FMA, S, TOGETHER, 1>(shape, weights, values, chunk, sums),
                (false, 3) => add::<FMA, S, 1, 3>(shape, weights, values, chunk, sums),
                (false, 2) => add::<FMA, S, 1, 2>(shape, weights, values, chunk, sums),
                (false, _) => add::<FMA, S, 1, 1>(shape, weights, values, chunk, sums),
            };
        }
        chunk += taken;
    }
}

/// `C` chunks from `chunk` of the sums of `Q` queries; returns `Q`.
#[inline(always)]
fn add<const FMA: bool, S: Stored, const Q: usize, const C: usize>(
    shape: Queries,
    weights: &[f32],
    values: S,
    chunk: usize,
    sums: &mut [f32],
) -> usize {
    let Queries { head_dim, width, .. } = shape;
    let chunks = head_dim / CHUNK;
    let mut acc = [[[0f32; CHUNK]; C]; Q];
    for q in 0..Q {
        acc[q].as_flattened_mut().copy_from_slice(&sums[q * head_dim + chunk * CHUNK..][..C * CHUNK]);
    }
    for position in 0..values.len() / head_dim {
        let weights = &weights[position * width..][..Q];
        let values: [_; C] = std::array::from_fn(|c| values.load::<FMA>(position * chunks + chunk + c));
        for q in 0..Q {
            for c in 0..C {
                for l in 0..CHUNK {
                    acc[q][c][l] = fma::<FMA>(weights[q], values[c][l], acc[q][c][l]);
                }
            }
        }
    }
    for q in 0..Q {
        sums[q * head_dim + chunk * CHUNK..][..C * CHUNK].copy_from_slice(acc[q].as_flattened());
    }
    Q
}
