//! bitsandbytes' 4-bit formats (NF4, FP4). Definition: `dequantize_4bit` in bitsandbytes/functional.py.
//!
//! Two codes a byte, the high nibble first, over the flattened tensor; every `block_size` consecutive values share an
//! absmax. With double quantisation the absmaxes are themselves 8-bit codes in blocks of `nested.block_size`.

use half::f16;

use super::Bytes;

/// Columns of a segment, the unit of the packed form: it lies in one block of the flattened tensor.
pub const SEGMENT: usize = 64;
/// Bytes of a segment: f16 absmax and the codes.
pub const SEGMENT_BYTES: usize = 2 + SEGMENT / 2;

/// Decodes segments as [`FourBit::segments`] makes them: `codebook[code] * absmax`, the high nibble first.
pub fn decode_segments(codebook: &[f32; 16], bytes: &[u8], out: &mut [f32]) {
    for (segment, out) in bytes.chunks_exact(SEGMENT_BYTES).zip(out.chunks_exact_mut(SEGMENT)) {
        let absmax = f16::from_le_bytes([segment[0], segment[1]]).to_f32();
        for (pair, out) in segment[2..].iter().zip(out.as_chunks_mut::<2>().0) {
            *out = [pair >> 4, pair & 15].map(|code| codebook[usize::from(code)] * absmax);
        }
    }
}

/// The table and the scales of one 4-bit tensor.
#[derive(Debug, Clone)]
pub struct FourBit {
    /// Value of each code before scaling (the checkpoint's `quant_map`).
    pub table: [f32; 16],
    /// Values that share one absmax; a power of two of at least 32 in every published file.
    pub block_size: usize,
    /// One absmax a block.
    pub absmax: AbsMax,
}

/// The absmax of each block, as stored.
#[derive(Debug, Clone)]
pub enum AbsMax {
    /// As float32, little-endian.
    Plain(Bytes),
    /// Quantised once more ("double" or "nested" quantisation).
    Nested(NestedAbsMax),
}

/// 8-bit absmaxes: `map[code] * absmax[block / block_size] + offset`.
#[derive(Debug, Clone)]
pub struct NestedAbsMax {
    /// One byte an absmax.
    pub codes: Bytes,
    /// Value of each code (`nested_quant_map`).
    pub map: Box<[f32; 256]>,
    /// Scales of the codes (`nested_absmax`).
    pub absmax: Vec<f32>,
    /// Codes that share a scale (256 in every published file).
    pub block_size: usize,
    /// Mean that was subtracted before the absmaxes were quantised (`nested_offset`).
    pub offset: f32,
}

impl AbsMax {
    /// The absmax of block `block`.
    pub fn get(&self, block: usize) -> f32 {
        match self {
            AbsMax::Plain(bytes) => {
                let b = &bytes[4 * block..4 * block + 4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            }
            AbsMax::Nested(n) => n.map[usize::from(n.codes[block])] * n.absmax[block / n.block_size] + n.offset,
        }
    }

    fn blocks(&self) -> usize {
        match self {
            AbsMax::Plain(bytes) => bytes.len() / 4,
            AbsMax::Nested(n) => n.codes.len().min(n.absmax.len().saturating_mul(n.block_size)),
        }
    }
}

impl FourBit {
    /// How many values there are scales for.
    pub fn elements(&self) -> usize {
        self.absmax.blocks().saturating_mul(self.block_size)
    }

    /// Bytes of the scales and tables.
    pub fn bytes(&self) -> usize {
        let scales = match &self.absmax {
            AbsMax::Plain(bytes) => bytes.len(),
            AbsMax::Nested(n) => n.codes.len() + 4 * (n.absmax.len() + n.map.len()),
        };
        scales + 4 * self.table.len()
    }

    /// Whether segments of [`SEGMENT`] columns lie in one block each, given that rows are whole segments.
    pub fn has_segments(block_size: usize) -> bool {
        block_size.is_multiple_of(SEGMENT)
    }

    /// The power of two by which packing divides every absmax, so that the largest uses the full range of f16: then one
    /// keeps f16's 11 significant bits unless it is below 2^-29 of the largest.
    pub fn packed_factor(&self) -> f32 {
        let absmax = (0..self.absmax.blocks()).map(|block| self.absmax.get(block).abs());
        let largest = absmax.filter(|a| a.is_finite()).fold(0.0, f32::max);
        if largest == 0.0 { 1.0 } else { 2f32.powi((largest.log2().floor() as i32 - 14).clamp(-100, 100)) }
    }

    /// `cols` values from element `start` as self-contained segments: f16 `absmax / factor`, 32 bytes of codes as stored.
    pub fn segments(&self, codes: &[u8], start: usize, cols: usize, factor: f32) -> Vec<u8> {
        let mut out = Vec::with_capacity(cols / SEGMENT * SEGMENT_BYTES);
        for first in (start..start + cols).step_by(SEGMENT) {
            let absmax = self.absmax.get(first / self.block_size) / factor;
            out.extend(f16::from_f32(absmax).to_le_bytes());
            out.extend_from_slice(&codes[first / 2..(first + SEGMENT) / 2]);
        }
        out
    }

    /// Decodes `out.len()` values that start at element `start` of the flattened tensor.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.block_size;
            let take = ((block + 1) * self.block_size - at).min(rest.len());
            let absmax = self.absmax.get(block);
            let (now, later) = rest.split_at_mut(take);
            for (i, o) in now.iter_mut().enumerate() {
                let element = at + i;
                let nibble = (codes[element / 2] >> (4 * (1 - element % 2))) & 15;
                *o = self.table[usize::from(nibble)] * absmax;
            }
            at += take;
            rest = later;
        }
    }
}
