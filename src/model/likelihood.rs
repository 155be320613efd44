//! Likelihoods as whole numbers: their sums do not depend on the order of the terms, and every processor finds the same.
//!
//! `kernels/sample/likelihood.cuh` has the same functions. The exponential is spelled out in multiplications and additions
//! that round to the nearest, which are the same everywhere, and not left to a library.

/// The weight of the most likely token. Those of 2^19 tokens have their sum below 2^63.
pub const ONE: u64 = 1 << 44;

/// `floor(2^44 e^x)` for `x` of 0 or less: what a token weighs whose logit is less than the largest one by so much. Off by
/// three units of the last place of a float32 at most; 0 below e^-31.
#[inline]
pub fn weight(x: f32) -> u64 {
    const LEAST: f32 = -31.0;
    if x < LEAST {
        return 0;
    }
    // Cephes' expf: e^x = 2^n e^r with |r| ≤ ln(2)/2. Adding and taking away 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        p = p * r + c;
    }
    let e_to_r = (p * (r * r) + r) + 1.0;
    let scale = f32::from_bits(((n as i32 + 127 + 44) << 23) as u32);
    (e_to_r * scale) as u64
}

/// The least weight that min-p leaves, and so that can be drawn.
pub fn least_weight(min_p: f32) -> u64 {
    ((f64::from(min_p) * ONE as f64).ceil() as u64).max(1)
}

/// A share in (0, 1) in units of 2^-64; 0 stands for all.
pub fn share(top_p: f32) -> u64 {
    if top_p >= 1.0 { 0 } else { ((f64::from(top_p) * 2f64.powi(64)) as u64).max(1) }
}

/// The smallest whole number that is at least `share`, in units of 2^-64, of `total`.
pub fn mass(share: u64, total: u64) -> u64 {
    (u128::from(share) * u128::from(total)).div_ceil(1 << 64) as u64
}

/// A number below `total` that is as large a part of it as `random` of 2^64.
pub fn drawn(random: u64, total: u64) -> u64 {
    ((u128::from(random) * u128::from(total)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exponentials() {
        assert_eq!((weight(0.0), weight(-0.0)), (ONE, ONE));
        for i in 1..400_000 {
            let x = i as f32 * -1e-4;
            let exact = f64::from(x).exp() * ONE as f64;
            let found = weight(x) as f64;
            assert!((found - exact).abs() <= exact * 2e-7 + 1.0, "e^{x}: {found}, expected {exact}");
        }
        assert_eq!([-31.1, -1e30, f32::NEG_INFINITY].map(weight), [0; 3]);
    }

    #[test]
    fn masses_are_rounded_up_and_draws_stay_below_the_total() {
        assert_eq!(mass(share(0.5), 5000 * ONE), 2500 * ONE);
        assert_eq!((mass(share(0.5), 5), mass(share(0.25), 1), mass(share(1e-30), 7)), (3, 1, 1));
        assert_eq!((drawn(u64::MAX, 10), drawn(1 << 63, 10), drawn(0, 10)), (9, 5, 0));
        assert_eq!((share(1.0), share(0.75)), (0, 3 << 62));
        assert_eq!((least_weight(0.0), least_weight(0.5), least_weight(1.0)), (1, ONE / 2, ONE));
    }
}
