//! Rotary position embedding, NeoX pairing.

use crate::model::{RopeScaling, RopeSpec};

/// Frequencies of one model.
pub struct Rope {
    frequencies: Vec<f32>,
    /// Multiplier of cosine and sine (YaRN's attention factor).
    scale: f32,
}

/// Cosine and sine of one position, each `dim / 2` values.
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Frequencies `theta^(-2i/dim)`, changed as `spec.scaling` says (transformers' modeling_rope_utils.py).
    pub fn new(spec: &RopeSpec) -> Self {
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
        Self { frequencies: frequencies.into_iter().map(|f| f as f32).collect(), scale: scale as f32 }
    }

    /// The angles of `position`.
    pub fn angles(&self, position: usize) -> Angles {
        let angle = |f: &f32| position as f32 * f;
        Angles {
            cos: self.frequencies.iter().map(|f| angle(f).cos() * self.scale).collect(),
            sin: self.frequencies.iter().map(|f| angle(f).sin() * self.scale).collect(),
        }
    }
}

impl Angles {
    /// Turns channel `i` with channel `i + dim / 2` of the first `dim` channels of `head`.
    pub fn rotate(&self, head: &mut [f32]) {
        let pairs = self.cos.len();
        let (first, rest) = head.split_at_mut(pairs);
        for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(&self.cos).zip(&self.sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
