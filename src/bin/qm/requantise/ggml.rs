//! Plain quantisers of ggml's formats: the scales of a block from its extreme values, codes rounded to nearest.
//! Layouts: `quantize_row_*_ref` in ggml-quants.c.

use half::{bf16, f16};

use crate::gguf::Kind;

/// Appends `values`, whole blocks of `kind`.
pub fn encode(kind: Kind, values: &[f32], out: &mut Vec<u8>) {
    match kind {
        Kind::F32 => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Kind::F16 => values.iter().for_each(|x| out.extend(f16::from_f32(*x).to_le_bytes())),
        Kind::BF16 => values.iter().for_each(|x| out.extend(bf16::from_f32(*x).to_le_bytes())),
        Kind::Q8_0 => values.as_chunks::<32>().0.iter().for_each(|block| q8_0(block, out)),
        Kind::Q4_0 => values.as_chunks::<32>().0.iter().for_each(|block| q4_0(block, out)),
        Kind::Q4K => values.as_chunks::<256>().0.iter().for_each(|block| q4_k_or_q5_k(block, false, out)),
        Kind::Q5K => values.as_chunks::<256>().0.iter().for_each(|block| q4_k_or_q5_k(block, true, out)),
        Kind::Q6K => values.as_chunks::<256>().0.iter().for_each(|block| q6_k(block, out)),
    }
}

/// Appends `value` as half precision; the number that a reader gets back.
fn put_half(value: f32, out: &mut Vec<u8>) -> f32 {
    let half = f16::from_f32(value);
    out.extend(half.to_le_bytes());
    half.to_f32()
}

/// `value / scale` rounded, between `least` and `most`; the code of zero where all values are zero.
fn code(value: f32, scale: f32, least: f32, most: f32) -> i32 {
    if scale == 0.0 { 0 } else { (value / scale).round().clamp(least, most) as i32 }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let d = put_half(largest(block) / 127.0, out);
    out.extend(block.iter().map(|x| code(*x, d, -127.0, 127.0) as u8));
}

fn q4_0(block: &[f32; 32], out: &mut Vec<u8>) {
    // The value of largest magnitude gets the code -8, whatever its sign.
    let extreme = block.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let d = put_half(extreme / -8.0, out);
    let codes = block.map(|x| (code(x, d, -8.0, 7.0) + 8) as u8);
    out.extend((0..16).map(|i| codes[i] | codes[i + 16] << 4));
}

/// Eight sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum: `d * scale * code - d_min * min`.
fn q4_k_or_q5_k(block: &[f32; 256], five_bits: bool, out: &mut Vec<u8>) {
    let top = if five_bits { 31.0 } else { 15.0 };
    let low = |sub: &[f32]| -sub.iter().fold(0f32, |least, x| least.min(*x));
    let span = |sub: &[f32]| sub.iter().fold(0f32, |most, x| most.max(*x)) + low(sub);
    let subs = block.as_chunks::<32>().0;
    let most = |of: &dyn Fn(&[f32]) -> f32| subs.iter().fold(0f32, |most, sub| most.max(of(sub)));
    let d = put_half(most(&span) / top / 63.0, out);
    let d_min = put_half(most(&low) / 63.0, out);
    let mut packed = [0u8; 12];
    let mut codes = [0u8; 256];
    for (j, (sub, codes)) in subs.iter().zip(codes.as_chunks_mut::<32>().0).enumerate() {
        let scale = code(span(sub) / top, d, 0.0, 63.0) as u8;
        let min = code(low(sub), d_min, 0.0, 63.0) as u8;
        join_scale_and_min(&mut packed, j, scale, min);
        let (scale, min) = (d * f32::from(scale), d_min * f32::from(min));
        *codes = sub.map(|x| code(x + min, scale, 0.0, top) as u8);
    }
    out.extend(packed);
    if five_bits {
        out.extend((0..32).map(|i| (0..8).fold(0, |bits, j| bits | (codes[32 * j + i] >> 4) << j)));
    }
    for pair in codes.as_chunks::<64>().0 {
        out.extend((0..32).map(|i| pair[i] & 15 | (pair[i + 32] & 15) << 4));
    }
}

/// Scales and minima 0 to 3 lie in six bits of a byte each; 4 to 7 in nibbles, with their high bits atop the others.
fn join_scale_and_min(packed: &mut [u8; 12], j: usize, scale: u8, min: u8) {
    if j < 4 {
        packed[j] |= scale;
        packed[j + 4] |= min;
    } else {
        packed[j + 4] |= scale & 15 | min << 4;
        packed[j - 4] |= (scale >> 4) << 6;
        packed[j] |= (min >> 4) << 6;
    }
}

/// Sixteen sub-blocks of 16, each with an 8-bit scale: `d * scale * (code - 32)`.
fn q6_k(block: &[f32; 256], out: &mut Vec<u8>) {
    let subs = block.as_chunks::<16>().0;
    let scales = subs.iter().map(|sub| largest(sub) / 31.0);
    let d = f16::from_f32(scales.clone().fold(0f32, f32::max) / 127.0);
    let scales: Vec<i32> = scales.map(|scale| code(scale, d.to_f32(), 0.0, 127.0)).collect();
    let value = |i: usize| (code(block[i], d.to_f32() * scales[i / 16] as f32, -32.0, 31.0) + 32) as u8;
    // Each half of 128: nibbles of the first two quarters and the last two in 64 bytes, pairs of all four in 32.
    let at = |half: usize, quarter: usize, i: usize| value(128 * half + 32 * quarter + i);
    for half in 0..2 {
        for quarter in 0..2 {
            out.extend((0..32).map(|i| at(half, quarter, i) & 15 | (at(half, quarter + 2, i) & 15) << 4));
        }
    }
    for half in 0..2 {
        out.extend(
            (0..32).map(|i| (0..4).fold(0, |bits, quarter| bits | (at(half, quarter, i) >> 4) << (2 * quarter))),
        );
    }
    out.extend(scales.iter().map(|scale| *scale as u8));
    out.extend(d.to_le_bytes());
}
