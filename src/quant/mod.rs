//! Number formats: how a weight is stored, and what real number each code stands for.
//!
//! One file a family, each with a plain reference decoder: the definition that every kernel is tested against.
//! A [`Matrix`] is one weight in its stored type, [`Packed`] the same bits in the order that kernels stream them; nothing
//! here makes a float32 copy of a whole weight.

mod bytes;
mod float;
pub mod int4;
mod kquant;
mod legacy;
mod matrix;
mod nf4;
pub mod packed;
#[cfg(test)]
mod tests;
mod weight;

pub use bytes::{AlignedBuffer, Bytes, Floats, LARGE_PAGE};
pub use int4::{Group, GroupScales};
pub use matrix::{Matrix, decode};
pub use nf4::{AbsMax, FourBit, NestedAbsMax};
pub use packed::{Packed, SideTables};
pub use weight::Weight;

/// The storage type of a tensor.
///
/// `Bnb4` is bitsandbytes' 4-bit form: its scales live beside the codes, in [`FourBit`], and its blocks run over the
/// flattened tensor rather than over rows. In all other formats a row is a whole number of blocks that carry their scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// ggml: 32 int8 and one f16 scale.
    Q8_0,
    /// ggml: 32 4-bit codes with offset 8 and one f16 scale.
    Q4_0,
    /// ggml: 256 4-bit codes, eight 6-bit scales and minima, f16 `d` and `dmin`.
    Q4K,
    /// ggml: 256 5-bit codes, eight 6-bit scales and minima, f16 `d` and `dmin`.
    Q5K,
    /// ggml: 256 6-bit codes, sixteen int8 scales, f16 `d`.
    Q6K,
    /// bitsandbytes: 4-bit codes into a 16-entry table (NF4 or FP4), an absmax a block of the flattened tensor.
    Bnb4,
    /// GPTQ and AutoRound: 4-bit codes with an f16 scale and a zero point a group of columns.
    Int4(Group),
}

impl Format {
    /// Every format, for tests and listings.
    pub const ALL: [Format; 13] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Bnb4,
        Format::Int4(Group::Of32),
        Format::Int4(Group::Of64),
        Format::Int4(Group::Of128),
        Format::Int4(Group::Of256),
    ];

    /// Elements in one block, the smallest unit that decodes by itself. `Bnb4` is counted by the byte: two codes.
    pub const fn block_elements(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Bnb4 => 2,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
            Format::Int4(group) => group.columns(),
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Bnb4 => 1,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
            Format::Int4(group) => int4::HEAD + group.columns() / 2,
        }
    }

    /// Bytes of `elements` values, or `None` where they are no whole number of blocks or overflow.
    pub fn bytes_for(self, elements: u64) -> Option<u64> {
        let block = self.block_elements() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64)
    }

    /// The name users know: as GGUF tools and Hugging Face write it.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
            Format::Q4K => "Q4_K",
            Format::Q5K => "Q5_K",
            Format::Q6K => "Q6_K",
            Format::Bnb4 => "BNB4",
            Format::Int4(Group::Of32) => "INT4_G32",
            Format::Int4(Group::Of64) => "INT4_G64",
            Format::Int4(Group::Of128) => "INT4_G128",
            Format::Int4(Group::Of256) => "INT4_G256",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
