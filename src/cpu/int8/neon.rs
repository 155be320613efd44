//! ARM's dot product extension: a line is four registers of four slots, and `sdot` the whole product of one.

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;
use std::ops::Range;

use super::Panels;
use super::pass;
use super::simd::Simd;
use super::strips::Ahead;
use crate::cpu::isa::Detected;
use crate::quant::Packed;
use crate::quant::packed::ROWS;

/// Proof of the dot product extension.
#[derive(Clone, Copy)]
pub struct Neon(());

/// Rows of a panel: their sums stay in registers.
pub const PANEL: usize = 4;

/// As [`super::strips::project`].
pub fn project(
    _proof: Detected,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    #[target_feature(enable = "neon,dotprod")]
    fn run(packed: &Packed, strips: Range<usize>, inputs: Panels<'_>, ahead: Ahead<'_>, out: &mut [[f32; ROWS]]) {
        pass::project::<_, PANEL>(Neon(()), packed, strips, inputs, ahead, out);
    }
    // SAFETY: the caller's `Isa::Neon` proves that the processor has the dot product extension.
    unsafe { run(packed, strips, inputs, ahead, out) }
}

/// `sum + ` the sums of each four products. The compiler has no stable intrinsic for this instruction.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot(sum: int32x4_t, codes: uint8x16_t, activations: int8x16_t) -> int32x4_t {
    let out;
    // SAFETY: one instruction between registers, of the extension that this function asks for.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {activations:v}.16b",
            sum = inlateout(vreg) sum => out,
            codes = in(vreg) codes,
            activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Four IEEE half-precision numbers. The intrinsic for it is younger than the compilers that this crate supports.
