//! Rotary position embedding, NeoX pairing.

use super::memory::zeroed;
use super::pool::Pool;
use crate::error::Result;
use crate::model::{Batch, RopeSpec};

/// Frequencies of one model, and the angles of the step in progress.
pub struct Rope {
    frequencies: Vec<f32>,
    /// Multiplier of cosine and sine (YaRN's attention factor).
    scale: f32,
    /// Cosines, then sines, of each row: `[rows, 2, dim / 2]`.
    angles: Vec<f32>,
}

impl Rope {
    /// The frequencies of `spec`, and room for steps of `max_rows`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfHostMemory`].
    pub fn new(spec: &RopeSpec, max_rows: usize) -> Result<Self> {
        let (frequencies, scale) = spec.frequencies();
        let angles = zeroed(max_rows, 2 * frequencies.len(), "rotary angles")?;
        Ok(Self { frequencies, scale, angles })
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
