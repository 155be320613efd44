//! The gated delta rule (arXiv 2412.06464, eq. 10; transformers' `torch_recurrent_gated_delta_rule`) for one value head:
//!
//! `S = decay S; u = beta (v - Sᵀk); S = S + k uᵀ; out = Sᵀq` for each row, with a state `S` `[key_dim, value_dim]`.
//!
//! [`step`](Isa::delta_step) does that for one row. [`chunk`](super::chunk) does it for many rows with matrix products.

use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
use crate::cpu::vector_math::fma;

/// One row of one value head.
#[derive(Debug, Clone, Copy)]
pub struct DeltaStep<'a> {
    /// Normalised and scaled query.
    pub q: &'a [f32],
    /// Normalised key.
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// `exp(g)`.
    pub decay: f32,
    /// Write strength.
    pub beta: f32,
}

kernel! {
    /// One step on `state` `[k.len(), v.len()]`. `scratch` takes a row of values.
    ///
    /// The state is read twice and written once: `out = Sᵀq` of the new state is `decay Sᵀq + u (k · q)` of the old one, so
    /// that both products with the old state share a pass, four rows at a time.
    delta_step = delta_step_body(state: &mut [f32], step: &DeltaStep<'_>, scratch: &mut [f32], out: &mut [f32])
}

/// State rows of a pass that share loads and stores of the sums.
const ROWS: usize = 4;

#[inline(always)]
fn delta_step_body<const FMA: bool>(state: &mut [f32], step: &DeltaStep<'_>, scratch: &mut [f32], out: &mut [f32]) {
    let &DeltaStep { q, k, v, decay, beta } = step;
    let width = v.len();
    let (recalled, out) = (&mut scratch[..width], &mut out[..width]);
    recalled.fill(0.0);
    out.fill(0.0);
    let (blocks, last) = state.split_at(state.len() / (ROWS * width) * ROWS * width);
    for (block, (k, q)) in
        blocks.chunks_exact(ROWS * width).zip(k.as_chunks::<ROWS>().0.iter().zip(q.as_chunks::<ROWS>().0))
    {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &block[r * width..(r + 1) * width]);
        for i in 0..width {
            for r in 0..ROWS {
                recalled[i] = fma::<FMA>(rows[r][i], k[r], recalled[i]);
                out[i] = fma::<FMA>(rows[r][i], q[r], out[i]);
            }
        }
    }
    let done = blocks.len() / width.max(1);
    for (row, (k, q)) in last.chunks_exact(width).zip(k[done..].iter().zip(&q[done..])) {
        for ((s, recalled), out) in row.iter().zip(recalled.iter_mut()).zip(out.iter_mut()) {
            *recalled = fma::<FMA>(*s, *k, *recalled);
            *out = fma::<FMA>(*s, *q, *out);
        }
    }
    let along: f32 = k.iter().zip(q).map(|(k, q)| k * q).sum();
    for ((u, out), v) in recalled.iter_mut().zip(out).zip(v) {
        *u = beta * (v - decay * *u);
        *out = fma::<FMA>(*u, along, decay * *out);
    }
    for (row, k) in state.chunks_exact_mut(width).zip(k) {
        for (s, u) in row.iter_mut().zip(recalled.iter()) {
            *s = fma::<FMA>(*k, *u, decay * *s);
        }
    }
}
