//! Integer kernels for the dot product extension of ARM: `sdot` multiplies 16 signed codes with 16 signed activations
//! and adds up each four of them.
//!
//! A line is four vectors, a quarter of four slots each; lane `i` of every vector is slot `i` of the quarter. All loops
//! go over half tiles: 16 columns of a quarter are four vectors of codes, and one vector of activations whose lanes are
//! what each of the four is multiplied with. Offsets of codes are where the integer sums start.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activations::Int8Row;
use crate::cpu::isa::Detected;
use crate::quant::packed::{GROUP_BYTES, LINE, ROWS, TILE, blocks, sections};
use crate::quant::{Format, Packed};

/// Rows of activations that one pass over a strip serves.
const GROUP: usize = 4;

/// Whether there is an integer kernel for packed `format`.
pub fn serves(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4_0 | Format::Q4K | Format::Q5K | Format::Q6K | Format::Int4(_))
}

/// As [`super::strips::project`].
pub fn project<'a>(
    _proof: Detected,
    packed: &Packed,
    strip: usize,
    row: impl Fn(usize) -> Int8Row<'a>,
    out: &mut [[f32; ROWS]],
) {
    fn pass<const G: usize>(packed: &Packed, number: usize, rows: [Int8Row<'_>; G]) -> [[f32; ROWS]; G] {
        // SAFETY: the caller's `Isa::Neon` proves that the processor has the dot product extension.
        unsafe { strip(packed.format(), packed.strip(number), packed.cols(), rows) }
    }
    // A pass decodes the strip once for all its rows, so what is left over takes one pass, too.
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        let row = |i: usize| row(GROUP * g + i);
        match out {
            [a, b, c, d] => [*a, *b, *c, *d] = pass(packed, strip, [row(0), row(1), row(2), row(3)]),
            [a, b, c] => [*a, *b, *c] = pass(packed, strip, [row(0), row(1), row(2)]),
            [a, b] => [*a, *b] = pass(packed, strip, [row(0), row(1)]),
            [a] => [*a] = pass(packed, strip, [row(0)]),
            _ => {}
        }
    }
}

/// Quarters of a line.
const QUARTERS: usize = 4;

type Quarter = [u8; LINE / QUARTERS];
/// Sums of the quarters of a strip for each row of activations.
type Sums<const G: usize> = [[float32x4_t; QUARTERS]; G];
/// 16 columns of a quarter: vector `i` holds columns `4 i..4 i + 4` of each slot.
type Codes = [int8x16_t; 4];

/// Dot products of a strip's 16 rows, in slot order, with `G` rows of activations.
#[target_feature(enable = "neon,dotprod")]
fn strip<const G: usize>(format: Format, strip: &[u8], cols: usize, rows: [Int8Row<'_>; G]) -> [[f32; ROWS]; G] {
    let mut sums = [[vdupq_n_f32(0.0); QUARTERS]; G];
    let mut rest = strip;
    for (first, tiles) in blocks(cols) {
        let Some(lengths) = sections(format, tiles) else { break };
        let (block, later) = rest.split_at(lengths.iter().sum());
        rest = later;
        let (codes, scales) = block.split_at(lengths[0]);
        let (high, scales) = scales.split_at(lengths[1]);
        let lines = codes.as_chunks().0.as_chunks().0;
        let block = Block { lines, high: high.as_chunks().0, scales };
        let first_tile = first / TILE;
        match format {
            Format::Q4K => k_quant::<G, false>(&block, first_tile, &rows, &mut sums),
            Format::Q5K => k_quant::<G, true>(&block, first_tile, &rows, &mut sums),
            Format::Q4_0 => q4_0(&block, first_tile, &rows, &mut sums),
            Format::Q8_0 => q8_0(&block, first_tile, &rows, &mut sums),
            Format::Q6K => q6_k(&block, first_tile, &rows, &mut sums),
            Format::Int4(group) => int4(group.columns(), &block, first_tile, &rows, &mut sums),
            _ => {}
        }
    }
    sums.map(|quarters| {
        let mut out = [0.0; ROWS];
        for (quarter, out) in quarters.iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: `out` is four floats.
            unsafe { vst1q_f32(out.as_mut_ptr(), *quarter) };
        }
        out
    })
}

