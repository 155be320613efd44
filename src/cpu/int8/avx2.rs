//! AVX2, and AVX-VNNI: a line is two registers of eight slots.
//!
//! AVX2's `vpmaddubsw` multiplies unsigned codes with signed activations and adds pairs in 16 bits, which saturate: small
//! codes are summed there (8 lines of codes up to 15 are at most 8 * 2 * 15 * 127), larger ones are widened line by line.
//! AVX-VNNI's `vpdpbusd` sums four products in 32 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Panels;
use super::pass;
use super::simd::Simd;
use super::strips::Ahead;
use crate::cpu::isa::Detected;
use crate::quant::Packed;
use crate::quant::packed::ROWS;

/// Proof of AVX2, FMA and F16C, and of AVX-VNNI where `VNNI`.
#[derive(Clone, Copy)]
pub struct Avx2<const VNNI: bool>(());

/// Rows of a panel: their sums stay in registers.
pub const PANEL: usize = 4;

/// As [`super::strips::project`], with AVX2.
pub fn project(
    _proof: Detected,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run(packed: &Packed, strips: Range<usize>, inputs: Panels<'_>, ahead: Ahead<'_>, out: &mut [[f32; ROWS]]) {
        pass::project::<_, PANEL>(Avx2::<false>(()), packed, strips, inputs, ahead, out);
    }
    // SAFETY: the caller's `Isa::Avx2` or a better one proves that the processor has AVX2, FMA and F16C.
    unsafe { run(packed, strips, inputs, ahead, out) }
}

/// As [`super::strips::project`], with AVX-VNNI.
pub fn project_vnni(
    _proof: Detected,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn run(packed: &Packed, strips: Range<usize>, inputs: Panels<'_>, ahead: Ahead<'_>, out: &mut [[f32; ROWS]]) {
        pass::project::<_, PANEL>(Avx2::<true>(()), packed, strips, inputs, ahead, out);
    }
    // SAFETY: the caller's `Isa::AvxVnni` proves that the processor has AVX2, FMA, F16C and AVX-VNNI.
    unsafe { run(packed, strips, inputs, ahead, out) }
}

