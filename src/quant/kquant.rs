//! ggml's 256-element "K" formats. Definition: `dequantize_row_q4_K`, `dequantize_row_q5_K`,
//! `dequantize_row_q6_K` in ggml-quants.c.

use half::f16;

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of sub-block `j` (0..8) out of the 12 bytes that pack all of them.
pub fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// The inverse of [`scale_and_min`]: or-s the scale and minimum of sub-block `j` into the 12 bytes.
pub fn join_scale_and_min(packed: &mut [u8], j: usize, scale: u8, min: u8) {
    if j < 4 {
        packed[j] |= scale;
        packed[j + 4] |= min;
    } else {
        packed[j + 4] |= (scale & 15) | (min << 4);
        packed[j - 4] |= (scale >> 4) << 6;
        packed[j] |= (min >> 4) << 6;
    }
}

/// Block: f16 `d`, f16 `dmin`, 12 bytes of scales, 128 bytes of nibbles. 32 bytes carry two sub-blocks of 32: low
/// nibbles first, then high. Value `d * scale * q - dmin * min`.
#[inline(always)]
pub fn decode_q4_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(144).zip(out.chunks_exact_mut(256)) {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        let (packed, codes) = block[4..].split_at(12);
        for (pair, (codes, out)) in codes.chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
            for (half, out) in out.chunks_exact_mut(32).enumerate() {
                let (scale, min) = scale_and_min(packed, 2 * pair + half);
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                for (o, &q) in out.iter_mut().zip(codes) {
                    *o = scale * f32::from((q >> (4 * half)) & 15) - min;
                }
            }
        }
    }
}

/// Block: f16 `d`, f16 `dmin`, 12 bytes of scales, 32 bytes of high bits, 128 bytes of nibbles. As Q4_K, with bit `j` of
/// high byte `i` on top of value `i` of sub-block `j`.
#[inline(always)]
pub fn decode_q5_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(176).zip(out.chunks_exact_mut(256)) {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        let (packed, codes) = block[4..].split_at(12);
        let (high, codes) = codes.split_at(32);
        for (sub, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_and_min(packed, sub);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let codes = &codes[32 * (sub / 2)..][..32];
            for ((o, &q), &h) in out.iter_mut().zip(codes).zip(high) {
                let q = (q >> (4 * (sub % 2))) & 15 | (h >> sub & 1) << 4;
                *o = scale * f32::from(q) - min;
            }
        }
    }
}

/// Block: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales, f16 `d`. Each half of 128 values takes
/// 64 nibble bytes and 32 pair bytes; value `d * scale * (q - 32)`.
#[inline(always)]
pub fn decode_q6_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(210).zip(out.chunks_exact_mut(256)) {
        let d = half_at(block, 208);
        for (h, out) in out.chunks_exact_mut(128).enumerate() {
            let low = &block[64 * h..64 * h + 64];
            let high = &block[128 + 32 * h..128 + 32 * h + 32];
            let scales = &block[192 + 8 * h..192 + 8 * h + 8];
            for (i, o) in out.iter_mut().enumerate() {
                let (quarter, column) = (i / 32, i % 32);
                let nibble = (low[column + 32 * (quarter % 2)] >> (4 * (quarter / 2))) & 15;
                let pair = (high[column] >> (2 * quarter)) & 3;
                let q = i16::from(nibble | (pair << 4)) - 32;
                *o = d * f32::from(scales[i / 16].cast_signed()) * f32::from(q);
            }
        }
    }
}
