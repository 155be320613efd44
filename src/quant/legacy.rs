//! ggml's 32-element formats, Q8_0 and Q4_0. Definition: `dequantize_row_q8_0`, `dequantize_row_q4_0` in ggml-quants.c.

use half::f16;

fn scale(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// Block: f16 `d`, 32 int8 `q`; value `d * q`.
#[inline(always)]
pub fn decode_q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(34).zip(out.chunks_exact_mut(32)) {
        let d = scale(block);
        for (o, &q) in out.iter_mut().zip(&block[2..]) {
            *o = d * f32::from(q.cast_signed());
        }
    }
}

/// Block: f16 `d`, 16 bytes; byte `i` holds value `i` in its low and value `i + 16` in its high nibble; `d * (q - 8)`.
#[inline(always)]
pub fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(18).zip(out.chunks_exact_mut(32)) {
        let d = scale(block);
        let (low, high) = out.split_at_mut(16);
        for ((&q, l), h) in block[2..].iter().zip(low).zip(high) {
            *l = d * (f32::from(q & 15) - 8.0);
            *h = d * (f32::from(q >> 4) - 8.0);
        }
    }
}