struct Block<'a> {
    /// Four lines each: a tile of 4-bit codes, half a tile of 8-bit ones.
    lines: &'a [[Quarter; 4 * QUARTERS]],
    high: &'a [Quarter],
    scales: &'a [u8],
}

#[inline]
#[target_feature(enable = "neon")]
fn load(quarter: &Quarter) -> uint8x16_t {
    // SAFETY: `quarter` is 16 bytes.
    unsafe { vld1q_u8(quarter.as_ptr()) }
}

/// The activations of both halves of tile `tile`.
#[inline]
#[target_feature(enable = "neon")]
fn activations(row: &Int8Row<'_>, tile: usize) -> [int8x16_t; 2] {
    match row.codes[8 * tile..].as_flattened().as_chunks::<16>().0 {
        // SAFETY: both are 16 bytes.
        [first, second, ..] => unsafe { [vld1q_s8(first.as_ptr()), vld1q_s8(second.as_ptr())] },
        _ => [vdupq_n_s8(0); 2],
    }
}

/// `sum[i] += codes[4 i..4 i + 4] · activations[4 LANE..4 LANE + 4]`.
///
/// The compiler has no stable intrinsic for this instruction.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: i32>(sum: int32x4_t, codes: int8x16_t, activations: int8x16_t) -> int32x4_t {
    let out;
    // SAFETY: one instruction between registers, of the extension that this function asks for.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {activations:v}.4b[{lane}]",
            sum = inlateout(vreg) sum => out,
            codes = in(vreg) codes,
            activations = in(vreg) activations,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Adds the products of 16 columns.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_dots<const G: usize>(dots: &mut [int32x4_t; G], codes: Codes, activations: &[[int8x16_t; 2]; G], half: usize) {
    for (dots, activations) in dots.iter_mut().zip(activations) {
        let activations = activations[half];
        *dots = dot::<0>(*dots, codes[0], activations);
        *dots = dot::<1>(*dots, codes[1], activations);
        *dots = dot::<2>(*dots, codes[2], activations);
        *dots = dot::<3>(*dots, codes[3], activations);
    }
}

