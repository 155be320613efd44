//! The gated delta rule for many rows of one sequence with matrix products (the chunked form of arXiv 2412.06464; gates as
//! in transformers' `torch_chunk_gated_delta_rule`).
//!
//! With `c_i` the sum of the log decays up to row `i` of a chunk and `S` the state before it, the rows' updates solve
//!
//! `u_i = beta_i (v_i - exp(c_i) Sᵀk_i) - Σ_{j<i} beta_i exp(c_i - c_j) (k_i · k_j) u_j`,
//!
//! a triangular system that forward substitution solves for all columns of `u` at once. Then
//! `out_i = exp(c_i) Sᵀq_i + Σ_{j<=i} exp(c_i - c_j) (q_i · k_j) u_j`, and the state after it is
//! `exp(c_n) S + Σ_j exp(c_n - c_j) k_j u_jᵀ`. Only differences of log decays are exponentiated: the decays themselves can
//! be too small for a float.

use crate::cpu::gemm::Gemm;
use crate::cpu::isa::Isa;
use crate::cpu::pool::at_least;

/// Rows of a chunk at most.
pub const CHUNK: usize = 64;
/// Rows from which this form is faster than row by row.
pub const FEW: usize = 4;
/// Rows of the triangular system that are solved one by one.
const SOLVED: usize = 8;
/// Rows of a product with a triangle that share its inner dimension.
const TRIANGLE: usize = 16;

/// Queries and keys of a chunk and their products, which all value heads of a key head share.
pub struct Keys<'a> {
    rows: usize,
    key_dim: usize,
    /// Normalised and scaled queries, `stride` apart.
    q: &'a [f32],
    /// Normalised keys, `stride` apart.
    k: &'a [f32],
    stride: usize,
    /// `k_i · k_j`, `[rows, rows]`; unspecified where `j` is in a later [`TRIANGLE`] than `i`.
    kk: &'a [f32],
    /// `q_i · k_j`, likewise.
    qk: &'a [f32],
}

/// What belongs to one value head of a chunk.
pub struct Values<'a> {
    /// Values, `stride` apart.
    pub v: &'a [f32],
    pub stride: usize,
    /// Log decay of each row, at most 0.
    pub g: &'a [f32],
    /// Write strength of each row.
    pub beta: &'a [f32],
}

