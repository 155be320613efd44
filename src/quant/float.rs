//! Plain floating point formats, little-endian.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

#[inline(always)]
pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *o = f32::from_le_bytes(*b);
    }
}

/// Converts 64 values at a time: `half` asks once a call whether the processor has the instruction for it.
pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks(128).zip(out.chunks_mut(64)) {
        let mut halves = [f16::ZERO; 64];
        for (b, h) in bytes.as_chunks::<2>().0.iter().zip(&mut halves) {
            *h = f16::from_le_bytes(*b);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

#[inline(always)]
pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *o = bf16::from_le_bytes(*b).to_f32();
    }
}