// SAFETY of every block below: a value of `Avx2` exists only inside `run` of the functions above, whose callers prove the
// instructions; pointers are those of arrays of the length that is read or written.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type Bytes = [__m256i; 2];
    type Splat = __m256i;
    type Pairs = [__m256i; 2];
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    const LINES_OF_FIVE_BITS: usize = if VNNI { 8 } else { 4 };
    const LINES_OF_SIX_BITS: usize = if VNNI { 4 } else { 2 };
    const SIGNED_OFFSET: i32 = if VNNI { 128 } else { 0 };
    const UNSIGNED_MAX: u8 = if VNNI { 255 } else { 127 };
    const SIGNED_TABLES: bool = false;

    #[inline(always)]
    fn line(self, bytes: &[u8; 64]) -> [__m256i; 2] {
        let halves = bytes.as_ptr().cast::<__m256i>();
        unsafe { [_mm256_loadu_si256(halves), _mm256_loadu_si256(halves.add(1))] }
    }

    #[inline(always)]
    fn rotated_line(self, bytes: &[u8; 64]) -> [__m256i; 2] {
        let [a, b] = self.line(bytes);
        [b, a]
    }

    #[inline(always)]
    fn store_line(self, bytes: [__m256i; 2], out: &mut [u8; 64]) {
        let halves = out.as_mut_ptr().cast::<__m256i>();
        unsafe {
            _mm256_storeu_si256(halves, bytes[0]);
            _mm256_storeu_si256(halves.add(1), bytes[1]);
        }
    }

    #[inline(always)]
    fn splat(self, activations: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(activations.cast_signed()) }
    }

    #[inline(always)]
    fn byte(self, byte: u8) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi8(byte.cast_signed()); 2] }
    }

    #[inline(always)]
    fn and(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn left<const N: i32>(self, a: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_slli_epi16::<N>(a[0]), _mm256_slli_epi16::<N>(a[1])] }
    }

    #[inline(always)]
    fn right<const N: i32>(self, a: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_srli_epi16::<N>(a[0]), _mm256_srli_epi16::<N>(a[1])] }
    }

    #[inline(always)]
    fn table(self, entries: &[u8; 16]) -> [__m256i; 2] {
        unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(entries.as_ptr().cast())); 2] }
    }

    #[inline(always)]
    fn look_up(self, table: [__m256i; 2], codes: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_shuffle_epi8(table[0], codes[0]), _mm256_shuffle_epi8(table[0], codes[1])] }
    }

    #[inline(always)]
    fn no_pairs(self) -> [__m256i; 2] {
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn add_small(self, pairs: [__m256i; 2], codes: [__m256i; 2], activations: __m256i) -> [__m256i; 2] {
        if VNNI {
            return self.add_unsigned(pairs, codes, activations);
        }
        let add = |pairs, codes| unsafe { _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes, activations)) };
        unsafe { together([add(pairs[0], codes[0]), add(pairs[1], codes[1])]) }
    }

    #[inline(always)]
    fn join(self, sum: [__m256i; 2], pairs: [__m256i; 2]) -> [__m256i; 2] {
        if VNNI {
            return self.add_ints(sum, pairs);
        }
        let widen = |sum, pairs| unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) };
        [widen(sum[0], pairs[0]), widen(sum[1], pairs[1])]
    }

    #[inline(always)]
    fn weights(self, weights: [__m256i; 2]) -> [__m256i; 2] {
        if VNNI {
            return weights;
        }
        let twice = |w| unsafe { _mm256_blend_epi16::<0b1010_1010>(w, _mm256_slli_epi32::<16>(w)) };
        [twice(weights[0]), twice(weights[1])]
    }

    #[inline(always)]
    fn join_weighted(self, sum: [__m256i; 2], pairs: [__m256i; 2], weights: [__m256i; 2]) -> [__m256i; 2] {
        if VNNI {
            let join = |sum, pairs, w| unsafe { _mm256_add_epi32(sum, _mm256_mullo_epi32(pairs, w)) };
            return [join(sum[0], pairs[0], weights[0]), join(sum[1], pairs[1], weights[1])];
        }
        let join = |sum, pairs, w| unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, w)) };
        [join(sum[0], pairs[0], weights[0]), join(sum[1], pairs[1], weights[1])]
    }

    #[inline(always)]
    fn sub_weighted(self, sum: [__m256i; 2], sums: [i16; 2], [a, b]: [[__m256i; 2]; 2]) -> [__m256i; 2] {
        let [first, second] = [i32::from(sums[0]), i32::from(sums[1])];
        let half = |sum, a, b| unsafe {
            // Both weights of a slot as 16-bit numbers.
            let b = if VNNI { _mm256_slli_epi32::<16>(b) } else { b };
            let both = _mm256_blend_epi16::<0b1010_1010>(a, b);
            let weighted = _mm256_madd_epi16(both, _mm256_set1_epi32(first & 0xffff | second << 16));
            _mm256_sub_epi32(sum, _mm256_slli_epi32::<5>(weighted))
        };
        [half(sum[0], a[0], b[0]), half(sum[1], a[1], b[1])]
    }

    #[inline(always)]
    fn add_unsigned(self, sum: [__m256i; 2], codes: [__m256i; 2], activations: __m256i) -> [__m256i; 2] {
        let add = |sum, codes| unsafe {
            if VNNI {
                _mm256_dpbusd_avx_epi32(sum, codes, activations)
            } else {
                let pairs = _mm256_maddubs_epi16(codes, activations);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        };
        [add(sum[0], codes[0]), add(sum[1], codes[1])]
    }

    #[inline(always)]
    fn add_signed(self, sum: [__m256i; 2], codes: [__m256i; 2], activations: __m256i) -> [__m256i; 2] {
        let add = |sum, codes| unsafe {
            if VNNI {
                let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                _mm256_dpbusd_avx_epi32(sum, codes, activations)
            } else {
                // The sign goes to the activations. -128 becomes an unsigned 128.
                let signed = _mm256_sign_epi8(activations, codes);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signed);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        };
        [add(sum[0], codes[0]), add(sum[1], codes[1])]
    }

    #[inline(always)]
    fn int(self, value: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn add_ints(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn load_ints(self, values: &[i32; 16]) -> [__m256i; 2] {
        let halves = values.as_ptr().cast::<__m256i>();
        unsafe { [_mm256_loadu_si256(halves), _mm256_loadu_si256(halves.add(1))] }
    }

    #[inline(always)]
    fn store_ints(self, values: [__m256i; 2], out: &mut [i32; 16]) {
        let halves = out.as_mut_ptr().cast::<__m256i>();
        unsafe {
            _mm256_storeu_si256(halves, values[0]);
            _mm256_storeu_si256(halves.add(1), values[1]);
        }
    }

    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; 16]) -> [__m256i; 2] {
        let [low, high] = eights(bytes);
        unsafe { [_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(low)), _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(high))] }
    }

    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; 16]) -> [__m256i; 2] {
        let [low, high] = eights(bytes);
        unsafe { [_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(low)), _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(high))] }
    }

    #[inline(always)]
    fn k_fields(self, records: &[u8; 32]) -> [[__m256i; 2]; 2] {
        unsafe {
            let mask = _mm256_set1_epi32(63);
            let shifts = _mm256_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18);
            // A record a 128-bit lane: its low 24 bits, and the 24 bits above them, into each of four words.
            let low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
            let middle = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6));
            let pairs = records.as_ptr().cast::<__m128i>();
            let pair = |i| {
                let pair = _mm256_castsi128_si256(_mm_loadu_si128(pairs.add(i)));
                _mm256_permute4x64_epi64::<0b01_01_00_00>(pair)
            };
            let field =
                |records, which| _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi8(records, which), shifts), mask);
            let (a, b) = (pair(0), pair(1));
            [[field(a, low), field(b, low)], [field(a, middle), field(b, middle)]]
        }
    }

    #[inline(always)]
    fn float(self, value: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn floats(self, ints: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])] }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> [__m256; 2] {
        let halves = bytes.as_ptr().cast::<__m128i>();
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1)))] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, values: [__m256; 2], out: &mut [f32; 16]) {
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn mul_sub_from(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])] }
    }
}

/// The compiler computes both halves here, one after the other. Left alone it computes all sums of small codes of one half
/// first, and keeps every activation in memory until then.
#[inline]
#[target_feature(enable = "avx2")]
fn together(halves: [__m256i; 2]) -> [__m256i; 2] {
    let [mut a, mut b] = halves;
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("/* {0} {1} */", inout(ymm_reg) a, inout(ymm_reg) b, options(nomem, nostack, preserves_flags))
    };
    [a, b]
}

/// Both halves of 16 bytes.
#[inline(always)]
fn eights(bytes: &[u8; 16]) -> [i64; 2] {
    let all = u128::from_le_bytes(*bytes);
    [(all as u64).cast_signed(), ((all >> 64) as u64).cast_signed()]
}
