//! What the tests of kernels share.

use super::isa::Isa;

/// A reproducible sequence of values in -1..1 that are not round.
pub fn values(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435769).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The tiers that this processor can run; says which it lacks.
pub fn tiers() -> Vec<Isa> {
    let tiers = Isa::available();
    for name in Isa::NAMES.iter().filter(|name| tiers.iter().all(|isa| isa.name() != **name)) {
        println!("SKIPPED: this processor has no {name}, its kernels are not tested here");
    }
    tiers
}

/// Fails unless every value is within 1e-5 of the largest expected one.
pub fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(1e-30, |m: f64, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() / largest < 1e-5, "{what}, value {i}: {f} for {e}");
    }
}
