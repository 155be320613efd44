//! Plain floating point formats, little-endian.

use half::{bf16, f16};

pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *o = f32::from_le_bytes(*b);
    }
}

pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *o = f16::from_le_bytes(*b).to_f32();
    }
}

pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *o = bf16::from_le_bytes(*b).to_f32();
    }
}
