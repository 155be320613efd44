//! 4-bit integers with a scale and a zero point for each group of columns: GPTQ's and AutoRound's number format.
//!
//! Definition: `dequantize_weight` in GPTQModel's and AutoRound's torch layers: `scale * (code - zero)`. A file keeps codes,
//! scales and zeros in three tensors; here a row is blocks of one group, each with its scale and zero in front.

use half::f16;

use crate::error::{Error, Result};

/// Columns that share a scale and a zero. Wider groups of a file repeat theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// 32 columns.
    Of32,
    /// 64 columns.
    Of64,
    /// 128 columns.
    Of128,
    /// 256 columns.
    Of256,
}

/// Bytes of a block before its codes: f16 scale and u8 zero.
pub const HEAD: usize = 3;

impl Group {
    /// Every size, the widest first.
    pub const ALL: [Group; 4] = [Group::Of256, Group::Of128, Group::Of64, Group::Of32];

    /// Its number of columns.
    pub const fn columns(self) -> usize {
        match self {
            Group::Of32 => 32,
            Group::Of64 => 64,
            Group::Of128 => 128,
            Group::Of256 => 256,
        }
    }

    /// The widest of which `columns` columns are a whole number, `None` where there is none.
    pub fn dividing(columns: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|group| columns > 0 && columns.is_multiple_of(group.columns()))
    }
}

/// Block: f16 `scale`, u8 `zero` (0 to 16), then two codes a byte, the even column in the low nibble; value
/// `scale * (code - zero)`, which float32 holds exactly.
#[inline(always)]
pub fn decode(group: Group, bytes: &[u8], out: &mut [f32]) {
    let columns = group.columns();
    for (block, out) in bytes.chunks_exact(HEAD + columns / 2).zip(out.chunks_exact_mut(columns)) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let zero = f32::from(block[2]);
        for (pair, out) in block[HEAD..].iter().zip(out.as_chunks_mut::<2>().0) {
            *out = [pair & 15, pair >> 4].map(|code| scale * (f32::from(code) - zero));
        }
    }
}

/// Checks that `order` names every one of `cols` columns once.
///
/// # Errors
/// [`Error::Internal`] where it does not.
pub fn check_order(order: &[u32], cols: usize) -> Result<()> {
    let mut seen = vec![false; cols];
    let fresh = |&column: &u32| seen.get_mut(column as usize).is_some_and(|seen| !std::mem::replace(seen, true));
    if order.len() == cols && order.iter().all(fresh) {
        return Ok(());
    }
    Err(Error::Internal(format!("a column order of {} entries is no order of {cols} columns", order.len())))
}

/// Moves value `i` of `values` to place `order[i]`.
pub fn restore_order(order: &[u32], values: &mut [f32]) {
    let stored = values.to_vec();
    for (value, &column) in stored.iter().zip(order) {
        values[column as usize] = *value;
    }
}