#[inline(always)]
fn singles(halves: uint8x8_t) -> float32x4_t {
    let out;
    // SAFETY: one instruction between registers, which every AArch64 processor has.
    unsafe {
        asm!(
            "fcvtl {out:v}.4s, {halves:v}.4h",
            out = lateout(vreg) out,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

// SAFETY of every block below: a value of `Neon` exists only inside `run` above, whose callers prove the dot products; all
// other instructions are what every AArch64 processor has; pointers are those of arrays of the length that is read or
// written.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type Bytes = [uint8x16_t; 4];
    type Splat = int8x16_t;
    type Pairs = [int32x4_t; 4];
    type Ints = [int32x4_t; 4];
    type Floats = [float32x4_t; 4];

    const LINES_OF_FIVE_BITS: usize = 8;
    const LINES_OF_SIX_BITS: usize = 4;
    const SIGNED_OFFSET: i32 = 0;
    const UNSIGNED_MAX: u8 = 127;
    const SIGNED_TABLES: bool = true;

    #[inline(always)]
    fn line(self, bytes: &[u8; 64]) -> [uint8x16_t; 4] {
        from_fn(|i| unsafe { vld1q_u8(bytes.as_ptr().add(16 * i)) })
    }

    #[inline(always)]
    fn rotated_line(self, bytes: &[u8; 64]) -> [uint8x16_t; 4] {
        let [a, b, c, d] = self.line(bytes);
        [c, d, a, b]
    }

    #[inline(always)]
    fn store_line(self, bytes: [uint8x16_t; 4], out: &mut [u8; 64]) {
        for (quarter, out) in bytes.into_iter().zip(out.as_chunks_mut::<16>().0) {
            unsafe { vst1q_u8(out.as_mut_ptr(), quarter) }
        }
    }

    #[inline(always)]
    fn splat(self, activations: u32) -> int8x16_t {
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(activations.cast_signed())) }
    }

    #[inline(always)]
    fn byte(self, byte: u8) -> [uint8x16_t; 4] {
        unsafe { [vdupq_n_u8(byte); 4] }
    }

    #[inline(always)]
    fn and(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        from_fn(|i| unsafe { vandq_u8(a[i], b[i]) })
    }

    #[inline(always)]
    fn or(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        from_fn(|i| unsafe { vorrq_u8(a[i], b[i]) })
    }

    #[inline(always)]
    fn left<const N: i32>(self, a: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        a.map(|a| unsafe { vshlq_n_u8::<N>(a) })
    }

    #[inline(always)]
    fn right<const N: i32>(self, a: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        a.map(|a| unsafe { vshrq_n_u8::<N>(a) })
    }

    #[inline(always)]
    fn table(self, entries: &[u8; 16]) -> [uint8x16_t; 4] {
        unsafe { [vld1q_u8(entries.as_ptr()); 4] }
    }

    #[inline(always)]
    fn look_up(self, table: [uint8x16_t; 4], codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        codes.map(|codes| unsafe { vqtbl1q_u8(table[0], codes) })
    }

    #[inline(always)]
    fn no_pairs(self) -> [int32x4_t; 4] {
        self.int(0)
    }

    #[inline(always)]
    fn add_small(self, pairs: [int32x4_t; 4], codes: [uint8x16_t; 4], activations: int8x16_t) -> [int32x4_t; 4] {
        self.add_signed(pairs, codes, activations)
    }

    #[inline(always)]
    fn join(self, sum: [int32x4_t; 4], pairs: [int32x4_t; 4]) -> [int32x4_t; 4] {
        self.add_ints(sum, pairs)
    }

    #[inline(always)]
    fn weights(self, weights: [int32x4_t; 4]) -> [int32x4_t; 4] {
        weights
    }

    #[inline(always)]
    fn join_weighted(self, sum: [int32x4_t; 4], pairs: [int32x4_t; 4], weights: [int32x4_t; 4]) -> [int32x4_t; 4] {
        from_fn(|i| unsafe { vmlaq_s32(sum[i], pairs[i], weights[i]) })
    }

    #[inline(always)]
    fn sub_weighted(self, sum: [int32x4_t; 4], sums: [i16; 2], weights: [[int32x4_t; 4]; 2]) -> [int32x4_t; 4] {
        let [first, second] = sums.map(|sum| -32 * i32::from(sum));
        from_fn(|i| unsafe { vmlaq_n_s32(vmlaq_n_s32(sum[i], weights[0][i], first), weights[1][i], second) })
    }

    #[inline(always)]
    fn add_unsigned(self, sum: [int32x4_t; 4], codes: [uint8x16_t; 4], activations: int8x16_t) -> [int32x4_t; 4] {
        self.add_signed(sum, codes, activations)
    }

    #[inline(always)]
    fn add_signed(self, sum: [int32x4_t; 4], codes: [uint8x16_t; 4], activations: int8x16_t) -> [int32x4_t; 4] {
        let quarter = |i: usize| unsafe { dot(sum[i], codes[i], activations) };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    fn int(self, value: i32) -> [int32x4_t; 4] {
        unsafe { [vdupq_n_s32(value); 4] }
    }

    #[inline(always)]
    fn add_ints(self, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        from_fn(|i| unsafe { vaddq_s32(a[i], b[i]) })
    }

    #[inline(always)]
    fn load_ints(self, values: &[i32; 16]) -> [int32x4_t; 4] {
        from_fn(|i| unsafe { vld1q_s32(values.as_ptr().add(4 * i)) })
    }

    #[inline(always)]
    fn store_ints(self, values: [int32x4_t; 4], out: &mut [i32; 16]) {
        for (quarter, out) in values.into_iter().zip(out.as_chunks_mut::<4>().0) {
            unsafe { vst1q_s32(out.as_mut_ptr(), quarter) }
        }
    }

    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; 16]) -> [int32x4_t; 4] {
        unsafe {
            let bytes = vld1q_s8(bytes.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        }
    }

    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; 16]) -> [int32x4_t; 4] {
        unsafe {
            let bytes = vld1q_u8(bytes.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)]
                .map(|words| vreinterpretq_s32_u32(words))
        }
    }

    #[inline(always)]
    fn k_fields(self, records: &[u8; 32]) -> [[int32x4_t; 4]; 2] {
        // Four fields of six bits lie in the low 24 bits of a record, and four in the next 24.
        let records = records.as_chunks::<8>().0;
        let fields = |word: u32| unsafe {
            let shifts = vld1q_s32([0, -6, -12, -18].as_ptr());
            vreinterpretq_s32_u32(vandq_u32(vshlq_u32(vdupq_n_u32(word), shifts), vdupq_n_u32(63)))
        };
        let word = |i: usize, at: usize| (u64::from_le_bytes(records[i]) >> at) as u32;
        [from_fn(|i| fields(word(i, 0))), from_fn(|i| fields(word(i, 24)))]
    }

    #[inline(always)]
    fn float(self, value: f32) -> [float32x4_t; 4] {
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn floats(self, ints: [int32x4_t; 4]) -> [float32x4_t; 4] {
        ints.map(|ints| unsafe { vcvtq_f32_s32(ints) })
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> [float32x4_t; 4] {
        from_fn(|i| singles(unsafe { vld1_u8(bytes.as_ptr().add(8 * i)) }))
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [float32x4_t; 4] {
        from_fn(|i| unsafe { vld1q_f32(values.as_ptr().add(4 * i)) })
    }

    #[inline(always)]
    fn store(self, values: [float32x4_t; 4], out: &mut [f32; 16]) {
        for (quarter, out) in values.into_iter().zip(out.as_chunks_mut::<4>().0) {
            unsafe { vst1q_f32(out.as_mut_ptr(), quarter) }
        }
    }

    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    fn mul_add(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }

    #[inline(always)]
    fn mul_sub_from(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        from_fn(|i| unsafe { vfmsq_f32(c[i], a[i], b[i]) })
    }
}