/// Four f16 as f32. The intrinsic for it is younger than the compilers that this crate supports.
#[inline]
#[target_feature(enable = "neon")]
fn singles(halves: &[u8; 8]) -> float32x4_t {
    let out;
    // SAFETY: `halves` is eight bytes, and the instruction works between registers.
    unsafe {
        let halves = vld1_u8(halves.as_ptr());
        asm!(
            "fcvtl {out:v}.4s, {halves:v}.4h",
            out = lateout(vreg) out,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// 16 f16 in slot order, as f32.
#[inline]
#[target_feature(enable = "neon")]
fn scales_of(halves: &[u8; 2 * ROWS]) -> [float32x4_t; QUARTERS] {
    let (quarters, _) = halves.as_chunks();
    [singles(&quarters[0]), singles(&quarters[1]), singles(&quarters[2]), singles(&quarters[3])]
}

/// The sum of a tile's activations.
#[inline]
fn sum(row: &Int8Row<'_>, tile: usize) -> i32 {
    let [first, second] = row.sums[tile];
    i32::from(first) + i32::from(second)
}

/// Four bytes as signed numbers.
#[inline]
#[target_feature(enable = "neon")]
fn words(bytes: &[u8; 4]) -> int32x4_t {
    let bytes = vreinterpret_s8_u32(vdup_n_u32(u32::from_le_bytes(*bytes)));
    vmovl_s16(vget_low_s16(vmovl_s8(bytes)))
}

/// 4-bit codes of a half tile: `lines` are the four lines of the tile.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(lines: &[Quarter; 4 * QUARTERS], half: usize, quarter: usize) -> [uint8x16_t; 4] {
    let at = 2 * QUARTERS * half + place(half, quarter);
    let (first, second) = (load(&lines[at]), load(&lines[at + QUARTERS]));
    let mask = vdupq_n_u8(15);
    [vandq_u8(first, mask), vshrq_n_u8::<4>(first), vandq_u8(second, mask), vshrq_n_u8::<4>(second)]
}

/// Puts the two-bit fields of `high` above 4-bit codes.
#[inline]
#[target_feature(enable = "neon")]
fn with_crumbs(codes: [uint8x16_t; 4], high: uint8x16_t) -> [uint8x16_t; 4] {
    let mask = vdupq_n_u8(0x30);
    let with = |code, high| vorrq_u8(code, vandq_u8(high, mask));
    let [a, b, c, d] = codes;
    [with(a, vshlq_n_u8::<4>(high)), with(b, vshlq_n_u8::<2>(high)), with(c, high), with(d, vshrq_n_u8::<2>(high))]
}

/// Puts the bits of `high` above 4-bit codes: its low four bits belong to the first half of a tile.
#[inline]
#[target_feature(enable = "neon")]
fn with_bits(codes: [uint8x16_t; 4], high: uint8x16_t, half: usize) -> [uint8x16_t; 4] {
    let mask = vdupq_n_u8(0x10);
    let with = |code, high| vorrq_u8(code, vandq_u8(high, mask));
    let high = if half == 0 { vshlq_n_u8::<4>(high) } else { high };
    let [a, b, c, d] = codes;
    [with(a, high), with(b, vshrq_n_u8::<1>(high)), with(c, vshrq_n_u8::<2>(high)), with(d, vshrq_n_u8::<3>(high))]
}

/// Where `quarter` stands in the lines of a half tile: those of the second half are rotated by half a line.
#[inline]
const fn place(half: usize, quarter: usize) -> usize {
    quarter ^ (2 * half)
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(codes: [uint8x16_t; 4]) -> Codes {
    let [a, b, c, d] = codes;
    [vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b), vreinterpretq_s8_u8(c), vreinterpretq_s8_u8(d)]
}

/// Q4_K; with `FIFTH`, a bit above each code, Q5_K.
#[target_feature(enable = "neon,dotprod")]
fn k_quant<const G: usize, const FIFTH: bool>(
    block: &Block<'_>,
    first_tile: usize,
    rows: &[Int8Row<'_>; G],
    sums: &mut Sums<G>,
) {
    let (records, _) = block.scales.as_chunks::<8>();
    let mut factors = [[0; 2 * ROWS]; 2];
    for slot in 0..ROWS {
        for (which, factors) in factors.iter_mut().enumerate() {
            let [.., low, high] = records[4 * (2 * (slot % 4) + which) + slot / 4];
            factors[2 * slot..][..2].copy_from_slice(&[low, high]);
        }
    }
    let [d, dmin] = [scales_of(&factors[0]), scales_of(&factors[1])];
    // SAFETY: the array is four numbers.
    let shifts = unsafe { vld1q_s32([0, -6, -12, -18].as_ptr()) };
    let fields = |bytes: [u8; 4]| {
        let words = vshlq_u32(vdupq_n_u32(u32::from_le_bytes(bytes)), shifts);
        vcvtq_f32_u32(vandq_u32(words, vdupq_n_u32(63)))
    };
    let tiles = block.lines.iter().zip(records.as_chunks::<QUARTERS>().0);
    for (tile, (lines, records)) in tiles.enumerate() {
        let at = first_tile + tile;
        let activations = rows.each_ref().map(|row| activations(row, at));
        let steps = rows.each_ref().map(|row| row.scales[at]);
        let offsets = rows.each_ref().map(|row| row.scales[at] * sum(row, at) as f32);
        for (quarter, &[b0, b1, b2, b3, b4, b5, b6, _]) in records.iter().enumerate() {
            let scale = vmulq_f32(fields([b0, b1, b2, b3]), d[quarter]);
            let min = vmulq_f32(fields([b3, b4, b5, b6]), dmin[quarter]);
            let mut dots = [vdupq_n_s32(0); G];
            for half in 0..2 {
                let mut codes = nibbles(lines, half, quarter);
                if FIFTH {
                    codes = with_bits(codes, load(&block.high[QUARTERS * tile + quarter]), half);
                }
                add_dots(&mut dots, signed(codes), &activations, half);
            }
            for g in 0..G {
                let sum = vfmsq_n_f32(sums[g][quarter], min, offsets[g]);
                sums[g][quarter] = vfmaq_f32(sum, vmulq_n_f32(vcvtq_f32_s32(dots[g]), steps[g]), scale);
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn q4_0<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut Sums<G>) {
    let tiles = block.lines.iter().zip(block.scales.as_chunks().0);
    for (tile, (lines, scales)) in tiles.enumerate() {
        let at = first_tile + tile;
        let activations = rows.each_ref().map(|row| activations(row, at));
        let start = rows.each_ref().map(|row| vdupq_n_s32(-8 * sum(row, at)));
        let scales = scales_of(scales);
        for quarter in 0..QUARTERS {
            let mut dots = start;
            for half in 0..2 {
                add_dots(&mut dots, signed(nibbles(lines, half, quarter)), &activations, half);
            }
            add(sums, quarter, dots, scales[quarter], rows, at);
        }
    }
}

/// 4-bit codes with an f16 scale and a zero for each `columns` columns.
#[target_feature(enable = "neon,dotprod")]
fn int4<const G: usize>(
    columns: usize,
    block: &Block<'_>,
    first_tile: usize,
    rows: &[Int8Row<'_>; G],
    sums: &mut Sums<G>,
) {
    let per_group = columns / TILE;
    let groups = block.lines.chunks(per_group).zip(block.scales.as_chunks::<GROUP_BYTES>().0);
    for (group, (tiles, side)) in groups.enumerate() {
        let Some((scales, zeros)) = side.split_first_chunk() else { return };
        let (scales, zeros) = (scales_of(scales), zeros.as_chunks().0);
        for (tile, lines) in tiles.iter().enumerate() {
            let at = first_tile + group * per_group + tile;
            let activations = rows.each_ref().map(|row| activations(row, at));
            for (quarter, zeros) in zeros.iter().enumerate() {
                let zeros = words(zeros);
                let mut dots = rows.each_ref().map(|row| vmulq_n_s32(zeros, -sum(row, at)));
                for half in 0..2 {
                    add_dots(&mut dots, signed(nibbles(lines, half, quarter)), &activations, half);
                }
                add(sums, quarter, dots, scales[quarter], rows, at);
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn q8_0<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut Sums<G>) {
    let tiles = block.lines.as_chunks::<2>().0.iter().zip(block.scales.as_chunks().0);
    for (tile, (lines, scales)) in tiles.enumerate() {
        let at = first_tile + tile;
        let activations = rows.each_ref().map(|row| activations(row, at));
        let scales = scales_of(scales);
        for quarter in 0..QUARTERS {
            let mut dots = [vdupq_n_s32(0); G];
            for half in 0..2 {
                let line = |i: usize| load(&lines[half][QUARTERS * i + place(half, quarter)]);
                add_dots(&mut dots, signed([line(0), line(1), line(2), line(3)]), &activations, half);
            }
            add(sums, quarter, dots, scales[quarter], rows, at);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn q6_k<const G: usize>(block: &Block<'_>, first_tile: usize, rows: &[Int8Row<'_>; G], sums: &mut Sums<G>) {
    let Some((d, scales)) = block.scales.as_chunks().0.split_last() else { return };
    let d = scales_of(d);
    let tiles = block.lines.iter().zip(block.high.as_chunks::<8>().0).zip(scales);
    for (tile, ((lines, high), scales)) in tiles.enumerate() {
        let at = first_tile + tile;
        let activations = rows.each_ref().map(|row| activations(row, at));
        let (scales, _) = scales.as_chunks();
        for quarter in 0..QUARTERS {
            let mut dots = [vdupq_n_s32(0); G];
            for half in 0..2 {
                // A half tile is one of the format's sub-blocks, with its own int8 scale.
                let mut part = rows.each_ref().map(|row| vdupq_n_s32(-32 * i32::from(row.sums[at][half])));
                let high = load(&high[QUARTERS * half + place(half, quarter)]);
                let codes = with_crumbs(nibbles(lines, half, quarter), high);
                add_dots(&mut part, signed(codes), &activations, half);
                let scale = words(&scales[QUARTERS * half + quarter]);
                for g in 0..G {
                    dots[g] = vmlaq_s32(dots[g], part[g], scale);
                }
            }
            add(sums, quarter, dots, d[quarter], rows, at);
        }
    }
}

/// `sum += dot * scale * activation` of tile `at`.
#[inline]
#[target_feature(enable = "neon")]
fn add<const G: usize>(
    sums: &mut Sums<G>,
    quarter: usize,
    dots: [int32x4_t; G],
    scale: float32x4_t,
    rows: &[Int8Row<'_>; G],
    at: usize,
) {
    for g in 0..G {
        let dot = vmulq_n_f32(vcvtq_f32_s32(dots[g]), rows[g].scales[at]);
        sums[g][quarter] = vfmaq_f32(sums[g][quarter], dot, scale);
    }
}
