//! Between float32 and what the KV cache stores, by slices.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::stored::floats;
use crate::cpu::isa::Isa;
use crate::cpu::kernels::kernel;
use crate::state::KvFormat;

kernel! {
    /// `out = source`.
    f16_to_f32 = f16_to_f32_body(source: &[f16], out: &mut [f32])
}
kernel! {
    /// `out = source`, to nearest.
    f32_to_f16 = f32_to_f16_body(source: &[f32], out: &mut [f16])
}
kernel! {
    /// `out[i] = codes[i] * scales[i / KvFormat::BLOCK]`.
    q8_0_to_f32 = q8_0_to_f32_body(codes: &[i8], scales: &[f16], out: &mut [f32])
}
kernel! {
    /// Quantises `source`, whole blocks of [`KvFormat::BLOCK`].
    f32_to_q8_0 = f32_to_q8_0_body(source: &[f32], codes: &mut [i8], scales: &mut [f16])
}

#[inline(always)]
fn f16_to_f32_body<const FMA: bool>(source: &[f16], out: &mut [f32]) {
    let ((chunks, rest), (out, out_rest)) = (source.as_chunks(), out.as_chunks_mut());
    for (chunk, out) in chunks.iter().zip(out) {
        *out = floats::<FMA>(chunk);
    }
    rest.iter().zip(out_rest).for_each(|(half, out)| *out = half.to_f32());
}

#[inline(always)]
fn f32_to_f16_body<const FMA: bool>(source: &[f32], out: &mut [f16]) {
    out.convert_from_f32_slice(source);
}

#[inline(always)]
fn q8_0_to_f32_body<const FMA: bool>(codes: &[i8], scales: &[f16], out: &mut [f32]) {
    /// Scales that are converted together.
    const TOGETHER: usize = 64;
    let mut floats = [0f32; TOGETHER];
    let parts = codes.chunks(TOGETHER * KvFormat::BLOCK).zip(out.chunks_mut(TOGETHER * KvFormat::BLOCK));
    for (scales, (codes, out)) in scales.chunks(TOGETHER).zip(parts) {
        f16_to_f32_body::<FMA>(scales, &mut floats[..scales.len()]);
        let blocks = codes.as_chunks::<{ KvFormat::BLOCK }>().0.iter().zip(out.as_chunks_mut().0);
        for (scale, (codes, out)) in floats.iter().zip(blocks) {
            let out: &mut [f32; KvFormat::BLOCK] = out;
            for (out, code) in out.iter_mut().zip(codes) {
                *out = f32::from(*code) * scale;
            }
        }
    }
}

#[inline(always)]
fn f32_to_q8_0_body<const FMA: bool>(source: &[f32], codes: &mut [i8], scales: &mut [f16]) {
    let blocks = source.as_chunks::<{ KvFormat::BLOCK }>().0.iter().zip(codes.as_chunks_mut().0);
    for (scale, (source, codes)) in scales.iter_mut().zip(blocks) {
        let codes: &mut [i8; KvFormat::BLOCK] = codes;
        let largest = source.iter().fold(0f32, |m, x| m.max(x.abs()));
        // `max` passes NaN over; the sum does not, and a scale that is NaN keeps the failure visible.
        let failed = source.iter().map(|x| x.abs()).sum::<f32>().is_nan();
        *scale = f16::from_f32(if failed { f32::NAN } else { largest / 127.0 });
        // Against the scale as it is stored, so that its rounding is not added to the codes' own.
        let stored = scale.to_f32();
        let inverse = if stored > 0.0 && stored.is_finite() { 1.0 / stored } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(source) {
            *code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{tiers, values};

    #[test]
    fn half_precision_comes_back_as_it_was_rounded() {
        for len in [1, 7, 8, 64, 100] {
            let source = values(1, len);
            let expected: Vec<f32> = source.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
            for isa in tiers() {
                let (mut stored, mut out) = (vec![f16::NAN; len], vec![f32::NAN; len]);
                isa.f32_to_f16(&source, &mut stored);
                isa.f16_to_f32(&stored, &mut out);
                assert_eq!(out, expected, "{isa:?}, {len} values");
            }
        }
        let special =
            [f16::INFINITY, f16::NEG_INFINITY, f16::MAX, f16::MIN_POSITIVE_SUBNORMAL, f16::NEG_ZERO, f16::NAN];
        for isa in tiers() {
            let mut out = [0f32; 6];
            isa.f16_to_f32(&special, &mut out);
            assert_eq!(out.map(f32::to_bits), special.map(|x| x.to_f32().to_bits()));
        }
    }

    #[test]
    fn bytes_with_scales_are_off_by_half_a_step_at_most() {
        let zeros = vec![0f32; KvFormat::BLOCK];
        let mut source: Vec<f32> = values(2, 70 * KvFormat::BLOCK);
        for (i, block) in source.chunks_mut(KvFormat::BLOCK).enumerate() {
            block.iter_mut().for_each(|x| *x *= 1.7f32.powi(i as i32 % 20 - 10));
        }
        source.extend(&zeros);
        for isa in tiers() {
            let (mut codes, mut scales) = (vec![99i8; source.len()], vec![f16::NAN; source.len() / KvFormat::BLOCK]);
            let mut out = vec![f32::NAN; source.len()];
            isa.f32_to_q8_0(&source, &mut codes, &mut scales);
            isa.q8_0_to_f32(&codes, &scales, &mut out);
            for (source, out) in source.chunks(KvFormat::BLOCK).zip(out.chunks(KvFormat::BLOCK)) {
                let largest = source.iter().fold(0f32, |m, x| m.max(x.abs()));
                // Half a step of a scale that was rounded to half precision, which can cut the largest value.
                let limit = largest / 127.0 * 0.51 + largest * 0.0006;
                assert!(source.iter().zip(out).all(|(s, o)| (s - o).abs() <= limit), "{isa:?}: {source:?}, {out:?}");
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_spoils_its_block_and_no_other() {
        let mut source = values(3, 2 * KvFormat::BLOCK);
        source[5] = f32::NAN;
        for isa in tiers() {
            let (mut codes, mut scales) = (vec![0i8; source.len()], [f16::ZERO; 2]);
            let mut out = vec![0f32; source.len()];
            isa.f32_to_q8_0(&source, &mut codes, &mut scales);
            isa.q8_0_to_f32(&codes, &scales, &mut out);
            assert!(out[..KvFormat::BLOCK].iter().all(|x| x.is_nan()));
            assert!(out[KvFormat::BLOCK..].iter().all(|x| x.is_finite()));
        }
    }
}