impl<'a> Keys<'a> {
    /// Multiplies the keys of a chunk with its queries and keys; `scratch` holds the products.
    pub fn new(
        isa: Isa,
        [rows, key_dim, stride]: [usize; 3],
        [q, k]: [&'a [f32]; 2],
        scratch: &'a mut Vec<f32>,
    ) -> Self {
        let scratch = at_least(scratch, rows * (key_dim + 2 * rows));
        let (transposed, rest) = scratch.split_at_mut(key_dim * rows);
        let (kk, qk) = rest.split_at_mut(rows * rows);
        for (j, k) in k.chunks(stride).take(rows).enumerate() {
            for (column, k) in transposed.chunks_exact_mut(rows).zip(k) {
                column[j] = *k;
            }
        }
        for first in (0..rows).step_by(TRIANGLE) {
            let end = rows.min(first + TRIANGLE);
            for (a, c) in [(k, &mut *kk), (q, &mut *qk)] {
                let product = Gemm {
                    rows: end - first,
                    inner: key_dim,
                    cols: end,
                    a: &a[first * stride..],
                    a_strides: [stride, 1],
                    b: transposed,
                    b_stride: rows,
                    c_stride: rows,
                    scale: 0.0,
                };
                isa.gemm(&product, &mut c[first * rows..]);
            }
        }
        Self { rows, key_dim, q, k, stride, kk, qk }
    }

    /// The delta rule over the chunk's rows for one value head: advances `state` `[key_dim, value_dim]` and writes `out`
    /// `[rows, value_dim]`.
    pub fn advance(&self, isa: Isa, values: &Values<'_>, state: &mut [f32], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let (rows, width) = (self.rows, state.len() / self.key_dim);
        let scratch = at_least(scratch, rows * (width + 2 * rows + 2));
        let (updates, scratch) = scratch.split_at_mut(rows * width);
        let (for_keys, scratch) = scratch.split_at_mut(rows * rows);
        let (for_queries, scratch) = scratch.split_at_mut(rows * rows);
        let (from_start, to_end) = scratch.split_at_mut(rows);

        // In float64, because differences of large sums are exponentiated.
        let mut sums = [0f64; CHUNK];
        let mut sum = 0.0;
        for (c, g) in sums.iter_mut().zip(values.g) {
            sum += f64::from(*g);
            *c = sum;
        }
        let sums = &sums[..rows];
        for ((from_start, to_end), c) in from_start.iter_mut().zip(to_end.iter_mut()).zip(sums) {
            (*from_start, *to_end) = (*c as f32, (sum - c) as f32);
        }
        isa.exp_in_place(from_start, 0.0);
        isa.exp_in_place(to_end, 0.0);

        // `out = Q S` and `updates = beta (V - exp(c) K S)`.
        for (a, c) in [(self.q, &mut *out), (self.k, &mut *updates)] {
            let product = Gemm {
                rows,
                inner: self.key_dim,
                cols: width,
                a,
                a_strides: [self.stride, 1],
                b: state,
                b_stride: width,
                c_stride: width,
                scale: 0.0,
            };
            isa.gemm(&product, c);
        }
        for (i, (out, u)) in out.chunks_exact_mut(width).zip(updates.chunks_exact_mut(width)).enumerate() {
            let (decay, beta) = (from_start[i], values.beta[i]);
            out.iter_mut().for_each(|x| *x *= decay);
            for (u, v) in u.iter_mut().zip(&values.v[i * values.stride..]) {
                *u = beta * (v - decay * *u);
            }
        }

        // Below the diagonal `-beta_i exp(c_i - c_j) (k_i · k_j)`, above it not read; and up to the diagonal
        // `exp(c_i - c_j) (q_i · k_j)`, zero above it.
        for (i, c) in sums.iter().enumerate() {
            let row = i * rows..i * rows + i + 1;
            let (on_keys, on_queries) = (&mut for_keys[row.clone()], &mut for_queries[i * rows..(i + 1) * rows]);
            on_keys.iter_mut().zip(sums).for_each(|(x, other)| *x = (c - other) as f32);
            isa.exp_in_place(on_keys, 0.0);
            on_queries[i + 1..].fill(0.0);
            let products = self.kk[row.clone()].iter().zip(&self.qk[row]);
            for ((x, y), (kk, qk)) in on_keys.iter_mut().zip(on_queries).zip(products) {
                (*x, *y) = (*x * -values.beta[i] * kk, *x * qk);
            }
        }
        self.solve(isa, for_keys, updates, width);
        for first in (0..rows).step_by(TRIANGLE) {
            let end = rows.min(first + TRIANGLE);
            let product = Gemm {
                rows: end - first,
                inner: end,
                cols: width,
                a: &for_queries[first * rows..],
                a_strides: [rows, 1],
                b: updates,
                b_stride: width,
                c_stride: width,
                scale: 1.0,
            };
            isa.gemm(&product, &mut out[first * width..]);
        }

        for (u, decay) in updates.chunks_exact_mut(width).zip(to_end.iter()) {
            u.iter_mut().for_each(|u| *u *= decay);
        }
        let product = Gemm {
            rows: self.key_dim,
            inner: rows,
            cols: width,
            a: self.k,
            a_strides: [1, self.stride],
            b: updates,
            b_stride: width,
            c_stride: width,
            scale: from_start[rows - 1],
        };
        isa.gemm(&product, state);
    }

    /// Forward substitution: `updates[i] += Σ_{j<i} triangle[i, j] updates[j]`, in the order of rows.
    fn solve(&self, isa: Isa, triangle: &[f32], updates: &mut [f32], width: usize) {
        let rows = self.rows;
        for first in (0..rows).step_by(SOLVED) {
            let end = rows.min(first + SOLVED);
            // All rows of the block from those before it, then one after the other from those in it.
            let from_before = (first..end, 0..first);
            let from_block = (first + 1..end).map(|row| (row..row + 1, first..row));
            for (targets, sources) in std::iter::once(from_before).chain(from_block) {
                let (solved, rest) = updates.split_at_mut(targets.start * width);
                let product = Gemm {
                    rows: targets.len(),
                    inner: sources.len(),
                    cols: width,
                    a: &triangle[targets.start * rows + sources.start..],
                    a_strides: [rows, 1],
                    b: &solved[sources.start * width..],
                    b_stride: width,
                    c_stride: width,
                    scale: 1.0,
                };
                isa.gemm(&product, rest);
            }
        }
    }
}
