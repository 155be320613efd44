//! The convolution in front of the delta rule, and the norm of queries and keys.

use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
use crate::cpu::vector_math::{fma, map, sigmoid};

kernel! {
    /// Depthwise causal convolution and SiLU: `out[i] = silu(Σ_t weights[t] * window[i + t])` by channel, with a window of
    /// `taps - 1` earlier inputs before those of the rows. Rows, taps and window have `width` channels.
    convolve = convolve_body(window: &[f32], weights: &[f32], width: usize, out: &mut [f32])
}
kernel! {
    /// `x *= scale / sqrt(Σ x² + eps)` (transformers' `l2norm`).
    l2_normalise = l2_normalise_body(x: &mut [f32], scale: f32, eps: f32)
}

#[inline(always)]
fn convolve_body<const FMA: bool>(window: &[f32], weights: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        out.fill(0.0);
        for (input, weights) in window[row * width..].chunks_exact(width).zip(weights.chunks_exact(width)) {
            for ((out, weight), input) in out.iter_mut().zip(weights).zip(input) {
                *out = fma::<FMA>(*weight, *input, *out);
            }
        }
        map(out, |x| x * sigmoid::<FMA>(x));
    }
}

#[inline(always)]
fn l2_normalise_body<const FMA: bool>(x: &mut [f32], scale: f32, eps: f32) {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut squares = [0f32; 8];
    for chunk in chunks {
        for (square, x) in squares.iter_mut().zip(chunk) {
            *square = fma::<FMA>(*x, *x, *square);
        }
    }
    let sum = squares.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    let factor = scale / (sum + eps).sqrt();
    x.iter_mut().for_each(|x| *x *= factor);
}
