//! bitsandbytes' 4-bit formats (NF4, FP4). Definition: `dequantize_4bit` in bitsandbytes/functional.py.
//!
//! Two codes a byte, the high nibble first, over the flattened tensor; every `block_size` consecutive values share an
//! absmax. With double quantisation the absmaxes are themselves 8-bit codes in blocks of `nested.block_size`.

use super::Bytes;

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
    fn get(&self, block: usize) -> f32 {
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
