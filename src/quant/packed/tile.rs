//! One tile of a packed block as float32, column by column: what the float kernels multiply.
//!
//! Every loop runs over the 16 slots of a line as 32-bit words, which compilers turn into vector instructions.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::layout::{LINE, ROWS, TILE};
use super::{GROUP_BYTES, sections};
use crate::quant::Format;
use crate::quant::nf4::SEGMENT;

/// Values of a tile: `[column][slot]`.
pub type Tile = [[f32; ROWS]; TILE];

/// The 16 words of line `line`, in slot order; lines of a tile's second half are rotated.
#[inline(always)]
fn words(lines: &[u8], line: usize, rotated: bool) -> [u32; ROWS] {
    let mut words = [0; ROWS];
    for (word, bytes) in words.iter_mut().zip(lines[line * LINE..(line + 1) * LINE].as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    if rotated {
        words.rotate_left(ROWS / 2);
    }
    words
}

#[inline(always)]
fn halves(bytes: &[u8]) -> [f32; ROWS] {
    let mut halves = [f16::ZERO; ROWS];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *half = f16::from_le_bytes(*bytes);
    }
    singles(&halves)
}

/// Converts 16 values at once: `half` asks once a call whether the processor has the instruction for it.
#[inline(always)]
fn singles(halves: &[f16; ROWS]) -> [f32; ROWS] {
    let mut values = [0.0; ROWS];
    halves.convert_to_f32_slice(&mut values);
    values
}

/// Decodes tile `tile` of a block of `tiles` tiles; `codebook` is [`super::Packed::codebook`].
#[inline(always)]
pub fn decode_tile(format: Format, codebook: &[f32; 16], block: &[u8], tiles: usize, tile: usize, out: &mut Tile) {
    let Some([codes_len, high_len, _]) = sections(format, tiles) else { return };
    let (codes, rest) = block.split_at(codes_len);
    let (high, scales) = rest.split_at(high_len);
    match format {
        Format::F16 | Format::BF16 => decode_halves(format, &codes[tile * 16 * LINE..], out),
        Format::Q8_0 => {
            let d = halves(&scales[2 * ROWS * tile..]);
            for (column, out) in out.iter_mut().enumerate() {
                let words = words(codes, 8 * tile + column / 4, column >= TILE / 2);
                for slot in 0..ROWS {
                    let code = (words[slot] >> (8 * (column % 4))) as u8 as i8;
                    out[slot] = d[slot] * f32::from(code);
                }
            }
        }
        Format::Q4_0 => {
            let d = halves(&scales[2 * ROWS * tile..]);
            for_nibbles(codes, tile, out, |slot, code| d[slot] * (code as f32 - 8.0));
        }
        Format::Q4K => {
            let [scale, min] = k_scales(scales, tile);
            for_nibbles(codes, tile, out, |slot, code| scale[slot] * code as f32 - min[slot]);
        }
        Format::Q5K => {
            let [scale, min] = k_scales(scales, tile);
            for_nibbles(codes, tile, out, |_, code| code as f32);
            let bits = words(high, tile, false);
            for (column, out) in out.iter_mut().enumerate() {
                let shift = 8 * (column % 4) + column / 4;
                for slot in 0..ROWS {
                    let upper = (bits[slot] >> shift & 1) << 4;
                    out[slot] = scale[slot] * (out[slot] + upper as f32) - min[slot];
                }
            }
        }
        Format::Q6K => {
            let d = halves(&scales[2 * ROWS * tiles..]);
            let mut sub_scales = [[0.0; ROWS]; 2];
            for (sub, sub_scales) in sub_scales.iter_mut().enumerate() {
                for (slot, scale) in sub_scales.iter_mut().enumerate() {
                    *scale = d[slot] * f32::from(scales[ROWS * (2 * tile + sub) + slot].cast_signed());
                }
            }
            for_nibbles(codes, tile, out, |_, code| code as f32);
            for (column, out) in out.iter_mut().enumerate() {
                let (sub, within) = (column / 16, column % 16);
                let crumbs = words(high, 2 * tile + sub, sub == 1);
                let shift = 8 * (within % 4) + 2 * (within / 4);
                for slot in 0..ROWS {
                    let upper = (crumbs[slot] >> shift & 3) << 4;
                    out[slot] = sub_scales[sub][slot] * (out[slot] + upper as f32 - 32.0);
                }
            }
        }
        Format::Bnb4 => {
            let absmax = halves(&scales[2 * ROWS * (tile * TILE / SEGMENT)..]);
            for_nibbles(codes, tile, out, |slot, code| codebook[code as usize & 15] * absmax[slot]);
        }
        Format::Int4(group) => {
            let scales = &scales[tile * TILE / group.columns() * GROUP_BYTES..][..GROUP_BYTES];
            let d = halves(scales);
            let mut zeros = [0.0; ROWS];
            for (zero, byte) in zeros.iter_mut().zip(&scales[2 * ROWS..]) {
                *zero = f32::from(*byte);
            }
            for_nibbles(codes, tile, out, |slot, code| d[slot] * (code as f32 - zeros[slot]));
        }
        Format::F32 => {}
    }
}

#[inline(always)]
fn decode_halves(format: Format, lines: &[u8], out: &mut Tile) {
    for (column, out) in out.iter_mut().enumerate() {
        let words = words(lines, column / 2, column >= TILE / 2);
        let bits = words.map(|word| (word >> (16 * (column % 2))) as u16);
        *out = match format {
            Format::BF16 => bits.map(|bits| f32::from_bits(u32::from(bits) << 16)),
            _ => singles(&bits.map(f16::from_bits)),
        };
    }
}

#[inline(always)]
fn for_nibbles(codes: &[u8], tile: usize, out: &mut Tile, value: impl Fn(usize, u32) -> f32) {
    for line in 0..4 {
        let words = words(codes, 4 * tile + line, line >= 2);
        for within in 0..8 {
            let shift = 8 * (within % 4) + 4 * (within / 4);
            let column = 8 * line + within;
            for slot in 0..ROWS {
                out[column][slot] = value(slot, words[slot] >> shift & 15);
            }
        }
    }
}

/// Scale and minimum of each slot for sub-block `tile` of a Q4_K or Q5_K block.
#[inline(always)]
fn k_scales(scales: &[u8], tile: usize) -> [[f32; ROWS]; 2] {
    let record = |sub: usize, slot: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&scales[8 * (4 * sub + slot / 4)..][..8]);
        u64::from_le_bytes(bytes)
    };
    let mut out = [[0.0; ROWS]; 2];
    for slot in 0..ROWS {
        let packed = record(tile, slot);
        for (which, out) in out.iter_mut().enumerate() {
            let factor = f16::from_bits((record(2 * (slot % 4) + which, slot) >> 48) as u16).to_f32();
            let code = packed >> (24 * which + 6 * (slot % 4)) & 63;
            out[slot] = factor * code as f32;
        }
    }
    out
}
