//! Frequencies of the rotary position embedding.

use super::{RopeScaling, RopeSpec};

impl RopeSpec {
    /// Frequencies `theta^(-2i/dim)` of each pair of channels, changed as the spec's scaling says (transformers'
    /// modeling_rope_utils.py), and what cosines and sines are multiplied with (YaRN's attention factor).
    pub fn frequencies(&self) -> (Vec<f32>, f32) {
        let base = |i: usize| self.theta.powf(-2.0 * i as f64 / self.dim as f64);
        let pairs = self.dim / 2;
        let (frequencies, scale): (Vec<f64>, f64) = match &self.scaling {
            RopeScaling::None => ((0..pairs).map(base).collect(), 1.0),
            RopeScaling::Linear { factor } => ((0..pairs).map(|i| base(i) / factor).collect(), 1.0),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
                // The pair whose frequency makes `rotations` turns over the original context.
                let pair_of = |rotations: f64| {
                    let turns = *original_context as f64 / (rotations * std::f64::consts::TAU);
                    self.dim as f64 * turns.ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair_of(*beta_fast), pair_of(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(self.dim as f64 - 1.0));
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
        (frequencies.into_iter().map(|f| f as f32).collect(), scale as f32)
    }
}
