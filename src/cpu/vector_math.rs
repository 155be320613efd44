//! Exponentials and what the network builds from them, as loops that the compiler vectorises.
//!
//! The functions here are inlined into the kernels of each tier. Relative errors are at most 2 units in the last place for
//! `exp`, 4 for the others. Results below 1e-29 may come out as zero: some processors take a hundred times as long for a
//! product whose result is denormal, and decays and attention weights are full of them.

/// Values that one step of a loop takes.
const LANES: usize = 16;

/// The bits of a float whose last place is worth 1: adding it rounds to a whole number, which its low bits then hold.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; products of the first with numbers below 2^9 are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `a * b + c`, rounded once where the tier has an instruction for that.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `a > b` keeps NaN in `x`, which `f32::max` and `min` would drop.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > high { high } else { x };
    if x < low { low } else { x }
}

/// Where [`exp`] becomes zero.
const SMALLEST: f32 = -69.0;

/// `exp(x)`: Cody and Waite's reduction to |r| <= ln(2) / 2 and the polynomial of Cephes' `expf`. Infinity above 88.7, zero
/// below [`SMALLEST`], NaN for NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let vanishes = x < SMALLEST;
    let x = clamp(x, SMALLEST, 89.0);
    let rounded = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FMA>(n, -LN_2[1], fma::<FMA>(n, -LN_2[0], x));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let p = fma::<FMA>(p, r * r, r) + 1.0;
    // 2^n as two factors: each is a number where the product is none.
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let result = p * power(half) * power(n.wrapping_sub(half));
    if vanishes { 0.0 } else { result }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `ln(1 + exp(x))`, linear above 20 as `torch.nn.functional.softplus`.
#[inline(always)]
pub fn softplus<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(if x > 20.0 { 20.0 } else { x });
    // 1 + e, rounded, and what the rounding lost (Kahan's log1p).
    let y = 1.0 + e;
    let lost = e - (y - 1.0);
    let log = ln::<FMA>(y) + lost / y;
    if x > 20.0 { x } else { log }
}

/// `ln(x)` of a normal number of at least 1: the polynomial of Cephes' `logf`.
#[inline(always)]
fn ln<const FMA: bool>(x: f32) -> f32 {
    // The mantissa in sqrt(1/2)..sqrt(2).
    let bits = x.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = (bits as i32) >> 23;
    let mantissa = f32::from_bits((bits & 0x7f_ffff).wrapping_add(std::f32::consts::FRAC_1_SQRT_2.to_bits()));
    let m = mantissa - 1.0;
    let z = m * m;
    let mut p = 7.037_683_6e-2;
    for c in [
        -1.151_461e-1,
        1.167_699_87e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = fma::<FMA>(p, m, c);
    }
    let e = exponent as f32;
    let tail = fma::<FMA>(e, LN_2[1], fma::<FMA>(p * m, z, -0.5 * z));
    // NaN has an exponent and a mantissa as any other number has.
    let sum = fma::<FMA>(e, LN_2[0], m + tail);
    if x.is_nan() { x } else { sum }
}

