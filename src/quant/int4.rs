//! 4-bit integers with a scale and a zero point for each group of columns: GPTQ's and AutoRound's number format.
//!
//! Definition: `dequantize_weight` in GPTQModel's and AutoRound's torch layers: `scale * (code - zero)`. A file keeps codes,
//! scales and zeros in three tensors; here a row is blocks of one group, each with its scale and zero in front.

use std::sync::Arc;

use half::f16;

use super::{AlignedBuffer, Format, Matrix};
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

/// Scales and zeros of one `[rows, cols]` matrix, as GPTQ's files keep them.
#[derive(Debug, Clone)]
pub struct GroupScales {
    /// Columns of a group, a multiple of 32.
    pub columns: usize,
    /// `[groups, rows]`.
    pub scales: Vec<f16>,
    /// `[groups, rows]`, 0 to 16.
    pub zeros: Vec<u8>,
    /// The group of each column; `None`: the first `columns` columns are the first group, and so on.
    pub groups: Option<Vec<u32>>,
}

/// Rows of `qweight`'s columns that are put in order together: what they become stays in the first-level cache.
const RUN: usize = 32;

/// The matrix whose codes are `qweight`: words of eight codes along the columns, `[cols / 8, rows]`, the first in the lowest
/// bits. Columns are sorted by group where they are not.
///
/// # Errors
/// [`Error::Internal`] when the sizes do not fit each other, [`Error::OutOfHostMemory`].
pub fn from_gptq(rows: usize, cols: usize, qweight: &[u8], scales: &GroupScales) -> Result<Matrix> {
    let wrong = || Error::Internal(format!("group int4 [{rows}, {cols}] of {} bytes", qweight.len()));
    let group = Group::dividing(scales.columns).filter(|_| cols.is_multiple_of(scales.columns)).ok_or_else(wrong)?;
    let format = Format::Int4(group);
    let elements = rows.checked_mul(cols).ok_or_else(wrong)?;
    let groups = elements / scales.columns;
    let ordered = scales.groups.as_ref().is_none_or(|of_column| of_column.len() == cols);
    if elements == 0
        || qweight.len() != elements / 2
        || scales.scales.len() != groups
        || scales.zeros.len() != groups
        || !ordered
    {
        return Err(wrong());
    }
    let order: Option<Arc<[u32]>> = scales.groups.as_ref().map(|of_column| {
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.sort_by_key(|column| of_column[*column as usize]);
        order.into()
    });
    let len = format.bytes_for(elements as u64).ok_or_else(wrong)?;
    let mut data = AlignedBuffer::zeroed(usize::try_from(len).map_err(|_| wrong())?, "group int4 weights")?;
    let (words, _) = qweight.as_chunks::<4>();
    let block_len = format.block_bytes();
    for (run, data) in data.chunks_mut(RUN * (cols / group.columns()) * block_len).enumerate() {
        for block in 0..cols / group.columns() {
            let first = block * group.columns();
            for (r, data) in data.chunks_exact_mut(cols / group.columns() * block_len).enumerate() {
                let row = run * RUN + r;
                let at = first / scales.columns * rows + row;
                let data = &mut data[block * block_len..][..block_len];
                data[..2].copy_from_slice(&scales.scales[at].to_le_bytes());
                data[2] = scales.zeros[at];
                let (codes, _) = data[HEAD..].as_chunks_mut::<4>();
                match &order {
                    None => {
                        for (i, codes) in codes.iter_mut().enumerate() {
                            *codes = words[(first / 8 + i) * rows + row];
                        }
                    }
                    Some(order) => {
                        for (pair, columns) in
                            codes.as_flattened_mut().iter_mut().zip(order[first..].as_chunks::<2>().0)
                        {
                            let [low, high] = columns.map(|column| {
                                let (word, place) = (column as usize / 8, column as usize % 8);
                                words[word * rows + row][place / 2] >> (4 * (place % 2)) & 15
                            });
                            *pair = low | high << 4;
                        }
                    }
                }
            }
        }
    }
    let matrix = Matrix::new(format, rows, cols, data.into())?;
    match order {
        Some(order) => matrix.with_column_order(order),
        None => Ok(matrix),
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
