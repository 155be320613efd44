//! AVX-512 with VNNI: a line is one register, a slot one of its 32-bit lanes, and `vpdpbusd` the whole product.
//!
//! AMX multiplies 16 rows of activations with the eight decoded lines of a tile at once; the lines are what it calls a tile
//! in VNNI format. Its instructions have no stable intrinsics.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::Panels;
use super::activations::{CODES, WORDS};
use super::pass;
use super::simd::Simd;
use super::strips::Ahead;
use crate::cpu::isa::Detected;
use crate::quant::Packed;
use crate::quant::packed::ROWS;

/// Proof of AVX-512 F, BW, DQ, VL and VNNI, and of all that AVX2 proves; where `TILES`, of AMX with int8, too.
#[derive(Clone, Copy)]
pub struct Avx512<const TILES: bool>(());

/// Rows of a panel: 12 sums of a tile and 12 of the strip leave eight registers for codes and scales.
pub const PANEL: usize = 12;

/// As [`super::strips::project`].
pub fn project(
    _proof: Detected,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn run(packed: &Packed, strips: Range<usize>, inputs: Panels<'_>, ahead: Ahead<'_>, out: &mut [[f32; ROWS]]) {
        pass::project::<_, PANEL>(Avx512::<false>(()), packed, strips, inputs, ahead, out);
    }
    // SAFETY: the caller's `Isa::Avx512` or `Isa::Amx` proves that the processor has these instructions.
    unsafe { run(packed, strips, inputs, ahead, out) }
}

/// As [`super::strips::project`], with AMX tiles for many rows.
pub fn project_tiles(
    proof: Detected,
    packed: &Packed,
    strips: Range<usize>,
    inputs: Panels<'_>,
    ahead: Ahead<'_>,
    out: &mut [[f32; ROWS]],
) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn run(packed: &Packed, strips: Range<usize>, inputs: Panels<'_>, ahead: Ahead<'_>, out: &mut [[f32; ROWS]]) {
        pass::project::<_, PANEL>(Avx512::<true>(()), packed, strips, inputs, ahead, out);
    }
    if inputs.rows() < pass::ROWS_FOR_TILES {
        return project(proof, packed, strips, inputs, ahead, out);
    }
    let _released = Released;
    // SAFETY: the caller's `Isa::Amx` proves that the processor has these instructions, and tiles that the process may use.
    unsafe { run(packed, strips, inputs, ahead, out) }
}

/// Gives the thread's tiles back at its end: what a thread leaves configured every switch of threads saves and loads.
struct Released;

