//! The online softmax (arXiv 1805.02867): exponentials against the largest score so far, put right when a larger one comes.

use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
use crate::cpu::vector_math::exp;

/// Queries that are handled side by side.
pub const LANES: usize = 8;

/// What is known about each query of a panel, `width` values each.
pub struct Running<'a> {
    /// The largest score so far, minus infinity before the first.
    pub maxima: &'a mut [f32],
    /// The sum of all weights so far, against the largest score.
    pub totals: &'a mut [f32],
    /// What earlier weights and sums must be multiplied with; written, not read.
    pub corrections: &'a mut [f32],
}

kernel! {
    /// Turns scores `[keys, width]` into weights `exp(score - maximum)` against the largest score of each column so far.
    /// `width` is a multiple of [`LANES`]. A column without any score but minus infinity gets weights of zero.
    softmax_block = softmax_block_body(scores: &mut [f32], width: usize, running: &mut Running<'_>)
}

#[inline(always)]
fn softmax_block_body<const FMA: bool>(scores: &mut [f32], width: usize, running: &mut Running<'_>) {
    let Running { maxima, totals, corrections } = running;
    let (maxima, totals) = (maxima.as_chunks_mut::<LANES>().0, totals.as_chunks_mut::<LANES>().0);
    let corrections = corrections.as_chunks_mut::<LANES>().0;
    let lanes = maxima.iter_mut().zip(totals).zip(corrections).take(width / LANES).enumerate();
    for (at, ((maximum, total), correction)) in lanes {
        let mut largest = *maximum;
        for row in scores.chunks_exact(width) {
            if let Some(row) = row[at * LANES..].first_chunk::<LANES>() {
                for l in 0..LANES {
                    largest[l] = if row[l] > largest[l] { row[l] } else { largest[l] };
                }
            }
        }
        // Without a score so far, anything finite does.
        let mut minus = [0f32; LANES];
        for l in 0..LANES {
            minus[l] = if largest[l] == f32::NEG_INFINITY { 0.0 } else { largest[l] };
        }
        let mut sum = [0f32; LANES];
        for row in scores.chunks_exact_mut(width) {
            if let Some(row) = row[at * LANES..].first_chunk_mut::<LANES>() {
                for l in 0..LANES {
                    row[l] = exp::<FMA>(row[l] - minus[l]);
                    sum[l] += row[l];
                }
            }
        }
        for l in 0..LANES {
            correction[l] = exp::<FMA>(maximum[l] - minus[l]);
            total[l] = total[l] * correction[l] + sum[l];
        }
        *maximum = largest;
    }
}
