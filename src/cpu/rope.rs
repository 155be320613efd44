//! Rotary position embedding, NeoX pairing.

use super::memory::zeroed;
use super::pool::Pool;
use crate::error::Result;
use crate::model::{Batch, RopeScaling, RopeSpec};

/// Frequencies of one model, and the angles of the step in progress.
pub struct Rope {
    frequencies: Vec<f32>,
    /// Multiplier of cosine and sine (YaRN's attention factor).
    scale: f32,
    /// Cosines, then sines, of each row: `[rows, 2, dim / 2]`.
    angles: Vec<f32>,
}

impl Rope {
    /// Frequencies `theta^(-2i/dim)`, changed as `spec.scaling` says (transformers' modeling_rope_utils.py), and room for
    /// steps of `max_rows`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfHostMemory`].
    pub fn new(spec: &RopeSpec, max_rows: usize) -> Result<Self> {
        let base = |i: usize| spec.theta.powf(-2.0 * i as f64 / spec.dim as f64);
        let pairs = spec.dim / 2;
        let (frequencies, scale): (Vec<f64>, f64) = match &spec.scaling {
            RopeScaling::None => ((0..pairs).map(base).collect(), 1.0),
            RopeScaling::Linear { factor } => ((0..pairs).map(|i| base(i) / factor).collect(), 1.0),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
                // The pair whose frequency makes `rotations` turns over the original context.
                let pair_of = |rotations: f64| {
                    let turns = *original_context as f64 / (rotations * std::f64::consts::TAU);
                    spec.dim as f64 * turns.ln() / (2.0 * spec.theta.ln())
                };
                let (mut low, mut high) = (pair_of(*beta_fast), pair_of(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(spec.dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let mix = |i: usize| {
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    base(i) / factor * interpolated + base(i) * (1.0 - interpolated)
                };
                ((0..pairs).map(mix).collect(), *attention_factor)
            }
        };
        let angles = zeroed(max_rows, 2 * pairs, "rotary angles")?;
        Ok(Self { frequencies: frequencies.into_iter().map(|f| f as f32).collect(), scale: scale as f32, angles })
    }

    /// Computes the angles of every row of `batch`, for all layers of the step.
    pub fn prepare(&mut self, batch: &Batch<'_>, pool: &Pool) {
        let Self { frequencies, scale, angles } = self;
        let pairs = frequencies.len();
        let positions: Vec<usize> =
            batch.sequences.iter().flat_map(|s| (0..s.rows.len()).map(|i| s.position + i)).collect();
        pool.run_chunks(&mut angles[..positions.len() * 2 * pairs], 2 * pairs, |row, angles, _| {
            let (cos, sin) = angles.split_at_mut(pairs);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies.iter()) {
                let angle = positions[row] as f32 * frequency;
                (*cos, *sin) = (angle.cos() * *scale, angle.sin() * *scale);
            }
        });
    }

    /// Turns channel `i` with channel `i + dim / 2` of the first `dim` channels of `head`, by the angles of row `row` of the
    /// batch that was [prepared](Self::prepare).
    pub fn rotate(&self, row: usize, head: &mut [f32]) {
        let pairs = self.frequencies.len();
        let (cos, sin) = self.angles[row * 2 * pairs..][..2 * pairs].split_at(pairs);
        let (first, rest) = head.split_at_mut(pairs);
        for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
