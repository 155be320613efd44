//! Vector kernels in float32, compiled once for each tier.
//!
//! Each kernel is a plain loop over fixed-width lanes that the compiler vectorises; [`Isa`] picks the copy at run time.

use super::isa::Isa;
use super::vector_math::{exp, fma, map, sigmoid as sigmoid_of, softplus as softplus_of, sum, zip};

/// Bytes ahead of the weights in work that are asked for: the latency of memory at the rate of one core.
pub const PREFETCH: usize = 8192;

/// Asks for the cache line `ahead` bytes behind `at`, which need not exist.
#[inline(always)]
pub fn prefetch(at: *const u8, ahead: usize) {
    let at = at.wrapping_add(ahead);
    // SAFETY: a hint, which no address makes fail.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Sums of squares that run side by side.
const SUMS: usize = 32;

/// Defines `Isa::$name`, which calls the body compiled for the tier at hand. The body's first constant is whether the tier
/// has FMA; a second one, in brackets, is given for 16 registers of 32 bytes (or as many bytes), and for 32 of 64.
macro_rules! kernel {
    (
        $(#[$doc:meta])* $name:ident = $body:ident $([$few:literal, $many:literal])?
        ( $($arg:ident : $type:ty),* ) $(-> $result:ty)?
    ) => {
        impl Isa {
            $(#[$doc])*
            #[inline]
            pub fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    $body::<true $(, $few)?>($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    $body::<true $(, $many)?>($($arg),*)
                }
                match self {
                    // Every AArch64 processor has vectors and FMA: the code for any of them uses both.
                    Isa::Portable => $body::<{ cfg!(target_arch = "aarch64") } $(, $few)?>($($arg),*),
                    // SAFETY: the `Detected` of both variants proves that the processor has AVX2, FMA and F16C.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2(_) | Isa::AvxVnni(_) => unsafe { avx2($($arg),*) },
                    // SAFETY: the `Detected` of both variants proves the same and AVX-512 F, BW, DQ and VL.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512(_) | Isa::Amx(_) => unsafe { avx512($($arg),*) },
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon(_) => $body::<true $(, $few)?>($($arg),*),
                }
            }
        }
    };
}

pub(crate) use kernel;

/// What [`for_count`] counts to.
pub const MOST_COUNTED: usize = 12;

/// Calls `$call` with the constant `$N`, from 1 to `$most` and to [`MOST_COUNTED`] at most, that `$count` is.
macro_rules! for_count {
    ($count:expr, $most:ident, $N:ident => $call:expr) => {
        for_count!(@ $count, $most, $N, $call, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $count:expr, $most:ident, $N:ident, $call:expr, $($n:literal)*) => {
        match $count {
            $($n if $n <= $most => {
                const $N: usize = $n;
                $call
            })*
            _ => {}
        }
    };
}

pub(crate) use for_count;

kernel! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`.
    rms_norm = rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}

kernel! {
    /// `values[i] = exp(values[i] - minus)`.
    exp_in_place = exp_body(values: &mut [f32], minus: f32)
}
kernel! {
    /// `values[i] = exp(values[i] - minus)`, and the sum of the results: the two halves of a softmax whose maximum is `minus`.
    exp_sum = exp_sum_body(values: &mut [f32], minus: f32) -> f32
}
kernel! {
    /// `values[i] = 1 / (1 + exp(-values[i]))`.
    sigmoid_in_place = sigmoid_body(values: &mut [f32])
}
kernel! {
    /// `values[i] = values[i] / (1 + exp(-values[i]))`.
    silu_in_place = silu_body(values: &mut [f32])
}
kernel! {
    /// `values[i] = ln(1 + exp(values[i]))`, linear above 20 as `torch.nn.functional.softplus`.
    softplus_in_place = softplus_body(values: &mut [f32])
}
kernel! {
    /// `out[i] = silu(gate[i]) * up[i]`, the middle of a SwiGLU; all have one length.
    silu_mul = silu_mul_body(gate: &[f32], up: &[f32], out: &mut [f32])
}
kernel! {
    /// `values[i] *= sigmoid(gates[i])`: gated attention's output; both have one length.
    mul_sigmoid = mul_sigmoid_body(values: &mut [f32], gates: &[f32])
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<SUMS>();
    let mut sums = [0f32; SUMS];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = fma::<FMA>(*x, *x, *sum);
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

#[inline(always)]
fn exp_body<const FMA: bool>(values: &mut [f32], minus: f32) {
    map(values, |x| exp::<FMA>(x - minus));
}

#[inline(always)]
fn exp_sum_body<const FMA: bool>(values: &mut [f32], minus: f32) -> f32 {
    map(values, |x| exp::<FMA>(x - minus));
    sum(values)
}

#[inline(always)]
fn sigmoid_body<const FMA: bool>(values: &mut [f32]) {
    map(values, sigmoid_of::<FMA>);
}

#[inline(always)]
fn silu_body<const FMA: bool>(values: &mut [f32]) {
    map(values, |x| x * sigmoid_of::<FMA>(x));
}

#[inline(always)]
fn softplus_body<const FMA: bool>(values: &mut [f32]) {
    map(values, softplus_of::<FMA>);
}

#[inline(always)]
fn silu_mul_body<const FMA: bool>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    zip(gate, up, out, |gate, up| gate * sigmoid_of::<FMA>(gate) * up);
}

#[inline(always)]
fn mul_sigmoid_body<const FMA: bool>(values: &mut [f32], gates: &[f32]) {
    for (values, gates) in values.chunks_mut(16).zip(gates.chunks(16)) {
        let mut factors = [0.0; 16];
        let factors = &mut factors[..gates.len()];
        factors.copy_from_slice(gates);
        map(factors, sigmoid_of::<FMA>);
        values.iter_mut().zip(factors).for_each(|(x, factor)| *x *= *factor);
    }
}

/// `1 / (1 + exp(-x))`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + exp(x))`, linear above 20 as `torch.nn.functional.softplus`.
#[inline]
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use crate::cpu::testing::{assert_close, tiers, values};

    #[test]
    fn rms_norm_matches_float64_at_odd_sizes() {
        for len in [1, 7, 8, 31, 64, 100] {
            let (x, weight) = (values(2, len), values(3, len));
            for isa in tiers() {
                let mut out = vec![f32::NAN; len];
                isa.rms_norm(&x, &weight, 1e-6, &mut out);
                let squares = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
                let scale = 1.0 / (squares / len as f64 + 1e-6).sqrt();
                let expected: Vec<f64> = x.iter().zip(&weight).map(|(x, w)| f64::from(x * w) * scale).collect();
                assert_close(&out, &expected, "rms_norm");
            }
        }
    }
}
