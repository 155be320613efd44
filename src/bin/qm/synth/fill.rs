//! Random blocks of each storage type.

use half::{bf16, f16};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::gguf::Kind;

/// A table of standard normal values: drawing 16 bits and looking them up is an order of magnitude faster than
/// computing a logarithm and a cosine for each weight.
pub struct Normals(Vec<f32>);

impl Normals {
    pub fn new() -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
        // 53 random bits as a number in (0, 1], so that the logarithm is finite.
        let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let box_muller = |_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32;
        Self((0..1 << 16).map(box_muller).collect())
    }

    fn encoded<const N: usize>(&self, encode: impl Fn(f32) -> [u8; N]) -> Vec<[u8; N]> {
        self.0.iter().map(|&x| encode(x)).collect()
    }
}

/// Fills `out`, whole blocks of `kind`, with values of mean 0 and standard deviation `deviation`.
///
/// The codes are plain random bits, and a block's scale makes the deviation what was asked for. `d` of Q8_0, Q4_0 and
/// Q6_K changes sign at random, which cancels the half step by which their codes are off centre.
pub fn fill_weights(kind: Kind, deviation: f32, normals: &Normals, random: &mut Xoshiro256PlusPlus, out: &mut [u8]) {
    /// Standard deviations of evenly spread integer codes, `sqrt((n^2 - 1) / 12)` for n codes, off-centre half step in.
    const CODE_4: f32 = 4.637;
    const CODE_6: f32 = 18.480;
    const CODE_8: f32 = 73.902;
    /// Root mean square of the sub-block scales 32..=63 that `fill_k` draws, times that of codes about their middle.
    const SCALED_CODE_4: f32 = 48.389 * 4.610;
    const SCALED_CODE_5: f32 = 48.389 * 9.233;
    match kind {
        Kind::F32 => fill_floats(&normals.encoded(|x| (x * deviation).to_le_bytes()), random, out),
        Kind::F16 => fill_floats(&normals.encoded(|x| f16::from_f32(x * deviation).to_le_bytes()), random, out),
        Kind::BF16 => fill_floats(&normals.encoded(|x| bf16::from_f32(x * deviation).to_le_bytes()), random, out),
        Kind::Q8_0 => fill_scaled::<34>(0, deviation / CODE_8, random, out),
        Kind::Q4_0 => fill_scaled::<18>(0, deviation / CODE_4, random, out),
        Kind::Q6K => fill_scaled::<210>(208, deviation / (CODE_8 * CODE_6), random, out),
        Kind::Q4K => fill_k::<144>(7.5, deviation / SCALED_CODE_4, random, out),
        Kind::Q5K => fill_k::<176>(15.5, deviation / SCALED_CODE_5, random, out),
    }
}

/// Fills `out`, little-endian F32, evenly between `low` and `high`.
pub fn fill_between(low: f32, high: f32, random: &mut Xoshiro256PlusPlus, out: &mut [u8]) {
    for value in out.as_chunks_mut::<4>().0 {
        let unit = (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        *value = (low + (high - low) * unit).to_le_bytes();
    }
}

/// `table` has 2^16 entries.
fn fill_floats<const N: usize>(table: &[[u8; N]], random: &mut Xoshiro256PlusPlus, out: &mut [u8]) {
    for four in out.as_chunks_mut::<N>().0.chunks_mut(4) {
        let mut bits = random.next_u64();
        for value in four {
            *value = table[usize::from(bits as u16)];
            bits >>= 16;
        }
    }
}

/// Random bytes with the f16 `d`, of random sign, at byte `at` of each block.
fn fill_scaled<const BLOCK: usize>(at: usize, d: f32, random: &mut Xoshiro256PlusPlus, out: &mut [u8]) {
    random.fill_bytes(out);
    let d = f16::from_f32(d).to_bits();
    for block in out.as_chunks_mut::<BLOCK>().0 {
        let sign = u16::from(block[at] & 0x80) << 8;
        block[at..at + 2].copy_from_slice(&(d | sign).to_le_bytes());
    }
}

/// Sub-block scales between 32 and 63, each minimum the same number, and `dmin = middle * d`: the value is
/// `d * scale * (code - middle)`.
fn fill_k<const BLOCK: usize>(middle: f32, d: f32, random: &mut Xoshiro256PlusPlus, out: &mut [u8]) {
    random.fill_bytes(out);
    let (d, d_min) = (f16::from_f32(d).to_le_bytes(), f16::from_f32(middle * d).to_le_bytes());
    for block in out.as_chunks_mut::<BLOCK>().0 {
        // Four scales a word. Scales 4 to 7 keep their low nibbles in the last word, their high bits atop the others.
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let first = (word(4) & 0x1f1f_1f1f) | 0x2020_2020;
        let second = (word(8) & 0x1f1f_1f1f) | 0x2020_2020;
        let packed = (first | ((second >> 4) & 0x0303_0303) << 6).to_le_bytes();
        let nibbles = second & 0x0f0f_0f0f;
        block[0..2].copy_from_slice(&d);
        block[2..4].copy_from_slice(&d_min);
        block[4..8].copy_from_slice(&packed);
        block[8..12].copy_from_slice(&packed);
        block[12..16].copy_from_slice(&(nibbles | nibbles << 4).to_le_bytes());
    }
}