/// `values[i] = f(values[i])`. A loop and not the arrays' `map`, which is a function of its own without the tier's
/// instructions where the compiler does not inline it.
#[inline(always)]
pub fn map(values: &mut [f32], f: impl Fn(f32) -> f32) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for x in chunk {
            *x = f(*x);
        }
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for x in &mut last {
            *x = f(*x);
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `out[i] = f(a[i], b[i])`; all have one length.
#[inline(always)]
pub fn zip(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    for ((out, a), b) in chunks.iter_mut().zip(a).zip(b) {
        for i in 0..LANES {
            out[i] = f(a[i], b[i]);
        }
    }
    if !rest.is_empty() {
        let mut last = [[0.0; LANES]; 2];
        for (last, rest) in last.iter_mut().zip([a_rest, b_rest]) {
            let len = rest.len().min(LANES);
            last[..len].copy_from_slice(&rest[..len]);
        }
        let mut values = [0.0; LANES];
        for (i, value) in values.iter_mut().enumerate() {
            *value = f(last[0][i], last[1][i]);
        }
        rest.copy_from_slice(&values[..rest.len()]);
    }
}

/// The sum of all values, by lanes.
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use crate::cpu::isa::Isa;
    use crate::cpu::testing::tiers;

    /// The size below which only the absolute error counts: 1 / (1 + exp(-x)) ends where exp(-x) does.
    const TINY: f64 = 1e-29;

    /// How far `found` is from `expected`, in units of the last place of a float of that size, of [`TINY`] for smaller ones.
    fn ulps(found: f32, expected: f64) -> f64 {
        let rounded = expected as f32;
        if found == rounded || found.is_nan() && expected.is_nan() {
            return 0.0;
        }
        if expected.abs() < TINY {
            return (f64::from(found) - expected).abs() / TINY;
        }
        let size = rounded.abs();
        let place = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
        (f64::from(found) - expected).abs() / place
    }

    /// Numbers over all magnitudes from 1e-30 to 110, both signs, and the special ones.
    fn arguments() -> Vec<f32> {
        let mut all: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 * 0.005_5).collect();
        all.extend((0..300).flat_map(|i| [1.0, -1.0].map(|s| s * 10f32.powf(i as f32 / 9.0 - 31.0))));
        all.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 88.722_83, 88.722_84]);
        all
    }

    fn check(name: &str, limit: f64, found: impl Fn(Isa, &[f32]) -> Vec<f32>, expected: impl Fn(f64) -> f64) {
        let x = arguments();
        for isa in tiers() {
            let found = found(isa, &x);
            let mut worst = (0.0, 0.0);
            for (x, found) in x.iter().zip(&found) {
                let error = ulps(*found, expected(f64::from(*x)));
                assert!(error <= limit, "{name}({x}) on {}: {found} for {}", isa.name(), expected(f64::from(*x)));
                worst = if error > worst.0 { (error, *x) } else { worst };
            }
            println!("{name} on {}: {:.2} units in the last place at {}", isa.name(), worst.0, worst.1);
        }
    }

    fn in_place(f: impl Fn(Isa, &mut [f32])) -> impl Fn(Isa, &[f32]) -> Vec<f32> {
        move |isa, x| {
            let mut values = x.to_vec();
            f(isa, &mut values);
            values
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        check("exp", 2.0, in_place(|isa, x| isa.exp_in_place(x, 0.0)), f64::exp);
    }

    #[test]
    fn sigmoid_silu_and_softplus_are_within_four_units_in_the_last_place() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        check("sigmoid", 4.0, in_place(|isa, x| isa.sigmoid_in_place(x)), sigmoid);
        check("silu", 4.0, in_place(|isa, x| isa.silu_in_place(x)), |x| x * sigmoid(x));
        let softplus = |x: f64| if x > 20.0 { x } else { x.exp().ln_1p() };
        check("softplus", 4.0, in_place(|isa, x| isa.softplus_in_place(x)), softplus);
    }

    #[test]
    fn products_with_gates_and_sums_hold_at_every_length() {
        for isa in tiers() {
            for len in [0, 1, 3, 15, 16, 17, 40] {
                let a: Vec<f32> = (0..len).map(|i| i as f32 * 0.375 - 5.0).collect();
                let b: Vec<f32> = (0..len).map(|i| 3.0 - i as f32 * 0.25).collect();
                let sigmoid = |x: f32| 1.0 / (1.0 + f64::from(-x).exp());
                let mut out = vec![f32::NAN; len];
                isa.silu_mul(&a, &b, &mut out);
                for i in 0..len {
                    let expected = f64::from(a[i]) * sigmoid(a[i]) * f64::from(b[i]);
                    assert!(ulps(out[i], expected) <= 5.0, "silu_mul {i} of {len}");
                }
                let mut out = a.clone();
                isa.mul_sigmoid(&mut out, &b);
                for i in 0..len {
                    assert!(ulps(out[i], f64::from(a[i]) * sigmoid(b[i])) <= 5.0, "mul_sigmoid {i} of {len}");
                }
                let mut values = a.clone();
                let sum = isa.exp_sum(&mut values, 1.5);
                let expected: f64 = a.iter().map(|x| (f64::from(*x) - 1.5).exp()).sum();
                assert!((f64::from(sum) - expected).abs() <= 1e-6 * expected, "{sum} for {expected}");
                for i in 0..len {
                    assert!(ulps(values[i], (f64::from(a[i]) - 1.5).exp()) <= 2.0);
                }
            }
        }
    }
}