impl Drop for Released {
    fn drop(&mut self) {
        // SAFETY: made by `project_tiles` only, whose caller proves that the processor has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

// SAFETY of every block below: a value of `Avx512` exists only inside `run` of the functions above, whose callers prove the
// instructions; pointers are those of arrays of the length that is read or written.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const TILES: bool> Simd for Avx512<TILES> {
    type Bytes = __m512i;
    type Splat = __m512i;
    type Pairs = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    const STRAIGHT_ROWS: usize = PANEL;
    const LINES_OF_FIVE_BITS: usize = 8;
    const LINES_OF_SIX_BITS: usize = 4;
    const SIGNED_OFFSET: i32 = 128;
    const UNSIGNED_MAX: u8 = 255;
    const SIGNED_TABLES: bool = false;

    #[inline(always)]
    fn line(self, bytes: &[u8; 64]) -> __m512i {
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn rotated_line(self, bytes: &[u8; 64]) -> __m512i {
        let line = self.line(bytes);
        unsafe { _mm512_shuffle_i64x2::<0b01_00_11_10>(line, line) }
    }

    #[inline(always)]
    fn store_line(self, bytes: __m512i, out: &mut [u8; 64]) {
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), bytes) }
    }

    #[inline(always)]
    fn splat(self, activations: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(activations.cast_signed()) }
    }

    #[inline(always)]
    fn byte(self, byte: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(byte.cast_signed()) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn left<const N: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi16(a, _mm_cvtsi32_si128(N)) }
    }

    #[inline(always)]
    fn right<const N: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_srl_epi16(a, _mm_cvtsi32_si128(N)) }
    }

    #[inline(always)]
    fn table(self, entries: &[u8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(entries.as_ptr().cast())) }
    }

    #[inline(always)]
    fn look_up(self, table: __m512i, codes: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, codes) }
    }

    #[inline(always)]
    fn no_pairs(self) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_small(self, pairs: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        self.add_unsigned(pairs, codes, activations)
    }

    #[inline(always)]
    fn join(self, sum: __m512i, pairs: __m512i) -> __m512i {
        self.add_ints(sum, pairs)
    }

    #[inline(always)]
    fn weights(self, weights: __m512i) -> __m512i {
        weights
    }

    #[inline(always)]
    fn join_weighted(self, sum: __m512i, pairs: __m512i, weights: __m512i) -> __m512i {
        self.add_ints(sum, unsafe { _mm512_mullo_epi32(pairs, weights) })
    }

    #[inline(always)]
    fn sub_weighted(self, sum: __m512i, sums: [i16; 2], weights: [__m512i; 2]) -> __m512i {
        let [first, second] = [i32::from(sums[0]), i32::from(sums[1])];
        unsafe {
            // Both weights of a slot as 16-bit numbers.
            let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, weights[0], _mm512_slli_epi32::<16>(weights[1]));
            let weighted = _mm512_madd_epi16(both, _mm512_set1_epi32(first & 0xffff | second << 16));
            _mm512_sub_epi32(sum, _mm512_slli_epi32::<5>(weighted))
        }
    }

    #[inline(always)]
    fn add_unsigned(self, sum: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, activations) }
    }

    #[inline(always)]
    fn add_signed(self, sum: __m512i, codes: __m512i, activations: __m512i) -> __m512i {
        let codes = unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) };
        self.add_unsigned(sum, codes, activations)
    }

    #[inline(always)]
    fn int(self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn add_ints(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn load_ints(self, values: &[i32; 16]) -> __m512i {
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_ints(self, values: __m512i, out: &mut [i32; 16]) {
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) }
    }

    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; 16]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; 16]) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn k_fields(self, records: &[u8; 32]) -> [__m512i; 2] {
        unsafe {
            let shifts = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 6, 12, 18));
            // A record a 128-bit lane: its low 24 bits, and the 24 bits above them, into each of four words.
            let low = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
            let middle = _mm512_broadcast_i32x4(_mm_setr_epi8(3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6));
            let records = _mm512_castsi256_si512(_mm256_loadu_si256(records.as_ptr().cast()));
            let records = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), records);
            let [low, middle] = [_mm512_shuffle_epi8(records, low), _mm512_shuffle_epi8(records, middle)];
            let mask = _mm512_set1_epi32(63);
            [
                _mm512_and_si512(_mm512_srlv_epi32(low, shifts), mask),
                _mm512_and_si512(_mm512_srlv_epi32(middle, shifts), mask),
            ]
        }
    }

    #[inline(always)]
    fn float(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn floats(self, ints: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> __m512 {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, values: __m512, out: &mut [f32; 16]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul_sub_from(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    const HAS_TILES: bool = TILES;

    #[inline(always)]
    fn shape_tiles(self, rows: usize) {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        // Sums in tiles 0 to 3, activations in 4 and 6, codes in 5 and 7.
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            (config.rows[tile], config.row_bytes[tile]) = match tile {
                0..4 => (rows.min(16) as u8, 64),
                4 | 6 => (rows.min(16) as u8, 32),
                _ => (8, 64),
            };
        }
        if TILES {
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        }
    }

    #[inline(always)]
    unsafe fn multiply_tiles(
        self,
        lines: &[[[u8; 64]; 8]; 4],
        panel: &[u32],
        rows: usize,
        out: &mut [[[i32; 16]; 16]; 4],
    ) {
        let stride = 4 * WORDS * rows;
        if !TILES || rows > 16 || size_of_val(panel) < 4 * stride {
            return;
        }
        let panel = panel.as_ptr().cast::<u8>();
        unsafe {
            asm!(
                "tileloadd tmm4, [{a0} + {row}]",
                "tileloadd tmm5, [{b} + {line}]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{a1} + {row}]",
                "tileloadd tmm7, [{b} + {line} + 512]",
                "tilezero tmm1",
                "tdpbsud tmm1, tmm6, tmm7",
                "tileloadd tmm4, [{a2} + {row}]",
                "tileloadd tmm5, [{b} + {line} + 1024]",
                "tilezero tmm2",
                "tdpbsud tmm2, tmm4, tmm5",
                "tileloadd tmm6, [{a3} + {row}]",
                "tileloadd tmm7, [{b} + {line} + 1536]",
                "tilezero tmm3",
                "tdpbsud tmm3, tmm6, tmm7",
                "tilestored [{c} + {line}], tmm0",
                "tilestored [{c} + {line} + 1024], tmm1",
                "tilestored [{c} + {line} + 2048], tmm2",
                "tilestored [{c} + {line} + 3072], tmm3",
                a0 = in(reg) panel,
                a1 = in(reg) panel.add(stride),
                a2 = in(reg) panel.add(2 * stride),
                a3 = in(reg) panel.add(3 * stride),
                b = in(reg) lines.as_ptr(),
                c = in(reg) out.as_mut_ptr(),
                row = in(reg) 4 * CODES,
                line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
